/* catalogue.h - lists of images in, tables of answers out: which image, where on the sky, which class.
 *
 * A list is a text file with one path a line, or a table of comma-separated values whose first line names
 * its columns: `file`, and if they are there `id`, `ra` and `dec` (degrees); others are passed over. What
 * a list says of an image stands before what a FITS file says of itself.
 *
 * Functions return 1 on success; on failure 0 and a sentence in `error`. Include system.h first, then
 * lensnet.h. */
#ifndef CATALOGUE_H
#define CATALOGUE_H

#include "dataset.h"

enum { CATALOGUE_LINE = 8192, CATALOGUE_FIELDS = 256 };

/* What is known of an image besides its pixels. */
typedef struct catalogue_entry {
    char *id;    /* NULL: none */
    int has_sky; /* 1: the next two are known */
    double ra, dec;
} catalogue_entry;

/* Entries of the images of a split, by their index; fewer where the last images have none. */
typedef struct catalogue {
    catalogue_entry *entries;
    size_t count, capacity;
} catalogue;

NPY_API void catalogue_free(catalogue *c)
{
    size_t i;
    for (i = 0; i < c->count; i++) free(c->entries[i].id);
    free(c->entries);
    memset(c, 0, sizeof *c);
}

/* The entry of image `index`, made if it is not there; NULL without memory. */
static catalogue_entry *catalogue_make(catalogue *c, size_t index)
{
    if (index >= c->capacity) {
        size_t capacity = 2 * index + 64;
        catalogue_entry *entries =
            (catalogue_entry *)realloc(c->entries, capacity * sizeof *entries);
        if (!entries) return NULL;
        memset(entries + c->capacity, 0, (capacity - c->capacity) * sizeof *entries);
        c->entries = entries;
        c->capacity = capacity;
    }
    if (index >= c->count) c->count = index + 1;
    return &c->entries[index];
}

/* ---- lists ---- */

typedef enum {
    CATALOGUE_FILE,
    CATALOGUE_ID,
    CATALOGUE_RA,
    CATALOGUE_DEC,
    CATALOGUE_COLUMNS
} catalogue_column;

/* Which field of a table is which column; -1: none. 0 if the line does not name a column `file`. */
static int catalogue_head(int place[CATALOGUE_COLUMNS], char *fields[], size_t count)
{
    static const char *const names[CATALOGUE_COLUMNS][3] = {{"file", "path", "filename"},
                                                            {"id", "object", "name"},
                                                            {"ra", "RA", "Ra"},
                                                            {"dec", "DEC", "Dec"}};
    size_t i;
    int c, k;
    for (c = 0; c < CATALOGUE_COLUMNS; c++) {
        place[c] = -1;
        for (i = 0; i < count; i++)
            for (k = 0; k < 3; k++)
                if (!strcmp(fields[i], names[c][k]) && place[c] < 0) place[c] = (int)i;
    }
    return place[CATALOGUE_FILE] >= 0;
}

/* Adds the image of one line. */
static int catalogue_row(catalogue *c, dataset_split *images, const int place[CATALOGUE_COLUMNS],
                         char *fields[], size_t count, lensnet_error *error)
{
    const char *text[CATALOGUE_COLUMNS];
    catalogue_entry *entry;
    int k;
    for (k = 0; k < CATALOGUE_COLUMNS; k++)
        text[k] = place[k] >= 0 && (size_t)place[k] < count ? fields[place[k]] : "";
    if (!*text[CATALOGUE_FILE]) return 1;
    if (!dataset_add_path(images, system_copy(text[CATALOGUE_FILE]), 0, 0, error)) return 0;
    if (!*text[CATALOGUE_ID] && !*text[CATALOGUE_RA]) return 1;
    entry = catalogue_make(c, images->count - 1);
    if (!entry) return dataset_no_memory(error);
    if (*text[CATALOGUE_ID] && !(entry->id = system_copy(text[CATALOGUE_ID])))
        return dataset_no_memory(error);
    entry->has_sky = fits_parse_real(&entry->ra, text[CATALOGUE_RA]) &&
                     fits_parse_real(&entry->dec, text[CATALOGUE_DEC]);
    return 1;
}

