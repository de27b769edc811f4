/* check_data.c - looks at a set of images before a network does.
 *
 *     cc -O2 -fopenmp -I. tools/check_data.c -o check_data -lm
 *     ./check_data DATA
 *
 * DATA/SPLIT/CLASS/NAME.npy, splits train, val and test. Reads every file and prints, class by class,
 * how many there are, their shapes, number types and values; then what is wrong:
 *
 *   - files that cannot be read, pixels that are not finite, images of one value;
 *   - the same pixels twice, in one split, across splits (the score would be too good) or in two
 *     classes (one label is wrong);
 *   - shapes or number types that differ, classes that a split lacks;
 *   - classes that a single number tells apart (type, shape, mean, largest or smallest pixel): a
 *     network learns that instead of the physics.
 *
 * Exit status: 0 nothing wrong, 1 something is, 2 DATA cannot be looked at. */
#include "examples/system.h"
#include "examples/npy.h"
#include "examples/progress.h"

#include <float.h>
#include <math.h>

#ifdef _OPENMP
#include <omp.h>
#endif

enum { SPLITS = 3, LISTED = 10, PATH_ROOM = 4096 };
static const char *const split_names[SPLITS] = {"train", "val", "test"};

/* What is kept of a file: its pixels are looked at once. */
typedef struct {
    char *path;
    int split, label;
    int readable;
    char type[8], shape[48];
    float least, most;
    double mean, deviation;
    size_t odd; /* pixels that are not finite */
    uint64_t hash[2];
    char text[NPY_TEXT]; /* why it is not readable */
} image;

typedef struct {
    const char *folder;
    system_names classes; /* of all splits, sorted */
    image *images;
    size_t count, capacity;
    size_t problems;
} data_set;

/* ---- finding the files ---- */

static int add_image(data_set *set, char *path, int split, int label)
{
    if (path && set->count == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 256;
        image *grown = (image *)realloc(set->images, capacity * sizeof *grown);
        if (!grown) return 0;
        set->images = grown;
        set->capacity = capacity;
    }
    if (!path) return 0;
    memset(&set->images[set->count], 0, sizeof *set->images);
    set->images[set->count].path = path;
    set->images[set->count].split = split;
    set->images[set->count].label = label;
    set->count++;
    return 1;
}

static int find_class(const data_set *set, const char *name)
{
    size_t i;
    for (i = 0; i < set->classes.count; i++)
        if (strcmp(set->classes.items[i], name) == 0) return (int)i;
    return -1;
}

/* Every folder of every split is a class. */
static int find_classes(data_set *set)
{
    char path[PATH_ROOM];
    system_names names;
    size_t i;
    int split, good = 1;
    for (split = 0; split < SPLITS; split++) {
        snprintf(path, sizeof path, "%s/%s", set->folder, split_names[split]);
        if (!system_list(&names, path)) continue;
        for (i = 0; good && i < names.count; i++) {
            snprintf(path, sizeof path, "%s/%s/%s", set->folder, split_names[split],
                     names.items[i]);
            if (system_is_folder(path) && find_class(set, names.items[i]) < 0)
                good = system_names_add(&set->classes, system_copy(names.items[i]));
        }
        system_names_free(&names);
    }
    if (set->classes.count)
        qsort(set->classes.items, set->classes.count, sizeof *set->classes.items, system_compare);
    return good;
}

static int find_images(data_set *set)
{
    char path[PATH_ROOM];
    system_names names;
    size_t label, i;
    int split, good = 1;
    for (split = 0; split < SPLITS; split++) {
        for (label = 0; label < set->classes.count; label++) {
            snprintf(path, sizeof path, "%s/%s/%s", set->folder, split_names[split],
                     set->classes.items[label]);
            if (!system_list(&names, path)) continue;
            for (i = 0; good && i < names.count; i++)
                if (system_ends_in(names.items[i], ".npy"))
                    good = add_image(set, system_path(path, names.items[i]), split, (int)label);
            system_names_free(&names);
        }
    }
    return good;
}

/* ---- looking at one ---- */

