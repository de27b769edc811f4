/* fuzz_network.c - arbitrary bytes as a weights file, a training state and a Hugging Face folder's
 * config.json: refused or loaded, and then classified with and trained on; nothing else touched, a model
 * that refuses a state unchanged, no more memory taken than the caller allows. With libFuzzer, or alone:
 * 2,000 mutations (another number as first argument) of a state and of weights made here, under the
 * sanitizers; "--seeds FOLDER" writes these.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -DLENSNET_NO_SIMD -I. \
 *     tests/fuzz_network.c -o build/fuzz_network -lm
 * cc -g -O1 -fsanitize=address,undefined -DLENSNET_NO_SIMD -I. tests/fuzz_network.c -o build/fuzz_network -lm
 * build/fuzz_network */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- files in memory ----------------------------------------------------------------------------- */

enum { ROOM = 1 << 20, LIMIT = 64 << 20 };

static const uint8_t *file_bytes; /* what every path leads to when it is read */
static size_t file_size;
static uint8_t written[ROOM]; /* what was saved last */
static size_t written_size;
static size_t living;

static void *memory_allocate(size_t bytes, size_t alignment, void *user)
{
    lensnet_host inner = lensnet_host_defaults();
    void *block;
    if (bytes > LIMIT - living) return NULL;
    block = inner.allocate(bytes, alignment, user);
    if (block) living += bytes;
    return block;
}

static void memory_release(void *block, size_t bytes, void *user)
{
    lensnet_host inner = lensnet_host_defaults();
    living -= bytes;
    inner.release(block, bytes, user);
}

static void *memory_open(const char *path, int writing, void *user)
{
    (void)path;
    (void)user;
    if (writing) written_size = 0;
    return writing ? (void *)written : (void *)&file_bytes;
}

static uint64_t memory_size(void *file, void *user)
{
    (void)file;
    (void)user;
    return file_size;
}

static int memory_read(void *file, uint64_t offset, void *bytes, size_t count, void *user)
{
    (void)file;
    (void)user;
    if (offset > file_size || count > file_size - offset) return 1;
    if (count) memcpy(bytes, file_bytes + offset, count);
    return 0;
}

static int memory_write(void *file, const void *bytes, size_t count, void *user)
{
    (void)file;
    (void)user;
    if (count > ROOM - written_size) return 1;
    memcpy(written + written_size, bytes, count);
    written_size += count;
    return 0;
}

static int memory_close(void *file, int commit, void *user)
{
    (void)file;
    (void)commit;
    (void)user;
    return 0;
}

static lensnet_host memory_host(void)
{
    lensnet_host host = lensnet_host_defaults();
    host.allocate = memory_allocate;
    host.release = memory_release;
    host.file_open = memory_open;
    host.file_size = memory_size;
    host.file_read = memory_read;
    host.file_write = memory_write;
    host.file_close = memory_close;
    host.threads = 1;
    return host;
}

/* ---- what is done with the bytes ----------------------------------------------------------------- */

static lensnet_model *small_model(const lensnet_host *host)
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

static void load_state(const lensnet_host *host)
{
    lensnet_model *model = small_model(host);
    lensnet_parameters *p = lensnet_model_parameters(model);
    const size_t bytes = lensnet_parameters_size(p) * sizeof(float);
    float *before = (float *)malloc(bytes);
    lensnet_adamw *adamw;
    lensnet_error error;
    if (!before || lensnet_adamw_create(&adamw, p, NULL, NULL)) abort();
    memcpy(before, lensnet_parameters_values(p), bytes);
    if (lensnet_state_load(model, adamw, "state", &error)) {
        if (memcmp(before, lensnet_parameters_values(p), bytes) != 0) abort();
        if (lensnet_adamw_steps(adamw) != 0 || strlen(error.text) < 5) abort();
    } else {
        (void)lensnet_adamw_step(adamw, 1e-3, NULL, NULL);
    }
    free(before);
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
}

static void load_weights(const lensnet_host *host)
{
    lensnet_load_options load = lensnet_load_defaults();
    lensnet_model *model;
    load.host = host;
    if (lensnet_model_load(&model, "weights", &load, NULL, NULL)) return;
    (void)lensnet_model_save(model, "saved", LENSNET_DTYPE_F16, NULL);
    lensnet_model_destroy(model);
}

