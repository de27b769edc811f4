/* npy.h - reads and writes NumPy's .npy files; needs libc only.
 *
 * The format is that of numpy.lib.format: six bytes of magic, a version, the length of a header, a
 * Python dict literal with `descr`, `fortran_order` and `shape`, and the numbers. Versions 1, 2 and 3,
 * every real number type, both byte orders and both memory orders are read. A file is taken for
 * hostile: every size is checked against the file's own length before it is used, and nothing in a
 * file is ever executed (object arrays, which are Python pickles, are refused; picture.h reads those
 * that hold an image, and other formats).
 *
 * Every function returns 1 on success; on failure it returns 0, leaves its outputs alone and writes
 * one sentence to `text`, which has room for NPY_TEXT characters and may be NULL. */
#ifndef NPY_H
#define NPY_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifdef __GNUC__
#define NPY_API __attribute__((unused)) static
#else
#define NPY_API static
#endif

enum {
    NPY_TEXT = 508,           /* room for an error sentence */
    NPY_RANK = 32,            /* most dimensions, as in NumPy */
    NPY_HEADER_LIMIT = 10000, /* longest header, NumPy's own limit */
    NPY_PREFIX = 12           /* most bytes before the header: magic, version, length */
};

typedef struct npy_header {
    char kind;                /* 'f' float, 'i' signed, 'u' unsigned, 'b' bool; 'O' objects */
    int item_size;            /* bytes of a number: 1, 2, 4 or 8 */
    int big_endian;           /* 1: most significant byte first */
    int fortran_order;        /* 1: the first index runs fastest */
    int rank;                 /* 0 for a single number */
    uint64_t shape[NPY_RANK]; /* `rank` of them */
    uint64_t count;           /* their product: how many numbers the file holds */
    uint64_t offset;          /* of the first number in the file */
} npy_header;

/* ---- errors ---- */

static int npy_fail(char *text, const char *format, ...)
{
    if (text) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, NPY_TEXT, format, arguments);
        va_end(arguments);
    }
    return 0;
}

/* ---- the header, a small part of Python's grammar ---- */

typedef struct npy_cursor {
    const char *at, *end;
    const char *path; /* for messages */
    char *text;
} npy_cursor;

static void npy_skip_space(npy_cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
        c->at++;
}

/* Skips space, then takes `sign` if it stands there. */
static int npy_take(npy_cursor *c, char sign)
{
    npy_skip_space(c);
    if (c->at == c->end || *c->at != sign) return 0;
    c->at++;
    return 1;
}

static int npy_expect(npy_cursor *c, char sign)
{
    if (npy_take(c, sign)) return 1;
    return npy_fail(c->text,
                    "%s: its .npy header is malformed: '%c' expected; is the file damaged?",
                    c->path, sign);
}

static int npy_take_word(npy_cursor *c, const char *word)
{
    size_t length = strlen(word);
    npy_skip_space(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0) return 0;
    c->at += length;
    return 1;
}

