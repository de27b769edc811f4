/* folders.h - which images a data set has: folders, classes, splits.
 *
 *     DATA/train/CLASS/NAME.npy   DATA/val/CLASS/NAME.npy   DATA/test/CLASS/NAME.npy
 *
 * The names of the folders in train are the classes, in sorted order; images are searched for in the
 * folders inside them too, as torchvision's ImageFolder does, and files whose names do not end like an
 * image's are counted and named. Without a folder `test` the files of `val` are shared out per class: of
 * its sorted names the first half stays, the second half is the test split.
 *
 * With shares (80/10/10) images that stand in DATA/train alone, or in DATA/CLASS, are dealt out to the
 * splits, class by class, in an order that is a hash of their names; images with the same pixels stay
 * together, so that none is trained on and tested with. The same files give the same splits everywhere.
 *
 * Functions return 1 on success; on failure 0 and a sentence in `error`, which must not be NULL.
 * Include system.h first, then lensnet.h. */
#ifndef FOLDERS_H
#define FOLDERS_H

#include "failure.h"
#include "picture.h"
#include "system.h"
#include "text.h"

#ifndef LENSNET_H
#error "folders.h: include lensnet.h first"
#endif

typedef struct dataset_file {
    char *path;
    int label;     /* the number of its class */
    uint64_t name; /* hash of CLASS/NAME.npy: what its random numbers hang on */
    float *pixels; /* once read, while the cache has room; NULL */
    size_t height, width;
    float pixel_scale; /* of those */
} dataset_file;

/* Another source of images than files, e.g. a simulator: image `index` of epoch `epoch` into memory
 * from malloc, and where `map` is not NULL, in the same piece of memory, a map of its size: what a
 * network is to find in it, pixel for pixel. Called by several threads at once, `thread` from 0. */
typedef int (*dataset_source)(float **pixels, float **map, size_t *height, size_t *width,
                              void *user, size_t index, uint64_t epoch, int thread,
                              lensnet_error *error);

/* What to do with an image that is not of the size, or of the pixel scale, that the network knows. */
typedef enum {
    DATASET_FIT_AUTO, /* where both pixel scales are known: cut, pad and resample it to the same sky */
    DATASET_FIT_CROP,   /* cut or pad it to the known size, taking an unknown scale for the same */
    DATASET_FIT_STRETCH /* leave it: the whole image becomes the network's input */
} dataset_fit_mode;

/* How images are found and read; all zero is the usual. */
typedef struct dataset_reading {
    size_t bands;           /* planes of an image; 0 or 1: grey */
    int stack;              /* 1: files may hold many images (N, H, W) */
    int lenient;            /* 1: a class, or a split, without images is no error */
    lensnet_mend_mode mend; /* of pixels that are not finite */
    dataset_fit_mode fit;
    double pixel_scale;  /* arc seconds, of images that do not say theirs; 0: unknown */
    const char *classes; /* "FOLDER=CLASS,FOLDER=CLASS": classes of folders by other names; NULL */
    double share[3];     /* of train, val and test in images that stand in none; all 0: no such */
} dataset_reading;

/* Files that were passed over because their names are not those of images. */
typedef struct dataset_left_out {
    size_t count;
    char first[256]; /* path of the first */
} dataset_left_out;

struct dataset_image;
struct dataset_team;

/* One of train, val and test. */
typedef struct dataset_split {
    dataset_file *files;
    size_t count, capacity;
    dataset_reading reading;
    dataset_left_out left_out;
    size_t cache_left;     /* bytes that may still be kept */
    dataset_source source; /* of the images without a path; NULL: there are none */
    void *user;            /* handed to `source` */
    int fresh;             /* 1: `source` gives other images in every epoch, so none is kept */
    /* Sees each image in its order, with what the network thinks of it (NULL where it cannot), before its
     * probabilities are told (predict.h); NULL: nobody */
    void (*see)(void *user, size_t index, const struct dataset_image *image,
                const lensnet_prediction *prediction);
    void *seer;        /* handed to `see` */
    uint64_t contents; /* dataset_contents of the files that dataset_check has read, added up */
    const struct dataset_team *team; /* who else classifies these images; NULL: nobody */
} dataset_split;

/* Processes that share out the images of a split (predict.h), all of which hear the result. */
typedef struct dataset_team {
    /* This process's share of `count` images. */
    void (*share)(size_t *first, size_t *end, size_t count);
    /* Says whether it is done, and hears whether all are; 0 and the sentence of one who is not. */
    int (*meet)(int good, int *stop, lensnet_error *error);
    /* Of `count` items of `bytes` each every process has its share; then all have all. */
    void (*gather)(void *items, size_t bytes, size_t count);
} dataset_team;

