/* weights.h - the one door for weights: whatever PyTorch's users bring, with what they say about it.
 *
 * The network is a ConvNeXt V2 or one of backbones.h. A path is a safetensors file, the index of one in shards, a Hugging Face folder, or a file that
 * torch.save wrote (.bin, .pth, .pt, .ckpt). Labels, size and normalisation stand in the file or beside
 * it, or are said by options, which a program takes into its table as WEIGHTS_ARGUMENTS:
 *
 *     static argument options[] = {{"--csv", ...}, WEIGHTS_ARGUMENTS};
 *     enum { CSV, WEIGHTS, OPTIONS = WEIGHTS + WEIGHTS_COUNT };
 *     weights_classifier(&classifier, path, &choice, &options[WEIGHTS], &error);
 *
 * What had to be taken for granted goes to stderr. Include lensnet.h first. */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include "../tools/torch_file.h"
#include "arguments.h"
#include "backbones.h"
#include "failure.h"
#include "system.h"

#ifdef __GNUC__
#define WEIGHTS_API __attribute__((unused)) static
#else
#define WEIGHTS_API static
#endif

/* clang-format off */
#define WEIGHTS_ARGUMENTS                                                                              \
    {"--labels", "A,B,C", NULL, "the classes' names, in the order of the network's outputs", 0},       \
    {"--size", "PIXELS", NULL, "side of the network's input", 0},                                      \
    {"--crop", "PIXELS", NULL, "side of the middle that is cut from an image first", 0},               \
    {"--normalise", "NAME", NULL, "none, minmax, znorm, imagenet, minmax+imagenet or dataset", 0},     \
    {"--mean", "M,...", NULL, "of the training set, one number or one a channel (dataset)", 0},        \
    {"--deviation", "D,...", NULL, "of the training set", 0},                                          \
    {"--prefix", "P.", NULL, "what stands before the names of the wanted tensors", 0},                 \
    {"--key", "NAME", NULL, "of several sets of weights in a .pth file, the one to read", 0}
/* clang-format on */
enum {
    WEIGHTS_LABELS,
    WEIGHTS_SIZE,
    WEIGHTS_CROP,
    WEIGHTS_NORMALISE,
    WEIGHTS_MEAN,
    WEIGHTS_DEVIATION,
    WEIGHTS_PREFIX,
    WEIGHTS_KEY,
    WEIGHTS_COUNT
};

/* ---- what is said on the command line ---- */

typedef struct weights_told {
    lensnet_archive_pair pairs[WEIGHTS_COUNT + 1];
    size_t count;
    char *labels;
} weights_told;

static void weights_tell(weights_told *told, const char *key, const char *value)
{
    if (!value) return;
    told->pairs[told->count].key = key;
    told->pairs[told->count++].value = value;
}

/* 0 without memory. `rows`: the WEIGHTS_ARGUMENTS of a table, or NULL. */
WEIGHTS_API int weights_told_read(weights_told *told, const argument *rows)
{
    char *c;
    memset(told, 0, sizeof *told);
    if (!rows) return 1;
    if (rows[WEIGHTS_LABELS].value) {
        told->labels = system_copy(rows[WEIGHTS_LABELS].value);
        if (!told->labels) return 0;
        for (c = told->labels; *c; c++)
            if (*c == ',') *c = '\n';
    }
    weights_tell(told, "lensnet.labels", told->labels);
    weights_tell(told, "lensnet.image_size", rows[WEIGHTS_SIZE].value);
    weights_tell(told, "lensnet.crop", rows[WEIGHTS_CROP].value);
    weights_tell(told, "lensnet.mean", rows[WEIGHTS_MEAN].value);
    weights_tell(told, "lensnet.deviation", rows[WEIGHTS_DEVIATION].value);
    weights_tell(told, "lensnet.prefix", rows[WEIGHTS_PREFIX].value);
    weights_tell(told, "lensnet.normalisation",
                 rows[WEIGHTS_NORMALISE].value ? rows[WEIGHTS_NORMALISE].value
                 : rows[WEIGHTS_MEAN].value    ? "dataset"
                                               : NULL);
    return 1;
}

