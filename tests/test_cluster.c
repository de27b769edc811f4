/* test_cluster.c - the gradients of the shards of a batch, added by the processes of MPI while they are computed.
 * cc -O2 -fopenmp -I. tests/test_cluster.c -o build/test_cluster -lm
 * cluster.sh builds it with mpicc -DLENSNET_MPI too, and runs it as several processes. */
#include "examples/system.h"

#ifndef LENSNET_IMPLEMENTED
#define LENSNET_IMPLEMENTATION
#endif
#include "lensnet.h"
#include "test.h"

#include "examples/dataset.h"

#include "examples/cluster.h"

enum { SHARDS = 8, VALUES = 3000001 };

static float wanted[VALUES], gradient[VALUES];

/* Value i of a shard; they are of very different size, so that another order gives other bits. */
static float value_of(size_t shard, size_t i)
{
    const uint32_t bits = (uint32_t)(i * 2654435761u + shard * 40503u + 12345u) * 2246822519u;
    return (float)(bits >> 8) * (float)(1u << (bits & 15)) - 1e6f;
}

static void compute(size_t shard)
{
    size_t i;
    for (i = 0; i < VALUES; i++) gradient[i] = value_of(shard, i);
}

/* The tree of eight shards, one number after the other. */
static void add_alone(void)
{
    size_t i, k, step;
    for (i = 0; i < VALUES; i++) {
        float sums[SHARDS];
        for (k = 0; k < SHARDS; k++) sums[k] = value_of(k, i);
        for (step = 1; step < SHARDS; step *= 2)
            for (k = 0; k < SHARDS; k += 2 * step) sums[k] += sums[k + step];
        wanted[i] = sums[0];
    }
}

/* The last shard's gradient is complete in `pieces` pieces, from the end; 0: nothing says so. */
static void add_together(shards_sum *mine, float *room, size_t pieces, int good)
{
    size_t shard, end, k;
    shards_clear(mine);
    cluster_share(&shard, &end, SHARDS);
    for (; shard + 1 < end; shard++) {
        compute(shard);
        if (good) shards_push(mine, shard, gradient, VALUES);
    }
    compute(shard);
    cluster_begin_sum(gradient, mine, room, SHARDS, shard, VALUES);
    for (k = pieces; good && k-- > 0;) cluster_complete(VALUES / pieces * k, NULL);
    cluster_end_sum(good);
}

int main(int argc, char **argv)
{
    static const size_t pieces[] = {0, 1, 3, 200};
    const lensnet_error none = {LENSNET_OK, ""};
    lensnet_error error = none;
    size_t first, end, i;
    shards_sum mine;
    float *room;
    int status;
    cluster_open(&argc, &argv);
    cluster_share(&first, &end, SHARDS);
    room = cluster_room(SHARDS, VALUES);
    if (!room || !shards_allocate(&mine, first, end, VALUES)) return 1;
    add_alone();
    for (i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        add_together(&mine, room, pieces[i], 1);
        CHECK(memcmp(gradient, wanted, sizeof wanted) == 0);
    }
    /* one process fails while the others are sending: nobody waits for ever, and all hear of it */
    add_together(&mine, room, 3, cluster.rank != cluster.ranks - 1);
    snprintf(error.text, sizeof error.text, "the last one failed");
    CHECK(!cluster_meet(cluster.rank != cluster.ranks - 1, NULL, &error));
    CHECK(strcmp(error.text, "the last one failed") == 0);
    shards_free(&mine);
    free(room);
    status = test_end();
    cluster_close(1, &none);
    return status;
}
