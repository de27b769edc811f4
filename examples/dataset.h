/* dataset.h - images in folders (folders.h) as batches for a network.
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
#include "folders.h"

/* ---- pixels ---- */

/* An image as it is read, and what its file says of it. */
typedef struct dataset_image {
    picture picture; /* its pixels are planes (bands, height, width) */
    float *map;      /* in the same memory; NULL: none */
    int own;       /* 1: the pixels are the caller's to free; 0: they are borrowed from the cache */
    size_t mended; /* pixels that were not finite */
} dataset_image;

NPY_API void dataset_image_free(dataset_image *image)
{
    if (image->own) free(image->picture.pixels);
    memset(image, 0, sizeof *image);
}

static size_t dataset_bands(const dataset_split *split)
{
    return split->reading.bands > 1 ? split->reading.bands : 1;
}

/* Mends each band, or says which pixel is in the way. */
static int dataset_mend(dataset_image *image, const dataset_split *split, const char *path,
                        lensnet_error *error)
{
    picture *p = &image->picture;
    size_t band, mended = 0;
    lensnet_error why;
    for (band = 0; band < p->bands; band++) {
        if (lensnet_mend(p->pixels + band * p->height * p->width, p->height, p->width,
                         split->reading.mend, &mended, &why))
            return dataset_fail(
                error, "%s: %s; mend it with --nan median or --nan zero, or remove the file", path,
                why.text);
        image->mended += mended;
    }
    return 1;
}

static int dataset_read(dataset_image *image, int wants_map, const dataset_split *split,
                        size_t index, uint64_t epoch, int thread, lensnet_error *error)
{
    const char *path = split->files[index].path;
    picture *p = &image->picture;
    memset(image, 0, sizeof *image);
    image->own = 1;
    if (!path) {
        p->bands = 1;
        p->pixel_scale = split->reading.pixel_scale;
        return split->source(&p->pixels, wants_map ? &image->map : NULL, &p->height, &p->width,
                             split->user, index, epoch, thread, error);
    }
    if (!picture_read(p, path, dataset_bands(split), error->text)) {
        error->code = LENSNET_ERROR_FORMAT;
        return 0;
    }
    if (p->pixel_scale == 0) p->pixel_scale = split->reading.pixel_scale;
    if (dataset_mend(image, split, path, error)) return 1;
    dataset_image_free(image);
    return 0;
}

/* Image `index`, from the cache or its file. What a file says of its image is not kept in the cache, but
 * for its pixel scale. dataset_image_free when done. */
NPY_API int dataset_pixels(dataset_image *image, int wants_map, dataset_split *split, size_t index,
                           uint64_t epoch, int thread, lensnet_error *error)
{
    dataset_file *file = &split->files[index];
    picture *p = &image->picture;
    size_t bytes;
    if (file->pixels) {
        memset(image, 0, sizeof *image);
        p->pixels = file->pixels;
        p->bands = dataset_bands(split);
        p->height = file->height;
        p->width = file->width;
        p->pixel_scale = (double)file->pixel_scale;
        return 1;
    }
    if (!dataset_read(image, wants_map, split, index, epoch, thread, error)) return 0;
    bytes = p->bands * p->height * p->width * sizeof(float);
#ifdef _OPENMP
#pragma omp critical(dataset_cache)
#endif
    if (!(split->fresh && !file->path) && bytes <= split->cache_left && p->offset == 0) {
        split->cache_left -= bytes;
        file->height = p->height;
        file->width = p->width;
        file->pixel_scale = (float)p->pixel_scale;
        file->pixels = p->pixels;
        image->own = 0;
    }
    return 1;
}

/* ---- size and scale ---- */

/* The mean of the pixels along the border: what stands for sky where an image ends. */
static float dataset_border(const float *pixels, size_t height, size_t width)
{
    double sum = 0;
    size_t x, y, count = 0;
    for (y = 0; y < height; y++)
        for (x = 0; x < width; x += y == 0 || y + 1 == height || width == 1 ? 1 : width - 1) {
            sum += (double)pixels[y * width + x];
            count++;
        }
    return (float)(sum / (double)count);
}

