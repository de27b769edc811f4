/* fuzz_config.c - arbitrary bytes as what lies beside weights: config.json, preprocessor_config.json and the
 * index of weights in shards. Refused with a sentence, or the network is loaded and answers; no file outside
 * the folder is opened, no more memory taken than the caller allows. With libFuzzer, or alone: 3,000
 * mutations (another number as first argument) of tests/fixtures/config, under the sanitizers.
 * clang -g -O0 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -DLENSNET_NO_SIMD -I. \
 *     tests/fuzz_config.c -o build/fuzz_config -lm
 * cc -g -O0 -fsanitize=address,undefined -DLENSNET_NO_SIMD -I. tests/fuzz_config.c -o build/fuzz_config -lm
 * build/fuzz_config */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a folder in memory: weights that say nothing of themselves, and one strange file -------------- */

enum { CONFIG_ROOM = 1 << 16, CONFIG_LIMIT = 64 << 20 };

typedef struct config_file {
    const uint8_t *bytes;
    size_t size;
} config_file;

static uint8_t config_weights[CONFIG_ROOM];
static config_file config_files[2] = {{config_weights, 0},
                                      {NULL, 0}}; /* weights; what is strange */
static const char *config_strange;                /* its name */
static size_t config_living;

static int config_ends_in(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

static void *config_allocate(size_t bytes, size_t alignment, void *user)
{
    void *block = NULL;
    if (bytes <= CONFIG_LIMIT - config_living)
        block = lensnet_host_defaults().allocate(bytes, alignment, user);
    if (block) config_living += bytes;
    return block;
}

static void config_release(void *block, size_t bytes, void *user)
{
    config_living -= bytes;
    lensnet_host_defaults().release(block, bytes, user);
}

/* Whatever is asked for must lie in the folder. */
static void *config_open(const char *path, int writing, void *user)
{
    (void)user;
    if (writing) return &config_files[0];
    if (strncmp(path, "net/", 4) != 0 || strchr(path + 4, '/')) abort();
    if (!strcmp(path + 4, config_strange)) return &config_files[1];
    return config_ends_in(path, ".safetensors") ? &config_files[0] : NULL;
}

static uint64_t config_size(void *file, void *user)
{
    (void)user;
    return ((config_file *)file)->size;
}

static int config_read(void *file, uint64_t offset, void *bytes, size_t count, void *user)
{
    const config_file *f = (const config_file *)file;
    (void)user;
    if (offset > f->size || count > f->size - offset) return 1;
    if (count) memcpy(bytes, f->bytes + offset, count);
    return 0;
}

static int config_write(void *file, const void *bytes, size_t count, void *user)
{
    config_file *f = (config_file *)file;
    (void)user;
    if (count > CONFIG_ROOM - f->size) return 1;
    memcpy(config_weights + f->size, bytes, count);
    f->size += count;
    return 0;
}

static int config_close(void *file, int commit, void *user)
{
    (void)file;
    (void)commit;
    (void)user;
    return 0;
}

static lensnet_host config_host(void)
{
    lensnet_host host = lensnet_host_defaults();
    host.allocate = config_allocate;
    host.release = config_release;
    host.file_open = config_open;
    host.file_size = config_size;
    host.file_read = config_read;
    host.file_write = config_write;
    host.file_close = config_close;
    host.threads = 1;
    return host;
}

/* A network of widths 4, of which the file says no label, size or normalisation. */
static void config_make_weights(const lensnet_host *host)
{
    static const size_t widths[4] = {4, 4, 4, 4}, depths[4] = {1, 1, 1, 1};
    lensnet_archive_tensor tensors[64];
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model;
    lensnet_parameters *p;
    size_t i, k;
    memcpy(desc.widths, widths, sizeof widths);
    memcpy(desc.depths, depths, sizeof depths);
    desc.host = host;
    if (lensnet_model_create(&model, &desc, NULL)) abort();
    p = lensnet_model_parameters(model);
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < lensnet_parameters_count(p); i++) {
        const lensnet_parameter_info info = lensnet_parameters_info(p, i);
        tensors[i].name = info.name;
        tensors[i].dtype = LENSNET_DTYPE_F16;
        tensors[i].rank = info.rank;
        for (k = 0; k < 4; k++) tensors[i].shape[k] = info.shape[k];
        tensors[i].values = lensnet_parameters_values(p) + info.offset;
    }
    if (lensnet_archive_save("net/model.safetensors", tensors, i, NULL, 0, host, NULL)) abort();
    lensnet_model_destroy(model);
}

