/* test_image.c - resize, affine, normalisation, preprocessing against PyTorch's values
 * (tests/fixtures/image, PyTorch 1.13.1; *_every11.npy are thinned and index.txt and pipeline.txt
 * flattened by tools/flatten_fixtures.py), augmentation by its properties, edges.
 * cc -O2 -fopenmp -I. tests/test_image.c -o build/test_image -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "fixture.h"
#include "test.h"

#include <time.h>

#define SIDE 150
#define BIG  224

static float lens[SIDE * SIDE]; /* the 150 x 150 image of the fixtures */
static float large[BIG * BIG];  /* the same at 224 x 224, as PyTorch resized it */
static float result[3 * 256 * 256];
static char scratch[8 << 20];

static void load(float *pixels, const char *path, int count)
{
    int found, i;
    double *values = fixture_npy(path, &found);
    CHECK(found == count);
    for (i = 0; i < count; i++) pixels[i] = (float)values[i];
    free(values);
}

/* largest distance between result[offset + step * i] and value i of a fixture */
static double distance(const char *name, const float *pixels, int step)
{
    char path[300];
    int count, i;
    double *values, worst = 0.0;
    snprintf(path, sizeof path, "tests/fixtures/image/%s%s.npy", name, step > 1 ? "_every11" : "");
    values = fixture_npy(path, &count);
    for (i = 0; i < count; i++) {
        double d = fabs((double)pixels[i * step] - values[i]);
        if (!(d <= worst)) worst = d;
    }
    free(values);
    printf("%-45s %.2g\n", name, worst);
    return worst;
}

static void check_resize(const char *name, size_t height, size_t width, lensnet_resize_mode mode,
                         int step)
{
    memset(result, 0xFF, sizeof result);
    CHECK(lensnet_resize_scratch_bytes(height, width, SIDE, SIDE, mode) <= sizeof scratch);
    CHECK(!lensnet_resize(result, lens, height, width, SIDE, SIDE, mode, scratch, NULL));
    CHECK(distance(name, result, step) < 1e-6);
}

static void test_resize(void)
{
    int y, x;
    float *cropped = result;
    check_resize("resize_bilinear_150_224", 224, 224, LENSNET_RESIZE_BILINEAR, 1);
    check_resize("resize_bilinear_150_224", 224, 224, LENSNET_RESIZE_BILINEAR_PLAIN, 1);
    check_resize("resize_bilinear_aa_150_64", 64, 64, LENSNET_RESIZE_BILINEAR, 1);
    check_resize("resize_bilinear_noaa_150_64", 64, 64, LENSNET_RESIZE_BILINEAR_PLAIN, 1);
    check_resize("resize_bilinear_aa_150_100x200", 100, 200, LENSNET_RESIZE_BILINEAR, 11);
    check_resize("resize_bilinear_150_100x200", 100, 200, LENSNET_RESIZE_BILINEAR_PLAIN, 11);
    check_resize("resize_bicubic_aa_150_224", 224, 224, LENSNET_RESIZE_BICUBIC, 11);
    check_resize("resize_bicubic_noaa_150_224", 224, 224, LENSNET_RESIZE_BICUBIC_PLAIN, 11);
    check_resize("resize_bicubic_aa_150_64", 64, 64, LENSNET_RESIZE_BICUBIC, 1);
    check_resize("resize_nearest_150_224", 224, 224, LENSNET_RESIZE_NEAREST, 11);
    CHECK(
        !lensnet_resize(result, lens, 256, 256, SIDE, SIDE, LENSNET_RESIZE_BICUBIC, scratch, NULL));
    for (y = 0; y < 224; y++)
        for (x = 0; x < 224; x++) cropped[y * 224 + x] = result[(y + 16) * 256 + x + 16];
    CHECK(distance("hf_bicubic_256_crop224", cropped, 11) < 1e-6);
}

