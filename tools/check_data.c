/* check_data.c - looks at a set of images before a network does.
 *
 *     cc -O2 -fopenmp tools/check_data.c -o check_data -lm
 *     ./check_data DATA
 *
 * DATA/SPLIT/CLASS/NAME.npy (.npz, .fits), splits train, val and test, or DATA/CLASS/NAME.npy. Finds
 * images as train and evaluate do, reads every file and prints, class by class, how many there are, their
 * shapes, number types and values; then what is wrong:
 *
 *   - files that cannot be read, pixels that are not finite, images of one value;
 *   - the same pixels twice, in one split, across splits (the score would be too good) or in two
 *     classes (one label is wrong);
 *   - shapes or number types that differ, classes that a split lacks, folders that no program reads;
 *   - classes that a single number tells apart (type, shape, mean, largest or smallest pixel): a
 *     network learns that instead of the physics;
 *   - splits whose images differ in such a number (Kolmogorov and Smirnov's test, class by class): what is
 *     learned on one may not hold on the other;
 *   - with --weights FILE, a calibrated one, images that look foreign to that network, the most foreign
 *     first: those beyond twice the threshold, and all of them where they are more than the 1 in 100 that
 *     chance makes; and splits that differ in that.
 *
 * Exit status: 0 nothing wrong, 1 something is, or DATA cannot be looked at, 2 wrong command line. */
#include "../examples/system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "../examples/arguments.h"
#include "../examples/backbones.h"
#include "../examples/folders.h"
#include "../examples/predict.h"
#include "../examples/progress.h"
#include "../examples/reading.h"
#include "../examples/statistics.h"

#include <float.h>

#ifdef _OPENMP
#include <omp.h>
#endif

enum { SPLITS = DATASET_SPLITS, LISTED = 10 };
static const char *split_names[SPLITS] = {"train", "val", "test"}; /* "all" where DATA has none */

static argument options[] = {
    {"--classes", "LIST", NULL, "classes of folders by other names: axion=vort,cdm=sphere", 0},
    {"--stack", NULL, "no", "files may be stacks of images (N, H, W)", 0},
    {"--weights", "FILE", NULL, "calibrated weights: find images that are foreign to them", 0},
    {"--threads", "N", "0", "for --weights; 0: all", 0}};
enum { CLASSES, STACK, WEIGHTS, THREADS, OPTIONS };

static const char usage[] =
    "usage: check_data [options] DATA\n"
    "Looks for what is wrong with DATA/train|val|test/CLASS/NAME.npy, or DATA/CLASS/NAME.npy.\n";

/* What is kept of a file: its pixels are looked at once. */
typedef struct {
    const char *path; /* borrowed from the list */
    int split, label;
    int readable;
    char type[12], shape[48];
    float least, most;
    double mean, deviation;
    double foreign; /* over the weights' threshold; below 0: not known */
    size_t odd;     /* pixels that are not finite */
    uint64_t hash[2];
    char text[NPY_TEXT]; /* why it is not readable */
} image;

typedef struct {
    const char *folder;
    dataset data; /* names of the files and the classes of all splits, sorted */
    image *images;
    size_t count;
    size_t problems;
    int flat; /* 1: DATA holds the classes, no splits */
} data_set;

/* ---- finding the files ---- */

/* Every folder of every split is a class. */
static int find_classes(data_set *set, lensnet_error *error)
{
    system_names *all = &set->data.classes;
    int split, good = 1;
    for (split = 0; good && split < SPLITS; split++) {
        system_names found;
        char *path;
        size_t i;
        if (!set->flat && !dataset_has(set->folder, (dataset_kind)split)) continue;
        path = set->flat ? system_copy(set->folder) : system_path(set->folder, split_names[split]);
        good = path ? dataset_find_classes(&found, path, &set->data.split[split].reading, error)
                    : dataset_no_memory(error);
        for (i = 0; good && i < found.count; i++)
            if (dataset_find_class(all, found.items[i]) < 0)
                good =
                    system_names_add(all, system_copy(found.items[i])) || dataset_no_memory(error);
        if (path) system_names_free(&found);
        free(path);
    }
    if (all->count) qsort(all->items, all->count, sizeof *all->items, system_compare);
    return good;
}

