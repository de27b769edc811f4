/* dataset.h - folders of .npy images as batches for a network.
 *
 *     DATA/train/CLASS/NAME.npy   DATA/val/CLASS/NAME.npy   DATA/test/CLASS/NAME.npy
 *
 * The names of the folders in train are the classes, in sorted order. Without a folder `test` the
 * files of `val` are shared out per class: of its sorted names the first half stays, the second half
 * is the test split.
 *
 * Memory is bounded: the names are kept, the pixels of an image are read when a batch wants them (by
 * all threads at once, each its own image) and stay only as far as a cache of a given size reaches.
 * The operating system is told a batch ahead which files come next. Everything random is a function
 * of (seed, epoch, name of the file), so a training run can go on at any step.
 *
 * Functions return 1 on success; on failure 0 and a sentence in `error`, which must not be NULL.
 * Include system.h first, then lensnet.h. */
#ifndef DATASET_H
#define DATASET_H

#include "dense.h"
#include "npy.h"
#include "system.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#ifndef LENSNET_H
#error "dataset.h: include lensnet.h first"
#endif

typedef struct dataset_file {
    char *path;
    int label;     /* the number of its class */
    uint64_t name; /* hash of CLASS/NAME.npy: what its random numbers hang on */
    float *pixels; /* once read, while the cache has room; NULL */
    size_t height, width;
} dataset_file;

/* Another source of images than files, e.g. a simulator: image `index` of epoch `epoch` into memory
 * from malloc, and where `map` is not NULL, in the same piece of memory, a map of its size: what a
 * network is to find in it, pixel for pixel. Called by several threads at once, `thread` from 0. */
typedef int (*dataset_source)(float **pixels, float **map, size_t *height, size_t *width,
                              void *user, size_t index, uint64_t epoch, int thread,
                              lensnet_error *error);

/* One of train, val and test. */
typedef struct dataset_split {
    dataset_file *files;
    size_t count, capacity;
    size_t cache_left;     /* bytes that may still be kept */
    dataset_source source; /* NULL: the files' paths are read */
    void *user;            /* handed to `source` */
    int fresh;             /* 1: `source` gives other images in every epoch, so none is kept */
} dataset_split;

typedef enum { DATASET_TRAIN, DATASET_VAL, DATASET_TEST, DATASET_SPLITS } dataset_kind;

static const char *const dataset_kind_names[DATASET_SPLITS] = {"train", "val", "test"};

typedef struct dataset {
    system_names classes;
    dataset_split split[DATASET_SPLITS];
    int test_from_val; /* 1: there was no folder `test` */
} dataset;

