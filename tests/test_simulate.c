/* test_simulate.c - the simulator against lenstronomy's numbers, statistics, itself and bad input.
 *
 *     cc -O2 -fopenmp -I. tests/test_simulate.c -o build/test_simulate -lm && build/test_simulate
 *
 * Takes in the whole program tools/simulate.c, so that its sets, messages and failures are tested as
 * users see them. Writes into build/. */
#define main simulate_main
#include "tools/simulate.c"
#undef main
#include "tests/test.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#define FIXTURES "tests/fixtures/simulator/"

/* -------------------------------------------------------------------------------------------------
 * Reading fixtures
 * ---------------------------------------------------------------------------------------------- */

/* The numbers of a float64 .npy file of version 1; NULL and a failed check when there are not `count`. */
static double *read_npy(const char *path, size_t count)
{
    unsigned char head[10] = {0};
    double *values = (double *)malloc((count + 1) * sizeof(double));
    FILE *file = fopen(path, "rb");
    int good =
        values && file && fread(head, 1, 10, file) == 10 && memcmp(head, "\x93NUMPY\x01", 7) == 0;
    good = good && fseek(file, 10 + head[8] + 256 * head[9], SEEK_SET) == 0;
    good = good && fread(values, sizeof(double), count + 1, file) == count;
    if (file) fclose(file);
    test_check(good, path, __FILE__, __LINE__);
    if (good) return values;
    free(values);
    return NULL;
}

static double largest_relative(const double *a, const double *b, size_t count)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        double difference = fabs(a[i] - b[i]) / fabs(b[i]);
        if (!(difference <= worst)) worst = difference;
    }
    return worst;
}

/* -------------------------------------------------------------------------------------------------
 * Distances, masses
 * ---------------------------------------------------------------------------------------------- */

static void test_distances(void)
{
    static const double rows[5][6] = {
        /* z_l, z_s, comoving l, comoving s (Mpc), theta_E of 1e12: luminosity, angular */
        {0.5, 1.0, 1888.62539593342, 3303.8288058874705, 1.2814905676172945, 1.6645174508047742},
        {0.4, 0.8, 1551.5461950979236, 2787.669936659122, 1.4581498174717598, 1.8051235451469876},
        {0.4, 1.2, 1551.5461950979236, 3763.4313597326127, 1.6630039845448983, 2.0781932074299116},
        {0.6, 0.8, 2206.3705696711404, 2787.669936659122, 0.8269975242475213, 1.1097240110543285},
        {0.6, 1.2, 2206.3705696711404, 3763.4313597326127, 1.1503504976879053, 1.56313511061602},
    };
    sim_params p = sim_defaults(SIM_TEST_I);
    int i;
    for (i = 0; i < 5; i++) {
        const double *r = rows[i];
        CHECK_CLOSE(sim_comoving_distance(&p, r[0]), r[2], 1e-8, "comoving distance of the lens");
        CHECK_CLOSE(sim_comoving_distance(&p, r[1]), r[3], 1e-8, "comoving distance of the source");
        p.einstein = SIM_EINSTEIN_LUMINOSITY;
        CHECK_CLOSE(sim_einstein_radius(&p, 1e12, r[0], r[1]), r[4], 1e-11, "theta_E as published");
        p.einstein = SIM_EINSTEIN_ANGULAR;
        CHECK_CLOSE(sim_einstein_radius(&p, 1e12, r[0], r[1]), r[5], 1e-11, "theta_E of physics");
    }
    p.einstein = SIM_EINSTEIN_LUMINOSITY;
    CHECK_CLOSE(sim_einstein_radius(&p, 1e12, 0.47, 1.05), 1.391192176364581, 1e-11,
                "golden theta_E");
    CHECK_CLOSE(sim_einstein_radius(&p, 3e8, 0.5, 1.0), 0.022196067725334338, 1e-12,
                "theta_E of 3e8");
}

/* -------------------------------------------------------------------------------------------------
 * Profiles at ten places
 * ---------------------------------------------------------------------------------------------- */

enum { PLACES = 10, PLACES_ROOM = 16 };

typedef struct {
    double x[PLACES_ROOM], y[PLACES_ROOM], ax[PLACES_ROOM], ay[PLACES_ROOM], light[PLACES_ROOM];
} places;

/* A scene with nothing in it. */
static sim_scene empty_scene(double point[4])
{
    sim_scene s;
    memset(&s, 0, sizeof s);
    sim_scene_halo(&s, 0, 1, 0);
    s.x = point;
    s.y = point + 1;
    s.strength = point + 2;
    s.inverse_scale = point + 3;
    s.source_q = s.source_inverse_r2 = s.source_half_inverse = 1;
    s.source_nearest = 1e-300;
    s.source_farthest = 1e300;
    return s;
}

/* Shoots from the fixtures' places, moved so that (cx, cy) becomes the origin. */
static places shoot_places(const sim_scene *s, double cx, double cy)
{
    places p;
    double *points = read_npy(FIXTURES "points.npy", 2 * PLACES);
    int i;
    memset(&p, 0, sizeof p);
    for (i = 0; i < PLACES && points; i++) {
        p.x[i] = points[2 * i] - cx;
        p.y[i] = points[2 * i + 1] - cy;
    }
    free(points);
    sim_shoot(LENSNET_ISA_BEST)(s, p.ax, p.ay, p.light, p.x, p.y, PLACES_ROOM);
    return p;
}

