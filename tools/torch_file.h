/* torch_file.h - reads the weights in a file that PyTorch's torch.save wrote (.pt, .pth, .bin).
 *
 * Such a file is a pickle, a program for a small stack machine that builds Python objects, and raw
 * numbers beside it. Here the machine only knows how to build lists, dictionaries and tensors: a
 * name of any other function or class becomes a value that nothing can be done with. So nothing in
 * the file is executed, and what remains to be watched are sizes: each one is checked before it is
 * used.
 *
 *   torch_file file;
 *   torch_file_open(&file, "weights.pth", NULL, &error);   then file.tensors[0 .. file.count - 1]
 *   torch_file_host(&file, &host, &error);   hooks under which it reads as a safetensors archive
 *   torch_file_close(&file);
 *
 * Understood: the zip form (torch 1.6 and later) and the form before it; little-endian; pickle
 * protocols 2 to 4; float, integer and bool tensors, views of any stride. Refused, by name:
 * compressed entries, TorchScript, big-endian, sparse, quantised and complex tensors, and anything
 * in the place of a tensor that is none. Include lensnet.h with its implementation first. */
#ifndef TORCH_FILE_H
#define TORCH_FILE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define TORCH_UNUSED __attribute__((unused))
#else
#define TORCH_UNUSED
#endif

#define TORCH_PICKLE_MAX  ((size_t)64 << 20)  /* bytes of the pickle */
#define TORCH_MEMORY_MAX  ((size_t)256 << 20) /* bytes of the objects it builds */
#define TORCH_RECORDS_MAX ((uint64_t)1 << 20) /* entries of the zip */
#define TORCH_MEMO_MAX    ((uint64_t)1 << 22)
#define TORCH_SLACK       ((uint64_t)64 << 20) /* bytes of tensors beyond 4 times the file's */
#define TORCH_NO_DTYPE    LENSNET_DTYPE_COUNT

/* Bytes of the file, not ended by a zero. */
typedef struct torch_text {
    const char *text;
    size_t length;
} torch_text;

typedef enum torch_kind {
    TORCH_UNSET,
    TORCH_MARK,
    TORCH_NONE,
    TORCH_INTEGER, /* booleans too */
    TORCH_FLOAT,   /* its value is never needed */
    TORCH_STRING,
    TORCH_SEQUENCE, /* tuple, list, set */
    TORCH_DICT,
    TORCH_GLOBAL, /* the name of a function or class */
    TORCH_STORAGE,
    TORCH_TENSOR,
    TORCH_OPAQUE /* made by a function or class that is not ours to call */
} torch_kind;

typedef struct torch_value {
    torch_kind kind;
    int64_t integer;
    torch_text text;               /* a string; the name of what is global or opaque */
    struct torch_list *list;       /* a sequence; of a dictionary, keys and values in turn */
    struct torch_storage *storage; /* a storage, and a tensor's */
    struct torch_view *view;       /* a tensor */
} torch_value;

typedef struct torch_list {
    torch_value *items;
    size_t count, capacity;
} torch_list;

/* The numbers of one or more tensors. */
typedef struct torch_storage {
    torch_text key, type_name;
    lensnet_dtype dtype; /* TORCH_NO_DTYPE: a type that is not read */
    int64_t count;
    const unsigned char *data; /* NULL until found */
    uint64_t bytes;
} torch_storage;

/* A tensor as the pickle has it, not checked yet. */
typedef struct torch_view {
    int64_t offset;
    const torch_list *shape, *stride;
} torch_view;

/* A tensor, checked: row-major, without gaps, little-endian. */
typedef struct torch_tensor {
    torch_text name;
    lensnet_dtype dtype;
    int rank;
    uint64_t shape[LENSNET_ARCHIVE_RANK];
    size_t count;
    const unsigned char *data; /* into the file, or a gathered copy */
} torch_tensor;

typedef struct torch_record {
    torch_text name;
    const unsigned char *data;
    uint64_t bytes;
    int stored; /* 0: compressed or encrypted */
} torch_record;

typedef struct torch_file {
    torch_tensor *tensors;
    size_t count;
    /* private */
    const char *path;
    unsigned char *bytes; /* the whole file */
    size_t size;
    torch_record *records;
    size_t record_count;
    torch_text top; /* the folder in the zip that everything lies in */
    torch_list storages;
    struct torch_block *blocks; /* all memory but `bytes` */
    size_t block_bytes;
    uint64_t tensor_bytes; /* of all tensors, each counted in full */
    char *header;          /* as a safetensors archive: length, table; then the tensors in turn */
    size_t header_bytes;
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

/* A name for an error sentence: at most 80 characters, none of them a control character. */
typedef struct torch_quoted {
    char text[81];
} torch_quoted;

static const char *torch_quote(torch_quoted *quoted, torch_text text)
{
    size_t i, length = text.length < 80 ? text.length : 80;
    for (i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text.text[i];
        quoted->text[i] = c < 32 || c > 126 ? '?' : (char)c;
    }
    quoted->text[length] = 0;
    return quoted->text;
}

typedef struct torch_block {
    struct torch_block *next;
    double alignment; /* of what follows */
} torch_block;

/* Zeroed, and released with the file. */
static void *torch_allocate(torch_file *file, size_t bytes)
{
    torch_block *block = NULL;
    if (bytes <= TORCH_MEMORY_MAX - file->block_bytes) {
        block = (torch_block *)calloc(1, sizeof *block + bytes);
    }
    if (!block) {
        torch_fail(file, LENSNET_ERROR_MEMORY,
                   "its table needs more memory than there is, or %d MiB.",
                   (int)(TORCH_MEMORY_MAX >> 20));
        return NULL;
    }
    block->next = file->blocks;
    file->blocks = block;
    file->block_bytes += bytes;
    return block + 1;
}

static int torch_append(torch_file *file, torch_list *list, torch_value value)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 4;
        torch_value *items = (torch_value *)torch_allocate(file, capacity * sizeof *items);
        if (!items) return 0;
        if (list->count) memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = value;
    return 1;
}

static int torch_is(torch_text text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.text, word, text.length) == 0;
}

static int torch_compare(torch_text a, torch_text b)
{
    int order = memcmp(a.text, b.text, a.length < b.length ? a.length : b.length);
    return order ? order : a.length < b.length ? -1 : a.length > b.length;
}