/* The middle (side, side) of a plane, with sky around it where it ends. */
static void dataset_window(float *output, size_t side, const float *pixels, size_t height,
                           size_t width)
{
    const float sky = dataset_border(pixels, height, width);
    const long top =
        height >= side ? (long)((height - side) / 2) : -(long)((side - height + 1) / 2);
    const long left = width >= side ? (long)((width - side) / 2) : -(long)((side - width + 1) / 2);
    size_t y, x;
    for (y = 0; y < side; y++)
        for (x = 0; x < side; x++) {
            long row = top + (long)y, column = left + (long)x;
            int inside = row >= 0 && column >= 0 && row < (long)height && column < (long)width;
            output[y * side + x] = inside ? pixels[(size_t)row * width + (size_t)column] : sky;
        }
}

/* The side of the square in the middle of the image that shows what the network knows, in the image's
 * pixels; 0: the image goes in as it is. */
NPY_API size_t dataset_fit_side(const picture *p, const lensnet_preprocess *network,
                                dataset_fit_mode mode)
{
    const int known = network->crop ? network->crop : network->source_size;
    const int scaled = p->pixel_scale > 0 && network->pixel_scale > 0;
    double side = scaled ? known * network->pixel_scale / p->pixel_scale : known;
    if (!known || mode == DATASET_FIT_STRETCH || (mode == DATASET_FIT_AUTO && !scaled)) return 0;
    if (network->crop && fabs(side - known) < 0.02 * known) return 0; /* the crop does it */
    side = floor(side + 0.5);
    if (!(side >= 1 && side <= 16384)) return 0;
    if ((double)p->height == side && (double)p->width == side) return 0;
    return (size_t)side;
}

/* Cuts or pads the image so, and where the network crops for itself brings it to that size. */
NPY_API int dataset_fit(dataset_image *image, const lensnet_preprocess *network,
                        dataset_fit_mode mode, lensnet_error *error)
{
    picture *p = &image->picture;
    const size_t side = dataset_fit_side(p, network, mode);
    const size_t final = side && network->crop ? (size_t)network->crop : side;
    float *fitted, *window;
    void *scratch;
    size_t band;
    int good;
    if (!side) return 1;
    fitted = (float *)malloc(p->bands * final * final * sizeof *fitted);
    window = (float *)malloc(side * side * sizeof *window);
    scratch = malloc(lensnet_resize_scratch_bytes(final, final, side, side, network->resize) + 1);
    good = (fitted && window && scratch) || dataset_no_memory(error);
    for (band = 0; good && band < p->bands; band++) {
        dataset_window(window, side, p->pixels + band * p->height * p->width, p->height, p->width);
        good = !lensnet_resize(fitted + band * final * final, window, final, final, side, side,
                               network->resize, scratch, error);
    }
    free(window);
    free(scratch);
    if (!good) {
        free(fitted);
        return 0;
    }
    if (image->own) free(p->pixels);
    p->pixels = fitted;
    p->height = p->width = final;
    image->own = 1;
    return 1;
}

/* Can the network take the image? Its pixels may stand on a pedestal that was taken off in double. */
NPY_API int dataset_check_pedestal(const picture *p, const lensnet_preprocess *network,
                                   lensnet_error *error)
{
    if (p->offset == 0 || network->stretch ||
        network->normalisation == LENSNET_NORMALISATION_ZNORM ||
        network->normalisation == LENSNET_NORMALISATION_MINMAX ||
        network->normalisation == LENSNET_NORMALISATION_MINMAX_IMAGENET)
        return 1;
    return dataset_fail(
        error,
        "its pixels lie around %g and differ by less than 32-bit floating point can tell "
        "there; take that off, or use a network that normalises each image",
        p->offset);
}

/* The side and the pixel scale of the images, as the first one has them; 0: unknown, or it is no square. */
NPY_API int dataset_describe(int *source_size, double *pixel_scale, dataset_split *split,
                             lensnet_error *error)
{
    dataset_image image;
    const picture *p = &image.picture;
    if (!split->count) return 1;
    if (!dataset_pixels(&image, 0, split, 0, 0, 0, error)) return 0;
    *source_size = p->height == p->width ? (int)p->height : 0;
    *pixel_scale = p->pixel_scale;
    dataset_image_free(&image);
    return 1;
}

/* ---- batches ---- */

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
    if (preprocess.bands == 1 && preprocess.normalisation != LENSNET_NORMALISATION_IMAGENET &&
        preprocess.normalisation != LENSNET_NORMALISATION_MINMAX_IMAGENET &&
        preprocess.normalisation != LENSNET_NORMALISATION_DATASET)
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
    plain.stretch = LENSNET_STRETCH_NONE;
    plain.channels = plain.bands = 1;
    good = !lensnet_preprocess_augmented(moved, map, height, width, &plain, recipe->augmentation,
                                         recipe->seed, recipe->epoch, name, scratch, error);
    if (good) dense_target(target, moved, side, (double)native / (double)side);
    free(moved);
    return good;
}

