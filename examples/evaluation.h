/* evaluation.h - how good a classifier is on a split: every score, the metrics of the field with their
 * 95 % intervals as text, figures and a table. Include system.h first, then lensnet.h. */
#ifndef EVALUATION_H
#define EVALUATION_H

#include "predict.h"
#include "report.h"
#include "statistics.h"

enum { EVALUATION_DRAWS = 2000, EVALUATION_LEVELS = 99 };

/* Scores of a classifier on a split; zero it before use. */
typedef struct evaluation {
    dataset_split *split;
    size_t count, classes;
    const char **names; /* of the classes, borrowed from the classifier */
    double *scores;     /* (count, classes), probabilities */
    int *labels;
    lensnet_prediction *predictions;
    lensnet_reliability reliability;
    lensnet_metrics metrics;
    statistics_interval *intervals; /* of statistics_figures(classes) figures */
    const char *weights;            /* the file, for what needs it; NULL: unknown */
    int views;
    uint64_t
        contents; /* dataset_contents of all images, as the network was given them, added up (of
                          this process's share, where several share the images) */
    lensnet_error *error; /* while it runs */
} evaluation;

NPY_API void evaluation_free(evaluation *e)
{
    lensnet_metrics_release(&e->metrics);
    free(e->names);
    free(e->scores);
    free(e->labels);
    free(e->predictions);
    free(e->intervals);
    memset(e, 0, sizeof *e);
}

static int evaluation_receive(void *user, size_t index, const float *probabilities,
                              const char *problem)
{
    evaluation *e = (evaluation *)user;
    size_t k;
    if (!probabilities) return dataset_fail(e->error, "%s", problem);
    for (k = 0; k < e->classes; k++) e->scores[index * e->classes + k] = probabilities[k];
    e->labels[index] = e->split->files[index].label;
    return !system_interrupted() || dataset_fail(e->error, "interrupted; nothing was written");
}

static void evaluation_see(void *user, size_t index, const dataset_image *image,
                           const lensnet_prediction *prediction)
{
    evaluation *e = (evaluation *)user;
    const dataset_file *file = &e->split->files[index];
    if (prediction) e->contents += dataset_contents(image, file->path ? file->name : index);
}

static int evaluation_intervals(evaluation *e, lensnet_error *error)
{
    statistics_sample sample;
    int good = statistics_sample_create(&sample, e->scores, e->labels, e->count, e->classes);
    good = good && statistics_bootstrap(e->intervals, &sample, NULL, EVALUATION_DRAWS, 0);
    statistics_sample_free(&sample);
    return good || dataset_no_memory(error);
}

/* Memory for the scores of a split (labels: numbers of the classifier's classes). evaluation_free() also after a
 * failure. */
static int evaluation_open(evaluation *e, const lensnet_classifier *classifier,
                           dataset_split *split, lensnet_error *error)
{
    const size_t classes = lensnet_classifier_classes(classifier), some = split->count + 1;
    size_t k;
    memset(e, 0, sizeof *e);
    e->split = split;
    e->error = error;
    e->count = split->count;
    e->classes = classes;
    e->names = (const char **)calloc(classes, sizeof *e->names);
    e->scores = (double *)calloc(some * classes, sizeof *e->scores);
    e->labels = (int *)calloc(some, sizeof *e->labels);
    e->predictions = (lensnet_prediction *)calloc(some, sizeof *e->predictions);
    e->intervals = (statistics_interval *)calloc(statistics_figures(classes), sizeof *e->intervals);
    if (!e->names || !e->scores || !e->labels || !e->predictions || !e->intervals)
        return dataset_no_memory(error);
    for (k = 0; k < classes; k++) e->names[k] = lensnet_classifier_label(classifier, k);
    e->reliability = lensnet_classifier_reliability(classifier);
    return 1;
}

/* Classifies every image of the split. One that cannot be used is a failure. */
static int evaluation_classify(evaluation *e, const lensnet_classifier *classifier, size_t batch,
                               int threads, lensnet_error *error)
{
    predict_wish wish;
    int good;
    memset(&wish, 0, sizeof wish);
    wish.batch = batch;
    wish.threads = threads;
    wish.predictions = e->predictions;
    e->split->see = evaluation_see;
    e->split->seer = e;
    good = predict_split_as(classifier, e->split, &wish, evaluation_receive, e, error);
    e->split->see = NULL;
    return good;
}