/* A string literal without escapes, copied to `out` (room for `capacity` characters). */
static int npy_string(npy_cursor *c, char *out, size_t capacity)
{
    size_t length = 0;
    char quote;
    npy_skip_space(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
        return npy_fail(c->text,
                        "%s: its .npy header is malformed: a quoted word expected; is the "
                        "file damaged?",
                        c->path);
    quote = *c->at++;
    while (c->at < c->end && *c->at != quote) {
        unsigned char sign = (unsigned char)*c->at++;
        if (sign < ' ' || sign > '~' || sign == '\\' || length + 1 >= capacity)
            return npy_fail(c->text,
                            "%s: its .npy header holds an odd or overlong word; is the file "
                            "damaged?",
                            c->path);
        out[length++] = (char)sign;
    }
    out[length] = 0;
    return npy_expect(c, quote);
}

static int npy_dimension(npy_cursor *c, uint64_t *value)
{
    const char *first = c->at;
    uint64_t v = 0;
    if (c->at < c->end && *c->at == '-')
        return npy_fail(c->text,
                        "%s: its shape has a negative dimension; save the array again with "
                        "numpy.save",
                        c->path);
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') {
        uint64_t digit = (uint64_t)(*c->at - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return npy_fail(c->text,
                            "%s: its shape has a dimension beyond 64 bits; is the file "
                            "damaged?",
                            c->path);
        v = v * 10 + digit;
        c->at++;
    }
    if (c->at == first || (*first == '0' && c->at - first > 1))
        return npy_fail(c->text,
                        "%s: its shape is malformed: a whole number expected; is the file "
                        "damaged?",
                        c->path);
    if (c->at < c->end && (*c->at == 'L' || *c->at == 'l')) c->at++; /* Python 2's long */
    *value = v;
    return 1;
}

/* A tuple of whole numbers; a comma must follow the only member of a tuple of one. */
static int npy_shape(npy_cursor *c, npy_header *h)
{
    int comma = 1;
    h->rank = 0;
    if (!npy_expect(c, '(')) return 0;
    while (!npy_take(c, ')')) {
        if (!comma) return npy_expect(c, ',');
        if (h->rank == NPY_RANK)
            return npy_fail(c->text,
                            "%s: its shape has more than %d dimensions; an image has 2 or 3",
                            c->path, (int)NPY_RANK);
        npy_skip_space(c);
        if (!npy_dimension(c, &h->shape[h->rank])) return 0;
        h->rank++;
        comma = npy_take(c, ',');
    }
    if (h->rank == 1 && !comma) return npy_expect(c, ',');
    return 1;
}

/* What a refused type code means, and what to do about it. */
static int npy_refuse_type(npy_cursor *c, const char *code)
{
    switch (code[strspn(code, "<>|=")]) {
    case 'c':
        return npy_fail(c->text,
                        "%s: it holds complex numbers (%s); save the part you mean, e.g. "
                        "numpy.save(name, a.real)",
                        c->path, code);
    case 'S':
    case 'a':
    case 'U':
        return npy_fail(c->text, "%s: it holds text (%s); an array of numbers is needed", c->path,
                        code);
    case 'V':
        if (strpbrk(code, "12") && strlen(strpbrk(code, "12")) == 1)
            return npy_fail(
                c->text,
                "%s: it holds numbers of a type that NumPy itself does not know (%s), such "
                "as bfloat16 of ml_dtypes; save them with a.astype('float32')",
                c->path, code);
        return npy_fail(c->text,
                        "%s: it holds records (%s); save the field you mean as an array of "
                        "numbers",
                        c->path, code);
    case 'm':
    case 'M':
        return npy_fail(c->text, "%s: it holds dates (%s); an array of numbers is needed", c->path,
                        code);
    default:
        return npy_fail(c->text,
                        "%s: numbers of type '%s' cannot be read; save them with "
                        "a.astype('float32')",
                        c->path, code);
    }
}

static int npy_native_is_big(void)
{
    const uint16_t one = 1;
    return *(const unsigned char *)&one == 0;
}

/* `descr`: a byte order, a kind and a size such as <f4; a list would be a structured type. */
static int npy_type(npy_cursor *c, npy_header *h)
{
    char code[32];
    const char *at = code;
    npy_skip_space(c);
    if (c->at < c->end && *c->at == '[')
        return npy_fail(c->text,
                        "%s: it is a structured array of records; save the field you mean as "
                        "an array of numbers",
                        c->path);
    if (!npy_string(c, code, sizeof code)) return 0;
    h->big_endian = npy_native_is_big();
    if (*at == '<' || *at == '>') h->big_endian = *at == '>';
    if (*at == '<' || *at == '>' || *at == '|' || *at == '=') at++;
    if (*at == 'O') {
        h->kind = 'O';
        h->item_size = 0;
        return 1;
    }
    if (strlen(at) != 2 || at[1] < '1' || at[1] > '8') return npy_refuse_type(c, code);
    h->kind = at[0];
    h->item_size = at[1] - '0';
    switch (h->kind) {
    case 'b': return h->item_size == 1 ? 1 : npy_refuse_type(c, code);
    case 'f':
        if (h->item_size == 1) return npy_refuse_type(c, code);
        break;
    case 'i':
    case 'u': break;
    default: return npy_refuse_type(c, code);
    }
    if (h->item_size & (h->item_size - 1)) return npy_refuse_type(c, code);
    return 1;
}

static int npy_bool(npy_cursor *c, int *value)
{
    *value = npy_take_word(c, "True");
    if (*value || npy_take_word(c, "False")) return 1;
    return npy_fail(
        c->text, "%s: its .npy header is malformed: fortran_order must be True or False", c->path);
}

/* The dict literal: each of the three keys once, in any order, and no other. */
static int npy_dict(npy_cursor *c, npy_header *h)
{
    static const char *const names[3] = {"descr", "fortran_order", "shape"};
    int seen[3] = {0, 0, 0}, comma = 1, k;
    if (!npy_expect(c, '{')) return 0;
    while (!npy_take(c, '}')) {
        char key[16];
        if (!comma) return npy_expect(c, ',');
        if (!npy_string(c, key, sizeof key)) return 0;
        for (k = 0; k < 3 && strcmp(key, names[k]) != 0;) k++;
        if (k == 3 || seen[k])
            return npy_fail(c->text,
                            "%s: its .npy header has the key '%s' %s; is the file damaged?",
                            c->path, key, k == 3 ? "that no version knows" : "twice");
        seen[k] = 1;
        if (!npy_expect(c, ':')) return 0;
        if (!(k == 0 ? npy_type(c, h) : k == 1 ? npy_bool(c, &h->fortran_order) : npy_shape(c, h)))
            return 0;
        comma = npy_take(c, ',');
    }
    for (k = 0; k < 3; k++)
        if (!seen[k])
            return npy_fail(c->text, "%s: its .npy header lacks the key '%s'; is the file damaged?",
                            c->path, names[k]);
    npy_skip_space(c);
    if (c->at != c->end)
        return npy_fail(c->text,
                        "%s: its .npy header goes on after the closing brace; is the file "
                        "damaged?",
                        c->path);
    return 1;
}

/* Says what a file without the magic seems to be. */
static int npy_refuse_magic(const unsigned char *b, size_t size, const char *path, char *text)
{
    static const struct {
        const char *magic;
        size_t length;
        const char *what;
    } known[] = {{"PK\003\004", 4, "it is a .npz or zip archive"},
                 {"SIMPLE", 6, "it is a FITS file"},
                 {"\211PNG", 4, "it is a PNG picture"},
                 {"\377\330\377", 3, "it is a JPEG picture"},
                 {"GIF8", 4, "it is a GIF picture"},
                 {"BM", 2, "it is a BMP picture"},
                 {"II*\0", 4, "it is a TIFF picture"},
                 {"MM\0*", 4, "it is a TIFF picture"},
                 {"RIFF", 4, "it is a WebP picture or other RIFF file"},
                 {"\211HDF", 4, "it is an HDF5 file"},
                 {"#ASDF", 5, "it is an ASDF file"},
                 {"\037\213", 2, "it is packed by gzip; unpack it with gunzip first"},
                 {"BZh", 3, "it is packed by bzip2; unpack it with bunzip2 first"},
                 {"\3757zXZ", 5, "it is packed by xz; unpack it with unxz first"},
                 {"version https://git-lfs", 23,
                  "it is a Git LFS pointer, not the file itself; fetch that with git lfs pull"},
                 {"<", 1, "it is HTML or XML; was a web page saved in place of the file?"},
                 {"\200\002", 2, "it is a Python pickle"},
                 {"\200\003", 2, "it is a Python pickle"},
                 {"\200\004", 2, "it is a Python pickle"},
                 {"\200\005", 2, "it is a Python pickle"}};
    const char *found = size > 8 && b[8] == '{' && !b[7]
                            ? "it is a safetensors file (are weights and image exchanged?)"
                            : "its first bytes are not those of a .npy file";
    size_t i;
    if (size == 0) found = "the file is empty (0 bytes)";
    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (size >= known[i].length && memcmp(b, known[i].magic, known[i].length) == 0) {
            found = known[i].what;
            if (strchr(found, ';')) return npy_fail(text, "%s: %s", path, found);
            break;
        }
    return npy_fail(text, "%s: %s; save each image with numpy.save", path, found);
}

/* Product of the shape, checked to fit the file: count numbers of item_size bytes after offset. */
static int npy_check_size(npy_header *h, uint64_t file_size, const char *path, char *text)
{
    uint64_t count = 1, left = file_size - h->offset;
    int d, empty = 0;
    for (d = 0; d < h->rank; d++) empty |= h->shape[d] == 0;
    for (d = 0; d < h->rank && !empty; d++) {
        if (h->shape[d] > UINT64_MAX / 8 / count)
            return npy_fail(text, "%s: its shape is larger than any file; is it damaged?", path);
        count *= h->shape[d];
    }
    h->count = empty ? 0 : count;
    if (h->count * (uint64_t)h->item_size > left)
        return npy_fail(text,
                        "%s: the file is cut short: its shape needs %llu bytes of numbers, %llu "
                        "are there; copy or save it again",
                        path, (unsigned long long)(h->count * (uint64_t)h->item_size),
                        (unsigned long long)left);
    return 1;
}

/* As npy_parse, and the header of an object array is good too: kind 'O', a pickle follows it. */
NPY_API int npy_parse_any(npy_header *header, const void *bytes, size_t size, uint64_t file_size,
                          const char *path, char *text)
{
    const unsigned char *b = (const unsigned char *)bytes;
    npy_header h;
    npy_cursor c;
    uint64_t length;
    size_t prefix;
    memset(&h, 0, sizeof h);
    if (size < 6 || memcmp(b, "\223NUMPY", 6) != 0) return npy_refuse_magic(b, size, path, text);
    if (size < 10)
        return npy_fail(
            text, "%s: the file is cut short within its .npy header; copy or save it again", path);
    if (b[6] < 1 || b[6] > 3 || b[7] != 0)
        return npy_fail(text,
                        "%s: version %d.%d of .npy is unknown; versions 1.0, 2.0 and 3.0 are "
                        "read",
                        path, b[6], b[7]);
    prefix = b[6] == 1 ? 10 : 12;
    length = (uint64_t)b[8] | (uint64_t)b[9] << 8;
    if (prefix == 12 && size >= 12) length |= (uint64_t)b[10] << 16 | (uint64_t)b[11] << 24;
    if (length > NPY_HEADER_LIMIT)
        return npy_fail(text,
                        "%s: its .npy header claims %llu bytes, more than the %d that NumPy "
                        "allows; is the file damaged?",
                        path, (unsigned long long)length, (int)NPY_HEADER_LIMIT);
    if (size < prefix || length > size - prefix)
        return npy_fail(
            text, "%s: the file is cut short within its .npy header; copy or save it again", path);
    c.at = (const char *)b + prefix;
    c.end = c.at + length;
    c.path = path;
    c.text = text;
    if (!npy_dict(&c, &h)) return 0;
    h.offset = prefix + length;
    if (!npy_check_size(&h, file_size, path, text)) return 0;
    *header = h;
    return 1;
}

/* Understands the first `size` bytes of a file of `file_size` bytes; NPY_PREFIX + NPY_HEADER_LIMIT of
 * them are always enough. `path` is only named in messages. */
NPY_API int npy_parse(npy_header *header, const void *bytes, size_t size, uint64_t file_size,
                      const char *path, char *text)
{
    npy_header h;
    if (!npy_parse_any(&h, bytes, size, file_size, path, text)) return 0;
    if (h.kind == 'O')
        return npy_fail(text,
                        "%s: it is a pickled object array (dtype object); save the image in it as "
                        "numbers: a = numpy.load(name, allow_pickle=True); numpy.save(name, "
                        "numpy.asarray(a[0], 'float32')), where a[0] is the image",
                        path);
    *header = h;
    return 1;
}

/* ---- numbers ---- */

/* IEEE 754 half precision; every value is a float. */
static float npy_half(uint16_t bits)
{
    uint32_t exponent = (bits >> 10) & 31u, fraction = bits & 1023u;
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, word;
    float value;
    if (exponent == 0) {
        value = (float)fraction / 16777216.0f; /* subnormal: a multiple of 2^-24 */
        return sign ? -value : value;
    }
    word = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* The number that begins at `bytes`, rounded once to float. */
static float npy_number(const npy_header *h, const unsigned char *bytes)
{
    uint64_t bits = 0;
    int i;
    for (i = 0; i < h->item_size; i++)
        bits |= (uint64_t)bytes[h->big_endian ? h->item_size - 1 - i : i] << (8 * i);
    if (h->kind == 'b') return bits != 0 ? 1.0f : 0.0f;
    if (h->kind == 'u') return (float)bits;
    if (h->kind == 'i') {
        uint64_t sign = (uint64_t)1 << (8 * h->item_size - 1);
        return bits & sign ? -(float)((~bits & (sign - 1)) + 1) : (float)bits;
    }
    if (h->item_size == 2) return npy_half((uint16_t)bits);
    if (h->item_size == 4) {
        uint32_t word = (uint32_t)bits;
        float value;
        memcpy(&value, &word, sizeof value);
        return value;
    } else {
        double value;
        memcpy(&value, &bits, sizeof value);
        return (float)value;
    }
}

/* Moves `index` (of `rank` members) on by one in Fortran order; returns its place in C order. */
static uint64_t npy_next_fortran(const npy_header *h, uint64_t *index)
{
    uint64_t place = 0;
    int d;
    for (d = 0; d < h->rank && ++index[d] == h->shape[d]; d++) index[d] = 0;
    for (d = 0; d < h->rank; d++) place = place * h->shape[d] + index[d];
    return place;
}

/* The next `n` numbers of a file in C order, quickly where they are floats of this machine. */
static void npy_convert(float *values, const npy_header *h, const unsigned char *bytes, size_t n)
{
    const size_t item = (size_t)h->item_size;
    const int native = h->kind == 'f' && h->big_endian == npy_native_is_big();
    size_t i;
    if (native && item == 4) {
        memcpy(values, bytes, n * item);
        return;
    }
    for (i = 0; native && item == 8 && i < n; i++) {
        double value;
        memcpy(&value, bytes + i * item, sizeof value);
        values[i] = (float)value;
    }
    for (; i < n; i++) values[i] = npy_number(h, bytes + i * item);
}

/* Reads the numbers behind a header from an open file into `values` (header->count of them), always
 * in C order: the last index runs fastest. Takes no memory but a few KB of stack. */
NPY_API int npy_read_values(float *values, const npy_header *header, FILE *file, const char *path,
                            char *text)
{
    unsigned char chunk[16384];
    const size_t item = (size_t)header->item_size, per_chunk = sizeof chunk / item;
    uint64_t done = 0, place = 0, index[NPY_RANK];
    memset(index, 0, sizeof index);
    if (header->offset > (uint64_t)INT32_MAX || fseek(file, (long)header->offset, SEEK_SET) != 0)
        return npy_fail(text, "%s: the file cannot be read; check the disk", path);
    while (done < header->count) {
        uint64_t left = header->count - done;
        size_t i, n = left < per_chunk ? (size_t)left : per_chunk;
        if (fread(chunk, item, n, file) != n)
            return npy_fail(text, "%s: the file cannot be read to its end; check the disk", path);
        if (!header->fortran_order) npy_convert(values + done, header, chunk, n);
        for (i = 0; header->fortran_order && i < n; i++) {
            values[place] = npy_number(header, chunk + i * item);
            place = npy_next_fortran(header, index);
        }
        done += n;
    }
    return 1;
}

/* ---- files ---- */

/* Reads the header of an open file. */
static int npy_open_header(npy_header *header, FILE *file, const char *path, char *text)
{
    unsigned char start[NPY_PREFIX + NPY_HEADER_LIMIT];
    size_t size;
    long file_size;
    if (fseek(file, 0, SEEK_END) != 0 || (file_size = ftell(file)) < 0 ||
        fseek(file, 0, SEEK_SET) != 0)
        return npy_fail(text, "%s: cannot be read; a file expected, not a folder or a pipe", path);
    size = fread(start, 1, sizeof start, file);
    if (ferror(file)) return npy_fail(text, "%s: cannot be read; is it a folder?", path);
    return npy_parse(header, start, size, (uint64_t)file_size, path, text);
}

static FILE *npy_open(const char *path, char *text)
{
    FILE *file;
#ifdef S_ISREG
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) { /* opening a pipe waits for ever */
        npy_fail(text, "%s: cannot be read; a file expected, not a folder, a pipe or a device",
                 path);
        return NULL;
    }
#endif
    file = fopen(path, "rb");
    if (!file)
        npy_fail(text, "%s: cannot be opened; check the name and your right to read it", path);
    return file;
}

/* Type and shape of a file, without its numbers. */
NPY_API int npy_read_header(npy_header *header, const char *path, char *text)
{
    FILE *file = npy_open(path, text);
    int good = file && npy_open_header(header, file, path, text);
    if (file) fclose(file);
    return good;
}

/* Height and width if the array is one grey image: (H, W), (1, H, W) or (H, W, 1), at least a pixel. */
NPY_API int npy_image_shape(size_t *height, size_t *width, const npy_header *header,
                            const char *path, char *text)
{
    const uint64_t *s = header->shape;
    const int r = header->rank;
    const int first = r == 3 && s[0] == 1, last = r == 3 && !first && s[2] == 1;
    if (r != 2 && !first && !last) {
        char shape[NPY_RANK * 22 + 4];
        int d, length = 0;
        shape[0] = 0;
        for (d = 0; d < r; d++)
            length += snprintf(shape + length, sizeof shape - (size_t)length, d ? ", %llu" : "%llu",
                               (unsigned long long)s[d]);
        return npy_fail(text,
                        "%s: its shape is (%.200s), but one grey image is (H, W), (1, H, W) or "
                        "(H, W, 1); save one image per file",
                        path, shape);
    }
    if (header->count == 0)
        return npy_fail(text, "%s: it holds no pixels (a dimension of its shape is 0); remove it",
                        path);
    if (header->count > (uint64_t)(SIZE_MAX / sizeof(float)))
        return npy_fail(text, "%s: the image is larger than this machine can address", path);
    *height = (size_t)s[first ? 1 : 0];
    *width = (size_t)s[first ? 2 : 1];
    return 1;
}

/* One grey image as float pixels, row by row. *pixels comes from malloc and is the caller's. */
NPY_API int npy_read_image(float **pixels, size_t *height, size_t *width, const char *path,
                           char *text)
{
    FILE *file = npy_open(path, text);
    npy_header header;
    float *values = NULL;
    size_t h = 0, w = 0;
    int good = file && npy_open_header(&header, file, path, text) &&
               npy_image_shape(&h, &w, &header, path, text);
    if (good && !(values = (float *)malloc((size_t)header.count * sizeof *values)))
        good = npy_fail(text, "%s: no memory for an image of %llu pixels", path,
                        (unsigned long long)header.count);
    good = good && npy_read_values(values, &header, file, path, text);
    if (file) fclose(file);
    if (!good) {
        free(values);
        return 0;
    }
    *pixels = values;
    *height = h;
    *width = w;
    return 1;
}

static int npy_write(const char *path, const void *values, char kind, size_t item, int rank,
                     const size_t *shape, char *text)
{
    char header[NPY_RANK * 22 + 128], dict[NPY_RANK * 22 + 96];
    size_t count = 1, length, total;
    int d, at, good;
    FILE *file;
    if (rank < 0 || rank > NPY_RANK) return npy_fail(text, "%s: 0 to 32 dimensions expected", path);
    at = snprintf(dict, sizeof dict, "{'descr': '%c%c%d', 'fortran_order': False, 'shape': (",
                  npy_native_is_big() ? '>' : '<', kind, (int)item);
    for (d = 0; d < rank; d++) {
        at += snprintf(dict + at, sizeof dict - (size_t)at,
                       rank == 1 ? "%llu,"
                       : d       ? ", %llu"
                                 : "%llu",
                       (unsigned long long)shape[d]);
        count *= shape[d];
    }
    at += snprintf(dict + at, sizeof dict - (size_t)at, "), }");
    total = (10 + (size_t)at + 1 + 63) / 64 * 64; /* the numbers begin at a multiple of 64 */
    length = total - 10;
    memset(header, ' ', total);
    memcpy(header, "\223NUMPY\001\000", 8);
    header[8] = (char)(unsigned char)(length & 255);
    header[9] = (char)(unsigned char)(length >> 8);
    memcpy(header + 10, dict, (size_t)at);
    header[total - 1] = '\n';
    file = fopen(path, "wb");
    if (!file)
        return npy_fail(
            text, "%s: cannot be written; check the folder and your right to write there", path);
    good = fwrite(header, 1, total, file) == total && fwrite(values, item, count, file) == count;
    good = fclose(file) == 0 && good;
    if (!good) {
        remove(path);
        return npy_fail(text, "%s: cannot be written to its end; is the disk full?", path);
    }
    return 1;
}

/* Write an array of `rank` dimensions in C order. What cannot be written entirely is removed. */
NPY_API int npy_write_float(const char *path, const float *values, int rank, const size_t *shape,
                            char *text)
{
    return npy_write(path, values, 'f', sizeof *values, rank, shape, text);
}

NPY_API int npy_write_double(const char *path, const double *values, int rank, const size_t *shape,
                             char *text)
{
    return npy_write(path, values, 'f', sizeof *values, rank, shape, text);
}

#endif
