/* test_static_a.c - two translation units, each with its own private copy of the library, in one
 * program; the other is test_static_b.c.
 * cc -O2 -fopenmp -I. tests/test_static_a.c tests/test_static_b.c -o build/test_static_a -lm */
#define LENSNET_STATIC
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"

double test_static_b_exp(double x); /* the other unit's lensnet_exp */
const char *test_static_b_text(lensnet_result result);

int main(void)
{
    CHECK(test_static_b_exp(1.5) == lensnet_exp(1.5));
    CHECK(strcmp(test_static_b_text(LENSNET_ERROR_SHAPE),
                 lensnet_result_text(LENSNET_ERROR_SHAPE)) == 0);
    return test_end();
}