/* The metrics, from the scores. */
static int evaluation_measure(evaluation *e, lensnet_error *error)
{
    return !lensnet_metrics_compute(&e->metrics, e->scores, e->labels, e->count, e->classes, NULL,
                                    error) &&
           evaluation_intervals(e, error);
}

NPY_API int evaluation_run(evaluation *e, const lensnet_classifier *classifier,
                           dataset_split *split, size_t batch, int threads, lensnet_error *error)
{
    return evaluation_open(e, classifier, split, error) &&
           evaluation_classify(e, classifier, batch, threads, error) &&
           evaluation_measure(e, error);
}

/* ---- text ---- */

static int evaluation_add_report(sheet *s, const evaluation *e, lensnet_error *error)
{
    int *predictions = (int *)malloc(e->count * sizeof *predictions);
    char *text = NULL;
    size_t length = 0;
    int good = predictions != NULL;
    if (!good) return dataset_no_memory(error);
    lensnet_predicted_classes(predictions, e->scores, e->count, e->classes);
    good = !lensnet_classification_report(NULL, 0, &length, e->labels, predictions, e->count,
                                          e->names, e->classes, 4, 0, error);
    if (good && !(text = (char *)malloc(length + 1))) good = dataset_no_memory(error);
    good = good && !lensnet_classification_report(text, length + 1, NULL, e->labels, predictions,
                                                  e->count, e->names, e->classes, 4, 0, error);
    if (good) sheet_add(s, "%s", text);
    free(text);
    free(predictions);
    return good;
}

static void evaluation_add_confusion(sheet *s, const evaluation *e)
{
    size_t i, j;
    int width = 8;
    for (i = 0; i < e->classes; i++)
        if ((int)strlen(e->names[i]) > width) width = (int)strlen(e->names[i]);
    sheet_add(s, "\nconfusion matrix (row: true class, column: predicted class)\n%*s", width, "");
    for (j = 0; j < e->classes; j++) sheet_add(s, "  %*s", width, e->names[j]);
    for (i = 0; i < e->classes; i++) {
        sheet_add(s, "\n%*s", width, e->names[i]);
        for (j = 0; j < e->classes; j++)
            sheet_add(s, "  %*zu", width, e->metrics.confusion[i * e->classes + j]);
    }
    sheet_add(s, "\n");
}

static const char *const evaluation_figures[STATISTICS_FIGURES] = {"accuracy",
                                                                   "balanced accuracy",
                                                                   "macro F1",
                                                                   "macro AUC",
                                                                   "micro AUC",
                                                                   "macro AUC, one versus one",
                                                                   "mean average precision",
                                                                   "log loss",
                                                                   "Brier score",
                                                                   "calibration error ECE",
                                                                   "Matthews' correlation",
                                                                   "Cohen's kappa"};
static const char *const evaluation_class_figures[STATISTICS_CLASS_FIGURES] = {
    "AUC", "average precision", "precision", "recall", "F1"};

/* "0.9123   0.9011 ... 0.9230" */
static void evaluation_interval(sheet *s, const char *name, statistics_interval i)
{
    sheet_add(s, "%-24s ", name);
    sheet_add(s, i.value == i.value ? "%.4f" : "undefined", i.value);
    if (i.low == i.low) sheet_add(s, "   %.4f ... %.4f", i.low, i.high);
    sheet_add(s, "\n");
}

/* How many images have the true class in their set, of class k or (k = classes) of all, and the sets' mean
 * size. */
NPY_API size_t evaluation_covered(size_t *images, double *size, const evaluation *e, size_t k)
{
    size_t i, covered = 0, sizes = 0;
    *images = 0;
    for (i = 0; i < e->count; i++) {
        if (k < e->classes && (size_t)e->labels[i] != k) continue;
        covered += (size_t)(e->predictions[i].set >> e->labels[i] & 1);
        sizes += (size_t)e->predictions[i].set_size;
        ++*images;
    }
    *size = *images ? (double)sizes / (double)*images : NAN;
    return covered;
}

