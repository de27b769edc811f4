/* classify.c - classifies images (.npy, .npz, FITS), given as files, folders or a list.
 *
 * cc -O2 -fopenmp examples/classify.c -o classify -lm       (without OpenMP: leave -fopenmp away)
 * ./classify weights/lensnet-atto.safetensors examples/images
 * ./classify --csv --list survey.csv weights/lensnet-atto.safetensors >answers.csv
 *
 * prints a table with the class and every class's probability for each image, and how many images of
 * each class there were; --csv and --json print the same for programs, with id, RA and Dec where a list
 * or a FITS file says them, and, where the weights can tell, how foreign the image is to them: beyond 1 its
 * class is "unknown". --coverage 0.95 adds conformal sets, of which 95 in 100 hold the true class. A file that
 * cannot be used, or in which every pixel is the same, is reported on stderr and the others go on; the exit
 * status is 1 then.
 *
 * ./classify --explain looks WEIGHTS lens.npy      draws where the network looks, in looks/000001-lens.svg
 *
 * A survey in parts, by as many machines as there are:
 *   ./classify --csv --list survey.csv --part 3/8 WEIGHTS >part3.csv
 *   ./classify --merge part*.csv >answers.csv                       what the undivided run prints */
#include "system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "arguments.h"
#include "catalogue.h"
#include "explain.h"
#include "predict.h"
#include "svg.h"

#include "heat.h"
#include "reading.h"
#include "weights.h"

enum { CLASSIFY_DEPTH = 16 }; /* folders inside folders */

static argument options[] = {
    {"--csv", NULL, NULL, "print comma-separated values", 0},
    {"--json", NULL, NULL, "print JSON", 0},
    {"--list", "FILE", NULL,
     "images to classify: a path a line, or CSV with columns\nfile, id, ra, dec; - is stdin", 0},
    {"--part", "I/N", NULL, "the I-th of N parts of the images, for --csv and --json", 0},
    {"--merge", NULL, NULL, "join the tables of all parts", 0},
    {"--explain", "FOLDER", NULL,
     "draw where the network looks, a figure (.svg) for each image,\n"
     "named by its row in the table",
     0},
    {"--coverage", "SHARE", NULL,
     "add the conformal set, which holds the true class of this share of\n"
     "images of the known kind (0.01 ... 0.99)",
     0},
    {"--views", "N", "1", "8: mean over flips and quarter turns, slower and a little better", 0},
    {"--stack", NULL, "no", "files in folders may be stacks (N, H, W)", 0},
    {"--nan", "MODE", "refuse", "pixels that are not finite: refuse, zero, median", 0},
    {"--fit", "MODE", "auto",
     "images of another size or scale than the network knows:\n"
     "auto: bring them to its pixel scale, where both are known\n"
     "crop: cut or pad them to its size; stretch: as they are",
     0},
    {"--pixel-scale", "ARCSEC", NULL, "of images that do not say theirs", 0},
    {"--precision", "P", "fp32", "or bf16: nearly twice as fast where the processor has it", 0},
    {"--batch", "N", "16", "images at a time; changes memory and speed, no result", 0},
    {"--threads", "N", "0", "0: all", 0},
    WEIGHTS_ARGUMENTS};
enum {
    CSV,
    JSON,
    LIST,
    PART,
    MERGE,
    EXPLAIN,
    COVERAGE,
    VIEWS,
    STACK,
    NANS,
    FIT,
    SCALE,
    PRECISION,
    BATCH,
    THREADS,
    WEIGHTS,
    OPTIONS = WEIGHTS + WEIGHTS_COUNT
};

static const char usage[] =
    "usage: classify [options] WEIGHTS IMAGE|FOLDER ...\n"
    "       classify [options] --list FILE WEIGHTS\n"
    "       classify --merge PART ...\n"
    "Classifies images stored as .npy, .npz or FITS files; folders are searched for them.\n";

typedef struct output {
    const lensnet_classifier *classifier;
    const lensnet_preprocess *network;
    const dataset_split *images;
    const catalogue *list;
    const char *weights;    /* the file */
    explainer *explainer;   /* NULL: nothing is drawn */
    const parts_mark *part; /* part 0: it is the whole */
    size_t classes;
    int name_width, label_width;
    size_t *found; /* images of each class, and of none */
    size_t good, bad;
    /* of the image under way */
    const char *label;
    char object[FITS_WORD];
    int has_sky, blank;
    double ra, dec, foreign;
    uint64_t set; /* of classes */
    float value;  /* of every pixel, if blank */
    /* of all */
    size_t mended, other_size;
    size_t first_other[3]; /* its index, height and width */
    int undrawn;           /* 1: a figure could not be drawn; `problem` says why */
    lensnet_error problem;
} output;

