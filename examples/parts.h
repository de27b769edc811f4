/* parts.h - the jobs of an array: which images are a part's, and how one command tells that it has what all of
 * them wrote.
 *
 * The table of a part ends with its mark, "part 3/8: 12 rows, of 200 images, run 0123456789abcdef". `run` names
 * the images, the options, and what the weights say, so parts of two runs are not taken for one. A table without
 * a mark is not complete: its job was ended before its time.
 *
 * Functions return 1 on success; on failure 0 and a sentence in `error`. Include system.h first, then lensnet.h. */
#ifndef PARTS_H
#define PARTS_H

#include "dataset.h"

#include <ctype.h>

enum { PARTS_MOST = 1000000, PARTS_TAIL = 256 }; /* the mark stands in the last bytes of a table */

typedef struct parts_mark {
    uint64_t part, parts; /* part I, from 1, of N */
    uint64_t rows;        /* of its table */
    uint64_t images;      /* of the undivided run */
    uint64_t run;
} parts_mark;

/* A table that holds a part. */
typedef struct parts_table {
    const char *path;
    parts_mark mark;
    long end; /* where the line of its mark begins */
} parts_table;

/* ---- which part ---- */

/* Reads "I/N", part I (from 1) of N. */
NPY_API int parts_parse(parts_mark *mark, const char *text)
{
    char *end;
    long i = strtol(text, &end, 10), n = *end == '/' ? strtol(end + 1, &end, 10) : 0;
    memset(mark, 0, sizeof *mark);
    if (*end || n < 1 || n > PARTS_MOST || i < 1 || i > n) return 0;
    mark->part = (uint64_t)i;
    mark->parts = (uint64_t)n;
    return 1;
}

/* The first image of a part; that of part N + 1 is their number. */
NPY_API size_t parts_first(uint64_t part, const parts_mark *mark)
{
    const uint64_t each = mark->images / mark->parts, left = mark->images % mark->parts;
    return (size_t)(each * (part - 1) + left * (part - 1) / mark->parts);
}

/* Keeps the images of the part alone; those of all parts together are all, in order. */
NPY_API void parts_keep(dataset_split *images, const parts_mark *mark)
{
    const size_t first = parts_first(mark->part, mark);
    const size_t end = parts_first(mark->part + 1, mark);
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
}

/* ---- which run ---- */

static uint64_t parts_mix(uint64_t run, const void *bytes, size_t count)
{
    const unsigned char *b = (const unsigned char *)bytes;
    for (; count; count--) run = (run ^ *b++) * 0x100000001B3u;
    return run;
}

/* What the classifier says of an image that never changes. It depends on all that an answer depends on, in
 * whatever files the weights lie. */
static int parts_probe(uint64_t *run, const lensnet_classifier *classifier, lensnet_error *error)
{
    enum { SIDE = 64 };
    const size_t classes = lensnet_classifier_classes(classifier);
    const size_t count = (size_t)lensnet_classifier_preprocess(classifier)->bands * SIDE * SIDE;
    const double coverage = lensnet_classifier_reliability(classifier).coverage;
    float *pixels = (float *)malloc(count * sizeof *pixels);
    float *probabilities = (float *)malloc(classes * sizeof *probabilities);
    lensnet_session *session = NULL;
    lensnet_prediction p;
    size_t i;
    int good = pixels && probabilities;
    if (!good) dataset_no_memory(error);
    for (i = 0; good && i < count; i++) pixels[i] = (float)lensnet_random_uniform(0, 0, i);
    good = good && !lensnet_session_create(&session, classifier, 1, error) &&
           !lensnet_session_predict(session, &p, probabilities, NULL, pixels, 1, SIDE, SIDE, error);
    for (i = 0; good && i < classes; i++) {
        const char *label = lensnet_classifier_label(classifier, i);
        *run = parts_mix(*run, label, strlen(label) + 1);
        *run = parts_mix(*run, &probabilities[i], sizeof *probabilities);
    }
    if (good) *run = parts_mix(*run, &p.foreign, sizeof p.foreign);
    if (good) *run = parts_mix(*run, &p.set, sizeof p.set);
    if (good) *run = parts_mix(*run, &coverage, sizeof coverage);
    lensnet_session_destroy(session);
    free(probabilities);
    free(pixels);
    return good;
}

/* Counts and names the run of which the images, all of them, are to be classified. */
NPY_API int parts_run(parts_mark *mark, const lensnet_classifier *classifier,
                      const dataset_split *images, lensnet_error *error)
{
    const dataset_reading *r = &images->reading;
    const int modes[2] = {(int)r->mend, (int)r->fit};
    uint64_t run = 0xCBF29CE484222325u;
    size_t i;
    for (i = 0; i < images->count; i++)
        run = parts_mix(run, images->files[i].path, strlen(images->files[i].path) + 1);
    run = parts_mix(run, modes, sizeof modes);
    run = parts_mix(run, &r->pixel_scale, sizeof r->pixel_scale);
    mark->images = images->count;
    mark->run = run;
    return parts_probe(&mark->run, classifier, error);
}