static void evaluation_add_sets(sheet *s, const evaluation *e)
{
    size_t k, i, images, unknown = 0;
    for (i = 0; i < e->count; i++) unknown += (size_t)e->predictions[i].unknown;
    if (e->reliability.sets)
        sheet_add(s, "\ncoverage of the %.0f %% conformal sets, and their mean size\n",
                  100 * e->reliability.coverage);
    for (k = 0; e->reliability.sets && k <= e->classes; k++) {
        double size;
        const size_t covered = evaluation_covered(&images, &size, e, k);
        const statistics_interval share = statistics_share(covered, images);
        if (!images) continue;
        sheet_add(s, "  %-22s %.4f   %.4f ... %.4f   %.3f\n", k < e->classes ? e->names[k] : "all",
                  share.value, share.low, share.high, size);
    }
    if (e->reliability.foreign)
        sheet_add(s, "\n%zu of %zu images (%.2f %%) look foreign to the network\n", unknown,
                  e->count, 100 * (double)unknown / (double)e->count);
}

/* Appends everything that is known in numbers. */
NPY_API int evaluation_text(sheet *s, const evaluation *e, lensnet_error *error)
{
    const lensnet_metrics *m = &e->metrics;
    size_t k;
    if (!evaluation_add_report(s, e, error)) return 0;
    sheet_add(s, "\nAUC, one class versus the rest, with 95 %% intervals (%d stratified draws)\n",
              EVALUATION_DRAWS);
    for (k = 0; k < e->classes; k++) {
        char name[32];
        snprintf(name, sizeof name, "  %.29s", e->names[k]);
        evaluation_interval(s, name,
                            e->intervals[STATISTICS_FIGURES + k * STATISTICS_CLASS_FIGURES]);
    }
    evaluation_interval(s, "  macro", e->intervals[STATISTICS_AUC]);
    evaluation_interval(s, "  micro", e->intervals[STATISTICS_AUC_MICRO]);
    if (m->present < m->classes)
        sheet_add(s, "  %-22s %.4f   (%zu of %zu classes have images here)\n", "macro over present",
                  m->auc_ovr_present, m->present, m->classes);
    sheet_add(s, "AUC, one class versus one\n");
    evaluation_interval(s, "  macro", e->intervals[STATISTICS_AUC_PAIRS]);
    sheet_add(s, "\n");
    for (k = 0; k < STATISTICS_FIGURES; k++)
        if (k < STATISTICS_AUC || k > STATISTICS_AUC_PAIRS)
            evaluation_interval(s, evaluation_figures[k], e->intervals[k]);
    evaluation_add_confusion(s, e);
    evaluation_add_sets(s, e);
    return 1;
}

/* ---- files ---- */

static lensnet_result evaluation_memory(lensnet_error *error)
{
    dataset_no_memory(error);
    return LENSNET_ERROR_MEMORY;
}

static lensnet_result evaluation_roc(const evaluation *e, const char *path, lensnet_error *error)
{
    const size_t count = e->metrics.present > 1 ? e->classes + 2 : e->classes;
    lensnet_roc *rocs = (lensnet_roc *)calloc(count, sizeof *rocs);
    report_curve *curves = (report_curve *)calloc(count, sizeof *curves);
    lensnet_result result = rocs && curves ? LENSNET_OK : evaluation_memory(error);
    size_t k;
    for (k = 0; !result && k < count; k++) {
        const int which = k < e->classes    ? (int)k
                          : k == e->classes ? LENSNET_ROC_MACRO
                                            : LENSNET_ROC_MICRO;
        result = lensnet_roc_curve(&rocs[k], e->scores, e->labels, e->count, e->classes, which, 1,
                                   NULL, error);
        curves[k].average = k >= e->classes;
        curves[k].name = k < e->classes    ? e->names[k]
                         : k == e->classes ? "macro average"
                                           : "micro average";
        curves[k].rates_false = rocs[k].false_positive_rate;
        curves[k].rates_true = rocs[k].true_positive_rate;
        curves[k].count = rocs[k].points;
        curves[k].auc = rocs[k].auc;
    }
    if (!result) result = report_roc(path, curves, count, error);
    for (k = 0; rocs && k < count; k++) lensnet_roc_release(&rocs[k]);
    free(rocs);
    free(curves);
    return result;
}

