/* pickle.h - reads Python pickles, and executes nothing. Needs libc only.
 *
 * A pickle is a program for a small stack machine that builds Python objects. Here the machine only
 * knows how to build numbers, texts, lists and dictionaries: the name of any function or class becomes
 * a value that nothing can be done with, and a call of it another. Who knows a few of these names and
 * wants to build something of their own in their place (tensors, arrays) gives hooks. So nothing in a
 * file is executed, and what remains to be watched are sizes: each one is checked before it is used.
 *
 *   pickle_machine machine;
 *   pickle_begin(&machine, &hooks, user);        hooks may be NULL
 *   pickle_load(&machine, bytes, size, &value, &rest);
 *   pickle_end(&machine);                        frees whatever was built
 *
 * Protocols 2 to 5. Functions return 1 on success; on failure 0, and machine.error and machine.text
 * say what was wrong. Values point into the bytes, which must live as long. */
#ifndef PICKLE_H
#define PICKLE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define PICKLE_API __attribute__((unused)) static
#else
#define PICKLE_API static
#endif

#define PICKLE_MEMORY_MAX ((size_t)256 << 20) /* bytes of the objects that are built */
#define PICKLE_MEMO_MAX   ((uint64_t)1 << 22)

typedef enum pickle_error { PICKLE_OK, PICKLE_DAMAGED, PICKLE_UNKNOWN, PICKLE_MEMORY } pickle_error;

/* Bytes of the file, not ended by a zero. */
typedef struct pickle_text {
    const char *text;
    size_t length;
} pickle_text;

typedef enum pickle_kind {
    PICKLE_UNSET,
    PICKLE_MARK,
    PICKLE_NONE,
    PICKLE_INTEGER, /* booleans too */
    PICKLE_FLOAT,
    PICKLE_STRING,
    PICKLE_BYTES,
    PICKLE_SEQUENCE, /* tuple, list, set */
    PICKLE_DICT,
    PICKLE_GLOBAL, /* the name of a function or class: "module name" */
    PICKLE_OPAQUE, /* made by a function or class that is not ours to call; its name */
    PICKLE_OBJECT  /* made by a hook; it may count on from here: PICKLE_OBJECT + 1 ... */
} pickle_kind;

typedef struct pickle_value {
    int kind; /* a pickle_kind */
    int64_t integer;
    double number;
    pickle_text text;         /* a string, bytes; the name of what is global or opaque */
    struct pickle_list *list; /* a sequence; of a dictionary, keys and values in turn */
    void *object;             /* the hook's */
} pickle_value;

typedef struct pickle_list {
    pickle_value *items;
    size_t count, capacity;
} pickle_list;

struct pickle_machine;

/* Each is asked first: 1 done, 0 not known to it, -1 failed (pickle_fail was called). NULL: none. */
typedef struct pickle_hooks {
    /* `function` (global) called with `arguments`; the result goes to *result. */
    int (*call)(struct pickle_machine *machine, const pickle_value *function,
                const pickle_list *arguments, pickle_value *result);
    /* BUILD: attributes `state` for `*object`, which may be changed. */
    int (*build)(struct pickle_machine *machine, pickle_value *object, const pickle_value *state);
    /* A persistent id: something that is kept beside the pickle. */
    int (*persistent)(struct pickle_machine *machine, const pickle_value *id, pickle_value *result);
} pickle_hooks;

typedef struct pickle_machine {
    void *user;
    pickle_error error;
    char text[256];
    /* private */
    pickle_hooks hooks;
    const unsigned char *start, *at, *end;
    pickle_list stack, memo;
    struct pickle_block *blocks;
    size_t block_bytes;
} pickle_machine;

/* ---- errors and memory ---- */

#ifdef __GNUC__
__attribute__((unused, format(printf, 3, 4)))
#endif
/* 0, so that a failing path is one line. */
static int
pickle_fail(pickle_machine *machine, pickle_error error, const char *format, ...)
{
    va_list arguments;
    machine->error = error;
    va_start(arguments, format);
    vsnprintf(machine->text, sizeof machine->text, format, arguments);
    va_end(arguments);
    return 0;
}

