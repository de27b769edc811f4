/* zip.h - reads zip archives: NumPy's .npz, PyTorch's .pth. Needs libc only.
 *
 * An archive is taken for hostile: only its directory at the end is believed, every place and size in
 * it is checked against the archive, what is unpacked must have the size and the checksum that the
 * directory states. Stored and deflated entries are read, zip64 too; what is encrypted or packed in
 * another way is refused by name.
 *
 *   zip_source source = zip_from_file(file, size), or zip_from_memory(bytes, size);
 *   zip_archive archive;
 *   zip_open(&archive, &source, text);    then archive.entries[0 .. archive.count - 1], sorted by name
 *   zip_unpack(out, &archive, entry, text);        entry->size bytes
 *   zip_close(&archive);
 *
 * Functions return 1 on success; on failure 0 and a sentence without the archive's name in `text`,
 * which has room for ZIP_TEXT characters. */
#ifndef ZIP_H
#define ZIP_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define ZIP_API __attribute__((unused)) static
#else
#define ZIP_API static
#endif

#define ZIP_ENTRIES_MAX ((uint64_t)1 << 20)

enum {
    ZIP_TEXT = 256,            /* room for an error sentence */
    ZIP_TAIL = 65535 + 22 + 20 /* the most that stands from the end record's locator to the end */
};

/* Where the bytes of an archive are. */
typedef struct zip_source {
    FILE *file; /* NULL: in memory */
    const unsigned char *bytes;
    uint64_t size;
} zip_source;

typedef struct zip_entry {
    const char *name; /* not ended by a zero */
    size_t name_length;
    uint64_t offset; /* of its packed bytes in the archive */
    uint64_t packed; /* how many there are */
    uint64_t size;   /* unpacked */
    uint32_t checksum;
    int method;    /* 0: stored, 8: deflated */
    int encrypted; /* 1: it is */
} zip_entry;

typedef struct zip_archive {
    zip_entry *entries;
    size_t count;
    zip_source source;
    unsigned char *directory; /* private: names lie in it */
} zip_archive;

static int zip_fail(char *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, ZIP_TEXT, format, arguments);
    va_end(arguments);
    return 0;
}

ZIP_API uint32_t zip_u16(const unsigned char *b) { return (uint32_t)b[0] | (uint32_t)b[1] << 8; }
ZIP_API uint32_t zip_u32(const unsigned char *b) { return zip_u16(b) | zip_u16(b + 2) << 16; }
ZIP_API uint64_t zip_u64(const unsigned char *b)
{
    return (uint64_t)zip_u32(b) | (uint64_t)zip_u32(b + 4) << 32;
}

#define ZIP_LOCAL   0x04034b50u
#define ZIP_CENTRAL 0x02014b50u
#define ZIP_END     0x06054b50u
#define ZIP_END64   0x06064b50u
#define ZIP_LOCATOR 0x07064b50u

/* ---- the source ---- */

ZIP_API zip_source zip_from_memory(const void *bytes, uint64_t size)
{
    zip_source source;
    source.file = NULL;
    source.bytes = (const unsigned char *)bytes;
    source.size = size;
    return source;
}

ZIP_API zip_source zip_from_file(FILE *file, uint64_t size)
{
    zip_source source;
    source.file = file;
    source.bytes = NULL;
    source.size = size;
    return source;
}

/* Beyond 2 GB too where a long has 32 bits. */
ZIP_API int zip_seek(FILE *file, uint64_t offset)
{
    const long step = 1L << 30;
    int good = fseek(file, 0, SEEK_SET) == 0;
    for (; good && offset > (uint64_t)step; offset -= (uint64_t)step)
        good = fseek(file, step, SEEK_CUR) == 0;
    return good && fseek(file, (long)offset, SEEK_CUR) == 0;
}

/* `count` bytes from `offset`, which the caller has checked against the size. */
static int zip_read(const zip_source *source, uint64_t offset, void *out, size_t count, char *text)
{
    if (!source->file) {
        if (count) memcpy(out, source->bytes + offset, count);
        return 1;
    }
    if (zip_seek(source->file, offset) && fread(out, 1, count, source->file) == count) return 1;
    return zip_fail(text, "the file cannot be read to its end; check the disk");
}

/* ---- the directory ---- */

/* The central directory: the only true list of what a zip holds. */
typedef struct zip_place {
    uint64_t count, bytes, offset;
} zip_place;

