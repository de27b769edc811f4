/* test_soft_targets.c - label smoothing, class weights, mixup, CutMix and a teacher's targets.
 * cc -O2 -fopenmp -I. tests/test_soft_targets.c -o build/test_soft_targets -lm */
#ifndef LENSNET_IMPLEMENTED
#define LENSNET_IMPLEMENTATION
#endif
#include "lensnet.h"
#include "test.h"

#include "examples/soft_targets.h"

enum { COUNT = 5, SIDE = 12, CLASSES = 3, FLOATS = SIDE * SIDE };

static float images[COUNT * FLOATS], mixed[COUNT * FLOATS];
static float targets[COUNT * CLASSES], soft[COUNT * CLASSES];
static const int labels[COUNT] = {0, 1, 2, 2, 1};

static void begin(void)
{
    size_t i;
    for (i = 0; i < COUNT * FLOATS; i++) images[i] = (float)(i / FLOATS + 1);
    memcpy(mixed, images, sizeof images);
    soft_labels(targets, labels, COUNT, CLASSES, 0, NULL);
    memcpy(soft, targets, sizeof targets);
}

static void test_labels(void)
{
    static const float weights[CLASSES] = {1, 2, 0.5f};
    soft_labels(soft, labels, COUNT, CLASSES, 0.3, weights);
    CHECK_CLOSE((double)soft[0], 0.8, 1e-7, "1 - 0.3 + 0.3 / 3");
    CHECK_CLOSE((double)soft[1], 0.2, 1e-7, "2 (0.3 / 3)");
    CHECK_CLOSE((double)soft[3 * CLASSES + 2], 0.4, 1e-7, "0.5 (1 - 0.3 + 0.3 / 3)");
}

/* The share of its own that image i keeps, read off its target. */
static double kept(size_t i)
{
    size_t partner = COUNT - 1 - i;
    int own = labels[i], other = labels[partner];
    return own == other ? 1 : (double)soft[i * CLASSES + (size_t)own];
}

/* Targets tell the share; pixels must have it: each, or as many of them. */
static void check_share(int cut, uint64_t step)
{
    size_t i, k;
    double share = -1;
    soft_mix(mixed, soft, COUNT, SIDE, 1, CLASSES, cut ? 0 : 0.8, cut ? 1 : 0, 3, step);
    for (i = 0; i < COUNT; i++) {
        const double own = (double)(i + 1), other = (double)(COUNT - i), wanted = kept(i);
        double sum = 0;
        if (labels[i] == labels[COUNT - 1 - i]) continue;
        if (share < 0) share = wanted;
        CHECK_CLOSE(wanted, share, 1e-6, "one share for the batch");
        for (k = 0; k < FLOATS; k++) {
            const double pixel = (double)mixed[i * FLOATS + k];
            sum += pixel;
            if (cut) CHECK(pixel == own || pixel == other);
        }
        CHECK_CLOSE(sum / FLOATS, share * own + (1 - share) * other, 1e-5, "the pixels' share");
    }
    CHECK(!memcmp(mixed + 2 * FLOATS, images + 2 * FLOATS, FLOATS * sizeof(float)));
    CHECK(share >= 0 && share <= 1);
}

/* Beta(alpha, alpha): mean 1/2, variance 1 / (4 (2 alpha + 1)). */
static void test_beta(double alpha)
{
    enum { DRAWS = 20000 };
    soft_draws d = {1, 2, 0};
    double sum = 0, squares = 0, mean;
    int i;
    for (i = 0; i < DRAWS; i++) {
        double x = soft_beta(&d, alpha);
        sum += x;
        squares += x * x;
    }
    mean = sum / DRAWS;
    CHECK_CLOSE(mean, 0.5, 0.01, "mean of Beta");
    CHECK_CLOSE(squares / DRAWS - mean * mean, 1 / (4 * (2 * alpha + 1)), 0.005, "its variance");
}

static void test_teacher(void)
{
    static const float logits[2 * CLASSES] = {0, 0, 0, 0, 1000, 0};
    begin();
    soft_teach(soft, logits, 2, CLASSES, 0.6);
    CHECK_CLOSE((double)soft[0], 0.6, 1e-7, "0.4 + 0.6 / 3");
    CHECK_CLOSE((double)soft[1], 0.2, 1e-7, "0.6 / 3");
    CHECK_CLOSE((double)soft[CLASSES + 1], 1, 1e-7, "both agree");
}

int main(void)
{
    uint64_t step;
    test_labels();
    for (step = 0; step < 40; step++) {
        begin();
        check_share((int)(step % 2), step);
    }
    begin();
    soft_mix(mixed, soft, COUNT, SIDE, 1, CLASSES, 0.8, 1, 3, 7);
    memcpy(images, mixed, sizeof mixed);
    memcpy(targets, soft, sizeof soft);
    memset(mixed, 0, sizeof mixed);
    begin();
    soft_mix(mixed, soft, COUNT, SIDE, 1, CLASSES, 0.8, 1, 3, 8);
    CHECK(memcmp(targets, soft, sizeof soft) != 0); /* another step, another draw */
    test_beta(0.8);
    test_beta(1);
    test_beta(3);
    test_teacher();
    return test_end();
}
