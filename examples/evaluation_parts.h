/* evaluation_parts.h - an evaluation by the jobs of an array: each writes what the network says of its part of
 * the images, and of all that together becomes the evaluation that one job would have made.
 *
 * The table of a part: a line with what its pixels add to evaluation.contents, one that names the columns, a row
 * for each image, the mark (parts.h). Numbers have the digits that bring their bits back.
 * Include system.h first, then lensnet.h. */
#ifndef EVALUATION_PARTS_H
#define EVALUATION_PARTS_H

#include "evaluation.h"
#include "parts.h"

/* A line's, at most. */
static size_t evaluation_room(const evaluation *e) { return 256 + 32 * e->classes; }

static const char evaluation_columns[] =
    "index,probability,unknown,foreign,set_size,set,probabilities\n";

/* ---- a part ---- */

static void evaluation_print(const evaluation *e, const parts_mark *mark)
{
    size_t i, k;
    printf("contents %016llx\n%s", (unsigned long long)e->contents, evaluation_columns);
    for (i = 0; i < e->count; i++) {
        const lensnet_prediction *p = &e->predictions[i];
        printf("%d,%.9g,%d,%.9g,%d,%llx", p->index, (double)p->probability, p->unknown,
               (double)p->foreign, p->set_size, (unsigned long long)p->set);
        for (k = 0; k < e->classes; k++) printf(",%.9g", e->scores[i * e->classes + k]);
        putchar('\n');
    }
    printf("# ");
    parts_print(mark);
    putchar('\n');
}

/* Classifies a part of the images, all of which stand in `split`, and prints its table. */
NPY_API int evaluation_part(const lensnet_classifier *classifier, dataset_split *split,
                            const parts_mark *part, size_t batch, int threads, lensnet_error *error)
{
    parts_mark mark = *part;
    evaluation e;
    int good;
    memset(&e, 0, sizeof e);
    good = parts_run(&mark, classifier, split, error);
    if (good) parts_keep(split, &mark);
    good = good && evaluation_open(&e, classifier, split, error) &&
           evaluation_classify(&e, classifier, batch, threads, error);
    mark.rows = e.count;
    if (good) evaluation_print(&e, &mark);
    evaluation_free(&e);
    return good;
}

/* ---- all parts ---- */

/* The next number of a row, and the comma or the line's end behind it. */
static int evaluation_number(double *value, char **text, char behind)
{
    char *end;
    *value = strtod(*text, &end);
    if (end == *text || *end != behind) return 0;
    *text = end + 1;
    return 1;
}

/* Whole numbers of a prediction are small. */
static int evaluation_whole(int *value, char **text, int low, int high)
{
    double number;
    if (!evaluation_number(&number, text, ',') || !(number >= low && number <= high)) return 0;
    *value = (int)number;
    return 1;
}

/* Image i, from its row. */
static int evaluation_row(evaluation *e, size_t i, char *text, const lensnet_classifier *classifier)
{
    const int classes = (int)e->classes;
    lensnet_prediction *p = &e->predictions[i];
    double probability, foreign;
    char *end;
    int k;
    if (!evaluation_whole(&p->index, &text, 0, classes - 1) ||
        !evaluation_number(&probability, &text, ',') ||
        !evaluation_whole(&p->unknown, &text, 0, 1) || !evaluation_number(&foreign, &text, ',') ||
        !evaluation_whole(&p->set_size, &text, -1, classes))
        return 0;
    p->set = strtoull(text, &end, 16);
    if (end == text || *end != ',') return 0;
    text = end + 1;
    for (k = 0; k < classes; k++)
        if (!evaluation_number(&e->scores[i * e->classes + (size_t)k], &text,
                               k + 1 < classes ? ',' : '\n'))
            return 0;
    p->probability = (float)probability;
    p->foreign = (float)foreign;
    p->label = p->unknown ? "unknown" : lensnet_classifier_label(classifier, (size_t)p->index);
    e->labels[i] = e->split->files[i].label;
    return !*text;
}

/* `line` has evaluation_room() bytes. */
static int evaluation_read_file(evaluation *e, FILE *file, const parts_table *table, char *line,
                                const lensnet_classifier *classifier, lensnet_error *error)
{
    const size_t first = parts_first(table->mark.part, &table->mark);
    const size_t end = parts_first(table->mark.part + 1, &table->mark);
    const int room = (int)evaluation_room(e);
    const char *text = line + sizeof "contents";
    uint64_t contents;
    size_t i;
    if (!fgets(line, room, file) || strncmp(line, "contents ", 9) != 0 ||
        !parts_number(&contents, &text, 16, "\n") || !fgets(line, room, file) ||
        strcmp(line, evaluation_columns) != 0)
        return dataset_fail(error, "%s: it is no table that evaluate --part wrote", table->path);
    for (i = first; i < end; i++)
        if (!fgets(line, room, file) || !evaluation_row(e, i, line, classifier))
            return dataset_fail(error, "%s: its line %zu is not a row of evaluate --part",
                                table->path, i - first + 3);
    e->contents += contents;
    return (table->mark.rows == end - first && ftell(file) == table->end) ||
           dataset_fail(error, "%s: it does not have the rows that its mark speaks of",
                        table->path);
}

/* Puts the tables of the parts, in any order, into an evaluation that is open. */
static int evaluation_read(evaluation *e, const lensnet_classifier *classifier, char **paths,
                           size_t count, lensnet_error *error)
{
    parts_table *tables = (parts_table *)calloc(count, sizeof *tables);
    char *line = (char *)malloc(evaluation_room(e));
    parts_mark here;
    size_t i;
    int good = (tables && line) || dataset_no_memory(error);
    memset(&here, 0, sizeof here);
    good = good && parts_collect(tables, paths, count, error) &&
           parts_run(&here, classifier, e->split, error);
    if (good && (here.images != tables[0].mark.images || here.run != tables[0].mark.run))
        good = dataset_fail(error,
                            "%s is not of these images, weights and options; say the same as "
                            "the parts were made with",
                            tables[0].path);
    for (i = 0; good && i < count; i++) {
        FILE *file = fopen(tables[i].path, "rb");
        if (!file) {
            good = dataset_fail(error, "%s: cannot be opened: %s", tables[i].path, strerror(errno));
        } else {
            good = evaluation_read_file(e, file, &tables[i], line, classifier, error);
            fclose(file);
        }
    }
    free(line);
    free(tables);
    return good;
}

/* The evaluation of the whole, from the tables of all parts. */
NPY_API int evaluation_merge(evaluation *e, const lensnet_classifier *classifier,
                             dataset_split *split, char **paths, size_t count, lensnet_error *error)
{
    return evaluation_open(e, classifier, split, error) &&
           evaluation_read(e, classifier, paths, count, error) && evaluation_measure(e, error);
}

#endif
