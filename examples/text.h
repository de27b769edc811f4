/* text.h - text from files, names and metadata, made safe for where it goes: a terminal, CSV, JSON,
 * SVG or HTML. Needs libc only.
 *
 * What comes out is UTF-8 without control characters, whatever went in. A character that could move a
 * cursor, end a line or turn the direction of the text is shown by its number: \n and \t by these
 * names, other bytes as \x1b, other characters as \u202e; a byte that is not UTF-8 as \xff. JSON has
 * the same characters as its own escapes, so that a program gets back what there was (but for bytes
 * that are not UTF-8, which it sees as \xff, spelled out).
 *
 *     char shown[256];
 *     text_clean(shown, sizeof shown, path, TEXT_TERMINAL);       cut to the room, never inside a character
 *     text_print(stdout, label, TEXT_CSV);                        a whole field, with quotes where needed
 */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define TEXT_API __attribute__((unused)) static
#else
#define TEXT_API static
#endif

typedef enum text_kind {
    TEXT_TERMINAL,
    TEXT_CSV,  /* one field; what a spreadsheet would take for a formula begins with ' */
    TEXT_JSON, /* a string with its quotes */
    TEXT_XML   /* between tags or in a quoted attribute, of SVG and HTML too */
} text_kind;

/* One character: its number, how many bytes it takes; number -1 and one byte for what is not UTF-8
 * (overlong forms, surrogates and numbers beyond Unicode too). */
static size_t text_decode(long *number, const char *text)
{
    static const long least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *b = (const unsigned char *)text;
    size_t length = b[0] < 0x80             ? 1
                    : (b[0] & 0xe0) == 0xc0 ? 2
                    : (b[0] & 0xf0) == 0xe0 ? 3
                    : (b[0] & 0xf8) == 0xf0 ? 4
                                            : 0;
    size_t i;
    long value = length == 1 ? b[0] : length ? b[0] & (0x7f >> length) : -1;
    for (i = 1; i < length; i++) {
        if ((b[i] & 0xc0) != 0x80) break; /* the end of the text too */
        value = value << 6 | (b[i] & 0x3f);
    }
    if (!length || i < length || value < least[length] || value > 0x10ffff ||
        (value >= 0xd800 && value <= 0xdfff))
        value = -1;
    *number = value;
    return value < 0 ? 1 : length;
}

TEXT_API int text_is_utf8(const char *text)
{
    long c = 0;
    while (*text && c >= 0) text += text_decode(&c, text);
    return c >= 0;
}

/* Controls, and what changes lines or the direction of writing without being seen. */
static int text_is_unseen(long c)
{
    return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0xad || c == 0x61c ||
           (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb) ||
           (c & 0xfffe) == 0xfffe || (c >= 0xe0000 && c <= 0xe0fff);
}

/* How an unseen character is written; `byte` is that of one that is not UTF-8 (c < 0). Returns the
 * length of `out`, which has room for 16 characters. */