/* Lists what each split has; a class's folder may be empty. */
static int list_files(data_set *set, lensnet_error *error)
{
    int split, good = 1;
    for (split = 0; good && split < SPLITS; split++) {
        dataset_split *to = &set->data.split[split];
        char *path;
        if (set->flat ? split > 0 : !dataset_has(set->folder, (dataset_kind)split)) continue;
        path = set->flat ? system_copy(set->folder) : system_path(set->folder, split_names[split]);
        to->reading.lenient = 1;
        good = path ? dataset_list_split(to, path, &set->data.classes, 0, error)
                    : dataset_no_memory(error);
        free(path);
    }
    return good;
}

static int find_images(data_set *set, lensnet_error *error)
{
    int split;
    size_t i, count = 0;
    set->flat = 1;
    for (split = 0; split < SPLITS; split++)
        set->flat &= !dataset_has(set->folder, (dataset_kind)split);
    if (set->flat) split_names[0] = "all";
    if (!find_classes(set, error) || !list_files(set, error)) return 0;
    for (split = 0; split < SPLITS; split++) count += set->data.split[split].count;
    if (!count)
        return dataset_fail(error, "%s: no images there; expected %s/train/CLASS/NAME.npy",
                            set->folder, set->folder);
    set->images = (image *)calloc(count, sizeof *set->images);
    if (!set->images) return dataset_no_memory(error);
    for (split = 0; split < SPLITS; split++)
        for (i = 0; i < set->data.split[split].count; i++) {
            image *m = &set->images[set->count++];
            m->path = set->data.split[split].files[i].path;
            m->label = set->data.split[split].files[i].label;
            m->split = split;
            m->foreign = -1;
        }
    return 1;
}

/* ---- looking at one ---- */

/* Two hashes of the pixels' bits, so that different images meet by chance once in 2^100. */
static void hash_pixels(uint64_t hash[2], const float *pixels, size_t count)
{
    size_t i;
    hash[0] = 0xCBF29CE484222325u;
    hash[1] = count;
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &pixels[i], sizeof bits);
        hash[0] = (hash[0] ^ bits) * 0x100000001B3u;
        hash[1] = (hash[1] + bits) * 0x9E3779B97F4A7C15u;
        hash[1] ^= hash[1] >> 29;
    }
}

static void look_at_pixels(image *m, const float *pixels, size_t count)
{
    double sum = 0, squares = 0;
    size_t i;
    m->least = FLT_MAX;
    m->most = -FLT_MAX;
    for (i = 0; i < count; i++) {
        float v = pixels[i];
        if (!(v >= -FLT_MAX && v <= FLT_MAX)) {
            m->odd++;
            continue;
        }
        m->least = v < m->least ? v : m->least;
        m->most = v > m->most ? v : m->most;
        sum += v;
        squares += (double)v * v;
    }
    if (count > m->odd) {
        double n = (double)(count - m->odd), variance;
        m->mean = sum / n;
        variance = squares / n - m->mean * m->mean;
        m->deviation = variance > 0 ? sqrt(variance) : 0;
    }
    hash_pixels(m->hash, pixels, count);
}

static void look_at(image *m)
{
    picture p;
    if (!picture_read(&p, m->path, 0, m->text)) return;
    memcpy(m->type, p.type, sizeof m->type);
    memcpy(m->shape, p.shape, sizeof m->shape);
    look_at_pixels(m, p.pixels, p.bands * p.height * p.width);
    m->least += (float)p.offset;
    m->most += (float)p.offset;
    m->mean += p.offset;
    m->readable = 1;
    picture_free(&p);
}

static void look_at_all(data_set *set)
{
    progress_bar bar;
    size_t done = 0;
    long i;
    progress_start(&bar, 0);
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 16)
#endif
    for (i = 0; i < (long)set->count; i++) {
        look_at(&set->images[i]);
#ifdef _OPENMP
#pragma omp critical
#endif
        progress_show(&bar, "images", ++done, set->count, "");
    }
    progress_end(&bar);
}