/* a constant stays constant for any sizes, and nothing beyond the stated scratch is written */
static void test_resize_sizes(void)
{
    static const size_t sizes[] = {1, 2, 3, 4, 5, 7, 32, 33, 97};
    static float ones[97 * 97];
    int a, b, mode, i;
    for (i = 0; i < 97 * 97; i++) ones[i] = 0.75f;
    for (mode = 0; mode < 5; mode++) {
        for (a = 0; a < 9; a++) {
            for (b = 0; b < 9; b++) {
                size_t bytes = lensnet_resize_scratch_bytes(sizes[a], sizes[b], sizes[b], sizes[a],
                                                            (lensnet_resize_mode)mode);
                char *block = (char *)malloc(bytes + 8);
                size_t count = sizes[a] * sizes[b], bad = 0, j;
                memset(block + bytes, 0x5A, 8);
                memset(result, 0xFF, count * sizeof *result);
                CHECK(!lensnet_resize(result, ones, sizes[a], sizes[b], sizes[b], sizes[a],
                                      (lensnet_resize_mode)mode, block, NULL));
                for (j = 0; j < count; j++) bad += !(fabs(result[j] - 0.75) < 1e-6);
                for (j = 0; j < 8; j++) bad += block[bytes + j] != 0x5A;
                CHECK(bad == 0);
                free(block);
            }
        }
    }
}

/* Sides beyond their range and missing pointers are refused, in and out. */
static void test_resize_errors(void)
{
    const lensnet_resize_mode mode = LENSNET_RESIZE_BILINEAR;
    const size_t huge = (size_t)LENSNET_IMAGE_LIMIT + 1;
    CHECK(lensnet_resize(result, lens, 0, 4, 4, 4, mode, scratch, NULL) == LENSNET_ERROR_SHAPE);
    CHECK(lensnet_resize(result, lens, 4, huge, 4, 4, mode, scratch, NULL) == LENSNET_ERROR_SHAPE);
    CHECK(lensnet_resize(result, lens, 4, 4, 4, 0, mode, scratch, NULL) == LENSNET_ERROR_SHAPE);
    CHECK(lensnet_resize(result, lens, 4, 4, huge, 4, mode, scratch, NULL) == LENSNET_ERROR_SHAPE);
    CHECK(lensnet_resize(NULL, lens, 4, 4, 4, 4, mode, scratch, NULL) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_resize(result, lens, 4, 4, 4, 4, mode, NULL, NULL) == LENSNET_ERROR_ARGUMENT);
}

static void check_affine(const char *name, const float *image, int side, double degrees, double tx,
                         double ty, double scale, double sx, double sy, const char *index)
{
    double matrix[6], expected[6];
    char path[200];
    int i;
    CHECK(!lensnet_affine_matrix(matrix, degrees, tx, ty, scale, sx, sy, NULL));
    snprintf(path, sizeof path, "affine_cases/%s/inverse_matrix_centre_coords", name);
    CHECK(fixture_numbers(index, path, expected, 6) == 6);
    for (i = 0; i < 6; i++) CHECK_CLOSE(matrix[i], expected[i], 1e-13, name);
    for (i = 0; i < 3; i++) {
        static const char *const kinds[] = {"nearest", "bilinear", "bilinear_fill0.25"};
        size_t n = (size_t)side;
        memset(result, 0xFF, sizeof result);
        CHECK(!lensnet_affine(result, image, n, n, matrix,
                              i ? LENSNET_INTERPOLATION_BILINEAR : LENSNET_INTERPOLATION_NEAREST,
                              i == 2 ? 0.25f : 0.0f, NULL));
        snprintf(path, sizeof path, "affine_%s_%s", name, kinds[i]);
        CHECK(distance(path, result, 11) <= (i ? 1e-6 : 0.0));
    }
}

static void test_affine(void)
{
    char *index = fixture_load("tests/fixtures/image/index.txt", NULL);
    check_affine("a30_t10_s1.1", large, BIG, 30, 12, -7, 1.1, 0, 0, index);
    check_affine("a-17.5_s0.9_shear", large, BIG, -17.5, 0, 0, 0.9, 8, -5, index);
    check_affine("a90", lens, SIDE, 90, 0, 0, 1, 0, 0, index);
    check_affine("t_only", lens, SIDE, 0, 3, -5, 1, 0, 0, index);
    free(index);
}