static void check_deflection(const char *name, const sim_scene *s, double cx, double cy)
{
    char path[128];
    places p = shoot_places(s, cx, cy);
    double *expected;
    int i;
    snprintf(path, sizeof path, FIXTURES "alpha_%s.npy", name);
    expected = read_npy(path, 2 * PLACES);
    for (i = 0; i < PLACES && expected; i++) {
        CHECK_CLOSE(p.ax[i], expected[2 * i], 1e-12, name);
        CHECK_CLOSE(p.ay[i], expected[2 * i + 1], 1e-12, name);
    }
    free(expected);
}

/* (e1, e2) as axis ratio and angle in degrees */
static void ellipse(double *q, double *angle, double e1, double e2)
{
    double e = sqrt(e1 * e1 + e2 * e2);
    *q = (1 - e) / (1 + e);
    *angle = atan2(e2, e1) / 2 / SIM_DEGREE;
}

static void test_deflections(void)
{
    static const double sie[3][5] = {{1.2814905676, 0.1, 0, 0, 0},
                                     {1.5, -0.15, 0.2, 0.1, -0.05},
                                     {0.9, 0, 0.3, 0, 0}}; /* theta_E, e1, e2, centre */
    static const double sis[2][3] = {{1.2, 0, 0}, {1.5, 0.1, -0.05}};
    static const double shear[3][2] = {{0.05, 0}, {-0.1, 0.2}, {0.15, 0.02}};
    static const double mass[3][3] = {{0.1, 0.4, 0.2}, {0.02216, 0, 0}, {0.3, -1, 1}};
    double point[4] = {0, 0, 0, 1};
    char name[32];
    int i;
    for (i = 0; i < 3; i++) {
        sim_scene s = empty_scene(point);
        double q, angle;
        ellipse(&q, &angle, sie[i][1], sie[i][2]);
        sim_scene_halo(&s, sie[i][0], q, angle);
        snprintf(name, sizeof name, "SIE_%d", i);
        check_deflection(name, &s, sie[i][3], sie[i][4]);
    }
    for (i = 0; i < 2; i++) {
        sim_scene s = empty_scene(point);
        sim_scene_halo(&s, sis[i][0], 1, 0);
        snprintf(name, sizeof name, "SIS_%d", i);
        check_deflection(name, &s, sis[i][1], sis[i][2]);
    }
    for (i = 0; i < 3; i++) {
        sim_scene s = empty_scene(point);
        s.shear_1 = shear[i][0];
        s.shear_2 = shear[i][1];
        snprintf(name, sizeof name, "SHEAR_%d", i);
        check_deflection(name, &s, 0, 0);
    }
    for (i = 0; i < 3; i++) {
        sim_scene s = empty_scene(point);
        point[0] = mass[i][1];
        point[1] = mass[i][2];
        point[2] = mass[i][0] * mass[i][0];
        s.points = 1;
        snprintf(name, sizeof name, "POINT_MASS_%d", i);
        check_deflection(name, &s, 0, 0);
    }
    for (i = 0; i < 2; i++) {
        sim_scene s = empty_scene(point);
        point[0] = 0.2;
        point[1] = 0.1;
        point[2] = 0.1 * 0.5 / (1 - log(2)); /* 4 rho_0 R_s^3 from alpha(R_s) = 0.1, R_s = 0.5 */
        point[3] = 1 / 0.5;
        s.points = s.extended = 1;
        s.truncated = i;
        s.truncation = 2;
        s.inverse_enclosed = 1;
        check_deflection(i ? "TNFW_0" : "NFW_0", &s, 0, 0);
    }
}

/* A truncated NFW halo far inside its field acts as a point of its mass; an NFW halo as one at the
 * radius where its mass is counted; both have no kink at the scale radius. */
static void test_extended_mass(void)
{
    sim_params p = sim_defaults(SIM_TEST_I);
    double point[4] = {0, 0, 0.01, 20}; /* theta_E 0.1, R_s 0.05 */
    sim_scene s = empty_scene(point);
    places at;
    int kind;
    memset(&at, 0, sizeof at);
    s.points = s.extended = 1;
    for (kind = SIM_PROFILE_NFW; kind <= SIM_PROFILE_TNFW; kind++) {
        p.subhalo_profile = (sim_profile)kind;
        sim_scene_profile(&s, &p);
        at.x[0] = kind == SIM_PROFILE_NFW ? 0.05 * p.subhalo_truncation : 1e4;
        at.x[1] = 0.05 * (1 - 1.0001e-5);
        at.x[2] = 0.05 * (1 - 0.9999e-5);
        at.x[3] = 0.05;
        at.x[4] = 0.05 * (1 + 1.0001e-5);
        sim_shoot(LENSNET_ISA_BEST)(&s, at.ax, at.ay, at.light, at.x, at.y, PLACES_ROOM);
        CHECK_CLOSE(at.ax[0] * at.x[0], 0.01, kind == SIM_PROFILE_NFW ? 1e-14 : 1e-6, "whole mass");
        CHECK_CLOSE(at.ax[1] / at.ax[2], 1, 1e-9, "series meets formula below R_s");
        CHECK_CLOSE(at.ax[3] / at.ax[4], 1, 2e-5, "series meets formula above R_s");
    }
}

