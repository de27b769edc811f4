/* torch_file.h - reads the weights in a file that PyTorch's torch.save wrote (.pt, .pth, .bin, .ckpt).
 *
 * Such a file is a pickle and raw numbers beside it. examples/pickle.h reads the one and executes
 * nothing, examples/zip.h finds the other; what is known here beyond lists and dictionaries are
 * tensors. What remains to be watched are sizes: each one is checked before it is used.
 *
 *   torch_file file;
 *   torch_file_open(&file, "weights.pth", NULL, &error);   then file.tensors[0 .. file.count - 1]
 *   torch_file_host(&file, &host, &error);   hooks under which it reads as a safetensors archive
 *   torch_file_close(&file);
 *
 * Understood: the zip form (torch 1.6 and later) and the form before it; little-endian; pickle
 * protocols 2 to 4; float, integer and bool tensors, views of any stride; of several sets of weights
 * the one that timm takes, an averaged one before others; the sparse layout of FCMAE's pre-training
 * (MinkowskiEngine's kernels), which is laid out as the dense one. Refused, by name: compressed
 * entries, TorchScript, big-endian, sparse, quantised and complex tensors, and anything in the place
 * of a tensor that is none. Include lensnet.h first. */
#ifndef TORCH_FILE_H
#define TORCH_FILE_H

#include <inttypes.h>
#include <sys/stat.h>

#include "../examples/pickle.h"
#include "../examples/sheet.h"
#include "../examples/zip.h"

#if defined(__GNUC__)
#define TORCH_UNUSED __attribute__((unused))
#else
#define TORCH_UNUSED
#endif

#define TORCH_PICKLE_MAX ((size_t)64 << 20)   /* bytes of the pickle */
#define TORCH_SLACK      ((uint64_t)64 << 20) /* bytes of tensors beyond 4 times the file's */
#define TORCH_NO_DTYPE   LENSNET_DTYPE_COUNT
#define TORCH_IN_MEMORY  "(memory)"

/* What the pickle builds beyond plain values. */
enum {
    TORCH_STORAGE = PICKLE_OBJECT, /* its object: a torch_storage */
    TORCH_TENSOR                   /* a torch_view */
};

/* The numbers of one or more tensors. */
typedef struct torch_storage {
    pickle_text key, type_name;
    lensnet_dtype dtype; /* TORCH_NO_DTYPE: a type that is not read */
    int64_t count;
    const unsigned char *data; /* NULL until found */
    uint64_t bytes;
} torch_storage;

/* A tensor as the pickle has it, not checked yet. */
typedef struct torch_view {
    torch_storage *storage;
    int64_t offset;
    const pickle_list *shape, *stride;
} torch_view;

/* A tensor, checked: row-major, without gaps, little-endian. */
typedef struct torch_tensor {
    pickle_text name;
    lensnet_dtype dtype;
    int rank;
    uint64_t shape[LENSNET_ARCHIVE_RANK];
    size_t count;
    const unsigned char *data; /* into the file, or a gathered copy */
} torch_tensor;

typedef struct torch_file {
    torch_tensor *tensors;
    size_t count;
    pickle_text set; /* which of several sets of weights is read; empty: there was but one */
    /* private */
    const char *path;
    unsigned char *bytes; /* the whole file */
    size_t size;
    zip_archive zip;      /* without entries in the old form */
    pickle_text top;      /* the folder in the zip that everything lies in */
    pickle_list storages; /* storages */
    pickle_machine machine;
    struct torch_block *blocks; /* of gathered tensors */
    uint64_t tensor_bytes;      /* of all tensors, each counted in full */
    sheet header;         /* as a safetensors archive: length, table; then the tensors in turn */
    uint64_t *offsets;    /* of each tensor, and the end */
    lensnet_error *error; /* of the call that runs */
} torch_file;

/* --- errors and memory ------------------------------------------------------------------------ */

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
/* 0, so that a failing path is one line. */
static int
torch_fail(torch_file *file, lensnet_result code, const char *format, ...)
{
    va_list arguments;
    int used = snprintf(file->error->text, sizeof file->error->text, "'%.200s': ", file->path);
    file->error->code = code;
    va_start(arguments, format);
    vsnprintf(file->error->text + used, sizeof file->error->text - (size_t)used, format, arguments);
    va_end(arguments);
    return 0;
}

/* The same with what the pickle's machine has to say. */
static int torch_pickle_fail(torch_file *file)
{
    lensnet_result code = file->machine.error == PICKLE_MEMORY    ? LENSNET_ERROR_MEMORY
                          : file->machine.error == PICKLE_UNKNOWN ? LENSNET_ERROR_UNSUPPORTED
                                                                  : LENSNET_ERROR_FORMAT;
    return torch_fail(file, code, "%s", file->machine.text);
}

/* Zeroed, and released with the file. */
static void *torch_allocate(torch_file *file, size_t bytes)
{
    void *memory = pickle_allocate(&file->machine, bytes);
    if (!memory) torch_pickle_fail(file);
    return memory;
}

typedef struct torch_block {
    struct torch_block *next;
    double alignment; /* of what follows */
} torch_block;

/* --- zip -------------------------------------------------------------------------------------- */

static int torch_zip_read(torch_file *file)
{
    const zip_source source = zip_from_memory(file->bytes, file->size);
    const char *slash;
    char text[ZIP_TEXT];
    if (!zip_open(&file->zip, &source, text))
        return torch_fail(file, LENSNET_ERROR_FORMAT, "%s", text);
    file->top.text = file->zip.entries[0].name;
    file->top.length = file->zip.entries[0].name_length;
    slash = file->top.length ? (const char *)memchr(file->top.text, '/', file->top.length) : NULL;
    file->top.length = slash ? (size_t)(slash - file->top.text) + 1 : 0;
    return 1;
}

