/* test_pixels.c - what is done to pixels before a network: stretches against astropy's numbers, pixels
 * that are not finite, images of several bands from the preprocessing to a classifier, and what weights
 * say of the images that they were made for.
 * cc -O2 -fopenmp -I. tests/test_pixels.c -o build/test_pixels -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"

#define PATH "build/test_pixels.safetensors"

enum { SIDE = 40, INPUT = 32, BANDS = 3, MOST = 5 };

static lensnet_error error;
static float planes[2 * MOST * SIDE * SIDE], output[INPUT * INPUT * MOST], other[INPUT * INPUT * MOST];
static double scratch[40000];

static void fill(size_t count, uint64_t seed)
{
    size_t i;
    for (i = 0; i < count; i++)
        planes[i] = (float)lensnet_random_uniform(seed, 1, i) + (i % SIDE > 20 ? 2.0f : 0.0f);
}

/* ---- stretch ---- */

static void test_stretch(void)
{
    /* astropy 8.0.2: AsinhStretch(0.1), LogStretch(1000), SqrtStretch() of 0, 1/64, 1/8, 1/2, 3/4, 1 */
    static const double expected[4][6] = {
        {100, 101, 108, 132, 148, 164},
        {0, 0.05190444632441836, 0.34940464068729338, 0.77126964192003711, 0.90469099534935293, 1},
        {0, 0.4068616814940027, 0.70002222707792194, 0.89981571204370348, 0.95840797122928612, 1},
        {0, 0.125, 0.35355339059327379, 0.70710678118654757, 0.8660254037844386, 1}};
    const float pixels[6] = {100, 101, 108, 132, 148, 164};
    float out[6];
    int mode, i;
    for (mode = 0; mode < 4; mode++) {
        lensnet_stretch_mode parsed;
        CHECK(!lensnet_stretch(out, pixels, 2, 3, (lensnet_stretch_mode)mode, &error));
        for (i = 0; i < 6; i++) CHECK_CLOSE(out[i], (float)expected[mode][i], 6e-8, "stretch");
        CHECK(!lensnet_stretch_parse(&parsed, lensnet_stretch_text((lensnet_stretch_mode)mode),
                                     NULL) &&
              (int)parsed == mode);
    }
    memcpy(out, pixels, sizeof out);
    out[1] = 100;
    for (i = 2; i < 6; i++) out[i] = 100;
    CHECK(!lensnet_stretch(out, out, 2, 3, LENSNET_STRETCH_LOG, &error) && out[0] == 0.0f);
    out[4] = NAN;
    CHECK(lensnet_stretch(out, out, 2, 3, LENSNET_STRETCH_LOG, &error) == LENSNET_ERROR_NUMBER);
    CHECK(strstr(error.text, "row 1, column 1"));
    CHECK(lensnet_stretch(out, out, 2, 3, (lensnet_stretch_mode)9, &error) ==
          LENSNET_ERROR_ARGUMENT);
    CHECK(!lensnet_stretch_text((lensnet_stretch_mode)4));
}

/* Stretch, then z-norm, equals both by hand. */
static void test_stretch_in_preprocess(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    static float stretched[SIDE * SIDE];
    fill(SIDE * SIDE, 5);
    p.image_size = INPUT;
    CHECK(!lensnet_stretch(stretched, planes, SIDE, SIDE, LENSNET_STRETCH_ASINH, &error));
    CHECK(!lensnet_preprocess_image(other, stretched, SIDE, SIDE, &p, scratch, &error));
    p.stretch = LENSNET_STRETCH_ASINH;
    CHECK(!lensnet_preprocess_image(output, planes, SIDE, SIDE, &p, scratch, &error));
    CHECK(!memcmp(output, other, INPUT * INPUT * 3 * sizeof *output));
}

