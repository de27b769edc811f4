/* evaluate.c - how good is a classifier on a folder of images?
 *
 * cc -O2 -fopenmp examples/evaluate.c -o evaluate -lm
 * ./evaluate weights/lensnet-atto.safetensors DATA --split test --out results
 *
 * reads DATA/test/CLASS/NAME.npy (without a folder `test`: the second half of each class in DATA/val, as
 * train.c does it; without train, val and test: all of DATA/CLASS/NAME.npy) and prints the report of
 * scikit-learn, AUCs, accuracy, log loss, Brier score and calibration error with 95 % intervals, and the
 * confusion matrix; with --out it writes them there, with figures (.svg), every probability
 * (predictions.csv) and report.html, which holds it all and shows images. (A figure as PDF:
 * rsvg-convert -f pdf roc.svg -o roc.pdf.)
 *
 * ./evaluate A.safetensors B.safetensors DATA                compares two: McNemar, DeLong
 * ./evaluate A.safetensors B.safetensors C.safetensors DATA  three or more: their mean and spread
 * ./evaluate --part 3/8 WEIGHTS DATA >part3.csv              by as many machines as there are, and then
 * ./evaluate --merge --out results WEIGHTS DATA part*.csv    what the undivided run prints and writes
 * ./evaluate --calibrate --split val WEIGHTS DATA            writes temperature, conformal sets and what is
 *                                                            foreign into WEIGHTS; the more images the
 *                                                            surer: 1,000 a class keep coverage within
 *                                                            about 1 %, 10,000 within 0.3 %. */
#include "system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "arguments.h"
#include "calibrate.h"
#include "evaluation_parts.h"
#include "html_report.h"
#include "reading.h"
#include "repeats.h"
#include "weights.h"

static argument options[] = {
    {"--split", "NAME", "test", "test, val or train", 0},
    {"--out", "FOLDER", NULL, "write report, figures and predictions there", 0},
    {"--calibrate", NULL, NULL,
     "fit temperature, sets and the foreign score on this split, and write\n"
     "them into the weights file; use images that it was not trained on",
     0},
    {"--coverage", "SHARE", "0.9", "of the conformal sets, 0.01 ... 0.99", 0},
    {"--part", "I/N", NULL, "the I-th of N parts of the images: a table for --merge, no report", 0},
    {"--merge", NULL, NULL, "the report of all parts, from their tables", 0},
    {"--views", "N", "1", "8: mean over flips and quarter turns, slower and a little better", 0},
    {"--precision", "P", "fp32", "or bf16: nearly twice as fast where the processor has it", 0},
    {"--classes", "LIST", NULL, "classes of folders by other names: axion=vort,cdm=sphere", 0},
    {"--stack", NULL, "no", "files may be stacks of images (N, H, W)", 0},
    {"--nan", "MODE", "refuse", "pixels that are not finite: refuse, zero, median", 0},
    {"--fit", "MODE", "auto",
     "images of another size or scale than the network knows:\n"
     "auto: bring them to its pixel scale, where both are known\n"
     "crop: cut or pad them to its size; stretch: as they are",
     0},
    {"--pixel-scale", "ARCSEC", NULL, "of images that do not say theirs", 0},
    {"--batch", "N", "16", "images at a time; changes memory and speed, no result", 0},
    {"--threads", "N", "0", "0: all", 0},
    WEIGHTS_ARGUMENTS};
enum {
    SPLIT,
    OUT,
    CALIBRATE,
    COVERAGE,
    PART,
    MERGE,
    VIEWS,
    PRECISION,
    CLASSES,
    STACK,
    NANS,
    FIT,
    SCALE,
    BATCH,
    THREADS,
    WEIGHTS,
    OPTIONS = WEIGHTS + WEIGHTS_COUNT
};

static const char usage[] = "usage: evaluate [options] WEIGHTS DATA\n"
                            "       evaluate [options] A B DATA      is the difference by chance?\n"
                            "       evaluate [options] --merge WEIGHTS DATA PART ...\n"
                            "       evaluate [options] A B C... DATA mean and spread of all\n"
                            "Measures a classifier on DATA/SPLIT/CLASS/NAME.npy.\n";

