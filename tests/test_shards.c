/* test_shards.c - the sum over the shards of a batch: one tree, whoever adds which part of it.
 * cc -O2 -fopenmp -I. tests/test_shards.c -o build/test_shards -lm */
#ifndef LENSNET_IMPLEMENTED
#define LENSNET_IMPLEMENTATION
#endif
#include "lensnet.h"
#include "test.h"

#include "examples/shards.h"

enum { MOST = 37, VALUES = 5, PROCESSES = 9 };

static float shards[MOST][VALUES];

/* Values of very different size: another order gives other bits. */
static void begin(void)
{
    size_t i, k;
    for (i = 0; i < MOST; i++)
        for (k = 0; k < VALUES; k++)
            shards[i][k] = (float)(lensnet_random_normal(7, i, k) *
                                   (double)(1 << (lensnet_random_bits(8, i, k) & 15)));
}

/* The tree as shards.h says it: the largest power of two on the left, then the rest. */
static float tree(size_t first, size_t count, size_t k)
{
    size_t left = 1;
    if (count == 1) return shards[first][k];
    while (2 * left <= count) left *= 2;
    if (left == count) left /= 2;
    return tree(first, left, k) + tree(first + left, count - left, k);
}

/* What one of `processes` has of its shards of `count`. */
static int add_share(shards_sum *sum, size_t process, size_t processes, size_t count)
{
    size_t i = shards_first(count, process, processes);
    const size_t end = shards_first(count, process + 1, processes);
    shards_sum plan;
    int most;
    shards_plan(&plan, &most, i, end);
    if (!shards_allocate(sum, i, end, VALUES)) return 0;
    for (; i < end; i++) shards_push(sum, i, shards[i], VALUES);
    return sum->used == plan.used && sum->room == most;
}

static void test_tree(size_t count, size_t processes)
{
    static shards_sum mine[PROCESSES];
    shards_sum all;
    size_t p, k;
    int n;
    memset(&all, 0, sizeof all);
    memset(mine, 0, sizeof mine);
    for (p = 0; p < processes; p++) {
        CHECK(add_share(&mine[p], p, processes, count));
        for (n = 0; n < mine[p].used; n++) {
            all.nodes[all.used++] = mine[p].nodes[n];
            shards_fold(&all, VALUES, 0);
        }
    }
    shards_fold(&all, VALUES, 1);
    CHECK(all.used == 1 && all.nodes[0].first == 0 && all.nodes[0].size == count);
    for (k = 0; k < VALUES; k++) {
        const float wanted = tree(0, count, k);
        CHECK(!memcmp(&all.nodes[0].values[k], &wanted, sizeof wanted));
    }
    for (p = 0; p < processes; p++) shards_free(&mine[p]);
}

/* Parts follow each other without a gap and differ by one at most. */
static void test_parts(size_t count, size_t parts)
{
    size_t part;
    CHECK(shards_first(count, 0, parts) == 0 && shards_first(count, parts, parts) == count);
    for (part = 0; part < parts; part++) {
        const size_t size = shards_first(count, part + 1, parts) - shards_first(count, part, parts);
        CHECK(size == count / parts || size == count / parts + 1);
    }
}

/* The first values in another order are other bits, or the test would see nothing. */
static void test_order_matters(void)
{
    int differ = 0;
    size_t i, k;
    for (k = 0; k < VALUES; k++) {
        const float wanted = tree(0, MOST, k);
        float chain = 0;
        for (i = 0; i < MOST; i++) chain += shards[i][k];
        differ += memcmp(&chain, &wanted, sizeof wanted) != 0;
    }
    CHECK(differ > 0);
}

int main(void)
{
    size_t count, processes;
    begin();
    test_order_matters();
    for (count = 1; count <= MOST; count++)
        for (processes = 1; processes <= PROCESSES; processes++) {
            test_parts(count, processes);
            if (processes <= count) test_tree(count, processes);
        }
    return test_end();
}