PICKLE_API int pickle_bad(pickle_machine *machine, const char *problem)
{
    return pickle_fail(machine, PICKLE_DAMAGED, "its pickle is damaged: %s at byte %llu.", problem,
                       (unsigned long long)(machine->at - machine->start));
}

typedef struct pickle_block {
    struct pickle_block *next;
    double alignment; /* of what follows */
} pickle_block;

/* Zeroed, and freed with the machine. */
PICKLE_API void *pickle_allocate(pickle_machine *machine, size_t bytes)
{
    pickle_block *block = NULL;
    if (bytes <= PICKLE_MEMORY_MAX - machine->block_bytes)
        block = (pickle_block *)calloc(1, sizeof *block + bytes);
    if (!block) {
        pickle_fail(machine, PICKLE_MEMORY, "its table needs more memory than there is, or %d MiB.",
                    (int)(PICKLE_MEMORY_MAX >> 20));
        return NULL;
    }
    block->next = machine->blocks;
    machine->blocks = block;
    machine->block_bytes += bytes;
    return block + 1;
}

PICKLE_API int pickle_append(pickle_machine *machine, pickle_list *list, pickle_value value)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 4;
        pickle_value *items = (pickle_value *)pickle_allocate(machine, capacity * sizeof *items);
        if (!items) return 0;
        if (list->count) memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = value;
    return 1;
}

/* ---- values ---- */

PICKLE_API int pickle_is(pickle_text text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.text, word, text.length) == 0;
}

PICKLE_API int pickle_compare(pickle_text a, pickle_text b)
{
    size_t shorter = a.length < b.length ? a.length : b.length;
    int order = shorter ? memcmp(a.text, b.text, shorter) : 0;
    return order ? order : a.length < b.length ? -1 : a.length > b.length;
}

/* A name for an error sentence: at most 80 characters, none of them a control character. */
typedef struct pickle_quoted {
    char text[81];
} pickle_quoted;

PICKLE_API const char *pickle_quote(pickle_quoted *quoted, pickle_text text)
{
    size_t i, length = text.length < 80 ? text.length : 80;
    for (i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text.text[i];
        quoted->text[i] = c < 32 || c > 126 ? '?' : (char)c;
    }
    quoted->text[length] = 0;
    return quoted->text;
}

PICKLE_API pickle_value pickle_plain(int kind, int64_t integer)
{
    pickle_value value;
    memset(&value, 0, sizeof value);
    value.kind = kind;
    value.integer = integer;
    return value;
}

PICKLE_API pickle_value pickle_named(int kind, pickle_text text)
{
    pickle_value value = pickle_plain(kind, 0);
    value.text = text;
    return value;
}

static int pickle_push(pickle_machine *machine, pickle_value value)
{
    return pickle_append(machine, &machine->stack, value);
}

/* A new list or dictionary with these items. */
PICKLE_API int pickle_list_make(pickle_machine *machine, pickle_value *value, int kind,
                                const pickle_value *items, size_t count)
{
    size_t i;
    *value = pickle_plain(kind, 0);
    value->list = (pickle_list *)pickle_allocate(machine, sizeof *value->list);
    if (!value->list) return 0;
    for (i = 0; i < count; i++)
        if (!pickle_append(machine, value->list, items[i])) return 0;
    return 1;
}

static int pickle_push_list(pickle_machine *machine, int kind, const pickle_value *items,
                            size_t count)
{
    pickle_value value;
    return pickle_list_make(machine, &value, kind, items, count) && pickle_push(machine, value);
}

static int pickle_pop(pickle_machine *machine, pickle_value *value)
{
    *value = pickle_plain(PICKLE_UNSET, 0);
    if (!machine->stack.count || machine->stack.items[machine->stack.count - 1].kind == PICKLE_MARK)
        return pickle_bad(machine, "nothing on the stack");
    *value = machine->stack.items[--machine->stack.count];
    return 1;
}