typedef enum { DATASET_TRAIN, DATASET_VAL, DATASET_TEST, DATASET_SPLITS } dataset_kind;

static const char *const dataset_kind_names[DATASET_SPLITS] = {"train", "val", "test"};

typedef struct dataset {
    system_names classes;
    dataset_split split[DATASET_SPLITS];
    int test_from_val; /* 1: there was no folder `test` */
    char note[512];    /* how the splits came about, where it is not by folders; else "" */
} dataset;

static int dataset_fail(lensnet_error *error, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    (void)failure_list(error, LENSNET_ERROR_FILE, format, values);
    va_end(values);
    return 0;
}

static int dataset_no_memory(lensnet_error *error)
{
    return dataset_fail(error, "no memory for the list of images");
}

static void dataset_split_free(dataset_split *split)
{
    size_t i;
    for (i = 0; i < split->count; i++) {
        free(split->files[i].path);
        free(split->files[i].pixels);
    }
    free(split->files);
    memset(split, 0, sizeof *split);
}

NPY_API void dataset_close(dataset *d)
{
    int k;
    for (k = 0; k < DATASET_SPLITS; k++) dataset_split_free(&d->split[k]);
    system_names_free(&d->classes);
    memset(d, 0, sizeof *d);
}

/* ---- the list of files ---- */

/* Appends an image; takes over `path`, NULL for one from a source. */
NPY_API int dataset_add(dataset_split *split, char *path, int label, uint64_t name,
                        lensnet_error *error)
{
    dataset_file *file;
    if (split->count == split->capacity) {
        size_t capacity = split->capacity ? 2 * split->capacity : 64;
        file = (dataset_file *)realloc(split->files, capacity * sizeof *file);
        if (!file) {
            free(path);
            return dataset_no_memory(error);
        }
        split->files = file;
        split->capacity = capacity;
    }
    file = &split->files[split->count++];
    memset(file, 0, sizeof *file);
    file->path = path;
    file->label = label;
    file->name = name;
    return 1;
}

/* ---- files ---- */

/* The same for a path that is NULL for want of memory. */
static int dataset_add_path(dataset_split *split, char *path, int label, uint64_t name,
                            lensnet_error *error)
{
    return path ? dataset_add(split, path, label, name, error) : dataset_no_memory(error);
}

/* Does the name end like that of an image? */
NPY_API int dataset_is_image(const char *name)
{
    static const char *const endings[] = {".npy", ".npz", ".fits", ".fit", ".fts"};
    size_t length = strlen(name), i, k;
    for (i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t tail = strlen(endings[i]);
        if (length <= tail) continue;
        for (k = 0; k < tail; k++) {
            char c = name[length - tail + k];
            if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != endings[i][k]) break;
        }
        if (k == tail) return 1;
    }
    return 0;
}

static void dataset_leave_out(dataset_left_out *left_out, const char *path)
{
    if (!left_out->count++) snprintf(left_out->first, sizeof left_out->first, "%s", path);
}

/* Adds the image at `path`, or each image of a stack by its own name. Takes over neither text. */
static int dataset_add_images(dataset_split *split, const char *path, const char *key, int label,
                              lensnet_error *error)
{
    size_t count = 1, k, room = strlen(path) + strlen(key) + 48;
    char *numbered, unit[16];
    int good = 1;
    if (split->reading.stack && !picture_count(&count, path, error->text)) {
        error->code = LENSNET_ERROR_FORMAT;
        return 0;
    }
    if (count == 1)
        return dataset_add_path(split, system_copy(path), label, lensnet_random_stream(key), error);
    numbered = (char *)malloc(room);
    if (!numbered) return dataset_no_memory(error);
    picture_unit(unit, path);
    for (k = 0; good && k < count; k++) {
        uint64_t name;
        snprintf(numbered, room, "%s[%lu]", key, (unsigned long)k);
        name = lensnet_random_stream(numbered);
        snprintf(numbered, room, "%s%s[%lu]", path, unit, (unsigned long)k);
        good = dataset_add_path(split, system_copy(numbered), label, name, error);
    }
    free(numbered);
    return good;
}

enum { DATASET_DEPTH = 16 }; /* folders inside folders */

/* Adds the images in a folder, sorted, then those in the folders inside it, as ImageFolder does. `key` is
 * CLASS or CLASS/SUBFOLDER. */