/* The entry "<top>/<folder><name>", or NULL. */
static const zip_entry *torch_zip_find(const torch_file *file, const char *folder, pickle_text name)
{
    size_t prefix = strlen(folder);
    size_t length = file->top.length + prefix + name.length;
    char *wanted = (char *)malloc(length ? length : 1);
    const zip_entry *found;
    if (!wanted) return NULL;
    if (file->top.length) memcpy(wanted, file->top.text, file->top.length);
    memcpy(wanted + file->top.length, folder, prefix);
    if (name.length) memcpy(wanted + file->top.length + prefix, name.text, name.length);
    found = zip_find(&file->zip, wanted, length);
    free(wanted);
    return found;
}

static const zip_entry *torch_zip_find_word(const torch_file *file, const char *word)
{
    pickle_text none = {"", 0};
    return torch_zip_find(file, word, none);
}

static int torch_entry_usable(torch_file *file, const zip_entry *entry)
{
    zip_quoted quoted;
    if (entry->method == 0 && !entry->encrypted && entry->packed == entry->size) return 1;
    return torch_fail(
        file, LENSNET_ERROR_UNSUPPORTED,
        "zip entry '%s' is compressed or encrypted, which torch.save never does. Unpack "
        "it and pack it again without compression (zip -0)",
        zip_quote(&quoted, entry->name, entry->name_length));
}

/* --- what the pickle builds ------------------------------------------------------------------- */

static lensnet_dtype torch_storage_dtype(pickle_text name)
{
    static const struct {
        const char *name;
        lensnet_dtype dtype;
    } types[] = {
        {"torch FloatStorage", LENSNET_DTYPE_F32}, {"torch DoubleStorage", LENSNET_DTYPE_F64},
        {"torch HalfStorage", LENSNET_DTYPE_F16},  {"torch BFloat16Storage", LENSNET_DTYPE_BF16},
        {"torch LongStorage", LENSNET_DTYPE_I64},  {"torch IntStorage", LENSNET_DTYPE_I32},
        {"torch ShortStorage", LENSNET_DTYPE_I16}, {"torch CharStorage", LENSNET_DTYPE_I8},
        {"torch ByteStorage", LENSNET_DTYPE_U8},   {"torch BoolStorage", LENSNET_DTYPE_BOOL}};
    size_t i;
    for (i = 0; i < sizeof types / sizeof *types; i++)
        if (pickle_is(name, types[i].name)) return types[i].dtype;
    return TORCH_NO_DTYPE;
}

static int torch_wrong(pickle_machine *machine, const char *problem)
{
    pickle_bad(machine, problem);
    return -1;
}

/* ('storage', class, key, location, count), and in old files a view of another storage, or None. */
static int torch_make_storage(pickle_machine *machine, const pickle_value *id, pickle_value *result)
{
    torch_file *file = (torch_file *)machine->user;
    const pickle_value *item = id->kind == PICKLE_SEQUENCE ? id->list->items : NULL;
    torch_storage *storage;
    if (!item || id->list->count < 5 || item[0].kind != PICKLE_STRING ||
        !pickle_is(item[0].text, "storage") || item[1].kind != PICKLE_GLOBAL ||
        item[2].kind != PICKLE_STRING || item[4].kind != PICKLE_INTEGER ||
        (id->list->count > 5 && item[5].kind != PICKLE_NONE))
        return torch_wrong(machine, "a persistent id that is not that of a storage");
    *result = pickle_plain(TORCH_STORAGE, 0);
    result->object = storage = (torch_storage *)pickle_allocate(machine, sizeof *storage);
    if (!storage) return -1;
    storage->type_name = item[1].text;
    storage->dtype = torch_storage_dtype(item[1].text);
    storage->key = item[2].text;
    storage->count = item[4].integer;
    return pickle_append(machine, &file->storages, *result) ? 1 : -1;
}

/* _rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks, metadata) */
static int torch_make_tensor(pickle_machine *machine, const pickle_list *arguments,
                             pickle_value *result)
{
    const pickle_value *item = arguments->items;
    torch_view *view;
    if (arguments->count < 4 || item[0].kind != TORCH_STORAGE || item[1].kind != PICKLE_INTEGER ||
        item[2].kind != PICKLE_SEQUENCE || item[3].kind != PICKLE_SEQUENCE)
        return torch_wrong(machine,
                           "a tensor made of something else than storage, offset, shape, stride");
    *result = pickle_plain(TORCH_TENSOR, 0);
    result->object = view = (torch_view *)pickle_allocate(machine, sizeof *view);
    if (!view) return -1;
    view->storage = (torch_storage *)item[0].object;
    view->offset = item[1].integer;
    view->shape = item[2].list;
    view->stride = item[3].list;
    return 1;
}

/* The few functions that are known. */
static int torch_call(pickle_machine *machine, const pickle_value *function,
                      const pickle_list *arguments, pickle_value *result)
{
    if (pickle_is(function->text, "torch._utils _rebuild_tensor_v2"))
        return torch_make_tensor(machine, arguments, result);
    if (arguments->count < 1 || (!pickle_is(function->text, "torch._utils _rebuild_parameter") &&
                                 !pickle_is(function->text, "torch Size")))
        return 0;
    *result = arguments->items[0];
    return 1;
}