static int zip_end64(const zip_source *source, uint64_t end, const unsigned char *before,
                     size_t known, zip_place *place, char *text)
{
    unsigned char record[56];
    uint64_t at;
    if (known < 20 || zip_u32(before - 20) != ZIP_LOCATOR) return 1;
    at = zip_u64(before - 20 + 8);
    if (at > end - 20 || end - 20 - at < sizeof record)
        return zip_fail(text, "its zip64 end record is not where it should be.");
    if (!zip_read(source, at, record, sizeof record, text)) return 0;
    if (zip_u32(record) != ZIP_END64)
        return zip_fail(text, "its zip64 end record is not where it should be.");
    place->count = zip_u64(record + 32);
    place->bytes = zip_u64(record + 40);
    place->offset = zip_u64(record + 48);
    return 1;
}

/* Looks for the end record in the archive's last `size` bytes. */
static int zip_end(const zip_source *source, const unsigned char *tail, size_t size,
                   zip_place *place, char *text)
{
    size_t at = size < 22 ? 0 : size - 22;
    const uint64_t start = source->size - size;
    while (size < 22 || zip_u32(tail + at) != ZIP_END ||
           zip_u16(tail + at + 20) != size - 22 - at) {
        if (size < 22 || at == 0)
            return zip_fail(
                text, "it begins like a zip but has no end record. Was it copied completely?");
        at--;
    }
    place->count = zip_u16(tail + at + 10);
    place->bytes = zip_u32(tail + at + 12);
    place->offset = zip_u32(tail + at + 16);
    if (!zip_end64(source, start + at, tail + at, at, place, text)) return 0;
    if (place->offset > start + at || place->bytes > start + at - place->offset ||
        place->count > ZIP_ENTRIES_MAX || place->count > place->bytes / 46)
        return zip_fail(text, "its zip directory does not fit into the file.");
    return 1;
}

/* Sizes and place that do not fit 32 bits stand in an extra field, in this order. */
static void zip_extra64(const unsigned char *extra, size_t length, uint64_t values[3])
{
    while (length >= 4) {
        size_t size = zip_u16(extra + 2);
        size_t at = 4;
        int i;
        if (size > length - 4) return;
        for (i = 0; zip_u16(extra) == 1 && i < 3; i++) {
            if (values[i] != 0xffffffffu || at + 8 > 4 + size) continue;
            values[i] = zip_u64(extra + at);
            at += 8;
        }
        extra += 4 + size;
        length -= 4 + size;
    }
}

/* A name for a sentence: at most 80 characters, none of them a control character. */
typedef struct zip_quoted {
    char text[81];
} zip_quoted;

ZIP_API const char *zip_quote(zip_quoted *quoted, const char *text, size_t length)
{
    size_t i;
    if (length > 80) length = 80;
    for (i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        quoted->text[i] = c < 32 || c > 126 ? '?' : (char)c;
    }
    quoted->text[length] = 0;
    return quoted->text;
}

/* The data of an entry begin behind its local header, whose name and extra field have lengths of
 * their own; its sizes are not to be trusted, many writers leave them zero. */
static int zip_locate(zip_archive *archive, zip_entry *entry, uint64_t local, char *text)
{
    const uint64_t size = archive->source.size;
    unsigned char head[30];
    zip_quoted quoted;
    uint64_t skip;
    const char *name = zip_quote(&quoted, entry->name, entry->name_length);
    if (local > size || size - local < sizeof head)
        return zip_fail(text, "zip entry '%s' is not where it should be.", name);
    if (!zip_read(&archive->source, local, head, sizeof head, text)) return 0;
    if (zip_u32(head) != ZIP_LOCAL)
        return zip_fail(text, "zip entry '%s' is not where it should be.", name);
    skip = 30 + (uint64_t)zip_u16(head + 26) + zip_u16(head + 28);
    if (zip_u16(head + 26) != entry->name_length || skip > size - local ||
        entry->packed > size - local - skip)
        return zip_fail(text, "zip entry '%s' does not fit into the file.", name);
    entry->offset = local + skip;
    return 1;
}

/* One entry of the directory at `b`; returns its length there, 0 on failure. */
static size_t zip_entry_read(zip_archive *archive, zip_entry *entry, const unsigned char *b,
                             size_t left, char *text)
{
    uint64_t values[3]; /* size, packed size, place of the local header */
    size_t name, extra, length;
    if (left < 46 || zip_u32(b) != ZIP_CENTRAL)
        return (size_t)zip_fail(text, "its zip directory is damaged.");
    name = zip_u16(b + 28);
    extra = zip_u16(b + 30);
    length = 46 + name + extra + zip_u16(b + 32);
    if (length > left) return (size_t)zip_fail(text, "its zip directory is damaged.");
    values[0] = zip_u32(b + 24);
    values[1] = zip_u32(b + 20);
    values[2] = zip_u32(b + 42);
    zip_extra64(b + 46 + name, extra, values);
    entry->name = (const char *)b + 46;
    entry->name_length = name;
    entry->size = values[0];
    entry->packed = values[1];
    entry->checksum = zip_u32(b + 16);
    entry->method = (int)zip_u16(b + 10);
    entry->encrypted = (int)(zip_u16(b + 8) & 1);
    return zip_locate(archive, entry, values[2], text) ? length : 0;
}