/* ---- what to classify ---- */

/* Adds a file, as many images if it is a stack; one that cannot be read is found out later. */
static int collect_file(dataset_split *images, const char *path, int look, lensnet_error *error)
{
    const int stack = images->reading.stack;
    size_t count = 1;
    int good;
    if (look && !stack && picture_count(&count, path, NULL)) images->reading.stack = count > 1;
    if (stack && !picture_count(&count, path, NULL)) images->reading.stack = 0;
    good = dataset_add_images(images, path, path, 0, error);
    images->reading.stack = stack;
    return good;
}

/* Adds a file, or every image in a folder and those inside it, in sorted order. */
static int collect(dataset_split *images, const char *path, int depth, lensnet_error *error)
{
    system_names names;
    size_t i;
    int good = 1;
    if (!system_is_folder(path)) return collect_file(images, path, depth == 0, error);
    if (depth == CLASSIFY_DEPTH) return dataset_fail(error, "%s: folders too deep inside", path);
    if (!system_list(&names, path))
        return dataset_fail(error, "%s: the folder cannot be read: %s", path, strerror(errno));
    for (i = 0; good && i < names.count; i++) {
        char *inside = system_path(path, names.items[i]);
        if (!inside)
            good = dataset_no_memory(error);
        else if (dataset_is_image(inside) || system_is_folder(inside))
            good = collect(images, inside, depth + 1, error);
        else
            dataset_leave_out(&images->left_out, inside);
        free(inside);
    }
    system_names_free(&names);
    return good;
}

/* ---- printing ---- */

/* A text and as many spaces as make it `width` columns. */
static void print_padded(const char *text, int width)
{
    int columns = (int)text_columns(text);
    text_print(stdout, text, TEXT_TERMINAL);
    printf("%*s", columns < width ? width - columns : 0, "");
}

static int column_width(const output *o, size_t k)
{
    int width = (int)text_columns(lensnet_classifier_label(o->classifier, k));
    return width < 8 ? 8 : width;
}

static int knows_foreign(const output *o)
{
    return lensnet_classifier_reliability(o->classifier).foreign;
}

/* The classes of the set as one text. */
static void print_set(const output *o, const char *gap, text_kind kind)
{
    sheet s;
    size_t k;
    memset(&s, 0, sizeof s);
    for (k = 0; k < o->classes; k++)
        if (o->set >> k & 1)
            sheet_add(&s, "%s%s", s.text ? gap : "", lensnet_classifier_label(o->classifier, k));
    if (s.text) text_print(stdout, s.text, kind);
    sheet_clear(&s);
}

static void print_json_set(const output *o)
{
    const char *gap = "";
    size_t k;
    printf(", \"set\": [");
    for (k = 0; k < o->classes; k++) {
        if (!(o->set >> k & 1)) continue;
        fputs(gap, stdout);
        text_print(stdout, lensnet_classifier_label(o->classifier, k), TEXT_JSON);
        gap = ", ";
    }
    putchar(']');
}

static void print_head(const output *o)
{
    size_t k;
    if (options[JSON].given) {
        printf("[");
    } else if (options[CSV].given) {
        printf("file,id,ra,dec,class,probability");
        for (k = 0; k < o->classes; k++) {
            putchar(',');
            text_print(stdout, lensnet_classifier_label(o->classifier, k), TEXT_CSV);
        }
        printf("%s%s\n", knows_foreign(o) ? ",foreign" : "", options[COVERAGE].value ? ",set" : "");
    } else {
        print_padded("image", o->name_width);
        printf("  ");
        print_padded("class", o->label_width);
        for (k = 0; k < o->classes; k++) {
            const char *label = lensnet_classifier_label(o->classifier, k);
            printf("  %*s", column_width(o, k) - (int)text_columns(label), "");
            text_print(stdout, label, TEXT_TERMINAL);
        }
        puts(options[COVERAGE].value ? "  set" : "");
    }
}

