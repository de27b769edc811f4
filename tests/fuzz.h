/* fuzz.h - what the fuzzers have in common: files in memory, and, where no libFuzzer drives them, changes of
 * bytes and the files that these begin with. What includes this has LLVMFuzzerTestOneInput. With FUZZ_HOST
 * defined, after lensnet.h, there is a lensnet_host of files in memory too. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a host without a disk, that gives no more memory than a file may take ---------------------------- */

#ifdef FUZZ_HOST
enum { FUZZ_ROOM = 1 << 20, FUZZ_LIMIT = 64 << 20 };

typedef struct fuzz_file {
    const uint8_t *bytes;
    size_t size;
} fuzz_file;

static uint8_t fuzz_room[FUZZ_ROOM];
static fuzz_file fuzz_saved = {fuzz_room, 0}; /* what was written last */
static fuzz_file fuzz_strange = {NULL, 0};    /* what is tried, and what every path leads to */
static size_t fuzz_living;                    /* bytes taken and not given back */

static void *fuzz_allocate(size_t bytes, size_t alignment, void *user)
{
    void *block = NULL;
    if (bytes <= FUZZ_LIMIT - fuzz_living)
        block = lensnet_host_defaults().allocate(bytes, alignment, user);
    if (block) fuzz_living += bytes;
    return block;
}

static void fuzz_release(void *block, size_t bytes, void *user)
{
    fuzz_living -= bytes;
    lensnet_host_defaults().release(block, bytes, user);
}

static void *fuzz_open(const char *path, int writing, void *user)
{
    (void)path;
    (void)user;
    if (writing) fuzz_saved.size = 0;
    return writing ? &fuzz_saved : &fuzz_strange;
}

static uint64_t fuzz_size(void *file, void *user)
{
    (void)user;
    return ((fuzz_file *)file)->size;
}

static int fuzz_read(void *file, uint64_t offset, void *bytes, size_t count, void *user)
{
    const fuzz_file *f = (const fuzz_file *)file;
    (void)user;
    if (offset > f->size || count > f->size - offset) return 1;
    if (count) memcpy(bytes, f->bytes + offset, count);
    return 0;
}

static int fuzz_write(void *file, const void *bytes, size_t count, void *user)
{
    fuzz_file *f = (fuzz_file *)file;
    (void)user;
    if (count > FUZZ_ROOM - f->size) return 1;
    memcpy(fuzz_room + f->size, bytes, count);
    f->size += count;
    return 0;
}

static int fuzz_close(void *file, int commit, void *user)
{
    (void)file;
    (void)commit;
    (void)user;
    return 0;
}

static lensnet_host fuzz_host(void)
{
    lensnet_host host = lensnet_host_defaults();
    host.allocate = fuzz_allocate;
    host.release = fuzz_release;
    host.file_open = fuzz_open;
    host.file_size = fuzz_size;
    host.file_read = fuzz_read;
    host.file_write = fuzz_write;
    host.file_close = fuzz_close;
    host.threads = 1;
    return host;
}

/* A network as small as they come. */
static lensnet_model *fuzz_model(const lensnet_host *host)
{
    static const size_t widths[4] = {4, 4, 4, 4}, depths[4] = {1, 1, 1, 1};
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model;
    memcpy(desc.widths, widths, sizeof widths);
    memcpy(desc.depths, depths, sizeof depths);
    desc.preprocess.image_size = 32;
    desc.host = host;
    if (lensnet_model_create(&model, &desc, NULL)) abort();
    return model;
}
#endif

/* ---- on its own: changes of what is well formed ------------------------------------------------------- */

#ifndef FUZZ_LIBFUZZER
typedef struct fuzz_plan {
    const char *folder;
    const char *const *seeds; /* the names of its files to begin with, and NULL */
    long rounds;
    const char *telling; /* characters that mean something in these files */
    size_t telling_count;
    int table; /* change only the table at the front, whose length the first eight bytes are */
} fuzz_plan;

static size_t fuzz_draw(size_t bound) /* splitmix64 */
{
    static uint64_t state = 1;
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (size_t)((z ^ z >> 31) % bound);
}

/* One of: a bit, a byte, a telling byte, cut, move or repeat a piece, which may be a card of FITS. */
static size_t fuzz_change(uint8_t *data, size_t size, size_t capacity, size_t at,
                          const fuzz_plan *plan)
{
    const size_t most = 1 + fuzz_draw(80), length = size - at < most ? size - at : most;
    switch (fuzz_draw(7)) {
    case 0: data[at] ^= (uint8_t)(1u << fuzz_draw(8)); break;
    case 1: data[at] = (uint8_t)fuzz_draw(256); break;
    case 2:
    case 3: data[at] = (uint8_t)plan->telling[fuzz_draw(plan->telling_count)]; break;
    case 4: return size - fuzz_draw(size / 8 + 1);
    case 5: memmove(data + fuzz_draw(size - length + 1), data + at, length); break;
    default:
        if (size + length > capacity) break;
        memmove(data + at + length, data + at, size - at);
        return size + length;
    }
    return size;
}

/* Some changes. The length of a table is mostly made right again, so that they are reached. */
static size_t fuzz_mutate(uint8_t *data, size_t size, size_t capacity, const fuzz_plan *plan)
{
    const size_t before = size;
    size_t n = 1 + fuzz_draw(4), k;
    uint64_t table = 0;
    for (k = 8; plan->table && size >= 8 && k--;) table = table << 8 | data[k];
    if (size) table %= size;
    while (n-- && size > 8)
        size = fuzz_change(data, size, capacity,
                           table ? 8 + fuzz_draw(size - 8 < table ? size - 8 : (size_t)table)
                                 : fuzz_draw(size),
                           plan);
    if (size > before) table += size - before;
    for (k = 0; table && size >= 8 && k < 8 && fuzz_draw(50); k++)
        data[k] = (uint8_t)(table >> 8 * k);
    return size;
}

static size_t fuzz_load(uint8_t *data, size_t capacity, const char *folder, const char *name)
{
    char path[400];
    FILE *file;
    size_t size;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "rb");
    if (!file) {
        printf("%s is missing; run from the top folder\n0 passed, 1 failed\n", path);
        exit(1);
    }
    size = fread(data, 1, capacity, file);
    fclose(file);
    return size;
}

/* On a block of just that size, so that a step too far is seen. */
static void fuzz_try(const uint8_t *data, size_t size)
{
    uint8_t *exact = (uint8_t *)malloc(size ? size : 1);
    if (!exact) exit(1);
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

/* As many rounds as the first argument says, or the plan; every seed as it is comes first. */
static int fuzz_main(int count, char **arguments, const fuzz_plan *plan)
{
    static uint8_t data[1 << 17];
    const long rounds = count > 1 ? strtol(arguments[1], NULL, 10) : plan->rounds;
    size_t seeds = 0, size;
    long round;
    while (plan->seeds[seeds]) seeds++;
    for (round = 0; round < rounds; round++) {
        const int whole = round < (long)seeds;
        size = fuzz_load(data, sizeof data / 2, plan->folder,
                         plan->seeds[whole ? (size_t)round : fuzz_draw(seeds)]);
        fuzz_try(data, whole ? size : fuzz_mutate(data, size, sizeof data, plan));
    }
    printf("%ld files read\n1 passed, 0 failed\n", rounds);
    return 0;
}
#endif

#endif