static int zip_compare(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : a_length < b_length ? -1 : a_length > b_length;
}

static int zip_by_name(const void *left, const void *right)
{
    const zip_entry *a = (const zip_entry *)left, *b = (const zip_entry *)right;
    return zip_compare(a->name, a->name_length, b->name, b->name_length);
}

static int zip_sort(zip_archive *archive, char *text)
{
    zip_quoted quoted;
    size_t i;
    qsort(archive->entries, archive->count, sizeof *archive->entries, zip_by_name);
    for (i = 1; i < archive->count; i++) {
        const zip_entry *e = archive->entries + i;
        if (zip_by_name(e - 1, e) == 0)
            return zip_fail(text, "zip entry '%s' stands twice.",
                            zip_quote(&quoted, e->name, e->name_length));
    }
    return 1;
}

ZIP_API void zip_close(zip_archive *archive)
{
    free(archive->entries);
    free(archive->directory);
    memset(archive, 0, sizeof *archive);
}

static int zip_directory(zip_archive *archive, const zip_place *place, char *text)
{
    const unsigned char *at;
    size_t i, left = (size_t)place->bytes;
    archive->count = (size_t)place->count;
    archive->directory = (unsigned char *)malloc(left + 1);
    archive->entries = (zip_entry *)calloc(archive->count + 1, sizeof *archive->entries);
    if (!archive->directory || !archive->entries)
        return zip_fail(text, "no memory for its zip directory.");
    if (!zip_read(&archive->source, place->offset, archive->directory, left, text)) return 0;
    at = archive->directory;
    for (i = 0; i < archive->count; i++) {
        size_t length = zip_entry_read(archive, archive->entries + i, at, left, text);
        if (!length) return 0;
        at += length;
        left -= length;
    }
    if (!archive->count) return zip_fail(text, "it is an empty zip.");
    return zip_sort(archive, text);
}

/* Reads the directory. The source must live as long as the archive. On failure there is nothing to
 * close. */
ZIP_API int zip_open(zip_archive *archive, const zip_source *source, char *text)
{
    const size_t size = source->size < ZIP_TAIL ? (size_t)source->size : (size_t)ZIP_TAIL;
    unsigned char *tail = (unsigned char *)malloc(size + 1);
    zip_place place = {0, 0, 0};
    int good;
    memset(archive, 0, sizeof *archive);
    archive->source = *source;
    if (!tail) return zip_fail(text, "no memory for its zip directory.");
    good = zip_read(source, source->size - size, tail, size, text) &&
           zip_end(source, tail, size, &place, text) && zip_directory(archive, &place, text);
    free(tail);
    if (!good) zip_close(archive);
    return good;
}

