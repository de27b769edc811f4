/* picture.h - images from the files that people have: .npy, .npz, pickled object arrays, FITS. Needs
 * libc and libm. What a file is its first bytes say, not its name; nothing in a file is executed.
 *
 *   picture p;
 *   if (picture_read(&p, "galaxy.fits", 1, text)) ... p.pixels[(band * p.height + y) * p.width + x]
 *   picture_free(&p);
 *
 * One grey image is (H, W), (1, H, W) or (H, W, 1). Bands are the first axis or the last, whichever has
 * at most PICTURE_BANDS of them: (3, H, W) or (H, W, 3); they are given as planes. More along the first
 * axis of three, or a fourth axis before the others, is a stack: image k of it is named "file.npy[k]".
 * Of an object array the one array in it is taken that can be an image ([image, mass] of DeepLense's
 * Models I to III), or each if there are several; of an .npz likewise. "file.fits[1]" is, as in CFITSIO,
 * the extension 1; "cube.fits[0][7]" image 7 of a cube in the primary unit.
 *
 * Every function returns 1 on success; on failure it returns 0, leaves its outputs alone and writes
 * one sentence to `text`, which has room for NPY_TEXT characters and may be NULL. */
#ifndef PICTURE_H
#define PICTURE_H

#include "fits.h"
#include "npy.h"
#include "pickle.h"

#include <errno.h>
#include <float.h>
#include <sys/stat.h>

enum { PICTURE_BANDS = 10 }; /* the most along an axis that is not taken for rows or for a stack */

typedef struct picture {
    float *pixels; /* (bands, height, width), from malloc; not finite where the file's are not */
    size_t bands, height, width;
    double offset;          /* what was taken off every pixel, else 0: see picture_round */
    double pixel_scale;     /* arc seconds, 0: unknown */
    int has_sky;            /* 1: the next two are known */
    double ra, dec;         /* degrees */
    char object[FITS_WORD]; /* as the file has it, so clean it (text.h) before it is shown */
    char type[12];          /* "float64" */
    char shape[48];         /* "150,150" of the array in the file */
} picture;

NPY_API void picture_free(picture *p)
{
    free(p->pixels);
    memset(p, 0, sizeof *p);
}

/* ---- numbers somewhere, and which of them are the image ---- */

typedef struct picture_array {
    zip_source source;
    npy_header numbers; /* their type, shape and place in the source */
    double scale, zero; /* pixel = scale * number + zero */
    int has_blank;
    int64_t blank;
    size_t frames, bands, height, width;
    uint64_t stride[4]; /* of a frame, a band, a row, a column, counted in numbers */
} picture_array;

static const char *picture_type_name(const npy_header *h)
{
    switch (h->kind * 16 + h->item_size) {
    case 'f' * 16 + 2: return "float16";
    case 'f' * 16 + 4: return "float32";
    case 'f' * 16 + 8: return "float64";
    case 'u' * 16 + 1: return "uint8";
    case 'u' * 16 + 2: return "uint16";
    case 'u' * 16 + 4: return "uint32";
    case 'u' * 16 + 8: return "uint64";
    case 'i' * 16 + 1: return "int8";
    case 'i' * 16 + 2: return "int16";
    case 'i' * 16 + 4: return "int32";
    case 'i' * 16 + 8: return "int64";
    default: return "bool";
    }
}

static void picture_shape_text(char *out, size_t room, const npy_header *h)
{
    size_t at = 0;
    int d;
    out[0] = 0;
    for (d = 0; d < h->rank && at < room; d++)
        at += (size_t)snprintf(out + at, room - at, d ? ",%llu" : "%llu",
                               (unsigned long long)h->shape[d]);
}

static int picture_is_small(uint64_t n) { return n <= PICTURE_BANDS; }

/* Which axis of the shape is which; -1: there is none. 0 if it is no image. */
static int picture_axes(int axis[4], const npy_header *h)
{
    const uint64_t *s = h->shape;
    int first = h->rank - 3; /* of the last three axes */
    axis[0] = axis[1] = -1;
    if (h->rank < 2 || h->rank > 4) return 0;
    axis[2] = h->rank - 2;
    axis[3] = h->rank - 1;
    if (h->rank == 2) return 1;
    if (h->rank == 4) axis[0] = 0;
    if (picture_is_small(s[first]) && !picture_is_small(s[first + 1]) &&
        !picture_is_small(s[first + 2])) {
        axis[1] = first;
    } else if (picture_is_small(s[first + 2]) && !picture_is_small(s[first]) &&
               !picture_is_small(s[first + 1])) {
        axis[1] = first + 2;
        axis[2] = first;
        axis[3] = first + 1;
    } else if (s[first] == 1 || s[first + 2] == 1) { /* images of a few pixels */
        axis[1] = s[first] == 1 ? first : first + 2;
        axis[2] = s[first] == 1 ? first + 1 : first;
        axis[3] = axis[2] + 1;
    } else if (h->rank == 3) {
        axis[0] = 0;
    } else {
        return 0;
    }
    return 1;
}

