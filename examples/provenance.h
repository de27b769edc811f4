/* provenance.h - where a result comes from, as lines of text: program, numerics, processor, date, command
 * line, files; and into the files that people pass on. Include system.h, then lensnet.h first.
 *
 * The date is the clock's, in UTC, or what SOURCE_DATE_EPOCH says (reproducible-builds.org). What hangs on
 * the day, the machine or the words of a command stands in reports alone: weights and figures have the
 * same bytes wherever they are made. */
#ifndef PROVENANCE_H
#define PROVENANCE_H

#include "sha256.h"
#include "svg.h"
#include "zip.h"

enum { PROVENANCE_LINES = 24, PROVENANCE_ROOM = 2048 };

typedef struct provenance {
    struct {
        char key[40], value[PROVENANCE_ROOM];
        int here; /* 1: of this day, machine or command */
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
    p->lines[p->count].here = 0;
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

/* A file by its SHA-256. 0 if it cannot be read. */
SYSTEM_API int provenance_file(provenance *p, const char *key, const char *path)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    char digits[65];
    long size = -1;
    int good = 0;
    if (file && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size > 0) bytes = (unsigned char *)malloc((size_t)size);
    if (bytes && fseek(file, 0, SEEK_SET) == 0)
        good = fread(bytes, 1, (size_t)size, file) == (size_t)size;
    if (good) {
        sha256_text(digits, bytes, (size_t)size);
        provenance_add(p, key, "%s, %ld bytes, SHA-256 %s", path, size, digits);
    }
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
    for (i = 1; i < (int)p->count; i++) p->lines[i].here = 1;
}

/* ---- into files ---- */

/* Appends "key: value" lines; without `all`, those that are the same everywhere. */
SYSTEM_API void provenance_text(sheet *s, const provenance *p, int all)
{
    size_t i;
    for (i = 0; i < p->count; i++)
        if (all || !p->lines[i].here) sheet_add(s, "%s: %s\n", p->lines[i].key, p->lines[i].value);
}

/* The whole file, with a zero behind it, to be freed; NULL where it cannot be read. */
SYSTEM_API char *provenance_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *bytes = NULL;
    long size = -1;
    if (file && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size >= 0 && fseek(file, 0, SEEK_SET) == 0) bytes = (char *)malloc((size_t)size + 1);
    if (bytes && fread(bytes, 1, (size_t)size, file) != (size_t)size) {
        free(bytes);
        bytes = NULL;
    }
    if (bytes) bytes[size] = 0;
    if (file) fclose(file);
    return bytes;
}

/* Writes FOLDER/provenance.txt. */
SYSTEM_API lensnet_result provenance_save(const provenance *p, const char *folder,
                                          lensnet_error *error)
{
    char *path = system_path(folder, "provenance.txt");
    sheet s;
    lensnet_result result;
    memset(&s, 0, sizeof s);
    provenance_text(&s, p, 1);
    s.failed |= !path;
    result = sheet_save(&s, path ? path : "provenance.txt", error);
    free(path);
    return result;
}

/* Puts <metadata> into a figure of the folder; one that is not there, or has them, is passed over. */
static lensnet_result provenance_stamp(const provenance *p, const char *folder, const char *name,
                                       lensnet_error *error)
{
    char *path = system_path(folder, name), *figure = path ? provenance_read(path) : NULL;
    char *end = figure ? strstr(figure, "</svg>") : NULL;
    sheet s, lines;
    lensnet_result result = LENSNET_OK;
    memset(&s, 0, sizeof s);
    memset(&lines, 0, sizeof lines);
    if (end && !strstr(figure, "<metadata>")) {
        provenance_text(&lines, p, 0);
        *end = 0;
        sheet_add(&s, "%s<metadata>\n", figure);
        if (lines.text) svg_escape_lines(&s, lines.text);
        sheet_add(&s, "</metadata>\n</svg>\n");
        s.failed |= lines.failed;
        result = sheet_save(&s, path, error);
    }
    sheet_clear(&lines);
    free(figure);
    free(path);
    return result;
}

/* The figures of an evaluation, and of a training, in their folder. */
SYSTEM_API lensnet_result provenance_stamp_all(const provenance *p, const char *folder,
                                               lensnet_error *error)
{
    static const char *const names[] = {"roc.svg",         "precision_recall.svg", "confusion.svg",
                                        "reliability.svg", "coverage.svg",         "history.svg"};
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; !result && i < sizeof names / sizeof *names; i++)
        result = provenance_stamp(p, folder, names[i], error);
    return result;
}

/* Adds a section to a model card (Markdown). */
SYSTEM_API lensnet_result provenance_card(const provenance *p, const char *path,
                                          lensnet_error *error)
{
    char *card = provenance_read(path);
    sheet s;
    memset(&s, 0, sizeof s);
    sheet_add(&s, "%s\n## Where it comes from\n\n```text\n", card ? card : "");
    provenance_text(&s, p, 0);
    sheet_add(&s, "```\n");
    free(card);
    return sheet_save(&s, path, error);
}

#endif