/* ---- what is done with it -------------------------------------------------------------------------- */

static void config_classify(const lensnet_classifier *classifier)
{
    static float pixels[33 * 40];
    lensnet_prediction prediction;
    size_t i, characters = 0;
    for (i = 0; i < 33 * 40; i++) pixels[i] = (float)(i % 17) - 8;
    for (i = 0; i < lensnet_classifier_classes(classifier); i++)
        characters += strlen(lensnet_classifier_label(classifier, i));
    if (!characters || strlen(lensnet_classifier_notes(classifier)) < 5) abort();
    if (!lensnet_classify(classifier, pixels, 33, 40, &prediction, NULL) &&
        !(prediction.probability >= 0 && prediction.probability <= 1))
        abort();
}

static void config_load(const char *strange, const lensnet_host *host)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_error error;
    config_strange = strange;
    options.host = host;
    options.memory_limit = 1 << 20; /* an input of 64 pixels, so that an answer takes no time */
    error.text[0] = 0;
    if (!lensnet_classifier_load(&classifier, "net/model.safetensors", &options, &error)) {
        config_classify(classifier);
        lensnet_classifier_destroy(classifier);
    } else if (strlen(error.text) < 5) {
        abort();
    }
    if (config_living) abort();
}

static void config_index(const lensnet_host *host)
{
    lensnet_archive *archive;
    lensnet_error error;
    config_strange = "model.safetensors.index.json";
    error.text[0] = 0;
    if (lensnet_archive_open(&archive, "net/model.safetensors.index.json", host, &error) &&
        strlen(error.text) < 5)
        abort();
    lensnet_archive_close(archive);
    if (config_living) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const lensnet_host host = config_host();
    if (!config_files[0].size) config_make_weights(&host);
    config_files[1].bytes = data;
    config_files[1].size = size;
    config_load("config.json", &host);
    config_load("preprocessor_config.json", &host);
    config_index(&host);
    return 0;
}

/* ---- on its own ------------------------------------------------------------------------------------ */

#ifndef FUZZ_LIBFUZZER
static size_t config_draw(size_t bound)
{
    static uint64_t index;
    return (size_t)(lensnet_random_bits(1, 4, index++) % bound);
}

/* Some of: change a bit, put a telling character, cut, repeat or move a piece. */
static size_t config_mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const char telling[] = "{}[],:\"\\u0189-.e \n";
    size_t n = 1 + config_draw(4);
    while (n-- && size > 8) {
        const size_t at = config_draw(size), length = size - at < 24 ? size - at : 24;
        switch (config_draw(6)) {
        case 0: data[at] ^= (uint8_t)(1u << config_draw(8)); break;
        case 1:
        case 2: data[at] = (uint8_t)telling[config_draw(sizeof telling - 1)]; break;
        case 3: size -= config_draw(size / 8 + 1); break;
        case 4: memmove(data + config_draw(size - length + 1), data + at, length); break;
        default:
            if (size + length > capacity) break;
            memmove(data + at + length, data + at, size - at);
            size += length;
        }
    }
    return size;
}

int main(int count, char **arguments)
{
    static const char *const seeds[] = {"bom.json",         "index.json",     "labels.json",
                                        "ours.json",        "processor.json", "timm.json",
                                        "transformers.json"};
    const long rounds = count > 1 ? strtol(arguments[1], NULL, 10) : 3000;
    long round;
    for (round = 0; round < rounds; round++) {
        uint8_t data[4096], *exact;
        char path[96];
        FILE *file;
        size_t size;
        snprintf(path, sizeof path, "tests/fixtures/config/%s",
                 seeds[config_draw(sizeof seeds / sizeof *seeds)]);
        file = fopen(path, "rb");
        if (!file) {
            printf("%s is missing; run from the top folder\n0 passed, 1 failed\n", path);
            return 1;
        }
        size = fread(data, 1, sizeof data / 2, file);
        fclose(file);
        size = config_mutate(data, size, sizeof data);
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