static void test_sersic(void)
{
    static const double sources[3][7] = {/* amplitude, R_e, n, e1, e2, centre */
                                         {20, 0.25, 1, -0.1, 0.1, 0.1, -0.2},
                                         {1, 0.5, 1.5, 0.2, 0.02, 0, 0},
                                         {5, 0.8, 4, 0, -0.25, 0.3, 0.3}};
    static const double fluxes[3] = {14.953718152249047, 3.574231086064846, 72.52733961523484};
    sim_params p = sim_defaults(SIM_MODEL_1);
    double point[4] = {0, 0, 0, 1};
    int i, k;
    for (i = 0; i < 3; i++) {
        const double *v = sources[i];
        double b = sim_sersic_b(SIM_SERSIC_LINEAR, v[2]), flux, *expected;
        sim_scene s = empty_scene(point);
        sim_truth t;
        char path[128];
        places at;
        memset(&t, 0, sizeof t);
        t.source_brightness = v[0];
        t.source_radius = v[1];
        t.source_index = v[2];
        ellipse(&t.source_q, &t.source_angle, v[3], v[4]);
        t.source_x = v[5];
        t.source_y = v[6];
        sim_scene_source(&s, &p, &t);
        at = shoot_places(&s, 0, 0);
        snprintf(path, sizeof path, FIXTURES "sersic_%d.npy", i);
        expected = read_npy(path, PLACES);
        for (k = 0; k < PLACES && expected; k++)
            CHECK_CLOSE(at.light[k] / expected[k], 1, 1e-12, path);
        free(expected);
        flux = v[0] * v[1] * v[1] * 2 * 3.141592653589793 * v[2] * exp(b) * pow(b, -2 * v[2]) *
               tgamma(2 * v[2]);
        CHECK_CLOSE(flux, fluxes[i], 1e-9, "total flux");
    }
    CHECK_CLOSE(sim_sersic_b(SIM_SERSIC_SERIES, 1.5), 2.6740719805943587, 1e-14, "b_1.5");
}

/* -------------------------------------------------------------------------------------------------
 * Images
 * ---------------------------------------------------------------------------------------------- */

static const double golden_subhalos[8][3] = {
    {9e9, 1.2, 0.4}, {4e9, -0.6, 1.1}, {1.5e9, 0.3, -1.3}, {6e8, -1.25, -0.3},
    {2e8, 0.8, 0.9}, {5e7, 1.7, -0.5}, {8e6, -0.2, 0.4},   {2e6, 0.1, -0.25}};

/* The golden images' lens, on top of a preset's fixed numbers. */
static void golden_truth(sim_truth *t, const sim_params *p, sim_preset preset, int label)
{
    int i;
    sim_draw(t, p, 0, label, 0);
    if (preset == SIM_TEST_I) {
        t->z_lens = 0.47;
        t->z_source = 1.05;
        t->shear = 0.14;
        t->shear_angle = 3.7;
        t->source_x = 0.21;
        t->source_y = -0.13;
        t->source_q = 0.62;
        t->source_angle = 2.4;
        t->vortex_mass = 0.042e12;
        t->vortex_x = 0.25;
        t->vortex_y = -0.35;
        t->vortex_length = 1.8;
        t->vortex_angle = 37;
    } else {
        t->source_x = 0.1;
        t->source_y = -0.2;
        t->exposure = 1;
        t->vortex_mass = 3e10;
        t->vortex_x = t->vortex_y = 0;
        t->vortex_length = 1.2;
        t->vortex_angle = 0.7 / SIM_DEGREE;
    }
    t->theta_e = sim_einstein_radius(p, t->halo_mass, t->z_lens, t->z_source);
    if (label != SIM_SPHERE) return;
    t->subhalos = 8;
    for (i = 0; i < 8; i++) {
        t->subhalo[i].mass = golden_subhalos[i][0];
        t->subhalo[i].x = golden_subhalos[i][1];
        t->subhalo[i].y = golden_subhalos[i][2];
    }
}

/* The golden image of these parameters; NULL if memory fails. The caller frees it. */
static double *golden_image(const sim_params *p, sim_preset preset, int label, double sky)
{
    double *image = (double *)malloc((size_t)p->height * (size_t)p->width * sizeof(double));
    sim_truth *truth = (sim_truth *)malloc(sizeof *truth);
    sim_workspace *w = NULL;
    lensnet_error error;
    CHECK(image && truth && sim_workspace_create(&w, p, LENSNET_ISA_BEST, &error) == LENSNET_OK);
    if (image && truth && w) {
        golden_truth(truth, p, preset, label);
        truth->sky = sky;
        sim_expected(image, w, truth);
    }
    sim_workspace_destroy(w);
    free(truth);
    return image;
}

static void check_image(const char *name, const double *image, int side)
{
    const int kept = (side + 2) / 4;
    double *expected, *mine = (double *)malloc((size_t)(kept * kept) * sizeof(double));
    char path[128];
    int i, j;
    snprintf(path, sizeof path, FIXTURES "%s.npy", name);
    expected = read_npy(path, (size_t)(kept * kept));
    for (i = 0; i < kept; i++)
        for (j = 0; j < kept; j++) mine[i * kept + j] = image[(4 * i + 1) * side + 4 * j + 1];
    if (expected)
        CHECK_CLOSE(largest_relative(mine, expected, (size_t)(kept * kept)), 0, 1e-11, name);
    free(expected);
    free(mine);
}

static double sum_of(const double *values, size_t count)
{
    double sum = 0;
    size_t i;
    for (i = 0; i < count; i++) sum += values[i];
    return sum;
}