/* A tensor's attributes are of no use here. */
static int torch_build(pickle_machine *machine, pickle_value *object, const pickle_value *state)
{
    (void)machine;
    (void)state;
    return object->kind == TORCH_TENSOR;
}

static void torch_begin(torch_file *file)
{
    static const pickle_hooks hooks = {torch_call, torch_build, torch_make_storage};
    pickle_begin(&file->machine, &hooks, file);
}

/* Runs one pickle that begins at `start`; *next is what follows it. */
static int torch_unpickle(torch_file *file, const unsigned char *start, const unsigned char *end,
                          pickle_value *result, const unsigned char **next)
{
    return pickle_load(&file->machine, start, end, result, next) || torch_pickle_fail(file);
}

/* --- tensors ---------------------------------------------------------------------------------- */

static int torch_tensor_bad(torch_file *file, pickle_text name, const char *problem)
{
    pickle_quoted quoted;
    return torch_fail(file, LENSNET_ERROR_FORMAT, "tensor '%s' %s", pickle_quote(&quoted, name),
                      problem);
}

static size_t torch_dtype_bytes(lensnet_dtype dtype)
{
    switch (dtype) {
    case LENSNET_DTYPE_F64:
    case LENSNET_DTYPE_I64: return 8;
    case LENSNET_DTYPE_F32:
    case LENSNET_DTYPE_I32: return 4;
    case LENSNET_DTYPE_F16:
    case LENSNET_DTYPE_BF16:
    case LENSNET_DTYPE_I16: return 2;
    default: return 1;
    }
}

/* Finds the storage's numbers: in a zip, a record of their own. */
static int torch_storage_find(torch_file *file, torch_storage *storage, pickle_text name)
{
    pickle_quoted quoted;
    size_t size = torch_dtype_bytes(storage->dtype);
    if (storage->dtype == TORCH_NO_DTYPE) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                          "a tensor's numbers are of the type '%s', which is not read",
                          pickle_quote(&quoted, storage->type_name));
    }
    if (!storage->data && file->zip.count) {
        const zip_entry *record = torch_zip_find(file, "data/", storage->key);
        if (!record) return torch_tensor_bad(file, name, "has no numbers in the file");
        if (!torch_entry_usable(file, record)) return 0;
        storage->data = file->bytes + record->offset;
        storage->bytes = record->packed;
    }
    if (!storage->data) return torch_tensor_bad(file, name, "has no numbers in the file");
    if (storage->count < 0 || (uint64_t)storage->count > storage->bytes / size) {
        return torch_tensor_bad(file, name,
                                "has fewer numbers in the file than its storage claims");
    }
    return 1;
}

/* Views may repeat numbers; together they may not grow far beyond the file, or a few bytes could
 * ask for any amount of memory. */
static int torch_view_count(torch_file *file, torch_tensor *tensor, uint64_t count, size_t size)
{
    uint64_t most = 4 * (uint64_t)file->size + TORCH_SLACK - file->tensor_bytes;
    if (count > most / size) {
        return torch_tensor_bad(file, tensor->name, "is far larger than the numbers it is made of");
    }
    file->tensor_bytes += count * size;
    tensor->count = (size_t)count;
    return 1;
}

/* Shape and stride as plain numbers, and that all elements lie inside the storage. */
static int torch_view_check(torch_file *file, torch_tensor *tensor, uint64_t *stride,
                            const pickle_value *value)
{
    const torch_view *view = (const torch_view *)value->object;
    uint64_t count = 1, last, stored = (uint64_t)view->storage->count;
    size_t i;
    if (view->shape->count != view->stride->count) {
        return torch_tensor_bad(file, tensor->name, "has a shape and strides of different lengths");
    }
    if (view->shape->count > LENSNET_ARCHIVE_RANK) {
        return torch_tensor_bad(file, tensor->name, "has more than 8 dimensions");
    }
    if (view->offset < 0) return torch_tensor_bad(file, tensor->name, "has a negative offset");
    last = (uint64_t)view->offset;
    tensor->rank = (int)view->shape->count;
    for (i = 0; i < view->shape->count; i++) {
        const pickle_value *size = view->shape->items + i, *step = view->stride->items + i;
        if (size->kind != PICKLE_INTEGER || size->integer < 0 || step->kind != PICKLE_INTEGER ||
            step->integer < 0) {
            return torch_tensor_bad(file, tensor->name,
                                    "has a negative size or stride, or none at all");
        }
        tensor->shape[i] = (uint64_t)size->integer;
        stride[i] = (uint64_t)step->integer;
        if (tensor->shape[i] && count > UINT64_MAX / tensor->shape[i]) {
            return torch_tensor_bad(file, tensor->name, "has an impossible shape");
        }
        count *= tensor->shape[i];
    }
    for (i = 0; count && i < view->shape->count; i++) {
        uint64_t steps = tensor->shape[i] - 1;
        if (steps && stride[i] > (stored - (last < stored ? last : stored)) / steps) {
            return torch_tensor_bad(file, tensor->name, "reaches behind the end of its storage");
        }
        last += steps * stride[i];
    }
    if (count && last >= stored) {
        return torch_tensor_bad(file, tensor->name, "reaches behind the end of its storage");
    }
    return torch_view_count(file, tensor, count, torch_dtype_bytes(view->storage->dtype));
}