/* Adds the images of a list; "-" is stdin. */
NPY_API int catalogue_read(catalogue *c, dataset_split *images, const char *path,
                           lensnet_error *error)
{
    const int standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : fopen(path, "r");
    char line[CATALOGUE_LINE], *fields[CATALOGUE_FIELDS];
    int place[CATALOGUE_COLUMNS] = {0, -1, -1, -1}, table = 0, good = 1;
    unsigned long number = 0;
    if (!file) return dataset_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    while (good && fgets(line, sizeof line, file)) {
        size_t length = strlen(line), count = 1;
        number++;
        if (length + 1 == sizeof line && line[length - 1] != '\n')
            good = dataset_fail(error, "%s: line %lu is longer than %d characters", path, number,
                                (int)CATALOGUE_LINE - 2);
        while (length && (line[length - 1] == '\n' || line[length - 1] == '\r')) line[--length] = 0;
        fields[0] = line;
        if (number == 1) {
            char head[CATALOGUE_LINE];
            memcpy(head, line, length + 1);
            count = text_fields(fields, CATALOGUE_FIELDS, head);
            table = catalogue_head(place, fields, count);
            if (table) continue;
            place[CATALOGUE_FILE] = 0;
            place[CATALOGUE_ID] = place[CATALOGUE_RA] = place[CATALOGUE_DEC] = -1;
            fields[0] = line;
            count = 1;
        } else if (table) {
            count = text_fields(fields, CATALOGUE_FIELDS, line);
        }
        good = good && catalogue_row(c, images, place, fields, count, error);
    }
    if (good && ferror(file))
        good = dataset_fail(error, "%s: cannot be read: %s", path, strerror(errno));
    if (!standard) fclose(file);
    return good;
}

/* ---- parts ---- */

/* Reads "I/N", part I (from 1) of N. */
NPY_API int catalogue_parse_part(size_t part[2], const char *text)
{
    char *end;
    long i = strtol(text, &end, 10), n = *end == '/' ? strtol(end + 1, &end, 10) : 0;
    if (*end || n < 1 || n > 1000000 || i < 1 || i > n) return 0;
    part[0] = (size_t)i;
    part[1] = (size_t)n;
    return 1;
}

/* Keeps part I of N of the images and of their entries; all parts together are all of them, in order. */
NPY_API void catalogue_keep_part(catalogue *c, dataset_split *images, const size_t part[2])
{
    const size_t first =
        images->count / part[1] * (part[0] - 1) + images->count % part[1] * (part[0] - 1) / part[1];
    const size_t end =
        images->count / part[1] * part[0] + images->count % part[1] * part[0] / part[1];
    size_t i;
    for (i = 0; i < images->count; i++) {
        if (i >= first && i < end) {
            images->files[i - first] = images->files[i];
            continue;
        }
        free(images->files[i].path);
        free(images->files[i].pixels);
    }
    images->count = end - first;
    for (i = 0; i < c->count; i++) {
        if (i >= first && i < end)
            c->entries[i - first] = c->entries[i];
        else
            free(c->entries[i].id);
    }
    c->count = c->count > end ? end - first : c->count > first ? c->count - first : 0;
}

/* Copies `file` to stdout without its first `skip` lines and its last `tail` bytes. */
static int catalogue_copy(FILE *file, long skip, long tail)
{
    long size, at;
    int c = 0;
    if (fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < tail ||
        fseek(file, 0, SEEK_SET) != 0)
        return 0;
    for (at = 0; skip && at < size && (c = getc(file)) != EOF; at++) skip -= c == '\n';
    for (; at < size - tail && (c = getc(file)) != EOF; at++) putchar(c);
    return !ferror(file);
}

/* Joins tables that classify wrote for the parts of a run, given in their order: what the whole run would
 * have written, to the byte. All CSV with the same first line, or all JSON. */
NPY_API int catalogue_merge(char **paths, int count, lensnet_error *error)
{
    char first[CATALOGUE_LINE] = "", line[CATALOGUE_LINE];
    int i, good = 1, any = 0;
    for (i = 0; good && i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        if (!file)
            return dataset_fail(error, "%s: cannot be opened: %s", paths[i], strerror(errno));
        line[0] = 0;
        if (!fgets(line, sizeof line, file) ||
            (strcmp(line, "[\n") != 0 && strncmp(line, "file,", 5) != 0))
            good = dataset_fail(error, "%s: it is no table that classify --csv or --json wrote",
                                paths[i]);
        if (good && i == 0) {
            memcpy(first, line, sizeof first);
            fputs(first[0] == '[' ? "[" : first, stdout);
        } else if (good && strcmp(first, line) != 0) {
            good = dataset_fail(error, "%s: its first line is not that of %s; are they of one run?",
                                paths[i], paths[0]);
        }
        if (good && first[0] == '[') {
            long here;
            fseek(file, 0, SEEK_END);
            here = ftell(file); /* "[\n]\n" holds no row */
            if (here > 4) fputs(any ? ",\n" : "\n", stdout);
            if (here > 4) good = catalogue_copy(file, 1, 3);
            any |= here > 4;
        } else if (good) {
            good = catalogue_copy(file, 1, 0);
        }
        if (!good && !error->text[0]) dataset_fail(error, "%s: cannot be read", paths[i]);
        fclose(file);
    }
    if (good && first[0] == '[') fputs("\n]\n", stdout);
    return good;
}

#endif