static void print_json_row(const output *o, const char *path, const float *p)
{
    size_t k;
    printf("%s\n  {\"file\": ", o->good ? "," : "");
    text_print(stdout, path, TEXT_JSON);
    if (o->object[0]) {
        printf(", \"id\": ");
        text_print(stdout, o->object, TEXT_JSON);
    }
    if (o->has_sky) printf(", \"ra\": %.10g, \"dec\": %.10g", o->ra, o->dec);
    printf(", \"class\": ");
    text_print(stdout, o->label, TEXT_JSON);
    if (o->foreign >= 0) printf(", \"foreign\": %.6g", o->foreign);
    printf(", \"probabilities\": {");
    for (k = 0; k < o->classes; k++) {
        if (k) printf(", ");
        text_print(stdout, lensnet_classifier_label(o->classifier, k), TEXT_JSON);
        printf(": %.9g", (double)p[k]);
    }
    printf("}");
    if (options[COVERAGE].value) print_json_set(o);
    printf("}");
}

static void print_csv_row(const output *o, const char *path, float best, const float *p)
{
    size_t k;
    text_print(stdout, path, TEXT_CSV);
    putchar(',');
    text_print(stdout, o->object, TEXT_CSV);
    if (o->has_sky)
        printf(",%.10g,%.10g,", o->ra, o->dec);
    else
        printf(",,,");
    text_print(stdout, o->label, TEXT_CSV);
    printf(",%.9g", (double)best);
    for (k = 0; k < o->classes; k++) printf(",%.9g", (double)p[k]);
    if (knows_foreign(o)) printf(",%.6g", o->foreign);
    if (options[COVERAGE].value) putchar(',');
    if (options[COVERAGE].value) print_set(o, "|", TEXT_CSV);
    putchar('\n');
}

static void print_row(const output *o, const char *path, size_t best, const float *p)
{
    size_t k;
    if (options[JSON].given) {
        print_json_row(o, path, p);
    } else if (options[CSV].given) {
        print_csv_row(o, path, p[best], p);
    } else {
        print_padded(path, o->name_width);
        printf("  ");
        print_padded(o->label, o->label_width);
        for (k = 0; k < o->classes; k++)
            printf("  %*.2f %%", column_width(o, k) - 2, 100 * (double)p[k]);
        if (options[COVERAGE].value) printf("  ");
        if (options[COVERAGE].value) print_set(o, ", ", TEXT_TERMINAL);
        putchar('\n');
    }
}

/* The last line of a part. */
static void print_mark(const output *o)
{
    parts_mark mark = *o->part;
    mark.rows = o->good;
    if (options[JSON].given) printf("%s\n  {\"mark\": \"", o->good ? "," : "");
    if (options[CSV].given) printf("# ");
    parts_print(&mark);
    printf("%s\n", options[JSON].given ? "\"}\n]" : "");
}

static void print_foot(const output *o, double seconds)
{
    size_t k;
    if (o->part->part) {
        print_mark(o);
    } else if (options[JSON].given) {
        printf("\n]\n");
    } else if (!options[CSV].given && o->good) {
        printf("\n%zu image%s in %.2f s:", o->good, o->good == 1 ? "" : "s", seconds);
        for (k = 0; k < o->classes; k++) {
            printf("%s %zu ", k ? "," : "", o->found[k]);
            text_print(stdout, lensnet_classifier_label(o->classifier, k), TEXT_TERMINAL);
        }
        if (o->found[o->classes])
            printf(", %zu unknown (unlike what the network was trained on)", o->found[o->classes]);
        putchar('\n');
    }
}

/* What should be known of the images besides their classes; to stderr, so that no table changes. */
static void print_notes(const output *o)
{
    const int known = o->network->source_size;
    fflush(stdout);
    if (!known && !o->network->crop && strcmp(options[FIT].value, "crop") == 0)
        fputs("note: these weights do not say what size they were trained on, so --fit crop does "
              "nothing\n",
              stderr);
    if (o->mended)
        fprintf(stderr,
                "note: pixels that were not finite were replaced in %zu image%s (--nan %s)\n",
                o->mended, o->mended == 1 ? "" : "s", options[NANS].value);
    if (o->other_size) {
        fprintf(stderr, "note: %zu image%s not %d x %d pixels, which the network was trained on: ",
                o->other_size, o->other_size == 1 ? " is" : "s are", known, known);
        text_print(stderr, o->images->files[o->first_other[0]].path, TEXT_TERMINAL);
        fprintf(
            stderr,
            " has %zu x %zu. Such images were stretched to its input, so what is in them looks\n"
            "      larger or smaller than it has seen; --fit crop cuts or pads instead, and "
            "--pixel-scale brings them to its scale\n",
            o->first_other[1], o->first_other[2]);
    }
    if (o->images->left_out.count) {
        fprintf(stderr,
                "note: %zu file%s passed over, not named like an image (.npy, .npz, .fits): ",
                o->images->left_out.count, o->images->left_out.count == 1 ? " was" : "s were");
        text_print(stderr, o->images->left_out.first, TEXT_TERMINAL);
        fputs(o->images->left_out.count > 1 ? " and others\n" : "\n", stderr);
    }
}

