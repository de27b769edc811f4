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
#include "parts.h"

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

/* Keeps a part of the images and of their entries. */
NPY_API void catalogue_keep_part(catalogue *c, dataset_split *images, const parts_mark *mark)
{
    const size_t first = parts_first(mark->part, mark);
    const size_t end = parts_first(mark->part + 1, mark);
    size_t i;
    parts_keep(images, mark);
    for (i = 0; i < c->count; i++) {
        if (i >= first && i < end)
            c->entries[i - first] = c->entries[i];
        else
            free(c->entries[i].id);
    }
    c->count = c->count > end ? end - first : c->count > first ? c->count - first : 0;
}

/* The first line of a part, to stdout if it is the first part. *json: what kind of table it is. 0: neither. */
static int catalogue_copy_head(FILE *file, int *json, int first)
{
    char start[6];
    int c;
    if (!fgets(start, sizeof start, file)) return 0;
    *json = strcmp(start, "[\n") == 0;
    if (first) fputs(*json ? "[" : start, stdout);
    if (*json) return 1;
    if (strcmp(start, "file,") != 0) return 0;
    while ((c = getc(file)) != EOF) {
        if (first) putchar(c);
        if (c == '\n') return 1;
    }
    return 0;
}

/* Copies a part to stdout. In JSON a comma and a line's end stand behind each row, and go before the next. */
static int catalogue_copy(FILE *file, const parts_table *table, int *json, int *any,
                          lensnet_error *error)
{
    const int before = *json, first = table->mark.part == 1;
    long at, end = table->end;
    uint64_t rows = 0;
    int c;
    if (!catalogue_copy_head(file, json, first) || (!first && *json != before))
        return dataset_fail(error,
                            "%s: it is no table of the same kind that classify --csv or --json "
                            "wrote",
                            table->path);
    at = ftell(file);
    if (*json && at < end) {
        fputs(*any ? ",\n" : "\n", stdout);
        end -= 2;
        rows = 1;
        *any = 1;
    }
    for (; at < end && (c = getc(file)) != EOF; at++) {
        rows += c == '\n';
        putchar(c);
    }
    return (at == end && rows == table->mark.rows) ||
           dataset_fail(error, "%s: it does not have the rows that its mark speaks of",
                        table->path);
}

/* Joins tables that classify wrote for the parts of a run: what the whole run would have written, to the
 * byte. */
NPY_API int catalogue_merge(char **paths, int count, lensnet_error *error)
{
    parts_table *tables = (parts_table *)calloc((size_t)count, sizeof *tables);
    int i, json = 0, any = 0, good = tables != NULL || dataset_no_memory(error);
    good = good && parts_collect(tables, paths, (size_t)count, error);
    for (i = 0; good && i < count; i++) {
        FILE *file = fopen(tables[i].path, "rb");
        if (!file) {
            good = dataset_fail(error, "%s: cannot be opened: %s", tables[i].path, strerror(errno));
        } else {
            good = catalogue_copy(file, &tables[i], &json, &any, error);
            fclose(file);
        }
    }
    if (good && json) fputs("\n]\n", stdout);
    free(tables);
    return good;
}

#endif