static const char *type_name(const npy_header *h)
{
    switch (h->kind * 16 + h->item_size) {
    case 'f' * 16 + 2: return "float16";
    case 'f' * 16 + 4: return "float32";
    case 'f' * 16 + 8: return "float64";
    case 'u' * 16 + 1: return "uint8";
    case 'u' * 16 + 2: return "uint16";
    case 'u' * 16 + 4: return "uint32";
    case 'u' * 16 + 8: return "uint64";
    case 'i' * 16 + 1: return "int8";
    case 'i' * 16 + 2: return "int16";
    case 'i' * 16 + 4: return "int32";
    case 'i' * 16 + 8: return "int64";
    default: return "bool";
    }
}

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
    npy_header header;
    float *pixels = NULL;
    size_t height, width, at = 0;
    int d;
    if (!npy_read_header(&header, m->path, m->text) ||
        !npy_read_image(&pixels, &height, &width, m->path, m->text))
        return;
    snprintf(m->type, sizeof m->type, "%s", type_name(&header));
    for (d = 0; d < header.rank && at < sizeof m->shape; d++)
        at += (size_t)snprintf(m->shape + at, sizeof m->shape - at, "%s%llu", d ? "," : "",
                               (unsigned long long)header.shape[d]);
    look_at_pixels(m, pixels, height * width);
    m->readable = 1;
    free(pixels);
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
    size_t label;
    int split;
    printf("%-6s %-12s %8s  %-8s %-14s %12s %12s %12s %12s\n", "split", "class", "images", "type",
           "shape", "smallest", "largest", "mean", "deviation");
    for (split = 0; split < SPLITS; split++) {
        for (label = 0; label < set->classes.count; label++) {
            summary s = summarise(set, split, (int)label);
            if (!s.count) continue;
            printf("%-6s %-12s %8lu  ", split_names[split], set->classes.items[label],
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
    va_list values;
    set->problems++;
    if (++*listed == LISTED + 1) printf("  ... and more of the kind\n");
    if (*listed > LISTED) return;
    va_start(values, format);
    printf("  ");
    vprintf(format, values);
    printf("\n");
    va_end(values);
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
        for (label = 0; label < set->classes.count; label++)
            if (!summarise(set, split, (int)label).count)
                problem(set, &listed, "%s/%s: class '%s' has no images in this split", set->folder,
                        split_names[split], set->classes.items[label]);
    }
    if (set->classes.count < 2)
        problem(set, &listed, "%s: a classifier needs two classes or more, found %lu", set->folder,
                (unsigned long)set->classes.count);
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
    const int classes = (int)set->classes.count;
    size_t listed = 0;
    int a, b, which;
    for (a = 0; a < classes; a++)
        for (b = a + 1; b < classes; b++)
            for (which = 0; which < 3; which++)
                if (separates(set, a, b, which))
                    problem(
                        set, &listed,
                        "the %s alone tells '%s' from '%s'; were they made or scaled differently?",
                        names[which], set->classes.items[a], set->classes.items[b]);
}

static void close_set(data_set *set)
{
    size_t i;
    for (i = 0; i < set->count; i++) free(set->images[i].path);
    free(set->images);
    system_names_free(&set->classes);
}

static int check_set(data_set *set)
{
    int good = find_classes(set) && find_images(set);
    if (good && !set->count) {
        fprintf(stderr, "check_data: no images there, expected %s/train/CLASS/NAME.npy\n",
                set->folder);
        return 2;
    }
    if (good) {
        look_at_all(set);
        print_table(set);
        check_files(set);
        check_uniform(set);
        check_telltales(set);
        good = check_duplicates(set);
    }
    if (!good) {
        fprintf(stderr, "check_data: not enough memory for the list of images\n");
        return 2;
    }
    if (set->problems)
        printf("%lu images, %lu problems\n", (unsigned long)set->count,
               (unsigned long)set->problems);
    else
        printf("%lu images, nothing wrong\n", (unsigned long)set->count);
    return set->problems != 0;
}

int main(int count, char **arguments)
{
    data_set set;
    int status;
    memset(&set, 0, sizeof set);
    if (count != 2 || arguments[1][0] == '-' || strlen(arguments[1]) > PATH_ROOM / 2) {
        fprintf(stderr, "usage: check_data DATA    (DATA/train/CLASS/NAME.npy, val, test)\n");
        return 2;
    }
    set.folder = arguments[1];
    status = check_set(&set);
    close_set(&set);
    return status;
}