/* ---- images and answers ---- */

static int is_blank(const picture *p)
{
    size_t i, count = p->bands * p->height * p->width;
    for (i = 1; i < count; i++)
        if (p->pixels[i] != p->pixels[0]) return 0;
    return 1;
}

/* Is the size of an image that goes in as it is far from what the network knows? */
static int is_other_size(const picture *p, const lensnet_preprocess *network)
{
    const double known = network->source_size;
    if (!network->source_size || network->crop || strcmp(options[FIT].value, "auto") != 0) return 0;
    return fabs((double)p->height - known) > 0.1 * known ||
           fabs((double)p->width - known) > 0.1 * known;
}

/* The name of the figure of an image: FOLDER/ROW-NAME.svg, rows counted from 1. To be freed. */
static char *figure_path(const char *image, size_t index)
{
    const char *slash = strrchr(image, '/'), *name = slash ? slash + 1 : image;
    const size_t room = strlen(name) + 40;
    const char *point = strrchr(name, '.');
    char *file = (char *)malloc(room), *path;
    if (!file) return NULL;
    snprintf(file, room, "%06zu-%.*s.svg", index + 1,
             (int)(point && !strchr(point, '[') ? point - name : (long)strlen(name)), name);
    path = system_path(options[EXPLAIN].value, file);
    free(file);
    return path;
}

/* Draws where the network looks; an image that is too large for it is left out. */
static int draw_figure(const output *o, size_t index, const picture *p,
                       const lensnet_prediction *prediction, lensnet_error *error)
{
    const char *image = o->images->files[index].path;
    const size_t before = o->part->part ? parts_first(o->part->part, o->part) : 0;
    char *path = figure_path(image, before + index), title[256], source[1024];
    float *map = (float *)malloc(p->height * p->width * sizeof *map);
    const char *label = lensnet_classifier_label(o->classifier, (size_t)prediction->index);
    int good = (path && map) || dataset_no_memory(error);
    snprintf(title, sizeof title, "%s%.60s, %.1f %%",
             prediction->unknown ? "unknown; nearest " : "", label,
             100 * (double)prediction->probability);
    snprintf(source, sizeof source, "%.400s by %.400s; lensnet %d.%d.%d, numerics %d", image,
             o->weights, LENSNET_VERSION_MAJOR, LENSNET_VERSION_MINOR, LENSNET_VERSION_PATCH,
             LENSNET_NUMERICS);
    good = good &&
           explain_image(map, o->explainer, p->pixels, p->height, p->width,
                         (size_t)prediction->index, error) &&
           !heat_save(path, p->pixels, map, p->height, p->width, title, source, error);
    free(map);
    free(path);
    return good;
}

static void see(void *user, size_t index, const dataset_image *image,
                const lensnet_prediction *prediction)
{
    output *o = (output *)user;
    const picture *p = &image->picture;
    const catalogue_entry *entry = index < o->list->count ? &o->list->entries[index] : NULL;
    snprintf(o->object, sizeof o->object, "%s", entry && entry->id ? entry->id : p->object);
    o->has_sky = entry && entry->has_sky ? 1 : p->has_sky;
    o->ra = entry && entry->has_sky ? entry->ra : p->ra;
    o->dec = entry && entry->has_sky ? entry->dec : p->dec;
    o->label = prediction ? prediction->label : "";
    o->foreign = prediction && knows_foreign(o) ? (double)prediction->foreign : -1;
    o->set = prediction ? prediction->set : 0;
    o->blank = prediction && is_blank(p);
    o->value = prediction ? p->pixels[0] : 0;
    if (!prediction || o->blank) return;
    if (o->explainer && p->height <= HEAT_MOST && p->width <= HEAT_MOST)
        o->undrawn |= !draw_figure(o, index, p, prediction, &o->problem);
    o->mended += image->mended > 0;
    if (is_other_size(p, o->network) && !o->other_size++) {
        o->first_other[0] = index;
        o->first_other[1] = p->height;
        o->first_other[2] = p->width;
    }
}