static void classify(const lensnet_host *host)
{
    static float pixels[33 * 40];
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_prediction prediction;
    size_t i;
    options.host = host;
    options.memory_limit = LIMIT / 4;
    if (lensnet_classifier_load_memory(&classifier, file_bytes, file_size, &options, NULL)) return;
    for (i = 0; i < 33 * 40; i++) pixels[i] = (float)(i % 17) - 8;
    /* a network of many layers is the file's right; waiting for it is not ours */
    if (lensnet_model_macs(lensnet_model_description(classifier->model), 32, 32) < 1e8 &&
        lensnet_model_description(classifier->model)->preprocess.image_size <= 64 &&
        lensnet_classify(classifier, pixels, 33, 40, &prediction, NULL) == LENSNET_OK &&
        !(prediction.probability >= 0 && prediction.probability <= 1))
        abort();
    lensnet_classifier_destroy(classifier);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const lensnet_host host = memory_host();
    file_bytes = data;
    file_size = size;
    living = 0;
    load_state(&host);
    load_weights(&host);
    classify(&host);
    if (living) abort();
    return 0;
}

/* ---- seeds --------------------------------------------------------------------------------------- */

#ifndef FUZZ_LIBFUZZER
static uint8_t seeds[2][ROOM];
static size_t seed_sizes[2];

static void make_seeds(void)
{
    const lensnet_host host = memory_host();
    lensnet_model *model = small_model(&host);
    lensnet_adamw *adamw;
    lensnet_archive_pair pair;
    pair.key = "train.epoch";
    pair.value = "3";
    if (lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, NULL) ||
        lensnet_state_save(model, adamw, &pair, 1, "state", NULL))
        abort();
    memcpy(seeds[0], written, seed_sizes[0] = written_size);
    if (lensnet_model_save(model, "weights", LENSNET_DTYPE_F16, NULL)) abort();
    memcpy(seeds[1], written, seed_sizes[1] = written_size);
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
}

static size_t draw(size_t bound)
{
    static uint64_t index;
    return (size_t)(lensnet_random_bits(1, 2, index++) % bound);
}

/* Changes of the table, mostly such that its checksum line is the next thing to be wrong: half of them
 * therefore rename it. */
static size_t mutate(uint8_t *data, size_t size)
{
    static const char telling[] = "{}[],:\"\\u0189-.eFIU \n";
    const size_t table = (size_t)lnp_load64(data);
    size_t n = 1 + draw(3), i;
    if (draw(2))
        for (i = 8; i + 17 < 8 + table; i++)
            if (memcmp(data + i, "lensnet.checksums", 17) == 0) data[i] = 'L';
    while (n--) {
        const size_t at = 8 + draw(draw(4) ? table : size - 8);
        if (draw(3))
            data[at] = (uint8_t)telling[draw(sizeof telling - 1)];
        else
            data[at] ^= (uint8_t)(1u << draw(8));
    }
    return draw(8) ? size : size - draw(size / 4);
}

static int write_seeds(const char *folder)
{
    int i;
    for (i = 0; i < 2; i++) {
        char path[300];
        FILE *file;
        snprintf(path, sizeof path, "%s/network_%d", folder, i);
        file = fopen(path, "wb");
        if (!file || fwrite(seeds[i], 1, seed_sizes[i], file) != seed_sizes[i] || fclose(file))
            return 1;
    }
    return 0;
}

int main(int count, char **arguments)
{
    static uint8_t data[ROOM];
    long rounds = count > 1 ? strtol(arguments[1], NULL, 10) : 2000, round;
    make_seeds();
    if (count == 3 && strcmp(arguments[1], "--seeds") == 0) return write_seeds(arguments[2]);
    for (round = 0; round < rounds; round++) {
        const int which = (int)draw(2);
        size_t size;
        uint8_t *exact;
        memcpy(data, seeds[which], seed_sizes[which]);
        size = round ? mutate(data, seed_sizes[which]) : seed_sizes[which];
        exact = (uint8_t *)malloc(size ? size : 1); /* so that a step too far is seen */
        if (!exact) return 1;
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%ld files read\n1 passed, 0 failed\n", rounds);
    return 0;
}
#endif
