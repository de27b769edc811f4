/* soft_targets.h - targets that are not one class: label smoothing, class weights, mixup, CutMix, and the
 * probabilities of a teacher. Everything random is a function of (seed, step).
 *
 * mixup: Zhang et al. 2018, arXiv 1710.09412. CutMix: Yun et al. 2019, arXiv 1905.04899. Both in the form
 * that timm gives them: one draw for a batch, whose images are paired with those of the batch turned
 * round, and the share that is left after the box was cut at the border. */
#ifndef SOFT_TARGETS_H
#define SOFT_TARGETS_H

#ifndef LENSNET_H
#error "soft_targets.h: include lensnet.h first"
#endif

#include <string.h>

/* ---- targets of labels ---- */

/* targets (count, classes) as lensnet_cross_entropy makes them of labels; class_weights NULL: all 1. */
static void soft_labels(float *targets, const int *labels, size_t count, size_t classes,
                        double smoothing, const float *class_weights)
{
    size_t i, k;
    for (i = 0; i < count; i++)
        for (k = 0; k < classes; k++) {
            double weight = class_weights ? (double)class_weights[k] : 1.0;
            double target = smoothing / (double)classes + ((int)k == labels[i] ? 1 - smoothing : 0);
            *targets++ = (float)(weight * target);
        }
}

/* ---- mixup and CutMix ---- */

/* Uniform numbers of one step, in order. */
typedef struct soft_draws {
    uint64_t seed, stream, next;
} soft_draws;

static double soft_draw(soft_draws *d)
{
    return lensnet_random_uniform(d->seed, d->stream, d->next++);
}

/* Beta(alpha, alpha) for alpha of 0 ... 4, by Johnk's method. */
static double soft_beta(soft_draws *d, double alpha)
{
    for (;;) {
        double x = lensnet_pow(soft_draw(d), 1 / alpha), y = lensnet_pow(soft_draw(d), 1 / alpha);
        if (x + y > 0 && x + y <= 1) return x / (x + y);
    }
}

static void soft_blend(float *a, float *b, size_t count, float share)
{
    size_t i;
    for (i = 0; i < count; i++) {
        float first = a[i], second = b[i];
        a[i] = share * first + (1 - share) * second;
        b[i] = share * second + (1 - share) * first;
    }
}

typedef struct soft_box {
    size_t top, bottom, left, right;
} soft_box;

static void soft_span(size_t *from, size_t *to, double centre, double length, size_t side)
{
    double low = floor(centre - length / 2), high = floor(centre + length / 2);
    *from = low < 0 ? 0 : (size_t)low;
    *to = high > (double)side ? side : (size_t)(high < 0 ? 0 : high);
}

/* A box that leaves about `share` of the image. */
static soft_box soft_box_of(soft_draws *d, double share, size_t side)
{
    const double length = (double)side * sqrt(1 - share);
    soft_box box;
    soft_span(&box.top, &box.bottom, floor(soft_draw(d) * (double)side), length, side);
    soft_span(&box.left, &box.right, floor(soft_draw(d) * (double)side), length, side);
    return box;
}

static void soft_swap(float *a, float *b, const soft_box *box, size_t side, size_t channels)
{
    size_t y, i;
    for (y = box->top; y < box->bottom; y++)
        for (i = (y * side + box->left) * channels; i < (y * side + box->right) * channels; i++) {
            float other = a[i];
            a[i] = b[i];
            b[i] = other;
        }
}

/* Mixes images (count, side, side, channels) and targets (count, classes) in place: each with its partner in
 * the batch turned round; the middle one of an odd count stays. An alpha of 0: not this kind. */
static void soft_mix(float *images, float *targets, size_t count, size_t side, size_t channels,
                     size_t classes, double mixup, double cutmix, uint64_t seed, uint64_t step)
{
    const size_t floats = side * side * channels;
    soft_draws d;
    soft_box box = {0, 0, 0, 0};
    double share;
    size_t i;
    int cut;
    d.seed = seed;
    d.stream = lensnet_random_bits(seed, lensnet_random_stream("mix"), step);
    d.next = 0;
    cut = cutmix > 0 && (!(mixup > 0) || soft_draw(&d) < 0.5);
    share = soft_beta(&d, cut ? cutmix : mixup);
    if (cut) {
        box = soft_box_of(&d, share, side);
        share =
            1 - (double)((box.bottom - box.top) * (box.right - box.left)) / (double)(side * side);
    }
    for (i = 0; i < count / 2; i++) {
        const size_t j = count - 1 - i;
        if (cut)
            soft_swap(images + i * floats, images + j * floats, &box, side, channels);
        else
            soft_blend(images + i * floats, images + j * floats, floats, (float)share);
        soft_blend(targets + i * classes, targets + j * classes, classes, (float)share);
    }
}

/* ---- a teacher ---- */

/* Moves targets towards the softmax of a teacher's logits, both (count, classes). */
static void soft_teach(float *targets, const float *logits, size_t count, size_t classes,
                       double share)
{
    size_t i, k;
    for (i = 0; i < count; i++, targets += classes, logits += classes) {
        double most = (double)logits[0], sum = 0;
        for (k = 1; k < classes; k++)
            if ((double)logits[k] > most) most = (double)logits[k];
        for (k = 0; k < classes; k++) sum += lensnet_exp((double)logits[k] - most);
        for (k = 0; k < classes; k++) {
            double taught = lensnet_exp((double)logits[k] - most) / sum;
            targets[k] = (float)((1 - share) * (double)targets[k] + share * taught);
        }
    }
}

#endif