static uint32_t torch_u16(const unsigned char *b) { return (uint32_t)b[0] | (uint32_t)b[1] << 8; }
static uint32_t torch_u32(const unsigned char *b) { return torch_u16(b) | torch_u16(b + 2) << 16; }
static uint64_t torch_u64(const unsigned char *b)
{
    return (uint64_t)torch_u32(b) | (uint64_t)torch_u32(b + 4) << 32;
}

/* --- zip -------------------------------------------------------------------------------------- */

#define TORCH_ZIP_LOCAL   0x04034b50u
#define TORCH_ZIP_CENTRAL 0x02014b50u
#define TORCH_ZIP_END     0x06054b50u
#define TORCH_ZIP_END64   0x06064b50u
#define TORCH_ZIP_LOCATOR 0x07064b50u

/* The central directory: the only true list of what a zip holds. */
typedef struct torch_directory {
    uint64_t count, bytes, offset;
} torch_directory;

static int torch_zip_end64(torch_file *file, size_t end, torch_directory *directory)
{
    const unsigned char *locator;
    uint64_t at;
    if (end < 20 || torch_u32(file->bytes + end - 20) != TORCH_ZIP_LOCATOR) return 1;
    locator = file->bytes + end - 20;
    at = torch_u64(locator + 8);
    if (at > end - 20 || end - 20 - at < 56 || torch_u32(file->bytes + at) != TORCH_ZIP_END64) {
        return torch_fail(file, LENSNET_ERROR_FORMAT,
                          "its zip64 end record is not where it should be.");
    }
    directory->count = torch_u64(file->bytes + at + 32);
    directory->bytes = torch_u64(file->bytes + at + 40);
    directory->offset = torch_u64(file->bytes + at + 48);
    return 1;
}

static int torch_zip_end(torch_file *file, torch_directory *directory)
{
    size_t end = file->size < 22 ? 0 : file->size - 22;
    size_t lowest = end > 65535 ? end - 65535 : 0;
    const unsigned char *b;
    for (;; end--) {
        b = file->bytes + end;
        if (file->size >= 22 && torch_u32(b) == TORCH_ZIP_END &&
            torch_u16(b + 20) == file->size - 22 - end) {
            break;
        }
        if (end <= lowest) {
            return torch_fail(
                file, LENSNET_ERROR_FORMAT,
                "it begins like a zip but has no end record. Was it copied completely?");
        }
    }
    directory->count = torch_u16(b + 10);
    directory->bytes = torch_u32(b + 12);
    directory->offset = torch_u32(b + 16);
    if (!torch_zip_end64(file, end, directory)) return 0;
    if (directory->offset > end || directory->bytes > end - directory->offset ||
        directory->count > TORCH_RECORDS_MAX || directory->count > directory->bytes / 46) {
        return torch_fail(file, LENSNET_ERROR_FORMAT,
                          "its zip directory does not fit into the file.");
    }
    return 1;
}

/* Sizes and place that do not fit 32 bits stand in an extra field, in this order. */
static void torch_zip_extra64(const unsigned char *extra, size_t length, uint64_t values[3])
{
    while (length >= 4) {
        size_t size = torch_u16(extra + 2);
        size_t at = 4;
        int i;
        if (size > length - 4) return;
        for (i = 0; torch_u16(extra) == 1 && i < 3; i++) {
            if (values[i] != 0xffffffffu || at + 8 > 4 + size) continue;
            values[i] = torch_u64(extra + at);
            at += 8;
        }
        extra += 4 + size;
        length -= 4 + size;
    }
}

/* The data of an entry begin behind its local header, whose name and extra field have lengths of
 * their own; its sizes are not to be trusted, torch leaves them zero. */
static int torch_zip_locate(torch_file *file, torch_record *record, uint64_t local)
{
    const unsigned char *b = file->bytes + local;
    uint64_t skip, left;
    torch_quoted quoted;
    if (local > file->size || file->size - local < 30 || torch_u32(b) != TORCH_ZIP_LOCAL) {
        return torch_fail(file, LENSNET_ERROR_FORMAT, "zip entry '%s' is not where it should be.",
                          torch_quote(&quoted, record->name));
    }
    skip = 30 + (uint64_t)torch_u16(b + 26) + torch_u16(b + 28);
    left = file->size - local;
    if (torch_u16(b + 26) != record->name.length || skip > left || record->bytes > left - skip ||
        memcmp(b + 30, record->name.text, record->name.length) != 0) {
        return torch_fail(file, LENSNET_ERROR_FORMAT, "zip entry '%s' does not fit into the file.",
                          torch_quote(&quoted, record->name));
    }
    record->data = b + skip;
    return 1;
}

/* One entry of the directory at `b`; returns its length there, 0 on failure. */
static size_t torch_zip_entry(torch_file *file, torch_record *record, const unsigned char *b,
                              size_t left)
{
    uint64_t values[3]; /* size, stored size, place of the local header */
    size_t name, extra, length;
    if (left < 46 || torch_u32(b) != TORCH_ZIP_CENTRAL) {
        return (size_t)torch_fail(file, LENSNET_ERROR_FORMAT, "its zip directory is damaged.");
    }
    name = torch_u16(b + 28);
    extra = torch_u16(b + 30);
    length = 46 + name + extra + torch_u16(b + 32);
    if (length > left) {
        return (size_t)torch_fail(file, LENSNET_ERROR_FORMAT, "its zip directory is damaged.");
    }
    values[0] = torch_u32(b + 24);
    values[1] = torch_u32(b + 20);
    values[2] = torch_u32(b + 42);
    torch_zip_extra64(b + 46 + name, extra, values);
    record->name.text = (const char *)b + 46;
    record->name.length = name;
    record->bytes = values[1];
    record->stored = torch_u16(b + 10) == 0 && !(torch_u16(b + 8) & 1) && values[0] == values[1];
    return torch_zip_locate(file, record, values[2]) ? length : 0;
}

static int torch_record_by_name(const void *a, const void *b)
{
    return torch_compare(((const torch_record *)a)->name, ((const torch_record *)b)->name);
}

