/* check_explain.c - does a network look where the physics is? Counts how much of the map of
 * examples/explain.h, and of Grad-CAM at the same stage, lies where substructure changes the image.
 *
 *     cc -O2 -fopenmp tools/check_explain.c -o check_explain -lm
 *     ./check_explain weights/lensnet-atto.safetensors --images 200 --seed 4711
 *
 * Makes images of the classes `sphere` and `vort` with the simulator (preset testI), explains what the
 * network answers, and compares inside the part that the network crops: of the map's brightest tenth, the
 * share that lies in the quarter that substructure changes most. By chance that is 0.25. The image's own
 * brightness is a third map: substructure shows where there is light, so it says what the figure is worth. */
#include "../examples/system.h"
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"
#include "simulate.h"

#include "../examples/arguments.h"
#include "../examples/explain.h"
#include "../examples/statistics.h"

enum { IMAGES, SEED, OPTIONS };
static argument options[] = {{"--images", "N", "200", "of each of the two classes", 0},
                             {"--seed", "N", "4711", "of the simulator", 0}};
static const char usage[] = "usage: check_explain [options] WEIGHTS\n"
                            "Where does the network look, and where is the substructure?\n";

enum { METHODS = 3 };
static const char *const method_names[METHODS] = {
    "|gradient times activation|, the map of classify --explain", "Grad-CAM",
    "the image's brightness, no network"};

#define CHANCE 0.25

/* What a comparison works on; maps have the image's size. */
typedef struct bench {
    explainer explainer;
    lensnet_classifier *classifier;
    sim_workspace *simulator;
    size_t side, first, crop; /* of the image; where the crop begins; its side */
    float *pixels, *truth, *map;
    double *work; /* 4 side^2 */
} bench;

static int open_bench(bench *b, const char *weights, lensnet_error *error)
{
    const sim_params params = sim_defaults(SIM_TEST_I);
    size_t area, crop;
    memset(b, 0, sizeof *b);
    if (!explain_open(&b->explainer, weights, NULL, error) ||
        lensnet_classifier_load(&b->classifier, weights, NULL, error) ||
        sim_workspace_create(&b->simulator, &params, LENSNET_ISA_BEST, error))
        return 0;
    if (b->explainer.classes != SIM_CLASSES)
        return dataset_fail(error, "%s: it does not know the simulator's classes", weights);
    b->side = (size_t)params.height;
    area = b->side * b->side;
    crop = (size_t)b->explainer.preprocess.crop;
    b->crop = crop && crop < b->side ? crop : b->side;
    b->first = (b->side - b->crop) / 2;
    b->pixels = (float *)malloc(3 * area * sizeof(float));
    b->work = (double *)malloc(4 * area * sizeof(double));
    if (!b->pixels || !b->work) return dataset_no_memory(error);
    b->truth = b->pixels + area;
    b->map = b->pixels + 2 * area;
    return 1;
}

static void close_bench(bench *b)
{
    explain_close(&b->explainer);
    lensnet_classifier_destroy(b->classifier);
    sim_workspace_destroy(b->simulator);
    free(b->pixels);
    free(b->work);
}

/* Grad-CAM (Selvaraju et al. 2017) of what explain_image has just run: the channels, each by the mean of its
 * gradient, and of their sum what is positive. */
static int grad_cam(bench *b, lensnet_error *error)
{
    explainer *x = &b->explainer;
    const float *a = lensnet_tensor_value(x->graph, x->stage);
    const float *g = lensnet_tensor_gradient(x->graph, x->stage);
    const size_t area = x->side * x->side;
    size_t i, c;
    memset(x->map, 0, area * sizeof *x->map);
    for (c = 0; c < x->channels; c++) {
        double mean = 0; /* the gradient is the loss's, which is minus the score */
        for (i = 0; i < area; i++) mean -= (double)g[i * x->channels + c] / (double)area;
        for (i = 0; i < area; i++) x->map[i] += (float)(mean * (double)a[i * x->channels + c]);
    }
    for (i = 0; i < area; i++) x->map[i] = x->map[i] > 0 ? x->map[i] : 0;
    return explain_spread(b->map + b->first * b->side + b->first, x, b->crop, b->crop, b->side,
                          error);
}