/* The split of DATA, with the classifier's labels. A class may be absent. */
static int open_split(dataset *d, dataset_split **split, const lensnet_classifier *classifier,
                      const char *data, lensnet_error *error)
{
    const int kind = arguments_choice(&options[SPLIT], dataset_kind_names, DATASET_SPLITS);
    const size_t count = lensnet_classifier_classes(classifier);
    const char **labels = (const char **)calloc(count, sizeof *labels);
    dataset_reading reading;
    size_t k;
    int good = labels != NULL || dataset_no_memory(error);
    reading_from_options(&reading, options, OPTIONS);
    reading.bands = (size_t)lensnet_classifier_preprocess(classifier)->bands;
    for (k = 0; good && k < count; k++) labels[k] = lensnet_classifier_label(classifier, k);
    good = good &&
           dataset_open_split(d, split, data, (dataset_kind)kind, labels, count, &reading, error);
    if (good) dataset_print_notes(d, stderr);
    free(labels);
    return good;
}

static int print_text(const evaluation *e, lensnet_error *error)
{
    sheet s;
    int good;
    memset(&s, 0, sizeof s);
    good = evaluation_text(&s, e, error) && (!s.failed || dataset_no_memory(error));
    if (good) printf("%s", s.text);
    sheet_clear(&s);
    return good;
}

static int calibrate(const char *path, dataset_split *split,
                     const lensnet_classifier_options *choice, size_t batch, lensnet_error *error)
{
    calibration c;
    const int good = calibrate_file(&c, path, split, choice, batch, error);
    int which;
    for (which = 0; good && which < 2; which++)
        if (c.views[which])
            printf("%d view%s: temperature %.4f, power %.4f, log loss %.4f -> %.4f\n",
                   c.views[which], which ? "s" : "", (double)c.curve[which][0],
                   (double)c.curve[which][1], c.loss[which][0], c.loss[which][1]);
    if (good)
        printf("foreign images: beyond a distance of %.4f, as 1 in 100 of the known ones\n"
               "written into %s, from %zu images in %s\n",
               (double)c.threshold, path, split->count, lensnet_precision_text(choice->precision));
    calibration_free(&c);
    return good;
}

/* ---- several classifiers ---- */

/* A classifier whose labels must be those of the first. */
static int load_alike(lensnet_classifier **classifier, const char *path,
                      const lensnet_classifier_options *choice, const lensnet_classifier *first,
                      lensnet_error *error)
{
    const size_t classes = lensnet_classifier_classes(first);
    size_t k;
    int good = !lensnet_classifier_load(classifier, path, choice, error), same;
    same = good && lensnet_classifier_classes(*classifier) == classes;
    for (k = 0; same && k < classes; k++)
        same = strcmp(lensnet_classifier_label(first, k),
                      lensnet_classifier_label(*classifier, k)) == 0;
    return !good || same
               ? good
               : dataset_fail(error, "%s: its classes are not those of the first file", path);
}

/* Mean and spread of `count` files, of the first of which `first` is made. */
static int compare_many(char **paths, size_t count, const lensnet_classifier_options *choice,
                        const lensnet_classifier *first, dataset_split *split, size_t batch,
                        lensnet_error *error)
{
    repeat *rows = (repeat *)calloc(count, sizeof *rows);
    sheet s;
    size_t i;
    int good = rows != NULL || dataset_no_memory(error);
    memset(&s, 0, sizeof s);
    for (i = 0; good && i < count; i++) {
        lensnet_classifier *classifier = NULL;
        evaluation e;
        memset(&e, 0, sizeof e);
        rows[i].name = paths[i];
        good = load_alike(&classifier, paths[i], choice, first, error) &&
               evaluation_run(&e, classifier, split, batch, choice->host->threads, error);
        if (good) repeats_take(&rows[i], &e.metrics);
        evaluation_free(&e);
        lensnet_classifier_destroy(classifier);
    }
    if (good) repeats_text(&s, rows, count);
    good = good && (!s.failed || dataset_no_memory(error));
    if (good) printf("%zu images\n%s", split->count, s.text);
    sheet_clear(&s);
    free(rows);
    return good;
}