static int torch_zip_index(torch_file *file)
{
    torch_quoted quoted;
    size_t i;
    qsort(file->records, file->record_count, sizeof *file->records, torch_record_by_name);
    for (i = 1; i < file->record_count; i++) {
        if (torch_compare(file->records[i - 1].name, file->records[i].name) == 0) {
            return torch_fail(file, LENSNET_ERROR_FORMAT, "zip entry '%s' stands twice.",
                              torch_quote(&quoted, file->records[i].name));
        }
    }
    return 1;
}

static int torch_zip_read(torch_file *file)
{
    torch_directory directory = {0, 0, 0};
    const unsigned char *at;
    const char *slash;
    size_t i, left;
    if (!torch_zip_end(file, &directory)) return 0;
    file->record_count = (size_t)directory.count;
    file->records =
        (torch_record *)torch_allocate(file, file->record_count * sizeof *file->records);
    if (!file->records) return 0;
    at = file->bytes + directory.offset;
    left = (size_t)directory.bytes;
    for (i = 0; i < file->record_count; i++) {
        size_t length = torch_zip_entry(file, file->records + i, at, left);
        if (!length) return 0;
        at += length;
        left -= length;
    }
    if (!file->record_count) return torch_fail(file, LENSNET_ERROR_FORMAT, "it is an empty zip.");
    file->top = file->records[0].name;
    slash = (const char *)memchr(file->top.text, '/', file->top.length);
    file->top.length = slash ? (size_t)(slash - file->top.text) + 1 : 0;
    return torch_zip_index(file);
}

/* The record "<top>/<folder><name>", or NULL. */
static const torch_record *torch_zip_find(const torch_file *file, const char *folder,
                                          torch_text name)
{
    size_t prefix = strlen(folder);
    size_t length = file->top.length + prefix + name.length;
    size_t low = 0, high = file->record_count;
    char *wanted = (char *)malloc(length ? length : 1);
    torch_text key;
    const torch_record *found = NULL;
    if (!wanted) return NULL;
    memcpy(wanted, file->top.text, file->top.length);
    memcpy(wanted + file->top.length, folder, prefix);
    memcpy(wanted + file->top.length + prefix, name.text, name.length);
    key.text = wanted;
    key.length = length;
    while (low < high && !found) {
        size_t middle = low + (high - low) / 2;
        int order = torch_compare(file->records[middle].name, key);
        if (order == 0) found = file->records + middle;
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    free(wanted);
    return found;
}

static const torch_record *torch_zip_find_word(const torch_file *file, const char *word)
{
    torch_text none = {"", 0};
    return torch_zip_find(file, word, none);
}

static int torch_record_usable(torch_file *file, const torch_record *record)
{
    torch_quoted quoted;
    if (record->stored) return 1;
    return torch_fail(
        file, LENSNET_ERROR_UNSUPPORTED,
        "zip entry '%s' is compressed or encrypted, which torch.save never does. Unpack "
        "it and pack it again without compression (zip -0).",
        torch_quote(&quoted, record->name));
}

/* --- pickle: values --------------------------------------------------------------------------- */

typedef struct torch_machine {
    torch_file *file;
    const unsigned char *start, *at, *end;
    torch_list stack, memo;
} torch_machine;

static int torch_bad(torch_machine *machine, const char *problem)
{
    return torch_fail(machine->file, LENSNET_ERROR_FORMAT,
                      "its pickle is damaged: %s at byte %llu.", problem,
                      (unsigned long long)(machine->at - machine->start));
}

static torch_value torch_plain(torch_kind kind, int64_t integer)
{
    torch_value value;
    memset(&value, 0, sizeof value);
    value.kind = kind;
    value.integer = integer;
    return value;
}

static torch_value torch_named(torch_kind kind, torch_text text)
{
    torch_value value = torch_plain(kind, 0);
    value.text = text;
    return value;
}

static int torch_push(torch_machine *machine, torch_value value)
{
    return torch_append(machine->file, &machine->stack, value);
}

static int torch_push_list(torch_machine *machine, torch_kind kind, const torch_value *items,
                           size_t count)
{
    torch_value value = torch_plain(kind, 0);
    size_t i;
    value.list = (torch_list *)torch_allocate(machine->file, sizeof *value.list);
    if (!value.list) return 0;
    for (i = 0; i < count; i++) {
        if (!torch_append(machine->file, value.list, items[i])) return 0;
    }
    return torch_push(machine, value);
}

static int torch_pop(torch_machine *machine, torch_value *value)
{
    *value = torch_plain(TORCH_UNSET, 0);
    if (!machine->stack.count ||
        machine->stack.items[machine->stack.count - 1].kind == TORCH_MARK) {
        return torch_bad(machine, "nothing on the stack");
    }
    *value = machine->stack.items[--machine->stack.count];
    return 1;
}

/* Takes what stands above the topmost mark, and the mark. The items stay valid until the next push.
 *  */
static int torch_pop_mark(torch_machine *machine, const torch_value **items, size_t *count)
{
    size_t i = machine->stack.count;
    *items = NULL;
    *count = 0;
    while (i > 0 && machine->stack.items[i - 1].kind != TORCH_MARK) i--;
    if (!i) return torch_bad(machine, "no mark on the stack");
    *items = machine->stack.items + i;
    *count = machine->stack.count - i;
    machine->stack.count = i - 1;
    return 1;
}

static int torch_take(torch_machine *machine, uint64_t count, const unsigned char **bytes)
{
    *bytes = machine->at;
    if (count > (uint64_t)(machine->end - machine->at)) return torch_bad(machine, "cut off");
    machine->at += count;
    return 1;
}

/* An unsigned little-endian number of `size` bytes. */
static int torch_take_number(torch_machine *machine, size_t size, uint64_t *number)
{
    const unsigned char *bytes;
    if (!torch_take(machine, size, &bytes)) return 0;
    *number = 0;
    while (size > 0) *number = *number << 8 | bytes[--size];
    return 1;
}

static int torch_take_line(torch_machine *machine, torch_text *line)
{
    const void *end = memchr(machine->at, '\n', (size_t)(machine->end - machine->at));
    if (!end) return torch_bad(machine, "cut off");
    line->text = (const char *)machine->at;
    line->length = (size_t)((const unsigned char *)end - machine->at);
    machine->at += line->length + 1;
    return 1;
}

static int torch_push_string(torch_machine *machine, size_t length_bytes)
{
    uint64_t length;
    const unsigned char *bytes;
    torch_text text;
    if (!torch_take_number(machine, length_bytes, &length)) return 0;
    if (!torch_take(machine, length, &bytes)) return 0;
    text.text = (const char *)bytes;
    text.length = (size_t)length;
    return torch_push(machine, torch_named(TORCH_STRING, text));
}

/* Little-endian two's complement of any length; one that does not fit 64 bits is of no use here. */
static int torch_push_long(torch_machine *machine)
{
    torch_text name = {"int", 3};
    const unsigned char *bytes;
    uint64_t length, number = 0;
    size_t i;
    if (!torch_take_number(machine, 1, &length) || !torch_take(machine, length, &bytes)) return 0;
    if (length > 8) return torch_push(machine, torch_named(TORCH_OPAQUE, name));
    if (length && bytes[length - 1] & 0x80) number = ~(uint64_t)0;
    for (i = (size_t)length; i > 0; i--) number = number << 8 | bytes[i - 1];
    return torch_push(machine, torch_plain(TORCH_INTEGER, (int64_t)number));
}

/* --- pickle: names, calls --------------------------------------------------------------------- */

/* "module name" for sentences and comparison. */
static int torch_push_global(torch_machine *machine, torch_text module, torch_text name)
{
    size_t length = module.length + 1 + name.length;
    char *text = (char *)torch_allocate(machine->file, length);
    torch_text whole;
    if (!text) return 0;
    memcpy(text, module.text, module.length);
    text[module.length] = ' ';
    memcpy(text + module.length + 1, name.text, name.length);
    whole.text = text;
    whole.length = length;
    return torch_push(machine, torch_named(TORCH_GLOBAL, whole));
}

static int torch_global_line(torch_machine *machine)
{
    torch_text module, name;
    return torch_take_line(machine, &module) && torch_take_line(machine, &name) &&
           torch_push_global(machine, module, name);
}

static int torch_global_stack(torch_machine *machine)
{
    torch_value name, module;
    if (!torch_pop(machine, &name) || !torch_pop(machine, &module)) return 0;
    if (name.kind != TORCH_STRING || module.kind != TORCH_STRING) {
        return torch_bad(machine, "a name that is no text");
    }
    return torch_push_global(machine, module.text, name.text);
}

static lensnet_dtype torch_storage_dtype(torch_text name)
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
    for (i = 0; i < sizeof types / sizeof *types; i++) {
        if (torch_is(name, types[i].name)) return types[i].dtype;
    }
    return TORCH_NO_DTYPE;
}