/* The crop of a map into `values`, and in `sorted` the same in ascending order. */
static void take_crop(double *values, double *sorted, const bench *b, const float *map)
{
    const size_t area = b->crop * b->crop;
    size_t y, x;
    for (y = 0; y < b->crop; y++)
        for (x = 0; x < b->crop; x++)
            values[y * b->crop + x] = fabs((double)map[(b->first + y) * b->side + b->first + x]);
    memcpy(sorted, values, area * sizeof *sorted);
    qsort(sorted, area, sizeof *sorted, statistics_ascending);
}

/* The share of the map's brightest tenth inside the truth's top quarter. */
static double share_inside(const bench *b)
{
    const size_t area = b->crop * b->crop;
    double *map = b->work, *truth = b->work + area, *sorted = b->work + 2 * area;
    double bright, changed;
    size_t i, tenth = 0, inside = 0;
    take_crop(map, sorted, b, b->map);
    bright = sorted[area * 9 / 10];
    take_crop(truth, sorted, b, b->truth);
    changed = sorted[area * 3 / 4];
    for (i = 0; i < area; i++) {
        if (!(map[i] >= bright)) continue;
        tenth++;
        inside += truth[i] >= changed;
    }
    return (double)inside / (double)tenth;
}

/* One image: shares[METHODS], and whether the network is right about it. */
static int compare_one(double *shares, int *right, bench *b, uint64_t seed, int label,
                       uint64_t number, lensnet_error *error)
{
    lensnet_prediction answer;
    sim_image_mapped(b->pixels, b->truth, b->simulator, seed, label, number);
    if (lensnet_classify(b->classifier, b->pixels, b->side, b->side, &answer, error)) return 0;
    *right = strcmp(lensnet_classifier_label(b->classifier, (size_t)answer.index),
                    sim_class_names[label]) == 0;
    if (!explain_image(b->map, &b->explainer, b->pixels, b->side, b->side, (size_t)answer.index,
                       error))
        return 0;
    shares[0] = share_inside(b);
    if (!grad_cam(b, error)) return 0;
    shares[1] = share_inside(b);
    memcpy(b->map, b->pixels, b->side * b->side * sizeof *b->map);
    shares[2] = share_inside(b);
    return 1;
}

static void print_shares(const char *what, const double *shares, size_t count)
{
    double mean = 0, square = 0, error;
    size_t i;
    for (i = 0; i < count; i++) mean += shares[i] / (double)count;
    for (i = 0; i < count; i++) square += (shares[i] - mean) * (shares[i] - mean);
    error = count > 1 ? 1.96 * sqrt(square / (double)(count - 1) / (double)count) : 0;
    printf("  %-28s %6zu images  %.3f +- %.3f   %.2f +- %.2f times chance\n", what, count, mean,
           error, mean / CHANCE, error / CHANCE);
}

static int compare_all(bench *b, size_t images, uint64_t seed, lensnet_error *error)
{
    const size_t count = (SIM_CLASSES - 1) * images;
    double *shares = (double *)malloc((METHODS + 1) * count * sizeof *shares);
    double *some = shares + METHODS * count, one[METHODS] = {0, 0, 0};
    int *right = (int *)malloc(count * sizeof *right);
    size_t i, n;
    int method, label, good = (shares && right) || dataset_no_memory(error);
    for (i = 0; good && i < count; i++) {
        good = compare_one(one, &right[i], b, seed, 1 + (int)(i / images), i % images, error);
        for (method = 0; method < METHODS; method++)
            shares[(size_t)method * count + i] = one[method];
    }
    for (method = 0; good && method < METHODS; method++) {
        const double *of = shares + (size_t)method * count;
        printf("%s, 95 %% intervals\n", method_names[method]);
        for (label = 1; label < SIM_CLASSES; label++)
            print_shares(sim_class_names[label], of + (size_t)(label - 1) * images, images);
        print_shares("both", of, count);
        for (i = n = 0; i < count; i++)
            if (right[i]) some[n++] = of[i];
        if (n) print_shares("both, where the answer is right", some, n);
    }
    free(shares);
    free(right);
    return good;
}

int main(int argc, char **argv)
{
    bench b;
    lensnet_error error;
    int good;
    if (arguments_parse(options, OPTIONS, usage, argc, argv) != 1)
        arguments_fail("weights are needed\n%s", usage);
    good = open_bench(&b, argv[1], &error) &&
           compare_all(&b, (size_t)arguments_whole(&options[IMAGES], 2, 100000),
                       (uint64_t)arguments_whole(&options[SEED], 0, LONG_MAX), &error);
    close_bench(&b);
    if (!good) fprintf(stderr, "error: %s\n", error.text);
    return arguments_flush() && good ? 0 : 1;
}
