/* provenance.h - where a result comes from, as lines of text: program, numerics, processor, date, command
 * line, files. Include system.h, then lensnet.h first.
 *
 * The date is the clock's, in UTC, or what SOURCE_DATE_EPOCH says (reproducible-builds.org). */
#ifndef PROVENANCE_H
#define PROVENANCE_H

#include "zip.h"

enum { PROVENANCE_LINES = 24, PROVENANCE_ROOM = 512 };

typedef struct provenance {
    struct {
        char key[40], value[PROVENANCE_ROOM];
    } lines[PROVENANCE_LINES];
    size_t count;
} provenance;

#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
SYSTEM_API void
provenance_add(provenance *p, const char *key, const char *format, ...)
{
    va_list values;
    if (p->count == PROVENANCE_LINES) return;
    snprintf(p->lines[p->count].key, sizeof p->lines->key, "%s", key);
    va_start(values, format);
    vsnprintf(p->lines[p->count++].value, PROVENANCE_ROOM, format, values);
    va_end(values);
}

static void provenance_processor(char *text, size_t room)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    snprintf(text, room, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(text, room, "%.200s", colon + 2);
        break;
    }
    if (file) fclose(file);
}

static void provenance_date(char *text, size_t room)
{
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    const time_t now = epoch ? (time_t)strtoll(epoch, NULL, 10) : time(NULL);
    const struct tm *parts = gmtime(&now);
    if (!parts || !strftime(text, room, "%Y-%m-%d %H:%M:%S UTC", parts))
        snprintf(text, room, "unknown");
}

/* The CRC-32 of a file, as a name for its content. 0 if it cannot be read. */
SYSTEM_API int provenance_file(provenance *p, const char *key, const char *path)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    long size = -1;
    int good = 0;
    if (file && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size > 0) bytes = (unsigned char *)malloc((size_t)size);
    if (bytes && fseek(file, 0, SEEK_SET) == 0)
        good = fread(bytes, 1, (size_t)size, file) == (size_t)size;
    if (good)
        provenance_add(p, key, "%s, %ld bytes, CRC-32 %08lx", path, size,
                       (unsigned long)zip_checksum(bytes, (size_t)size));
    free(bytes);
    if (file) fclose(file);
    return good;
}

/* What every result has; the command line may be NULL. */
SYSTEM_API void provenance_begin(provenance *p, int count, char **words)
{
    char text[PROVENANCE_ROOM] = "", processor[256], date[64];
    int i;
    memset(p, 0, sizeof *p);
    for (i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "", words[i]);
    provenance_processor(processor, sizeof processor);
    provenance_date(date, sizeof date);
    provenance_add(p, "program", "lensnet %d.%d.%d, numerics %d", LENSNET_VERSION_MAJOR,
                   LENSNET_VERSION_MINOR, LENSNET_VERSION_PATCH, LENSNET_NUMERICS);
    if (count) provenance_add(p, "command", "%s", text);
    provenance_add(p, "date", "%s", date);
    provenance_add(p, "processor", "%s, path %s", processor,
                   lensnet_isa_text(lensnet_isa_in_use(NULL)));
}

#endif