static int dataset_walk(dataset_split *split, const char *folder, const char *key, int label,
                        int depth, lensnet_error *error)
{
    system_names names;
    size_t i;
    int good, inside;
    if (depth == DATASET_DEPTH) return dataset_fail(error, "%s: folders too deep inside", folder);
    if (!system_list(&names, folder))
        return dataset_fail(error, "%s: the folder cannot be read: %s", folder, strerror(errno));
    good = 1;
    for (inside = 0; inside < 2; inside++)
        for (i = 0; good && i < names.count; i++) {
            char *path, *name;
            if (inside == dataset_is_image(names.items[i])) continue;
            path = system_path(folder, names.items[i]);
            name = system_path(key, names.items[i]);
            if (!path || !name)
                good = dataset_no_memory(error);
            else if (!inside)
                good = dataset_add_images(split, path, name, label, error);
            else if (system_is_folder(path))
                good = dataset_walk(split, path, name, label, depth + 1, error);
            else
                dataset_leave_out(&split->left_out, path);
            free(path);
            free(name);
        }
    system_names_free(&names);
    return good;
}

/* Adds the images of one class's folder. */
static int dataset_list_class(dataset_split *split, const char *folder, const char *class_name,
                              int label, lensnet_error *error)
{
    const size_t before = split->count, others = split->left_out.count;
    char *path = system_path(folder, class_name);
    int good =
        path ? dataset_walk(split, path, class_name, label, 0, error) : dataset_no_memory(error);
    if (good && split->count == before && !split->reading.lenient)
        good = dataset_fail(
            error,
            "%s: the folder of class '%s' holds no images (.npy, .npz, .fits; %zu other "
            "files); put images there, or remove the class from every split",
            path, class_name, split->left_out.count - others);
    free(path);
    return good;
}

/* ---- classes ---- */

/* The class of a folder: its name, or what reading->classes says. In new memory, NULL without. */
static char *dataset_class_of(const dataset_reading *reading, const char *folder)
{
    const char *at = reading->classes;
    size_t length = strlen(folder);
    while (at && *at) {
        size_t entry = strcspn(at, ",");
        if (entry > length + 1 && !strncmp(at, folder, length) && at[length] == '=') {
            char *name = (char *)malloc(entry - length);
            if (!name) return NULL;
            memcpy(name, at + length + 1, entry - length - 1);
            name[entry - length - 1] = 0;
            return name;
        }
        at += entry + (at[entry] == ',');
    }
    return system_copy(folder);
}

static int dataset_find_class(const system_names *classes, const char *name)
{
    size_t i;
    for (i = 0; i < classes->count; i++)
        if (strcmp(classes->items[i], name) == 0) return (int)i;
    return -1;
}

/* The names of the folders in `folder`. */
static int dataset_subfolders(system_names *found, const char *folder, lensnet_error *error)
{
    system_names names;
    size_t i;
    int good = 1;
    memset(found, 0, sizeof *found);
    if (!system_list(&names, folder))
        return dataset_fail(error, "%s: the folder cannot be read: %s", folder, strerror(errno));
    for (i = 0; good && i < names.count; i++) {
        char *path = system_path(folder, names.items[i]);
        if (!path)
            good = dataset_no_memory(error);
        else if (system_is_folder(path))
            good = system_names_add(found, system_copy(names.items[i])) || dataset_no_memory(error);
        free(path);
    }
    system_names_free(&names);
    if (!good) system_names_free(found);
    return good;
}

/* The classes of the folders in `folder`, sorted. */
static int dataset_find_classes(system_names *classes, const char *folder,
                                const dataset_reading *reading, lensnet_error *error)
{
    system_names found;
    size_t i;
    int good = dataset_subfolders(&found, folder, error);
    memset(classes, 0, sizeof *classes);
    for (i = 0; good && i < found.count; i++) {
        char *name = dataset_class_of(reading, found.items[i]);
        if (name && dataset_find_class(classes, name) >= 0)
            free(name);
        else
            good = system_names_add(classes, name) || dataset_no_memory(error);
    }
    system_names_free(&found);
    if (classes->count)
        qsort(classes->items, classes->count, sizeof *classes->items, system_compare);
    return good;
}

static int dataset_refuse_class(const char *folder, const char *name, const system_names *classes,
                                lensnet_error *error)
{
    char list[256] = "";
    size_t k;
    for (k = 0; k < classes->count; k++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s'%s'", k ? ", " : "",
                 classes->items[k]);
    return dataset_fail(
        error,
        "%s/%s: '%s' is not one of the classes %s; rename or remove the folder, or say "
        "which one it is: --classes %s=%s",
        folder, name, name, list, name, classes->count ? classes->items[0] : "CLASS");
}