static int torch_view_is_packed(const torch_tensor *tensor, const uint64_t *stride)
{
    uint64_t step = 1;
    int i;
    for (i = tensor->rank - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && stride[i] != step) return 0;
        step *= tensor->shape[i];
    }
    return 1;
}

/* A packed copy of a view: transposed, sliced, expanded. */
static int torch_view_gather(torch_file *file, torch_tensor *tensor, const uint64_t *stride,
                             const unsigned char *origin, size_t size)
{
    uint64_t index[LENSNET_ARCHIVE_RANK] = {0};
    unsigned char *copy, *out;
    size_t i, bytes = tensor->count * size;
    torch_block *block = (torch_block *)malloc(sizeof *block + bytes);
    if (!block) return torch_fail(file, LENSNET_ERROR_MEMORY, "out of memory for a tensor");
    block->next = file->blocks;
    file->blocks = block;
    out = copy = (unsigned char *)(block + 1);
    for (i = 0; i < tensor->count; i++) {
        uint64_t at = 0;
        int axis;
        for (axis = 0; axis < tensor->rank; axis++) at += index[axis] * stride[axis];
        memcpy(out, origin + at * size, size);
        out += size;
        for (axis = tensor->rank - 1; axis >= 0; axis--) {
            if (++index[axis] < tensor->shape[axis]) break;
            index[axis] = 0;
        }
    }
    tensor->data = copy;
    return 1;
}

static int torch_tensor_read(torch_file *file, torch_tensor *tensor, const pickle_value *value)
{
    const torch_view *view = (const torch_view *)value->object;
    uint64_t stride[LENSNET_ARCHIVE_RANK];
    const unsigned char *origin;
    size_t size;
    if (!torch_storage_find(file, view->storage, tensor->name)) return 0;
    if (!torch_view_check(file, tensor, stride, value)) return 0;
    tensor->dtype = view->storage->dtype;
    tensor->data = view->storage->data;
    if (!tensor->count) return 1;
    size = torch_dtype_bytes(tensor->dtype);
    origin = view->storage->data + (size_t)view->offset * size;
    tensor->data = origin;
    if (torch_view_is_packed(tensor, stride)) return 1;
    return torch_view_gather(file, tensor, stride, origin, size);
}

static int torch_refuse_value(torch_file *file, pickle_text key, const pickle_value *value)
{
    pickle_quoted name, other;
    if (value->kind == PICKLE_OPAQUE || value->kind == PICKLE_GLOBAL) {
        return torch_fail(
            file, LENSNET_ERROR_UNSUPPORTED,
            "'%s' is not a tensor: the file wants '%s' to be called for it, and nothing in "
            "a file is called here; save weights alone: torch.save(model.state_dict(), "
            "'weights.pth')",
            pickle_quote(&name, key), pickle_quote(&other, value->text));
    }
    return torch_fail(
        file, LENSNET_ERROR_UNSUPPORTED,
        "'%s' is not a tensor; expected a dictionary of tensors, or one under \"model\", "
        "\"model_ema\", \"state_dict\" or such a name (--key says which)",
        pickle_quote(&name, key));
}

static int torch_tensor_by_name(const void *a, const void *b)
{
    return pickle_compare(((const torch_tensor *)a)->name, ((const torch_tensor *)b)->name);
}

/* --- the sparse layout ------------------------------------------------------------------------ */

static int torch_ends_in(pickle_text text, const char *end)
{
    const size_t length = strlen(end);
    return text.length >= length && !memcmp(text.text + text.length - length, end, length);
}

static int torch_begins_with(pickle_text text, const char *begin)
{
    const size_t length = strlen(begin);
    return text.length >= length && !memcmp(text.text, begin, length);
}

static int torch_is_sparse(const pickle_list *dict)
{
    size_t i;
    for (i = 0; i + 1 < dict->count; i += 2)
        if (dict->items[i].kind == PICKLE_STRING && torch_ends_in(dict->items[i].text, ".kernel"))
            return 1;
    return 0;
}

/* What the pre-training has beside the network. */
static int torch_is_decoder(pickle_text name)
{
    static const char *const begins[] = {"decoder.", "proj.", "pred.", "mask_token"};
    size_t i;
    if (torch_begins_with(name, "module.")) {
        name.text += 7;
        name.length -= 7;
    }
    for (i = 0; i < sizeof begins / sizeof *begins; i++)
        if (torch_begins_with(name, begins[i])) return 1;
    return 0;
}

/* "stages.0.0.norm.ln.weight" and "....pwconv1.linear.weight" without that word, ".kernel" as
 * ".weight". */
static const char *const torch_sparse_words[][2] = {
    {".ln.", "."}, {".linear.", "."}, {".kernel", ".weight"}, {NULL, NULL}};

/* The same name with other words in it, none of which is longer. */
static int torch_rename(torch_file *file, pickle_text *name, const char *const (*words)[2])
{
    char *text = (char *)torch_allocate(file, name->length + 1);
    size_t i, from, to = 0;
    if (!text) return 0;
    for (from = 0; from < name->length;) {
        pickle_text rest;
        rest.text = name->text + from;
        rest.length = name->length - from;
        for (i = 0; words[i][0] && !torch_begins_with(rest, words[i][0]); i++) continue;
        if (words[i][0]) {
            const size_t length = strlen(words[i][1]);
            memcpy(text + to, words[i][1], length);
            from += strlen(words[i][0]);
            to += length;
        } else {
            text[to++] = name->text[from++];
        }
    }
    name->text = text;
    name->length = to;
    return 1;
}

