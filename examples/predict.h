/* predict.h - many images of any sizes through one classifier, in batches and bounded memory.
 * Include lensnet.h first. */
#ifndef PREDICT_H
#define PREDICT_H

#include "dataset.h"

/* Receives the images of a split in their order: `probabilities` (one per class), or NULL and the
 * reason why there are none. Returning 0 ends the work. */
typedef int (*predict_sink)(void *user, size_t index, const float *probabilities,
                            const char *problem);

/* A batch in the making. */
typedef struct predict_batch {
    size_t capacity, classes;
    float **pixels; /* of each image; NULL: it cannot be read */
    int *own;       /* pixels to be freed */
    size_t *height, *width;
    lensnet_error *problem; /* of each image; code LENSNET_OK: none */
    float *probabilities;   /* (capacity, classes) */
    float *block;           /* images of one size, side by side */
    size_t block_size;      /* its floats */
} predict_batch;

static void predict_batch_free(predict_batch *b)
{
    free(b->pixels);
    free(b->own);
    free(b->height);
    free(b->width);
    free(b->problem);
    free(b->probabilities);
    free(b->block);
}

static int predict_batch_create(predict_batch *b, size_t capacity, size_t classes)
{
    memset(b, 0, sizeof *b);
    b->capacity = capacity;
    b->classes = classes;
    b->pixels = (float **)calloc(capacity, sizeof *b->pixels);
    b->own = (int *)calloc(capacity, sizeof *b->own);
    b->height = (size_t *)calloc(capacity, sizeof *b->height);
    b->width = (size_t *)calloc(capacity, sizeof *b->width);
    b->problem = (lensnet_error *)calloc(capacity, sizeof *b->problem);
    b->probabilities = (float *)calloc(capacity * classes, sizeof *b->probabilities);
    if (b->pixels && b->own && b->height && b->width && b->problem && b->probabilities) return 1;
    predict_batch_free(b);
    return 0;
}

/* Reads images first ... first + count - 1, each thread its own. */
static void predict_read(predict_batch *b, dataset_split *split, size_t first, size_t count,
                         int threads)
{
    long i;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(dataset_threads(threads))
#endif
    for (i = 0; i < (long)count; i++) {
        b->problem[i].code = LENSNET_OK;
        if (dataset_pixels(&b->pixels[i], NULL, &b->own[i], &b->height[i], &b->width[i], split,
                           first + (size_t)i, 0, dataset_thread(), &b->problem[i]))
            continue;
        b->pixels[i] = NULL;
        b->own[i] = 0;
        if (!b->problem[i].code) b->problem[i].code = LENSNET_ERROR_FILE;
    }
}

/* Classifies the images first ... end - 1 of the batch, which have one size. */
static lensnet_result predict_block(predict_batch *b, lensnet_session *session, size_t first,
                                    size_t end, lensnet_error *error)
{
    size_t i, size = b->height[first] * b->width[first];
    if ((end - first) * size > b->block_size) {
        free(b->block);
        b->block_size = (end - first) * size;
        b->block = (float *)malloc(b->block_size * sizeof *b->block);
    }
    if (!b->block) {
        b->block_size = 0;
        dataset_fail(error, "no memory for images of %zu x %zu pixels", b->height[first],
                     b->width[first]);
        return LENSNET_ERROR_MEMORY;
    }
    for (i = first; i < end; i++)
        memcpy(b->block + (i - first) * size, b->pixels[i], size * sizeof *b->block);
    return lensnet_session_classify(session, b->probabilities + first * b->classes, NULL, b->block,
                                    end - first, b->height[first], b->width[first], error);
}

/* Runs of images of one size go together. If a run fails its images are tried one by one, so that
 * the blame falls on the right one. */
static void predict_classify(predict_batch *b, lensnet_session *session, size_t count)
{
    size_t first = 0, end, i;
    for (; first < count; first = end) {
        end = first + 1;
        if (!b->pixels[first]) continue;
        while (end < count && b->pixels[end] && b->height[end] == b->height[first] &&
               b->width[end] == b->width[first])
            end++;
        if (!predict_block(b, session, first, end, &b->problem[first])) continue;
        for (i = first; i < end; i++) {
            b->problem[i].code = LENSNET_OK;
            b->problem[i].code = predict_block(b, session, i, i + 1, &b->problem[i]);
        }
    }
}

/* Gives every image of `split` to `sink`. What is wrong with one image is the sink's to judge; 0 and a
 * sentence only when the work cannot go on, or without a sentence when the sink ended it. */
NPY_API int predict_split(const lensnet_classifier *classifier, dataset_split *split, size_t batch,
                          int threads, predict_sink sink, void *user, lensnet_error *error)
{
    const size_t classes = lensnet_classifier_classes(classifier);
    lensnet_session *session = NULL;
    predict_batch b;
    size_t first, i;
    int good = predict_batch_create(&b, batch, classes);
    if (!good) return dataset_no_memory(error);
    good = !lensnet_session_create(&session, classifier, batch, error);
    for (first = 0; good && first < split->count; first += batch) {
        size_t count = split->count - first < batch ? split->count - first : batch;
        predict_read(&b, split, first, count, threads);
        dataset_read_ahead(split, NULL, first + batch, batch);
        predict_classify(&b, session, count);
        for (i = 0; i < count; i++) {
            int bad = b.problem[i].code != LENSNET_OK;
            good = good && sink(user, first + i, bad ? NULL : b.probabilities + i * classes,
                                bad ? b.problem[i].text : NULL);
            if (b.own[i]) free(b.pixels[i]);
        }
    }
    lensnet_session_destroy(session);
    predict_batch_free(&b);
    return good;
}

#endif
