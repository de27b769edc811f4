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

#define FUZZ_HOST
#include "fuzz.h"

/* ---- a folder in memory: weights that say nothing of themselves, and one strange file -------------- */

static const char *config_strange; /* its name */
static lensnet_archive
    *config_archive;         /* the weights, opened once: their table is not what is tried */
static size_t config_living; /* bytes that it takes */

static int config_ends_in(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

/* Whatever is asked for must lie in the folder. */
static void *config_open(const char *path, int writing, void *user)
{
    if (writing) return fuzz_open(path, writing, user);
    if (strncmp(path, "net/", 4) != 0 || strchr(path + 4, '/')) abort();
    if (!strcmp(path + 4, config_strange)) return &fuzz_strange;
    return config_ends_in(path, ".safetensors") ? &fuzz_saved : NULL;
}

/* A network of which the file says no label, size or normalisation. */
static void config_make_weights(const lensnet_host *host)
{
    lensnet_archive_tensor tensors[64];
    lensnet_model *model = fuzz_model(host);
    lensnet_parameters *p = lensnet_model_parameters(model);
    size_t i, k;
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
    config_strange = "";
    if (lensnet_archive_open(&config_archive, "net/model.safetensors", host, NULL)) abort();
    config_living = fuzz_living;
}

/* ---- what is done with it -------------------------------------------------------------------------- */

static void config_classify(const lensnet_classifier *classifier)
{
    static float pixels[LENSNET_BANDS_LIMIT * 33 * 40];
    lensnet_prediction prediction;
    size_t i, characters = 0;
    for (i = 0; i < sizeof pixels / sizeof *pixels; i++) pixels[i] = (float)(i % 17) - 8;
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
    options.bands = 0;
    options.memory_limit = 1 << 20; /* an input of 64 pixels, so that an answer takes no time */
    error.text[0] = 0;
    if (!lensnet_classifier_load_archive(&classifier, config_archive, &options, &error)) {
        config_classify(classifier);
        lensnet_classifier_destroy(classifier);
    } else if (strlen(error.text) < 5) {
        abort();
    }
    if (fuzz_living != config_living) abort();
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
    if (fuzz_living != config_living) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lensnet_host host = fuzz_host();
    host.file_open = config_open;
    if (!config_archive) config_make_weights(&host);
    fuzz_strange.bytes = data;
    fuzz_strange.size = size;
    config_load("config.json", &host);
    config_load("preprocessor_config.json", &host);
    config_index(&host);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
int main(int count, char **arguments)
{
    static const char *const seeds[] = {
        "bom.json",       "index.json", "labels.json",       "ours.json",
        "processor.json", "timm.json",  "transformers.json", NULL};
    static const char telling[] = "{}[],:\"\\u0189-.e \n";
    const fuzz_plan plan = {"tests/fixtures/config", seeds, 3000, telling, sizeof telling - 1, 0};
    return fuzz_main(count, arguments, &plan);
}
#endif
