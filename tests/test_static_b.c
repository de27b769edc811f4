/* test_static_b.c - the second unit of test_static_a.c. */
#define LENSNET_STATIC
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

double test_static_b_exp(double x);
const char *test_static_b_text(lensnet_result result);

double test_static_b_exp(double x) { return lensnet_exp(x); }
const char *test_static_b_text(lensnet_result result) { return lensnet_result_text(result); }