/* The entry of that name, or NULL. */
ZIP_API const zip_entry *zip_find(const zip_archive *archive, const char *name, size_t length)
{
    size_t low = 0, high = archive->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const zip_entry *e = archive->entries + middle;
        int order = zip_compare(e->name, e->name_length, name, length);
        if (order == 0) return e;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- deflate (RFC 1951) ---- */

/* Bits come from the low end of each byte. Behind the end come zeros, and `short_of` says so. */
typedef struct zip_bits {
    const unsigned char *at, *end;
    uint32_t held;
    int count, short_of;
} zip_bits;

static unsigned zip_take(zip_bits *b, int count)
{
    unsigned value;
    while (b->count < count) {
        if (b->at < b->end)
            b->held |= (uint32_t)*b->at++ << b->count;
        else
            b->short_of = 1;
        b->count += 8;
    }
    value = b->held & ((1u << count) - 1u);
    b->held >>= count;
    b->count -= count;
    return value;
}

/* A prefix code: how many words have each length, and the symbols in order of their words. */
typedef struct zip_code {
    uint16_t count[16];
    uint16_t symbol[288];
} zip_code;

/* From the lengths of all words (0: none). 0 if there are more words than the lengths allow, or fewer
 * (but a code of a single word of one bit, which deflate permits). */
static int zip_code_make(zip_code *code, const unsigned char *lengths, int symbols)
{
    int first[16], left = 1, used = 0, i;
    memset(code, 0, sizeof *code);
    for (i = 0; i < symbols; i++) code->count[lengths[i]]++;
    code->count[0] = 0;
    for (i = 1; i < 16; i++) {
        left = 2 * left - code->count[i];
        if (left < 0) return 0;
    }
    for (first[1] = 0, i = 1; i < 15; i++) first[i + 1] = first[i] + code->count[i];
    for (i = 0; i < symbols; i++)
        if (lengths[i]) {
            code->symbol[first[lengths[i]]++] = (uint16_t)i;
            used++;
        }
    return left == 0 || used == 0 || (used == 1 && code->count[1] == 1);
}

/* The next symbol; -1 if no word begins so. Words of one length follow each other, and the first of
 * a length is twice what follows the last of the length before. */
static int zip_symbol(zip_bits *b, const zip_code *code)
{
    int word = 0, first = 0, index = 0, length;
    for (length = 1; length < 16; length++) {
        word |= (int)zip_take(b, 1);
        if (word - first < code->count[length]) return code->symbol[index + word - first];
        index += code->count[length];
        first = 2 * (first + code->count[length]);
        word *= 2;
    }
    return -1;
}

typedef struct zip_output {
    unsigned char *bytes;
    size_t size, count;
} zip_output;

static int zip_stored_block(zip_output *out, zip_bits *b)
{
    unsigned length, check;
    size_t left;
    b->held = 0; /* to the next whole byte: fewer than eight bits are held between symbols */
    b->count = 0;
    length = zip_take(b, 16);
    check = zip_take(b, 16);
    left = (size_t)(b->end - b->at);
    if (b->short_of || length != (~check & 0xffffu) || length > left ||
        length > out->size - out->count)
        return 0;
    memcpy(out->bytes + out->count, b->at, length);
    b->at += length;
    out->count += length;
    return 1;
}

/* Lengths 3 ... 258 and distances 1 ... 32768 have a base and further bits for each symbol. */
static int zip_copy(zip_output *out, zip_bits *b, int symbol, const zip_code *distances)
{
    size_t length, distance;
    int extra = symbol < 265 ? 0 : (symbol - 261) / 4;
    if (symbol > 285) return 0;
    length = symbol < 265    ? (size_t)symbol - 254
             : symbol == 285 ? 258
                             : ((size_t)((symbol - 265) % 4 + 4) << extra) + 3;
    if (symbol == 285) extra = 0;
    length += zip_take(b, extra);
    symbol = zip_symbol(b, distances);
    if (symbol < 0 || symbol > 29) return 0;
    extra = symbol < 4 ? 0 : symbol / 2 - 1;
    distance = symbol < 4 ? (size_t)symbol + 1 : ((size_t)(symbol % 2 + 2) << extra) + 1;
    distance += zip_take(b, extra);
    if (b->short_of || distance > out->count || length > out->size - out->count) return 0;
    for (; length; length--, out->count++)
        out->bytes[out->count] = out->bytes[out->count - distance];
    return 1;
}

static int zip_coded_block(zip_output *out, zip_bits *b, const zip_code *literals,
                           const zip_code *distances)
{
    for (;;) {
        int symbol = zip_symbol(b, literals);
        if (symbol < 0 || b->short_of) return 0;
        if (symbol == 256) return 1;
        if (symbol > 256) {
            if (!zip_copy(out, b, symbol, distances)) return 0;
        } else {
            if (out->count == out->size) return 0;
            out->bytes[out->count++] = (unsigned char)symbol;
        }
    }
}

static int zip_fixed_block(zip_output *out, zip_bits *b)
{
    unsigned char lengths[288 + 32];
    zip_code literals, distances;
    int i;
    for (i = 0; i < 288; i++)
        lengths[i] = (unsigned char)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
    for (i = 0; i < 32; i++) lengths[288 + i] = 5;
    return zip_code_make(&literals, lengths, 288) && zip_code_make(&distances, lengths + 288, 32) &&
           zip_coded_block(out, b, &literals, &distances);
}

/* The lengths of the words of both codes, written in a third one with repetitions. */
static int zip_lengths(unsigned char *lengths, int wanted, zip_bits *b, const zip_code *code)
{
    int n = 0;
    while (n < wanted) {
        int symbol = zip_symbol(b, code), times = 1, value;
        if (symbol < 0 || b->short_of || (symbol == 16 && n == 0)) return 0;
        value = symbol < 16 ? symbol : symbol == 16 ? lengths[n - 1] : 0;
        if (symbol == 16) times = 3 + (int)zip_take(b, 2);
        if (symbol == 17) times = 3 + (int)zip_take(b, 3);
        if (symbol == 18) times = 11 + (int)zip_take(b, 7);
        if (times > wanted - n) return 0;
        for (; times; times--) lengths[n++] = (unsigned char)value;
    }
    return 1;
}

static int zip_dynamic_block(zip_output *out, zip_bits *b)
{
    static const unsigned char order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                            11, 4,  12, 3, 13, 2, 14, 1, 15};
    unsigned char lengths[286 + 32];
    zip_code literals, distances;
    int literal_count = 257 + (int)zip_take(b, 5), distance_count = 1 + (int)zip_take(b, 5);
    int i, given = 4 + (int)zip_take(b, 4);
    if (literal_count > 286) return 0;
    memset(lengths, 0, sizeof lengths);
    for (i = 0; i < given; i++) lengths[order[i]] = (unsigned char)zip_take(b, 3);
    return zip_code_make(&literals, lengths, 19) &&
           zip_lengths(lengths, literal_count + distance_count, b, &literals) && lengths[256] &&
           zip_code_make(&literals, lengths, literal_count) &&
           zip_code_make(&distances, lengths + literal_count, distance_count) &&
           zip_coded_block(out, b, &literals, &distances);
}