/* ('storage', class, key, location, count), and in old files a view of another storage, or None. */
static int torch_push_storage(torch_machine *machine)
{
    torch_value value, id;
    const torch_value *item;
    torch_storage *storage;
    if (!torch_pop(machine, &id)) return 0;
    if (id.kind != TORCH_SEQUENCE || id.list->count < 5) {
        return torch_bad(machine, "a persistent id that is not that of a storage");
    }
    item = id.list->items;
    if (item[0].kind != TORCH_STRING || !torch_is(item[0].text, "storage") ||
        item[1].kind != TORCH_GLOBAL || item[2].kind != TORCH_STRING ||
        item[4].kind != TORCH_INTEGER || (id.list->count > 5 && item[5].kind != TORCH_NONE)) {
        return torch_bad(machine, "a persistent id that is not that of a storage");
    }
    value = torch_plain(TORCH_STORAGE, 0);
    value.storage = storage = (torch_storage *)torch_allocate(machine->file, sizeof *storage);
    if (!storage) return 0;
    storage->type_name = item[1].text;
    storage->dtype = torch_storage_dtype(item[1].text);
    storage->key = item[2].text;
    storage->count = item[4].integer;
    return torch_append(machine->file, &machine->file->storages, value) &&
           torch_push(machine, value);
}

/* _rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks, metadata) */
static int torch_push_tensor(torch_machine *machine, const torch_list *arguments)
{
    const torch_value *item = arguments->items;
    torch_value value = torch_plain(TORCH_TENSOR, 0);
    if (arguments->count < 4 || item[0].kind != TORCH_STORAGE || item[1].kind != TORCH_INTEGER ||
        item[2].kind != TORCH_SEQUENCE || item[3].kind != TORCH_SEQUENCE) {
        return torch_bad(machine,
                         "a tensor made of something else than storage, offset, shape, stride");
    }
    value.storage = item[0].storage;
    value.view = (torch_view *)torch_allocate(machine->file, sizeof *value.view);
    if (!value.view) return 0;
    value.view->offset = item[1].integer;
    value.view->shape = item[2].list;
    value.view->stride = item[3].list;
    return torch_push(machine, value);
}

/* Calls one of the few functions we know; any other gives a value that nothing can be done with. */
static int torch_call(torch_machine *machine)
{
    torch_value function, arguments;
    if (!torch_pop(machine, &arguments) || !torch_pop(machine, &function)) return 0;
    if (function.kind == TORCH_OPAQUE) return torch_push(machine, function);
    if (function.kind != TORCH_GLOBAL || arguments.kind != TORCH_SEQUENCE) {
        return torch_bad(machine, "a call of something that is no function");
    }
    if (torch_is(function.text, "torch._utils _rebuild_tensor_v2")) {
        return torch_push_tensor(machine, arguments.list);
    }
    if (torch_is(function.text, "collections OrderedDict") && arguments.list->count == 0) {
        return torch_push_list(machine, TORCH_DICT, NULL, 0);
    }
    if (arguments.list->count >= 1 && (torch_is(function.text, "torch._utils _rebuild_parameter") ||
                                       torch_is(function.text, "torch Size"))) {
        return torch_push(machine, arguments.list->items[0]);
    }
    return torch_push(machine, torch_named(TORCH_OPAQUE, function.text));
}

/* --- pickle: containers, memo ----------------------------------------------------------------- */

static int torch_push_tuple(torch_machine *machine, size_t count)
{
    torch_value items[3];
    size_t i;
    for (i = count; i > 0; i--) {
        if (!torch_pop(machine, &items[i - 1])) return 0;
    }
    return torch_push_list(machine, TORCH_SEQUENCE, items, count);
}

static int torch_push_mark_tuple(torch_machine *machine)
{
    const torch_value *items;
    size_t count;
    if (!torch_pop_mark(machine, &items, &count)) return 0;
    /* the copy is made before anything is pushed over the items */
    return torch_push_list(machine, TORCH_SEQUENCE, items, count);
}