/* A kernel (x y, in, out), or (x y, channels) of a depthwise convolution, seen as (out, in, y, x). */
static int torch_sparse_kernel(torch_file *file, pickle_value *value)
{
    const torch_view *view = (const torch_view *)value->object;
    const pickle_list *shape = view->shape, *stride = view->stride;
    const size_t rank = shape->count;
    torch_view *seen = (torch_view *)torch_allocate(file, sizeof *seen);
    pickle_list *lists = (pickle_list *)torch_allocate(file, 2 * sizeof *lists);
    int64_t sizes[4], steps[4], side = 1;
    size_t i;
    if (!seen || !lists) return 0;
    if ((rank != 2 && rank != 3) || stride->count != rank) return 1; /* then its shape is refused */
    while ((side + 1) * (side + 1) <= shape->items[0].integer && side < 64) side++;
    sizes[0] = shape->items[rank - 1].integer;
    sizes[1] = rank == 3 ? shape->items[1].integer : 1;
    sizes[2] = sizes[3] = side;
    steps[0] = stride->items[rank - 1].integer;
    steps[1] = rank == 3 ? stride->items[1].integer : 1;
    steps[2] = stride->items[0].integer;
    if (steps[2] < 0 || steps[2] > INT64_MAX / 64) return 1;
    steps[3] = side * steps[2];
    for (i = 0; i < 4; i++)
        if (!pickle_append(&file->machine, &lists[0], pickle_plain(PICKLE_INTEGER, sizes[i])) ||
            !pickle_append(&file->machine, &lists[1], pickle_plain(PICKLE_INTEGER, steps[i])))
            return torch_pickle_fail(file);
    *seen = *view;
    seen->shape = &lists[0];
    seen->stride = &lists[1];
    value->object = seen;
    return 1;
}

/* --- the set of weights ----------------------------------------------------------------------- */

static int torch_tensors_index(torch_file *file)
{
    pickle_quoted quoted;
    size_t i;
    qsort(file->tensors, file->count, sizeof *file->tensors, torch_tensor_by_name);
    for (i = 1; i < file->count; i++)
        if (pickle_compare(file->tensors[i - 1].name, file->tensors[i].name) == 0)
            return torch_fail(file, LENSNET_ERROR_FORMAT, "tensor '%s' stands twice",
                              pickle_quote(&quoted, file->tensors[i].name));
    return 1;
}

static int torch_tensors_read(torch_file *file, const pickle_list *dict)
{
    const int sparse = torch_is_sparse(dict);
    size_t i;
    file->tensors = (torch_tensor *)torch_allocate(file, dict->count / 2 * sizeof *file->tensors);
    if (!file->tensors) return 0;
    for (i = 0; i + 1 < dict->count; i += 2) {
        pickle_value key = dict->items[i], value = dict->items[i + 1];
        torch_tensor *tensor = file->tensors + file->count;
        if (key.kind != PICKLE_STRING)
            return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "a tensor's name is not a text");
        if (sparse && torch_is_decoder(key.text)) continue;
        if (value.kind != TORCH_TENSOR) return torch_refuse_value(file, key.text, &value);
        if (sparse && torch_ends_in(key.text, ".kernel") && !torch_sparse_kernel(file, &value))
            return 0;
        if (sparse && !torch_rename(file, &key.text, torch_sparse_words)) return 0;
        tensor->name = key.text;
        file->count++;
        if (!torch_tensor_read(file, tensor, &value)) return 0;
    }
    return torch_tensors_index(file);
}

static const pickle_value *torch_dict_at(const pickle_list *root, const char *name)
{
    size_t i;
    for (i = 0; i + 1 < root->count; i += 2)
        if (root->items[i].kind == PICKLE_STRING && root->items[i + 1].kind == PICKLE_DICT &&
            pickle_is(root->items[i].text, name))
            return &root->items[i];
    return NULL;
}

/* The names of the dictionaries, for a sentence. */
static const char *torch_dict_names(char *text, size_t capacity, const pickle_list *root)
{
    size_t i, used = 0;
    text[0] = 0;
    for (i = 0; i + 1 < root->count && used + 100 < capacity; i += 2) {
        pickle_quoted quoted;
        if (root->items[i].kind != PICKLE_STRING || root->items[i + 1].kind != PICKLE_DICT)
            continue;
        used += (size_t)snprintf(text + used, capacity - used, "%s'%.60s'", used ? ", " : "",
                                 pickle_quote(&quoted, root->items[i].text));
    }
    return used ? text : "none";
}

/* Of the usual names, in timm's order (an average of weights first), the first that is there; else the
 * only dictionary that begins with a tensor. "ema_state_dict" comes last: mmengine, whose name it is, has
 * put the average under "state_dict" by then. */
static const pickle_value *torch_choose_set(torch_file *file, const pickle_list *root)
{
    static const char *const usual[] = {
        "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module",
        "network",        "net",       "weights",    "ema_state_dict",   "ema"};
    const pickle_value *chosen = NULL, *found;
    size_t i, count = 0;
    for (i = 0; i < sizeof usual / sizeof *usual; i++) {
        found = torch_dict_at(root, usual[i]);
        if (found && !chosen) chosen = found;
        count += found != NULL;
    }
    for (i = 0; !count && i + 1 < root->count; i += 2) {
        const pickle_value *value = &root->items[i + 1];
        if (root->items[i].kind != PICKLE_STRING || value->kind != PICKLE_DICT ||
            value->list->count < 2 || value->list->items[1].kind != TORCH_TENSOR)
            continue;
        if (chosen) return NULL;
        chosen = &root->items[i];
    }
    if (count > 1) file->set = chosen->text;
    return chosen;
}