static void test_images_test_i(void)
{
    static const double numbers[SIM_CLASSES][5] = {
        /* sum, four pixels */
        {1218156.2849049503, 147.15887407131058, 262.9925628383618, 60.105515594965524,
         20.136552578},
        {1228020.445708728, 132.34638843946712, 269.82958128336935, 61.72761457007321,
         20.339184494},
        {1250842.5969922093, 118.59635776379754, 302.70916232853125, 65.65114188342477,
         20.643497456}};
    static const int places_of[4] = {75 * 150 + 100, 50 * 150 + 75, 100 * 150 + 40, 75 * 150 + 149};
    char name[64];
    int label, k;
    for (label = 0; label < SIM_CLASSES; label++) {
        sim_params p = sim_defaults(SIM_TEST_I);
        double *image;
        p.vortex_points = 100;
        image = golden_image(&p, SIM_TEST_I, label, 10);
        snprintf(name, sizeof name, "testI_%s_expected_counts", sim_class_names[label]);
        check_image(name, image, 150);
        CHECK_CLOSE(sum_of(image, 22500) / numbers[label][0], 1, 1e-11, "sum");
        for (k = 0; k < 4; k++)
            CHECK_CLOSE(image[places_of[k]], numbers[label][k + 1], 1e-9, "a pixel");
        free(image);
        p.height = p.width = 160;
        p.psf_sigma = 0;
        image = golden_image(&p, SIM_TEST_I, label, 0);
        snprintf(name, sizeof name, "testI_%s_unconvolved160", sim_class_names[label]);
        check_image(name, image, 160);
        free(image);
    }
}

static void test_images_model_1(void)
{
    static const char *const kinds[3] = {"ss1", "ss4", "nopsf"};
    static const double sums[SIM_CLASSES] = {159.4968874718587, 163.13030440955353,
                                             160.17352055892434};
    char name[64];
    int label, kind;
    for (label = 0; label < SIM_CLASSES; label++) {
        for (kind = 0; kind < 3; kind++) {
            sim_params p = sim_defaults(SIM_MODEL_1);
            double *image;
            if (kind == 1) p.rays = 4;
            if (kind == 2) p.psf_sigma = 0;
            image = golden_image(&p, SIM_MODEL_1, label, 0);
            snprintf(name, sizeof name, "image_%s_modelI_%s", sim_class_names[label], kinds[kind]);
            check_image(name, image, 150);
            if (kind == 0) CHECK_CLOSE(sum_of(image, 22500), sums[label], 1e-9, "sum");
            free(image);
        }
    }
}

/* The maps agree with each other: over the pixels, convergence is half the deflection's divergence. */
static void test_maps(void)
{
    enum { SIDE = 101 };
    sim_params p = sim_defaults(SIM_TEST_I);
    const size_t plane = SIDE * SIDE;
    double *alpha = (double *)malloc(2 * plane * sizeof(double)), flux = 0, mass = 0, inside = 0;
    double *kappa = (double *)malloc(plane * sizeof(double));
    sim_truth *t = (sim_truth *)malloc(sizeof *t);
    sim_workspace *w;
    int profile, i, j;
    p.height = p.width = SIDE;
    p.halo_q.low = p.halo_q.high = 0.7;
    p.halo_angle.high = 90;
    for (profile = SIM_PROFILE_POINT; profile <= SIM_PROFILE_TNFW; profile++) {
        p.subhalo_profile = (sim_profile)profile;
        CHECK(sim_workspace_create(&w, &p, LENSNET_ISA_BEST, NULL) == LENSNET_OK);
        sim_draw(t, &p, 1, SIM_SPHERE, 0);
        sim_deflection_map(alpha, w, t);
        sim_convergence_map(kappa, w, t);
        sim_workspace_destroy(w);
        flux = mass = inside = 0;
        for (i = 0; i < SIDE; i++) { /* around the outermost pixels' centres; row 0 is on top */
            double weight = i == 0 || i == SIDE - 1 ? 0.5 : 1;
            flux += weight * (alpha[i * SIDE + SIDE - 1] - alpha[i * SIDE]);
            flux += weight *
                    (alpha[plane + (size_t)i] - alpha[plane + (size_t)((SIDE - 1) * SIDE + i)]);
            for (j = 0; j < SIDE; j++) {
                double across = j == 0 || j == SIDE - 1 ? 0.5 : 1;
                mass += weight * across * kappa[i * SIDE + j];
                inside += kappa[i * SIDE + j] < 0 || !(kappa[i * SIDE + j] < 1e6);
            }
        }
        CHECK_CLOSE(2 * mass * p.pixel_scale / flux, 1, 0.02, "mass of the convergence map");
        CHECK(inside == 0);
    }
    free(t);
    free(kappa);
    free(alpha);
}

/* -------------------------------------------------------------------------------------------------
 * The same bits
 * ---------------------------------------------------------------------------------------------- */

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *at = (const unsigned char *)data;
    size_t i;
    for (i = 0; i < bytes; i++) hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

static uint64_t hash_images(const sim_params *p, lensnet_isa cap, int label, int count)
{
    const size_t pixels = (size_t)p->height * (size_t)p->width;
    double *image = (double *)malloc(pixels * sizeof(double));
    uint64_t hash = 0xCBF29CE484222325u;
    sim_workspace *w;
    lensnet_error error;
    int i;
    if (sim_workspace_create(&w, p, cap, &error) != LENSNET_OK) {
        test_check(0, error.text, __FILE__, __LINE__);
        free(image);
        return 0;
    }
    for (i = 0; i < count; i++) {
        sim_image(image, NULL, w, 7, label, (uint64_t)i);
        hash = hash_bytes(hash, image, pixels * sizeof(double));
    }
    sim_workspace_destroy(w);
    free(image);
    return hash;
}

