/* test_private.c - the tests that call private functions, as one program: compiling the implementation is most
 * of their time, and under sanitizers nearly all of it. Each is a program of its own too, by its own line.
 * cc -O2 -fopenmp -I. tests/test_private.c -o build/test_private -lm */
#define main test_gemm_main
#include "test_gemm.c"
#undef main
#define main test_rows_main
#include "test_rows.c"
#undef main
#define main test_depthwise_main
#include "test_depthwise.c"
#undef main
#define main test_math_main
#include "test_math.c"
#undef main
#define main test_metrics_main
#include "test_metrics.c"
#undef main
#define main test_files_main
#include "test_files.c"
#undef main

int main(void)
{
    static int (*const programs[])(void) = {test_gemm_main, test_rows_main,    test_depthwise_main,
                                            test_math_main, test_metrics_main, test_files_main};
    int failed = 0;
    size_t i;
    for (i = 0; i < sizeof programs / sizeof *programs; i++) failed |= programs[i]();
    return failed;
}