/* Dictionaries may lie in one another, as {"ema": {"module": weights}}: down to where tensors are, as long
 * as there is one way. */
static const pickle_list *torch_descend(torch_file *file, const pickle_list *list)
{
    int depth;
    for (depth = 0; depth < 4; depth++) {
        const pickle_value *chosen = torch_choose_set(file, list);
        if (!chosen && list->count == 2 && list->items[0].kind == PICKLE_STRING &&
            list->items[1].kind == PICKLE_DICT)
            chosen = list->items;
        if (!chosen) break;
        list = chosen[1].list;
    }
    return list;
}

/* The dictionary of tensors: the root, or what the root has under `wanted`, or (NULL) the set of
 * torch_choose_set. */
static int torch_find_weights(torch_file *file, const pickle_value *root, const char *wanted,
                              const pickle_list **weights)
{
    const pickle_value *chosen;
    pickle_quoted quoted;
    char names[300];
    if (root->kind == PICKLE_OPAQUE || root->kind == PICKLE_GLOBAL)
        return torch_fail(
            file, LENSNET_ERROR_UNSUPPORTED,
            "it is a whole Python object that wants '%s' to be called, and nothing in a file is "
            "called here; save its weights alone: torch.save(model.state_dict(), 'weights.pth')",
            pickle_quote(&quoted, root->text));
    if (root->kind != PICKLE_DICT)
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                          "it holds something else than a dictionary; save the weights alone: "
                          "torch.save(model.state_dict(), 'weights.pth')");
    chosen = wanted ? torch_dict_at(root->list, wanted) : torch_choose_set(file, root->list);
    if (wanted && !chosen)
        return torch_fail(file, LENSNET_ERROR_ARGUMENT,
                          "it has no dictionary named '%.80s'; there are: %s", wanted,
                          torch_dict_names(names, sizeof names, root->list));
    *weights = torch_descend(file, chosen ? chosen[1].list : root->list);
    if ((*weights)->count > 1 && (*weights)->items[1].kind == PICKLE_DICT)
        return torch_fail(file, LENSNET_ERROR_ARGUMENT,
                          "it has dictionaries of names that say nothing; which has the weights "
                          "(--key)? %s",
                          torch_dict_names(names, sizeof names, *weights));
    return 1;
}

/* --- the two forms of file -------------------------------------------------------------------- */

static int torch_read_zip(torch_file *file, pickle_value *root)
{
    const zip_entry *pickle, *order;
    const unsigned char *next;
    if (!torch_zip_read(file)) return 0;
    pickle = torch_zip_find_word(file, "data.pkl");
    order = torch_zip_find_word(file, "byteorder");
    if (!pickle) {
        return torch_fail(file, LENSNET_ERROR_FORMAT,
                          "it is a zip but has no data.pkl, so torch.save did not write it; if "
                          "weights lie in it, unpack it first");
    }
    if (torch_zip_find_word(file, "constants.pkl")) {
        return torch_fail(
            file, LENSNET_ERROR_UNSUPPORTED,
            "it is a TorchScript program; expected weights alone: torch.save of a state_dict");
    }
    if (!torch_entry_usable(file, pickle) || (order && !torch_entry_usable(file, order))) return 0;
    if (order && !(order->packed == 6 && memcmp(file->bytes + order->offset, "little", 6) == 0)) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "its numbers are not little-endian");
    }
    if (pickle->packed > TORCH_PICKLE_MAX) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "its data.pkl is larger than %d MiB",
                          (int)(TORCH_PICKLE_MAX >> 20));
    }
    return torch_unpickle(file, file->bytes + pickle->offset,
                          file->bytes + pickle->offset + pickle->packed, root, &next);
}

/* A pickle of the number by which torch knew its files before they were zips. */
static const unsigned char torch_legacy_mark[15] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                                    0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};

static int torch_storage_by_key(const void *a, const void *b)
{
    return pickle_compare(((const torch_storage *)((const pickle_value *)a)->object)->key,
                          ((const torch_storage *)((const pickle_value *)b)->object)->key);
}