/* ---- the table ---- */

typedef struct {
    size_t count;
    const image *first; /* readable; NULL if there is none */
    int mixed_type, mixed_shape;
    float least, most;
    double mean, deviation; /* averages of the images' */
} summary;

/* Of split and class; -1 for all of them. */
static summary summarise(const data_set *set, int split, int label)
{
    summary s = {0, NULL, 0, 0, FLT_MAX, -FLT_MAX, 0, 0};
    size_t i, readable = 0;
    for (i = 0; i < set->count; i++) {
        const image *m = &set->images[i];
        if ((split >= 0 && m->split != split) || (label >= 0 && m->label != label)) continue;
        s.count++;
        if (!m->readable) continue;
        if (!s.first) s.first = m;
        s.mixed_type |= strcmp(s.first->type, m->type) != 0;
        s.mixed_shape |= strcmp(s.first->shape, m->shape) != 0;
        s.least = m->least < s.least ? m->least : s.least;
        s.most = m->most > s.most ? m->most : s.most;
        s.mean += m->mean;
        s.deviation += m->deviation;
        readable++;
    }
    if (readable) {
        s.mean /= (double)readable;
        s.deviation /= (double)readable;
    }
    return s;
}

static void print_table(const data_set *set)
{
    size_t label, width = 12;
    int split;
    for (label = 0; label < set->data.classes.count; label++)
        if (text_columns(set->data.classes.items[label]) > width)
            width = text_columns(set->data.classes.items[label]);
    printf("%-6s %-*s %8s  %-8s %-14s %12s %12s %12s %12s\n", "split", (int)width, "class",
           "images", "type", "shape", "smallest", "largest", "mean", "deviation");
    for (split = 0; split < SPLITS; split++) {
        for (label = 0; label < set->data.classes.count; label++) {
            summary s = summarise(set, split, (int)label);
            if (!s.count) continue;
            printf("%-6s ", split_names[split]);
            text_print(stdout, set->data.classes.items[label], TEXT_TERMINAL);
            printf("%*s %8lu  ", (int)(width - text_columns(set->data.classes.items[label])), "",
                   (unsigned long)s.count);
            if (s.first)
                printf("%-8s %-14s %12.6g %12.6g %12.6g %12.6g\n",
                       s.mixed_type ? "mixed" : s.first->type,
                       s.mixed_shape ? "mixed" : s.first->shape, (double)s.least, (double)s.most,
                       s.mean, s.deviation);
            else
                printf("none can be read\n");
        }
    }
}

/* ---- what is wrong ---- */

/* Counts a problem of one kind and prints the first of them. `listed` counts the kind's. */
#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
static void
problem(data_set *set, size_t *listed, const char *format, ...)
{
    char text[1024];
    va_list values;
    set->problems++;
    if (++*listed == LISTED + 1) printf("  ... and more of the kind\n");
    if (*listed > LISTED) return;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    printf("  ");
    text_print(stdout, text, TEXT_TERMINAL);
    printf("\n");
}

static void check_files(data_set *set)
{
    size_t i, unreadable = 0, odd = 0, constant = 0;
    for (i = 0; i < set->count; i++) {
        const image *m = &set->images[i];
        if (!m->readable)
            problem(set, &unreadable, "%s", m->text);
        else if (m->odd)
            problem(set, &odd, "%s: %lu pixels are not finite numbers", m->path,
                    (unsigned long)m->odd);
        else if (m->least == m->most)
            problem(set, &constant, "%s: every pixel is %g", m->path, (double)m->least);
    }
}

static int compare_images(const void *left, const void *right)
{
    const image *a = *(const image *const *)left, *b = *(const image *const *)right;
    int k;
    for (k = 0; k < 2; k++)
        if (a->hash[k] != b->hash[k]) return a->hash[k] < b->hash[k] ? -1 : 1;
    return a < b ? -1 : a > b; /* in the order of the files */
}