/* Adds items to the list or dictionary on top of the stack; to what is opaque, none. */
static int torch_extend(torch_machine *machine, const torch_value *items, size_t count,
                        torch_kind kind)
{
    torch_value *top =
        machine->stack.count ? machine->stack.items + machine->stack.count - 1 : NULL;
    size_t i;
    if (top && top->kind == TORCH_OPAQUE) return 1;
    if (!top || top->kind != kind || (kind == TORCH_DICT && count % 2)) {
        return torch_bad(machine, "items for something that takes none");
    }
    for (i = 0; i < count; i++) {
        if (!torch_append(machine->file, top->list, items[i])) return 0;
    }
    return 1;
}

static int torch_extend_mark(torch_machine *machine, torch_kind kind)
{
    const torch_value *items;
    size_t count;
    return torch_pop_mark(machine, &items, &count) && torch_extend(machine, items, count, kind);
}

static int torch_extend_last(torch_machine *machine, size_t count, torch_kind kind)
{
    torch_value items[2];
    size_t i;
    for (i = count; i > 0; i--) {
        if (!torch_pop(machine, &items[i - 1])) return 0;
    }
    return torch_extend(machine, items, count, kind);
}

/* An object's attributes, which no tensor or dictionary needs (OrderedDict: `_metadata`). */
static int torch_build(torch_machine *machine)
{
    torch_value state;
    torch_kind kind;
    if (!torch_pop(machine, &state)) return 0;
    kind = machine->stack.count ? machine->stack.items[machine->stack.count - 1].kind : TORCH_UNSET;
    if (kind == TORCH_DICT || kind == TORCH_OPAQUE || kind == TORCH_TENSOR) return 1;
    return torch_bad(machine, "attributes for something that has none");
}

static int torch_memo_put(torch_machine *machine, uint64_t index)
{
    torch_value top;
    if (!machine->stack.count) return torch_bad(machine, "nothing on the stack");
    top = machine->stack.items[machine->stack.count - 1];
    if (index >= TORCH_MEMO_MAX || top.kind == TORCH_MARK) {
        return torch_bad(machine, "a note that cannot be kept");
    }
    while (machine->memo.count <= index) {
        if (!torch_append(machine->file, &machine->memo, torch_plain(TORCH_UNSET, 0))) return 0;
    }
    machine->memo.items[index] = top;
    return 1;
}

static int torch_memo_put_sized(torch_machine *machine, size_t size)
{
    uint64_t index;
    return torch_take_number(machine, size, &index) && torch_memo_put(machine, index);
}

static int torch_memo_get(torch_machine *machine, size_t size)
{
    uint64_t index;
    if (!torch_take_number(machine, size, &index)) return 0;
    if (index >= machine->memo.count || machine->memo.items[index].kind == TORCH_UNSET) {
        return torch_bad(machine, "a note that was not made");
    }
    return torch_push(machine, machine->memo.items[index]);
}

static int torch_push_number(torch_machine *machine, size_t size)
{
    uint64_t number;
    if (!torch_take_number(machine, size, &number)) return 0;
    if (size == 4)
        return torch_push(machine, torch_plain(TORCH_INTEGER, (int32_t)(uint32_t)number));
    return torch_push(machine, torch_plain(TORCH_INTEGER, (int64_t)number));
}

static int torch_skip(torch_machine *machine, uint64_t count)
{
    const unsigned char *bytes;
    return torch_take(machine, count, &bytes);
}

/* One instruction, by its byte (names as in Python's pickletools). */
static int torch_step(torch_machine *machine, unsigned char code)
{
    switch (code) {
    case 0x80: return torch_skip(machine, 1);                             /* PROTO */
    case 0x95: return torch_skip(machine, 8);                             /* FRAME */
    case '(': return torch_push(machine, torch_plain(TORCH_MARK, 0));     /* MARK */
    case 'N': return torch_push(machine, torch_plain(TORCH_NONE, 0));     /* NONE */
    case 0x88: return torch_push(machine, torch_plain(TORCH_INTEGER, 1)); /* NEWTRUE */
    case 0x89: return torch_push(machine, torch_plain(TORCH_INTEGER, 0)); /* NEWFALSE */
    case 'J': return torch_push_number(machine, 4);                       /* BININT */
    case 'K': return torch_push_number(machine, 1);                       /* BININT1 */
    case 'M': return torch_push_number(machine, 2);                       /* BININT2 */
    case 0x8a: return torch_push_long(machine);                           /* LONG1 */
    case 'G':                                                             /* BINFLOAT */
        return torch_skip(machine, 8) && torch_push(machine, torch_plain(TORCH_FLOAT, 0));
    case 'X': return torch_push_string(machine, 4);                      /* BINUNICODE */
    case 'T': return torch_push_string(machine, 4);                      /* BINSTRING */
    case 'U': return torch_push_string(machine, 1);                      /* SHORT_BINSTRING */
    case 0x8c: return torch_push_string(machine, 1);                     /* SHORT_BINUNICODE */
    case 0x8d: return torch_push_string(machine, 8);                     /* BINUNICODE8 */
    case ')': return torch_push_list(machine, TORCH_SEQUENCE, NULL, 0);  /* EMPTY_TUPLE */
    case ']': return torch_push_list(machine, TORCH_SEQUENCE, NULL, 0);  /* EMPTY_LIST */
    case 0x8f: return torch_push_list(machine, TORCH_SEQUENCE, NULL, 0); /* EMPTY_SET */
    case '}': return torch_push_list(machine, TORCH_DICT, NULL, 0);      /* EMPTY_DICT */
    case 't': return torch_push_mark_tuple(machine);                     /* TUPLE */
    case 0x85: return torch_push_tuple(machine, 1);                      /* TUPLE1 */
    case 0x86: return torch_push_tuple(machine, 2);                      /* TUPLE2 */
    case 0x87: return torch_push_tuple(machine, 3);                      /* TUPLE3 */
    case 'a': return torch_extend_last(machine, 1, TORCH_SEQUENCE);      /* APPEND */
    case 'e': return torch_extend_mark(machine, TORCH_SEQUENCE);         /* APPENDS */
    case 0x90: return torch_extend_mark(machine, TORCH_SEQUENCE);        /* ADDITEMS */
    case 's': return torch_extend_last(machine, 2, TORCH_DICT);          /* SETITEM */
    case 'u': return torch_extend_mark(machine, TORCH_DICT);             /* SETITEMS */
    case 'q': return torch_memo_put_sized(machine, 1);                   /* BINPUT */
    case 'r': return torch_memo_put_sized(machine, 4);                   /* LONG_BINPUT */
    case 0x94: return torch_memo_put(machine, machine->memo.count);      /* MEMOIZE */
    case 'h': return torch_memo_get(machine, 1);                         /* BINGET */
    case 'j': return torch_memo_get(machine, 4);                         /* LONG_BINGET */
    case 'c': return torch_global_line(machine);                         /* GLOBAL */
    case 0x93: return torch_global_stack(machine);                       /* STACK_GLOBAL */
    case 'Q': return torch_push_storage(machine);                        /* BINPERSID */
    case 'R': return torch_call(machine);                                /* REDUCE */
    case 0x81: return torch_call(machine);                               /* NEWOBJ */
    case 'b': return torch_build(machine);                               /* BUILD */
    default: break;
    }
    return torch_fail(machine->file, LENSNET_ERROR_UNSUPPORTED,
                      "its pickle has the instruction 0x%02x, which no file of weights needs.",
                      code);
}

