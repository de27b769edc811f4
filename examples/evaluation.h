/* evaluation.h - how good a classifier is on a split: every score, the metrics of the field as text,
 * figures and a table. Include system.h first, then lensnet.h. */
#ifndef EVALUATION_H
#define EVALUATION_H

#include "predict.h"
#include "report.h"

/* Scores of a classifier on a split; zero it before use. */
typedef struct evaluation {
    const dataset_split *split;
    size_t count, classes;
    const char **names; /* of the classes, borrowed from the classifier */
    double *scores;     /* (count, classes), softmax probabilities */
    int *labels;
    lensnet_metrics metrics;
    lensnet_error *error; /* while it runs */
} evaluation;

NPY_API void evaluation_free(evaluation *e)
{
    lensnet_metrics_release(&e->metrics);
    free(e->names);
    free(e->scores);
    free(e->labels);
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

/* Classifies every image of the split (labels: numbers of the classifier's classes) and computes the
 * metrics. One image that cannot be used is a failure. */
NPY_API int evaluation_run(evaluation *e, const lensnet_classifier *classifier,
                           dataset_split *split, size_t batch, int threads, lensnet_error *error)
{
    size_t k, classes = lensnet_classifier_classes(classifier);
    memset(e, 0, sizeof *e);
    e->split = split;
    e->error = error;
    e->count = split->count;
    e->classes = classes;
    e->names = (const char **)calloc(classes, sizeof *e->names);
    e->scores = (double *)calloc(split->count * classes, sizeof *e->scores);
    e->labels = (int *)calloc(split->count, sizeof *e->labels);
    if (!e->names || !e->scores || !e->labels) return dataset_no_memory(error);
    for (k = 0; k < classes; k++) e->names[k] = lensnet_classifier_label(classifier, k);
    return predict_split(classifier, split, batch, threads, evaluation_receive, e, error) &&
           !lensnet_metrics_compute(&e->metrics, e->scores, e->labels, e->count, classes, NULL,
                                    error);
}

/* ---- text ---- */

static int evaluation_add_report(svg_sheet *s, const evaluation *e, lensnet_error *error)
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
    if (good) svg_add(s, "%s", text);
    free(text);
    free(predictions);
    return good;
}

static void evaluation_add_confusion(svg_sheet *s, const evaluation *e)
{
    size_t i, j;
    int width = 8;
    for (i = 0; i < e->classes; i++)
        if ((int)strlen(e->names[i]) > width) width = (int)strlen(e->names[i]);
    svg_add(s, "\nconfusion matrix (row: true class, column: predicted class)\n%*s", width, "");
    for (j = 0; j < e->classes; j++) svg_add(s, "  %*s", width, e->names[j]);
    for (i = 0; i < e->classes; i++) {
        svg_add(s, "\n%*s", width, e->names[i]);
        for (j = 0; j < e->classes; j++)
            svg_add(s, "  %*zu", width, e->metrics.confusion[i * e->classes + j]);
    }
    svg_add(s, "\n");
}

/* Appends everything that is known in numbers. */
NPY_API int evaluation_text(svg_sheet *s, const evaluation *e, lensnet_error *error)
{
    const lensnet_metrics *m = &e->metrics;
    size_t k;
    if (!evaluation_add_report(s, e, error)) return 0;
    svg_add(s, "\nAUC, one class versus the rest\n");
    for (k = 0; k < e->classes; k++) svg_add(s, "  %-20s %.4f\n", e->names[k], m->per_class[k].auc);
    svg_add(s, "  %-20s %.4f\n", "macro", m->auc_ovr_macro);
    if (m->present < m->classes)
        svg_add(s, "  %-20s %.4f   (%zu of %zu classes have images here)\n", "macro over present",
                m->auc_ovr_present, m->present, m->classes);
    svg_add(s, "AUC, one class versus one\n  %-20s %.4f\n", "macro", m->auc_ovo_macro);
    svg_add(s, "\n%-22s %.4f\n%-22s %.4f\n%-22s %.4f\n", "accuracy", m->accuracy, "log loss",
            m->log_loss, "Brier score", m->brier);
    svg_add(s, "%-22s %.4f   (%d bins)\n", "calibration error ECE", m->ece, LENSNET_METRICS_BINS);
    evaluation_add_confusion(s, e);
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
    lensnet_roc *rocs = (lensnet_roc *)calloc(e->classes, sizeof *rocs);
    report_curve *curves = (report_curve *)calloc(e->classes, sizeof *curves);
    lensnet_result result = rocs && curves ? LENSNET_OK : evaluation_memory(error);
    size_t k;
    for (k = 0; !result && k < e->classes; k++) {
        result = lensnet_roc_curve(&rocs[k], e->scores, e->labels, e->count, e->classes, (int)k, 1,
                                   NULL, error);
        curves[k].name = e->names[k];
        curves[k].rates_false = rocs[k].false_positive_rate;
        curves[k].rates_true = rocs[k].true_positive_rate;
        curves[k].count = rocs[k].points;
        curves[k].auc = rocs[k].auc;
    }
    if (!result) result = report_roc(path, curves, e->classes, error);
    for (k = 0; rocs && k < e->classes; k++) lensnet_roc_release(&rocs[k]);
    free(rocs);
    free(curves);
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
static void evaluation_field(svg_sheet *s, const char *text)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        svg_add(s, "%s", text);
        return;
    }
    svg_add(s, "\"");
    for (; *text; text++) svg_add(s, *text == '"' ? "\"\"" : "%c", *text);
    svg_add(s, "\"");
}

static lensnet_result evaluation_csv(const evaluation *e, const char *path, lensnet_error *error)
{
    svg_sheet s;
    size_t i, k;
    memset(&s, 0, sizeof s);
    svg_add(&s, "file,label,prediction");
    for (k = 0; k < e->classes; k++) {
        svg_add(&s, ",");
        evaluation_field(&s, e->names[k]);
    }
    svg_add(&s, "\n");
    for (i = 0; i < e->count; i++) {
        const double *p = e->scores + i * e->classes;
        int best;
        lensnet_predicted_classes(&best, p, 1, e->classes);
        if (e->split->files[i].path)
            evaluation_field(&s, e->split->files[i].path);
        else
            svg_add(&s, "simulated %zu", i);
        svg_add(&s, ",");
        evaluation_field(&s, e->names[e->labels[i]]);
        svg_add(&s, ",");
        evaluation_field(&s, e->names[best]);
        for (k = 0; k < e->classes; k++) svg_add(&s, ",%.9g", p[k]);
        svg_add(&s, "\n");
    }
    return svg_save(&s, path, error);
}

static lensnet_result evaluation_report(const evaluation *e, const char *path, lensnet_error *error)
{
    svg_sheet s;
    memset(&s, 0, sizeof s);
    if (evaluation_text(&s, e, error)) return svg_save(&s, path, error);
    free(s.bytes);
    return LENSNET_ERROR_MEMORY;
}

/* Writes report.txt, roc.svg, confusion.svg, reliability.svg and predictions.csv into a folder. */
NPY_API int evaluation_write(const evaluation *e, const char *folder, lensnet_error *error)
{
    static const struct {
        const char *name;
        lensnet_result (*write)(const evaluation *e, const char *path, lensnet_error *error);
    } files[] = {{"report.txt", evaluation_report},
                 {"roc.svg", evaluation_roc},
                 {"confusion.svg", evaluation_confusion},
                 {"reliability.svg", evaluation_reliability},
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
