/* classify.c - classifies .npy images, given as files or folders.
 *
 * cc -O2 -fopenmp examples/classify.c -o classify -lm       (without OpenMP: leave -fopenmp away)
 * ./classify weights/lensnet-atto.safetensors examples/images
 *
 * prints a table with the class and every class's probability for each image, and how many images of
 * each class there were; --csv and --json print the same for programs. A file that cannot be used is
 * reported on stderr and the others go on; the exit status is 1 then. */
#include "system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "arguments.h"
#include "predict.h"

enum { CLASSIFY_DEPTH = 16 }; /* folders inside folders */

static argument options[] = {
    {"--csv", NULL, NULL, "print comma-separated values", 0},
    {"--json", NULL, NULL, "print JSON", 0},
    {"--views", "N", "1", "8: mean over flips and quarter turns, slower and a little better", 0},
    {"--precision", "P", "fp32", "or bf16: nearly twice as fast where the processor has it", 0},
    {"--batch", "N", "16", "images at a time; changes memory and speed, no result", 0},
    {"--threads", "N", "0", "0: all", 0}};
enum { CSV, JSON, VIEWS, PRECISION, BATCH, THREADS, OPTIONS };

static const char usage[] =
    "usage: classify [options] WEIGHTS.safetensors IMAGE.npy|FOLDER ...\n"
    "Classifies images stored as .npy files; folders are searched for them.\n";

typedef struct output {
    const lensnet_classifier *classifier;
    const dataset_split *images;
    size_t classes;
    int name_width, label_width;
    size_t *found; /* images of each class */
    size_t good, bad;
} output;

/* ---- what to classify ---- */

/* Adds a file, or every .npy file in a folder and those inside it, in sorted order. */
static int collect(dataset_split *images, const char *path, int depth, lensnet_error *error)
{
    system_names names;
    size_t i;
    int good = 1;
    if (!system_is_folder(path)) return dataset_add_path(images, system_copy(path), 0, 0, error);
    if (depth == CLASSIFY_DEPTH) return dataset_fail(error, "%s: folders too deep inside", path);
    if (!system_list(&names, path))
        return dataset_fail(error, "%s: the folder cannot be read: %s", path, strerror(errno));
    for (i = 0; good && i < names.count; i++) {
        char *inside = system_path(path, names.items[i]);
        if (!inside)
            good = dataset_no_memory(error);
        else if (system_ends_in(inside, ".npy") || system_is_folder(inside))
            good = collect(images, inside, depth + 1, error);
        free(inside);
    }
    system_names_free(&names);
    return good;
}

/* ---- printing ---- */

static void print_json_text(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < ' ')
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print_csv_text(const char *text)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) printf(*text == '"' ? "\"\"" : "%c", *text);
    putchar('"');
}

static int column_width(const output *o, size_t k)
{
    int width = (int)strlen(lensnet_classifier_label(o->classifier, k));
    return width < 8 ? 8 : width;
}

static void print_head(const output *o)
{
    size_t k;
    if (options[JSON].given) {
        printf("[");
    } else if (options[CSV].given) {
        printf("file,class,probability");
        for (k = 0; k < o->classes; k++) {
            putchar(',');
            print_csv_text(lensnet_classifier_label(o->classifier, k));
        }
        putchar('\n');
    } else {
        printf("%-*s  %-*s", o->name_width, "image", o->label_width, "class");
        for (k = 0; k < o->classes; k++)
            printf("  %*s", column_width(o, k), lensnet_classifier_label(o->classifier, k));
        putchar('\n');
    }
}

static void print_row(const output *o, const char *path, size_t best, const float *p)
{
    const char *label = lensnet_classifier_label(o->classifier, best);
    size_t k;
    if (options[JSON].given) {
        printf("%s\n  {\"file\": ", o->good ? "," : "");
        print_json_text(path);
        printf(", \"class\": ");
        print_json_text(label);
        printf(", \"probabilities\": {");
        for (k = 0; k < o->classes; k++) {
            if (k) printf(", ");
            print_json_text(lensnet_classifier_label(o->classifier, k));
            printf(": %.9g", p[k]);
        }
        printf("}}");
    } else if (options[CSV].given) {
        print_csv_text(path);
        putchar(',');
        print_csv_text(label);
        printf(",%.9g", p[best]);
        for (k = 0; k < o->classes; k++) printf(",%.9g", p[k]);
        putchar('\n');
    } else {
        printf("%-*s  %-*s", o->name_width, path, o->label_width, label);
        for (k = 0; k < o->classes; k++) printf("  %*.2f %%", column_width(o, k) - 2, 100 * p[k]);
        putchar('\n');
    }
}