WEIGHTS_API void weights_told_free(weights_told *told) { free(told->labels); }

/* ---- files ---- */

typedef struct weights_file {
    lensnet_archive *archive;
    torch_file torch;
    char *path; /* of what lies in a folder */
} weights_file;

WEIGHTS_API void weights_close(weights_file *file)
{
    lensnet_archive_close(file->archive);
    torch_file_close(&file->torch);
    free(file->path);
    memset(file, 0, sizeof *file);
}

static lensnet_result weights_open_torch(weights_file *file, const char *path, const char *key,
                                         lensnet_error *error)
{
    lensnet_host host;
    lensnet_result result = torch_file_open(&file->torch, path, key, error);
    if (!result) result = torch_file_host(&file->torch, &host, error);
    return result ? result : lensnet_archive_open(&file->archive, path, &host, error);
}

/* "facebook/convnextv2-tiny-1k-224", where no such folder is: a name of the hub, most likely. */
static int weights_is_hub_name(const char *path)
{
    const char *slash = strchr(path, '/');
    return slash && slash != path && slash[1] && !strpbrk(slash + 1, "/.") && path[0] != '.' &&
           path[0] != '~' && !system_exists(path);
}

static int weights_lies_in(const char *folder, const char *name)
{
    char *path = system_path(folder, name);
    const int there = path && system_exists(path);
    free(path);
    return there;
}

/* A folder, or the index in it, whose .bin lies in shards: torch.save's, which are not put together. */
static int weights_is_sharded_bin(const char *path)
{
    return system_ends_in(path, ".bin.index.json") ||
           weights_lies_in(path, "pytorch_model.bin.index.json");
}

static int weights_is_file(const char *path)
{
    static const char *const endings[] = {".safetensors", ".pth", ".pt", ".bin", ".ckpt"};
    size_t i;
    for (i = 0; i < sizeof endings / sizeof *endings; i++)
        if (system_ends_in(path, endings[i])) return 1;
    return 0;
}

/* The weights come first; who gives them last is told so. `words` stand in argv[1 ...]. */
WEIGHTS_API void weights_check_order(const char *program, int words, char **argv)
{
    lensnet_archive *archive;
    if (words < 2 || !weights_is_file(argv[2]) || weights_is_file(argv[1]) ||
        !system_exists(argv[1]) || torch_file_probe(argv[1]))
        return;
    if (lensnet_archive_open(&archive, argv[1], NULL, NULL))
        arguments_fail("the weights come first: %s %s %s", program, argv[2], argv[1]);
    lensnet_archive_close(archive);
}

/* The files of weights in a folder, for a sentence; 0 if there are none, or one by the usual name, of
 * which there is more to say. */
static int weights_in_folder(char names[160], const char *folder)
{
    system_names all;
    size_t i, used = 0;
    if (weights_lies_in(folder, "model.safetensors") ||
        weights_lies_in(folder, "model.safetensors.index.json") || !system_list(&all, folder))
        return 0;
    for (i = 0; i < all.count && used < 100; i++) {
        zip_quoted shown;
        if (!weights_is_file(all.items[i])) continue;
        used += (size_t)snprintf(names + used, 160 - used, "%s'%.40s'", used ? ", " : "",
                                 zip_quote(&shown, all.items[i], strlen(all.items[i])));
    }
    system_names_free(&all);
    return used > 0;
}

/* Opens what stands at `path`. `key`: of several sets of weights in a file of torch.save, the one that
 * is wanted; NULL: the one that timm would take. `host` reads safetensors files; NULL: the default one.
 * To be closed in any case. */