static size_t text_spell(char *out, long c, unsigned char byte, text_kind kind)
{
    const char *stroke = kind == TEXT_JSON && c < 0 ? "\\\\" : "\\";
    int n;
    if (c < 0)
        n = snprintf(out, 16, "%sx%02x", stroke, byte);
    else if (c == '\n' || c == '\r' || c == '\t')
        n = snprintf(out, 16, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (kind == TEXT_JSON && c > 0xffff)
        n = snprintf(out, 16, "\\u%04lx\\u%04lx", 0xd800 + ((c - 0x10000) >> 10),
                     0xdc00 + (c & 0x3ff));
    else if (c < 0x80 && kind != TEXT_JSON)
        n = snprintf(out, 16, "\\x%02lx", c);
    else
        n = snprintf(out, 16, "\\u%04lx", c);
    return (size_t)n;
}

/* What a character with a meaning in the language of `kind` is written as; NULL: as it is. */
static const char *text_escape(long c, text_kind kind)
{
    if (kind == TEXT_JSON) return c == '"' ? "\\\"" : c == '\\' ? "\\\\" : NULL;
    if (kind == TEXT_CSV) return c == '"' ? "\"\"" : NULL;
    if (kind != TEXT_XML) return NULL;
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

/* Where cleaned text goes: counted in full, kept as far as there is room for whole pieces. */
typedef struct text_sink {
    char *out;
    size_t room, kept, needed; /* room: without the closing zero */
    int full;
} text_sink;

static void text_put(text_sink *s, const char *piece, size_t length)
{
    s->needed += length;
    s->full |= s->needed > s->room;
    if (s->full) return;
    memcpy(s->out + s->kept, piece, length);
    s->kept += length;
}

static int text_needs_quotes(const char *text)
{
    size_t length = strlen(text);
    return text[strcspn(text, ",\";")] || text[0] == ' ' || (length && text[length - 1] == ' ');
}

/* Writes `text` made safe for `kind` and a zero to `out`, which has room for `capacity` bytes
 * (0: nothing is written, and out may be NULL). Whole characters only. Returns the length that the
 * whole of it has, without the zero. */
TEXT_API size_t text_clean(char *out, size_t capacity, const char *text, text_kind kind)
{
    text_sink s = {NULL, 0, 0, 0, 0};
    const int quoted = kind == TEXT_JSON || (kind == TEXT_CSV && text_needs_quotes(text));
    s.out = out;
    s.room = capacity ? capacity - 1 : 0;
    s.full = !capacity;
    if (quoted) text_put(&s, "\"", 1);
    if (kind == TEXT_CSV && *text && strchr("=+-@", *text)) text_put(&s, "'", 1);
    while (*text) {
        char spelled[16];
        long c;
        size_t length = text_decode(&c, text);
        const char *escape = text_escape(c, kind);
        if (text_is_unseen(c))
            text_put(&s, spelled, text_spell(spelled, c, (unsigned char)*text, kind));
        else if (escape)
            text_put(&s, escape, strlen(escape));
        else
            text_put(&s, text, length);
        text += length;
    }
    if (quoted) text_put(&s, "\"", 1);
    if (capacity) out[s.kept] = 0;
    return s.needed;
}

/* The same in memory from malloc; NULL without memory. */
TEXT_API char *text_clean_copy(const char *text, text_kind kind)
{
    size_t bytes = text_clean(NULL, 0, text, kind) + 1;
    char *copy = (char *)malloc(bytes);
    if (copy) text_clean(copy, bytes, text, kind);
    return copy;
}

/* Prints it, character by character, without memory. Errors stay in the stream's error flag. */
TEXT_API void text_print(FILE *file, const char *text, text_kind kind)
{
    char shown[1024];
    char *copy;
    if (text_clean(shown, sizeof shown, text, kind) < sizeof shown) {
        fputs(shown, file);
        return;
    }
    copy = text_clean_copy(text, kind);
    fputs(copy ? copy : shown, file);
    free(copy);
}

/* Characters of `text` as a terminal shows it cleaned: what a table's column must be wide. Characters
 * that take two columns or none count as one. */
TEXT_API size_t text_columns(const char *text)
{
    size_t columns = 0;
    while (*text) {
        char spelled[16];
        long c;
        size_t length = text_decode(&c, text);
        columns +=
            text_is_unseen(c) ? text_spell(spelled, c, (unsigned char)*text, TEXT_TERMINAL) : 1;
        text += length;
    }
    return columns;
}

/* ---- reading ---- */

/* Cuts a line of comma-separated values into fields, in its place; quotes are taken off. Returns how many
 * there are, at most `most`. */
TEXT_API size_t text_fields(char **fields, size_t most, char *line)
{
    size_t n = 0;
    char *from = line, *to;
    while (n < most) {
        int quoted;
        while (*from == ' ') from++;
        quoted = *from == '"';
        from += quoted;
        fields[n++] = to = from;
        while (*from && (quoted ? !(from[0] == '"' && from[1] != '"') : *from != ',')) {
            if (quoted && *from == '"') from++;
            *to++ = *from++;
        }
        if (quoted && *from) from++;
        while (*from && *from != ',') from++;
        quoted = *from == ',';
        *to = 0;
        if (!quoted) break;
        from++;
    }
    return n;
}

#endif
