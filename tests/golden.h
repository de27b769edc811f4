/* golden.h - compares tensors with statistics that tools/make_fixtures.py wrote, and makes the networks
 * they belong to. Included after lensnet.h and test.h. A broken fixture ends the test program. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "lngen.h"

#define GOLDEN_SAMPLES 6

typedef struct golden_statistics {
    char name[96];
    int rank;
    size_t shape[4];
    double sum, absolute, norm, minimum, maximum, wave; /* wave: the sum of a[i] cos(0.001 i) */
    int count;
    size_t index[GOLDEN_SAMPLES];
    double sample[GOLDEN_SAMPLES];
} golden_statistics;

LNGEN_UNUSED static FILE *golden_open(const char *folder, const char *name, const char *ending)
{
    char path[256];
    FILE *file;
    snprintf(path, sizeof path, "tests/fixtures/%s/%s%s", folder, name, ending);
    file = fopen(path, "r");
    if (!file) {
        printf("FAILED cannot open %s (run from the repository's root)\n0 passed, 1 failed\n",
               path);
        exit(1);
    }
    return file;
}

LNGEN_UNUSED static void golden_expect(int good, const char *what)
{
    if (good) return;
    printf("FAILED broken fixture: %s\n0 passed, 1 failed\n", what);
    exit(1);
}

LNGEN_UNUSED static double golden_number(FILE *file)
{
    double value = 0;
    golden_expect(fscanf(file, "%lf", &value) == 1, "a number is missing");
    return value;
}

LNGEN_UNUSED static size_t golden_size(FILE *file) { return (size_t)golden_number(file); }

LNGEN_UNUSED static void golden_word(FILE *file, const char *word)
{
    char found[96];
    golden_expect(fscanf(file, "%95s", found) == 1 && strcmp(found, word) == 0, word);
}

LNGEN_UNUSED static void golden_read(golden_statistics *s, FILE *file)
{
    int i;
    golden_expect(fscanf(file, "%95s", s->name) == 1, "a tensor is missing");
    s->rank = (int)golden_size(file);
    golden_expect(s->rank >= 1 && s->rank <= 4, "rank");
    for (i = 0; i < 4; i++) s->shape[i] = i < s->rank ? golden_size(file) : 1;
    s->sum = golden_number(file);
    s->absolute = golden_number(file);
    s->norm = golden_number(file);
    s->minimum = golden_number(file);
    s->maximum = golden_number(file);
    s->wave = golden_number(file);
    s->count = (int)golden_size(file);
    golden_expect(s->count <= GOLDEN_SAMPLES, "samples");
    for (i = 0; i < s->count; i++) {
        s->index[i] = golden_size(file);
        s->sample[i] = golden_number(file);
    }
}

/* Where element `index` of a tensor (N, C, H, W) stands in (N, H, W, C). */
LNGEN_UNUSED static size_t golden_channels_last(const size_t *shape, size_t index)
{
    size_t x = index % shape[3], y = index / shape[3] % shape[2];
    size_t c = index / shape[3] / shape[2] % shape[1], n = index / shape[3] / shape[2] / shape[1];
    return ((n * shape[2] + y) * shape[3] + x) * shape[1] + c;
}

/* Elements may differ by tolerance * the largest magnitude, sums by tolerance * the sum of
 * magnitudes. channels_first: the golden tensor is (N, C, H, W) while `values` is (N, H, W, C). */
LNGEN_UNUSED static void golden_compare(const golden_statistics *golden, const float *values,
                                        int channels_first, double tolerance)
{
    const size_t *shape = golden->shape;
    size_t i, count = shape[0] * shape[1] * shape[2] * shape[3];
    double largest = fabs(golden->minimum) > fabs(golden->maximum) ? fabs(golden->minimum)
                                                                   : fabs(golden->maximum);
    double sum = 0, absolute = 0, square = 0, wave = 0, minimum = 1e300, maximum = -1e300;
    int k;
    for (i = 0; i < count; i++) {
        double value = values[channels_first ? golden_channels_last(shape, i) : i];
        sum += value;
        absolute += fabs(value);
        square += value * value;
        wave += value * cos(0.001 * (double)i);
        if (value < minimum) minimum = value;
        if (value > maximum) maximum = value;
    }
    CHECK_CLOSE(sum, golden->sum, tolerance * golden->absolute, golden->name);
    CHECK_CLOSE(absolute, golden->absolute, tolerance * golden->absolute, golden->name);
    CHECK_CLOSE(sqrt(square), golden->norm, tolerance * golden->norm, golden->name);
    CHECK_CLOSE(wave, golden->wave, tolerance * golden->absolute, golden->name);
    CHECK_CLOSE(minimum, golden->minimum, tolerance * largest, golden->name);
    CHECK_CLOSE(maximum, golden->maximum, tolerance * largest, golden->name);
    for (k = 0; k < golden->count; k++) {
        size_t at = golden->index[k];
        double value = values[channels_first ? golden_channels_last(shape, at) : at];
        CHECK_CLOSE(value, golden->sample[k], tolerance * largest, golden->name);
    }
}

/* Prints why a call failed and ends the program: nothing after it can be tested. */
LNGEN_UNUSED static void golden_must(lensnet_result result, const lensnet_error *error,
                                     const char *what)
{
    if (result) test_give_up(what, error->text, __FILE__, __LINE__);
}

/* A variant by name, or "small": depths 1 1 1 1, widths 8 16 32 64. */
LNGEN_UNUSED static lensnet_model_desc golden_desc(const char *variant, size_t classes)
{
    static const size_t small_widths[4] = {8, 16, 32, 64};
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_error error;
    size_t s;
    desc.classes = classes;
    if (strcmp(variant, "small") != 0) {
        golden_must(lensnet_model_variant(&desc, variant, &error), &error, variant);
        return desc;
    }
    for (s = 0; s < 4; s++) {
        desc.depths[s] = 1;
        desc.widths[s] = small_widths[s];
    }
    return desc;
}

LNGEN_UNUSED static lensnet_model *golden_model_create(const lensnet_model_desc *desc)
{
    lensnet_model *model;
    lensnet_error error;
    golden_must(lensnet_model_create(&model, desc, &error), &error, "lensnet_model_create");
    lngen_parameters(lensnet_model_parameters(model));
    return model;
}

LNGEN_UNUSED static lensnet_model *golden_model(const char *variant, size_t classes)
{
    lensnet_model_desc desc = golden_desc(variant, classes);
    return golden_model_create(&desc);
}

LNGEN_UNUSED static float *golden_images(size_t count, size_t height, size_t width)
{
    float *images = (float *)malloc(count * height * width * 3 * sizeof(float));
    golden_expect(images != NULL, "out of memory");
    lngen_images(images, count, 3, height, width);
    return images;
}

/* Recorded, kept (if wanted), planned and allocated. */
LNGEN_UNUSED static lensnet_graph *
golden_graph(lensnet_model *model, const lensnet_graph_options *options, const lensnet_loss *loss)
{
    lensnet_graph *graph;
    lensnet_error error;
    golden_must(lensnet_model_graph(&graph, model, options, loss, &error), &error,
                "lensnet_model_graph");
    golden_must(lensnet_graph_plan(graph, NULL, &error), &error, "lensnet_graph_plan");
    golden_must(lensnet_graph_allocate(graph, &error), &error, "lensnet_graph_allocate");
    return graph;
}

#endif