static void test_same_bits(void)
{
    static const uint64_t known[2][SIM_CLASSES] = {
        {0x753eb2d6ef1ff40eu, 0xf4072552fa6cd6c8u, 0xc027d0975c69744fu},
        {0x0898f1745384c807u, 0xcc446b7e8d85a71bu, 0x46bd5586422fcb8du}};
    int preset, label, isa;
    for (preset = 0; preset < 2; preset++) {
        sim_params p = sim_defaults((sim_preset)preset);
        for (label = 0; label < SIM_CLASSES; label++) {
            for (isa = LENSNET_ISA_PORTABLE; isa <= LENSNET_ISA_AVX512; isa++) {
                uint64_t hash = hash_images(&p, (lensnet_isa)isa, label, 4);
                if (hash != known[preset][label])
                    printf("preset %d class %d: 0x%016llx\n", preset, label,
                           (unsigned long long)hash);
                CHECK(hash == known[preset][label]);
            }
        }
    }
    { /* everything that the presets do not use, and sizes that fill no lane */
        sim_params p = sim_defaults(SIM_TEST_I);
        const uint64_t odd = 0x2daab18c2da389d4u;
        uint64_t first;
        p.height = 37;
        p.width = 51;
        p.rays = 2;
        p.halo_q.low = 0.5;
        p.subhalo_profile = SIM_PROFILE_TNFW;
        p.subhalo_law = SIM_NUMBER_POISSON;
        p.sky.low = p.sky.high = 3;
        p.noise = SIM_NOISE_TWICE;
        p.exposure.high = 2;
        p.psf_border = SIM_BORDER_REPEAT;
        first = hash_images(&p, LENSNET_ISA_PORTABLE, SIM_SPHERE, 4);
        CHECK(first == hash_images(&p, LENSNET_ISA_AVX2, SIM_SPHERE, 4));
        CHECK(first == hash_images(&p, LENSNET_ISA_AVX512, SIM_SPHERE, 4));
        if (first != odd) printf("odd case: 0x%016llx\n", (unsigned long long)first);
        CHECK(first == odd);
    }
}

/* In any order, in float, from a workspace that has just made something else. */
static void test_order(void)
{
    sim_params p = sim_defaults(SIM_TEST_I);
    const size_t bytes = 22500 * sizeof(double);
    double *first = (double *)malloc(3 * bytes), *again = (double *)malloc(bytes);
    float *single = (float *)malloc(22500 * sizeof(float));
    sim_workspace *w;
    int i;
    CHECK(sim_workspace_create(&w, &p, LENSNET_ISA_BEST, NULL) == LENSNET_OK);
    for (i = 0; i < 3; i++) sim_image(first + 22500 * i, NULL, w, 3, i, 5);
    for (i = 2; i >= 0; i--) {
        int k, different = 0;
        sim_image(again, NULL, w, 3, i, 5);
        CHECK(memcmp(again, first + 22500 * i, bytes) == 0);
        sim_image_float(single, NULL, w, 3, i, 5);
        for (k = 0; k < 22500; k++) different += single[k] != (float)again[k];
        CHECK(different == 0);
    }
    sim_image(again, NULL, w, 3, SIM_NO, 6);
    CHECK(memcmp(again, first, bytes) != 0);
    sim_image(again, NULL, w, 4, SIM_NO, 5);
    CHECK(memcmp(again, first, bytes) != 0);
    sim_workspace_destroy(w);
    free(single);
    free(again);
    free(first);
}

/* The map beside an image: expected counts with and without what makes the class, from their own calls. */
static void test_map(int label)
{
    sim_params p = sim_defaults(SIM_TEST_I);
    double *with = (double *)malloc(2 * 22500 * sizeof(double)), *without = with + 22500;
    float *image = (float *)malloc(3 * 22500 * sizeof(float)), *map = image + 22500;
    double worst = 0, most = 0;
    sim_truth truth;
    sim_workspace *w;
    int i;
    CHECK(sim_workspace_create(&w, &p, LENSNET_ISA_BEST, NULL) == LENSNET_OK);
    sim_image_mapped(image, map, w, 3, label, 5);
    sim_image_float(map + 22500, &truth, w, 3, label, 5);
    CHECK(!memcmp(image, map + 22500, 22500 * sizeof(float)));
    sim_expected(with, w, &truth);
    truth.subhalos = 0;
    truth.vortex_mass = 0;
    truth.label = SIM_NO;
    sim_expected(without, w, &truth);
    for (i = 0; i < 22500; i++) {
        const double wanted = (with[i] - without[i]) / sqrt(with[i]);
        if (fabs(wanted - (double)map[i]) > worst) worst = fabs(wanted - (double)map[i]);
        if (fabs(wanted) > most) most = fabs(wanted);
    }
    CHECK(label == SIM_NO ? most == 0 && worst == 0 : most > 1 && worst < 1e-5 * most);
    sim_workspace_destroy(w);
    free(image);
    free(with);
}

/* -------------------------------------------------------------------------------------------------
 * Random numbers: chi-square
 * ---------------------------------------------------------------------------------------------- */

/* P(chi-square with `freedom` degrees > x): incomplete gamma function, series or continued fraction. */
static double chi_square_p(double x, double freedom)
{
    double a = freedom / 2, z = x / 2, front, sum, term;
    int i;
    if (z <= 0) return 1;
    front = exp(-z + a * log(z) - lgamma(a));
    if (z < a + 1) {
        for (i = 1, sum = term = 1 / a; i < 10000; i++) sum += term *= z / (a + i);
        return 1 - front * sum;
    } else {
        double b = z + 1 - a, c = 1e300, d = 1 / b, h = d;
        for (i = 1; i < 10000; i++) {
            double an = -i * (i - a);
            b += 2;
            d = 1 / (an * d + b);
            c = b + an / c;
            h *= d * c;
        }
        return front * h;
    }
}