/* Runs one pickle that begins at `start`; *next is what follows it. */
static int torch_unpickle(torch_file *file, const unsigned char *start, const unsigned char *end,
                          torch_value *result, const unsigned char **next)
{
    torch_machine machine;
    memset(&machine, 0, sizeof machine);
    machine.file = file;
    machine.start = machine.at = start;
    machine.end = end;
    for (;;) {
        unsigned char code;
        if (machine.at == machine.end) return torch_bad(&machine, "cut off");
        code = *machine.at++;
        if (code == '.') break; /* STOP */
        if (!torch_step(&machine, code)) return 0;
    }
    *next = machine.at;
    return torch_pop(&machine, result);
}

/* --- tensors ---------------------------------------------------------------------------------- */

static int torch_tensor_bad(torch_file *file, torch_text name, const char *problem)
{
    torch_quoted quoted;
    return torch_fail(file, LENSNET_ERROR_FORMAT, "tensor '%s' %s.", torch_quote(&quoted, name),
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
static int torch_storage_find(torch_file *file, torch_storage *storage, torch_text name)
{
    torch_quoted quoted;
    size_t size = torch_dtype_bytes(storage->dtype);
    if (storage->dtype == TORCH_NO_DTYPE) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                          "a tensor's numbers are of the type '%s', which is not read.",
                          torch_quote(&quoted, storage->type_name));
    }
    if (!storage->data && file->record_count) {
        const torch_record *record = torch_zip_find(file, "data/", storage->key);
        if (!record) return torch_tensor_bad(file, name, "has no numbers in the file");
        if (!torch_record_usable(file, record)) return 0;
        storage->data = record->data;
        storage->bytes = record->bytes;
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
                            const torch_value *value)
{
    const torch_view *view = value->view;
    uint64_t count = 1, last, stored = (uint64_t)value->storage->count;
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
        const torch_value *size = view->shape->items + i, *step = view->stride->items + i;
        if (size->kind != TORCH_INTEGER || size->integer < 0 || step->kind != TORCH_INTEGER ||
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
    return torch_view_count(file, tensor, count, torch_dtype_bytes(value->storage->dtype));
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
    if (!block) return torch_fail(file, LENSNET_ERROR_MEMORY, "out of memory for a tensor.");
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

static int torch_tensor_read(torch_file *file, torch_tensor *tensor, const torch_value *value)
{
    uint64_t stride[LENSNET_ARCHIVE_RANK];
    const unsigned char *origin;
    size_t size;
    if (!torch_storage_find(file, value->storage, tensor->name)) return 0;
    if (!torch_view_check(file, tensor, stride, value)) return 0;
    tensor->dtype = value->storage->dtype;
    tensor->data = value->storage->data;
    if (!tensor->count) return 1;
    size = torch_dtype_bytes(tensor->dtype);
    origin = value->storage->data + (size_t)value->view->offset * size;
    tensor->data = origin;
    if (torch_view_is_packed(tensor, stride)) return 1;
    return torch_view_gather(file, tensor, stride, origin, size);
}

static int torch_refuse_value(torch_file *file, torch_text key, const torch_value *value)
{
    torch_quoted name, other;
    if (value->kind == TORCH_OPAQUE || value->kind == TORCH_GLOBAL) {
        return torch_fail(
            file, LENSNET_ERROR_UNSUPPORTED,
            "'%s' is not a tensor: the file wants '%s' to be called for it, and nothing in "
            "a file is called here.",
            torch_quote(&name, key), torch_quote(&other, value->text));
    }
    return torch_fail(
        file, LENSNET_ERROR_UNSUPPORTED,
        "'%s' is not a tensor. Expected a dictionary of tensors, or one under \"model\", "
        "\"model_ema\", \"state_dict\" or \"module\".",
        torch_quote(&name, key));
}

static int torch_tensor_by_name(const void *a, const void *b)
{
    return torch_compare(((const torch_tensor *)a)->name, ((const torch_tensor *)b)->name);
}

static int torch_tensors_read(torch_file *file, const torch_list *dict)
{
    torch_quoted quoted;
    size_t i;
    file->count = dict->count / 2;
    file->tensors = (torch_tensor *)torch_allocate(file, file->count * sizeof *file->tensors);
    if (!file->tensors) return 0;
    for (i = 0; i < file->count; i++) {
        const torch_value *key = dict->items + 2 * i, *value = key + 1;
        if (key->kind != TORCH_STRING) {
            return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "a tensor's name is not a text.");
        }
        if (value->kind != TORCH_TENSOR) return torch_refuse_value(file, key->text, value);
        file->tensors[i].name = key->text;
        if (!torch_tensor_read(file, file->tensors + i, value)) return 0;
    }
    qsort(file->tensors, file->count, sizeof *file->tensors, torch_tensor_by_name);
    for (i = 1; i < file->count; i++) {
        if (torch_compare(file->tensors[i - 1].name, file->tensors[i].name) == 0) {
            return torch_fail(file, LENSNET_ERROR_FORMAT, "tensor '%s' stands twice.",
                              torch_quote(&quoted, file->tensors[i].name));
        }
    }
    return 1;
}

/* The dictionary of tensors: the root, or what the root has under `wanted`, or (NULL) under the one
 * of the usual names that it has. */
static int torch_find_weights(torch_file *file, const torch_value *root, const char *wanted,
                              const torch_list **weights)
{
    static const char *const usual[] = {"model", "model_ema", "state_dict", "module"};
    size_t i, j, found = 0;
    torch_quoted quoted;
    if (root->kind == TORCH_OPAQUE || root->kind == TORCH_GLOBAL) {
        return torch_fail(
            file, LENSNET_ERROR_UNSUPPORTED,
            "it holds no weights but wants '%s' to be called, and nothing in a file is "
            "called here.",
            torch_quote(&quoted, root->text));
    }
    if (root->kind != TORCH_DICT) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                          "it holds something else than a dictionary.");
    }
    *weights = root->list;
    for (i = 0; i + 1 < root->list->count; i += 2) {
        const torch_value *key = root->list->items + i;
        if (key->kind != TORCH_STRING || key[1].kind != TORCH_DICT) continue;
        for (j = 0; j < sizeof usual / sizeof *usual; j++) {
            if (!torch_is(key->text, wanted ? wanted : usual[j])) continue;
            *weights = key[1].list;
            found++;
            break;
        }
    }
    if (wanted && !found) {
        return torch_fail(file, LENSNET_ERROR_ARGUMENT, "it has no dictionary named '%.80s'.",
                          wanted);
    }
    if (found > 1) {
        return torch_fail(
            file, LENSNET_ERROR_UNSUPPORTED,
            "it has several sets of weights (\"model\", \"model_ema\", ...); name the one "
            "that is wanted.");
    }
    return 1;
}