/* ---- pixels that are not finite ---- */

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void test_mend(void)
{
    const float odd[6] = {NAN, -3, 5, HUGE_VALF, 2, -HUGE_VALF};
    float pixels[6];
    size_t mended = 0, n;
    memcpy(pixels, odd, sizeof odd);
    CHECK(lensnet_mend(pixels, 2, 3, LENSNET_MEND_REFUSE, &mended, &error) == LENSNET_ERROR_NUMBER);
    CHECK(mended == 3 && strstr(error.text, "row 0, column 0 is NaN (3 of 6"));
    CHECK(!memcmp(pixels, odd, sizeof odd));
    CHECK(!lensnet_mend(pixels, 2, 3, LENSNET_MEND_ZERO, NULL, &error));
    CHECK(pixels[0] == 0 && pixels[1] == -3 && pixels[3] == 0 && pixels[5] == 0);
    memcpy(pixels, odd, sizeof odd);
    CHECK(!lensnet_mend(pixels, 2, 3, LENSNET_MEND_MEDIAN, &mended, &error));
    CHECK(pixels[0] == 2 && pixels[2] == 5 && pixels[3] == 2 && pixels[5] == 2);
    CHECK(!lensnet_mend(pixels, 2, 3, LENSNET_MEND_REFUSE, &mended, &error) && mended == 0);
    pixels[0] = pixels[1] = NAN;
    CHECK(lensnet_mend(pixels, 1, 2, LENSNET_MEND_MEDIAN, NULL, &error) == LENSNET_ERROR_NUMBER);
    /* against sorting, of both signs and over many powers of ten */
    for (n = 1; n < 200; n++) {
        float values[200], sorted[200];
        size_t i;
        for (i = 0; i < n; i++)
            values[i] = (float)(lensnet_random_normal(n, 1, i) *
                                lensnet_exp(20 * lensnet_random_uniform(n, 2, i)));
        memcpy(sorted, values, sizeof sorted);
        qsort(sorted, n, sizeof *sorted, compare);
        values[n] = NAN;
        CHECK(!lensnet_mend(values, 1, n + 1, LENSNET_MEND_MEDIAN, NULL, &error));
        CHECK(values[n] == sorted[(n - 1) / 2]);
    }
}

/* ---- bands ---- */

/* Three equal bands are a grey image, to the bit: flips and turns draw the same for all. */
static void test_equal_bands(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    lensnet_augmentation a = lensnet_augmentation_defaults();
    size_t crop;
    fill(SIDE * SIDE, 6);
    memcpy(planes + SIDE * SIDE, planes, SIDE * SIDE * sizeof *planes);
    memcpy(planes + 2 * SIDE * SIDE, planes, SIDE * SIDE * sizeof *planes);
    p.image_size = INPUT;
    for (crop = 0; crop < 60; crop += 29) {
        p.crop = (int)crop;
        p.normalisation = crop
                              ? LENSNET_NORMALISATION_MINMAX_IMAGENET
                              : LENSNET_NORMALISATION_IMAGENET; /* exact for any number of pixels */
        p.stretch = crop ? LENSNET_STRETCH_SQRT : LENSNET_STRETCH_NONE;
        p.bands = 1;
        CHECK(!lensnet_preprocess_augmented(other, planes, SIDE, SIDE, &p, &a, 1, 2, 3, scratch,
                                            &error));
        p.bands = 3;
        CHECK(lensnet_preprocess_scratch_bytes(&p, SIDE, SIDE) <= sizeof scratch);
        CHECK(!lensnet_preprocess_augmented(output, planes, SIDE, SIDE, &p, &a, 1, 2, 3, scratch,
                                            &error));
        CHECK(!memcmp(output, other, INPUT * INPUT * 3 * sizeof *output));
    }
}

/* Z-norm is over all bands together: the output's mean and deviation are 0 and 1, bands stay apart. */
static void test_bands_together(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    double sum = 0, squares = 0, bands[MOST] = {0};
    size_t i, bytes, n = INPUT * INPUT * MOST;
    unsigned char *guarded;
    p.image_size = INPUT;
    p.bands = p.channels = MOST;
    for (i = 0; i < MOST * INPUT * INPUT; i++)
        planes[i] = (float)lensnet_random_uniform(7, 1, i) + (float)(i / (INPUT * INPUT));
    bytes = lensnet_preprocess_scratch_bytes(&p, INPUT, INPUT);
    guarded = (unsigned char *)malloc(bytes + 64);
    CHECK(guarded != NULL);
    memset(guarded, 0xA5, bytes + 64);
    CHECK(!lensnet_preprocess_image(output, planes, INPUT, INPUT, &p, guarded, &error));
    for (i = 0; i < 64; i++) CHECK(guarded[bytes + i] == 0xA5);
    free(guarded);
    for (i = 0; i < n; i++) {
        sum += (double)output[i];
        squares += (double)output[i] * (double)output[i];
        bands[i % MOST] += (double)output[i];
    }
    CHECK_CLOSE(sum / (double)n, 0, 1e-6, "mean of all bands");
    CHECK_CLOSE(squares / (double)n, 1, 1e-5, "deviation of all bands");
    for (i = 1; i < MOST; i++) CHECK(bands[i] > bands[i - 1] + 100);
    planes[3 * INPUT * INPUT + 2 * INPUT + 5] = NAN;
    CHECK(lensnet_preprocess_image(output, planes, INPUT, INPUT, &p, scratch, &error) ==
          LENSNET_ERROR_NUMBER);
    CHECK(strstr(error.text, "row 2, column 5"));
}