/* Fills frames, bands, height, width and strides from the shape of a->numbers. */
static int picture_layout(picture_array *a, const char *path, char *text)
{
    const npy_header *h = &a->numbers;
    uint64_t stride[NPY_RANK], step = 1;
    size_t *const sizes[4] = {&a->frames, &a->bands, &a->height, &a->width};
    char shape[NPY_RANK * 22];
    int axis[4], i;
    picture_shape_text(shape, sizeof shape, h);
    if (!picture_axes(axis, h))
        return npy_fail(
            text,
            "%s: its shape is (%.200s), but one image is (H, W), (1, H, W) or (H, W, 1), "
            "with bands (3, H, W) or (H, W, 3), and a stack of them has one axis more in "
            "front; save one image per file",
            path, shape);
    if (h->count == 0)
        return npy_fail(text, "%s: it holds no pixels (a dimension of its shape is 0); remove it",
                        path);
    for (i = 0; i < h->rank; i++) {
        int d = h->fortran_order ? i : h->rank - 1 - i;
        stride[d] = step;
        step *= h->shape[d];
    }
    if (h->count > (uint64_t)(SIZE_MAX / 16))
        return npy_fail(text, "%s: the image is larger than this machine can address", path);
    for (i = 0; i < 4; i++) {
        *sizes[i] = axis[i] < 0 ? 1 : (size_t)h->shape[axis[i]];
        a->stride[i] = axis[i] < 0 ? 0 : stride[axis[i]];
    }
    return 1;
}

/* ---- reading ---- */

