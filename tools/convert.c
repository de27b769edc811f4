/* convert.c - weights of ConvNeXt V2 in anybody's form to a safetensors file with Hugging Face
 * names, of the networks of backbones.h to one with timm's. cc -O2 -fopenmp tools/convert.c -o convert -lm
 *
 * Reads PyTorch's .pth, .pt, .ckpt and pytorch_model.bin, safetensors, whole or in shards, and Hugging
 * Face folders, in the names of the authors, of transformers and of timm. Executes nothing that is in
 * a file (see torch_file.h). float32 weights stay what they are to the bit, half precision is widened,
 * or all is rounded to it if asked. Labels, size and normalisation go along, where they are known or
 * told. With --verify it only reads a file and checks every checksum. */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"
#include "../examples/arguments.h"
#include "../examples/huggingface.h"
#include "../examples/weights.h"

#define SUMMARY 1600

typedef struct settings {
    const char *in, *out, *key;
    const lensnet_archive_pair *told;
    size_t told_count;
    int half, folder;
} settings;

/* An input of any kind, read as an archive, and what is known of it. */
typedef struct source {
    weights_file file;
    lnp_checkpoint checkpoint;
    lnp_sources sources;
    lensnet_model_desc desc;
} source;

/* All weights in the canonical order, names and shapes. */
typedef struct weights {
    lensnet_archive_tensor *tensors;
    char (*names)[LNP_NAME_CAPACITY];
    float *values;
    size_t count, numbers;
    size_t calibrated, calibrated_numbers; /* the same of what evaluate --calibrate left */
} weights;

/* --- reading ---------------------------------------------------------------------------------- */

static lensnet_result source_open(source *in, const settings *s, lensnet_error *error)
{
    lensnet_result result;
    memset(in, 0, sizeof *in);
    in->desc = lensnet_model_defaults();
    result = weights_open(&in->file, s->in, s->key, NULL, error);
    if (!result)
        result = lnp_describe_archive(&in->desc, &in->checkpoint, &in->sources, in->file.archive,
                                      s->told, s->told_count, backbones, BACKBONES, error);
    return result;
}

static void source_close(source *in)
{
    if (in->sources.file) lnp_sources_release(&in->sources);
    weights_close(&in->file);
}

/* Is it a tensor of evaluate --calibrate? */
static int is_calibration(const source *in, const lensnet_archive_entry *entry)
{
    (void)in;
    return strncmp(entry->name, "lensnet.calibration.", 20) == 0 ||
           strncmp(entry->name, "lensnet.foreign.", 16) == 0;
}