static lensnet_result evaluation_precision_recall(const evaluation *e, const char *path,
                                                  lensnet_error *error)
{
    statistics_curve *found = (statistics_curve *)calloc(e->classes, sizeof *found);
    report_curve *curves = (report_curve *)calloc(e->classes, sizeof *curves);
    statistics_ranks ranks;
    lensnet_result result = LENSNET_OK;
    size_t k;
    memset(&ranks, 0, sizeof ranks);
    if (!found || !curves || !statistics_ranks_create(&ranks, e->scores, e->count, e->classes))
        result = evaluation_memory(error);
    for (k = 0; !result && k < e->classes; k++) {
        if (!statistics_precision_recall(&found[k], &ranks, e->scores, e->labels, k))
            result = evaluation_memory(error);
        curves[k].name = e->names[k];
        curves[k].rates_false = found[k].recall;
        curves[k].rates_true = found[k].precision;
        curves[k].count = found[k].points;
        curves[k].auc = e->metrics.per_class[k].average_precision;
    }
    if (!result) result = report_precision_recall(path, curves, e->classes, error);
    for (k = 0; found && k < e->classes; k++) statistics_curve_free(&found[k]);
    statistics_ranks_free(&ranks);
    free(found);
    free(curves);
    return result;
}

/* The thresholds of the sets (K, 99) from the weights file; NULL where there are none. To be freed. */
static float *evaluation_thresholds(const evaluation *e)
{
    lensnet_archive *archive = NULL;
    const lensnet_archive_entry *entry;
    float *sets = NULL;
    char name[64];
    snprintf(name, sizeof name, "lensnet.calibration.%d.sets", e->views == 8 ? 8 : 1);
    if (!e->weights || !e->reliability.sets ||
        lensnet_archive_open(&archive, e->weights, NULL, NULL))
        return NULL;
    entry = lensnet_archive_find(archive, name);
    if (entry && entry->count == e->classes * EVALUATION_LEVELS)
        sets = (float *)malloc((size_t)entry->count * sizeof *sets);
    if (sets && lensnet_archive_read_float(sets, archive, entry, NULL)) {
        free(sets);
        sets = NULL;
    }
    lensnet_archive_close(archive);
    return sets;
}

static lensnet_result evaluation_coverage(const evaluation *e, const char *path,
                                          lensnet_error *error)
{
    const size_t levels = EVALUATION_LEVELS, rows = e->classes + 2;
    float *sets = evaluation_thresholds(e);
    double *work = (double *)calloc(rows * levels, sizeof *work);
    double *wanted = work, *measured = work + levels;
    lensnet_result result = LENSNET_OK;
    size_t i, k, j;
    if (!sets || !work) {
        free(work);
        free(sets);
        return LENSNET_OK; /* nothing to draw */
    }
    for (j = 0; j < levels; j++) wanted[j] = (double)(j + 1) / 100;
    for (i = 0; i < e->count; i++) {
        k = (size_t)e->labels[i];
        for (j = 0; j < levels; j++) {
            if (!(e->scores[i * e->classes + k] >= (double)sets[k * levels + j])) continue;
            measured[j] += 1 / (double)e->count;
            measured[(k + 1) * levels + j] += 1 / (double)e->metrics.per_class[k].support;
        }
    }
    result = report_coverage(path, wanted, measured, levels, e->names, e->classes, error);
    free(sets);
    free(work);
    return result;
}

static lensnet_result evaluation_reliability(const evaluation *e, const char *path,
                                             lensnet_error *error)
{
    lensnet_calibration_bin bins[LENSNET_METRICS_BINS];
    report_bin shown[LENSNET_METRICS_BINS];
    double ece;
    size_t b;
    lensnet_result result = lensnet_calibration(bins, &ece, NULL, e->scores, e->labels, e->count,
                                                e->classes, LENSNET_METRICS_BINS, error);
    if (result) return result;
    for (b = 0; b < LENSNET_METRICS_BINS; b++) {
        shown[b].count = bins[b].count;
        shown[b].accuracy = bins[b].accuracy;
        shown[b].confidence = bins[b].confidence;
    }
    return report_reliability(path, shown, LENSNET_METRICS_BINS, ece, error);
}