/* The number that begins at `bytes`, as a double; integers beyond 2^53 are rounded. */
static double picture_number(const npy_header *h, const unsigned char *bytes)
{
    uint64_t bits = 0, sign = (uint64_t)1 << (8 * h->item_size - 1);
    double value;
    int i;
    if (h->kind != 'i' && h->kind != 'u' && !(h->kind == 'f' && h->item_size == 8))
        return (double)npy_number(h, bytes);
    for (i = 0; i < h->item_size; i++)
        bits |= (uint64_t)bytes[h->big_endian ? h->item_size - 1 - i : i] << (8 * i);
    if (h->kind == 'u' || (h->kind == 'i' && !(bits & sign))) return (double)bits;
    if (h->kind == 'i') return -(double)((~bits & (sign - 1)) + 1);
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int picture_is_blank(const picture_array *a, const unsigned char *bytes)
{
    const npy_header *h = &a->numbers;
    uint64_t bits = 0,
             mask = h->item_size == 8 ? ~(uint64_t)0 : ((uint64_t)1 << 8 * h->item_size) - 1;
    int i;
    for (i = 0; i < h->item_size; i++)
        bits |= (uint64_t)bytes[h->big_endian ? h->item_size - 1 - i : i] << (8 * i);
    return bits == ((uint64_t)a->blank & mask);
}

/* Doubles to the picture's floats. Float keeps 24 bits of a number: where the pixels stand on a
 * pedestal that would eat all but about ten bits of what they differ by, it is taken off first, in
 * double, and p->offset says how much it was; every normalisation of one image is the same with and
 * without it. */
static int picture_round(picture *p, const double *values, size_t count, const char *path,
                         char *text)
{
    double low = DBL_MAX, high = -DBL_MAX, size;
    size_t i;
    for (i = 0; i < count; i++) {
        if (!(values[i] - values[i] == 0))
            continue; /* NaN and infinities are the caller's to judge */
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    size = -low > high ? -low : high;
    if (low <= high && size > (double)FLT_MAX)
        return npy_fail(
            text,
            "%s: a pixel is %g, beyond what 32-bit floating point holds (3.4e38); divide "
            "the image by a constant",
            path, -low > high ? low : high);
    p->offset = low < high && size > 16384 * (high - low) ? 0.5 * low + 0.5 * high : 0;
    for (i = 0; i < count; i++) p->pixels[i] = (float)(values[i] - p->offset);
    return 1;
}

/* Gathers the frame's numbers, which begin at `bytes`, into planes of doubles. */
static void picture_gather(double *values, const picture_array *a, const unsigned char *bytes)
{
    const size_t item = (size_t)a->numbers.item_size;
    size_t b, y, x;
    for (b = 0; b < a->bands; b++)
        for (y = 0; y < a->height; y++)
            for (x = 0; x < a->width; x++) {
                const unsigned char *at =
                    bytes + item * (size_t)(b * a->stride[1] + y * a->stride[2] + x * a->stride[3]);
                *values++ = a->has_blank && picture_is_blank(a, at)
                                ? (double)NAN
                                : a->zero + a->scale * picture_number(&a->numbers, at);
            }
}

/* Is the frame stored as the planes of floats that are wanted? */
static int picture_is_ready(const picture_array *a)
{
    return a->numbers.kind == 'f' && a->numbers.item_size == 4 &&
           a->numbers.big_endian == npy_native_is_big() && a->scale == 1 && a->zero == 0 &&
           (a->width == 1 || a->stride[3] == 1) && (a->height == 1 || a->stride[2] == a->width) &&
           (a->bands == 1 || a->stride[1] == a->height * a->width);
}

/* Image `frame` of the array. */
static int picture_load(picture *p, const picture_array *a, size_t frame, const char *path,
                        char *text)
{
    const size_t count = a->bands * a->height * a->width, item = (size_t)a->numbers.item_size;
    /* In Fortran order a frame's numbers lie all over the array. */
    const int apart = a->frames > 1 && a->stride[0] != count;
    const uint64_t first = a->stride[0] * frame, held = apart ? a->numbers.count : count;
    unsigned char *bytes = NULL;
    double *values = NULL;
    char why[ZIP_TEXT] = "no memory for the image";
    int good;
    p->pixels = (float *)malloc(count * sizeof *p->pixels);
    if (p->pixels && picture_is_ready(a) && !apart) {
        if (zip_read(&a->source, a->numbers.offset + first * item, p->pixels, count * item, why))
            return 1;
    } else if (p->pixels) {
        bytes = (unsigned char *)malloc((size_t)held * item);
        values = (double *)malloc(count * sizeof *values);
        good = bytes && values &&
               zip_read(&a->source, a->numbers.offset + (apart ? 0 : first * item), bytes,
                        (size_t)held * item, why);
        if (good) picture_gather(values, a, bytes + (apart ? (size_t)first * item : 0));
        why[0] = good ? 0 : why[0];
        good = good && picture_round(p, values, count, path, text);
        free(bytes);
        free(values);
        if (good) return 1;
    }
    free(p->pixels);
    p->pixels = NULL;
    return why[0] ? npy_fail(text, "%s: %s", path, why) : 0;
}

/* ---- pickled arrays ---- */

enum { PICTURE_ARRAY = PICKLE_OBJECT, PICTURE_DTYPE };

/* numpy.dtype */
typedef struct picture_dtype {
    char kind; /* as in npy_header; 'O': objects; 0: a type that is not read */
    int item_size, big_endian;
} picture_dtype;

/* numpy.ndarray */
typedef struct picture_pickled {
    npy_header numbers;
    const unsigned char *bytes;
    const pickle_list *objects; /* of an object array, in C order */
} picture_pickled;

static int picture_wrong(pickle_machine *machine, const char *problem)
{
    pickle_bad(machine, problem);
    return -1;
}

/* 'f8' and the like. */
static int picture_make_dtype(pickle_machine *machine, const pickle_list *arguments,
                              pickle_value *result)
{
    picture_dtype *type = (picture_dtype *)pickle_allocate(machine, sizeof *type);
    const pickle_text code = arguments->count ? arguments->items[0].text : pickle_plain(0, 0).text;
    if (!type) return -1;
    type->big_endian = npy_native_is_big();
    if (code.length == 2 && strchr("fiubO", code.text[0]) && strchr("1248", code.text[1])) {
        type->kind = code.text[0];
        type->item_size = code.text[1] - '0';
        if (type->kind == 'f' && type->item_size == 1) type->kind = 0;
        if (type->kind == 'b' && type->item_size != 1) type->kind = 0;
    }
    *result = pickle_plain(PICTURE_DTYPE, 0);
    result->object = type;
    return 1;
}

static int picture_make_array(pickle_machine *machine, pickle_value *result)
{
    *result = pickle_plain(PICTURE_ARRAY, 0);
    result->object = pickle_allocate(machine, sizeof(picture_pickled));
    return result->object ? 1 : -1;
}

/* _codecs.encode(text, 'latin1'): how protocol 2 writes bytes. The text is UTF-8. */
static int picture_latin1(pickle_machine *machine, const pickle_list *arguments,
                          pickle_value *result)
{
    const pickle_text from = arguments->items[0].text;
    pickle_text to;
    char *bytes = (char *)pickle_allocate(machine, from.length + 1);
    size_t i;
    if (!bytes) return -1;
    to.text = bytes;
    to.length = 0;
    for (i = 0; i < from.length; i++) {
        unsigned char c = (unsigned char)from.text[i];
        if (c >= 0x80) {
            if ((c != 0xc2 && c != 0xc3) || i + 1 == from.length)
                return picture_wrong(machine, "bytes that are none");
            c = (unsigned char)(c << 6 | (from.text[++i] & 0x3f));
        }
        bytes[to.length++] = (char)c;
    }
    *result = pickle_named(PICKLE_BYTES, to);
    return 1;
}

/* (version, byte order, ...) */
static int picture_build_dtype(picture_dtype *type, const pickle_list *state)
{
    if (state->count >= 2 && pickle_is(state->items[1].text, ">")) type->big_endian = 1;
    if (state->count >= 2 && pickle_is(state->items[1].text, "<")) type->big_endian = 0;
    return 1;
}

/* Gives an array its type, its shape (a tuple) and its numbers: bytes, or of objects a list. */
static int picture_fill(pickle_machine *machine, picture_pickled *array, const pickle_value *dtype,
                        const pickle_value *shape, int fortran_order, const pickle_value *data)
{
    const picture_dtype *type = (const picture_dtype *)dtype->object;
    npy_header *h = &array->numbers;
    uint64_t count = 1, size;
    size_t i;
    if (shape->kind != PICKLE_SEQUENCE || shape->list->count > NPY_RANK ||
        dtype->kind != PICTURE_DTYPE)
        return picture_wrong(machine,
                             "an array made of something else than shape, type and numbers");
    h->kind = type->kind;
    h->item_size = type->item_size;
    h->big_endian = type->big_endian;
    h->fortran_order = fortran_order;
    h->rank = (int)shape->list->count;
    for (i = 0; i < shape->list->count; i++) {
        const pickle_value *n = shape->list->items + i;
        if (n->kind != PICKLE_INTEGER || n->integer < 0 ||
            (n->integer && count > UINT64_MAX / 16 / (uint64_t)n->integer))
            return picture_wrong(machine, "an array of an impossible shape");
        h->shape[i] = (uint64_t)n->integer;
        count *= h->shape[i];
    }
    h->count = count;
    size = data->kind == PICKLE_SEQUENCE ? data->list->count : data->text.length;
    if (type->kind == 'O' ? size != count || data->kind != PICKLE_SEQUENCE
                          : type->kind && (size != count * (uint64_t)type->item_size ||
                                           data->kind == PICKLE_SEQUENCE))
        return picture_wrong(machine, "an array with more or fewer numbers than its shape has");
    array->bytes = (const unsigned char *)data->text.text;
    array->objects = data->kind == PICKLE_SEQUENCE ? data->list : NULL;
    return 1;
}

/* (version, shape, dtype, in Fortran order, numbers) */
static int picture_build_array(pickle_machine *machine, picture_pickled *array,
                               const pickle_list *state)
{
    const pickle_value *item = state->items;
    if (state->count < 5 || item[3].kind != PICKLE_INTEGER)
        return picture_wrong(machine,
                             "an array made of something else than shape, type and numbers");
    return picture_fill(machine, array, &item[2], &item[1], item[3].integer != 0, &item[4]);
}

/* numpy.core in NumPy 1, numpy._core in NumPy 2 */
static int picture_is_numpy(pickle_text name, const char *function)
{
    char whole[64];
    snprintf(whole, sizeof whole, "numpy.core.%s", function);
    if (pickle_is(name, whole)) return 1;
    snprintf(whole, sizeof whole, "numpy._core.%s", function);
    return pickle_is(name, whole);
}

/* _frombuffer(bytes, dtype, shape, order), of protocol 5 */
static int picture_from_buffer(pickle_machine *machine, const pickle_list *arguments,
                               pickle_value *result)
{
    const pickle_value *item = arguments->items;
    if (arguments->count < 4 || item[0].kind != PICKLE_BYTES)
        return picture_wrong(machine,
                             "an array made of something else than shape, type and numbers");
    if (picture_make_array(machine, result) < 0) return -1;
    return picture_fill(machine, (picture_pickled *)result->object, &item[1], &item[2],
                        pickle_is(item[3].text, "F"), &item[0]);
}

/* A scalar such as numpy.float64: dtype, bytes. It is no image, so its value is not needed. */
static int picture_call(pickle_machine *machine, const pickle_value *function,
                        const pickle_list *arguments, pickle_value *result)
{
    const pickle_text name = function->text;
    if (pickle_is(name, "numpy dtype")) return picture_make_dtype(machine, arguments, result);
    if (picture_is_numpy(name, "multiarray _reconstruct"))
        return picture_make_array(machine, result);
    if (picture_is_numpy(name, "numeric _frombuffer"))
        return picture_from_buffer(machine, arguments, result);
    if (picture_is_numpy(name, "multiarray scalar")) {
        *result = pickle_plain(PICKLE_FLOAT, 0);
        return 1;
    }
    if (pickle_is(name, "_codecs encode") && arguments->count >= 1 &&
        arguments->items[0].kind == PICKLE_STRING)
        return picture_latin1(machine, arguments, result);
    return 0;
}

static int picture_build(pickle_machine *machine, pickle_value *object, const pickle_value *state)
{
    if (object->kind != PICTURE_ARRAY && object->kind != PICTURE_DTYPE) return 0;
    if (state->kind != PICKLE_SEQUENCE)
        return picture_wrong(machine, "attributes that are no tuple");
    if (object->kind == PICTURE_DTYPE)
        return picture_build_dtype((picture_dtype *)object->object, state->list);
    return picture_build_array(machine, (picture_pickled *)object->object, state->list);
}

/* What an object array holds that can be an image, in order. */
typedef struct picture_found {
    picture_array array; /* the one that was asked for */
    size_t count, wanted;
    pickle_machine *machine;
} picture_found;

static void picture_find_values(picture_found *found, const npy_header *numbers,
                                const unsigned char *bytes)
{
    picture_array a;
    memset(&a, 0, sizeof a);
    a.numbers = *numbers;
    a.numbers.offset = 0;
    a.scale = 1;
    a.source = zip_from_memory(bytes, numbers->count * (uint64_t)numbers->item_size);
    if (!picture_layout(&a, "", NULL) || a.frames != 1) return;
    if (found->count++ == found->wanted) found->array = a;
}

static int picture_is_value(const pickle_value *v)
{
    return v->kind == PICKLE_FLOAT || v->kind == PICKLE_INTEGER;
}

/* Rows of plain numbers: `rows` lists of equal length, or one list with rows * columns. */
static int picture_find_rows(picture_found *found, const pickle_list *list, size_t rows,
                             size_t columns)
{
    npy_header h;
    double *values;
    size_t i, count = rows * columns;
    for (i = 0; i < count; i++) {
        const pickle_value *row = list->items + (list->count == count ? i : i / columns);
        if (list->count != count && (row->kind != PICKLE_SEQUENCE || row->list->count != columns))
            return 1;
        if (!picture_is_value(list->count == count ? row : row->list->items + i % columns))
            return 1;
    }
    values = (double *)pickle_allocate(found->machine, count * sizeof *values);
    if (!values) return 0;
    for (i = 0; i < count; i++) {
        const pickle_value *row = list->items + (list->count == count ? i : i / columns);
        const pickle_value *v = list->count == count ? row : row->list->items + i % columns;
        values[i] = v->kind == PICKLE_FLOAT ? v->number : (double)v->integer;
    }
    memset(&h, 0, sizeof h);
    h.kind = 'f';
    h.item_size = 8;
    h.big_endian = npy_native_is_big();
    h.rank = 2;
    h.shape[0] = rows;
    h.shape[1] = columns;
    h.count = count;
    picture_find_values(found, &h, (const unsigned char *)values);
    return 1;
}

/* Looks into one object: an array, a list, an array of objects. 0 only without memory. */
static int picture_find(picture_found *found, const pickle_value *v, int depth)
{
    const picture_pickled *array =
        v->kind == PICTURE_ARRAY ? (const picture_pickled *)v->object : NULL;
    const pickle_list *list = v->kind == PICKLE_SEQUENCE ? v->list : array ? array->objects : NULL;
    size_t i;
    if (array && array->numbers.kind && array->numbers.kind != 'O')
        picture_find_values(found, &array->numbers, array->bytes);
    if (!list || depth > 3 || !list->count) return 1;
    if (array && array->objects && array->numbers.rank == 2 && picture_is_value(&list->items[0]))
        return picture_find_rows(found, list, (size_t)array->numbers.shape[0],
                                 (size_t)array->numbers.shape[1]);
    if (list->items[0].kind == PICKLE_SEQUENCE && list->items[0].list->count > 1 &&
        picture_is_value(&list->items[0].list->items[0]))
        return picture_find_rows(found, list, list->count, list->items[0].list->count);
    for (i = 0; i < list->count; i++)
        if (!picture_find(found, list->items + i, depth + 1)) return 0;
    return 1;
}

/* ---- what is in a file ---- */

/* An open file, or what was unpacked of one. */
typedef struct picture_file {
    const char *path; /* as it is named in sentences */
    FILE *file;
    zip_source source;
    unsigned char *unpacked; /* of an .npz */
    pickle_machine machine;  /* of an object array */
    picture_array array;
    size_t frames;
    int fits;          /* 1: the next is known */
    fits_image header; /* of a FITS file */
} picture_file;

static void picture_close(picture_file *f)
{
    pickle_end(&f->machine);
    free(f->unpacked);
    if (f->file) fclose(f->file);
    memset(f, 0, sizeof *f);
}

/* The pickle behind the header of an object array. */
static int picture_open_pickle(picture_file *f, size_t frame, char *text)
{
    static const pickle_hooks hooks = {picture_call, picture_build, NULL};
    const uint64_t offset = f->array.numbers.offset, size = f->source.size - offset;
    const unsigned char *rest;
    picture_found found;
    pickle_value root;
    char why[ZIP_TEXT] = "no memory for its objects";
    unsigned char *bytes =
        size <= PICKLE_MEMORY_MAX ? (unsigned char *)malloc((size_t)size + 1) : NULL;
    if (!bytes || !zip_read(&f->source, offset, bytes, (size_t)size, why)) {
        free(bytes);
        return npy_fail(text, "%s: %s", f->path, why);
    }
    free(f->unpacked);
    f->unpacked = bytes;
    pickle_begin(&f->machine, &hooks, NULL);
    memset(&found, 0, sizeof found);
    found.wanted = frame;
    found.machine = &f->machine;
    if (!pickle_load(&f->machine, bytes, bytes + size, &root, &rest) ||
        !picture_find(&found, &root, 0))
        return npy_fail(text, "%s: %s", f->path, f->machine.text);
    if (!found.count)
        return npy_fail(
            text,
            "%s: it is a pickled object array without an array of numbers in it that can "
            "be an image; save the image with numpy.save(name, image.astype('float32'))",
            f->path);
    f->array = found.array;
    f->frames = found.count;
    return 1;
}

/* An array in .npy form that begins at f->source. */
static int picture_open_npy(picture_file *f, size_t frame, char *text)
{
    unsigned char start[NPY_PREFIX + NPY_HEADER_LIMIT];
    const size_t size = f->source.size < sizeof start ? (size_t)f->source.size : sizeof start;
    char why[ZIP_TEXT];
    npy_header *h = &f->array.numbers;
    if (!zip_read(&f->source, 0, start, size, why)) return npy_fail(text, "%s: %s", f->path, why);
    if (!npy_parse_any(h, start, size, f->source.size, f->path, text)) return 0;
    if (h->kind == 'O') return picture_open_pickle(f, frame, text);
    f->array.source = f->source;
    f->array.scale = 1;
    if (!picture_layout(&f->array, f->path, text)) return 0;
    f->frames = f->array.frames;
    return 1;
}

/* Which entry of an .npz is the image: the only one that can be, or the one that is called so. */
static const zip_entry *picture_choose(const zip_archive *archive, const char *path, char *text)
{
    static const char *const usual[] = {"image.npy", "img.npy", "arr_0.npy", "data.npy"};
    const zip_entry *only = archive->count == 1 ? archive->entries : NULL;
    char list[200] = "";
    size_t i;
    for (i = 0; !only && i < sizeof usual / sizeof *usual; i++)
        only = zip_find(archive, usual[i], strlen(usual[i]));
    if (only) return only;
    if (zip_find(archive, "archive/data.pkl", 16) || zip_find(archive, "data.pkl", 8)) {
        npy_fail(text, "%s: it is a file of torch.save; save each image with numpy.save", path);
        return NULL;
    }
    for (i = 0; i < archive->count && strlen(list) < 120; i++) {
        zip_quoted name;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%.60s", i ? ", " : "",
                 zip_quote(&name, archive->entries[i].name, archive->entries[i].name_length));
    }
    npy_fail(
        text,
        "%s: it is a zip archive of %lu files (%s); an .npz with one array, or with one that is "
        "called image, is read",
        path, (unsigned long)archive->count, list);
    return NULL;
}

static int picture_open_zip(picture_file *f, size_t frame, char *text)
{
    const zip_source whole = f->source;
    zip_archive archive;
    const zip_entry *entry;
    char why[ZIP_TEXT];
    int good;
    if (!zip_open(&archive, &whole, why)) return npy_fail(text, "%s: %s", f->path, why);
    entry = picture_choose(&archive, f->path, text);
    good = entry != NULL;
    if (good && !zip_check(entry, why)) good = npy_fail(text, "%s: %s", f->path, why);
    if (good && !(f->unpacked = (unsigned char *)malloc((size_t)entry->size + 1)))
        good = npy_fail(text, "%s: no memory for its array", f->path);
    if (good && !zip_unpack(f->unpacked, &archive, entry, why))
        good = npy_fail(text, "%s: %s", f->path, why);
    if (good) f->source = zip_from_memory(f->unpacked, entry->size);
    zip_close(&archive);
    return good && picture_open_npy(f, frame, text);
}

static int picture_open_fits(picture_file *f, int unit, char *text)
{
    char why[ZIP_TEXT];
    picture_array *a = &f->array;
    int i;
    if (!fits_find(&f->header, &f->source, unit, why))
        return npy_fail(text, "%s: %s", f->path, why);
    f->fits = 1;
    a->source = f->source;
    a->numbers.kind = f->header.bitpix < 0 ? 'f' : f->header.bitpix == 8 ? 'u' : 'i';
    a->numbers.item_size = abs(f->header.bitpix) / 8;
    a->numbers.big_endian = 1;
    a->numbers.offset = f->header.offset;
    a->numbers.count = 1;
    for (i = 0; i < f->header.rank; i++) {
        if (f->header.rank > 2 && f->header.shape[i] == 1 &&
            a->numbers.rank + f->header.rank - i > 2)
            continue; /* axes of one, as radio images have them */
        a->numbers.shape[a->numbers.rank++] = f->header.shape[i];
        a->numbers.count *= f->header.shape[i];
    }
    a->scale = f->header.scale;
    a->zero = f->header.zero;
    a->has_blank = f->header.has_blank && f->header.bitpix > 0;
    a->blank = f->header.blank;
    if (!picture_layout(a, f->path, text)) return 0;
    f->frames = a->frames;
    return 1;
}

static int picture_open_file(picture_file *f, const char *name, char *text)
{
    struct stat info;
    long size = -1;
    if (stat(name, &info) != 0)
        return npy_fail(text, "%s: cannot be opened: %s", f->path, strerror(errno));
#ifdef S_ISREG
    if (!S_ISREG(info.st_mode))
        return npy_fail(
            text, "%s: cannot be read; a file expected, not a folder, a pipe or a device", f->path);
#endif
    f->file = fopen(name, "rb");
    if (!f->file) return npy_fail(text, "%s: cannot be opened: %s", f->path, strerror(errno));
    if (fseek(f->file, 0, SEEK_END) == 0) size = ftell(f->file);
    if (size < 0) return npy_fail(text, "%s: cannot be read: %s", f->path, strerror(errno));
    f->source = zip_from_file(f->file, (uint64_t)size);
    return 1;
}

/* Splits "name[unit][frame]" at the brackets: how many numbers there are, 0 ... 2. */
static int picture_brackets(size_t numbers[2], char *name)
{
    int n = 0;
    while (n < 2) {
        size_t length = strlen(name), digits = 0;
        const char *open;
        if (length < 4 || name[length - 1] != ']') break;
        open = strrchr(name, '[');
        if (!open || open == name) break;
        digits = strspn(open + 1, "0123456789");
        if (digits == 0 || digits > 9 || open + 1 + digits != name + length - 1) break;
        numbers[1] = numbers[0];
        numbers[0] = (size_t)strtoul(open + 1, NULL, 10);
        name[open - name] = 0;
        n++;
    }
    return n;
}

/* Finds the image in f->source; of the name's `n` numbers in brackets the last is that of the image. */
static int picture_recognise(picture_file *f, size_t *frame, int *one, const size_t numbers[2],
                             int n, char *text)
{
    unsigned char start[8] = {0};
    const size_t size = f->source.size < sizeof start ? (size_t)f->source.size : sizeof start;
    char why[ZIP_TEXT];
    int good, fits;
    if (!zip_read(&f->source, 0, start, size, why)) return npy_fail(text, "%s: %s", f->path, why);
    fits = !memcmp(start, "SIMPLE", 6);
    *one = fits ? n == 2 : n == 1;
    *frame = fits ? numbers[1] : numbers[0];
    if (n == 2 && !fits)
        return npy_fail(text, "%s: two numbers in brackets are for FITS files alone", f->path);
    if (fits)
        good = picture_open_fits(f, n ? (int)numbers[0] : -1, text);
    else if (!memcmp(start, "PK\003\004", 4))
        good = picture_open_zip(f, *frame, text);
    else
        good = picture_open_npy(f, *frame, text);
    if (good && *frame >= f->frames)
        good = npy_fail(text, "%s: it holds %lu images, the first is [0]", f->path,
                        (unsigned long)f->frames);
    return good;
}

/* Opens what `path` names: *frame is the image in it that is meant, *one is 1 if the name says so. */
static int picture_open(picture_file *f, size_t *frame, int *one, const char *path, char *text)
{
    size_t numbers[2] = {0, 0};
    const size_t size = strlen(path) + 1;
    struct stat info;
    char *name = (char *)malloc(size);
    int n = 0, good;
    memset(f, 0, sizeof *f);
    f->path = path;
    *frame = 0;
    *one = 0;
    if (!name) return npy_fail(text, "%s: no memory for its name", path);
    memcpy(name, path, size);
    if (stat(path, &info) != 0) n = picture_brackets(numbers, name);
    good = picture_open_file(f, n ? name : path, text) &&
           picture_recognise(f, frame, one, numbers, n, text);
    free(name);
    if (!good) picture_close(f);
    return good;
}

/* What stands between a stack's name and the number of an image in it: "" or, for FITS without a unit in
 * its name, the unit's "[0]". `room` for 16 characters. */
NPY_API void picture_unit(char room[16], const char *path)
{
    picture_file f;
    size_t frame;
    struct stat info;
    int one;
    room[0] = 0;
    if (stat(path, &info) != 0 || !picture_open(&f, &frame, &one, path, NULL)) return;
    if (f.fits) snprintf(room, 16, "[%d]", f.header.unit);
    picture_close(&f);
}

/* How many images the file has; 1 for a name that ends in brackets. Reads no pixels. */
NPY_API int picture_count(size_t *count, const char *path, char *text)
{
    picture_file f;
    size_t frame;
    int one;
    if (!picture_open(&f, &frame, &one, path, text)) return 0;
    *count = one ? 1 : f.frames;
    picture_close(&f);
    return 1;
}

/* Says what to do about a number of bands, or of images, that was not expected. */
static int picture_check_bands(const picture_file *f, size_t bands, int one, char *text)
{
    char shape[64];
    picture_shape_text(shape, sizeof shape, &f->array.numbers);
    if (f->frames > 1 && !one)
        return npy_fail(text,
                        "%s: its shape is (%s), a stack of %lu images; one is named %s[0], and "
                        "--stack takes them all",
                        f->path, shape, (unsigned long)f->frames, f->path);
    if (!bands || f->array.bands == bands) return 1;
    if (bands == 1)
        return npy_fail(
            text,
            "%s: its shape is (%s), %lu bands, but grey images are wanted; save one band, "
            "or train a network for them (--bands %lu); --stack takes them for so many images",
            f->path, shape, (unsigned long)f->array.bands, (unsigned long)f->array.bands);
    return npy_fail(text, "%s: its shape is (%s), %lu band%s, but images of %lu are wanted",
                    f->path, shape, (unsigned long)f->array.bands, f->array.bands == 1 ? "" : "s",
                    (unsigned long)bands);
}

/* Reads image `frame` of an open file. */
static int picture_take(picture *p, const picture_file *f, size_t frame, int one, size_t bands,
                        char *text)
{
    picture read;
    memset(&read, 0, sizeof read);
    read.bands = f->array.bands;
    read.height = f->array.height;
    read.width = f->array.width;
    snprintf(read.type, sizeof read.type, "%s", picture_type_name(&f->array.numbers));
    picture_shape_text(read.shape, sizeof read.shape, &f->array.numbers);
    if (f->fits) {
        read.pixel_scale = f->header.pixel_scale;
        read.has_sky = f->header.has_sky;
        read.ra = f->header.ra;
        read.dec = f->header.dec;
        memcpy(read.object, f->header.object, sizeof read.object);
    }
    if (!picture_check_bands(f, bands, one, text) ||
        !picture_load(&read, &f->array, f->array.frames > 1 ? frame : 0, f->path, text))
        return 0;
    *p = read;
    return 1;
}

/* Reads the image that `path` names, of `bands` bands (0: as many as there are). */
NPY_API int picture_read(picture *p, const char *path, size_t bands, char *text)
{
    picture_file f;
    size_t frame;
    int one, good;
    if (!picture_open(&f, &frame, &one, path, text)) return 0;
    good = picture_take(p, &f, frame, one, bands, text);
    picture_close(&f);
    return good;
}

#endif