/* Takes what stands above the topmost mark, and the mark. The items stay valid until the next push. */
static int pickle_pop_mark(pickle_machine *machine, const pickle_value **items, size_t *count)
{
    size_t i = machine->stack.count;
    *items = NULL;
    *count = 0;
    while (i > 0 && machine->stack.items[i - 1].kind != PICKLE_MARK) i--;
    if (!i) return pickle_bad(machine, "no mark on the stack");
    *items = machine->stack.items + i;
    *count = machine->stack.count - i;
    machine->stack.count = i - 1;
    return 1;
}

/* ---- bytes of the program ---- */

static int pickle_take(pickle_machine *machine, uint64_t count, const unsigned char **bytes)
{
    *bytes = machine->at;
    if (count > (uint64_t)(machine->end - machine->at)) return pickle_bad(machine, "cut off");
    machine->at += count;
    return 1;
}

static int pickle_skip(pickle_machine *machine, uint64_t count)
{
    const unsigned char *bytes;
    return pickle_take(machine, count, &bytes);
}

/* An unsigned little-endian number of `size` bytes. */
static int pickle_take_number(pickle_machine *machine, size_t size, uint64_t *number)
{
    const unsigned char *bytes;
    if (!pickle_take(machine, size, &bytes)) return 0;
    *number = 0;
    while (size > 0) *number = *number << 8 | bytes[--size];
    return 1;
}

static int pickle_take_line(pickle_machine *machine, pickle_text *line)
{
    const void *end = memchr(machine->at, '\n', (size_t)(machine->end - machine->at));
    if (!end) return pickle_bad(machine, "cut off");
    line->text = (const char *)machine->at;
    line->length = (size_t)((const unsigned char *)end - machine->at);
    machine->at += line->length + 1;
    return 1;
}

static int pickle_push_text(pickle_machine *machine, int kind, size_t length_bytes)
{
    uint64_t length;
    const unsigned char *bytes;
    pickle_text text;
    if (!pickle_take_number(machine, length_bytes, &length)) return 0;
    if (!pickle_take(machine, length, &bytes)) return 0;
    text.text = (const char *)bytes;
    text.length = (size_t)length;
    return pickle_push(machine, pickle_named(kind, text));
}

/* Little-endian two's complement of any length; one that does not fit 64 bits is of no use here. */
static int pickle_push_long(pickle_machine *machine)
{
    pickle_text name = {"int", 3};
    const unsigned char *bytes;
    uint64_t length, number = 0;
    size_t i;
    if (!pickle_take_number(machine, 1, &length) || !pickle_take(machine, length, &bytes)) return 0;
    if (length > 8) return pickle_push(machine, pickle_named(PICKLE_OPAQUE, name));
    if (length && bytes[length - 1] & 0x80) number = ~(uint64_t)0;
    for (i = (size_t)length; i > 0; i--) number = number << 8 | bytes[i - 1];
    return pickle_push(machine, pickle_plain(PICKLE_INTEGER, (int64_t)number));
}

static int pickle_push_number(pickle_machine *machine, size_t size)
{
    uint64_t number;
    if (!pickle_take_number(machine, size, &number)) return 0;
    if (size == 4)
        return pickle_push(machine, pickle_plain(PICKLE_INTEGER, (int32_t)(uint32_t)number));
    return pickle_push(machine, pickle_plain(PICKLE_INTEGER, (int64_t)number));
}

/* IEEE 754, most significant byte first. */
static int pickle_push_float(pickle_machine *machine)
{
    pickle_value value = pickle_plain(PICKLE_FLOAT, 0);
    const unsigned char *bytes;
    uint64_t bits = 0;
    int i;
    if (!pickle_take(machine, 8, &bytes)) return 0;
    for (i = 0; i < 8; i++) bits = bits << 8 | bytes[i];
    memcpy(&value.number, &bits, sizeof value.number);
    return pickle_push(machine, value);
}

/* ---- names, calls ---- */

/* "module name" for sentences and comparison. */
static int pickle_push_global(pickle_machine *machine, pickle_text module, pickle_text name)
{
    size_t length = module.length + 1 + name.length;
    char *text = (char *)pickle_allocate(machine, length);
    pickle_text whole;
    if (!text) return 0;
    memcpy(text, module.text, module.length);
    text[module.length] = ' ';
    memcpy(text + module.length + 1, name.text, name.length);
    whole.text = text;
    whole.length = length;
    return pickle_push(machine, pickle_named(PICKLE_GLOBAL, whole));
}