static void print_foot(const output *o, double seconds)
{
    size_t k;
    if (options[JSON].given) {
        printf("\n]\n");
    } else if (!options[CSV].given && o->good) {
        printf("\n%zu image%s in %.2f s:", o->good, o->good == 1 ? "" : "s", seconds);
        for (k = 0; k < o->classes; k++)
            printf("%s %zu %s", k ? "," : "", o->found[k],
                   lensnet_classifier_label(o->classifier, k));
        putchar('\n');
    }
}

static int receive(void *user, size_t index, const float *probabilities, const char *problem)
{
    output *o = (output *)user;
    const char *path = o->images->files[index].path;
    size_t k, best = 0;
    if (!probabilities) {
        fflush(stdout);
        fprintf(stderr, "error: %s%s%s\n", strncmp(problem, path, strlen(path)) ? path : "",
                strncmp(problem, path, strlen(path)) ? ": " : "", problem);
        o->bad++;
        return 1;
    }
    for (k = 1; k < o->classes; k++)
        if (probabilities[k] > probabilities[best]) best = k;
    print_row(o, path, best, probabilities);
    o->found[best]++;
    o->good++;
    return 1;
}

/* ---- the program ---- */

static int classify(const lensnet_classifier *classifier, dataset_split *images,
                    lensnet_error *error)
{
    output o;
    size_t i, k;
    double start = system_seconds();
    int good;
    memset(&o, 0, sizeof o);
    o.classifier = classifier;
    o.images = images;
    o.classes = lensnet_classifier_classes(classifier);
    o.found = (size_t *)calloc(o.classes, sizeof *o.found);
    if (!o.found) return dataset_no_memory(error);
    o.name_width = o.label_width = 5;
    for (i = 0; i < images->count; i++) {
        int length = (int)strlen(images->files[i].path);
        if (length > o.name_width) o.name_width = length;
    }
    for (k = 0; k < o.classes; k++) {
        int length = (int)strlen(lensnet_classifier_label(classifier, k));
        if (length > o.label_width) o.label_width = length;
    }
    print_head(&o);
    good = predict_split(classifier, images, (size_t)arguments_whole(&options[BATCH], 1, 4096),
                         (int)arguments_whole(&options[THREADS], 0, 4096), receive, &o, error);
    print_foot(&o, system_seconds() - start);
    free(o.found);
    if (good && o.bad)
        good =
            dataset_fail(error, "%zu of %zu files could not be classified", o.bad, images->count);
    return good;
}

int main(int argc, char **argv)
{
    lensnet_classifier_options choice = lensnet_classifier_defaults();
    lensnet_host host = lensnet_host_defaults();
    lensnet_classifier *classifier = NULL;
    dataset_split images;
    lensnet_error error;
    int i, good = 1, words = arguments_parse(options, OPTIONS, usage, argc, argv);
    if (words < 2) arguments_fail("weights and at least one image or folder are needed\n%s", usage);
    if (options[CSV].given && options[JSON].given) arguments_fail("choose one of --csv and --json");
    memset(&images, 0, sizeof images);
    host.threads = (int)arguments_whole(&options[THREADS], 0, 4096);
    choice.host = &host;
    choice.views = (int)arguments_whole(&options[VIEWS], 1, 8);
    choice.precision =
        (lensnet_precision)arguments_choice(&options[PRECISION], arguments_precisions, 2);
    for (i = 2; good && i <= words; i++) good = collect(&images, argv[i], 0, &error);
    if (good && !images.count)
        good = dataset_fail(&error, "%s: there are no .npy files in it", argv[2]);
    good = good && !lensnet_classifier_load(&classifier, argv[1], &choice, &error) &&
           classify(classifier, &images, &error);
    lensnet_classifier_destroy(classifier);
    dataset_split_free(&images);
    if (fflush(stdout) != 0) good = dataset_fail(&error, "the output could not be written");
    if (!good) fprintf(stderr, "error: %s\n", error.text);
    return good ? 0 : 1;
}