/* Unpacks deflated bytes to exactly `size` bytes; 0 if they are no such thing. */
ZIP_API int zip_inflate(unsigned char *out, size_t size, const unsigned char *packed, size_t count)
{
    zip_output output;
    zip_bits b;
    int last = 0, good = 1;
    memset(&b, 0, sizeof b);
    b.at = packed;
    b.end = packed + count;
    output.bytes = out;
    output.size = size;
    output.count = 0;
    while (good && !last) {
        unsigned kind;
        last = (int)zip_take(&b, 1);
        kind = zip_take(&b, 2);
        good = kind == 0   ? zip_stored_block(&output, &b)
               : kind == 1 ? zip_fixed_block(&output, &b)
               : kind == 2 ? zip_dynamic_block(&output, &b)
                           : 0;
    }
    return good && output.count == size;
}

/* ---- unpacking ---- */

/* The CRC-32 of zip, four bits at a time. */
ZIP_API uint32_t zip_checksum(const unsigned char *bytes, size_t count)
{
    static const uint32_t table[16] = {0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu,
                                       0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
                                       0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
                                       0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
    uint32_t sum = ~0u;
    size_t i;
    for (i = 0; i < count; i++) {
        sum = table[(sum ^ bytes[i]) & 15] ^ sum >> 4;
        sum = table[(sum ^ bytes[i] >> 4) & 15] ^ sum >> 4;
    }
    return ~sum;
}

/* Can the entry be read at all? */
ZIP_API int zip_check(const zip_entry *entry, char *text)
{
    zip_quoted quoted;
    const char *name = zip_quote(&quoted, entry->name, entry->name_length);
    if (entry->encrypted) return zip_fail(text, "zip entry '%s' is encrypted.", name);
    if (entry->method != 0 && entry->method != 8)
        return zip_fail(text,
                        "zip entry '%s' is packed by method %d; stored and deflated are read.",
                        name, entry->method);
    /* Deflate packs 1032 to 1 at the very best: a larger claim is a lie that would cost memory. */
    if (entry->method == 0 ? entry->size != entry->packed : entry->size / 1032 > entry->packed)
        return zip_fail(text, "zip entry '%s' claims an impossible size.", name);
    if (entry->size > SIZE_MAX / 2)
        return zip_fail(text, "zip entry '%s' is larger than this machine can address.", name);
    return 1;
}

/* entry->size bytes to `out`. */
ZIP_API int zip_unpack(unsigned char *out, const zip_archive *archive, const zip_entry *entry,
                       char *text)
{
    zip_quoted quoted;
    const char *name = zip_quote(&quoted, entry->name, entry->name_length);
    int good = zip_check(entry, text);
    if (good && entry->method == 0) {
        good = zip_read(&archive->source, entry->offset, out, (size_t)entry->size, text);
    } else if (good) {
        unsigned char *packed = (unsigned char *)malloc((size_t)entry->packed + 1);
        good = packed
                   ? zip_read(&archive->source, entry->offset, packed, (size_t)entry->packed, text)
                   : zip_fail(text, "no memory for zip entry '%s'.", name);
        if (good && !zip_inflate(out, (size_t)entry->size, packed, (size_t)entry->packed))
            good = zip_fail(text, "zip entry '%s' is damaged.", name);
        free(packed);
    }
    if (good && zip_checksum(out, (size_t)entry->size) != entry->checksum)
        good = zip_fail(text, "zip entry '%s' is damaged: its checksum is wrong.", name);
    return good;
}

#endif