static int check_duplicates(data_set *set)
{
    const image **sorted = (const image **)malloc((set->count + 1) * sizeof *sorted);
    size_t i, count = 0, same = 0, across = 0, labels = 0;
    if (!sorted) return 0;
    for (i = 0; i < set->count; i++)
        if (set->images[i].readable) sorted[count++] = &set->images[i];
    qsort(sorted, count, sizeof *sorted, compare_images);
    for (i = 1; i < count; i++) {
        const image *a = sorted[i - 1], *b = sorted[i];
        if (memcmp(a->hash, b->hash, sizeof a->hash) != 0) continue;
        if (a->label != b->label)
            problem(set, &labels, "%s and %s: the same pixels in two classes", a->path, b->path);
        else if (a->split != b->split)
            problem(set, &across, "%s and %s: the same pixels in two splits", a->path, b->path);
        else
            problem(set, &same, "%s and %s: the same pixels", a->path, b->path);
    }
    free(sorted);
    return 1;
}

static void check_uniform(data_set *set)
{
    summary all = summarise(set, -1, -1);
    size_t label, listed = 0;
    int split;
    if (all.mixed_type) problem(set, &listed, "the number types differ (see the table)");
    if (all.mixed_shape) problem(set, &listed, "the shapes differ (see the table)");
    for (split = 0; split < SPLITS; split++) {
        if (!summarise(set, split, -1).count) continue;
        for (label = 0; label < set->data.classes.count; label++)
            if (!summarise(set, split, (int)label).count)
                problem(set, &listed, "%s/%s: class '%s' has no images in this split", set->folder,
                        split_names[split], set->data.classes.items[label]);
    }
    if (set->data.classes.count < 2)
        problem(set, &listed, "%s: a classifier needs two classes or more, found %lu", set->folder,
                (unsigned long)set->data.classes.count);
}

/* One number of an image that should not give its class away. */
static double telltale(const image *m, int which)
{
    return which == 0 ? m->mean : which == 1 ? (double)m->most : (double)m->least;
}

/* Do the values of two classes, ten images or more each, not overlap at all? */
static int separates(const data_set *set, int a, int b, int which)
{
    double low[2] = {DBL_MAX, DBL_MAX}, high[2] = {-DBL_MAX, -DBL_MAX};
    size_t i, count[2] = {0, 0};
    for (i = 0; i < set->count; i++) {
        const image *m = &set->images[i];
        const int k = m->label == b;
        double value = telltale(m, which);
        if (!m->readable || (m->label != a && m->label != b)) continue;
        low[k] = value < low[k] ? value : low[k];
        high[k] = value > high[k] ? value : high[k];
        count[k]++;
    }
    return count[0] >= LISTED && count[1] >= LISTED && (high[0] < low[1] || high[1] < low[0]);
}

static void check_telltales(data_set *set)
{
    static const char *const names[3] = {"mean", "largest pixel", "smallest pixel"};
    const int classes = (int)set->data.classes.count;
    size_t listed = 0;
    int a, b, which;
    for (a = 0; a < classes; a++)
        for (b = a + 1; b < classes; b++)
            for (which = 0; which < 3; which++)
                if (separates(set, a, b, which))
                    problem(
                        set, &listed,
                        "the %s alone tells '%s' from '%s'; were they made or scaled differently?",
                        names[which], set->data.classes.items[a], set->data.classes.items[b]);
}

/* ---- splits that differ ---- */

enum { NUMBERS = 5 };
static const char *const number_names[NUMBERS] = {"mean", "deviation", "largest pixel",
                                                  "smallest pixel", "foreign score"};
#define SHIFT_DISTANCE 0.1  /* smaller ones do no harm, however sure */
#define SHIFT_P        1e-4 /* of one comparison; there are tens of them */

static double number_of(const image *m, int which)
{
    switch (which) {
    case 0: return m->mean;
    case 1: return m->deviation;
    case 2: return (double)m->most;
    case 3: return (double)m->least;
    default: return m->foreign;
    }
}

