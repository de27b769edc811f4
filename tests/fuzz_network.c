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

#define FUZZ_HOST
#include "fuzz.h"

/* ---- what is done with the bytes ----------------------------------------------------------------- */

static void load_state(const lensnet_host *host)
{
    lensnet_model *model = fuzz_model(host);
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
    static float pixels[LENSNET_BANDS_LIMIT * 33 * 40];
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_prediction prediction;
    size_t i;
    options.host = host;
    options.bands = 0;
    options.memory_limit = FUZZ_LIMIT / 4;
    if (lensnet_classifier_load_memory(&classifier, fuzz_strange.bytes, fuzz_strange.size, &options,
                                       NULL))
        return;
    for (i = 0; i < sizeof pixels / sizeof *pixels; i++) pixels[i] = (float)(i % 17) - 8;
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
    const lensnet_host host = fuzz_host();
    fuzz_strange.bytes = data;
    fuzz_strange.size = size;
    load_state(&host);
    load_weights(&host);
    classify(&host);
    if (fuzz_living) abort();
    return 0;
}

/* ---- seeds --------------------------------------------------------------------------------------- */

#ifndef FUZZ_LIBFUZZER
static uint8_t seeds[2][FUZZ_ROOM];
static size_t seed_sizes[2];

static void make_seeds(void)
{
    const lensnet_host host = fuzz_host();
    lensnet_model *model = fuzz_model(&host);
    lensnet_adamw *adamw;
    lensnet_archive_pair pair;
    pair.key = "train.epoch";
    pair.value = "3";
    if (lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, NULL) ||
        lensnet_state_save(model, adamw, &pair, 1, "state", NULL))
        abort();
    memcpy(seeds[0], fuzz_room, seed_sizes[0] = fuzz_saved.size);
    if (lensnet_model_save(model, "weights", LENSNET_DTYPE_F16, NULL)) abort();
    memcpy(seeds[1], fuzz_room, seed_sizes[1] = fuzz_saved.size);
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
}

/* A changed table does not agree with its checksums, which is the first thing to be noticed: half of the
 * tables therefore have none. */
static size_t mutate(uint8_t *data, size_t size)
{
    static const char telling[] = "{}[],:\"\\u0189-.eFIU \n";
    const fuzz_plan plan = {NULL, NULL, 0, telling, sizeof telling - 1, fuzz_draw(4) > 0};
    const size_t table = (size_t)lnp_load64(data);
    size_t i;
    if (fuzz_draw(2))
        for (i = 8; i + 17 < 8 + table; i++)
            if (memcmp(data + i, "lensnet.checksums", 17) == 0) data[i] = 'L';
    return fuzz_mutate(data, size, FUZZ_ROOM, &plan);
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
    static uint8_t data[FUZZ_ROOM];
    const long rounds = count > 1 ? strtol(arguments[1], NULL, 10) : 2000;
    long round;
    make_seeds();
    if (count == 3 && strcmp(arguments[1], "--seeds") == 0) return write_seeds(arguments[2]);
    for (round = 0; round < rounds; round++) {
        const size_t which = fuzz_draw(2);
        memcpy(data, seeds[which], seed_sizes[which]);
        fuzz_try(data, round ? mutate(data, seed_sizes[which]) : seed_sizes[which]);
    }
    printf("%ld files read\n1 passed, 0 failed\n", rounds);
    return 0;
}
#endif