static int pickle_global_line(pickle_machine *machine)
{
    pickle_text module, name;
    return pickle_take_line(machine, &module) && pickle_take_line(machine, &name) &&
           pickle_push_global(machine, module, name);
}

static int pickle_global_stack(pickle_machine *machine)
{
    pickle_value name, module;
    if (!pickle_pop(machine, &name) || !pickle_pop(machine, &module)) return 0;
    if (name.kind != PICKLE_STRING || module.kind != PICKLE_STRING)
        return pickle_bad(machine, "a name that is no text");
    return pickle_push_global(machine, module.text, name.text);
}

static int pickle_persistent(pickle_machine *machine)
{
    pickle_value id, value = pickle_plain(PICKLE_NONE, 0);
    int done = 0;
    if (!pickle_pop(machine, &id)) return 0;
    if (machine->hooks.persistent) done = machine->hooks.persistent(machine, &id, &value);
    if (done < 0) return 0;
    if (!done) return pickle_bad(machine, "a persistent id, which nobody here knows");
    return pickle_push(machine, value);
}

static int pickle_call(pickle_machine *machine)
{
    pickle_value function, arguments, value;
    int done = 0;
    if (!pickle_pop(machine, &arguments) || !pickle_pop(machine, &function)) return 0;
    if (function.kind == PICKLE_OPAQUE) return pickle_push(machine, function);
    if (function.kind != PICKLE_GLOBAL || arguments.kind != PICKLE_SEQUENCE)
        return pickle_bad(machine, "a call of something that is no function");
    if (machine->hooks.call) done = machine->hooks.call(machine, &function, arguments.list, &value);
    if (done < 0) return 0;
    if (done) return pickle_push(machine, value);
    if (pickle_is(function.text, "collections OrderedDict") && arguments.list->count == 0)
        return pickle_push_list(machine, PICKLE_DICT, NULL, 0);
    return pickle_push(machine, pickle_named(PICKLE_OPAQUE, function.text));
}

/* An object's attributes, which no dictionary needs (OrderedDict: `_metadata`). */
static int pickle_build(pickle_machine *machine)
{
    pickle_value state, *top;
    int done = 0;
    if (!pickle_pop(machine, &state)) return 0;
    if (!machine->stack.count) return pickle_bad(machine, "attributes for something that has none");
    top = machine->stack.items + machine->stack.count - 1;
    if (machine->hooks.build) done = machine->hooks.build(machine, top, &state);
    if (done < 0) return 0;
    if (done || top->kind == PICKLE_DICT || top->kind == PICKLE_OPAQUE) return 1;
    return pickle_bad(machine, "attributes for something that has none");
}

/* ---- containers, memo ---- */

static int pickle_push_tuple(pickle_machine *machine, size_t count)
{
    pickle_value items[3];
    size_t i;
    for (i = count; i > 0; i--)
        if (!pickle_pop(machine, &items[i - 1])) return 0;
    return pickle_push_list(machine, PICKLE_SEQUENCE, items, count);
}

static int pickle_push_mark_list(pickle_machine *machine, int kind)
{
    const pickle_value *items;
    size_t count;
    if (!pickle_pop_mark(machine, &items, &count)) return 0;
    if (kind == PICKLE_DICT && count % 2) return pickle_bad(machine, "a key without a value");
    /* the copy is made before anything is pushed over the items */
    return pickle_push_list(machine, kind, items, count);
}

/* Adds items to the list or dictionary on top of the stack; to what is opaque, none. */
static int pickle_extend(pickle_machine *machine, const pickle_value *items, size_t count, int kind)
{
    pickle_value *top =
        machine->stack.count ? machine->stack.items + machine->stack.count - 1 : NULL;
    size_t i;
    if (top && top->kind == PICKLE_OPAQUE) return 1;
    if (!top || top->kind != kind || (kind == PICKLE_DICT && count % 2))
        return pickle_bad(machine, "items for something that takes none");
    for (i = 0; i < count; i++)
        if (!pickle_append(machine, top->list, items[i])) return 0;
    return 1;
}