/* Notes the files that stand beside the folders of the classes. */
static void dataset_note_files(dataset_left_out *left_out, const char *folder)
{
    system_names names;
    size_t i;
    if (!system_list(&names, folder)) return;
    for (i = 0; i < names.count; i++) {
        char *path = system_path(folder, names.items[i]);
        if (path && !system_is_folder(path)) dataset_leave_out(left_out, path);
        free(path);
    }
    system_names_free(&names);
}

/* Lists FOLDER/CLASS/NAME for the classes given, in their order. Another folder in there is an
 * error; so is a class without one if `every_class`. The split must be empty; its reading holds. */
NPY_API int dataset_list_split(dataset_split *split, const char *folder,
                               const system_names *classes, int every_class, lensnet_error *error)
{
    system_names found;
    int *label = NULL;
    size_t i, k;
    int good = dataset_subfolders(&found, folder, error);
    if (good && !(label = (int *)calloc(found.count + 1, sizeof *label)))
        good = dataset_no_memory(error);
    for (i = 0; good && i < found.count; i++) {
        char *name = dataset_class_of(&split->reading, found.items[i]);
        if (!name) good = dataset_no_memory(error);
        if (good && (label[i] = dataset_find_class(classes, name)) < 0)
            good = dataset_refuse_class(folder, found.items[i], classes, error);
        free(name);
    }
    for (k = 0; good && k < classes->count; k++) {
        size_t folders = 0;
        for (i = 0; good && i < found.count; i++) {
            if (label[i] != (int)k) continue;
            good = dataset_list_class(split, folder, found.items[i], (int)k, error);
            folders++;
        }
        if (good && !folders && every_class)
            good = dataset_fail(error, "%s: the class '%s' is missing; put its images in %s/%s",
                                folder, classes->items[k], folder, classes->items[k]);
    }
    free(label);
    system_names_free(&found);
    if (good) dataset_note_files(&split->left_out, folder);
    if (good && !split->count && !split->reading.lenient)
        good =
            dataset_fail(error, "%s: no images there; expected %s/CLASS/NAME.npy", folder, folder);
    return good;
}

static size_t dataset_class_size(const dataset_split *split, int label)
{
    size_t i, n = 0;
    for (i = 0; i < split->count; i++) n += split->files[i].label == label;
    return n;
}

/* Moves the second half of each class of `val` (the smaller half if odd) to `test`. Files stand in
 * order of class and name, and stay so. */
NPY_API int dataset_halve(dataset_split *test, dataset_split *val, lensnet_error *error)
{
    size_t first = 0, kept = 0;
    while (first < val->count) {
        int label = val->files[first].label;
        size_t i, n = dataset_class_size(val, label), stays = n - n / 2;
        for (i = first; i < first + n; i++) {
            dataset_file file = val->files[i];
            if (i < first + stays) {
                val->files[kept++] = file;
                continue;
            }
            val->files[i].path = NULL;
            if (!dataset_add(test, file.path, file.label, file.name, error)) return 0;
        }
        first += n;
    }
    val->count = kept;
    return 1;
}

/* ---- layouts ---- */

/* A folder of DATA that is meant for one of the splits but spelled otherwise; "" if there is none. */
static void dataset_other_spelling(char *name, size_t room, const char *data, dataset_kind kind)
{
    system_names found;
    lensnet_error ignored;
    size_t i, k;
    name[0] = 0;
    if (!dataset_subfolders(&found, data, &ignored)) return;
    for (i = 0; !name[0] && i < found.count; i++) {
        char lower[8] = "";
        for (k = 0; k < sizeof lower - 1 && found.items[i][k]; k++) {
            char c = found.items[i][k];
            lower[k] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
        }
        if (!strcmp(found.items[i], dataset_kind_names[kind])) continue;
        if (!strncmp(lower, dataset_kind_names[kind], strlen(dataset_kind_names[kind])) ||
            (kind == DATASET_VAL && (!strncmp(lower, "dev", 3) || !strncmp(lower, "eval", 4))))
            snprintf(name, room, "%s", found.items[i]);
    }
    system_names_free(&found);
}