/* --- the two forms of file -------------------------------------------------------------------- */

static int torch_read_zip(torch_file *file, torch_value *root)
{
    const torch_record *pickle, *order;
    const unsigned char *next;
    if (!torch_zip_read(file)) return 0;
    pickle = torch_zip_find_word(file, "data.pkl");
    order = torch_zip_find_word(file, "byteorder");
    if (!pickle) {
        return torch_fail(file, LENSNET_ERROR_FORMAT,
                          "it is a zip but has no data.pkl, so torch.save did not write it.");
    }
    if (torch_zip_find_word(file, "constants.pkl")) {
        return torch_fail(
            file, LENSNET_ERROR_UNSUPPORTED,
            "it is a TorchScript program. Expected weights alone: torch.save of a state_dict.");
    }
    if (!torch_record_usable(file, pickle) || (order && !torch_record_usable(file, order)))
        return 0;
    if (order && !(order->bytes == 6 && memcmp(order->data, "little", 6) == 0)) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "its numbers are not little-endian.");
    }
    if (pickle->bytes > TORCH_PICKLE_MAX) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "its data.pkl is larger than %d MiB.",
                          (int)(TORCH_PICKLE_MAX >> 20));
    }
    return torch_unpickle(file, pickle->data, pickle->data + pickle->bytes, root, &next);
}

/* A pickle of the number by which torch knew its files before they were zips. */
static const unsigned char torch_legacy_mark[15] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                                    0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};

static int torch_storage_by_key(const void *a, const void *b)
{
    return torch_compare(((const torch_value *)a)->storage->key,
                         ((const torch_value *)b)->storage->key);
}

/* Behind the pickles, in the order of `keys`: a count, and that many numbers. */
static int torch_legacy_storages(torch_file *file, const torch_list *keys, const unsigned char *at)
{
    const unsigned char *end = file->bytes + file->size;
    torch_list *all = &file->storages;
    size_t i;
    if (all->count) qsort(all->items, all->count, sizeof *all->items, torch_storage_by_key);
    for (i = 0; i < keys->count; i++) {
        size_t low = 0, high = all->count, size;
        torch_storage *first;
        uint64_t count;
        while (keys->items[i].kind == TORCH_STRING && low < high) {
            size_t middle = low + (high - low) / 2;
            if (torch_compare(all->items[middle].storage->key, keys->items[i].text) < 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if (low == all->count ||
            torch_compare(all->items[low].storage->key, keys->items[i].text) != 0) {
            return torch_fail(file, LENSNET_ERROR_FORMAT,
                              "it has numbers for a storage that nobody uses.");
        }
        first = all->items[low].storage;
        size = torch_dtype_bytes(first->dtype);
        if (end - at < 8 || first->dtype == TORCH_NO_DTYPE || first->data) {
            return torch_fail(file, LENSNET_ERROR_FORMAT,
                              "its numbers are cut off, twice there, or of an "
                              "unknown type.");
        }
        count = torch_u64(at);
        at += 8;
        if (count > (uint64_t)(end - at) / size) {
            return torch_fail(file, LENSNET_ERROR_FORMAT,
                              "its numbers are cut off. Was it copied completely?");
        }
        for (; low < all->count; low++) {
            torch_storage *storage = all->items[low].storage;
            if (torch_compare(storage->key, first->key) != 0) break;
            if (storage->dtype != first->dtype) {
                return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                                  "a storage has two types at once.");
            }
            storage->data = at;
            storage->bytes = count * size;
        }
        at += count * size;
    }
    return 1;
}

static int torch_read_legacy(torch_file *file, torch_value *root)
{
    const unsigned char *at = file->bytes + sizeof torch_legacy_mark;
    const unsigned char *end = file->bytes + file->size;
    torch_value protocol, system, keys;
    size_t i;
    int little = 0;
    if (!torch_unpickle(file, at, end, &protocol, &at) ||
        !torch_unpickle(file, at, end, &system, &at)) {
        return 0;
    }
    if (protocol.kind != TORCH_INTEGER || protocol.integer != 1001 || system.kind != TORCH_DICT) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED,
                          "it has an unknown version of the old form.");
    }
    for (i = 0; i + 1 < system.list->count; i += 2) {
        const torch_value *item = system.list->items + i;
        if (item->kind == TORCH_STRING && torch_is(item->text, "little_endian")) {
            little = item[1].kind == TORCH_INTEGER && item[1].integer == 1;
        }
    }
    if (!little) {
        return torch_fail(file, LENSNET_ERROR_UNSUPPORTED, "its numbers are not little-endian.");
    }
    if (!torch_unpickle(file, at, end, root, &at) || !torch_unpickle(file, at, end, &keys, &at))
        return 0;
    if (keys.kind != TORCH_SEQUENCE) {
        return torch_fail(file, LENSNET_ERROR_FORMAT, "it has no list of storages.");
    }
    return torch_legacy_storages(file, keys.list, at);
}

