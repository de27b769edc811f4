/* test.h - the whole test harness: checks count and go on, the last line says "N passed, N failed",
 * the exit status follows. LENSNET_TEST_FAIL=1 in the environment plants one failure, which the
 * runner uses to prove that a failure is seen. */
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_passed, test_failed;

static void test_check(int good, const char *what, const char *file, int line)
{
    if (good) {
        test_passed++;
    } else {
        test_failed++;
        printf("FAILED %s:%d: %s\n", file, line, what);
    }
}

/* A NaN on either side fails unless both are NaN. */
static void test_close(double actual, double expected, double tolerance, const char *what,
                       const char *file, int line)
{
    int good = actual == expected || (actual != actual && expected != expected) ||
               fabs(actual - expected) <= tolerance;
    if (good) {
        test_passed++;
    } else {
        test_failed++;
        printf("FAILED %s:%d: %s: %.17g instead of %.17g (tolerance %g)\n", file, line, what,
               actual, expected, tolerance);
    }
}

#define CHECK(condition) test_check((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_CLOSE(actual, expected, tolerance, what)                                             \
    test_close((actual), (expected), (tolerance), (what), __FILE__, __LINE__)

static int test_end(void)
{
    if (getenv("LENSNET_TEST_FAIL"))
        test_check(0, "a failure planted by the runner", __FILE__, __LINE__);
    printf("%d passed, %d failed\n", test_passed, test_failed);
    return test_failed != 0;
}

#endif