/* Behind the pickles, in the order of `keys`: a count, and that many numbers. */
static int torch_legacy_storages(torch_file *file, const pickle_list *keys, const unsigned char *at)
{
    const unsigned char *end = file->bytes + file->size;
    pickle_list *all = &file->storages;
    size_t i;
    if (all->count) qsort(all->items, all->count, sizeof *all->items, torch_storage_by_key);
    for (i = 0; i < keys->count; i++) {
        size_t low = 0, high = all->count, size;
        torch_storage *first;
        uint64_t count;
        while (keys->items[i].kind == PICKLE_STRING && low < high) {
            size_t middle = low + (high - low) / 2;
            if (pickle_compare(((torch_storage *)all->items[middle].object)->key,
                               keys->items[i].text) < 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if (low == all->count || pickle_compare(((torch_storage *)all->items[low].object)->key,
                                                keys->items[i].text) != 0) {
            return torch_fail(file, LENSNET_ERROR_FORMAT,
                              "it has numbers for a storage that nobody uses");
        }
        first = (torch_storage *)all->items[low].object;
        size = torch_dtype_bytes(first->dtype);
        if (end - at < 8 || first->dtype == TORCH_NO_DTYPE || first->data) {
            return torch_fail(file, LENSNET_ERROR_FORMAT,
                              "its numbers are cut off, twice there, or of an "
                              "unknown type");
        }
        count = zip_u64(at);
        at += 8;
        if (count > (uint64_t)(end - at) / size) {
            return torch_fail(file, LENSNET_ERROR_FORMAT,
                              "its numbers are cut off. Was it copied completely?");
        }
        for (; low < all->count; low++) {
            torch_storage *storage = (torch_storage *)all->items[low].object;
            if (pickle_compare(storage->key, first->key) != 0) break;
            if (storage->dtype != first->dtype) {
                return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                                  "a storage has two types at once");
            }
            storage->data = at;
            storage->bytes = count * size;
        }
        at += count * size;
    }
    return 1;
}

static int torch_read_legacy(torch_file *file, pickle_value *root)
{
    const unsigned char *at = file->bytes + sizeof torch_legacy_mark;
    const unsigned char *end = file->bytes + file->size;
    pickle_value protocol, system, keys;
    size_t i;
    int little = 0;
    if (!torch_unpickle(file, at, end, &protocol, &at) ||
        !torch_unpickle(file, at, end, &system, &at)) {
        return 0;
    }
    if (protocol.kind != PICKLE_INTEGER || protocol.integer != 1001 || system.kind != PICKLE_DICT) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                          "it has an unknown version of the old form");
    }
    for (i = 0; i + 1 < system.list->count; i += 2) {
        const pickle_value *item = system.list->items + i;
        if (item->kind == PICKLE_STRING && pickle_is(item->text, "little_endian")) {
            little = item[1].kind == PICKLE_INTEGER && item[1].integer == 1;
        }
    }
    if (!little) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "its numbers are not little-endian");
    }
    if (!torch_unpickle(file, at, end, root, &at) || !torch_unpickle(file, at, end, &keys, &at))
        return 0;
    if (keys.kind != PICKLE_SEQUENCE) {
        return torch_fail(file, LENSNET_ERROR_FORMAT, "it has no list of storages");
    }
    return torch_legacy_storages(file, keys.list, at);
}

/* --- open, close ------------------------------------------------------------------------------ */

static int torch_is_zip(const unsigned char *bytes, size_t size)
{
    return size >= 4 && zip_u32(bytes) == ZIP_LOCAL;
}

static int torch_is_legacy(const unsigned char *bytes, size_t size)
{
    return size >= sizeof torch_legacy_mark &&
           memcmp(bytes, torch_legacy_mark, sizeof torch_legacy_mark) == 0;
}

/* NULL for what is no file too: opening a pipe waits for ever. */
static FILE *torch_open(const char *path)
{
#ifdef S_ISREG
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) return NULL;
#endif
    return fopen(path, "rb");
}

/* Does the file begin like one of torch's? 0 too when it cannot be read. */
static int torch_file_probe(const char *path)
{
    unsigned char bytes[sizeof torch_legacy_mark];
    FILE *stream = torch_open(path);
    size_t size = stream ? fread(bytes, 1, sizeof bytes, stream) : 0;
    if (stream) fclose(stream);
    return torch_is_zip(bytes, size) || torch_is_legacy(bytes, size);
}

static void torch_file_close(torch_file *file)
{
    pickle_end(&file->machine);
    zip_close(&file->zip);
    while (file->blocks) {
        torch_block *next = file->blocks->next;
        free(file->blocks);
        file->blocks = next;
    }
    sheet_clear(&file->header);
    free(file->bytes);
    memset(file, 0, sizeof *file);
}

static int torch_file_load(torch_file *file)
{
    FILE *stream = torch_open(file->path);
    long size = -1;
    if (stream && fseek(stream, 0, SEEK_END) == 0) size = ftell(stream);
    if (size >= 0 && fseek(stream, 0, SEEK_SET) == 0) {
        file->bytes = (unsigned char *)malloc((size_t)size + 1);
        if (file->bytes) file->size = fread(file->bytes, 1, (size_t)size, stream);
    }
    if (stream) fclose(stream);
    if (file->bytes && file->size == (size_t)size) return 1;
    return torch_fail(file, LENSNET_ERROR_FILE,
                      "cannot be read; is it there, readable, and smaller than the memory?");
}

static int torch_file_parse(torch_file *file, const char *wanted)
{
    const pickle_list *weights = NULL;
    pickle_value root;
    torch_begin(file);
    if (torch_is_zip(file->bytes, file->size)) {
        if (!torch_read_zip(file, &root)) return 0;
    } else if (torch_is_legacy(file->bytes, file->size)) {
        if (!torch_read_legacy(file, &root)) return 0;
    } else {
        return torch_fail(file, LENSNET_ERROR_FORMAT,
                          "is not a file of torch.save: it begins like neither of its two forms");
    }
    return torch_find_weights(file, &root, wanted, &weights) && torch_tensors_read(file, weights);
}

static lensnet_result torch_file_finish(torch_file *file, int good)
{
    lensnet_result result = good ? LENSNET_OK : file->error->code;
    file->error = NULL;
    if (!good) torch_file_close(file);
    return result;
}

/* Reads the table of the tensors in `path`; their numbers stay where they are. `wanted` is the name
 * of the dictionary that holds them, or NULL: the root, or the one of the usual names that is
 * there. `path` is borrowed. On failure there is nothing to close. */
static lensnet_result torch_file_open(torch_file *file, const char *path, const char *wanted,
                                      lensnet_error *error)
{
    lensnet_error own;
    memset(file, 0, sizeof *file);
    file->path = path;
    file->error = error ? error : &own;
    return torch_file_finish(file, torch_file_load(file) && torch_file_parse(file, wanted));
}