/* ---- two classifiers ---- */

static void print_difference(const char *name, statistics_interval i, const char *test, double p)
{
    printf("  %-22s %+.4f   %+.4f ... %+.4f   ", name, i.value, i.low, i.high);
    if (p < 1e-4)
        printf("p = %.1e (%s)\n", p, test);
    else
        printf("p = %.4f (%s)\n", p, test);
}

static int print_comparison(const evaluation *a, const evaluation *b, lensnet_error *error)
{
    const size_t classes = a->classes;
    statistics_comparison *c = (statistics_comparison *)calloc(classes + 1, sizeof *c);
    int *said = (int *)malloc(2 * a->count * sizeof *said);
    statistics_mcnemar m;
    size_t k;
    int good =
        c && said && statistics_compare(c, a->scores, b->scores, a->labels, a->count, classes);
    if (good) {
        lensnet_predicted_classes(said, a->scores, a->count, classes);
        lensnet_predicted_classes(said + a->count, b->scores, a->count, classes);
        m = statistics_mcnemar_test(said, said + a->count, a->labels, a->count);
        printf("A: accuracy %.4f, macro AUC %.4f\nB: accuracy %.4f, macro AUC %.4f\n",
               a->metrics.accuracy, c[classes].a, b->metrics.accuracy, c[classes].b);
        printf("\nA - B on %zu images, with 95 %% intervals\n", a->count);
        print_difference("accuracy", m.difference, "McNemar, exact", m.exact);
        for (k = 0; k <= classes; k++) {
            char name[40];
            snprintf(name, sizeof name, "AUC, %.30s", k < classes ? a->names[k] : "macro");
            print_difference(name, c[k].difference, "DeLong", c[k].p);
        }
        printf("\n%zu images only A has right, %zu only B\n", m.only_a, m.only_b);
    }
    free(c);
    free(said);
    return good || dataset_no_memory(error);
}

/* The split with both classifiers, whose labels must be the same. */
static int compare(const char *path, const lensnet_classifier_options *choice,
                   const lensnet_classifier *first, dataset_split *split, size_t batch,
                   lensnet_error *error)
{
    lensnet_classifier *second = NULL;
    evaluation a, b;
    size_t k;
    int good = load_alike(&second, path, choice, first, error);
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    good = good && evaluation_run(&a, first, split, batch, choice->host->threads, error) &&
           evaluation_run(&b, second, split, batch, choice->host->threads, error);
    for (k = 0; good && k < a.classes; k++)
        if (a.metrics.per_class[k].support < 2)
            good = dataset_fail(error, "a class has fewer than two images here");
    good = good && print_comparison(&a, &b, error);
    evaluation_free(&a);
    evaluation_free(&b);
    lensnet_classifier_destroy(second);
    return good;
}

/* ---- one classifier ---- */

/* What was measured: for the report. */
typedef struct evaluated {
    const char *weights, *data;
    char **parts; /* their tables; NULL: it is not merged */
    size_t parts_count;
    int argc;
    char **argv;
} evaluated;

static int write_all(evaluation *e, const evaluated *what, const dataset *data, const char *out,
                     const lensnet_host *host, lensnet_error *error)
{
    static provenance from;
    provenance_begin(&from, what->argc, what->argv);
    provenance_file(&from, "weights", what->weights);
    provenance_add(&from, "images", "%s, split %s: %zu; names %016llx, pixels %016llx", what->data,
                   options[SPLIT].value, e->count, (unsigned long long)dataset_fingerprint(data),
                   (unsigned long long)e->contents);
    return evaluation_write(e, out, error) && html_report_write(e, &from, out, host, error) &&
           !provenance_stamp_all(&from, out, error) && !provenance_save(&from, out, error);
}