static void test_checks(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    p.bands = 0;
    CHECK(lensnet_preprocess_check(&p, &error) == LENSNET_ERROR_ARGUMENT);
    p.bands = 4;
    CHECK(lensnet_preprocess_check(&p, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(strstr(error.text, "3 channels cannot take 4 bands"));
    p.channels = 4;
    CHECK(!lensnet_preprocess_check(&p, &error));
    p.normalisation = LENSNET_NORMALISATION_IMAGENET;
    CHECK(lensnet_preprocess_check(&p, &error) == LENSNET_ERROR_ARGUMENT);
    p = lensnet_preprocess_defaults();
    p.channels = 4;
    CHECK(lensnet_preprocess_check(&p, &error) == LENSNET_ERROR_ARGUMENT);
    p = lensnet_preprocess_defaults();
    p.stretch = (lensnet_stretch_mode)7;
    CHECK(lensnet_preprocess_check(&p, &error) == LENSNET_ERROR_ARGUMENT);
    p = lensnet_preprocess_defaults();
    p.channels = p.bands = LENSNET_BANDS_LIMIT + 1;
    CHECK(lensnet_preprocess_check(&p, &error) == LENSNET_ERROR_ARGUMENT);
}

/* ---- from weights to an answer ---- */

static lensnet_model *saved_model(int bands)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model = NULL;
    int i;
    for (i = 0; i < 4; i++) {
        desc.depths[i] = 1;
        desc.widths[i] = 8u << i;
    }
    desc.gradients = 0;
    desc.preprocess.image_size = INPUT;
    desc.preprocess.bands = desc.preprocess.channels = bands;
    desc.preprocess.stretch = LENSNET_STRETCH_ASINH;
    desc.preprocess.source_size = 150;
    desc.preprocess.pixel_scale = 0.262;
    CHECK(!lensnet_model_create(&model, &desc, &error));
    CHECK(!lensnet_model_save(model, PATH, LENSNET_DTYPE_F32, &error));
    return model;
}

static void test_classify_bands(int bands)
{
    lensnet_model *model = saved_model(bands);
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier = NULL;
    lensnet_session *session = NULL;
    const lensnet_preprocess *p;
    const size_t area = SIDE * (SIDE - 7), count = 2;
    float one[2 * 3], two[2 * 3], *swapped;
    size_t i;
    fill((size_t)2 * MOST * SIDE * SIDE, 8);
    /* whoever has asked for nothing gives one plane: a file must not make us read on behind it */
    if (bands > 1) {
        CHECK(lensnet_classifier_load(&classifier, PATH, NULL, &error) == LENSNET_ERROR_SHAPE);
        CHECK(!classifier && strstr(error.text, "bands, but will be given 1"));
    }
    options.bands = bands == 1 ? 3 : 1;
    CHECK(lensnet_classifier_load(&classifier, PATH, &options, &error) == LENSNET_ERROR_SHAPE);
    options.bands = bands > 1 ? 0 : 1;
    CHECK(!lensnet_classifier_load(&classifier, PATH, &options, &error));
    p = lensnet_classifier_preprocess(classifier);
    CHECK(p->bands == bands && p->channels == bands && p->stretch == LENSNET_STRETCH_ASINH);
    CHECK(p->source_size == 150 && p->pixel_scale == 0.262);
    CHECK(!lensnet_session_create(&session, classifier, 1, &error));
    CHECK(!lensnet_session_classify(session, one, NULL, planes, count, SIDE, SIDE - 7, &error));
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    /* the order of the bands matters, that of rows under 8 views does not */
    options.views = 8;
    CHECK(!lensnet_classifier_load(&classifier, PATH, &options, &error));
    CHECK(!lensnet_session_create(&session, classifier, 2, &error));
    CHECK(!lensnet_session_classify(session, one, NULL, planes, count, SIDE, SIDE - 7, &error));
    swapped = (float *)malloc(count * (size_t)bands * area * sizeof *swapped);
    for (i = 0; swapped && i < count * (size_t)bands; i++)
        CHECK(
            !lensnet_turn(swapped + i * area, planes + i * area, SIDE, SIDE - 7, 1, 0, 2, &error));
    CHECK(!lensnet_session_classify(session, two, NULL, swapped, count, SIDE, SIDE - 7, &error));
    for (i = 0; i < 6; i++) CHECK_CLOSE(one[i], two[i], 2e-6, "8 views of a turned image");
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    lensnet_model_destroy(model);
    free(swapped);
}

int main(void)
{
    test_stretch();
    test_stretch_in_preprocess();
    test_mend();
    test_equal_bands();
    test_bands_together();
    test_checks();
    test_classify_bands(2);
    test_classify_bands(5);
    remove(PATH);
    return test_end();
}