/* Counts, or with room for them describes, the tensors of a calibration, which follow the parameters. */
static void weights_describe_calibration(weights *w, const source *in)
{
    const lensnet_archive *archive = in->file.archive;
    size_t i;
    for (i = 0, w->calibrated = 0; i < lensnet_archive_count(archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        if (!is_calibration(in, entry)) continue;
        if (w->tensors) {
            lensnet_archive_tensor *t = w->tensors + w->count + w->calibrated;
            memset(t, 0, sizeof *t);
            t->name = entry->name;
            t->dtype = LENSNET_DTYPE_F32;
            t->rank = entry->rank;
            memcpy(t->shape, entry->shape, sizeof t->shape);
            t->values = w->values + w->numbers + w->calibrated_numbers;
        }
        w->calibrated++;
        w->calibrated_numbers += (size_t)entry->count;
    }
}

/* Is it a weight of a network of backbones.h, whose tensors the archive has under their own names? */
static int is_weight(const source *in, const lensnet_archive_entry *entry)
{
    const char *prefix = in->checkpoint.prefix;
    return !strncmp(entry->name, prefix, strlen(prefix)) && !lnp_is_state_name(entry->name) &&
           !lnp_is_counter(entry->name);
}

static void weights_describe_other(weights *w, const source *in, lensnet_dtype dtype)
{
    size_t i;
    w->count = w->numbers = w->calibrated_numbers = 0;
    for (i = 0; i < lensnet_archive_count(in->file.archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(in->file.archive, i);
        if (!is_weight(in, entry)) continue;
        if (w->tensors) {
            lensnet_archive_tensor *t = w->tensors + w->count;
            memset(t, 0, sizeof *t);
            t->name = entry->name + strlen(in->checkpoint.prefix);
            t->dtype = dtype;
            t->rank = entry->rank;
            memcpy(t->shape, entry->shape, sizeof t->shape);
            t->values = w->values + w->numbers;
        }
        w->count++;
        w->numbers += (size_t)entry->count;
    }
    weights_describe_calibration(w, in);
}

/* Counts, or with room for them describes, the parameters that the checkpoint has. */
static void weights_describe(weights *w, const source *in, lensnet_dtype dtype)
{
    lnp_slot slot = {LNP_STEM_CONV_WEIGHT, 0, 0};
    if (in->checkpoint.architecture) {
        weights_describe_other(w, in, dtype);
        return;
    }
    w->count = w->numbers = 0;
    do {
        const lensnet_archive_entry *entry =
            lnp_checkpoint_find(&in->checkpoint, slot.role, slot.stage, slot.block);
        if (!entry) continue;
        if (w->tensors) {
            lensnet_archive_tensor *t = w->tensors + w->count;
            size_t shape[4];
            int axis;
            memset(t, 0, sizeof *t);
            lnp_role_name(w->names[w->count], LNP_NAME_CAPACITY, slot.role, slot.stage, slot.block);
            t->name = w->names[w->count];
            t->dtype = dtype;
            t->rank = lnp_role_shape(shape, slot.role, slot.stage, &in->checkpoint.net);
            for (axis = 0; axis < t->rank; axis++) t->shape[axis] = shape[axis];
            t->values = w->values + w->numbers;
        }
        w->count++;
        w->numbers += (size_t)entry->count;
    } while (lnp_slot_next(&slot, &in->checkpoint.net));
    w->calibrated_numbers = 0;
    weights_describe_calibration(w, in);
}

/* Reads the tensors that `wanted` names behind *values, in the archive's order. */
static lensnet_result read_wanted(float **values, const source *in,
                                  int (*wanted)(const source *, const lensnet_archive_entry *),
                                  lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; !result && i < lensnet_archive_count(in->file.archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(in->file.archive, i);
        if (!wanted(in, entry)) continue;
        result = lensnet_archive_read_float(*values, in->file.archive, entry, error);
        *values += entry->count;
    }
    return result;
}

static lensnet_result weights_read(weights *w, const source *in, lensnet_error *error)
{
    lnp_slot slot = {LNP_STEM_CONV_WEIGHT, 0, 0};
    float *values = w->values;
    lensnet_result result = LENSNET_OK;
    if (in->checkpoint.architecture) {
        result = read_wanted(&values, in, is_weight, error);
        return result ? result : read_wanted(&values, in, is_calibration, error);
    }
    do {
        const lensnet_archive_entry *entry =
            lnp_checkpoint_find(&in->checkpoint, slot.role, slot.stage, slot.block);
        if (!entry) continue;
        result = lensnet_archive_read_float(values, in->file.archive, entry, error);
        values += entry->count;
    } while (!result && lnp_slot_next(&slot, &in->checkpoint.net));
    return result ? result : read_wanted(&values, in, is_calibration, error);
}

static void weights_release(weights *w)
{
    free(w->tensors);
    free(w->names);
    free(w->values);
}

static lensnet_result weights_load(weights *w, const source *in, lensnet_dtype dtype,
                                   lensnet_error *error)
{
    memset(w, 0, sizeof *w);
    weights_describe(w, in, dtype);
    w->names = (char(*)[LNP_NAME_CAPACITY])malloc(w->count * sizeof *w->names);
    w->values = (float *)malloc((w->numbers + w->calibrated_numbers) * sizeof *w->values);
    w->tensors = (lensnet_archive_tensor *)malloc((w->count + w->calibrated) * sizeof *w->tensors);
    if (!w->names || !w->values || !w->tensors)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for %zu weights", w->numbers);
    weights_describe(w, in, dtype);
    return weights_read(w, in, error);
}

/* That of one view; 1 where there is none. */
static double weights_temperature(const weights *w)
{
    size_t i;
    for (i = w->count; i < w->count + w->calibrated; i++)
        if (!strcmp(w->tensors[i].name, "lensnet.calibration.1.temperature"))
            return (double)*(const float *)w->tensors[i].values;
    return 1.0;
}

/* Divides the last layer by it, see huggingface.h. */
static void weights_temper(weights *w)
{
    const double temperature = weights_temperature(w);
    float *values = w->values;
    size_t i, k;
    for (i = 0; i < w->count; i++) {
        size_t count = 1;
        for (k = 0; k < (size_t)w->tensors[i].rank; k++) count *= (size_t)w->tensors[i].shape[k];
        huggingface_temper(values, count, w->tensors[i].name, temperature);
        values += count;
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Adds a line unless there is one. */
static void add_pair(lensnet_archive_pair *pairs, size_t *count, const char *key, const char *value)
{
    if (!value || lnp_pair_value(pairs, *count, key)) return;
    pairs[*count].key = key;
    pairs[(*count)++].value = value;
}

/* What was told, the metadata of the input, what stood beside it: the first that says a thing wins.
 * What nobody said is not said here either. transformers wants "format" = "pt". */
static lensnet_result save_weights(const char *path, const weights *w, const source *in,
                                   size_t calibrated, lensnet_error *error)
{
    const lensnet_archive *archive = in->file.archive;
    const size_t room = archive->pair_count + LNP_KEYS + 2;
    size_t i, count = 0;
    lensnet_archive_pair *pairs = (lensnet_archive_pair *)malloc(room * sizeof *pairs);
    lensnet_result result;
    if (!pairs) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for the metadata");
    if (in->desc.architecture)
        add_pair(pairs, &count, lnp_key_names[LNP_KEY_ARCHITECTURE], in->desc.architecture->name);
    for (i = 0; i < LNP_KEYS; i++)
        if (i != LNP_KEY_ARCHITECTURE)
            add_pair(pairs, &count, lnp_key_names[i], lnp_said(&in->sources, (lnp_key)i));
    for (i = 0; i < archive->pair_count; i++)
        add_pair(pairs, &count, archive->pairs[i].key, archive->pairs[i].value);
    add_pair(pairs, &count, "format", "pt");
    add_pair(pairs, &count, LENSNET_ARCHIVE_CHECKSUMS, "");
    result =
        lensnet_archive_save(path, w->tensors, w->count + calibrated, pairs, count, NULL, error);
    free(pairs);
    return result;
}

/* Names for the classes where there are none. `text` and `labels` keep them alive. */
static lensnet_result number_labels(lensnet_model_desc *desc, const char ***labels, char **text)
{
    size_t i;
    if (desc->labels) return LENSNET_OK;
    *labels = (const char **)malloc(desc->classes * sizeof **labels);
    *text = (char *)malloc(32 * desc->classes);
    if (!*labels || !*text) return LENSNET_ERROR_MEMORY;
    for (i = 0; i < desc->classes; i++) {
        snprintf(*text + 32 * i, 32, "LABEL_%zu", i);
        (*labels)[i] = *text + 32 * i;
    }
    desc->labels = *labels;
    return LENSNET_OK;
}

static lensnet_result save_folder(weights *w, const source *in, const settings *s,
                                  lensnet_error *error)
{
    lensnet_model_desc desc = in->desc;
    const char **labels = NULL;
    char *text = NULL;
    lensnet_result result;
    char *path;
    if (!in->checkpoint.has_head)
        return lnp_fail(
            error, LENSNET_ERROR_UNSUPPORTED,
            "'%.200s' has no last layer, so it is no classifier; convert it to a .safetensors file",
            s->in);
    if (!system_make_folder(s->out))
        return lnp_fail(error, LENSNET_ERROR_FILE, "%.300s: the folder cannot be made: %s", s->out,
                        strerror(errno));
    path = system_path(s->out, "model.safetensors");
    result = number_labels(&desc, &labels, &text);
    if (result || !path)
        result = lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for the labels");
    if (!result)
        result = huggingface_describe(&desc, s->half ? LENSNET_DTYPE_F16 : LENSNET_DTYPE_F32,
                                      s->out, error);
    weights_temper(w);
    if (!result) result = save_weights(path, w, in, 0, error);
    free(path);
    free(labels);
    free(text);
    return result;
}

static int summarise_network(char summary[SUMMARY], const source *in, const settings *s)
{
    const lnp_net *net = &in->checkpoint.net;
    if (in->desc.architecture)
        return snprintf(summary, SUMMARY, "%.200s: %.100s, ", s->out, in->desc.architecture->name);
    return snprintf(
        summary, SUMMARY, "%.200s: ConvNeXt V2 of %d, %d, %d, %d blocks of width %d, %d, %d, %d, ",
        s->out, (int)net->depths[0], (int)net->depths[1], (int)net->depths[2], (int)net->depths[3],
        (int)net->widths[0], (int)net->widths[1], (int)net->widths[2], (int)net->widths[3]);
}

static void summarise(char summary[SUMMARY], const source *in, const weights *w, const settings *s)
{
    int used = summarise_network(summary, in, s);
    used += snprintf(summary + used, SUMMARY - (size_t)used,
                     "%d classes: %d tensors, %zu weights, %s", (int)in->checkpoint.net.classes,
                     (int)w->count, w->numbers, s->half ? "F16" : "F32");
    if (in->file.torch.set.length)
        used += snprintf(summary + used, SUMMARY - (size_t)used,
                         "\nof several sets of weights '%.*s' was read (--key names another)",
                         (int)(in->file.torch.set.length % 100), in->file.torch.set.text);
    if (s->folder && w->calibrated)
        used +=
            snprintf(summary + used, SUMMARY - (size_t)used,
                     "\nthe last layer is divided by the temperature, %.4g; sets and the foreign "
                     "score stay behind: transformers does not know them",
                     weights_temperature(w));
    if (in->sources.notes.length)
        snprintf(summary + used, SUMMARY - (size_t)used, "\n%s", in->sources.notes_text);
}

/* The whole work; `summary` says what was written. */
static lensnet_result convert(char summary[SUMMARY], const settings *s, lensnet_error *error)
{
    source in;
    weights w;
    lensnet_result result = source_open(&in, s, error);
    memset(&w, 0, sizeof w);
    if (!result)
        result = weights_load(&w, &in, s->half ? LENSNET_DTYPE_F16 : LENSNET_DTYPE_F32, error);
    if (!result)
        result = s->folder ? save_folder(&w, &in, s, error)
                           : save_weights(s->out, &w, &in, w.calibrated, error);
    if (!result) summarise(summary, &in, &w, s);
    weights_release(&w);
    source_close(&in);
    return result;
}

/* Reads every tensor of a file, which checks its sum; what is wrong is the error. */
static lensnet_result verify(char summary[SUMMARY], const settings *s, lensnet_error *error)
{
    weights_file file;
    size_t i, summed = 0;
    lensnet_result result = weights_open(&file, s->in, s->key, NULL, error);
    for (i = 0; !result && i < lensnet_archive_count(file.archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(file.archive, i);
        void *bytes = malloc((size_t)entry->bytes + 1);
        result = bytes ? lensnet_archive_read_bytes(bytes, file.archive, entry, error)
                       : lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a tensor");
        free(bytes);
    }
    if (!result) {
        summed = file.archive->crc != NULL;
        snprintf(summary, SUMMARY, "%.200s: %zu tensors, all readable%s", s->in, i,
                 summed ? " and as they were saved"
                        : "; it has no checksums, so nobody can tell whether they are as they were "
                          "saved (convert it once, and the copy has)");
    }
    weights_close(&file);
    return result;
}

#ifndef CONVERT_NO_MAIN
static const char *const usage = "usage: convert IN OUT.safetensors [options]\n"
                                 "       convert IN FOLDER --folder [options]\n"
                                 "       convert FILE --verify\n"
                                 "IN is a .pth, .pt, .ckpt or .bin file of PyTorch, a .safetensors "
                                 "file, whole or in shards, or a\n"
                                 "Hugging Face folder, and holds a ConvNeXt V2 in the names of the "
                                 "authors, of transformers or of timm.\n";

enum { OPTION_HALF, OPTION_FOLDER, OPTION_VERIFY, WEIGHTS, OPTIONS = WEIGHTS + WEIGHTS_COUNT };

static argument options[OPTIONS] = {
    {"--half", NULL, NULL, "store half precision (F16) instead of F32", 0},
    {"--folder", NULL, NULL,
     "write model.safetensors, config.json and preprocessor_config.json\n"
     "into FOLDER, for transformers' from_pretrained(FOLDER),\n"
     "or timm's create_model('local-dir:FOLDER')",
     0},
    {"--verify", NULL, NULL, "check every tensor of FILE against its checksum", 0},
    WEIGHTS_ARGUMENTS};

int main(int argc, char **argv)
{
    settings s;
    weights_told told;
    char summary[SUMMARY];
    lensnet_error error;
    lensnet_result result;
    int words = arguments_parse(options, OPTIONS, usage, argc, argv);
    if (words != (options[OPTION_VERIFY].given ? 1 : 2))
        arguments_fail("expected IN and OUT, or FILE --verify; --help says more");
    if (!weights_told_read(&told, &options[WEIGHTS])) arguments_fail("out of memory");
    memset(&s, 0, sizeof s);
    s.in = argv[1];
    s.out = argv[2];
    s.half = options[OPTION_HALF].given;
    s.folder = options[OPTION_FOLDER].given;
    s.key = options[WEIGHTS + WEIGHTS_KEY].value;
    s.told = told.pairs;
    s.told_count = told.count;
    result =
        options[OPTION_VERIFY].given ? verify(summary, &s, &error) : convert(summary, &s, &error);
    weights_told_free(&told);
    if (result) {
        fprintf(stderr, "error: %s\n", error.text);
        return 1;
    }
    puts(summary);
    return arguments_flush() ? 0 : 1;
}
#endif