static void test_affine_errors(void)
{
    double matrix[6] = {1, 0, 0, 0, 1, 0};
    lensnet_error error;
    CHECK(lensnet_affine_matrix(matrix, 0, 0, 0, 0, 0, 0, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_affine_matrix(matrix, 0, 0, 0, NAN, 0, 0, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_affine_matrix(matrix, 0, NAN, 0, 1, 0, 0, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_affine_matrix(matrix, 0, 0, 0, 1, 90, 0, &error) == LENSNET_ERROR_ARGUMENT);
    matrix[4] = NAN;
    CHECK(lensnet_affine(result, lens, SIDE, SIDE, matrix, LENSNET_INTERPOLATION_NEAREST, 0.0f,
                         &error) == LENSNET_ERROR_ARGUMENT);
}

static void test_turn(void)
{
    static const float square[6] = {0, 1, 2, 3, 4, 5}; /* 2 x 3 */
    static const float once[6] = {3, 0, 4, 1, 5, 2};   /* 3 x 2, clockwise */
    static const float mirrored[6] = {2, 1, 0, 5, 4, 3};
    static const float upside[6] = {3, 4, 5, 0, 1, 2};
    static const float twice[6] = {5, 4, 3, 2, 1, 0};
    static const float back[6] = {2, 5, 1, 4, 0, 3};
    float out[6];
    CHECK(!lensnet_turn(out, square, 2, 3, 0, 0, 1, NULL) && !memcmp(out, once, sizeof out));
    CHECK(!lensnet_turn(out, square, 2, 3, 1, 0, 0, NULL) && !memcmp(out, mirrored, sizeof out));
    CHECK(!lensnet_turn(out, square, 2, 3, 0, 1, 4, NULL) && !memcmp(out, upside, sizeof out));
    CHECK(!lensnet_turn(out, square, 2, 3, 0, 0, -2, NULL) && !memcmp(out, twice, sizeof out));
    CHECK(!lensnet_turn(out, square, 2, 3, 0, 0, -1, NULL) && !memcmp(out, back, sizeof out));
    CHECK(!lensnet_turn(out, square, 2, 3, 1, 1, 2, NULL) && !memcmp(out, square, sizeof out));
    CHECK(lensnet_turn(out, square, 0, 3, 1, 1, 2, NULL) == LENSNET_ERROR_SHAPE);
}

/* only flips and quarter turns: augmenting equals turning, for every one of the eight results */
static void test_augment_orientations(void)
{
    lensnet_augmentation a = lensnet_augmentation_defaults();
    static float expected[SIDE * SIDE];
    int seen[16] = {0}, distinct = 0, i;
    uint64_t file;
    a.degrees = a.translate = 0.0;
    a.minimum_scale = a.maximum_scale = 1.0;
    a.quarter_turns = 1;
    for (file = 0; file < 100; file++) {
        int found = -1;
        CHECK(!lensnet_augment(result, lens, SIDE, SIDE, &a, 1, 2, file, NULL));
        for (i = 0; i < 16 && found < 0; i++) {
            lensnet_turn(expected, lens, SIDE, SIDE, i & 1, i >> 1 & 1, i >> 2, NULL);
            if (!memcmp(expected, result, sizeof expected)) found = i;
        }
        CHECK(found >= 0);
        if (found >= 0) distinct += !seen[found]++;
    }
    CHECK(distinct == 8);
}

static void test_augment_draws(void)
{
    lensnet_augmentation a = lensnet_augmentation_defaults();
    double determinants = 0.0, lowest = 9.0, highest = 0.0, matrix[6], again[6];
    int hflips = 0, count = 4000, whole = 0, i;
    for (i = 0; i < count; i++) {
        double determinant, scale, angle, forward_x;
        CHECK(!lensnet_augment_matrix(matrix, 224, 224, NULL, 7, 3, (uint64_t)i, NULL));
        determinant = matrix[0] * matrix[4] - matrix[1] * matrix[3];
        scale = 1.0 / sqrt(fabs(determinant));
        lowest = scale < lowest ? scale : lowest;
        highest = scale > highest ? scale : highest;
        determinants += determinant > 0.0;
        angle = fabs(atan2(matrix[1], matrix[0])) * 57.29577951308232;
        if (angle > 90.0) hflips++;
        if (!((angle <= 30.0 + 1e-9 || angle >= 150.0 - 1e-9))) whole -= 1000;
        /* solve matrix (t, 1) = 0: the shift, whole pixels up to 22 */
        forward_x = (matrix[1] * matrix[5] - matrix[4] * matrix[2]) / determinant;
        if (fabs(forward_x - rint(forward_x)) < 1e-9 && fabs(forward_x) < 22.5) whole++;
    }
    CHECK(whole == count);
    CHECK(lowest > 0.9 - 1e-12 && lowest < 0.901 && highest < 1.1 && highest > 1.099);
    CHECK(fabs(hflips - count / 2.0) < 130 && fabs(determinants - count / 2.0) < 130);
    CHECK(!lensnet_augment_matrix(again, 224, 224, &a, 7, 3, (uint64_t)(count - 1), NULL));
    CHECK(!memcmp(matrix, again, sizeof matrix));
    CHECK(!lensnet_augment_matrix(again, 224, 224, &a, 7, 4, (uint64_t)(count - 1), NULL));
    CHECK(memcmp(matrix, again, sizeof matrix));
    CHECK(!lensnet_augment_matrix(again, 224, 224, &a, 8, 3, (uint64_t)(count - 1), NULL));
    CHECK(memcmp(matrix, again, sizeof matrix));
}

static void test_augment_errors(void)
{
    lensnet_augmentation a = lensnet_augmentation_defaults();
    double m[6];
    a.hflip_probability = NAN;
    CHECK(lensnet_augment_matrix(m, 9, 9, &a, 0, 0, 0, NULL) == LENSNET_ERROR_ARGUMENT);
    a = lensnet_augmentation_defaults();
    a.minimum_scale = 0.0;
    CHECK(lensnet_augment_matrix(m, 9, 9, &a, 0, 0, 0, NULL) == LENSNET_ERROR_ARGUMENT);
    a = lensnet_augmentation_defaults();
    a.maximum_scale = 0.5;
    CHECK(lensnet_augment_matrix(m, 9, 9, &a, 0, 0, 0, NULL) == LENSNET_ERROR_ARGUMENT);
    a = lensnet_augmentation_defaults();
    a.quarter_turns = 1;
    CHECK(lensnet_augment_matrix(m, 9, 8, &a, 0, 0, 0, NULL) == LENSNET_ERROR_SHAPE);
    CHECK(lensnet_augment_matrix(m, 9, 9, &a, 0, 0, 0, NULL) == LENSNET_OK);
}

static void test_normalise(void)
{
    float out[4] = {5, 5, 5, 5}, row[4] = {1, 2, 3, 4}, flat[4] = {0.1f, 0.1f, 0.1f, 0.1f};
    lensnet_error error;
    CHECK(!lensnet_normalise(result, lens, SIDE, SIDE, LENSNET_NORMALISATION_ZNORM, NULL));
    CHECK(distance("znorm_150_pop", result, 11) < 5e-7);
    CHECK(!lensnet_normalise(out, row, 2, 2, LENSNET_NORMALISATION_MINMAX, NULL));
    CHECK(out[0] == 0.0f && out[3] == 1.0f && fabs(out[1] - 1.0 / 3.0) < 1e-7);
    CHECK(!lensnet_normalise(out, flat, 2, 2, LENSNET_NORMALISATION_ZNORM, NULL));
    CHECK(out[0] == 0.0f && out[3] == 0.0f);
    CHECK(!lensnet_normalise(out, flat, 1, 1, LENSNET_NORMALISATION_MINMAX, NULL) &&
          out[0] == 0.0f);
    CHECK(!lensnet_normalise(out, row, 2, 2, LENSNET_NORMALISATION_IMAGENET, NULL));
    CHECK(!memcmp(out, row, sizeof out));
    row[2] = NAN;
    CHECK(lensnet_normalise(out, row, 2, 2, LENSNET_NORMALISATION_NONE, &error) ==
          LENSNET_ERROR_NUMBER);
    CHECK(strstr(error.text, "row 1, column 0") != NULL);
    row[2] = HUGE_VALF;
    CHECK(lensnet_normalise(out, row, 2, 2, LENSNET_NORMALISATION_ZNORM, NULL) ==
          LENSNET_ERROR_NUMBER);
    CHECK(lensnet_normalise(out, row, 2, 0, LENSNET_NORMALISATION_ZNORM, NULL) ==
          LENSNET_ERROR_SHAPE);
    CHECK(lensnet_normalise(out, row, 2, 2, (lensnet_normalisation)17, NULL) ==
          LENSNET_ERROR_ARGUMENT);
}

/* The network's input, (H, W, C), against sums over PyTorch's (C, H, W). */
static void check_pipeline(const char *name, lensnet_normalisation normalisation)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    char *pipeline = fixture_load("tests/fixtures/image/pipeline.txt", NULL), path[200];
    double sum = 0.0, square = 0.0, cosine = 0.0;
    int i, n = 3 * BIG * BIG;
    p.normalisation = normalisation;
    CHECK(lensnet_preprocess_scratch_bytes(&p, SIDE, SIDE) <= sizeof scratch);
    CHECK(!lensnet_preprocess_image(result, lens, SIDE, SIDE, &p, scratch, NULL));
    for (i = 0; i < n; i++) {
        double value = result[3 * (i % (BIG * BIG)) + i / (BIG * BIG)];
        sum += value;
        square += value * value;
        cosine += value * cos(0.001 * i);
    }
    snprintf(path, sizeof path, "%s_input_stats/sum", name);
    CHECK_CLOSE(sum, fixture_number(pipeline, path), 2e-2, path);
    snprintf(path, sizeof path, "%s_input_stats/l2", name);
    CHECK_CLOSE(sqrt(square), fixture_number(pipeline, path), 1e-4, path);
    snprintf(path, sizeof path, "%s_input_stats/cosdot", name);
    CHECK_CLOSE(cosine, fixture_number(pipeline, path), 1e-3, path);
    free(pipeline);
}

static void test_preprocess(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    static float planes[3 * BIG * BIG];
    int i;
    check_pipeline("imagenet", LENSNET_NORMALISATION_IMAGENET);
    for (i = 0; i < 3 * BIG * BIG; i++) planes[i] = result[3 * (i % (BIG * BIG)) + i / (BIG * BIG)];
    CHECK(distance("normalized_224", planes, 11) < 5e-6);
    check_pipeline("znorm", LENSNET_NORMALISATION_ZNORM);
    check_pipeline("raw", LENSNET_NORMALISATION_NONE);
    p.normalisation = LENSNET_NORMALISATION_MINMAX_IMAGENET;
    p.channels = 1;
    CHECK(!lensnet_preprocess_image(result, lens, SIDE, SIDE, &p, scratch, NULL));
    CHECK(result[0] > -0.449 / 0.226 - 1e-5 && result[0] < 0.551 / 0.226 + 1e-5);
}

/* the parts by hand: normalise, resize, augment, repeat; no byte of scratch is touched beyond what
 * was asked for, also when the image is larger than the input */
static void check_preprocess_parts(size_t height, size_t width, const float *pixels, int side)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    lensnet_augmentation a = lensnet_augmentation_defaults();
    static float parts[2][BIG * BIG];
    size_t bytes, n = (size_t)side, i, bad = 0;
    char *block;
    p.image_size = side;
    bytes = lensnet_preprocess_scratch_bytes(&p, height, width);
    block = (char *)malloc(bytes + 8);
    memset(block + bytes, 0x5A, 8);
    CHECK(
        !lensnet_preprocess_augmented(result, pixels, height, width, &p, &a, 1, 2, 3, block, NULL));
    lensnet_normalise(parts[0], pixels, height, width, p.normalisation, NULL);
    lensnet_resize(parts[1], parts[0], n, n, height, width, p.resize, scratch, NULL);
    lensnet_augment(parts[0], parts[1], n, n, &a, 1, 2, 3, NULL);
    for (i = 0; i < 3 * n * n; i++) bad += result[i] != parts[0][i / 3];
    for (i = 0; i < 8; i++) bad += block[bytes + i] != 0x5A;
    CHECK(bad == 0);
    free(block);
}

static void test_preprocess_edges(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    lensnet_resize_mode mode;
    lensnet_normalisation normalisation;
    lensnet_error error;
    float constant = 3.0f;
    int i;
    check_preprocess_parts(SIDE, SIDE, lens, BIG);
    check_preprocess_parts(BIG, BIG, large, 32);
    check_preprocess_parts(100, 60, lens, 33);
    CHECK(!lensnet_preprocess_image(result, &constant, 1, 1, &p, scratch, NULL));
    CHECK(result[0] == 0.0f && result[3 * BIG * BIG - 1] == 0.0f);
    CHECK(lensnet_preprocess_image(result, lens, SIDE, SIDE, &p, NULL, &error) ==
          LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_preprocess_image(result, lens, SIDE, 70000, &p, scratch, &error) ==
          LENSNET_ERROR_SHAPE);
    CHECK(lensnet_preprocess_scratch_bytes(&p, 0, 3) == 0);
    p.channels = 2;
    CHECK(lensnet_preprocess_check(&p, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_preprocess_scratch_bytes(&p, 3, 3) == 0);
    for (i = 0; i < 5; i++) {
        CHECK(!lensnet_resize_parse(&mode, lensnet_resize_text((lensnet_resize_mode)i), NULL));
        CHECK((int)mode == i);
        CHECK(!lensnet_normalisation_parse(
            &normalisation, lensnet_normalisation_text((lensnet_normalisation)i), NULL));
        CHECK((int)normalisation == i);
    }
    CHECK(lensnet_resize_text((lensnet_resize_mode)5) == NULL);
    CHECK(lensnet_normalisation_text((lensnet_normalisation)-1) == NULL);
    CHECK(lensnet_resize_parse(&mode, "Bilinear", &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_normalisation_parse(&normalisation, NULL, &error) == LENSNET_ERROR_ARGUMENT);
}

/* the bits of a preprocessed, augmented image (z-norm, resize, bilinear affine) */
static void test_frozen_bits(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    lensnet_augmentation a = lensnet_augmentation_defaults();
    uint64_t hash = 0xCBF29CE484222325u;
    size_t i;
    int shift;
    a.interpolation = LENSNET_INTERPOLATION_BILINEAR;
    a.shear = 5.0;
    CHECK(!lensnet_preprocess_augmented(result, lens, SIDE, SIDE, &p, &a, 1, 2, 3, scratch, NULL));
    for (i = 0; i < 3 * BIG * BIG; i++) {
        uint32_t word;
        memcpy(&word, &result[i], sizeof word);
        for (shift = 0; shift < 32; shift += 8)
            hash = (hash ^ (word >> shift & 255u)) * 0x100000001B3u;
    }
    printf("frozen 0x%016llXu\n", (unsigned long long)hash);
    CHECK(hash == 0x659F28BDDEED5965u);
}

static void report_speed(void)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    lensnet_augmentation a = lensnet_augmentation_defaults();
    clock_t start = clock();
    uint64_t i, count = 200;
    for (i = 0; i < count; i++)
        lensnet_preprocess_augmented(result, lens, SIDE, SIDE, &p, &a, 1, 2, i, scratch, NULL);
    printf("150 -> 224, augmented: %.0f images/s\n",
           (double)count * CLOCKS_PER_SEC / (double)(clock() - start));
}

int main(void)
{
    load(lens, "tests/fixtures/image/image_150.npy", SIDE * SIDE);
    load(large, "tests/fixtures/image/resize_bilinear_150_224.npy", BIG * BIG);
    test_resize();
    test_resize_sizes();
    test_resize_errors();
    test_affine();
    test_affine_errors();
    test_turn();
    test_augment_orientations();
    test_augment_draws();
    test_augment_errors();
    test_normalise();
    test_preprocess();
    test_preprocess_edges();
    test_frozen_bits();
    report_speed();
    return test_end();
}
