/* shards.h - gradients of the parts of a batch, added in an order that depends on nothing but their number.
 *
 * A batch is cut into `shards` parts of nearly equal size. The sum over shards is a tree: neighbours are added
 * in pairs, their sums in pairs, and so on; what is left over where the number is no power of two is added from
 * the right. Who computes which shards, and how many processes there are, cannot be seen in the sum: each
 * process adds what it has of the tree, its nodes, and the tree goes on from the nodes of all.
 * Include lensnet.h first. */
#ifndef SHARDS_H
#define SHARDS_H

#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define SHARDS_API __attribute__((unused)) static
#else
#define SHARDS_API static
#endif

enum { SHARDS_MOST = 4096, SHARDS_NODES = 32 }; /* of a run; that one process ever has at once */

/* A sum of `size` shards from number `first` on. */
typedef struct shards_node {
    size_t first, size; /* size is a power of two, and divides first */
    float *values;
} shards_node;

/* What is added up so far, left to right. */
typedef struct shards_sum {
    shards_node nodes[SHARDS_NODES];
    int used, room; /* nodes; of them with memory */
} shards_sum;

/* Item `part` of `parts` begins here, of `count` that are dealt out in order. */
SHARDS_API size_t shards_first(size_t count, size_t part, size_t parts)
{
    return count / parts * part + count % parts * part / parts;
}

/* a += b */
SHARDS_API void shards_add(float *a, const float *b, size_t count)
{
    long i;
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (i = 0; i < (long)count; i++) a[i] += b[i];
}

/* Are two neighbours the halves of one node? */
static int shards_pair(const shards_node *left, const shards_node *right)
{
    return left->size == right->size && left->first % (2 * left->size) == 0;
}

/* Adds the last nodes to those before them as far as they are pairs, or `all`. */
SHARDS_API void shards_fold(shards_sum *sum, size_t count, int all)
{
    while (sum->used > 1) {
        shards_node *left = &sum->nodes[sum->used - 2], *right = left + 1;
        if (!all && !shards_pair(left, right)) return;
        if (left->values) shards_add(left->values, right->values, count);
        left->size += right->size;
        sum->used--;
    }
}

/* Adds shard `first`. It is copied only where no other one waits for it. */
SHARDS_API void shards_push(shards_sum *sum, size_t first, const float *values, size_t count)
{
    shards_node *next = &sum->nodes[sum->used], leaf = {0, 1, NULL};
    leaf.first = first;
    if (sum->used && shards_pair(next - 1, &leaf)) {
        if (next[-1].values) shards_add(next[-1].values, values, count);
        next[-1].size++;
    } else {
        next->first = first;
        next->size = 1;
        if (next->values) memcpy(next->values, values, count * sizeof *values);
        sum->used++;
    }
    shards_fold(sum, count, 0);
}

/* The same sum of some of its values, from number `first` on. Its memory is the whole sum's. */
SHARDS_API void shards_part(shards_sum *part, const shards_sum *sum, size_t first)
{
    int n;
    *part = *sum;
    for (n = 0; n < sum->room; n++) part->nodes[n].values += first;
}

/* Begins anew. */
SHARDS_API void shards_clear(shards_sum *sum) { sum->used = 0; }

/* The nodes that shards first ... end - 1 come to, without any values. *most: how many there are at a time. */
SHARDS_API void shards_plan(shards_sum *sum, int *most, size_t first, size_t end)
{
    memset(sum, 0, sizeof *sum);
    *most = 0;
    for (; first < end; first++) {
        shards_push(sum, first, NULL, 0);
        if (sum->used > *most) *most = sum->used;
    }
}

SHARDS_API void shards_free(shards_sum *sum)
{
    while (sum->room) free(sum->nodes[--sum->room].values);
    memset(sum, 0, sizeof *sum);
}

/* Memory for shards first ... end - 1 of `count` values; 0 where there is none. */
SHARDS_API int shards_allocate(shards_sum *sum, size_t first, size_t end, size_t count)
{
    int most;
    shards_plan(sum, &most, first, end);
    shards_clear(sum);
    for (; sum->room < most; sum->room++) {
        sum->nodes[sum->room].values = (float *)calloc(count, sizeof(float));
        if (sum->nodes[sum->room].values) continue;
        shards_free(sum);
        return 0;
    }
    return 1;
}

#endif