static int evaluate(const lensnet_classifier *classifier, const dataset *data, dataset_split *split,
                    size_t batch, const lensnet_host *host, const evaluated *what,
                    lensnet_error *error)
{
    const char *out = options[OUT].value;
    evaluation e;
    int good = 1;
    memset(&e, 0, sizeof e);
    if (what->parts)
        good = evaluation_merge(&e, classifier, split, what->parts, what->parts_count, error);
    if (good && out && !system_make_folder(out)) /* before a long work */
        good = dataset_fail(error, "%s: the folder cannot be made: %s; choose another --out", out,
                            strerror(errno));
    if (!what->parts)
        good = good && evaluation_run(&e, classifier, split, batch, host->threads, error);
    e.weights = what->weights;
    e.views = arguments_views(&options[VIEWS]);
    good = good && print_text(&e, error) && (!out || write_all(&e, what, data, out, host, error));
    if (good && out)
        printf(
            "\nwritten to %s: report.html report.txt provenance.txt predictions.csv and figures\n",
            out);
    evaluation_free(&e);
    return good;
}

/* Checks the words of the command line, and which of them are what. */
static void read_words(evaluated *what, parts_mark *part, int words, char **argv)
{
    const int merge = options[MERGE].given;
    if (words < (merge ? 3 : 2))
        arguments_fail(merge
                           ? "--merge needs weights, a data folder and the tables of the parts\n%s"
                           : "weights and a data folder are needed\n%s",
                       usage);
    if (words == 2) weights_check_order("evaluate", words, argv);
    memset(part, 0, sizeof *part);
    if (options[PART].value && !parts_parse(part, options[PART].value))
        arguments_fail("--part is I/N with I from 1 to N, not '%s'", options[PART].value);
    if ((part->part || merge) && options[CALIBRATE].given)
        arguments_fail("--calibrate is for one job, not for --part and --merge");
    if (part->part && (words != 2 || merge || options[OUT].value))
        arguments_fail("--part is for one classifier, and writes a table to stdout for --merge");
    what->weights = argv[1];
    what->data = argv[merge ? 2 : words];
    if (!merge) return;
    what->parts = argv + 3;
    what->parts_count = (size_t)words - 2;
}

int main(int argc, char **argv)
{
    lensnet_classifier_options choice = backbone_classifier_defaults();
    lensnet_host host = lensnet_host_defaults();
    lensnet_classifier *classifier = NULL;
    dataset data;
    dataset_split *split;
    lensnet_error error;
    evaluated what = {NULL, NULL, NULL, 0, argc, NULL};
    parts_mark part;
    size_t batch;
    int good, words;
    what.argv = (char **)malloc(((size_t)argc + 1) * sizeof *argv);
    if (!what.argv) arguments_fail("no memory");
    memcpy(what.argv, argv, (size_t)argc * sizeof *argv); /* parsing moves the words */
    words = arguments_parse(options, OPTIONS, usage, argc, argv);
    read_words(&what, &part, words, argv);
    memset(&data, 0, sizeof data);
    host.threads = (int)arguments_whole(&options[THREADS], 0, 4096);
    batch = (size_t)arguments_whole(&options[BATCH], 1, 4096);
    choice.host = &host;
    choice.bands = 0; /* pictures are read with as many as the network takes */
    choice.views = arguments_views(&options[VIEWS]);
    choice.coverage = arguments_coverage(&options[COVERAGE]);
    choice.precision =
        (lensnet_precision)arguments_choice(&options[PRECISION], arguments_precisions, 2);
    system_catch_interrupts();
    good = !weights_classifier(&classifier, argv[1], &choice, &options[WEIGHTS], &error) &&
           open_split(&data, &split, classifier, what.data, &error);
    if (good && part.part)
        good = evaluation_part(classifier, split, &part, batch, host.threads, &error);
    else if (good && words > 3 && !what.parts)
        good = compare_many(argv + 1, (size_t)words - 1, &choice, classifier, split, batch, &error);
    else if (good && words == 3 && !what.parts)
        good = compare(argv[2], &choice, classifier, split, batch, &error);
    else if (good && options[CALIBRATE].given)
        good = calibrate(argv[1], split, &choice, batch, &error);
    else
        good = good && evaluate(classifier, &data, split, batch, &host, &what, &error);
    dataset_close(&data);
    lensnet_classifier_destroy(classifier);
    free(what.argv);
    if (!good) fprintf(stderr, "error: %s\n", error.text);
    return arguments_flush() && good ? 0 : 1;
}
