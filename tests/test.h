/* test.h - the whole test harness. One "passed" is one named check of a promise: a place in the source
 * together with its words, however often it is evaluated; it passes if it held every time. Checks count
 * and go on; the last two lines say "N values compared" and "N passed, N failed", and the exit status
 * follows. LENSNET_TEST_FAIL=1 in the environment plants one failure, which the runner uses to prove
 * that a failure is seen. */
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define TEST_MAYBE __attribute__((unused)) static
#else
#define TEST_MAYBE static
#endif

enum {
    TEST_SLOTS = 8192, /* more than any program has checks; a power of two */
    TEST_SHOWN = 3     /* failures of one check that are printed */
};

/* A check: where it stands, its words (a copy: they may be made in a buffer), what became of it. */
typedef struct test_record {
    const char *file;
    char *what;
    int line;
    long values, failures; /* how often it was evaluated, and in vain */
} test_record;

static test_record test_records[TEST_SLOTS];
static double test_values; /* compared in all: evaluations, and what test_compared adds */

static size_t test_hash(const char *what, const char *file, int line)
{
    size_t hash = (size_t)line * 2654435761u;
    for (; *file; file++) hash = hash * 31 + (unsigned char)*file;
    for (; *what; what++) hash = hash * 31 + (unsigned char)*what;
    return hash ^ hash >> 15;
}

/* The record of a check, made where it is new. */
static test_record *test_find(const char *what, const char *file, int line)
{
    size_t at = test_hash(what, file, line), tries;
    for (tries = 0; tries < TEST_SLOTS; tries++, at++) {
        test_record *r = &test_records[at % TEST_SLOTS];
        if (!r->what) {
            size_t size = strlen(what) + 1;
            r->what = (char *)malloc(size);
            if (!r->what) break;
            memcpy(r->what, what, size);
            r->file = file;
            r->line = line;
            return r;
        }
        if (r->line == line && strcmp(r->what, what) == 0 && strcmp(r->file, file) == 0) return r;
    }
    printf("FAILED %s:%d: no room for another check\n0 passed, 1 failed\n", file, line);
    exit(1);
}

/* 1 if this failure is to be printed. */
static int test_note(int good, const char *what, const char *file, int line)
{
    test_record *r = test_find(what, file, line);
    test_values++;
    r->values++;
    if (good) return 0;
    if (++r->failures <= TEST_SHOWN) printf("FAILED %s:%d: %s", file, line, what);
    return r->failures <= TEST_SHOWN;
}

TEST_MAYBE void test_check(int good, const char *what, const char *file, int line)
{
    if (test_note(good, what, file, line)) printf("\n");
}

/* A NaN on either side fails unless both are NaN. */
TEST_MAYBE void test_close(double actual, double expected, double tolerance, const char *what,
                           const char *file, int line)
{
    int good = actual == expected || (actual != actual && expected != expected) ||
               fabs(actual - expected) <= tolerance;
    if (test_note(good, what, file, line))
        printf(": %.17g instead of %.17g (tolerance %g)\n", actual, expected, tolerance);
}

#define CHECK(condition) test_check((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_CLOSE(actual, expected, tolerance, what)                                             \
    test_close((actual), (expected), (tolerance), (what), __FILE__, __LINE__)

/* For a check that compared a whole array of `count` values: it counted as one of them. */
TEST_MAYBE void test_compared(size_t count) { test_values += count ? (double)count - 1 : 0; }

static int test_end(void)
{
    int passed = 0, failed = 0, i;
    if (getenv("LENSNET_TEST_FAIL"))
        test_check(0, "a failure planted by the runner", __FILE__, __LINE__);
    for (i = 0; i < TEST_SLOTS; i++) {
        test_record *r = &test_records[i];
        if (!r->what) continue;
        if (r->failures > TEST_SHOWN)
            printf("FAILED %s:%d: %s: %ld of %ld times\n", r->file, r->line, r->what, r->failures,
                   r->values);
        if (r->failures)
            failed++;
        else
            passed++;
        free(r->what);
        r->what = NULL;
    }
    printf("%.0f values compared\n%d passed, %d failed\n", test_values, passed, failed);
    return failed != 0;
}

/* For a failure after which nothing else can be tested: ends the program. */
TEST_MAYBE void test_give_up(const char *what, const char *why, const char *file, int line)
{
    if (test_note(0, what, file, line)) printf(": %s\n", why);
    exit(test_end());
}

#endif
