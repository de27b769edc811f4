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
    size_t capacity, classes, features;
    int turned;                      /* see predict_wish */
    dataset_image *images;           /* pixels NULL: it cannot be read */
    lensnet_error *problem;          /* of each image; code LENSNET_OK: none */
    lensnet_prediction *predictions; /* of each image */
    float *probabilities;            /* (capacity, classes) */
    float *pooled;                   /* (capacity, features); NULL: not wanted */
    float *block;                    /* images of one size, side by side */
    size_t block_size;               /* its floats */
} predict_batch;

static void predict_batch_free(predict_batch *b)
{
    free(b->images);
    free(b->problem);
    free(b->predictions);
    free(b->probabilities);
    free(b->pooled);
    free(b->block);
}

static int predict_batch_create(predict_batch *b, size_t capacity, int pooled,
                                const lensnet_classifier *classifier)
{
    const size_t classes = lensnet_classifier_classes(classifier);
    const size_t features = lensnet_classifier_pooled(classifier);
    memset(b, 0, sizeof *b);
    b->capacity = capacity;
    b->classes = classes;
    b->features = features;
    b->images = (dataset_image *)calloc(capacity, sizeof *b->images);
    b->problem = (lensnet_error *)calloc(capacity, sizeof *b->problem);
    b->predictions = (lensnet_prediction *)calloc(capacity, sizeof *b->predictions);
    b->probabilities = (float *)calloc(capacity * classes, sizeof *b->probabilities);
    if (pooled) b->pooled = (float *)calloc(capacity * features, sizeof *b->pooled);
    if (b->images && b->problem && b->predictions && b->probabilities && (b->pooled || !pooled))
        return 1;
    predict_batch_free(b);
    return 0;
}

/* Reads an image and brings it to the network's size and scale, as far as they are known. */
static int predict_read_one(dataset_image *image, dataset_split *split, size_t index,
                            const lensnet_preprocess *network, lensnet_error *error)
{
    if (!dataset_pixels(image, 0, split, index, 0, system_thread(), error)) return 0;
    if (dataset_check_pedestal(&image->picture, network, error) &&
        dataset_fit(image, network, split->reading.fit, error))
        return 1;
    dataset_image_free(image);
    return 0;
}

/* Turns a square image to one of its eight views, in place. */
static int predict_turn(dataset_image *image, int view, lensnet_error *error)
{
    picture *p = &image->picture;
    const size_t plane = p->height * p->width, bytes = p->bands * plane * sizeof(float);
    float *turned;
    size_t band;
    if (!view || p->height != p->width) return 1;
    turned = (float *)malloc(bytes);
    if (!turned) return dataset_no_memory(error);
    for (band = 0; band < p->bands; band++)
        if (lensnet_turn(turned + band * plane, p->pixels + band * plane, p->height, p->width,
                         view >> 2, 0, view & 3, error)) {
            free(turned);
            return 0;
        }
    if (image->own) free(p->pixels);
    p->pixels = turned;
    image->own = 1;
    return 1;
}

/* Reads images first ... first + count - 1, each thread its own. */
static void predict_read(predict_batch *b, dataset_split *split, size_t first, size_t count,
                         const lensnet_preprocess *network, int threads)
{
    long i;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(system_threads(threads))
#endif
    for (i = 0; i < (long)count; i++) {
        b->problem[i].code = LENSNET_OK;
        if (predict_read_one(&b->images[i], split, first + (size_t)i, network, &b->problem[i]) &&
            predict_turn(&b->images[i], b->turned ? (int)((first + (size_t)i) % 8) : 0,
                         &b->problem[i]))
            continue;
        dataset_image_free(&b->images[i]);
        memset(&b->images[i], 0, sizeof b->images[i]);
        if (!b->problem[i].code) b->problem[i].code = LENSNET_ERROR_FILE;
    }
}

/* Classifies the images first ... end - 1 of the batch, which have one size. */
static lensnet_result predict_block(predict_batch *b, lensnet_session *session, size_t first,
                                    size_t end, lensnet_error *error)
{
    const picture *p = &b->images[first].picture;
    size_t i, size = p->bands * p->height * p->width;
    if ((end - first) * size > b->block_size) {
        free(b->block);
        b->block_size = (end - first) * size;
        b->block = (float *)malloc(b->block_size * sizeof *b->block);
    }
    if (!b->block) {
        b->block_size = 0;
        dataset_fail(error, "no memory for images of %zu x %zu pixels", p->height, p->width);
        return LENSNET_ERROR_MEMORY;
    }
    for (i = first; i < end; i++)
        memcpy(b->block + (i - first) * size, b->images[i].picture.pixels, size * sizeof *b->block);
    return lensnet_session_predict(session, b->predictions + first,
                                   b->probabilities + first * b->classes,
                                   b->pooled ? b->pooled + first * b->features : NULL, b->block,
                                   end - first, p->height, p->width, error);
}

/* Runs of images of one size go together. If a run fails its images are tried one by one, so that
 * the blame falls on the right one. */
static void predict_classify(predict_batch *b, lensnet_session *session, size_t count)
{
    size_t first = 0, end, i;
    for (; first < count; first = end) {
        const picture *p = &b->images[first].picture, *q;
        end = first + 1;
        if (!p->pixels) continue;
        for (; end < count; end++) {
            q = &b->images[end].picture;
            if (!q->pixels || q->height != p->height || q->width != p->width) break;
        }
        if (!predict_block(b, session, first, end, &b->problem[first])) continue;
        for (i = first; i < end; i++) {
            b->problem[i].code = LENSNET_OK;
            b->problem[i].code = predict_block(b, session, i, i + 1, &b->problem[i]);
        }
    }
}

