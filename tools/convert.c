/* convert.c - weights of ConvNeXt V2 in anybody's form to a safetensors file with Hugging Face
 * names. cc -O2 -fopenmp -I. tools/convert.c -o build/convert -lm
 *
 * Reads PyTorch's .pth, .pt and pytorch_model.bin and safetensors, in the names of the authors, of
 * transformers and of timm. Executes nothing that is in a file (see torch_file.h). float32 weights
 * stay what they are to the bit, half precision is widened, or all is rounded to it if asked. */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "examples/huggingface.h"
#include "tools/torch_file.h"

#define SUMMARY 400

typedef struct settings {
    const char *in, *out, *key, *labels;
    size_t image_size;
    int half, folder;
} settings;

/* An input of either kind, read as an archive. */
typedef struct source {
    torch_file torch;
    lensnet_archive *archive;
    lnp_checkpoint checkpoint;
} source;

/* All weights in the canonical order, names and shapes. */
typedef struct weights {
    lensnet_archive_tensor *tensors;
    char (*names)[LNP_NAME_CAPACITY];
    float *values;
    size_t count, numbers;
} weights;

/* --- reading ---------------------------------------------------------------------------------- */

static lensnet_result source_open(source *in, const settings *s, lensnet_error *error)
{
    lensnet_host host = lensnet_host_defaults();
    lensnet_result result = LENSNET_OK;
    memset(in, 0, sizeof *in);
    if (torch_file_probe(s->in)) {
        result = torch_file_open(&in->torch, s->in, s->key, error);
        if (!result) result = torch_file_host(&in->torch, &host, error);
    }
    if (!result) result = lensnet_archive_open(&in->archive, s->in, &host, error);
    if (!result) result = lnp_checkpoint_open(&in->checkpoint, in->archive, error);
    return result;
}

static void source_close(source *in)
{
    lensnet_archive_close(in->archive);
    torch_file_close(&in->torch);
}

/* Counts, or with room for them describes, the parameters that the checkpoint has. */
static void weights_describe(weights *w, const source *in, lensnet_dtype dtype)
{
    lnp_slot slot = {LNP_STEM_CONV_WEIGHT, 0, 0};
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
}

static lensnet_result weights_read(weights *w, const source *in, lensnet_error *error)
{
    lnp_slot slot = {LNP_STEM_CONV_WEIGHT, 0, 0};
    float *values = w->values;
    do {
        const lensnet_archive_entry *entry =
            lnp_checkpoint_find(&in->checkpoint, slot.role, slot.stage, slot.block);
        lensnet_result result;
        if (!entry) continue;
        result = lensnet_archive_read_float(values, in->archive, entry, error);
        if (result) return result;
        values += entry->count;
    } while (lnp_slot_next(&slot, &in->checkpoint.net));
    return LENSNET_OK;
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
    w->values = (float *)malloc(w->numbers * sizeof *w->values);
    w->tensors = (lensnet_archive_tensor *)malloc(w->count * sizeof *w->tensors);
    if (!w->names || !w->values || !w->tensors) {
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "Out of memory for %llu weights.",
                        (unsigned long long)w->numbers);
    }
    weights_describe(w, in, dtype);
    return weights_read(w, in, error);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* The metadata of the input go along; transformers wants "format" = "pt". */
static lensnet_result save_weights(const char *path, const weights *w, const source *in,
                                   lensnet_error *error)
{
    size_t i, count = in->archive->pair_count;
    lensnet_archive_pair *pairs = (lensnet_archive_pair *)malloc((count + 1) * sizeof *pairs);
    lensnet_result result;
    if (!pairs) return lnp_fail(error, LENSNET_ERROR_MEMORY, "Out of memory for the metadata.");
    for (i = 0; i < count; i++) pairs[i] = in->archive->pairs[i];
    if (!lensnet_archive_metadata(in->archive, "format")) {
        pairs[count].key = "format";
        pairs[count++].value = "pt";
    }
    result = lensnet_archive_save(path, w->tensors, w->count, pairs, count, NULL, error);
    free(pairs);
    return result;
}

/* "folder/name", to be freed; NULL when memory is out. */
static char *join(const char *folder, size_t length, const char *name)
{
    char *path = (char *)malloc(length + strlen(name) + 2);
    if (!path) return NULL;
    memcpy(path, folder, length);
    path[length] = 0;
    if (length && path[length - 1] != '/') strcat(path, "/");
    return strcat(path, name);
}

/* The text behind commas becomes the labels; the commas become ends. */
static size_t split_labels(const char **labels, size_t capacity, char *text)
{
    size_t count = 0;
    for (;;) {
        char *comma = strchr(text, ',');
        if (count == capacity) return capacity + 1;
        labels[count++] = text;
        if (!comma) return count;
        *comma = 0;
        text = comma + 1;
    }
}

/* Names for `count` classes: given, of the config.json beside IN, or numbered. `text` and `read`
 * keep them alive. */
static lensnet_result find_labels(const char **labels, size_t count, char *text, lnp_labels *read,
                                  const settings *s, lensnet_error *error)
{
    const char *slash = strrchr(s->in, '/');
    size_t i, given;
    char *config = join(s->in, slash ? (size_t)(slash - s->in) : 0, "config.json");
    if (!config) return lnp_fail(error, LENSNET_ERROR_MEMORY, "Out of memory for the labels.");
    if (s->labels) {
        given = split_labels(labels, count, strcpy(text, s->labels));
    } else if (!lnp_labels_read(read, config, NULL, NULL) && read->count == count) {
        for (i = 0; i < count; i++) labels[i] = read->text[i];
        given = count;
    } else {
        for (i = 0; i < count; i++) {
            snprintf(text + 32 * i, 32, "LABEL_%llu", (unsigned long long)i);
            labels[i] = text + 32 * i;
        }
        given = count;
    }
    free(config);
    if (given == count) return LENSNET_OK;
    return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                    "--labels does not name %llu classes, the number that the weights have.",
                    (unsigned long long)count);
}