WEIGHTS_API lensnet_result weights_open(weights_file *file, const char *path, const char *key,
                                        const lensnet_host *host, lensnet_error *error)
{
    lensnet_error inside;
    lensnet_result result;
    char names[160];
    memset(file, 0, sizeof *file);
    if (torch_file_probe(path)) return weights_open_torch(file, path, key, error);
    result = lensnet_archive_open(&file->archive, path, host, error);
    if (result && weights_is_hub_name(path))
        return failure(error, result,
                       "there is no folder '%.150s' here, and nothing is fetched: download "
                       "https://huggingface.co/%.150s/resolve/main/model.safetensors, and the "
                       "config.json beside it",
                       path, path);
    if (result && weights_is_sharded_bin(path))
        return failure(error, LENSNET_ERROR_UNSUPPORTED,
                       "'%.150s': its weights lie in several .bin files; write them as one: "
                       "AutoModelForImageClassification.from_pretrained(folder)"
                       ".save_pretrained(other, max_shard_size='50GB')",
                       path);
    if (!result || !system_is_folder(path)) return result;
    file->path = system_path(path, "pytorch_model.bin");
    if (file->path && torch_file_probe(file->path)) {
        result = weights_open_torch(file, file->path, key, &inside);
        if (result && error) *error = inside;
    } else if (weights_in_folder(names, path)) {
        return failure(error, result,
                       "'%.150s' has no model.safetensors in it, but %s; give the one that is "
                       "meant",
                       path, names);
    }
    return result;
}

WEIGHTS_API void weights_print_notes(const char *path, const char *notes)
{
    while (*notes) {
        const size_t length = strcspn(notes, "\n");
        fprintf(stderr, "note: %s: %.*s\n", path, (int)length, notes);
        notes += length + (notes[length] == '\n');
    }
}

static void weights_print_set(const weights_file *file, const char *path)
{
    if (file->torch.set.length)
        fprintf(stderr,
                "note: %s: of several sets of weights '%.*s' is read; --key names another\n", path,
                (int)file->torch.set.length, file->torch.set.text);
}

/* ---- objects ---- */

/* lensnet_classifier_load for any file. `rows` as in weights_told_read. */
WEIGHTS_API lensnet_result weights_classifier(lensnet_classifier **classifier, const char *path,
                                              const lensnet_classifier_options *options,
                                              const argument *rows, lensnet_error *error)
{
    lensnet_classifier_options all = options ? *options : lensnet_classifier_defaults();
    weights_file file;
    weights_told told;
    lensnet_result result;
    *classifier = NULL;
    if (!weights_told_read(&told, rows))
        return failure(error, LENSNET_ERROR_MEMORY, "out of memory for labels");
    all.told = told.pairs;
    all.told_count = told.count;
    all.architectures = backbones;
    all.architecture_count = BACKBONES;
    result = weights_open(&file, path, rows ? rows[WEIGHTS_KEY].value : NULL, NULL, error);
    if (!result) result = lensnet_classifier_load_archive(classifier, file.archive, &all, error);
    if (!result) weights_print_set(&file, path);
    if (!result) weights_print_notes(path, lensnet_classifier_notes(*classifier));
    weights_close(&file);
    weights_told_free(&told);
    return result;
}

/* What training on from weights takes over of the way to their input. With other labels than ours the
 * head is drawn anew, and the mean and deviation of photographs, say, are not ours either. */
WEIGHTS_API lensnet_preprocess weights_known(const lensnet_model_desc *desc, int same_labels)
{
    lensnet_preprocess known = desc->preprocess;
    if (same_labels || known.normalisation != LENSNET_NORMALISATION_DATASET) return known;
    known = lensnet_preprocess_defaults();
    known.image_size = desc->preprocess.image_size;
    known.channels = desc->preprocess.channels;
    known.bands = desc->preprocess.bands;
    return known;
}

/* lensnet_model_load for any file, without a word; lensnet_model_notes has the words. */
WEIGHTS_API lensnet_result weights_model(lensnet_model **model, const char *path,
                                         const lensnet_load_options *options, int *fresh_head,
                                         lensnet_error *error)
{
    lensnet_load_options all = *options;
    weights_file file;
    lensnet_result result = weights_open(&file, path, NULL, options->host, error);
    *model = NULL;
    all.architectures = backbones;
    all.architecture_count = BACKBONES;
    if (!result) result = lensnet_model_load_archive(model, file.archive, &all, fresh_head, error);
    weights_close(&file);
    return result;
}

#endif