/* Says that a split's folder is missing, and what may be done. */
static int dataset_refuse_layout(const char *data, dataset_kind kind, lensnet_error *error)
{
    const char *name = dataset_kind_names[kind];
    char other[64];
    dataset_other_spelling(other, sizeof other, data, kind);
    if (other[0])
        return dataset_fail(
            error, "%s: there is no folder '%s' in it, but one named '%s'; rename it to %s", data,
            name, other, name);
    return dataset_fail(
        error,
        "%s: there is no folder '%s' in it; expected %s/%s/CLASS/NAME.npy, or let --split "
        "80/10/10 share out what is there",
        data, name, data, name);
}

/* Are the folders of a flat set not classes but splits spelled otherwise, as Train and Test? Then 0. */
static int dataset_refuse_spelling(const char *data, dataset_kind wanted, lensnet_error *error)
{
    char train[64], val[64], test[64];
    dataset_other_spelling(train, sizeof train, data, DATASET_TRAIN);
    dataset_other_spelling(val, sizeof val, data, DATASET_VAL);
    dataset_other_spelling(test, sizeof test, data, DATASET_TEST);
    return !train[0] || !(val[0] || test[0]) || dataset_refuse_layout(data, wanted, error);
}

static int dataset_has(const char *data, dataset_kind kind)
{
    char *path = system_path(data, dataset_kind_names[kind]);
    int has = path && system_is_folder(path);
    free(path);
    return has;
}

/* Lists DATA/train, DATA/val or DATA/test. */
static int dataset_list_kind(dataset *d, const char *data, dataset_kind kind, int every_class,
                             lensnet_error *error)
{
    char *path = system_path(data, dataset_kind_names[kind]);
    int good = path ? dataset_list_split(&d->split[kind], path, &d->classes, every_class, error)
                    : dataset_no_memory(error);
    free(path);
    return good;
}

/* Lists DATA/val and DATA/test for the classes given; test comes from val if it has no folder. */
NPY_API int dataset_list_held_out(dataset *d, const char *data, int every_class,
                                  lensnet_error *error)
{
    char other[64];
    d->test_from_val = !dataset_has(data, DATASET_TEST);
    if (!dataset_has(data, DATASET_VAL)) return dataset_refuse_layout(data, DATASET_VAL, error);
    if (!dataset_list_kind(d, data, DATASET_VAL, every_class, error)) return 0;
    if (!d->test_from_val) return dataset_list_kind(d, data, DATASET_TEST, every_class, error);
    dataset_other_spelling(other, sizeof other, data, DATASET_TEST);
    snprintf(
        d->note, sizeof d->note,
        "%s has no folder 'test'%s%s%s: of each class in %s/val the first half is the validation "
        "split, the second half the test split",
        data, other[0] ? " ('" : "", other, other[0] ? "' is not read)" : "", data);
    return dataset_halve(&d->split[DATASET_TEST], &d->split[DATASET_VAL], error);
}

/* Every class needs two training images, one to validate and one to test. */
static int dataset_check_counts(const dataset *d, const char *data, lensnet_error *error)
{
    static const size_t least[DATASET_SPLITS] = {2, 1, 1};
    size_t k;
    int s;
    for (k = 0; k < d->classes.count; k++)
        for (s = 0; s < DATASET_SPLITS; s++) {
            size_t n = dataset_class_size(&d->split[s], (int)k);
            if (n >= least[s]) continue;
            if (s == DATASET_TEST && d->test_from_val)
                return dataset_fail(error,
                                    "%s/val/%s: holds 1 image, but the test split is taken from "
                                    "it too; put 2 or more there, or make a folder %s/test",
                                    data, d->classes.items[k], data);
            return dataset_fail(error,
                                "%s/%s/%s: holds %zu image%s, but %zu or more are needed; add "
                                "images",
                                data, dataset_kind_names[s], d->classes.items[k], n,
                                n == 1 ? "" : "s", least[s]);
        }
    return 1;
}

/* An image to be shared out: images of the same pixels have one rank, that of their smallest name. */
typedef struct dataset_ticket {
    uint64_t pixels, name, rank;
    size_t index;
    int label, kind;
} dataset_ticket;