static void report_problem(const char *path, const char *problem)
{
    const int named = strncmp(problem, path, strlen(path)) == 0;
    fflush(stdout);
    fputs("error: ", stderr);
    if (!named) text_print(stderr, path, TEXT_TERMINAL);
    if (!named) fputs(": ", stderr);
    text_print(stderr, problem, TEXT_TERMINAL);
    fputc('\n', stderr);
}

static int receive(void *user, size_t index, const float *probabilities, const char *problem)
{
    output *o = (output *)user;
    const char *path = o->images->files[index].path;
    char sentence[96];
    size_t k, best = 0;
    if (probabilities && o->blank) {
        snprintf(sentence, sizeof sentence, "every pixel is %g; there is nothing to classify",
                 (double)o->value);
        problem = sentence;
    }
    if (problem) {
        report_problem(path, problem);
        o->bad++;
        return 1;
    }
    for (k = 1; k < o->classes; k++)
        if (probabilities[k] > probabilities[best]) best = k;
    print_row(o, path, best, probabilities);
    o->found[strcmp(o->label, lensnet_classifier_label(o->classifier, best)) ? o->classes : best]++;
    o->good++;
    return !ferror(stdout) && !o->undrawn;
}

/* ---- the program ---- */

static void measure_columns(output *o)
{
    size_t i;
    o->name_width = o->label_width = 5;
    if (options[CSV].given || options[JSON].given) return;
    for (i = 0; i < o->images->count; i++) {
        int length = (int)text_columns(o->images->files[i].path);
        if (length > o->name_width) o->name_width = length;
    }
    for (i = 0; i <= o->classes; i++) {
        const char *label = i < o->classes ? lensnet_classifier_label(o->classifier, i) : "unknown";
        int length = (int)text_columns(label);
        if (length > o->label_width) o->label_width = length;
    }
}

/* The weights once more, with gradients; nothing where --explain is not given. */
static int open_explainer(explainer *x, const char *path, const lensnet_host *host,
                          lensnet_error *error)
{
    lensnet_load_options load = backbone_load_defaults();
    lensnet_model *model = NULL;
    weights_file file;
    weights_told told;
    int good;
    memset(x, 0, sizeof *x);
    if (!options[EXPLAIN].value) return 1;
    if (!system_make_folder(options[EXPLAIN].value))
        return dataset_fail(error, "%s: the folder cannot be made: %s; choose another --explain",
                            options[EXPLAIN].value, strerror(errno));
    if (!weights_told_read(&told, &options[WEIGHTS])) return dataset_no_memory(error);
    load.host = host;
    load.told = told.pairs;
    load.told_count = told.count;
    good = !weights_open(&file, path, options[WEIGHTS + WEIGHTS_KEY].value, NULL, error) &&
           !lensnet_model_load_archive(&model, file.archive, &load, NULL, error);
    weights_close(&file);
    weights_told_free(&told);
    return good && explain_model(x, model, error);
}

static int classify(const lensnet_classifier *classifier, const char *weights, explainer *x,
                    dataset_split *images, const catalogue *list, const parts_mark *part,
                    lensnet_error *error)
{
    const size_t batch = (size_t)arguments_whole(&options[BATCH], 1, 4096);
    const int threads = (int)arguments_whole(&options[THREADS], 0, 4096);
    output o;
    double start = system_seconds();
    int good;
    memset(&o, 0, sizeof o);
    o.classifier = classifier;
    o.network = lensnet_classifier_preprocess(classifier);
    o.images = images;
    o.list = list;
    o.part = part;
    o.weights = weights;
    o.explainer = options[EXPLAIN].value ? x : NULL;
    o.classes = lensnet_classifier_classes(classifier);
    o.found = (size_t *)calloc(o.classes + 1, sizeof *o.found);
    if (!o.found) return dataset_no_memory(error);
    images->see = see;
    images->seer = &o;
    measure_columns(&o);
    print_head(&o);
    error->text[0] = 0;
    good = predict_split(classifier, images, batch, threads, receive, &o, error);
    if (good || !part->part) print_foot(&o, system_seconds() - start);
    print_notes(&o);
    free(o.found);
    if (o.undrawn) {
        *error = o.problem;
        return 0;
    }
    if (good && o.bad)
        good =
            dataset_fail(error, "%zu of %zu files could not be classified", o.bad, images->count);
    return good;
}