static int dataset_fail(lensnet_error *error, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(error->text, sizeof error->text, format, values);
    va_end(values);
    error->code = LENSNET_ERROR_FILE;
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

/* The same for a path that is NULL for want of memory. */
static int dataset_add_path(dataset_split *split, char *path, int label, uint64_t name,
                            lensnet_error *error)
{
    return path ? dataset_add(split, path, label, name, error) : dataset_no_memory(error);
}

/* Adds the .npy files of one class's folder, sorted. */
static int dataset_list_class(dataset_split *split, const char *folder, const char *class_name,
                              int label, lensnet_error *error)
{
    system_names names;
    char *path = system_path(folder, class_name);
    size_t i, found = 0;
    int good = path != NULL || dataset_no_memory(error);
    memset(&names, 0, sizeof names);
    if (good && !system_list(&names, path))
        good = dataset_fail(error, "%s: the folder cannot be read: %s", path, strerror(errno));
    for (i = 0; good && i < names.count; i++) {
        char *key;
        if (!system_ends_in(names.items[i], ".npy")) continue;
        key = system_path(class_name, names.items[i]);
        good = key ? dataset_add_path(split, system_path(path, names.items[i]), label,
                                      lensnet_random_stream(key), error)
                   : dataset_no_memory(error);
        free(key);
        found++;
    }
    if (good && !found)
        good = dataset_fail(
            error,
            "%s: the folder of class '%s' holds no .npy files (%zu others); put images "
            "there, or remove the class from every split",
            path, class_name, names.count);
    system_names_free(&names);
    free(path);
    return good;
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

/* Lists FOLDER/CLASS/NAME.npy for the classes given, in their order. Another folder in there is an
 * error; so is a class without one if `every_class`. The split must be empty. */
NPY_API int dataset_list_split(dataset_split *split, const char *folder,
                               const system_names *classes, int every_class, lensnet_error *error)
{
    system_names found;
    size_t i;
    int good = dataset_subfolders(&found, folder, error);
    for (i = 0; good && i < found.count; i++)
        if (dataset_find_class(classes, found.items[i]) < 0) {
            char list[256] = "";
            size_t k;
            for (k = 0; k < classes->count; k++)
                snprintf(list + strlen(list), sizeof list - strlen(list), "%s'%s'", k ? ", " : "",
                         classes->items[k]);
            good = dataset_fail(error,
                                "%s/%s: '%s' is not one of the classes %s; rename or remove the "
                                "folder",
                                folder, found.items[i], found.items[i], list);
        }
    for (i = 0; good && i < classes->count; i++) {
        if (dataset_find_class(&found, classes->items[i]) >= 0)
            good = dataset_list_class(split, folder, classes->items[i], (int)i, error);
        else if (every_class)
            good = dataset_fail(error, "%s: the class '%s' is missing; put its images in %s/%s",
                                folder, classes->items[i], folder, classes->items[i]);
    }
    system_names_free(&found);
    if (good && !split->count)
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

/* Lists DATA/val and DATA/test for the classes given; test comes from val if it has no folder. */
NPY_API int dataset_list_held_out(dataset *d, const char *data, int every_class,
                                  lensnet_error *error)
{
    char *val = system_path(data, "val"), *test = system_path(data, "test");
    int good = (val && test) || dataset_no_memory(error);
    if (good) {
        d->test_from_val = !system_is_folder(test);
        if (!system_is_folder(val))
            good = dataset_fail(error,
                                "%s: there is no folder 'val' in it; expected %s/val/CLASS/"
                                "NAME.npy",
                                data, data);
    }
    good = good && dataset_list_split(&d->split[DATASET_VAL], val, &d->classes, every_class, error);
    if (good && d->test_from_val)
        good = dataset_halve(&d->split[DATASET_TEST], &d->split[DATASET_VAL], error);
    else if (good)
        good = dataset_list_split(&d->split[DATASET_TEST], test, &d->classes, every_class, error);
    free(val);
    free(test);
    return good;
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

/* Lists all splits of DATA, and takes the classes from the names in DATA/train. */
NPY_API int dataset_open(dataset *d, const char *data, lensnet_error *error)
{
    char *train = system_path(data, "train");
    int good = train != NULL || dataset_no_memory(error);
    memset(d, 0, sizeof *d);
    if (good && !system_is_folder(data))
        good = dataset_fail(error,
                            "%s: there is no such folder; expected %s/train/CLASS/NAME.npy and "
                            "%s/val/CLASS/NAME.npy",
                            data, data, data);
    if (good && !system_is_folder(train))
        good = dataset_fail(error,
                            "%s: there is no folder 'train' in it; expected %s/train/CLASS/"
                            "NAME.npy",
                            data, data);
    good = good && dataset_subfolders(&d->classes, train, error);
    if (good && d->classes.count < 2)
        good = dataset_fail(error,
                            "%s: has %zu class folder%s, but a classifier needs two or more; "
                            "expected %s/CLASS/NAME.npy",
                            train, d->classes.count, d->classes.count == 1 ? "" : "s", train);
    good = good && dataset_list_split(&d->split[DATASET_TRAIN], train, &d->classes, 1, error) &&
           dataset_list_held_out(d, data, 1, error) && dataset_check_counts(d, data, error);
    free(train);
    if (!good) dataset_close(d);
    return good;
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

/* ---- pixels ---- */

static int dataset_check_finite(const float *pixels, size_t height, size_t width, const char *path,
                                lensnet_error *error)
{
    size_t i;
    for (i = 0; i < height * width; i++)
        if (!(pixels[i] - pixels[i] == 0.0f)) /* NaN and infinities */
            return dataset_fail(error,
                                "%s: the pixel in row %zu, column %zu is %s; mend it with "
                                "numpy.nan_to_num, or remove the file",
                                path, i / width, i % width,
                                pixels[i] != pixels[i] ? "NaN" : "infinite");
    return 1;
}

static int dataset_read(float **pixels, float **map, size_t *height, size_t *width,
                        const dataset_split *split, size_t index, uint64_t epoch, int thread,
                        lensnet_error *error)
{
    const char *path = split->files[index].path;
    if (split->source)
        return split->source(pixels, map, height, width, split->user, index, epoch, thread, error);
    if (!npy_read_image(pixels, height, width, path, error->text)) {
        error->code = LENSNET_ERROR_FORMAT;
        return 0;
    }
    if (dataset_check_finite(*pixels, *height, *width, path, error)) return 1;
    free(*pixels);
    return 0;
}

/* Pixels of an image: borrowed from the cache (*own = 0), or in memory that is the caller's (1). */
static int dataset_pixels(float **pixels, float **map, int *own, size_t *height, size_t *width,
                          dataset_split *split, size_t index, uint64_t epoch, int thread,
                          lensnet_error *error)
{
    dataset_file *file = &split->files[index];
    size_t bytes;
    *own = !file->pixels;
    if (file->pixels) {
        *pixels = file->pixels;
        *height = file->height;
        *width = file->width;
        return 1;
    }
    if (!dataset_read(pixels, map, height, width, split, index, epoch, thread, error)) return 0;
    bytes = *height * *width * sizeof(float);
#ifdef _OPENMP
#pragma omp critical(dataset_cache)
#endif
    if (!split->fresh && bytes <= split->cache_left) {
        split->cache_left -= bytes;
        file->height = *height;
        file->width = *width;
        file->pixels = *pixels;
        *own = 0;
    }
    return 1;
}

/* How images become a batch. */
typedef struct dataset_recipe {
    lensnet_preprocess preprocess;            /* `channels` is that of the batch */
    const lensnet_augmentation *augmentation; /* NULL: none */
    uint64_t seed, epoch;                     /* of the augmentation */
    int threads;                              /* 0: all */
} dataset_recipe;

/* The preprocessing of a network for batches: grey planes (one channel) where the network copies them
 * to its channels by itself, which gives the same bits and moves a third of the memory. */
NPY_API lensnet_preprocess dataset_grey(lensnet_preprocess preprocess)
{
    if (preprocess.normalisation != LENSNET_NORMALISATION_IMAGENET &&
        preprocess.normalisation != LENSNET_NORMALISATION_MINMAX_IMAGENET)
        preprocess.channels = 1;
    return preprocess;
}

/* The dense target of an image: its map, changed as the image was. Without a map NaN, which the loss
 * passes over. */
static int dataset_prepare_map(float *target, const float *map, size_t height, size_t width,
                               uint64_t name, const dataset_recipe *recipe, void *scratch,
                               lensnet_error *error)
{
    lensnet_preprocess plain = recipe->preprocess;
    const size_t side = (size_t)plain.image_size, native = plain.crop ? (size_t)plain.crop : width;
    float *moved;
    size_t i;
    int good;
    for (i = 0; !map && i < dense_size(side); i++) target[i] = (float)NAN;
    if (!map) return 1;
    moved = (float *)malloc(side * side * sizeof *moved);
    if (!moved) return dataset_no_memory(error);
    plain.normalisation = LENSNET_NORMALISATION_NONE;
    plain.channels = 1;
    good = !lensnet_preprocess_augmented(moved, map, height, width, &plain, recipe->augmentation,
                                         recipe->seed, recipe->epoch, name, scratch, error);
    if (good) dense_target(target, moved, side, (double)native / (double)side);
    free(moved);
    return good;
}

static int dataset_prepare(float *output, float *target, dataset_split *split, size_t index,
                           int thread, const dataset_recipe *recipe, lensnet_error *error)
{
    float *pixels = NULL, *map = NULL;
    size_t height, width;
    int own, good;
    void *scratch;
    if (!dataset_pixels(&pixels, target ? &map : NULL, &own, &height, &width, split, index,
                        recipe->epoch, thread, error))
        return 0;
    scratch = malloc(lensnet_preprocess_scratch_bytes(&recipe->preprocess, height, width) + 1);
    good = scratch
               ? !lensnet_preprocess_augmented(output, pixels, height, width, &recipe->preprocess,
                                               recipe->augmentation, recipe->seed, recipe->epoch,
                                               split->files[index].name, scratch, error)
               : dataset_no_memory(error);
    if (good && target)
        good = dataset_prepare_map(target, map, height, width, split->files[index].name, recipe,
                                   scratch, error);
    if (!good && split->files[index].path) {
        char sentence[sizeof error->text];
        memcpy(sentence, error->text, sizeof sentence);
        dataset_fail(error, "%s: %.300s", split->files[index].path, sentence);
    }
    free(scratch);
    if (own) free(pixels);
    return good;
}

NPY_API int dataset_threads(int asked)
{
#ifdef _OPENMP
    return asked > 0 ? asked : omp_get_max_threads();
#else
    (void)asked;
    return 1;
#endif
}

static int dataset_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Where a batch goes. */
typedef struct dataset_batch {
    float *images; /* (count, S, S, channels) */
    int *labels;   /* (count); NULL: not wanted */
    float *maps;   /* (count, dense_size(S)), the targets of dense.h; NULL: not wanted */
} dataset_batch;

/* Images order[first] ... order[first + count - 1] (order NULL: first ...) as a batch. All threads work,
 * each on its own image; what comes out does not depend on their number. Of several failures the
 * first image's is reported. */
NPY_API int dataset_fetch(const dataset_batch *batch, dataset_split *split, const size_t *order,
                          size_t first, size_t count, const dataset_recipe *recipe,
                          lensnet_error *error)
{
    const size_t side = (size_t)recipe->preprocess.image_size;
    const size_t size = side * side * (size_t)recipe->preprocess.channels;
    const size_t map_size = dense_size(side);
    long i, failed = -1;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(dataset_threads(recipe->threads))
#endif
    for (i = 0; i < (long)count; i++) {
        size_t index = order ? order[first + (size_t)i] : first + (size_t)i;
        lensnet_error mine;
        if (batch->labels) batch->labels[i] = split->files[index].label;
        if (dataset_prepare(batch->images + (size_t)i * size,
                            batch->maps ? batch->maps + (size_t)i * map_size : NULL, split, index,
                            dataset_thread(), recipe, &mine))
            continue;
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

/* Lets the operating system begin to read the files of a batch to come. */
NPY_API void dataset_read_ahead(const dataset_split *split, const size_t *order, size_t first,
                                size_t count)
{
    size_t i;
    for (i = first; i < first + count && i < split->count && !split->source; i++) {
        const dataset_file *file = &split->files[order ? order[i] : i];
        if (!file->pixels) system_read_ahead(file->path);
    }
}

/* Reads every image once, so that a bad file is found before the training and not in its fifth hour;
 * fills the cache on the way. */
NPY_API int dataset_check(dataset_split *split, int threads, lensnet_error *error)
{
    long i, failed = -1, failures = 0;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(dataset_threads(threads))
#endif
    for (i = 0; i < (long)split->count; i++) {
        lensnet_error mine;
        float *pixels = NULL;
        size_t height, width;
        int own = 0;
        if (system_interrupted()) continue;
        if (dataset_pixels(&pixels, NULL, &own, &height, &width, split, (size_t)i, 0,
                           dataset_thread(), &mine)) {
            if (own) free(pixels);
            continue;
        }
#ifdef _OPENMP
#pragma omp critical(dataset_failure)
#endif
        {
            failures++;
            if (failed < 0 || i < failed) {
                failed = i;
                *error = mine;
            }
        }
    }
    if (failures > 1)
        snprintf(error->text + strlen(error->text), sizeof error->text - strlen(error->text),
                 " (and %ld more files cannot be used)", failures - 1);
    return failures == 0;
}

/* ---- order ---- */

/* The order of an epoch: a shuffle (Fisher and Yates) that depends on count, seed and epoch alone. */
NPY_API void dataset_shuffle(size_t *order, size_t count, uint64_t seed, uint64_t epoch)
{
    uint64_t stream = lensnet_random_bits(seed, lensnet_random_stream("order"), epoch);
    size_t i;
    for (i = 0; i < count; i++) order[i] = i;
    for (i = count; i > 1; i--) {
        size_t j = (size_t)(lensnet_random_bits(seed, stream, i) % i);
        size_t other = order[i - 1];
        order[i - 1] = order[j];
        order[j] = other;
    }
}

#endif