static int dataset_by_pixels(const void *a, const void *b)
{
    const dataset_ticket *x = (const dataset_ticket *)a, *y = (const dataset_ticket *)b;
    if (x->pixels != y->pixels) return x->pixels < y->pixels ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

static int dataset_by_rank(const void *a, const void *b)
{
    const dataset_ticket *x = (const dataset_ticket *)a, *y = (const dataset_ticket *)b;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int dataset_by_index(const void *a, const void *b)
{
    const dataset_ticket *x = (const dataset_ticket *)a, *y = (const dataset_ticket *)b;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* A hash of the pixels' bits and the image's size. */
static int dataset_hash_pixels(uint64_t *hash, const dataset_split *split, size_t index,
                               lensnet_error *error)
{
    picture p;
    size_t i, count;
    if (!picture_read(&p, split->files[index].path, 0, error->text)) {
        error->code = LENSNET_ERROR_FORMAT;
        return 0;
    }
    count = p.bands * p.height * p.width;
    *hash = lensnet_random_bits(p.height, p.width, count);
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &p.pixels[i], sizeof bits);
        *hash = (*hash ^ bits) * 0x9E3779B97F4A7C15u;
        *hash ^= *hash >> 29;
    }
    picture_free(&p);
    return 1;
}

static int dataset_tickets(dataset_ticket *tickets, const dataset_split *split,
                           lensnet_error *error)
{
    long i, failed = -1;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 16)
#endif
    for (i = 0; i < (long)split->count; i++) {
        lensnet_error mine;
        dataset_ticket *t = &tickets[i];
        t->index = (size_t)i;
        t->label = split->files[i].label;
        t->name = split->files[i].name;
        if (dataset_hash_pixels(&t->pixels, split, (size_t)i, &mine)) continue;
#ifdef _OPENMP
#pragma omp critical(dataset_failure)
#endif
        if (failed < 0 || i < failed) {
            failed = i;
            *error = mine;
        }
    }
    return failed < 0;
}

/* Gives each ticket its split: class by class the shares of the images in order of their ranks, so that
 * nothing but names and pixels decides; equal pixels, in two classes even, stay together. */
static void dataset_deal(dataset_ticket *tickets, size_t count, const double share[3])
{
    const double whole = share[0] + share[1] + share[2];
    size_t i, first = 0;
    qsort(tickets, count, sizeof *tickets, dataset_by_pixels);
    for (i = 0; i < count; i++)
        tickets[i].rank =
            i && tickets[i].pixels == tickets[i - 1].pixels ? tickets[i - 1].rank : tickets[i].name;
    qsort(tickets, count, sizeof *tickets, dataset_by_rank);
    while (first < count) {
        size_t end = first, n, train, val;
        while (end < count && tickets[end].label == tickets[first].label) end++;
        n = end - first;
        train = (size_t)((double)n * share[0] / whole + 0.5);
        val = (size_t)((double)n * (share[0] + share[1]) / whole + 0.5);
        for (i = first; i < end; i++)
            tickets[i].kind = i > first && tickets[i].pixels == tickets[i - 1].pixels
                                  ? tickets[i - 1].kind
                              : i - first < train ? DATASET_TRAIN
                              : i - first < val   ? DATASET_VAL
                                                  : DATASET_TEST;
        first = end;
    }
    qsort(tickets, count, sizeof *tickets, dataset_by_pixels);
    for (i = 1; i < count; i++)
        if (tickets[i].pixels == tickets[i - 1].pixels) tickets[i].kind = tickets[i - 1].kind;
    qsort(tickets, count, sizeof *tickets, dataset_by_index);
}

/* Shares the images of `pool` out to the splits. */
static int dataset_share_out(dataset *d, dataset_split *pool, const double share[3],
                             lensnet_error *error)
{
    dataset_ticket *tickets = (dataset_ticket *)calloc(pool->count + 1, sizeof *tickets);
    size_t i;
    int good = tickets ? dataset_tickets(tickets, pool, error) : dataset_no_memory(error);
    if (good) dataset_deal(tickets, pool->count, share);
    for (i = 0; good && i < pool->count; i++) {
        dataset_file *file = &pool->files[i];
        good = dataset_add(&d->split[tickets[i].kind], file->path, file->label, file->name, error);
        file->path = NULL;
    }
    free(tickets);
    return good;
}

/* Opens DATA by shares: what has no folder of its own is taken out of DATA/train, or if there is none of
 * DATA's own class folders. */