static lensnet_result evaluation_confusion(const evaluation *e, const char *path,
                                           lensnet_error *error)
{
    return report_confusion(path, e->names, e->metrics.confusion, e->classes, error);
}

/* Appends text as one CSV field. */
static void evaluation_field(sheet *s, const char *text)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        sheet_add(s, "%s", text);
        return;
    }
    sheet_add(s, "\"");
    for (; *text; text++) sheet_add(s, *text == '"' ? "\"\"" : "%c", *text);
    sheet_add(s, "\"");
}

/* The classes of image i's set as one field. */
static void evaluation_set(sheet *s, const evaluation *e, size_t i)
{
    const char *gap = "";
    sheet names;
    size_t k;
    memset(&names, 0, sizeof names);
    for (k = 0; k < e->classes; k++) {
        if (!(e->predictions[i].set >> k & 1)) continue;
        sheet_add(&names, "%s%s", gap, e->names[k]);
        gap = "|";
    }
    s->failed |= names.failed;
    if (names.text) evaluation_field(s, names.text);
    sheet_clear(&names);
}

static void evaluation_csv_row(sheet *s, const evaluation *e, size_t i)
{
    const double *p = e->scores + i * e->classes;
    size_t k;
    int best;
    lensnet_predicted_classes(&best, p, 1, e->classes);
    if (e->split->files[i].path)
        evaluation_field(s, e->split->files[i].path);
    else
        sheet_add(s, "simulated %zu", i);
    sheet_add(s, ",");
    evaluation_field(s, e->names[e->labels[i]]);
    sheet_add(s, ",");
    evaluation_field(s, e->names[best]);
    for (k = 0; k < e->classes; k++) sheet_add(s, ",%.9g", p[k]);
    if (e->reliability.foreign) sheet_add(s, ",%.6g", (double)e->predictions[i].foreign);
    if (e->reliability.sets) {
        sheet_add(s, ",");
        evaluation_set(s, e, i);
    }
    sheet_add(s, "\n");
}

static lensnet_result evaluation_csv(const evaluation *e, const char *path, lensnet_error *error)
{
    sheet s;
    size_t i, k;
    memset(&s, 0, sizeof s);
    sheet_add(&s, "file,label,prediction");
    for (k = 0; k < e->classes; k++) {
        sheet_add(&s, ",");
        evaluation_field(&s, e->names[k]);
    }
    if (e->reliability.foreign) sheet_add(&s, ",foreign");
    if (e->reliability.sets) sheet_add(&s, ",set");
    sheet_add(&s, "\n");
    for (i = 0; i < e->count; i++) evaluation_csv_row(&s, e, i);
    return sheet_save(&s, path, error);
}

static lensnet_result evaluation_report(const evaluation *e, const char *path, lensnet_error *error)
{
    sheet s;
    memset(&s, 0, sizeof s);
    if (evaluation_text(&s, e, error)) return sheet_save(&s, path, error);
    sheet_clear(&s);
    return LENSNET_ERROR_MEMORY;
}

/* Writes report.txt, predictions.csv and the figures as .svg into a folder. */
NPY_API int evaluation_write(const evaluation *e, const char *folder, lensnet_error *error)
{
    static const struct {
        const char *name;
        lensnet_result (*write)(const evaluation *e, const char *path, lensnet_error *error);
    } files[] = {{"report.txt", evaluation_report},
                 {"roc.svg", evaluation_roc},
                 {"precision_recall.svg", evaluation_precision_recall},
                 {"confusion.svg", evaluation_confusion},
                 {"reliability.svg", evaluation_reliability},
                 {"coverage.svg", evaluation_coverage},
                 {"predictions.csv", evaluation_csv}};
    size_t i;
    int good = 1;
    for (i = 0; good && i < sizeof files / sizeof *files; i++) {
        char *path = system_path(folder, files[i].name);
        good = path ? !files[i].write(e, path, error) : dataset_no_memory(error);
        free(path);
    }
    return good;
}

#endif