/* The same for a file that stands in memory from malloc, which is taken over in any case. */
TORCH_UNUSED static lensnet_result torch_file_open_memory(torch_file *file, unsigned char *bytes,
                                                          size_t size, const char *wanted,
                                                          lensnet_error *error)
{
    lensnet_error own;
    memset(file, 0, sizeof *file);
    file->path = TORCH_IN_MEMORY;
    file->bytes = bytes;
    file->size = size;
    file->error = error ? error : &own;
    return torch_file_finish(file, torch_file_parse(file, wanted));
}

/* --- as a safetensors archive ----------------------------------------------------------------- */

/* The file itself under its own path; what lies beside it through the default hooks. */
static void *torch_host_open(const char *path, int writing, void *user)
{
    torch_file *file = (torch_file *)user;
    if (!writing && (!strcmp(path, file->path) || !strcmp(file->path, TORCH_IN_MEMORY)))
        return user;
    return lensnet_host_defaults().file_open(path, writing, NULL);
}

static uint64_t torch_host_size(void *handle, void *user)
{
    const torch_file *file = (const torch_file *)user;
    if (handle != user) return lensnet_host_defaults().file_size(handle, NULL);
    return file->offsets[file->count];
}

static void torch_host_copy(const torch_file *file, uint64_t offset, unsigned char *out,
                            size_t count)
{
    size_t low = 0, high = file->count;
    while (low + 1 < high) { /* the last tensor that begins at or before `offset` */
        size_t middle = low + (high - low) / 2;
        if (file->offsets[middle] <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    while (count > 0) {
        uint64_t left = file->offsets[low + 1] - offset;
        size_t part = left < count ? (size_t)left : count;
        if (part)
            memcpy(out, file->tensors[low].data + (size_t)(offset - file->offsets[low]), part);
        out += part;
        offset += part;
        count -= part;
        low++;
    }
}

static int torch_host_read(void *handle, uint64_t offset, void *bytes, size_t count, void *user)
{
    const torch_file *file = (const torch_file *)user;
    unsigned char *out = (unsigned char *)bytes;
    if (handle != user)
        return lensnet_host_defaults().file_read(handle, offset, bytes, count, NULL);
    if (offset > file->offsets[file->count] || count > file->offsets[file->count] - offset)
        return 1;
    if (offset < file->header.length) {
        size_t part = file->header.length - (size_t)offset;
        if (part > count) part = count;
        memcpy(out, file->header.text + offset, part);
        out += part;
        offset += part;
        count -= part;
    }
    if (count) torch_host_copy(file, offset, out, count);
    return 0;
}

static int torch_host_close(void *handle, int commit, void *user)
{
    return handle == user ? 0 : lensnet_host_defaults().file_close(handle, commit, NULL);
}

static void torch_header_tensor(sheet *header, const torch_tensor *tensor, const char *name,
                                uint64_t offset)
{
    const uint64_t bytes = tensor->count * torch_dtype_bytes(tensor->dtype);
    int i;
    sheet_quote(header, name, TEXT_JSON);
    sheet_add(header, ":{\"dtype\":\"%s\",\"shape\":[", lensnet_dtype_text(tensor->dtype));
    for (i = 0; i < tensor->rank; i++)
        sheet_add(header, "%s%" PRIu64, i ? "," : "", tensor->shape[i]);
    sheet_add(header, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset, offset + bytes);
}

/* The table of a safetensors file, behind eight bytes for its length. */
static int torch_header_write(torch_file *file)
{
    uint64_t offset = 0;
    size_t i;
    sheet_add(&file->header, "%8s{", "");
    for (i = 0; i < file->count; i++) {
        const torch_tensor *tensor = file->tensors + i;
        char *name = (char *)torch_allocate(file, tensor->name.length + 1);
        if (!name) return 0;
        memcpy(name, tensor->name.text, tensor->name.length);
        if (!text_is_utf8(name))
            return torch_tensor_bad(file, tensor->name, "is not named in UTF-8");
        if (i) sheet_add(&file->header, ",");
        torch_header_tensor(&file->header, tensor, name, offset);
        file->offsets[i] = offset;
        offset += tensor->count * torch_dtype_bytes(tensor->dtype);
    }
    file->offsets[file->count] = offset;
    sheet_add(&file->header, "}");
    if (file->header.failed)
        return torch_fail(file, LENSNET_ERROR_MEMORY, "out of memory for its table");
    return 1;
}

/* Hooks under which lensnet_archive_open (any path) reads the tensors as a safetensors file. Memory
 * comes from the default hooks; the file stays open until the archive is closed. */
static lensnet_result torch_file_host(torch_file *file, lensnet_host *host, lensnet_error *error)
{
    lensnet_error own;
    size_t i;
    int byte;
    file->error = error ? error : &own;
    file->offsets = (uint64_t *)torch_allocate(file, (file->count + 1) * sizeof *file->offsets);
    if (!file->offsets || !torch_header_write(file)) return file->error->code;
    for (byte = 0; byte < 8; byte++)
        file->header.text[byte] = (char)((uint64_t)(file->header.length - 8) >> 8 * byte);
    for (i = 0; i <= file->count; i++) file->offsets[i] += file->header.length;
    file->error = NULL;
    *host = lensnet_host_defaults();
    host->file_open = torch_host_open;
    host->file_size = torch_host_size;
    host->file_read = torch_host_read;
    host->file_close = torch_host_close;
    host->user = file;
    return LENSNET_OK;
}

#endif