static int dataset_open_shared(dataset *d, const char *data, lensnet_error *error)
{
    const dataset_reading *reading = &d->split[DATASET_TRAIN].reading;
    const int has_train = dataset_has(data, DATASET_TRAIN);
    double share[3];
    dataset_split pool;
    char *folder = has_train ? system_path(data, "train") : system_copy(data);
    int kind, missing = 0, good = folder != NULL || dataset_no_memory(error);
    memset(&pool, 0, sizeof pool);
    pool.reading = *reading;
    memcpy(share, reading->share, sizeof share);
    for (kind = DATASET_VAL; kind <= DATASET_TEST; kind++) {
        if (dataset_has(data, (dataset_kind)kind)) share[kind] = 0;
        missing += !dataset_has(data, (dataset_kind)kind);
    }
    if (good && !has_train && missing < 2) good = dataset_refuse_layout(data, DATASET_TRAIN, error);
    if (good && !has_train) good = dataset_refuse_spelling(data, DATASET_TRAIN, error);
    for (kind = DATASET_VAL; good && has_train && kind <= DATASET_TEST; kind++) {
        char other[64] = "";
        if (!dataset_has(data, (dataset_kind)kind))
            dataset_other_spelling(other, sizeof other, data, (dataset_kind)kind);
        if (other[0]) good = dataset_refuse_layout(data, (dataset_kind)kind, error);
    }
    if (good && !missing)
        good =
            dataset_fail(error, "%s: it has folders train, val and test; leave --split out", data);
    good = good && dataset_find_classes(&d->classes, folder, reading, error) &&
           dataset_list_split(&pool, folder, &d->classes, 1, error) &&
           dataset_share_out(d, &pool, share, error);
    for (kind = DATASET_VAL; good && kind <= DATASET_TEST; kind++)
        if (dataset_has(data, (dataset_kind)kind))
            good = dataset_list_kind(d, data, (dataset_kind)kind, 1, error);
    d->split[DATASET_TRAIN].left_out = pool.left_out;
    snprintf(d->note, sizeof d->note,
             "the %zu images in %s were shared out %g/%g/%g by a hash of their names, equal images "
             "together",
             pool.count, folder ? folder : data, 100 * share[0] / (share[0] + share[1] + share[2]),
             100 * share[1] / (share[0] + share[1] + share[2]),
             100 * share[2] / (share[0] + share[1] + share[2]));
    dataset_split_free(&pool);
    free(folder);
    return good;
}

static int dataset_open_folders(dataset *d, const char *data, lensnet_error *error)
{
    const dataset_reading *reading = &d->split[DATASET_TRAIN].reading;
    char *train = system_path(data, "train");
    int good = train != NULL || dataset_no_memory(error);
    if (good && !dataset_has(data, DATASET_TRAIN))
        good = dataset_refuse_layout(data, DATASET_TRAIN, error);
    good = good && dataset_find_classes(&d->classes, train, reading, error);
    if (good && d->classes.count < 2)
        good = dataset_fail(error,
                            "%s: has %zu class folder%s, but a classifier needs two or more; "
                            "expected %s/CLASS/NAME.npy",
                            train, d->classes.count, d->classes.count == 1 ? "" : "s", train);
    good = good && dataset_list_split(&d->split[DATASET_TRAIN], train, &d->classes, 1, error) &&
           dataset_list_held_out(d, data, 1, error);
    free(train);
    return good;
}

/* Lists all splits of DATA, and takes the classes from the names in DATA/train (with reading->share of
 * what stands there). reading NULL: the usual. */
NPY_API int dataset_open_as(dataset *d, const char *data, const dataset_reading *reading,
                            lensnet_error *error)
{
    int kind, good = 1;
    memset(d, 0, sizeof *d);
    for (kind = 0; reading && kind < DATASET_SPLITS; kind++) d->split[kind].reading = *reading;
    if (!system_is_folder(data) && system_exists(data))
        good =
            dataset_fail(error, "%s: it is a file, and a folder of images is expected here", data);
    else if (!system_is_folder(data))
        good = dataset_fail(error,
                            "%s: there is no such folder; expected %s/train/CLASS/NAME.npy and "
                            "%s/val/CLASS/NAME.npy",
                            data, data, data);
    good = good && (reading && reading->share[0] > 0 ? dataset_open_shared(d, data, error)
                                                     : dataset_open_folders(d, data, error));
    good = good && dataset_check_counts(d, data, error);
    if (!good) dataset_close(d);
    return good;
}

NPY_API int dataset_open(dataset *d, const char *data, lensnet_error *error)
{
    return dataset_open_as(d, data, NULL, error);
}

/* Takes a network's labels for the classes and lists one split to measure it on: the folder of that
 * kind; without `test` half of val, as in training; and where DATA has none of the three, the classes'
 * folders in DATA itself. A class may be absent. d->note says what it was, where it is not the folder. */
