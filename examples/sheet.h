/* sheet.h - text that grows in memory and is saved as a file, entirely or not at all. Include lensnet.h first.
 *
 *     sheet s = {0};                                   or memset; a host may be set, NULL: the default one
 *     sheet_add(&s, "%d classes: ", 3);
 *     sheet_quote(&s, label, TEXT_JSON);
 *     result = sheet_save(&s, "config.json", &error);  empties it, too
 *
 * When memory runs out the sheet remembers that, and saving reports it. */
#ifndef SHEET_H
#define SHEET_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "failure.h"
#include "text.h"

#ifndef LENSNET_H
#error "sheet.h: include lensnet.h first"
#endif

#if defined(__GNUC__)
#define SHEET_API                 __attribute__((unused)) static
#define SHEET_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define SHEET_API static
#define SHEET_PRINTF(text, first)
#endif

typedef struct sheet {
    char *text; /* ends in a zero; NULL: nothing was added yet */
    size_t length, capacity;
    const lensnet_host *host; /* its memory and files; NULL: the default hooks */
    int failed;               /* memory ran out */
} sheet;

static lensnet_host sheet_host(const sheet *s)
{
    return s->host ? *s->host : lensnet_host_defaults();
}

/* Empties it. */
SHEET_API void sheet_clear(sheet *s)
{
    const lensnet_host host = sheet_host(s);
    if (s->text) host.release(s->text, s->capacity, host.user);
    s->text = NULL;
    s->length = s->capacity = 0;
    s->failed = 0;
}

/* Room for `count` more bytes and a zero: where they go, or NULL. */
static char *sheet_reserve(sheet *s, size_t count)
{
    const lensnet_host host = sheet_host(s);
    const size_t needed = s->length + count + 1;
    char *text;
    if (s->failed) return NULL;
    if (needed <= s->capacity) return s->text + s->length;
    text = (char *)host.allocate(2 * needed + 1024, 1, host.user);
    s->failed = !text;
    if (!text) return NULL;
    if (s->text) {
        memcpy(text, s->text, s->length);
        host.release(s->text, s->capacity, host.user);
    }
    s->text = text;
    s->capacity = 2 * needed + 1024;
    return text + s->length;
}

SHEET_API SHEET_PRINTF(2, 3) void sheet_add(sheet *s, const char *format, ...)
{
    va_list values;
    int length;
    char *end;
    va_start(values, format);
    length = vsnprintf(NULL, 0, format, values);
    va_end(values);
    end = length < 0 ? NULL : sheet_reserve(s, (size_t)length);
    if (!end) return;
    va_start(values, format);
    vsnprintf(end, (size_t)length + 1, format, values);
    va_end(values);
    s->length += (size_t)length;
}

/* Adds `text`, made safe for `kind` (text.h). */
SHEET_API void sheet_quote(sheet *s, const char *text, text_kind kind)
{
    const size_t length = text_clean(NULL, 0, text, kind);
    char *end = sheet_reserve(s, length);
    if (!end) return;
    text_clean(end, length + 1, text, kind);
    s->length += length;
}

/* Writes the text to a file, which appears entirely or not at all, and empties the sheet. */
SHEET_API lensnet_result sheet_save(sheet *s, const char *path, lensnet_error *error)
{
    const lensnet_host host = sheet_host(s);
    lensnet_result result = LENSNET_ERROR_MEMORY;
    if (!s->failed) {
        void *file = host.file_open(path, 1, host.user);
        int good =
            file && (!s->length || host.file_write(file, s->text, s->length, host.user) == 0);
        if (file) good = host.file_close(file, good, host.user) == 0 && good;
        result = good ? LENSNET_OK : LENSNET_ERROR_FILE;
    }
    sheet_clear(s);
    if (result == LENSNET_ERROR_MEMORY)
        return failure(error, result, "%s: no memory to write it", path);
    return result ? failure(error, result,
                            "%s: cannot be written; check the folder, your rights and the disk's "
                            "space",
                            path)
                  : LENSNET_OK;
}

#endif