/* p of counts against expectations, neighbouring bins joined until at least 10 are expected. */
static double chi_square(const double *found, const double *expected, int bins)
{
    double sum = 0, have = 0, want = 0, last = 0;
    int i, used = 0;
    for (i = 0; i < bins; i++) {
        have += found[i];
        want += expected[i];
        if (want < 10 && i + 1 < bins) continue;
        last = (have - want) * (have - want) / (want > 0 ? want : 1);
        sum += last;
        used++;
        have = want = 0;
    }
    return chi_square_p(sum, used - 1);
}

static double poisson_p_value(double mean, uint64_t key)
{
    enum { DRAWS = 200000, BINS = 2000 };
    double *means = (double *)malloc(DRAWS * sizeof(double)),
           *counts = (double *)malloc(DRAWS * sizeof(double));
    double *found = (double *)calloc(BINS, sizeof(double)),
           *expected = (double *)calloc(BINS, sizeof(double));
    uint32_t *waiting = (uint32_t *)malloc((DRAWS + 8) * sizeof(uint32_t));
    double p;
    int i;
    for (i = 0; i < DRAWS; i++) means[i] = mean;
    sim_poisson(LENSNET_ISA_BEST)(counts, means, waiting, DRAWS, key);
    for (i = 0; i < DRAWS; i++) found[counts[i] < BINS - 1 ? (int)counts[i] : BINS - 1]++;
    for (i = 0; i < BINS; i++) expected[i] = DRAWS * exp(i * log(mean) - mean - lgamma(i + 1.0));
    p = chi_square(found, expected, BINS);
    free(waiting);
    free(expected);
    free(found);
    free(counts);
    free(means);
    return p;
}

static void test_poisson(void)
{
    static const double means[] = {0.1, 0.5, 1,  2,  5,   9.9, 10,  10.3, 12,
                                   17,  25,  40, 75, 150, 300, 600, 1000};
    enum { MEANS = sizeof means / sizeof *means };
    double least = 1;
    int i;
    for (i = 0; i < MEANS; i++) {
        double p = poisson_p_value(means[i], 1000 + (uint64_t)i);
        if (p < least) least = p;
    }
    printf("smallest of %d chi-square p-values of Poisson draws: %.3f\n", (int)MEANS, least);
    CHECK(least >= 0.05 / MEANS);
    {
        double zero[8] = {0, 0, 0, 0, 0, 0, 0, 0}, counts[8] = {1, 1, 1, 1, 1, 1, 1, 1};
        uint32_t waiting[16];
        sim_poisson(LENSNET_ISA_BEST)(counts, zero, waiting, 8, 1);
        for (i = 0; i < 8; i++) CHECK(counts[i] == 0);
    }
}

/* Rejection is exact only where its hat lies above the probabilities: alpha p(k) G'(u) <= 1. */
static void test_poisson_hat(void)
{
    double mean, worst = 0;
    for (mean = 10; mean < 1e6; mean *= 1.03) {
        double b = 0.931 + 2.53 * sqrt(mean), a = 0.02483 * b - 0.059,
               alpha = 1 / (1.1306434 + 1.1395968 / (b - 3.4));
        int i;
        for (i = 1; i < 4000; i++) {
            double u = i / 4000.0 - 0.5, us = 0.5 - fabs(u);
            double k = floor((2 * a / us + b) * u + mean + 0.43), p;
            if (k < 0) continue;
            p = exp(k * log(mean) - mean - lgamma(k + 1)) * (a / (us * us) + b) / (1 / alpha);
            if (p > worst) worst = p;
        }
    }
    printf("largest acceptance probability of the Poisson rejection: %.6f\n", worst);
    CHECK(worst <= 1);
}

static void test_uniform_and_normal(void)
{
    enum { DRAWS = 400000, BINS = 100 };
    double *first = (double *)malloc(DRAWS * sizeof(double)),
           *second = (double *)malloc(DRAWS * sizeof(double));
    double found[BINS], expected[BINS], least = 1, p, cross = 0;
    int which, i;
    sim_normal(LENSNET_ISA_BEST)(first, second, DRAWS, 12345);
    for (which = 0; which < 3; which++) {
        memset(found, 0, sizeof found);
        for (i = 0; i < BINS; i++) expected[i] = (double)DRAWS / BINS;
        for (i = 0; i < DRAWS; i++) {
            double u = which < 2 ? 0.5 * erfc(-(which ? second[i] : first[i]) / sqrt(2)) : 0;
            if (which == 2) {
                sim_v v = sim_uniform(99, sim_u_splat((uint64_t)i));
                memcpy(&u, &v, sizeof u);
            }
            CHECK(u > 0 && u < 1);
            found[(int)(u * BINS)]++;
        }
        p = chi_square(found, expected, BINS);
        if (p < least) least = p;
    }
    for (i = 0; i < DRAWS; i++) cross += first[i] * second[i];
    CHECK_CLOSE(cross / sqrt(DRAWS), 0, 3, "the two normal numbers of a pair are independent");
    printf("smallest of 3 chi-square p-values of uniform and normal draws: %.3f\n", least);
    CHECK(least >= 0.05 / 3);
    free(second);
    free(first);
}

/* -------------------------------------------------------------------------------------------------
 * Laws of the parameters
 * ---------------------------------------------------------------------------------------------- */

/* p of `count` numbers, which should be uniform in [0, 1] */
static double uniform_p_value(const double *u, int count)
{
    enum { BINS = 25 };
    double found[BINS] = {0}, expected[BINS];
    int i;
    for (i = 0; i < BINS; i++) expected[i] = (double)count / BINS;
    for (i = 0; i < count; i++) {
        CHECK(u[i] >= 0 && u[i] <= 1);
        found[u[i] < 1 ? (int)(u[i] * BINS) : BINS - 1]++;
    }
    return chi_square(found, expected, BINS);
}