/* ---- marks ---- */

/* Prints a mark, without a line's end. */
NPY_API void parts_print(const parts_mark *mark)
{
    printf("part %llu/%llu: %llu rows, of %llu images, run %016llx", (unsigned long long)mark->part,
           (unsigned long long)mark->parts, (unsigned long long)mark->rows,
           (unsigned long long)mark->images, (unsigned long long)mark->run);
}

/* A number and what stands behind it. */
static int parts_number(uint64_t *value, const char **text, int base, const char *behind)
{
    char *end;
    if (!isxdigit((unsigned char)**text)) return 0;
    errno = 0;
    *value = strtoull(*text, &end, base);
    if (errno || strncmp(end, behind, strlen(behind)) != 0) return 0;
    *text = end + strlen(behind);
    return 1;
}

/* The line of a mark in CSV, or the last element of a list in JSON, and nothing behind it. */
static int parts_read_line(parts_mark *mark, const char *line)
{
    static const char csv[] = "# part ", json[] = "  {\"mark\": \"part ";
    const int is_csv = strncmp(line, csv, sizeof csv - 1) == 0;
    if (!is_csv && strncmp(line, json, sizeof json - 1) != 0) return 0;
    line += is_csv ? sizeof csv - 1 : sizeof json - 1;
    return parts_number(&mark->part, &line, 10, "/") &&
           parts_number(&mark->parts, &line, 10, ": ") &&
           parts_number(&mark->rows, &line, 10, " rows, of ") &&
           parts_number(&mark->images, &line, 10, " images, run ") &&
           parts_number(&mark->run, &line, 16, is_csv ? "\n" : "\"}\n]\n") && !*line &&
           mark->part >= 1 && mark->part <= mark->parts && mark->parts <= PARTS_MOST;
}

static int parts_read(parts_table *table, const char *path, lensnet_error *error)
{
    char tail[PARTS_TAIL + 1];
    FILE *file = fopen(path, "rb");
    long size, from;
    size_t got, i;
    int good = 0;
    table->path = path;
    if (!file) return dataset_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    from = size > PARTS_TAIL ? size - PARTS_TAIL : 0;
    fseek(file, from, SEEK_SET);
    got = fread(tail, 1, PARTS_TAIL, file);
    fclose(file);
    tail[got] = 0;
    for (i = 0; !good && i + 1 < got; i++) {
        if (tail[i] != '\n') continue;
        table->end = from + (long)i + 1;
        good = parts_read_line(&table->mark, tail + i + 1);
    }
    return good || dataset_fail(error,
                                "%s: it does not end with the mark of a part; either it was not "
                                "written with --part, or its job was ended before its time",
                                path);
}

static int parts_before(const void *a, const void *b)
{
    const uint64_t i = ((const parts_table *)a)->mark.part, j = ((const parts_table *)b)->mark.part;
    return (i > j) - (i < j);
}

static int parts_alike(const parts_table *a, const parts_table *b, lensnet_error *error)
{
    if (a->mark.parts != b->mark.parts)
        return dataset_fail(error, "%s is one part of %llu, and %s one of %llu", a->path,
                            (unsigned long long)a->mark.parts, b->path,
                            (unsigned long long)b->mark.parts);
    if (a->mark.images == b->mark.images && a->mark.run == b->mark.run) return 1;
    return dataset_fail(error, "%s has other images, weights or options than %s", b->path, a->path);
}

/* Reads the marks of tables, given in any order, and puts them in that of the parts. All parts of one run must
 * be there, once each. */
NPY_API int parts_collect(parts_table *tables, char **paths, size_t count, lensnet_error *error)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (!parts_read(&tables[i], paths[i], error) || !parts_alike(&tables[0], &tables[i], error))
            return 0;
    qsort(tables, count, sizeof *tables, parts_before);
    for (i = 0; i < (size_t)tables[0].mark.parts; i++) {
        if (i && i < count && tables[i].mark.part == i)
            return dataset_fail(error, "%s and %s are both part %zu of %llu", tables[i - 1].path,
                                tables[i].path, i, (unsigned long long)tables[0].mark.parts);
        if (i >= count || tables[i].mark.part != i + 1)
            return dataset_fail(error, "part %zu of %llu is missing", i + 1,
                                (unsigned long long)tables[0].mark.parts);
    }
    return i == count || dataset_fail(error, "%s and %s are both part %zu of %zu",
                                      tables[i - 1].path, tables[i].path, i, i);
}

#endif