/* One image of a batch, once it is read. */
static int dataset_prepare_image(float *output, float *target, const dataset_image *image,
                                 uint64_t name, const dataset_recipe *recipe, lensnet_error *error)
{
    const picture *p = &image->picture;
    void *scratch;
    int good;
    if ((size_t)recipe->preprocess.bands != p->bands)
        return dataset_fail(error, "an image of %lu band%s, but the network takes %d",
                            (unsigned long)p->bands, p->bands == 1 ? "" : "s",
                            recipe->preprocess.bands);
    if (!dataset_check_pedestal(p, &recipe->preprocess, error)) return 0;
    scratch =
        malloc(lensnet_preprocess_scratch_bytes(&recipe->preprocess, p->height, p->width) + 1);
    good = scratch
               ? !lensnet_preprocess_augmented(output, p->pixels, p->height, p->width,
                                               &recipe->preprocess, recipe->augmentation,
                                               recipe->seed, recipe->epoch, name, scratch, error)
               : dataset_no_memory(error);
    if (good && target)
        good = dataset_prepare_map(target, image->map, p->height, p->width, name, recipe, scratch,
                                   error);
    free(scratch);
    return good;
}

static int dataset_prepare(float *output, float *target, dataset_split *split, size_t index,
                           int thread, const dataset_recipe *recipe, lensnet_error *error)
{
    dataset_image image;
    int good;
    if (!dataset_pixels(&image, target != NULL, split, index, recipe->epoch, thread, error))
        return 0;
    good = (target || dataset_fit(&image, &recipe->preprocess, split->reading.fit, error)) &&
           dataset_prepare_image(output, target, &image, split->files[index].name, recipe, error);
    if (!good && split->files[index].path) {
        char sentence[sizeof error->text];
        memcpy(sentence, error->text, sizeof sentence);
        dataset_fail(error, "%s: %.300s", split->files[index].path, sentence);
    }
    dataset_image_free(&image);
    return good;
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
#pragma omp parallel for schedule(dynamic) num_threads(system_threads(recipe->threads))
#endif
    for (i = 0; i < (long)count; i++) {
        size_t index = order ? order[first + (size_t)i] : first + (size_t)i;
        lensnet_error mine;
        if (batch->labels) batch->labels[i] = split->files[index].label;
        if (dataset_prepare(batch->images + (size_t)i * size,
                            batch->maps ? batch->maps + (size_t)i * map_size : NULL, split, index,
                            system_thread(), recipe, &mine))
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
    for (i = first; i < first + count && i < split->count; i++) {
        const dataset_file *file = &split->files[order ? order[i] : i];
        if (file->path && !file->pixels) system_read_ahead(file->path);
    }
}

/* A number that changes with any pixel of an image and with its name; of many images in any order the sum
 * names the whole. */
NPY_API uint64_t dataset_contents(const dataset_image *image, uint64_t name)
{
    const picture *p = &image->picture;
    const size_t count = p->bands * p->height * p->width;
    uint64_t hash = 0xCBF29CE484222325u ^ p->width;
    size_t i;
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &p->pixels[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001B3u;
    }
    return lensnet_random_bits(hash, name, count);
}

/* Reads the files of images first ... end - 1 once, so that a bad file is found before the training and not in
 * its fifth hour; fills the cache on the way. */
NPY_API int dataset_check_range(dataset_split *split, size_t first, size_t end, int threads,
                                lensnet_error *error)
{
    long i, failed = -1, failures = 0;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(system_threads(threads))
#endif
    for (i = (long)first; i < (long)end; i++) {
        lensnet_error mine;
        dataset_image image;
        if (system_interrupted() || !split->files[i].path) continue;
        if (dataset_pixels(&image, 0, split, (size_t)i, 0, system_thread(), &mine)) {
            const uint64_t contents = dataset_contents(&image, split->files[i].name);
#ifdef _OPENMP
#pragma omp atomic
#endif
            split->contents += contents;
            dataset_image_free(&image);
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

NPY_API int dataset_check(dataset_split *split, int threads, lensnet_error *error)
{
    return dataset_check_range(split, 0, split->count, threads, error);
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