/* --- open, close ------------------------------------------------------------------------------ */

static int torch_is_zip(const unsigned char *bytes, size_t size)
{
    return size >= 4 && torch_u32(bytes) == TORCH_ZIP_LOCAL;
}

static int torch_is_legacy(const unsigned char *bytes, size_t size)
{
    return size >= sizeof torch_legacy_mark &&
           memcmp(bytes, torch_legacy_mark, sizeof torch_legacy_mark) == 0;
}

/* Does the file begin like one of torch's? 0 too when it cannot be read. */
static int torch_file_probe(const char *path)
{
    unsigned char bytes[sizeof torch_legacy_mark];
    FILE *stream = fopen(path, "rb");
    size_t size = stream ? fread(bytes, 1, sizeof bytes, stream) : 0;
    if (stream) fclose(stream);
    return torch_is_zip(bytes, size) || torch_is_legacy(bytes, size);
}

static void torch_file_close(torch_file *file)
{
    while (file->blocks) {
        torch_block *next = file->blocks->next;
        free(file->blocks);
        file->blocks = next;
    }
    free(file->bytes);
    memset(file, 0, sizeof *file);
}

static int torch_file_load(torch_file *file)
{
    FILE *stream = fopen(file->path, "rb");
    long size = -1;
    if (stream && fseek(stream, 0, SEEK_END) == 0) size = ftell(stream);
    if (size >= 0 && fseek(stream, 0, SEEK_SET) == 0) {
        file->bytes = (unsigned char *)malloc((size_t)size + 1);
        if (file->bytes) file->size = fread(file->bytes, 1, (size_t)size, stream);
    }
    if (stream) fclose(stream);
    if (file->bytes && file->size == (size_t)size) return 1;
    return torch_fail(file, LENSNET_ERROR_FILE,
                      "cannot be read. Is it there, readable, and smaller than the memory?");
}

static int torch_file_parse(torch_file *file, const char *wanted)
{
    const torch_list *weights = NULL;
    torch_value root;
    if (torch_is_zip(file->bytes, file->size)) {
        if (!torch_read_zip(file, &root)) return 0;
    } else if (torch_is_legacy(file->bytes, file->size)) {
        if (!torch_read_legacy(file, &root)) return 0;
    } else {
        return torch_fail(file, LENSNET_ERROR_FORMAT,
                          "is not a file of torch.save: it begins like neither of its two forms.");
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
    file->path = "(memory)";
    file->bytes = bytes;
    file->size = size;
    file->error = error ? error : &own;
    return torch_file_finish(file, torch_file_parse(file, wanted));
}

/* --- as a safetensors archive ----------------------------------------------------------------- */

static void *torch_host_open(const char *path, int writing, void *user)
{
    (void)path;
    return writing ? NULL : user;
}

static uint64_t torch_host_size(void *handle, void *user)
{
    const torch_file *file = (const torch_file *)handle;
    (void)user;
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
    const torch_file *file = (const torch_file *)handle;
    unsigned char *out = (unsigned char *)bytes;
    (void)user;
    if (offset > file->offsets[file->count] || count > file->offsets[file->count] - offset)
        return 1;
    if (offset < file->header_bytes) {
        size_t part = file->header_bytes - (size_t)offset;
        if (part > count) part = count;
        memcpy(out, file->header + offset, part);
        out += part;
        offset += part;
        count -= part;
    }
    if (count) torch_host_copy(file, offset, out, count);
    return 0;
}

static int torch_host_close(void *handle, int commit, void *user)
{
    (void)handle;
    (void)commit;
    (void)user;
    return 0;
}

/* The table of the archive, by the library's own writer. Names are ended by zeros for it. */
static int torch_header_write(torch_file *file, lnp_text *text)
{
    uint64_t offset = 0;
    size_t i;
    lnp_text_char(text, '{');
    for (i = 0; i < file->count; i++) {
        const torch_tensor *tensor = file->tensors + i;
        lensnet_archive_tensor entry;
        char *name = (char *)torch_allocate(file, tensor->name.length + 1);
        if (!name) return 0;
        memcpy(name, tensor->name.text, tensor->name.length);
        memset(&entry, 0, sizeof entry);
        entry.name = name;
        entry.dtype = tensor->dtype;
        entry.rank = tensor->rank;
        memcpy(entry.shape, tensor->shape, sizeof entry.shape);
        entry.bytes = tensor->data;
        file->offsets[i] = offset;
        if (i) lnp_text_char(text, ',');
        lnp_header_tensor(text, &entry, &offset);
    }
    file->offsets[file->count] = offset;
    lnp_text_char(text, '}');
    return !text->failed || torch_fail(file, LENSNET_ERROR_MEMORY, "out of memory for its table.");
}

/* Hooks under which lensnet_archive_open (any path) reads the tensors as a safetensors file. Memory
 * comes from the default hooks; the file stays open until the archive is closed. */
static lensnet_result torch_file_host(torch_file *file, lensnet_host *host, lensnet_error *error)
{
    lensnet_host defaults = lensnet_host_defaults();
    lensnet_error own;
    lnp_text text;
    size_t i;
    int good;
    memset(&text, 0, sizeof text);
    text.host = &defaults;
    file->error = error ? error : &own;
    file->offsets = (uint64_t *)torch_allocate(file, (file->count + 1) * sizeof *file->offsets);
    good = file->offsets && torch_header_write(file, &text);
    file->header_bytes = 8 + text.length;
    if (good) file->header = (char *)torch_allocate(file, file->header_bytes);
    if (good && file->header) {
        lnp_store64((unsigned char *)file->header, text.length);
        memcpy(file->header + 8, text.text, text.length);
        for (i = 0; i <= file->count; i++) file->offsets[i] += file->header_bytes;
    }
    lnp_text_release(&text);
    if (!file->header) return file->error->code;
    file->error = NULL;
    *host = defaults;
    host->file_open = torch_host_open;
    host->file_size = torch_host_size;
    host->file_read = torch_host_read;
    host->file_close = torch_host_close;
    host->user = file;
    return LENSNET_OK;
}

#endif