static int pickle_extend_mark(pickle_machine *machine, int kind)
{
    const pickle_value *items;
    size_t count;
    return pickle_pop_mark(machine, &items, &count) && pickle_extend(machine, items, count, kind);
}

static int pickle_extend_last(pickle_machine *machine, size_t count, int kind)
{
    pickle_value items[2];
    size_t i;
    for (i = count; i > 0; i--)
        if (!pickle_pop(machine, &items[i - 1])) return 0;
    return pickle_extend(machine, items, count, kind);
}

static int pickle_memo_put(pickle_machine *machine, uint64_t index)
{
    pickle_value top;
    if (!machine->stack.count) return pickle_bad(machine, "nothing on the stack");
    top = machine->stack.items[machine->stack.count - 1];
    if (index >= PICKLE_MEMO_MAX || top.kind == PICKLE_MARK)
        return pickle_bad(machine, "a note that cannot be kept");
    while (machine->memo.count <= index)
        if (!pickle_append(machine, &machine->memo, pickle_plain(PICKLE_UNSET, 0))) return 0;
    machine->memo.items[index] = top;
    return 1;
}

static int pickle_memo_put_sized(pickle_machine *machine, size_t size)
{
    uint64_t index;
    return pickle_take_number(machine, size, &index) && pickle_memo_put(machine, index);
}

static int pickle_memo_get(pickle_machine *machine, size_t size)
{
    uint64_t index;
    if (!pickle_take_number(machine, size, &index)) return 0;
    if (index >= machine->memo.count || machine->memo.items[index].kind == PICKLE_UNSET)
        return pickle_bad(machine, "a note that was not made");
    return pickle_push(machine, machine->memo.items[index]);
}

/* ---- the machine ---- */