static lensnet_result save_config(const source *in, const settings *s, lensnet_error *error)
{
    size_t count = in->checkpoint.net.classes;
    size_t text_bytes = 32 * count + (s->labels ? strlen(s->labels) : 0) + 1;
    const char **labels = (const char **)malloc((count + 1) * sizeof *labels);
    char *text = (char *)malloc(text_bytes);
    lensnet_result result;
    lnp_labels read;
    lensnet_model_desc desc = lensnet_model_defaults();
    memset(&read, 0, sizeof read);
    memcpy(desc.depths, in->checkpoint.net.depths, sizeof desc.depths);
    memcpy(desc.widths, in->checkpoint.net.widths, sizeof desc.widths);
    desc.classes = count;
    desc.labels = labels;
    desc.preprocess.image_size = (int)s->image_size;
    desc.preprocess.channels = (int)in->checkpoint.net.channels;
    if (!labels || !text) {
        result = lnp_fail(error, LENSNET_ERROR_MEMORY, "Out of memory for the labels.");
    } else {
        result = find_labels(labels, count, text, &read, s, error);
        if (!result)
            result = huggingface_describe(&desc, s->half ? LENSNET_DTYPE_F16 : LENSNET_DTYPE_F32,
                                          s->out, error);
    }
    if (read.count) lnp_labels_release(&read);
    free(labels);
    free(text);
    return result;
}

static lensnet_result save(const weights *w, const source *in, const settings *s,
                           lensnet_error *error)
{
    lensnet_result result;
    char *path;
    if (!s->folder) return save_weights(s->out, w, in, error);
    if (!in->checkpoint.has_head) {
        return lnp_fail(
            error, LENSNET_ERROR_UNSUPPORTED,
            "'%s' has no last layer, so it is no classifier; convert it to a .safetensors file.",
            s->in);
    }
    path = join(s->out, strlen(s->out), "model.safetensors");
    if (!path) return lnp_fail(error, LENSNET_ERROR_MEMORY, "Out of memory for a path.");
    result = save_config(in, s, error);
    if (!result) result = save_weights(path, w, in, error);
    free(path);
    return result;
}

static void summarise(char summary[SUMMARY], const source *in, const weights *w, const settings *s)
{
    const lnp_net *net = &in->checkpoint.net;
    snprintf(summary, SUMMARY,
             "%.200s: ConvNeXt V2 of %d, %d, %d, %d blocks of width %d, %d, %d, %d, %d classes: %d "
             "tensors, %llu weights, %s",
             s->out, (int)net->depths[0], (int)net->depths[1], (int)net->depths[2],
             (int)net->depths[3], (int)net->widths[0], (int)net->widths[1], (int)net->widths[2],
             (int)net->widths[3], (int)net->classes, (int)w->count, (unsigned long long)w->numbers,
             s->half ? "F16" : "F32");
}

/* The whole work; `summary` says what was written. */
static lensnet_result convert(char summary[SUMMARY], const settings *s, lensnet_error *error)
{
    source in;
    weights w;
    lensnet_result result = source_open(&in, s, error);
    memset(&w, 0, sizeof w);
    if (!result) {
        result = weights_load(&w, &in, s->half ? LENSNET_DTYPE_F16 : LENSNET_DTYPE_F32, error);
    }
    if (!result) result = save(&w, &in, s, error);
    if (!result) summarise(summary, &in, &w, s);
    weights_release(&w);
    source_close(&in);
    return result;
}

#ifndef CONVERT_NO_MAIN
#include "examples/arguments.h"

static const char *const usage = "usage: convert IN OUT.safetensors [options]\n"
                                 "       convert IN FOLDER --folder [options]\n"
                                 "IN is a .pth, .pt or .bin file of PyTorch or a .safetensors file "
                                 "and holds a ConvNeXt V2 in the\n"
                                 "names of the authors, of transformers or of timm.";

enum { OPTION_HALF, OPTION_FOLDER, OPTION_LABELS, OPTION_SIZE, OPTION_KEY, OPTIONS };

static argument options[OPTIONS] = {
    {"--half", NULL, NULL, "store half precision (F16) instead of F32", 0},
    {"--folder", NULL, NULL,
     "write model.safetensors, config.json and preprocessor_config.json\n"
     "into FOLDER, which exists, for transformers' from_pretrained(FOLDER)",
     0},
    {"--labels", "A,B,C", NULL,
     "with --folder, the classes' names in order; else those of a\n"
     "config.json beside IN, else LABEL_0 ...",
     0},
    {"--size", "PIXELS", "224", "with --folder, side of the network's input images", 0},
    {"--key", "NAME", NULL, "of several sets of weights in a .pth file, the one to read", 0}};

int main(int argc, char **argv)
{
    settings s;
    char summary[SUMMARY];
    lensnet_error error;
    if (arguments_parse(options, OPTIONS, usage, argc, argv) != 2) {
        arguments_fail("expected IN and OUT; --help says more");
    }
    s.in = argv[1];
    s.out = argv[2];
    s.half = options[OPTION_HALF].given;
    s.folder = options[OPTION_FOLDER].given;
    s.labels = options[OPTION_LABELS].value;
    s.key = options[OPTION_KEY].value;
    s.image_size = (size_t)arguments_whole(&options[OPTION_SIZE], 32, 8192);
    if (convert(summary, &s, &error)) {
        fprintf(stderr, "error: %s\n", error.text);
        return 1;
    }
    puts(summary);
    return 0;
}
#endif