static void test_laws(void)
{
    enum { IMAGES = 5000, LAWS = 12, SUBHALOS = 4 };
    const double turn = 6.283185307179586;
    double *u = (double *)malloc(LAWS * IMAGES * SUBHALOS * sizeof(double)), least = 1;
    sim_params p = sim_defaults(SIM_TEST_I);
    sim_truth *t = (sim_truth *)malloc(sizeof *t);
    int i, k, subhalos = 0;
#define LAW(n, index) u[(n)*IMAGES * SUBHALOS + (index)]
    for (i = 0; i < IMAGES; i++) {
        sim_draw(t, &p, 11, SIM_VORT, (uint64_t)i);
        LAW(0, i) = (t->z_lens - 0.4) / 0.2;
        LAW(1, i) = (t->z_source - 0.8) / 0.4;
        LAW(2, i) = t->shear / 0.3;
        LAW(3, i) = t->shear_angle / turn;
        LAW(4, i) = sqrt(t->source_x * t->source_x + t->source_y * t->source_y) / 0.5;
        LAW(5, i) = (t->source_q - 0.4) / 0.6;
        LAW(6, i) = (t->vortex_mass - 3e10) / 3e10;
        LAW(7, i) = (t->vortex_length - 0.96) / 2.88;
        LAW(8, i) = 0.5 * erfc(-t->vortex_x / 0.5 / sqrt(2));
        LAW(9, i) = t->vortex_angle / 360;
        sim_draw(t, &p, 11, SIM_SPHERE, (uint64_t)i);
        CHECK(t->subhalos == 25);
        for (k = 0; k < SUBHALOS; k++, subhalos++) {
            const sim_subhalo *h = &t->subhalo[6 * k];
            LAW(10, subhalos) = (pow(h->mass, 0.1) - pow(1e6, 0.1)) / (10 - pow(1e6, 0.1));
            LAW(11, subhalos) = sqrt(h->x * h->x + h->y * h->y) / 2;
        }
    }
#undef LAW
    for (i = 0; i < LAWS; i++) {
        double value = uniform_p_value(u + i * IMAGES * SUBHALOS, i < 10 ? IMAGES : subhalos);
        if (value < least) least = value;
    }
    printf("smallest of %d chi-square p-values of the testI laws: %.3f\n", (int)LAWS, least);
    CHECK(least >= 0.05 / LAWS);
    p.subhalo_law = SIM_NUMBER_POISSON;
    for (i = 0, k = 0; i < 400; i++) {
        sim_draw(t, &p, 12, SIM_SPHERE, (uint64_t)i);
        k += t->subhalos;
    }
    CHECK_CLOSE(k / 400.0, 25, 1, "mean of a Poisson number of subhalos");
    free(t);
    free(u);
}

/* Another sky or another number of subhalos leaves the lens and the galaxy as they are. */
static void test_what_if(void)
{
    sim_params p = sim_defaults(SIM_TEST_I), q = p;
    sim_truth *a = (sim_truth *)malloc(sizeof *a), *b = (sim_truth *)malloc(sizeof *b);
    q.sky.high = 50;
    q.subhalo_number = 3;
    sim_draw(a, &p, 5, SIM_SPHERE, 9);
    sim_draw(b, &q, 5, SIM_SPHERE, 9);
    CHECK(a->z_lens == b->z_lens && a->source_x == b->source_x && a->source_q == b->source_q);
    CHECK(b->subhalos == 3 && memcmp(a->subhalo, b->subhalo, 3 * sizeof(sim_subhalo)) == 0);
    CHECK(b->sky > 10 && b->sky < 50);
    free(b);
    free(a);
}

/* -------------------------------------------------------------------------------------------------
 * The program: sets and refusals
 * ---------------------------------------------------------------------------------------------- */

/* Runs the program on a command line; 1 and no text, or 0 and its sentence. */
static int run_line(lensnet_error *error, const char *line)
{
    static char text[1024];
    char *arguments[64], *word;
    int count = 0;
    job j;
    snprintf(text, sizeof text, "simulate %s", line);
    for (word = strtok(text, " "); word && count < 64; word = strtok(NULL, " "))
        arguments[count++] = word;
    error->text[0] = 0;
    return parse_arguments(&j, count, arguments, error) && asks(&j, error) && run_job(&j, error);
}

static void check_refused(const char *line, const char *expected)
{
    lensnet_error error;
    int good = run_line(&error, line) == 0 && strstr(error.text, expected) != NULL;
    test_check(good, line, __FILE__, __LINE__);
    if (!good) printf("  expected '%s' in '%s'\n", expected, error.text);
}