/* One number of all images of a class in a split, in ascending order; returns how many. */
static size_t collect_number(double *values, const data_set *set, int split, int label, int which)
{
    size_t i, count = 0;
    for (i = 0; i < set->count; i++) {
        const image *m = &set->images[i];
        if (m->split == split && m->label == label && m->readable && !m->odd &&
            (which < NUMBERS - 1 || m->foreign >= 0))
            values[count++] = number_of(m, which);
    }
    qsort(values, count, sizeof *values, statistics_ascending);
    return count;
}

static void compare_splits(data_set *set, size_t *listed, double *work, int label, int which)
{
    double *train = work, *other = work + set->count;
    const size_t count = collect_number(train, set, DATASET_TRAIN, label, which);
    int split;
    for (split = DATASET_VAL; split < SPLITS; split++) {
        const size_t others = collect_number(other, set, split, label, which);
        statistics_shift shift;
        if (count < LISTED || others < LISTED) continue;
        shift = statistics_kolmogorov(train, count, other, others);
        if (shift.distance >= SHIFT_DISTANCE && shift.p < SHIFT_P)
            problem(set, listed,
                    "%s and %s differ in the %s of '%s' (distance %.2f, p = %.0e): were they made, "
                    "chosen or scaled alike?",
                    split_names[DATASET_TRAIN], split_names[split], number_names[which],
                    set->data.classes.items[label], shift.distance, shift.p);
    }
}

static int check_shift(data_set *set)
{
    double *work = (double *)malloc(2 * set->count * sizeof *work);
    size_t listed = 0;
    int label, which;
    if (!work) return 0;
    for (label = 0; label < (int)set->data.classes.count; label++)
        for (which = 0; which < NUMBERS; which++) compare_splits(set, &listed, work, label, which);
    free(work);
    return 1;
}

/* ---- images that are foreign to a network ---- */

/* Where the answers of a split go. */
typedef struct {
    image *images; /* of the split */
    lensnet_prediction *predictions;
} foreign_sink;

/* What cannot be classified is no matter here: other checks tell of it. */
static int receive_foreign(void *user, size_t index, const float *probabilities, const char *text)
{
    foreign_sink *sink = (foreign_sink *)user;
    (void)text;
    if (probabilities) sink->images[index].foreign = (double)sink->predictions[index].foreign;
    return 1;
}

static int score_split(data_set *set, const lensnet_classifier *classifier, int split, size_t first,
                       lensnet_error *error)
{
    dataset_split *files = &set->data.split[split];
    foreign_sink sink;
    predict_wish wish;
    int good;
    memset(&wish, 0, sizeof wish);
    wish.batch = 16;
    wish.threads = (int)arguments_whole(&options[THREADS], 0, 4096);
    wish.predictions = (lensnet_prediction *)calloc(files->count, sizeof *wish.predictions);
    sink.images = set->images + first;
    sink.predictions = wish.predictions;
    good = wish.predictions
               ? predict_split_as(classifier, files, &wish, receive_foreign, &sink, error)
               : dataset_no_memory(error);
    free(wish.predictions);
    return good;
}

static int score_all(data_set *set, lensnet_error *error)
{
    lensnet_classifier_options choice = backbone_classifier_defaults();
    lensnet_host host = lensnet_host_defaults();
    lensnet_classifier *classifier;
    size_t first = 0;
    int split, good = 1;
    host.threads = (int)arguments_whole(&options[THREADS], 0, 4096);
    choice.host = &host;
    choice.bands = 0; /* pictures are read with as many as the network takes */
    if (lensnet_classifier_load(&classifier, options[WEIGHTS].value, &choice, error)) return 0;
    if (!lensnet_classifier_reliability(classifier).foreign)
        good = dataset_fail(error,
                            "%s: it does not know what is foreign to it; evaluate --calibrate "
                            "teaches it that",
                            options[WEIGHTS].value);
    for (split = 0; good && split < SPLITS; split++) {
        if (set->data.split[split].count) good = score_split(set, classifier, split, first, error);
        first += set->data.split[split].count;
    }
    lensnet_classifier_destroy(classifier);
    return good;
}