/* How images are gone through, and what is wanted of them beside the probabilities; each may be NULL. */
typedef struct predict_wish {
    size_t batch;
    int threads; /* 0: all */
    int turned;  /* 1: image i is turned to its view i % 8 before it is classified */
    lensnet_prediction *predictions; /* (N) */
    float *pooled;                   /* (N, features): lensnet_session_predict's */
} predict_wish;

/* Gives the images of a batch to the sink, and lets go of them. */
static int predict_deliver(predict_batch *b, dataset_split *split, const predict_wish *wish,
                           size_t first, size_t count, predict_sink sink, void *user)
{
    size_t i;
    int good = 1;
    for (i = 0; i < count; i++) {
        const int bad = b->problem[i].code != LENSNET_OK;
        if (split->see)
            split->see(split->seer, first + i, &b->images[i], bad ? NULL : &b->predictions[i]);
        if (!bad && wish->predictions) wish->predictions[first + i] = b->predictions[i];
        if (!bad && wish->pooled)
            memcpy(wish->pooled + (first + i) * b->features, b->pooled + i * b->features,
                   b->features * sizeof *b->pooled);
        good = good && sink(user, first + i, bad ? NULL : b->probabilities + i * b->classes,
                            bad ? b->problem[i].text : NULL);
        dataset_image_free(&b->images[i]);
    }
    return good;
}

/* The images first ... end - 1 of the split. */
static int predict_range(const lensnet_classifier *classifier, dataset_split *split,
                         const predict_wish *wish, size_t first, size_t end, predict_sink sink,
                         void *user, lensnet_error *error)
{
    const lensnet_preprocess *network = lensnet_classifier_preprocess(classifier);
    const size_t batch = wish->batch;
    lensnet_session *session = NULL;
    predict_batch b;
    int good = predict_batch_create(&b, batch, wish->pooled != NULL, classifier);
    if (!good) return dataset_no_memory(error);
    b.turned = wish->turned;
    split->reading.bands = (size_t)network->bands;
    good = !lensnet_session_create(&session, classifier, batch, error);
    for (; good && first < end; first += batch) {
        size_t count = end - first < batch ? end - first : batch;
        predict_read(&b, split, first, count, network, wish->threads);
        dataset_read_ahead(split, NULL, first + batch, batch);
        predict_classify(&b, session, count);
        good = predict_deliver(&b, split, wish, first, count, sink, user);
    }
    lensnet_session_destroy(session);
    predict_batch_free(&b);
    return good;
}

/* What a member of a team keeps of its share. */
typedef struct predict_share {
    float *probabilities;
    size_t classes;
    lensnet_error *error;
} predict_share;

static int predict_keep(void *user, size_t index, const float *probabilities, const char *problem)
{
    const predict_share *s = (const predict_share *)user;
    if (!probabilities) return dataset_fail(s->error, "%s", problem);
    memcpy(s->probabilities + index * s->classes, probabilities,
           s->classes * sizeof *probabilities);
    return !system_interrupted() || dataset_fail(s->error, "interrupted");
}

/* Each member classifies its share, all gather the answers, and each gives all of them to its sink. An image
 * that cannot be used is a failure here. */
static int predict_team(const lensnet_classifier *classifier, dataset_split *split,
                        const predict_wish *wish, predict_sink sink, void *user,
                        lensnet_error *error)
{
    const dataset_team *team = split->team;
    predict_share s = {NULL, 0, NULL};
    size_t i, first, end;
    int good;
    s.classes = lensnet_classifier_classes(classifier);
    s.error = error;
    s.probabilities = (float *)calloc(split->count * s.classes + 1, sizeof *s.probabilities);
    team->share(&first, &end, split->count);
    good = (s.probabilities || dataset_no_memory(error)) &&
           predict_range(classifier, split, wish, first, end, predict_keep, &s, error);
    good = team->meet(good, NULL, error);
    if (good) team->gather(s.probabilities, s.classes * sizeof(float), split->count);
    if (good && wish->pooled)
        team->gather(wish->pooled, lensnet_classifier_pooled(classifier) * sizeof(float),
                     split->count);
    if (good && wish->predictions)
        team->gather(wish->predictions, sizeof *wish->predictions, split->count);
    for (i = 0; good && wish->predictions && i < split->count; i++)
        if (i < first || i >= end) /* names do not travel */
            wish->predictions[i].label =
                wish->predictions[i].unknown
                    ? "unknown"
                    : lensnet_classifier_label(classifier, (size_t)wish->predictions[i].index);
    for (i = 0; good && i < split->count; i++)
        good = sink(user, i, s.probabilities + i * s.classes, NULL);
    free(s.probabilities);
    return good;
}

/* Gives every image of `split` to `sink`. What is wrong with one image is the sink's to judge; 0 and a
 * sentence only when the work cannot go on, or without a sentence when the sink ended it. */
NPY_API int predict_split_as(const lensnet_classifier *classifier, dataset_split *split,
                             const predict_wish *wish, predict_sink sink, void *user,
                             lensnet_error *error)
{
    if (split->team) return predict_team(classifier, split, wish, sink, user, error);
    return predict_range(classifier, split, wish, 0, split->count, sink, user, error);
}

NPY_API int predict_split(const lensnet_classifier *classifier, dataset_split *split, size_t batch,
                          int threads, predict_sink sink, void *user, lensnet_error *error)
{
    predict_wish wish;
    memset(&wish, 0, sizeof wish);
    wish.batch = batch;
    wish.threads = threads;
    return predict_split_as(classifier, split, &wish, sink, user, error);
}

#endif