static void remove_tree(const char *path)
{
    char inside[1024];
    struct dirent *entry;
    DIR *folder = opendir(path);
    if (!folder) {
        remove(path);
        return;
    }
    while ((entry = readdir(folder)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        remove_tree(inside);
    }
    closedir(folder);
    remove(path);
}

static void test_refusals(void)
{
    static const char *const lines[][2] = {
        {"", "say where the images go"},
        {"build/none", "no images asked for"},
        {"build/none --train", "expected a value"},
        {"build/none --train x", "images per class"},
        {"build/none --train 1,2", "images per class"},
        {"build/none --train -3", "images per class"},
        {"build/none --halo-mass -1e12 --train 1", "halo-mass"},
        {"build/none --halo-mass nan --train 1", "halo-mass"},
        {"build/none --halo-mass 2e12:1e12 --train 1", "halo-mass"},
        {"build/none --z-source 0.5 --train 1", "behind every lens"},
        {"build/none --z-lens 0.4:0.9 --train 1", "behind every lens"},
        {"build/none --size 0 --train 1", "pixels"},
        {"build/none --size 5000 --train 1", "pixels"},
        {"build/none --pixel-scale 0 --train 1", "pixel-scale"},
        {"build/none --source-q 0:1 --train 1", "source-q"},
        {"build/none --source-radius 0 --train 1", "source-radius"},
        {"build/none --source-offset -1:1 --train 1", "square"},
        {"build/none --source-brightness 1e9 --train 1", "brightest pixel"},
        {"build/none --exposure 0 --train 1", "exposure"},
        {"build/none --subhalo-number 2.5 --train 1", "whole number"},
        {"build/none --subhalo-number 1001 --train 1", "subhalo-number"},
        {"build/none --subhalo-mass 0:1e9 --train 1", "subhalo-mass"},
        {"build/none --vortex-points 0 --train 1", "vortex-points"},
        {"build/none --vortex-length 0:1 --vortex-length-law log --train 1", "logarithmic"},
        {"build/none --rays 99 --train 1", "rays"},
        {"build/none --noise loud --train 1", "none poisson twice"},
        {"build/none --preset testII --train 1", "testI or model1"},
        {"build/none --seed -1 --train 1", "--seed"},
        {"build/none --threads 0 --train 1", "--threads"},
        {"build/none build/two --train 1", "one folder"},
        {"/proc/nowhere/set --train 1", "cannot make the folder"},
        {"--gallery /proc/nowhere/x.svg", "cannot be written"},
    };
    size_t i;
    for (i = 0; i < sizeof lines / sizeof *lines; i++) check_refused(lines[i][0], lines[i][1]);
    CHECK(!system_exists("build/none"));
}

static void test_set(void)
{
    lensnet_error error;
    double *file, *image = (double *)malloc(22500 * sizeof(double));
    float *change = (float *)malloc(2 * 22500 * sizeof(float));
    sim_params p = sim_defaults(SIM_TEST_I);
    sim_workspace *w;
    int i, same = 0;
    remove_tree("build/universe");
    CHECK(run_line(&error, "build/universe --train 2,1,3 --val 1 --seed 8 --threads 2 --maps"));
    CHECK(sim_workspace_create(&w, &p, LENSNET_ISA_BEST, NULL) == LENSNET_OK);
    file = read_npy("build/universe/train/vort/000002.npy", 22500);
    sim_image(image, NULL, w, 8, SIM_VORT, 2);
    CHECK(file && memcmp(file, image, 22500 * sizeof(double)) == 0);
    free(file);
    file = read_npy("build/universe/val/no/000000.npy", 22500);
    sim_image(image, NULL, w, 8, SIM_NO, SPLIT_STRIDE);
    CHECK(file && memcmp(file, image, 22500 * sizeof(double)) == 0);
    free(file);
    free(read_npy("build/universe/maps/train/sphere/000000-deflection.npy", 45000));
    free(read_npy("build/universe/maps/val/vort/000000-convergence.npy", 22500));
    sim_image_mapped(change, change + 22500, w, 8, SIM_SPHERE, 0);
    file = read_npy("build/universe/maps/train/sphere/000000-change.npy", 22500);
    for (i = 0; file && i < 22500; i++) same += file[i] == (double)change[22500 + i];
    CHECK(same == 22500);
    free(file);
    free(change);
    CHECK(system_exists("build/universe/truth.csv") &&
          !system_exists("build/universe/truth.csv.part"));
    CHECK(!system_exists("build/universe/test") &&
          !system_exists("build/universe/train/no/000002.npy"));
    check_refused("build/universe --train 1", "there already");
    sim_workspace_destroy(w);
    free(image);
    remove_tree("build/universe");
    CHECK(run_line(&error, "--gallery build/gallery.svg --preset model1 --size 20"));
    CHECK(system_exists("build/gallery.svg"));
    remove("build/gallery.svg");
}

/* A disk that fills up, played by a limit on the size of files: an image does not fit, or the table. */
static void test_full_disk(void)
{
    struct rlimit before, small;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    remove_tree("build/full");
    small.rlim_cur = 100000;
    setrlimit(RLIMIT_FSIZE, &small);
    check_refused("build/full --train 20 --threads 2", "0 of 60 images lie in build/full");
    CHECK(!system_exists("build/full/truth.csv") && system_exists("build/full/truth.csv.part"));
    CHECK(!system_exists("build/full/train/no/000000.npy") &&
          !system_exists("build/full/train/no/000000.npy.part"));
    remove_tree("build/full");
    small.rlim_cur = 1500;
    setrlimit(RLIMIT_FSIZE, &small);
    check_refused("build/full --train 20 --size 8 --float32", "The set is not complete: 60 of 60");
    CHECK(!system_exists("build/full/truth.csv"));
    setrlimit(RLIMIT_FSIZE, &before);
    remove_tree("build/full");
}

int main(void)
{
    mkdir("build", 0777);
    test_distances();
    test_deflections();
    test_extended_mass();
    test_sersic();
    test_images_test_i();
    test_images_model_1();
    test_maps();
    test_same_bits();
    test_order();
    test_map(SIM_NO);
    test_map(SIM_SPHERE);
    test_map(SIM_VORT);
    test_poisson();
    test_poisson_hat();
    test_uniform_and_normal();
    test_laws();
    test_what_if();
    test_refusals();
    test_set();
    test_full_disk();
    return test_end();
}