/* Are there sets, if they are asked for? */
static int check_sets(const lensnet_classifier *classifier, const char *weights,
                      lensnet_error *error)
{
    return !options[COVERAGE].value || lensnet_classifier_reliability(classifier).sets ||
           dataset_fail(error,
                        "%s: it knows no conformal sets%s, or has over 64 classes; evaluate "
                        "--calibrate teaches them, else leave --coverage away",
                        weights, arguments_views(&options[VIEWS]) == 8 ? " for 8 views" : "");
}

static int collect_all(dataset_split *images, catalogue *list, int words, char **argv,
                       lensnet_error *error)
{
    int i, good = 1;
    if (options[LIST].value) good = catalogue_read(list, images, options[LIST].value, error);
    for (i = 2; good && i <= words; i++) good = collect(images, argv[i], 0, error);
    if (good && !images->count)
        good = dataset_fail(error, "%s: there are no images in it (.npy, .npz, .fits)",
                            words > 1 ? argv[2] : options[LIST].value);
    return good;
}

/* Of all images those that --part asks for. */
static int choose_part(parts_mark *part, const lensnet_classifier *classifier,
                       dataset_split *images, catalogue *list, lensnet_error *error)
{
    if (!part->part) return 1;
    images->reading.bands = (size_t)lensnet_classifier_preprocess(classifier)->bands;
    if (!parts_run(part, classifier, images, error)) return 0;
    catalogue_keep_part(list, images, part);
    return 1;
}

int main(int argc, char **argv)
{
    lensnet_classifier_options choice = lensnet_classifier_defaults();
    lensnet_host host = lensnet_host_defaults();
    lensnet_classifier *classifier = NULL;
    catalogue list;
    dataset_split images;
    explainer x;
    parts_mark part;
    lensnet_error error;
    int good, words = arguments_parse(options, OPTIONS, usage, argc, argv);
    memset(&images, 0, sizeof images);
    memset(&list, 0, sizeof list);
    memset(&x, 0, sizeof x);
    memset(&part, 0, sizeof part);
    error.text[0] = 0;
    if (options[MERGE].given) {
        if (!words) arguments_fail("--merge needs the tables of the parts\n%s", usage);
        good = catalogue_merge(argv + 1, words, &error);
        if (!good) fprintf(stderr, "error: %s\n", error.text);
        return arguments_flush() && good ? 0 : 1;
    }
    if (words < (options[LIST].value ? 1 : 2))
        arguments_fail("weights and at least one image or folder are needed\n%s", usage);
    if (options[CSV].given && options[JSON].given) arguments_fail("choose one of --csv and --json");
    if (options[PART].value && !options[CSV].given && !options[JSON].given)
        arguments_fail("--part is for --csv or --json");
    if (options[PART].value && !parts_parse(&part, options[PART].value))
        arguments_fail("--part is I/N with I from 1 to N, not '%s'", options[PART].value);
    weights_check_order("classify", words, argv);
    reading_from_options(&images.reading, options, OPTIONS);
    host.threads = (int)arguments_whole(&options[THREADS], 0, 4096);
    choice.host = &host;
    choice.bands = 0; /* pictures are read with as many as the network takes */
    choice.views = arguments_views(&options[VIEWS]);
    choice.coverage = arguments_coverage(&options[COVERAGE]);
    choice.precision =
        (lensnet_precision)arguments_choice(&options[PRECISION], arguments_precisions, 2);
    good = collect_all(&images, &list, words, argv, &error) &&
           !weights_classifier(&classifier, argv[1], &choice, &options[WEIGHTS], &error) &&
           check_sets(classifier, argv[1], &error) &&
           choose_part(&part, classifier, &images, &list, &error) &&
           open_explainer(&x, argv[1], &host, &error) &&
           classify(classifier, argv[1], &x, &images, &list, &part, &error);
    explain_close(&x);
    lensnet_classifier_destroy(classifier);
    dataset_split_free(&images);
    catalogue_free(&list);
    if (!arguments_flush()) return 1;
    if (!good) {
        fputs("error: ", stderr);
        text_print(stderr, error.text, TEXT_TERMINAL);
        fputc('\n', stderr);
    }
    return good ? 0 : 1;
}