/* One instruction, by its byte (names as in Python's pickletools). */
static int pickle_step(pickle_machine *machine, unsigned char code)
{
    switch (code) {
    case 0x80: return pickle_skip(machine, 1);                               /* PROTO */
    case 0x95: return pickle_skip(machine, 8);                               /* FRAME */
    case '(': return pickle_push(machine, pickle_plain(PICKLE_MARK, 0));     /* MARK */
    case 'N': return pickle_push(machine, pickle_plain(PICKLE_NONE, 0));     /* NONE */
    case 0x88: return pickle_push(machine, pickle_plain(PICKLE_INTEGER, 1)); /* NEWTRUE */
    case 0x89: return pickle_push(machine, pickle_plain(PICKLE_INTEGER, 0)); /* NEWFALSE */
    case 'J': return pickle_push_number(machine, 4);                         /* BININT */
    case 'K': return pickle_push_number(machine, 1);                         /* BININT1 */
    case 'M': return pickle_push_number(machine, 2);                         /* BININT2 */
    case 0x8a: return pickle_push_long(machine);                             /* LONG1 */
    case 'G': return pickle_push_float(machine);                             /* BINFLOAT */
    case 'X': return pickle_push_text(machine, PICKLE_STRING, 4);            /* BINUNICODE */
    case 'T': return pickle_push_text(machine, PICKLE_STRING, 4);            /* BINSTRING */
    case 'U': return pickle_push_text(machine, PICKLE_STRING, 1);            /* SHORT_BINSTRING */
    case 0x8c: return pickle_push_text(machine, PICKLE_STRING, 1);           /* SHORT_BINUNICODE */
    case 0x8d: return pickle_push_text(machine, PICKLE_STRING, 8);           /* BINUNICODE8 */
    case 'B': return pickle_push_text(machine, PICKLE_BYTES, 4);             /* BINBYTES */
    case 'C': return pickle_push_text(machine, PICKLE_BYTES, 1);             /* SHORT_BINBYTES */
    case 0x8e: return pickle_push_text(machine, PICKLE_BYTES, 8);            /* BINBYTES8 */
    case 0x96: return pickle_push_text(machine, PICKLE_BYTES, 8);            /* BYTEARRAY8 */
    case 0x98: return 1;                                                     /* READONLY_BUFFER */
    case ')': return pickle_push_list(machine, PICKLE_SEQUENCE, NULL, 0);    /* EMPTY_TUPLE */
    case ']': return pickle_push_list(machine, PICKLE_SEQUENCE, NULL, 0);    /* EMPTY_LIST */
    case 0x8f: return pickle_push_list(machine, PICKLE_SEQUENCE, NULL, 0);   /* EMPTY_SET */
    case '}': return pickle_push_list(machine, PICKLE_DICT, NULL, 0);        /* EMPTY_DICT */
    case 't': return pickle_push_mark_list(machine, PICKLE_SEQUENCE);        /* TUPLE */
    case 'l': return pickle_push_mark_list(machine, PICKLE_SEQUENCE);        /* LIST */
    case 'd': return pickle_push_mark_list(machine, PICKLE_DICT);            /* DICT */
    case 0x85: return pickle_push_tuple(machine, 1);                         /* TUPLE1 */
    case 0x86: return pickle_push_tuple(machine, 2);                         /* TUPLE2 */
    case 0x87: return pickle_push_tuple(machine, 3);                         /* TUPLE3 */
    case 'a': return pickle_extend_last(machine, 1, PICKLE_SEQUENCE);        /* APPEND */
    case 'e': return pickle_extend_mark(machine, PICKLE_SEQUENCE);           /* APPENDS */
    case 0x90: return pickle_extend_mark(machine, PICKLE_SEQUENCE);          /* ADDITEMS */
    case 's': return pickle_extend_last(machine, 2, PICKLE_DICT);            /* SETITEM */
    case 'u': return pickle_extend_mark(machine, PICKLE_DICT);               /* SETITEMS */
    case 'q': return pickle_memo_put_sized(machine, 1);                      /* BINPUT */
    case 'r': return pickle_memo_put_sized(machine, 4);                      /* LONG_BINPUT */
    case 0x94: return pickle_memo_put(machine, machine->memo.count);         /* MEMOIZE */
    case 'h': return pickle_memo_get(machine, 1);                            /* BINGET */
    case 'j': return pickle_memo_get(machine, 4);                            /* LONG_BINGET */
    case 'c': return pickle_global_line(machine);                            /* GLOBAL */
    case 0x93: return pickle_global_stack(machine);                          /* STACK_GLOBAL */
    case 'Q': return pickle_persistent(machine);                             /* BINPERSID */
    case 'R': return pickle_call(machine);                                   /* REDUCE */
    case 0x81: return pickle_call(machine);                                  /* NEWOBJ */
    case 'b': return pickle_build(machine);                                  /* BUILD */
    default: break;
    }
    return pickle_fail(machine, PICKLE_UNKNOWN,
                       "its pickle has the instruction 0x%02x, which no file of numbers needs.",
                       code);
}

PICKLE_API void pickle_begin(pickle_machine *machine, const pickle_hooks *hooks, void *user)
{
    memset(machine, 0, sizeof *machine);
    if (hooks) machine->hooks = *hooks;
    machine->user = user;
}

PICKLE_API void pickle_end(pickle_machine *machine)
{
    while (machine->blocks) {
        pickle_block *next = machine->blocks->next;
        free(machine->blocks);
        machine->blocks = next;
    }
    machine->block_bytes = 0;
}

/* Runs the one pickle that begins at `start`; *next is what follows it. */
PICKLE_API int pickle_load(pickle_machine *machine, const unsigned char *start,
                           const unsigned char *end, pickle_value *result,
                           const unsigned char **next)
{
    memset(&machine->stack, 0, sizeof machine->stack);
    memset(&machine->memo, 0, sizeof machine->memo);
    machine->start = machine->at = start;
    machine->end = end;
    for (;;) {
        unsigned char code;
        if (machine->at == machine->end) return pickle_bad(machine, "cut off");
        code = *machine->at++;
        if (code == '.') break; /* STOP */
        if (!pickle_step(machine, code)) return 0;
    }
    *next = machine->at;
    return pickle_pop(machine, result);
}

#endif