static int compare_foreign(const void *left, const void *right)
{
    const image *a = *(const image *const *)left, *b = *(const image *const *)right;
    return a->foreign > b->foreign ? -1 : a->foreign < b->foreign ? 1 : a < b ? -1 : a > b;
}

/* One in a hundred exceeds the threshold by chance; more than that plus three deviations do not, and hardly
 * one is twice as far. */
static int check_foreign(data_set *set)
{
    const image **flagged = (const image **)malloc((set->count + 1) * sizeof *flagged);
    int split;
    if (!flagged) return 0;
    for (split = 0; split < SPLITS; split++) {
        size_t i, known = 0, count = 0, listed = 0;
        double chance, beyond;
        for (i = 0; i < set->count; i++) {
            if (set->images[i].split != split || set->images[i].foreign < 0) continue;
            known++;
            if (set->images[i].foreign > 1) flagged[count++] = &set->images[i];
        }
        if (!known) continue;
        chance = 0.01 * (double)known;
        printf("%s: %lu of %lu images look foreign to the weights, where chance makes %.1f\n",
               split_names[split], (unsigned long)count, (unsigned long)known, chance);
        beyond = (double)count <= chance + 3 * sqrt(chance) + 1 ? 2 : 1;
        qsort(flagged, count, sizeof *flagged, compare_foreign);
        for (i = 0; i < count && flagged[i]->foreign > beyond; i++)
            problem(set, &listed, "%s: foreign to the weights, %.2f times the threshold",
                    flagged[i]->path, flagged[i]->foreign);
    }
    free(flagged);
    return 1;
}

/* Folders that a program would miss, or passes over. */
static void check_folders(data_set *set)
{
    size_t listed = 0;
    int split;
    for (split = 0; split < SPLITS; split++) {
        char other[64];
        dataset_other_spelling(other, sizeof other, set->folder, (dataset_kind)split);
        if (other[0] && !dataset_has(set->folder, (dataset_kind)split))
            problem(set, &listed, "%s/%s: no program reads this folder; is '%s' meant?",
                    set->folder, other, dataset_kind_names[split]);
        else if (!set->flat && split != DATASET_TEST &&
                 !dataset_has(set->folder, (dataset_kind)split))
            problem(set, &listed,
                    "%s: there is no folder '%s' in it, which train needs (or --split)",
                    set->folder, dataset_kind_names[split]);
    }
}

static int print_error(const char *text)
{
    fprintf(stderr, "error: ");
    text_print(stderr, text, TEXT_TERMINAL);
    fputc('\n', stderr);
    return 1;
}

static int check_set(data_set *set)
{
    lensnet_error error;
    if (!find_images(set, &error)) return print_error(error.text);
    if (options[WEIGHTS].value && !score_all(set, &error)) return print_error(error.text);
    look_at_all(set);
    print_table(set);
    check_folders(set);
    check_files(set);
    check_uniform(set);
    check_telltales(set);
    if (!check_duplicates(set) || !check_shift(set) || !check_foreign(set))
        return print_error("not enough memory to compare the images");
    dataset_print_notes(&set->data, stdout);
    if (set->problems)
        printf("%lu images, %lu problem%s\n", (unsigned long)set->count,
               (unsigned long)set->problems, set->problems == 1 ? "" : "s");
    else
        printf("%lu images, nothing wrong\n", (unsigned long)set->count);
    return set->problems != 0;
}

int main(int argc, char **argv)
{
    data_set set;
    dataset_reading reading;
    int split, status;
    memset(&set, 0, sizeof set);
    if (arguments_parse(options, OPTIONS, usage, argc, argv) != 1)
        arguments_fail("one folder DATA is expected\n%s", usage);
    set.folder = argv[1];
    reading_from_options(&reading, options, OPTIONS);
    for (split = 0; split < SPLITS; split++) set.data.split[split].reading = reading;
    status = check_set(&set);
    free(set.images);
    dataset_close(&set.data);
    return arguments_flush() ? status : 1;
}