NPY_API int dataset_open_split(dataset *d, dataset_split **split, const char *data,
                               dataset_kind kind, const char *const *labels, size_t count,
                               const dataset_reading *reading, lensnet_error *error)
{
    size_t k;
    int s, any = 0, good = 1;
    memset(d, 0, sizeof *d);
    *split = &d->split[kind];
    for (s = 0; s < DATASET_SPLITS; s++) {
        if (reading) d->split[s].reading = *reading;
        any |= dataset_has(data, (dataset_kind)s);
    }
    for (k = 0; good && k < count; k++)
        good = system_names_add(&d->classes, system_copy(labels[k])) || dataset_no_memory(error);
    if (good && !any && !dataset_refuse_spelling(data, kind, error)) {
        good = 0;
    } else if (good && !any) {
        good = dataset_list_split(*split, data, &d->classes, 0, error);
        snprintf(d->note, sizeof d->note,
                 "%s has no folders train, val, test: all %zu images in it are measured", data,
                 (*split)->count);
    } else if (good &&
               (kind == DATASET_TRAIN || (kind == DATASET_TEST && dataset_has(data, kind)))) {
        good = dataset_has(data, kind) ? dataset_list_kind(d, data, kind, 0, error)
                                       : dataset_refuse_layout(data, kind, error);
    } else if (good) {
        good = dataset_list_held_out(d, data, 0, error);
    }
    if (good && !(*split)->count)
        good = dataset_fail(error, "%s: no images are left for the split '%s'", data,
                            dataset_kind_names[kind]);
    if (!good) dataset_close(d);
    return good;
}

/* Reads shares such as 80/10/10. */
NPY_API int dataset_parse_share(double share[3], const char *text)
{
    char *end;
    double sum = 0;
    int i;
    for (i = 0; i < 3; i++) {
        share[i] = strtod(text, &end);
        if (end == text || *end != (i < 2 ? '/' : 0) || !(share[i] >= 0 && share[i] < 1e6))
            return 0;
        text = end + 1;
        sum += share[i];
    }
    return share[0] > 0 && share[1] > 0 && sum > 0;
}

/* Prints how the splits came about and what was passed over, a line each, where there is such a thing. */
NPY_API void dataset_print_notes(const dataset *d, FILE *file)
{
    int kind;
    if (d->note[0]) {
        fputs("note: ", file);
        text_print(file, d->note, TEXT_TERMINAL);
        fputc('\n', file);
    }
    for (kind = 0; kind < DATASET_SPLITS; kind++) {
        const dataset_left_out *left_out = &d->split[kind].left_out;
        if (!left_out->count) continue;
        fprintf(file, "note: %zu file%s passed over, not named like an image (.npy, .npz, .fits): ",
                left_out->count, left_out->count == 1 ? " was" : "s were");
        text_print(file, left_out->first, TEXT_TERMINAL);
        fputs(left_out->count > 1 ? " and others\n" : "\n", file);
    }
}

/* Gives the classes the order of `labels`, which are the same names: 1. If they are not: 0. */
NPY_API int dataset_relabel(dataset *d, const char *const *labels, size_t count)
{
    char *sorted[1024];
    int place[1024];
    size_t i, k;
    int s;
    if (count != d->classes.count || count > 1024) return 0;
    for (k = 0; k < count; k++) {
        int found = dataset_find_class(&d->classes, labels[k]);
        if (found < 0) return 0;
        sorted[k] = d->classes.items[found];
        place[found] = (int)k;
    }
    for (k = 0; k < count; k++) d->classes.items[k] = sorted[k];
    for (s = 0; s < DATASET_SPLITS; s++)
        for (i = 0; i < d->split[s].count; i++)
            d->split[s].files[i].label = place[d->split[s].files[i].label];
    return 1;
}

/* Keeps the first `most` files of each class. */
NPY_API void dataset_limit(dataset_split *split, size_t most)
{
    size_t i, kept = 0, in_class = 0;
    for (i = 0; i < split->count; i++) {
        in_class = i > 0 && split->files[i].label == split->files[i - 1].label ? in_class + 1 : 0;
        if (in_class < most) {
            split->files[kept++] = split->files[i];
        } else {
            free(split->files[i].path);
            free(split->files[i].pixels);
        }
    }
    split->count = kept;
}

/* A number that changes when a file is added, removed, renamed or moved to another class. */
NPY_API uint64_t dataset_fingerprint(const dataset *d)
{
    uint64_t sum = 0;
    size_t i;
    int s;
    for (s = 0; s < DATASET_SPLITS; s++)
        for (i = 0; i < d->split[s].count; i++)
            sum += lensnet_random_bits(d->split[s].files[i].name, (uint64_t)s,
                                       (uint64_t)d->split[s].files[i].label);
    return sum;
}

#endif
