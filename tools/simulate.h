/* simulate.h - images of galaxies behind gravitational lenses, drawn as fast as a network can learn.
 *
 *     #define LENSNET_IMPLEMENTATION
 *     #include "lensnet.h"
 *     #include "tools/simulate.h"
 *
 *     sim_params p = sim_defaults(SIM_TEST_I);
 *     sim_workspace *w;
 *     if (sim_workspace_create(&w, &p, LENSNET_ISA_BEST, &error)) ...
 *     sim_image_float(pixels, NULL, w, seed, SIM_SPHERE, index);    (height * width floats, no failure)
 *     sim_workspace_destroy(w);
 *
 * A halo bends the light of a Sersic galaxy far behind it into a ring; the classes differ in what
 * hangs in the halo: nothing (no), point-like clumps of cold dark matter (sphere), or the straight
 * string of a superfluid vortex (vort). Rays are shot backwards from each pixel, the deflections of
 * all masses add up in one plane, the picture is blurred, sky is added, photons are counted.
 *
 * Image `index` of a seed and a class is the same bits on every machine, with any compiler, vector
 * width and thread count, and depends on no other image: every random number is a hash of (seed,
 * class, index, what it is for), nothing but + - * / and sqrt touches a pixel, and no multiply-add is
 * contracted. Each random number has its own place, so with another sky or another number of
 * subhalos image `index` shows the same lens before the same galaxy.
 *
 * Contents:  >>parameters  >>truth  >>functions  |  >>lanes  >>elementary  >>deflections  >>light
 *            >>counting  >>drawing  >>laws  >>checks  >>workspace  >>images
 *
 * Sources: the recipe of the Common Test I images as measured from their pixels (preset testI), and
 * DeepLenseSim Model I (preset model1). Formulas: Narayan & Bartelmann 1996 (lensing), Kormann et al.
 * 1994 (SIE), Wright & Brainerd 2000 (NFW), Baltz et al. 2009 (truncated NFW), Ciotti & Bertin 1999
 * (Sersic b_n), Hoermann 1993 (PTRS, Poisson numbers). */
#ifndef SIMULATE_H
#define SIMULATE_H

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef LENSNET_H
#error "simulate.h: include lensnet.h first (errors, elementary functions, random numbers)"
#endif

#if defined(__GNUC__)
#define SIM_API                  static __attribute__((unused))
#define SIM_INLINE               static inline __attribute__((always_inline, unused))
#define SIM_PRINTF(text, values) __attribute__((unused, format(printf, text, values)))
#else
#define SIM_API    static
#define SIM_INLINE static inline
#define SIM_PRINTF(text, values)
#endif

#if defined(__clang__)
#pragma float_control(push)
#pragma STDC FP_CONTRACT OFF
#pragma clang diagnostic ignored "-Wpsabi"
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

/* -------------------------------------------------------------------------------------------------
 * >>parameters  What kind of universe. A range is drawn from uniformly unless its comment says
 * otherwise; low == high fixes the value. Angles are degrees, anticlockwise from +x, of the long axis.
 * Lengths on the sky are arcsec, masses solar masses.
 * ---------------------------------------------------------------------------------------------- */

#define SIM_CLASSES    3
#define SIM_POINTS_MAX 1000 /* the most subhalos of an image, and the most points of a vortex */

enum { SIM_NO, SIM_SPHERE, SIM_VORT };
static const char *const sim_class_names[SIM_CLASSES] = {"no", "sphere", "vort"};

typedef enum { SIM_TEST_I, SIM_MODEL_1 } sim_preset;

typedef struct {
    double low, high;
} sim_range;

/* How a mass becomes an Einstein radius (see sim_einstein_radius). */
typedef enum { SIM_EINSTEIN_LUMINOSITY, SIM_EINSTEIN_ANGULAR } sim_einstein;

/* Where the source's centre lies: distance from the halo's centre and direction drawn uniformly, or
 * x and y drawn uniformly. */
typedef enum { SIM_POSITION_POLAR, SIM_POSITION_SQUARE } sim_position;

/* Sersic's b_n: the asymptotic series, or the straight line lenstronomy uses (with its own limits
 * R >= 1e-5 arcsec and no light beyond 100 R_e). */
typedef enum { SIM_SERSIC_SERIES, SIM_SERSIC_LINEAR } sim_sersic;

/* What the blur sees beyond the frame: the sky that is really there, or the outermost pixel repeated. */
typedef enum { SIM_BORDER_RENDER, SIM_BORDER_REPEAT } sim_border;

/* None: expected counts. Poisson: one count per pixel. Twice: the counts that Model I draws from an
 * already noisy mean, max(0, mean + sqrt(mean) g1 + exposure background g2). */
typedef enum { SIM_NOISE_NONE, SIM_NOISE_POISSON, SIM_NOISE_TWICE } sim_noise;

typedef enum { SIM_NUMBER_FIXED, SIM_NUMBER_POISSON } sim_number;
typedef enum { SIM_LAW_UNIFORM, SIM_LAW_LOG } sim_law;

/* Subhalos: points; NFW halos whose mass is that inside the cylinder of the truncation radius; or
 * truncated NFW halos with that total mass. */
typedef enum { SIM_PROFILE_POINT, SIM_PROFILE_NFW, SIM_PROFILE_TNFW } sim_profile;

typedef struct {
    int height, width;  /* pixels, 1 ... 4096 */
    double pixel_scale; /* arcsec */
    int y_up;           /* 1: row 0 is the top of the sky; 0: y grows with the row */
    int rays;           /* rays * rays per pixel, 1 ... 16 */

    double hubble;       /* km/s/Mpc; flat universe without radiation */
    double omega_matter; /* 0 ... 1 */
    sim_einstein einstein;
    sim_range z_lens, z_source; /* every source lies behind every lens */

    sim_range halo_mass; /* of the main, singular isothermal halo at the centre of the field */
    sim_range halo_q;    /* axis ratio, above 0, at most 1 (a sphere) */
    sim_range halo_angle;
    sim_range shear;
    sim_range shear_angle;

    sim_position source_position;
    sim_range source_offset;     /* arcsec: distance (polar), or x and y (square) */
    sim_range source_radius;     /* effective radius R_e */
    sim_range source_index;      /* Sersic n, 0.3 ... 8 */
    sim_range source_brightness; /* at R_e, counts per pixel per unit of exposure */
    sim_range source_q;
    sim_range source_angle;
    sim_sersic source_sersic;

    double psf_sigma; /* Gaussian, arcsec; 0: no blur */
    int psf_radius;   /* pixels from the kernel's centre to its edge, 0 ... 64 */
    sim_border psf_border;

    sim_range sky;      /* counts per pixel per unit of exposure, added after the blur */
    sim_range exposure; /* multiplies source and sky; drawn uniformly in its logarithm */
    sim_noise noise;
    double background; /* of SIM_NOISE_TWICE, counts per pixel per unit of exposure */
    int normalise;     /* 1: (image - min) / (max - min); 0: counts */

    sim_number subhalo_law;
    double subhalo_number;      /* or their mean */
    sim_range subhalo_mass;     /* dN/dm proportional to m^slope */
    double subhalo_slope;       /* -0.9 */
    sim_range subhalo_distance; /* from the halo's centre, uniform, direction uniform */
    sim_profile subhalo_profile;
    double subhalo_scale;      /* NFW: scale radius of 1e8 solar masses, growing with mass^(1/3) */
    double subhalo_truncation; /* NFW: truncation radius in scale radii */

    sim_range vortex_mass;   /* of the whole string */
    sim_range vortex_length; /* from the first to the last point */
    sim_law vortex_length_law;
    int vortex_points;    /* equal masses, evenly spaced */
    double vortex_offset; /* standard deviation of the centre's x and y */
    sim_range vortex_angle;
} sim_params;

/* -------------------------------------------------------------------------------------------------
 * >>truth  What one image shows: every number that was drawn, in the units of the parameters.
 * ---------------------------------------------------------------------------------------------- */

typedef struct {
    double mass, x, y;
} sim_subhalo;

typedef struct {
    int label;            /* SIM_NO, SIM_SPHERE or SIM_VORT */
    uint64_t seed, index; /* what sim_draw was asked for */
    double z_lens, z_source;
    double halo_mass, halo_q, halo_angle;
    double theta_e; /* arcsec, of halo_mass */
    double shear, shear_angle;
    double source_x, source_y, source_radius, source_index, source_brightness, source_q,
        source_angle;
    double sky, exposure;
    int subhalos; /* 0 unless SIM_SPHERE */
    sim_subhalo subhalo[SIM_POINTS_MAX];
    double vortex_mass, vortex_x, vortex_y, vortex_length, vortex_angle; /* 0 unless SIM_VORT */
    double minimum, maximum; /* of the image before it was normalised */
} sim_truth;

/* -------------------------------------------------------------------------------------------------
 * >>functions  Create a workspace per thread, then draw. Only sim_check and sim_workspace_create can
 * fail: whatever passes them can be drawn.
 * ---------------------------------------------------------------------------------------------- */

/* Room for one image in the making, and a copy of the parameters. One thread at a time. */
typedef struct sim_workspace sim_workspace;

/* The parameters of a published recipe. */
SIM_API sim_params sim_defaults(sim_preset preset);

/* LENSNET_OK, or one sentence about the first parameter that cannot be. */
SIM_API lensnet_result sim_check(const sim_params *params, lensnet_error *error);

/* Checks `params` and takes the memory for one image (sim_workspace_bytes says how much). `cap` limits
 * the instruction set; it changes the speed, never a bit. */
SIM_API lensnet_result sim_workspace_create(sim_workspace **workspace, const sim_params *params,
                                            lensnet_isa cap, lensnet_error *error);
SIM_API void sim_workspace_destroy(sim_workspace *workspace); /* NULL is fine */
SIM_API size_t sim_workspace_bytes(const sim_params *params);

/* One image: draws, shoots, blurs, counts, normalises. `pixels` is height * width, rows from the top;
 * `truth` may be NULL. */
SIM_API void sim_image(double *pixels, sim_truth *truth, sim_workspace *workspace, uint64_t seed,
                       int label, uint64_t index);
SIM_API void sim_image_float(float *pixels, sim_truth *truth, sim_workspace *workspace,
                             uint64_t seed, int label, uint64_t index);

/* The same with its sim_change_map. It costs a second image. */
SIM_API void sim_image_mapped(float *pixels, float *map, sim_workspace *workspace, uint64_t seed,
                              int label, uint64_t index);

/* From now on the images of sim_image have subhalos and vortices `factor` times as heavy as drawn; 1 as
 * created. Nothing else changes. Exaggerated images are what a network learns to look from first. */
SIM_API void sim_workspace_exaggerate(sim_workspace *workspace, double factor);

/* The steps of sim_image, for those who want to choose the numbers themselves. */
SIM_API void sim_draw(sim_truth *truth, const sim_params *params, uint64_t seed, int label,
                      uint64_t index);
SIM_API void sim_expected(double *counts, sim_workspace *workspace, const sim_truth *truth);
SIM_API void sim_observe(double *pixels, sim_truth *truth, sim_workspace *workspace,
                         const double *expected);

/* Inside the lens: deflection (x then y, 2 * height * width, arcsec) and convergence (height * width,
 * mean over the pixel for point masses) at the pixels' centres. */
SIM_API void sim_deflection_map(double *deflection, sim_workspace *workspace,
                                const sim_truth *truth);
SIM_API void sim_convergence_map(double *convergence, sim_workspace *workspace,
                                 const sim_truth *truth);
/* What subhalos or the vortex change of the image (height * width): the expected counts with them less
 * those without, in standard deviations of a pixel's noise; 0 for class `no`. */
SIM_API void sim_change_map(float *change, sim_workspace *workspace, const sim_truth *truth);

/* Mpc. */
SIM_API double sim_comoving_distance(const sim_params *params, double z);
/* Arcsec: sqrt(4 G M / c^2 * D_ls / (D_l D_s)). SIM_EINSTEIN_ANGULAR takes angular-diameter distances.
 * SIM_EINSTEIN_LUMINOSITY takes luminosity distances and D_ls = D_s - D_l, which is not physics but is
 * what both published programs do, and what the rings of Common Test I follow. */
SIM_API double sim_einstein_radius(const sim_params *params, double mass, double z_lens,
                                   double z_source);
/* b of exp(-b ((R/R_e)^(1/n) - 1)), which puts half of the light inside R_e. */
SIM_API double sim_sersic_b(sim_sersic kind, double n);

/* -------------------------------------------------------------------------------------------------
 * >>lanes  Eight doubles at once, in C operators that gcc and clang lower to whatever the target has;
 * other compilers get one lane, and the same bits. Comparisons are done with sign bits, because
 * comparing wide vectors is what compilers take apart into scalars.
 * ---------------------------------------------------------------------------------------------- */

#if defined(__GNUC__) && !defined(SIM_SCALAR)
#define SIM_LANES 8
typedef double sim_v __attribute__((vector_size(64), aligned(8), may_alias));
typedef int64_t sim_i __attribute__((vector_size(64), aligned(8), may_alias));
typedef uint64_t sim_u __attribute__((vector_size(64), aligned(8), may_alias));
SIM_INLINE sim_v sim_v_of_u(sim_u u) { return (sim_v)u; }
SIM_INLINE sim_u sim_u_of_v(sim_v v) { return (sim_u)v; }
SIM_INLINE sim_u sim_u_sign(sim_v v) { return (sim_u)((sim_i)v >> 63); }
#else
#define SIM_LANES 1
typedef double sim_v;
typedef uint64_t sim_u;
SIM_INLINE sim_v sim_v_of_u(sim_u u)
{
    sim_v v;
    memcpy(&v, &u, sizeof v);
    return v;
}
SIM_INLINE sim_u sim_u_of_v(sim_v v)
{
    sim_u u;
    memcpy(&u, &v, sizeof u);
    return u;
}
SIM_INLINE sim_u sim_u_sign(sim_v v) { return (sim_u)0 - (sim_u_of_v(v) >> 63); }
#endif

/* x86 programs carry each kernel three times and choose when a workspace is created; on Windows only
 * once, for gcc aligns no stack for wide vectors there. */
#if SIM_LANES == 8 && defined(__x86_64__) && !defined(_WIN32)
#define SIM_DISPATCH 1
#else
#define SIM_DISPATCH 0
#endif

SIM_INLINE sim_v sim_load(const double *p) { return *(const sim_v *)p; }
SIM_INLINE void sim_store(double *p, sim_v v) { *(sim_v *)p = v; }

SIM_INLINE sim_v sim_splat(double x)
{
    sim_v v = {0};
    return v + x;
}

SIM_INLINE sim_u sim_u_splat(uint64_t x)
{
    sim_u u = {0};
    return u + x;
}

/* 0, 1, 2, ... in the lanes */
SIM_INLINE sim_u sim_u_lanes(void)
{
#if SIM_LANES == 8
    sim_u u = {0, 1, 2, 3, 4, 5, 6, 7};
    return u;
#else
    return 0;
#endif
}

SIM_INLINE sim_v sim_lanes(void)
{
#if SIM_LANES == 8
    sim_v v = {0, 1, 2, 3, 4, 5, 6, 7};
    return v;
#else
    return 0;
#endif
}

/* All bits where a < b, else none. Neither may be NaN. */
SIM_INLINE sim_u sim_less(sim_v a, sim_v b) { return sim_u_sign(a - b); }

SIM_INLINE sim_v sim_select(sim_u mask, sim_v yes, sim_v no)
{
    return sim_v_of_u((sim_u_of_v(yes) & mask) | (sim_u_of_v(no) & ~mask));
}

SIM_INLINE sim_v sim_v_max(sim_v a, sim_v b) { return sim_select(sim_less(a, b), b, a); }
SIM_INLINE sim_v sim_v_min(sim_v a, sim_v b) { return sim_select(sim_less(a, b), a, b); }
SIM_INLINE sim_v sim_abs(sim_v a)
{
    return sim_v_of_u(sim_u_of_v(a) & sim_u_splat(0x7FFFFFFFFFFFFFFFu));
}

/* The sign of `from` on the size of a. */
SIM_INLINE sim_v sim_with_sign(sim_v a, sim_v from)
{
    sim_u sign = sim_u_splat((uint64_t)1 << 63);
    return sim_v_of_u((sim_u_of_v(a) & ~sign) | (sim_u_of_v(from) & sign));
}

/* |x| < 2^51 */
SIM_INLINE sim_v sim_nearest(sim_v x) { return (x + 6755399441055744.0) - 6755399441055744.0; }
SIM_INLINE sim_v sim_floor(sim_v x)
{
    sim_v whole = sim_nearest(x);
    return whole - sim_v_of_u(sim_less(x, whole) & sim_u_of_v(sim_splat(1.0)));
}

/* Each kernel is written once, as name_body; this compiles it for every instruction set and gives a
 * function that returns the one to use. No target has more than + - * / in it, so no bit differs. */
#if SIM_DISPATCH
#define SIM_KERNEL(name, parameters, arguments)                                                    \
    __attribute__((target("avx512f,avx512dq"))) static void name##_avx512 parameters               \
    {                                                                                              \
        name##_body arguments;                                                                     \
    }                                                                                              \
    __attribute__((target("avx2"))) static void name##_avx2 parameters { name##_body arguments; }  \
    static void name##_portable parameters { name##_body arguments; }                              \
    SIM_API void(*name(lensnet_isa isa)) parameters                                                \
    {                                                                                              \
        if (isa >= LENSNET_ISA_AVX512) return name##_avx512;                                       \
        if (isa >= LENSNET_ISA_AVX2) return name##_avx2;                                           \
        return name##_portable;                                                                    \
    }
#else
#define SIM_KERNEL(name, parameters, arguments)                                                    \
    static void name##_portable parameters { name##_body arguments; }                              \
    SIM_API void(*name(lensnet_isa isa)) parameters                                                \
    {                                                                                              \
        (void)isa;                                                                                 \
        return name##_portable;                                                                    \
    }
#endif

/* -------------------------------------------------------------------------------------------------
 * >>elementary  exp, log, atan ... on lanes, about one unit in the last place, and random bits. The
 * series are Taylor's (arc tangent: a Chebyshev fit), on arguments reduced as usual.
 * ---------------------------------------------------------------------------------------------- */

/* 1 / sqrt(x) for normal x > 0: Newton's steps from a guess in the exponent. x = 0 gives a large
 * finite number, so that x * sim_rsqrt(x) is 0. */
SIM_INLINE sim_v sim_rsqrt(sim_v x)
{
    sim_v half = x * 0.5;
    sim_v y = sim_v_of_u(sim_u_splat(0x5FE6EB50C7B537A9u) - (sim_u_of_v(x) >> 1));
    y = y * (1.5 - half * y * y);
    y = y * (1.5 - half * y * y);
    y = y * (1.5 - half * y * y);
    y = y * (1.5 - half * y * y);
    return y;
}

/* e^x; x is taken for -700 below and for 700 above. */
SIM_INLINE sim_v sim_exp(sim_v x)
{
    const double shift = 6755399441055744.0;
    sim_v k, r, r2, r4, even, odd;
    sim_u power;
    x = sim_v_min(sim_v_max(x, sim_splat(-700.0)), sim_splat(700.0));
    k = x * 1.4426950408889634 + shift;
    power = sim_u_of_v(k) << 52;
    k = k - shift;
    r = (x - k * 0.6931471805598903) - k * 5.497923018708371e-14;
    r2 = r * r;
    r4 = r2 * r2;
    /* sum of r^i / i!, i = 0 ... 13, in four interleaved chains */
    even = (1.0 + r2 * 0.5) +
           r4 * ((1.0 / 24 + r2 * (1.0 / 720)) +
                 r4 * (1.0 / 40320 + r2 * (1.0 / 3628800) + r4 * (1.0 / 479001600)));
    odd = (1.0 + r2 * (1.0 / 6)) +
          r4 * ((1.0 / 120 + r2 * (1.0 / 5040)) +
                r4 * (1.0 / 362880 + r2 * (1.0 / 39916800) + r4 * (1.0 / 6227020800.0)));
    return sim_v_of_u(sim_u_of_v(even + r * odd) + power);
}

/* 2 atanh(s) / s = 2 (1 + s^2/3 + s^4/5 + ...) for |s| <= 0.172 */
SIM_INLINE sim_v sim_atanh_series(sim_v s)
{
    sim_v z = s * s, z2 = z * z, z4 = z2 * z2;
    return ((2.0 + z * (2.0 / 3)) + z2 * (2.0 / 5 + z * (2.0 / 7))) +
           z4 * (((2.0 / 9 + z * (2.0 / 11)) + z2 * (2.0 / 13 + z * (2.0 / 15))) +
                 z4 * ((2.0 / 17 + z * (2.0 / 19)) + z2 * (2.0 / 21)));
}

/* Splits a normal x > 0 into m * 2^exponent, m in [sqrt(1/2), sqrt(2)). */
SIM_INLINE sim_v sim_split(sim_v x, sim_v *exponent)
{
    const uint64_t root = 0x3FE6A09E667F3BCDu; /* sqrt(1/2) */
    const uint64_t bias = 0x3FFu + 0x400u; /* keeps the exponent positive until it is a double */
    sim_u shifted = sim_u_of_v(x) - root + (bias << 52);
    sim_u whole = shifted >> 52;
    *exponent = sim_v_of_u(whole | 0x4330000000000000u) - (4503599627370496.0 + (double)bias);
    return sim_v_of_u((shifted & 0x000FFFFFFFFFFFFFu) + root);
}

/* Natural logarithm of a normal x > 0. */
SIM_INLINE sim_v sim_log(sim_v x)
{
    sim_v exponent, m = sim_split(x, &exponent);
    sim_v s = (m - 1.0) / (m + 1.0);
    return exponent * 0.6931471805598903 +
           (s * sim_atanh_series(s) + exponent * 5.497923018708371e-14);
}

/* |x| < 1 */
SIM_INLINE sim_v sim_atanh(sim_v x)
{
    sim_u small = sim_less(sim_abs(x), sim_splat(0.17));
    sim_v far = sim_log((1.0 + x) / (1.0 - x));
    sim_v near = sim_select(small, x, sim_splat(0.0));
    return 0.5 * sim_select(small, near * sim_atanh_series(near), far);
}

SIM_INLINE sim_v sim_atan(sim_v x)
{
    const double tan_eighth = 0.41421356237309503, tan_three_eighths = 2.414213562373095;
    const sim_v one = sim_splat(1.0), zero = sim_splat(0.0);
    sim_v t = sim_abs(x);
    sim_u middle = sim_less(sim_splat(tan_eighth), t);
    sim_u high = sim_less(sim_splat(tan_three_eighths), t);
    sim_v up = sim_select(high, zero - one, sim_select(middle, t - one, t));
    sim_v down = sim_select(high, t, sim_select(middle, t + one, one));
    sim_v base = sim_select(high, sim_splat(1.5707963267948966),
                            sim_select(middle, sim_splat(0.7853981633974483), zero));
    sim_v s = up / down, z = s * s, z2 = z * z, z4 = z2 * z2;
    sim_v series = ((-0.33333333333333326 + z * 0.19999999999997012) +
                    z2 * (-0.1428571428532936 + z * 0.11111111085301238)) +
                   z4 * (((-0.0909090805829841 + z * 0.07692281083678901) +
                          z2 * (-0.06666205023178091 + z * 0.058768317098427496)) +
                         z4 * ((-0.05217297919655059 + z * 0.044994415067496046) +
                               z2 * (-0.03338645225903317 + z * 0.01511237643149517)));
    return sim_with_sign(base + (s + s * (z * series)), x);
}

/* cos and sin of 2 pi u, 0 <= u < 1 */
SIM_INLINE void sim_circle(sim_v *cosine, sim_v *sine, sim_v u)
{
    const double shift = 6755399441055744.0;
    sim_v k = u * 4.0 + shift;
    sim_u quarter = sim_u_of_v(k);
    sim_v r = (u - (k - shift) * 0.25) * 6.283185307179586;
    sim_v z = r * r, z2 = z * z, z4 = z2 * z2;
    sim_v c =
        ((1.0 - z * 0.5) + z2 * (1.0 / 24 - z * (1.0 / 720))) +
        z4 * ((1.0 / 40320 - z * (1.0 / 3628800)) +
              z2 * (1.0 / 479001600 - z * (1.0 / 87178291200.0)) + z4 * (1.0 / 20922789888000.0));
    sim_v s = r * (((1.0 - z * (1.0 / 6)) + z2 * (1.0 / 120 - z * (1.0 / 5040))) +
                   z4 * ((1.0 / 362880 - z * (1.0 / 39916800)) +
                         z2 * (1.0 / 6227020800.0 - z * (1.0 / 1307674368000.0))));
    sim_u swap = sim_u_splat(0) - (quarter & 1u);
    sim_u c_sign = ((quarter + 1u) & 2u) << 62, s_sign = (quarter & 2u) << 62;
    *cosine = sim_v_of_u(sim_u_of_v(sim_select(swap, s, c)) ^ c_sign);
    *sine = sim_v_of_u(sim_u_of_v(sim_select(swap, c, s)) ^ s_sign);
}

/* Number `counter` of splitmix64 from the state `key` (Steele, Lea & Flood 2014). */
SIM_INLINE sim_u sim_bits(uint64_t key, sim_u counter)
{
    sim_u z = counter * 0x9E3779B97F4A7C15u + key;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* The middles of 2^52 equal parts of (0, 1): never 0, never 1, symmetric. */
SIM_INLINE sim_v sim_uniform(uint64_t key, sim_u counter)
{
    sim_u bits = (sim_bits(key, counter) >> 12) | 0x3FF0000000000000u;
    return (sim_v_of_u(bits) - 1.0) + 1.1102230246251565e-16;
}

/* -------------------------------------------------------------------------------------------------
 * >>deflections  One lens plane: an isothermal halo, shear, and any number of point masses, the first
 * of which may be extended. Everything about one image, ready for the kernels.
 * ---------------------------------------------------------------------------------------------- */

typedef struct {
    /* pixel (row, column) has its centre at ((column - middle_x) * scale, (row - middle_y) * step_y) */
    int rows, columns, rays;
    size_t stride;
    double middle_x, middle_y, scale, step_y;

    /* halo: a singular isothermal sphere, or ellipsoid in its own axes */
    double theta_e;
    int elliptical;
    double halo_q, halo_cos, halo_sin;
    double halo_strength; /* theta_e sqrt(q) / sqrt(1 - q^2) */
    double halo_f;        /* sqrt(1 - q^2) */
    double halo_core;     /* 1e-10 / sqrt(q), as lenstronomy has it */

    double shear_1, shear_2;

    int points, extended;    /* the first `extended` points are NFW halos */
    double *x, *y;           /* arcsec */
    double *strength;        /* theta_E^2 */
    double *inverse_scale;   /* 1 / scale radius, extended points only */
    int truncated;           /* NFW halos end */
    double truncation;       /* in scale radii */
    double inverse_enclosed; /* 1 / sim_enclosed() at the radius where the mass is counted */

    double source_x, source_y, source_cos, source_sin, source_q;
    double source_inverse_r2;   /* 1 / R_e^2 */
    double source_half_inverse; /* 1 / (2 n) */
    double source_b, source_amplitude;
    double source_nearest, source_farthest; /* limits of (R / R_e)^2 */
} sim_scene;

/* Mass inside the cylinder of x scale radii, in units of 4 pi rho_0 R_s^3. */
SIM_INLINE sim_v sim_enclosed(const sim_scene *scene, sim_v x)
{
    const double pi = 3.141592653589793, t = scene->truncation;
    sim_v off = x - 1.0;
    sim_v d = sim_abs(1.0 - x * x), inverse = sim_rsqrt(d), y = d * inverse;
    sim_u inside = sim_u_sign(off);
    sim_v angle = sim_select(inside, sim_log((1.0 + y) / x), sim_atan(y));
    sim_v f = sim_select(sim_less(sim_abs(off), sim_splat(1e-5)),
                         1.0 - off * (2.0 / 3) + off * off * (7.0 / 15), angle * inverse);
    if (!scene->truncated) return sim_log(x * 0.5) + f;
    {
        double t2 = t * t, factor = t2 / ((t2 + 1) * (t2 + 1));
        sim_v outer = x * x + t2, root = outer * sim_rsqrt(outer);
        sim_v l = sim_log(x / (root + t));
        return factor * ((t2 + 1 + 2 * (x * x - 1.0)) * f + (t * pi + (t2 - 1) * lensnet_log(t)) +
                         root * (l * ((t2 - 1) / t) - pi));
    }
}

/* Adds the deflection of points first ... scene->extended. */
SIM_INLINE void sim_deflect_extended(sim_v *ax, sim_v *ay, const sim_scene *scene, sim_v x, sim_v y)
{
    int i;
    for (i = 0; i < scene->extended; i++) {
        sim_v dx = x - scene->x[i], dy = y - scene->y[i];
        sim_v r2 = dx * dx + dy * dy + 1e-50;
        sim_v radius = r2 * sim_rsqrt(r2) * scene->inverse_scale[i];
        sim_v part = sim_enclosed(scene, radius) * scene->inverse_enclosed;
        sim_v factor = scene->strength[i] * part / r2;
        *ax += factor * dx;
        *ay += factor * dy;
    }
}

/* Point masses: theta_E^2 (x, y) / r^2; at the point itself nothing. Two share a division, which is
 * what this loop spends its time on. */
SIM_INLINE void sim_deflect_points(sim_v *ax, sim_v *ay, const sim_scene *scene, sim_v x, sim_v y)
{
    int i;
    for (i = scene->extended; i + 1 < scene->points; i += 2) {
        sim_v dx = x - scene->x[i], dy = y - scene->y[i];
        sim_v ex = x - scene->x[i + 1], ey = y - scene->y[i + 1];
        sim_v d2 = dx * dx + dy * dy + 1e-50, e2 = ex * ex + ey * ey + 1e-50;
        sim_v inverse = 1.0 / (d2 * e2);
        sim_v d = e2 * inverse * scene->strength[i], e = d2 * inverse * scene->strength[i + 1];
        *ax += d * dx + e * ex;
        *ay += d * dy + e * ey;
    }
    if (i < scene->points) {
        sim_v dx = x - scene->x[i], dy = y - scene->y[i];
        sim_v factor = scene->strength[i] / (dx * dx + dy * dy + 1e-50);
        *ax += factor * dx;
        *ay += factor * dy;
    }
}

SIM_INLINE void sim_deflect_halo(sim_v *ax, sim_v *ay, const sim_scene *scene, sim_v x, sim_v y)
{
    const double c = scene->halo_cos, s = scene->halo_sin, q = scene->halo_q;
    if (!scene->elliptical) {
        sim_v r2 = x * x + y * y, factor = scene->theta_e * sim_rsqrt(r2);
        *ax = factor * x;
        *ay = factor * y;
    } else {
        sim_v u = c * x + s * y, v = c * y - s * x;
        double core = scene->halo_core;
        sim_v psi2 = q * q * (core * core + u * u) + v * v;
        sim_v psi = psi2 * sim_rsqrt(psi2);
        sim_v au = scene->halo_strength * sim_atan(scene->halo_f * u / (psi + core));
        sim_v av = scene->halo_strength * sim_atanh(scene->halo_f * v / (psi + q * q * core));
        *ax = c * au - s * av;
        *ay = s * au + c * av;
    }
}

SIM_INLINE void sim_deflect(sim_v *ax, sim_v *ay, const sim_scene *scene, sim_v x, sim_v y)
{
    sim_deflect_halo(ax, ay, scene, x, y);
    *ax += scene->shear_1 * x + scene->shear_2 * y;
    *ay += scene->shear_2 * x - scene->shear_1 * y;
    sim_deflect_extended(ax, ay, scene, x, y);
    sim_deflect_points(ax, ay, scene, x, y);
}

/* -------------------------------------------------------------------------------------------------
 * >>light  Brightness of the source, pixels, blur.
 * ---------------------------------------------------------------------------------------------- */

/* Sersic: (R / R_e)^(1/n) is taken from the square of R, so that there is no root. */
SIM_INLINE sim_v sim_brightness(const sim_scene *scene, sim_v x, sim_v y)
{
    const double c = scene->source_cos, s = scene->source_sin, q = scene->source_q;
    sim_v dx = x - scene->source_x, dy = y - scene->source_y;
    sim_v u = c * dx + s * dy, v = c * dy - s * dx;
    sim_v r2 = (q * u * u + v * v / q) * scene->source_inverse_r2;
    sim_v power = sim_exp(sim_log(sim_v_max(r2, sim_splat(scene->source_nearest))) *
                          scene->source_half_inverse);
    sim_v light = scene->source_amplitude * sim_exp((1.0 - power) * scene->source_b);
    return sim_v_of_u(sim_u_of_v(light) & ~sim_less(sim_splat(scene->source_farthest), r2));
}

/* Deflection (any of the outputs may be the same array) and lensed brightness at n places, n a
 * multiple of 8. */
SIM_INLINE void sim_shoot_body(const sim_scene *scene, double *ax, double *ay, double *light,
                               const double *x, const double *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i += SIM_LANES) {
        sim_v px = sim_load(x + i), py = sim_load(y + i), dx, dy, brightness;
        sim_deflect(&dx, &dy, scene, px, py);
        brightness = sim_brightness(scene, px - dx, py - dy);
        sim_store(ax + i, dx);
        sim_store(ay + i, dy);
        sim_store(light + i, brightness);
    }
}
SIM_KERNEL(sim_shoot,
           (const sim_scene *scene, double *ax, double *ay, double *light, const double *x,
            const double *y, size_t n),
           (scene, ax, ay, light, x, y, n))

/* Mean brightness over the rays of every pixel; columns are rounded up to whole lanes. */
SIM_INLINE void sim_render_body(const sim_scene *scene, double *frame)
{
    const int rays = scene->rays;
    const double share = 1.0 / (rays * rays);
    int row, column, i, j;
    for (row = 0; row < scene->rows; row++) {
        for (column = 0; column < scene->columns; column += SIM_LANES) {
            sim_v sum = sim_splat(0.0);
            for (i = 0; i < rays; i++) {
                double shift = (i + 0.5) / rays - 0.5;
                sim_v y = sim_splat((row - scene->middle_y + shift) * scene->step_y);
                for (j = 0; j < rays; j++) {
                    double start = column - scene->middle_x;
                    sim_v x = (sim_lanes() + start + ((j + 0.5) / rays - 0.5)) * scene->scale;
                    sim_v ax, ay;
                    sim_deflect(&ax, &ay, scene, x, y);
                    sum += sim_brightness(scene, x - ax, y - ay);
                }
            }
            sim_store(frame + (size_t)row * scene->stride + column, sum * share);
        }
    }
}
SIM_KERNEL(sim_render, (const sim_scene *scene, double *frame), (scene, frame))

/* Separable symmetric kernel over a frame that has `radius` more pixels on every side than `image`.
 * The last lanes of a row spill into the next one, which is written later, or behind the end. */
SIM_INLINE void sim_blur_body(double *image, double *rows, const double *frame,
                              const double *weights, int height, int width, int radius,
                              size_t stride)
{
    const size_t padded = ((size_t)width + 7) / 8 * 8;
    int i, k;
    size_t j;
    for (i = 0; i < height + 2 * radius; i++) {
        const double *in = frame + (size_t)i * stride + radius;
        double *out = rows + (size_t)i * padded;
        for (j = 0; j < padded; j += SIM_LANES) {
            sim_v sum = sim_load(in + j) * weights[0];
            for (k = 1; k <= radius; k++)
                sum += (sim_load(in + j - k) + sim_load(in + j + k)) * weights[k];
            sim_store(out + j, sum);
        }
    }
    for (i = 0; i < height; i++) {
        const double *in = rows + (size_t)(i + radius) * padded;
        double *out = image + (size_t)i * (size_t)width;
        for (j = 0; j < padded; j += SIM_LANES) {
            sim_v sum = sim_load(in + j) * weights[0];
            for (k = 1; k <= radius; k++) {
                size_t step = (size_t)k * padded;
                sum += (sim_load(in + j - step) + sim_load(in + j + step)) * weights[k];
            }
            sim_store(out + j, sum);
        }
    }
}
SIM_KERNEL(sim_blur,
           (double *image, double *rows, const double *frame, const double *weights, int height,
            int width, int radius, size_t stride),
           (image, rows, frame, weights, height, width, radius, stride))

/* -------------------------------------------------------------------------------------------------
 * >>counting  Photons. Poisson numbers are exact: from a mean of 10 by transformed rejection (PTRS)
 * with the whole acceptance test in lanes, below by summing probabilities until they pass a uniform
 * number. Arrays have room for, and finite numbers in, a multiple of 8.
 * ---------------------------------------------------------------------------------------------- */

#define SIM_POISSON_SMALL 10.0

/* Where a draw's uniform number stands in the key's sequence: attempt, element, first or second. */
#define SIM_ATTEMPT_SHIFT 40

/* One attempt per lane for means from 10 to 1e9: the number, and all bits where it is accepted. The
 * published 1 / alpha is too small by up to 0.57 %, where the hat cuts p(k); here it is 0.6 % larger.
 * The test V h(U) <= p(k) is squared, to need no root; k! is taken from (k + 8)!, where four terms of
 * Stirling's series leave an error of 1e-11. */
SIM_INLINE sim_u sim_poisson_try(sim_v *number, sim_v mean, uint64_t key, sim_u counter)
{
    sim_v root = mean * sim_rsqrt(mean);
    sim_v b = 0.931 + 2.53 * root, a = 0.02483 * b - 0.059;
    sim_v inverse_alpha = 1.1306434 + 1.1395968 / (b - 3.4);
    sim_v u = sim_uniform(key, counter) - 0.5, v = sim_uniform(key, counter + 1u);
    sim_v inverse_us = 1.0 / (0.5 - sim_abs(u));
    sim_v k = sim_floor((2.0 * a * inverse_us + b) * u + mean + 0.43);
    sim_v top = 4.0 * mean + 100.0; /* beyond, p < 1e-40 */
    sim_u outside = sim_u_sign(k) | sim_less(top, k);
    sim_v n = sim_v_min(sim_v_max(k, sim_splat(0.0)), top) + 8.0; /* shifted, and safe */
    sim_v inverse = 1.0 / n, z = inverse * inverse;
    sim_v stirling = inverse * (1.0 / 12 - z * (1.0 / 360 - z * (1.0 / 1260 - z * (1.0 / 1680))));
    sim_v exponent = n * sim_log(mean * inverse) + (n - mean) - stirling;
    sim_v t = (n - 8.0) * (n + 1.0);                                    /* k (k + 9) */
    sim_v product = (t + 8.0) * (t + 14.0) * ((t + 18.0) * (t + 20.0)); /* (k + 8)! / k! */
    sim_v m2 = mean * mean, m4 = m2 * m2, m8 = m4 * m4;
    sim_v left = v * inverse_alpha * m8;
    sim_v right = (a * inverse_us * inverse_us + b) * product;
    sim_u rejected =
        sim_less(right * right * sim_exp(2.0 * exponent), left * left * (n * 6.283185307179586));
    *number = k;
    return ~(rejected | outside);
}

/* mean < 10 */
SIM_API double sim_poisson_small(double mean, uint64_t key, uint64_t element)
{
    sim_u bits = sim_bits(key, sim_u_splat(2 * element));
    uint64_t first;
    double uniform, p = lensnet_exp(-mean), sum = p;
    int k = 0;
    memcpy(&first, &bits, sizeof first);
    uniform = (double)(first >> 11) * 1.1102230246251565e-16;
    while (uniform >= sum && k < 200) {
        k++;
        p *= mean / k;
        sum += p;
    }
    return k;
}

SIM_INLINE void sim_poisson_body(double *counts, const double *means, uint32_t *waiting, size_t n,
                                 uint64_t key)
{
    size_t left = 0, i, lane, kept;
    uint64_t attempt;
    for (i = 0; i < n; i += SIM_LANES) {
        sim_v number, mean = sim_v_max(sim_load(means + i), sim_splat(SIM_POISSON_SMALL));
        sim_u good = sim_poisson_try(&number, mean, key, (sim_u_lanes() + (uint64_t)i) * 2u);
        uint64_t accepted[SIM_LANES];
        memcpy(accepted, &good, sizeof accepted);
        sim_store(counts + i, number);
        for (lane = 0; lane < SIM_LANES; lane++) {
            waiting[left] = (uint32_t)(i + lane);
            left += !accepted[lane];
        }
    }
    for (attempt = 1; left && attempt < 1000; attempt++) {
        for (i = 0, kept = 0; i < left; i += SIM_LANES) {
            size_t here = left - i < SIM_LANES ? left - i : SIM_LANES;
            uint32_t element[SIM_LANES];
            double mean[SIM_LANES], found[SIM_LANES];
            uint64_t counter[SIM_LANES], accepted[SIM_LANES];
            sim_v number;
            sim_u at, good;
            for (lane = 0; lane < SIM_LANES; lane++) {
                element[lane] = waiting[lane < here ? i + lane : i];
                mean[lane] = means[element[lane]];
                counter[lane] = (attempt << SIM_ATTEMPT_SHIFT) + 2 * (uint64_t)element[lane];
            }
            memcpy(&at, counter, sizeof at);
            good = sim_poisson_try(&number, sim_v_max(sim_load(mean), sim_splat(SIM_POISSON_SMALL)),
                                   key, at);
            memcpy(accepted, &good, sizeof accepted);
            memcpy(found, &number, sizeof found);
            for (lane = 0; lane < here; lane++) {
                counts[element[lane]] = found[lane];
                waiting[kept] = element[lane];
                kept += !accepted[lane];
            }
        }
        left = kept;
    }
    for (i = 0; i < n; i++)
        if (means[i] < SIM_POISSON_SMALL) counts[i] = sim_poisson_small(means[i], key, i);
}
SIM_KERNEL(sim_poisson,
           (double *counts, const double *means, uint32_t *waiting, size_t n, uint64_t key),
           (counts, means, waiting, n, key))

/* Two independent normal numbers per element (Box & Muller 1958). */
SIM_INLINE void sim_normal_body(double *first, double *second, size_t n, uint64_t key)
{
    size_t i;
    for (i = 0; i < n; i += SIM_LANES) {
        sim_u counter = (sim_u_lanes() + (uint64_t)i) * 2u;
        sim_v minus_log = sim_log(sim_uniform(key, counter)) * -2.0, cosine, sine, radius;
        radius = minus_log * sim_rsqrt(minus_log);
        sim_circle(&cosine, &sine, sim_uniform(key, counter + 1u));
        sim_store(first + i, radius * cosine);
        sim_store(second + i, radius * sine);
    }
}
SIM_KERNEL(sim_normal, (double *first, double *second, size_t n, uint64_t key),
           (first, second, n, key))

/* Model I's noisy mean, max(0, mean + sqrt(mean) first + background second), into `means`. */
SIM_INLINE void sim_noisy_means_body(double *means, const double *first, const double *second,
                                     size_t n, double background)
{
    size_t i;
    for (i = 0; i < n; i += SIM_LANES) {
        sim_v mean = sim_load(means + i), root = mean * sim_rsqrt(mean);
        sim_v noisy = mean + root * sim_load(first + i) + background * sim_load(second + i);
        sim_store(means + i, sim_v_max(noisy, sim_splat(0.0)));
    }
}
SIM_KERNEL(sim_noisy_means,
           (double *means, const double *first, const double *second, size_t n, double background),
           (means, first, second, n, background))

/* -------------------------------------------------------------------------------------------------
 * >>laws  Distances, masses, profiles: double precision, one number at a time.
 * ---------------------------------------------------------------------------------------------- */

#define SIM_LIGHT_SPEED    299792458.0           /* m/s */
#define SIM_GRAVITY        6.6743e-11            /* m^3 / (kg s^2) */
#define SIM_SUN            1.988409870698051e30  /* kg */
#define SIM_MEGAPARSEC     3.0856775814913673e22 /* m */
#define SIM_ARCSEC         206264.80624709636    /* per radian */
#define SIM_ARCSEC_ROUNDED 206265.0              /* what both published programs use */
#define SIM_DEGREE         0.017453292519943295  /* radian */

static double sim_inverse_expansion(double omega_matter, double z)
{
    double a = 1 + z;
    return 1 / sqrt(omega_matter * a * a * a + 1 - omega_matter);
}

SIM_API double sim_comoving_distance(const sim_params *params, double z)
{
    /* Boole's rule: weights 7, 32, 12, 32 and 14, 32, 12, 32 ... 7 */
    const int intervals = 100;
    const double om = params->omega_matter, h = z / intervals;
    double odd = 0, two = 0, four = 0, ends;
    int i;
    for (i = 1; i < intervals; i += 2) odd += sim_inverse_expansion(om, i * h);
    for (i = 2; i < intervals; i += 4) two += sim_inverse_expansion(om, i * h);
    for (i = 4; i < intervals; i += 4) four += sim_inverse_expansion(om, i * h);
    ends = sim_inverse_expansion(om, 0) + sim_inverse_expansion(om, z);
    return SIM_LIGHT_SPEED / 1000 / params->hubble *
           ((7 * ends + 32 * odd + 12 * two + 14 * four) * h * (2.0 / 45));
}

SIM_API double sim_einstein_radius(const sim_params *params, double mass, double z_lens,
                                   double z_source)
{
    double lens = sim_comoving_distance(params, z_lens);
    double source = sim_comoving_distance(params, z_source);
    const double length =
        4 * SIM_GRAVITY * SIM_SUN / (SIM_LIGHT_SPEED * SIM_LIGHT_SPEED) / SIM_MEGAPARSEC;
    if (params->einstein == SIM_EINSTEIN_ANGULAR) {
        double ratio = (source - lens) * (1 + z_lens) / (lens * source);
        return sqrt(length * mass * ratio) * SIM_ARCSEC;
    }
    lens *= 1 + z_lens;
    source *= 1 + z_source;
    return sqrt(length * mass * (source - lens) / (lens * source)) * SIM_ARCSEC_ROUNDED;
}

SIM_API double sim_sersic_b(sim_sersic kind, double n)
{
    double r = 1 / n, b;
    if (kind == SIM_SERSIC_LINEAR) {
        b = 1.9992 * n - 0.3271;
        return b > 1e-5 ? b : 1e-5;
    }
    return 2 * n - 1.0 / 3 +
           r * (4.0 / 405 +
                r * (46.0 / 25515 + r * (131.0 / 1148175 - r * (2194697.0 / 30690717750.0))));
}

SIM_API sim_params sim_defaults(sim_preset preset)
{
    const double turn = 6.283185307179586; /* radians that the recipes' programs read as degrees */
    const int first = preset == SIM_TEST_I;
    sim_params p;
    memset(&p, 0, sizeof p);
#define SIM_SET(range, from, to) (p.range.low = (from), p.range.high = (to))
    p.height = p.width = 150;
    p.pixel_scale = 0.05;
    p.y_up = first;
    p.rays = 1;
    p.hubble = 70;
    p.omega_matter = 0.3;
    p.einstein = SIM_EINSTEIN_LUMINOSITY;
    SIM_SET(halo_mass, 1e12, 1e12);
    p.subhalo_law = SIM_NUMBER_FIXED;
    p.subhalo_number = 25;
    SIM_SET(subhalo_mass, 1e6, 1e10);
    p.subhalo_slope = -0.9;
    p.subhalo_profile = SIM_PROFILE_POINT;
    p.subhalo_scale = 0.05;
    p.subhalo_truncation = 5;
    SIM_SET(vortex_angle, 0, 360);
    if (first) {
        SIM_SET(z_lens, 0.4, 0.6);
        SIM_SET(z_source, 0.8, 1.2);
        SIM_SET(halo_q, 1, 1);
        SIM_SET(shear, 0, 0.3);
        SIM_SET(shear_angle, 0, turn);
        p.source_position = SIM_POSITION_POLAR;
        SIM_SET(source_offset, 0, 0.5);
        SIM_SET(source_radius, 0.5, 0.5);
        SIM_SET(source_index, 1.5, 1.5);
        SIM_SET(source_brightness, 100, 100);
        SIM_SET(source_q, 0.4, 1);
        SIM_SET(source_angle, 0, turn);
        p.source_sersic = SIM_SERSIC_SERIES;
        p.psf_sigma = 0.087;
        p.psf_radius = 5;
        p.psf_border = SIM_BORDER_RENDER;
        SIM_SET(sky, 10, 10);
        SIM_SET(exposure, 1, 1);
        p.noise = SIM_NOISE_POISSON;
        p.normalise = 1;
        SIM_SET(subhalo_distance, 0, 2);
        SIM_SET(vortex_mass, 3e10, 6e10);
        SIM_SET(vortex_length, 0.96, 3.84);
        p.vortex_length_law = SIM_LAW_UNIFORM;
        p.vortex_points = 25;
        p.vortex_offset = 0.5;
    } else {
        const double e = 0.14142135623730950; /* of the source: e1 -0.1, e2 0.1 */
        SIM_SET(z_lens, 0.5, 0.5);
        SIM_SET(z_source, 1, 1);
        SIM_SET(halo_q, 0.9 / 1.1, 0.9 / 1.1); /* e1 0.1, e2 0 */
        SIM_SET(shear, 0.05, 0.05);
        p.source_position = SIM_POSITION_SQUARE;
        SIM_SET(source_offset, -0.35, 0.35);
        SIM_SET(source_radius, 0.25, 0.25);
        SIM_SET(source_index, 1, 1);
        SIM_SET(source_brightness, 0.05, 0.05); /* 20 per arcsec^2 */
        SIM_SET(source_q, (1 - e) / (1 + e), (1 - e) / (1 + e));
        SIM_SET(source_angle, 67.5, 67.5);
        p.source_sersic = SIM_SERSIC_LINEAR;
        p.psf_sigma = 0.087 / 2.3548200450309493;
        p.psf_radius = 3;
        p.psf_border = SIM_BORDER_REPEAT;
        SIM_SET(exposure, 1e3, 3162.2776601683795);
        p.noise = SIM_NOISE_TWICE;
        p.background = 0.01;
        SIM_SET(subhalo_distance, 0.25, 2);
        SIM_SET(vortex_mass, 3e10, 3e10);
        SIM_SET(vortex_length, 0.06,
                6); /* twice 0.03 (1e-22 eV / axion mass), 1e-24 ... 1e-22 eV */
        p.vortex_length_law = SIM_LAW_LOG;
        p.vortex_points = 100;
    }
#undef SIM_SET
    return p;
}

/* -------------------------------------------------------------------------------------------------
 * >>drawing  Random numbers become a lens. The places of the numbers below are part of what "image
 * number i" means: append, never reorder.
 * ---------------------------------------------------------------------------------------------- */

enum {
    SIM_STREAM_LENS,
    SIM_STREAM_SUBHALOS,
    SIM_STREAM_COUNTS,
    SIM_STREAM_NORMALS,
    SIM_STREAM_NUMBER,
    SIM_STREAM_CENTRE
};

enum {
    SIM_PLACE_Z_LENS,
    SIM_PLACE_Z_SOURCE,
    SIM_PLACE_HALO_MASS,
    SIM_PLACE_HALO_Q,
    SIM_PLACE_HALO_ANGLE,
    SIM_PLACE_SHEAR,
    SIM_PLACE_SHEAR_ANGLE,
    SIM_PLACE_SOURCE_1,
    SIM_PLACE_SOURCE_2,
    SIM_PLACE_SOURCE_RADIUS,
    SIM_PLACE_SOURCE_INDEX,
    SIM_PLACE_SOURCE_BRIGHTNESS,
    SIM_PLACE_SOURCE_Q,
    SIM_PLACE_SOURCE_ANGLE,
    SIM_PLACE_SKY,
    SIM_PLACE_EXPOSURE,
    SIM_PLACE_VORTEX_MASS,
    SIM_PLACE_VORTEX_LENGTH,
    SIM_PLACE_VORTEX_ANGLE
};

static uint64_t sim_key(uint64_t seed, int label, uint64_t index)
{
    return lensnet_random_bits(seed, (uint64_t)label, index);
}

static double sim_between(sim_range range, double uniform)
{
    return range.low + (range.high - range.low) * uniform;
}

static double sim_between_log(sim_range range, double uniform)
{
    if (range.low == range.high) return range.low;
    return range.low * lensnet_exp(uniform * lensnet_log(range.high / range.low));
}

/* dN/dm proportional to m^slope */
static double sim_between_power(sim_range range, double slope, double uniform)
{
    double e = 1 + slope, low, high;
    if (fabs(e) < 1e-9) return sim_between_log(range, uniform);
    low = lensnet_pow(range.low, e);
    high = lensnet_pow(range.high, e);
    return lensnet_pow(low + (high - low) * uniform, 1 / e);
}

static double sim_pick(uint64_t key, int place, sim_range range)
{
    return sim_between(range, lensnet_random_uniform(key, SIM_STREAM_LENS, (uint64_t)place));
}

static double sim_poisson_one(double mean, uint64_t key)
{
    double means[8], counts[8];
    uint32_t waiting[8];
    int i;
    for (i = 0; i < 8; i++) means[i] = mean;
    sim_poisson(LENSNET_ISA_PORTABLE)(counts, means, waiting, 8, key);
    return counts[0];
}

static void sim_draw_subhalos(sim_truth *truth, const sim_params *p, uint64_t key)
{
    double number = p->subhalo_number;
    int i;
    if (p->subhalo_law == SIM_NUMBER_POISSON)
        number = sim_poisson_one(number, lensnet_random_bits(key, SIM_STREAM_NUMBER, 0));
    truth->subhalos = number < SIM_POINTS_MAX ? (int)number : SIM_POINTS_MAX;
    for (i = 0; i < truth->subhalos; i++) {
        uint64_t at = 3 * (uint64_t)i;
        double mass = lensnet_random_uniform(key, SIM_STREAM_SUBHALOS, at);
        double radius = lensnet_random_uniform(key, SIM_STREAM_SUBHALOS, at + 1);
        double angle = lensnet_random_uniform(key, SIM_STREAM_SUBHALOS, at + 2) * 6.283185307179586;
        radius = sim_between(p->subhalo_distance, radius);
        truth->subhalo[i].mass = sim_between_power(p->subhalo_mass, p->subhalo_slope, mass);
        truth->subhalo[i].x = radius * lensnet_cos(angle);
        truth->subhalo[i].y = radius * lensnet_sin(angle);
    }
}

static void sim_draw_vortex(sim_truth *truth, const sim_params *p, uint64_t key)
{
    double length = lensnet_random_uniform(key, SIM_STREAM_LENS, SIM_PLACE_VORTEX_LENGTH);
    truth->vortex_mass = sim_pick(key, SIM_PLACE_VORTEX_MASS, p->vortex_mass);
    truth->vortex_length = p->vortex_length_law == SIM_LAW_LOG
                               ? sim_between_log(p->vortex_length, length)
                               : sim_between(p->vortex_length, length);
    truth->vortex_x = p->vortex_offset * lensnet_random_normal(key, SIM_STREAM_CENTRE, 0);
    truth->vortex_y = p->vortex_offset * lensnet_random_normal(key, SIM_STREAM_CENTRE, 1);
    truth->vortex_angle = sim_pick(key, SIM_PLACE_VORTEX_ANGLE, p->vortex_angle);
}

SIM_API void sim_draw(sim_truth *truth, const sim_params *p, uint64_t seed, int label,
                      uint64_t index)
{
    const uint64_t key = sim_key(seed, label, index);
    memset(truth, 0, offsetof(sim_truth, subhalo));
    truth->label = label;
    truth->seed = seed;
    truth->index = index;
    truth->z_lens = sim_pick(key, SIM_PLACE_Z_LENS, p->z_lens);
    truth->z_source = sim_pick(key, SIM_PLACE_Z_SOURCE, p->z_source);
    truth->halo_mass = sim_pick(key, SIM_PLACE_HALO_MASS, p->halo_mass);
    truth->theta_e = sim_einstein_radius(p, truth->halo_mass, truth->z_lens, truth->z_source);
    truth->halo_q = sim_pick(key, SIM_PLACE_HALO_Q, p->halo_q);
    truth->halo_angle = sim_pick(key, SIM_PLACE_HALO_ANGLE, p->halo_angle);
    truth->shear = sim_pick(key, SIM_PLACE_SHEAR, p->shear);
    truth->shear_angle = sim_pick(key, SIM_PLACE_SHEAR_ANGLE, p->shear_angle);
    truth->source_x = sim_pick(key, SIM_PLACE_SOURCE_1, p->source_offset);
    if (p->source_position == SIM_POSITION_SQUARE) {
        truth->source_y = sim_pick(key, SIM_PLACE_SOURCE_2, p->source_offset);
    } else {
        double radius = truth->source_x;
        double angle =
            lensnet_random_uniform(key, SIM_STREAM_LENS, SIM_PLACE_SOURCE_2) * 6.283185307179586;
        truth->source_x = radius * lensnet_cos(angle);
        truth->source_y = radius * lensnet_sin(angle);
    }
    truth->source_radius = sim_pick(key, SIM_PLACE_SOURCE_RADIUS, p->source_radius);
    truth->source_index = sim_pick(key, SIM_PLACE_SOURCE_INDEX, p->source_index);
    truth->source_brightness = sim_pick(key, SIM_PLACE_SOURCE_BRIGHTNESS, p->source_brightness);
    truth->source_q = sim_pick(key, SIM_PLACE_SOURCE_Q, p->source_q);
    truth->source_angle = sim_pick(key, SIM_PLACE_SOURCE_ANGLE, p->source_angle);
    truth->sky = sim_pick(key, SIM_PLACE_SKY, p->sky);
    truth->exposure = sim_between_log(
        p->exposure, lensnet_random_uniform(key, SIM_STREAM_LENS, SIM_PLACE_EXPOSURE));
    truth->vortex_mass = truth->vortex_x = truth->vortex_y = 0;
    truth->vortex_length = truth->vortex_angle = 0;
    truth->minimum = truth->maximum = 0;
    if (label == SIM_SPHERE) sim_draw_subhalos(truth, p, key);
    if (label == SIM_VORT) sim_draw_vortex(truth, p, key);
}

/* -------------------------------------------------------------------------------------------------
 * >>checks  One sentence about the first parameter that cannot be.
 * ---------------------------------------------------------------------------------------------- */

SIM_PRINTF(3, 4)
static lensnet_result sim_fail(lensnet_error *error, lensnet_result code, const char *format, ...)
{
    if (error) {
        va_list values;
        error->code = code;
        va_start(values, format);
        vsnprintf(error->text, sizeof error->text, format, values);
        va_end(values);
    }
    return code;
}

/* What a range may hold, ends included. */
typedef struct {
    const char *name;
    size_t place; /* of the sim_range in sim_params */
    double least, most;
} sim_limit;

static lensnet_result sim_check_ranges(const sim_params *p, lensnet_error *error)
{
    static const sim_limit limits[] = {
        {"z-lens", offsetof(sim_params, z_lens), 1e-3, 20},
        {"z-source", offsetof(sim_params, z_source), 1e-3, 20},
        {"halo-mass", offsetof(sim_params, halo_mass), 0, 1e16},
        {"halo-q", offsetof(sim_params, halo_q), 0.05, 1},
        {"halo-angle", offsetof(sim_params, halo_angle), -720, 720},
        {"shear", offsetof(sim_params, shear), 0, 0.9},
        {"shear-angle", offsetof(sim_params, shear_angle), -720, 720},
        {"source-offset", offsetof(sim_params, source_offset), -1e3, 1e3},
        {"source-radius", offsetof(sim_params, source_radius), 1e-3, 1e3},
        {"source-index", offsetof(sim_params, source_index), 0.3, 8},
        {"source-brightness", offsetof(sim_params, source_brightness), 0, 1e9},
        {"source-q", offsetof(sim_params, source_q), 0.05, 1},
        {"source-angle", offsetof(sim_params, source_angle), -720, 720},
        {"sky", offsetof(sim_params, sky), 0, 1e9},
        {"exposure", offsetof(sim_params, exposure), 1e-9, 1e9},
        {"subhalo-mass", offsetof(sim_params, subhalo_mass), 1, 1e13},
        {"subhalo-distance", offsetof(sim_params, subhalo_distance), 0, 1e3},
        {"vortex-mass", offsetof(sim_params, vortex_mass), 0, 1e14},
        {"vortex-length", offsetof(sim_params, vortex_length), 0, 1e3},
        {"vortex-angle", offsetof(sim_params, vortex_angle), -720, 720},
    };
    size_t i;
    for (i = 0; i < sizeof limits / sizeof *limits; i++) {
        const sim_limit *limit = &limits[i];
        sim_range range;
        memcpy(&range, (const char *)p + limit->place, sizeof range);
        if (!(range.low >= limit->least && range.low <= range.high && range.high <= limit->most))
            return sim_fail(error, LENSNET_ERROR_ARGUMENT,
                            "%s: expected LOW:HIGH within %g:%g, found %g:%g", limit->name,
                            limit->least, limit->most, range.low, range.high);
    }
    return LENSNET_OK;
}

static lensnet_result sim_check_number(lensnet_error *error, const char *name, double value,
                                       double least, double most)
{
    if (value >= least && value <= most) return LENSNET_OK;
    return sim_fail(error, LENSNET_ERROR_ARGUMENT,
                    "%s: expected a number within %g ... %g, found %g", name, least, most, value);
}

static lensnet_result sim_check_numbers(const sim_params *p, lensnet_error *error)
{
    const double subhalos =
        p->subhalo_law == SIM_NUMBER_FIXED ? SIM_POINTS_MAX : SIM_POINTS_MAX / 2;
    lensnet_result bad;
    if ((bad = sim_check_number(error, "height in pixels", p->height, 1, 4096)) ||
        (bad = sim_check_number(error, "width in pixels", p->width, 1, 4096)) ||
        (bad = sim_check_number(error, "pixel-scale", p->pixel_scale, 1e-4, 100)) ||
        (bad = sim_check_number(error, "rays", p->rays, 1, 16)) ||
        (bad = sim_check_number(error, "hubble", p->hubble, 1, 1000)) ||
        (bad = sim_check_number(error, "omega-matter", p->omega_matter, 0, 1)) ||
        (bad = sim_check_number(error, "psf-sigma", p->psf_sigma, 0, 100)) ||
        (bad = sim_check_number(error, "psf-radius", p->psf_radius, 0, 64)) ||
        (bad = sim_check_number(error, "background", p->background, 0, 1e9)) ||
        (bad = sim_check_number(error, "subhalo-number", p->subhalo_number, 0, subhalos)) ||
        (bad = sim_check_number(error, "subhalo-slope", p->subhalo_slope, -10, 10)) ||
        (bad = sim_check_number(error, "subhalo-scale", p->subhalo_scale, 1e-6, 100)) ||
        (bad = sim_check_number(error, "subhalo-truncation", p->subhalo_truncation, 0.01, 1e4)) ||
        (bad = sim_check_number(error, "vortex-points", p->vortex_points, 1, SIM_POINTS_MAX)) ||
        (bad = sim_check_number(error, "vortex-offset", p->vortex_offset, 0, 1e3)))
        return bad;
    return LENSNET_OK;
}

SIM_API lensnet_result sim_check(const sim_params *p, lensnet_error *error)
{
    lensnet_result bad;
    double peak;
    if (!p) return sim_fail(error, LENSNET_ERROR_ARGUMENT, "expected parameters, found NULL");
    if ((bad = sim_check_ranges(p, error)) || (bad = sim_check_numbers(p, error))) return bad;
    if (p->z_source.low <= p->z_lens.high)
        return sim_fail(
            error, LENSNET_ERROR_ARGUMENT,
            "expected every source behind every lens, found z-source from %g and z-lens "
            "up to %g",
            p->z_source.low, p->z_lens.high);
    if (p->source_position == SIM_POSITION_POLAR && p->source_offset.low < 0)
        return sim_fail(
            error, LENSNET_ERROR_ARGUMENT,
            "source-offset: expected a distance of 0 or more, found %g (or did you mean "
            "the position law 'square'?)",
            p->source_offset.low);
    if (p->subhalo_law == SIM_NUMBER_FIXED && p->subhalo_number != floor(p->subhalo_number))
        return sim_fail(
            error, LENSNET_ERROR_ARGUMENT,
            "subhalo-number: expected a whole number, found %g (or did you mean the number "
            "law 'poisson'?)",
            p->subhalo_number);
    if (p->vortex_length_law == SIM_LAW_LOG && p->vortex_length.low <= 0)
        return sim_fail(error, LENSNET_ERROR_ARGUMENT,
                        "vortex-length: a logarithmic law needs lengths above 0, found %g",
                        p->vortex_length.low);
    peak = p->source_brightness.high *
           lensnet_exp(sim_sersic_b(p->source_sersic, p->source_index.high));
    peak = (peak + p->sky.high + p->background) * p->exposure.high;
    if (!(peak <= 1e9))
        return sim_fail(
            error, LENSNET_ERROR_ARGUMENT,
            "the brightest pixel could hold %.3g counts, expected at most 1e9: lower the "
            "exposure, sky, source-brightness or source-index",
            peak);
    return LENSNET_OK;
}

/* -------------------------------------------------------------------------------------------------
 * >>workspace  Everything an image needs while it is made, in one block.
 * ---------------------------------------------------------------------------------------------- */

struct sim_workspace {
    sim_params params;
    lensnet_isa isa;
    int radius;    /* of the blur, pixels; 0 without */
    size_t stride; /* of the frame */
    size_t pixels; /* of the image, rounded up to whole lanes and a row's spill */
    sim_truth truth;
    sim_scene scene;
    double weights[65];
    double exaggeration; /* of the masses of subhalos and vortices */
    double *frame, *rows, *means, *counts, *first, *second;
    uint32_t *waiting;
};

/* Doubles in each buffer, in the order of the workspace's pointers. */
enum {
    SIM_BUFFER_FRAME,
    SIM_BUFFER_ROWS,
    SIM_BUFFER_MEANS,
    SIM_BUFFER_COUNTS,
    SIM_BUFFER_FIRST,
    SIM_BUFFER_SECOND,
    SIM_BUFFER_WAITING,
    SIM_BUFFER_POINTS,
    SIM_BUFFERS
};

static int sim_blur_radius(const sim_params *p) { return p->psf_sigma > 0 ? p->psf_radius : 0; }

static size_t sim_buffer_sizes(size_t sizes[SIM_BUFFERS], size_t *stride, const sim_params *p)
{
    const size_t height = (size_t)p->height, width = (size_t)p->width;
    const size_t radius = (size_t)sim_blur_radius(p), padded = (width + 7) / 8 * 8;
    const size_t pixels = (height * width + 15) / 8 * 8;
    const size_t normals = p->noise == SIM_NOISE_TWICE ? pixels : 0;
    size_t total = 0;
    int i;
    *stride = (padded + 2 * radius + 7) / 8 * 8;
    sizes[SIM_BUFFER_FRAME] = (height + 2 * radius) * *stride + 8;
    sizes[SIM_BUFFER_ROWS] = (height + 2 * radius) * padded;
    sizes[SIM_BUFFER_MEANS] = sizes[SIM_BUFFER_COUNTS] = pixels;
    sizes[SIM_BUFFER_FIRST] = sizes[SIM_BUFFER_SECOND] = normals;
    sizes[SIM_BUFFER_WAITING] = pixels / 2 + 8;
    sizes[SIM_BUFFER_POINTS] = 4 * (size_t)SIM_POINTS_MAX;
    for (i = 0; i < SIM_BUFFERS; i++) total += sizes[i];
    return total;
}

SIM_API size_t sim_workspace_bytes(const sim_params *params)
{
    size_t sizes[SIM_BUFFERS], stride;
    return sizeof(sim_workspace) + sim_buffer_sizes(sizes, &stride, params) * sizeof(double);
}

static lensnet_isa sim_isa(lensnet_isa cap)
{
    lensnet_isa best = LENSNET_ISA_PORTABLE;
#if SIM_DISPATCH
    if (__builtin_cpu_supports("avx2")) best = LENSNET_ISA_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        best = LENSNET_ISA_AVX512;
#endif
    return best < cap ? best : cap;
}

static void sim_blur_weights(double *weights, const sim_params *p, int radius)
{
    const double sigma = p->psf_sigma / p->pixel_scale;
    double sum = 1;
    int k;
    weights[0] = 1;
    for (k = 1; k <= radius; k++) {
        weights[k] = lensnet_exp(-0.5 * k * k / (sigma * sigma));
        sum += 2 * weights[k];
    }
    for (k = 0; k <= radius; k++) weights[k] /= sum;
}

SIM_API lensnet_result sim_workspace_create(sim_workspace **workspace, const sim_params *params,
                                            lensnet_isa cap, lensnet_error *error)
{
    size_t sizes[SIM_BUFFERS], bytes, i;
    sim_workspace *w;
    double *block;
    lensnet_result bad;
    if (!workspace)
        return sim_fail(error, LENSNET_ERROR_ARGUMENT,
                        "expected a place for the workspace, found NULL");
    *workspace = NULL;
    if ((bad = sim_check(params, error))) return bad;
    bytes = sim_workspace_bytes(params);
    w = (sim_workspace *)calloc(1, bytes); /* zeros: padding must hold finite numbers */
    if (!w)
        return sim_fail(error, LENSNET_ERROR_MEMORY,
                        "expected %lu bytes of memory for an image in the making, found none",
                        (unsigned long)bytes);
    w->params = *params;
    w->exaggeration = 1.0;
    w->isa = sim_isa(cap);
    w->radius = sim_blur_radius(params);
    sim_buffer_sizes(sizes, &w->stride, params);
    w->pixels = sizes[SIM_BUFFER_MEANS];
    sim_blur_weights(w->weights, params, w->radius);
    block = (double *)(w + 1);
    w->frame = block;
    w->rows = w->frame + sizes[SIM_BUFFER_FRAME];
    w->means = w->rows + sizes[SIM_BUFFER_ROWS];
    w->counts = w->means + sizes[SIM_BUFFER_MEANS];
    w->first = w->counts + sizes[SIM_BUFFER_COUNTS];
    w->second = w->first + sizes[SIM_BUFFER_FIRST];
    w->waiting = (uint32_t *)(w->second + sizes[SIM_BUFFER_SECOND]);
    w->scene.x = w->second + sizes[SIM_BUFFER_SECOND] + sizes[SIM_BUFFER_WAITING];
    w->scene.y = w->scene.x + SIM_POINTS_MAX;
    w->scene.strength = w->scene.y + SIM_POINTS_MAX;
    w->scene.inverse_scale = w->scene.strength + SIM_POINTS_MAX;
    for (i = 0; i < SIM_POINTS_MAX; i++) w->scene.inverse_scale[i] = 1;
    *workspace = w;
    return LENSNET_OK;
}

SIM_API void sim_workspace_destroy(sim_workspace *workspace) { free(workspace); }

/* -------------------------------------------------------------------------------------------------
 * >>images  Truth becomes a scene, a scene expected counts, those an image.
 * ---------------------------------------------------------------------------------------------- */

static void sim_scene_pixels(sim_scene *s, const sim_workspace *w, int margin)
{
    const sim_params *p = &w->params;
    s->rows = p->height + 2 * margin;
    s->columns = p->width + 2 * margin;
    s->rays = p->rays;
    s->stride = w->stride;
    s->middle_x = (p->width - 1) / 2.0 + margin;
    s->middle_y = (p->height - 1) / 2.0 + margin;
    s->scale = p->pixel_scale;
    s->step_y = p->y_up ? -p->pixel_scale : p->pixel_scale;
}

static void sim_scene_halo(sim_scene *s, double theta_e, double q, double angle)
{
    s->theta_e = theta_e;
    s->elliptical = q < 1;
    s->halo_q = q < 0.99999999 ? q : 0.99999999;
    s->halo_cos = lensnet_cos(angle * SIM_DEGREE);
    s->halo_sin = lensnet_sin(angle * SIM_DEGREE);
    s->halo_f = sqrt(1 - s->halo_q * s->halo_q);
    s->halo_strength = theta_e * sqrt(s->halo_q) / s->halo_f;
    s->halo_core = 1e-10 / sqrt(s->halo_q);
}

static void sim_scene_source(sim_scene *s, const sim_params *p, const sim_truth *t)
{
    const double n = t->source_index, r = t->source_radius;
    s->source_x = t->source_x;
    s->source_y = t->source_y;
    s->source_cos = lensnet_cos(t->source_angle * SIM_DEGREE);
    s->source_sin = lensnet_sin(t->source_angle * SIM_DEGREE);
    s->source_q = t->source_q;
    s->source_inverse_r2 = 1 / (r * r);
    s->source_half_inverse = 0.5 / n;
    s->source_b = sim_sersic_b(p->source_sersic, n);
    s->source_amplitude = t->source_brightness;
    s->source_nearest = 1e-300;
    s->source_farthest = 1e300;
    if (p->source_sersic == SIM_SERSIC_LINEAR) {
        s->source_nearest = 1e-10 / (r * r);
        s->source_farthest = 1e4;
    }
}

/* The profile of extended points: how much of the mass lies inside a radius. */
static void sim_scene_profile(sim_scene *s, const sim_params *p)
{
    const double t = p->subhalo_truncation, t2 = t * t;
    s->truncation = t;
    s->truncated = p->subhalo_profile == SIM_PROFILE_TNFW;
    s->inverse_enclosed = 1;
    if (s->truncated) {
        double all = (t2 - 1) * lensnet_log(t) + t * 3.141592653589793 - (t2 + 1);
        s->inverse_enclosed = (t2 + 1) * (t2 + 1) / (t2 * all);
    } else {
        sim_v inside = sim_enclosed(s, sim_splat(t));
        double first;
        memcpy(&first, &inside, sizeof first);
        s->inverse_enclosed = 1 / first;
    }
}

static void sim_scene_point(sim_scene *s, double x, double y, double strength)
{
    s->x[s->points] = x;
    s->y[s->points] = y;
    s->strength[s->points] = strength;
    s->points++;
}

static void sim_scene_masses(sim_scene *s, const sim_params *p, const sim_truth *t)
{
    const double unit = sim_einstein_radius(p, 1, t->z_lens, t->z_source); /* of one solar mass */
    int i;
    s->points = s->extended = 0;
    if (t->label == SIM_SPHERE) {
        for (i = 0; i < t->subhalos; i++) {
            const sim_subhalo *h = &t->subhalo[i];
            if (p->subhalo_profile != SIM_PROFILE_POINT)
                s->inverse_scale[i] = 1 / (p->subhalo_scale * lensnet_pow(h->mass * 1e-8, 1.0 / 3));
            sim_scene_point(s, h->x, h->y, unit * unit * h->mass);
        }
        if (p->subhalo_profile != SIM_PROFILE_POINT) {
            s->extended = s->points;
            sim_scene_profile(s, p);
        }
    }
    if (t->label == SIM_VORT) {
        const int n = p->vortex_points;
        const double c = lensnet_cos(t->vortex_angle * SIM_DEGREE);
        const double sine = lensnet_sin(t->vortex_angle * SIM_DEGREE);
        for (i = 0; i < n; i++) {
            double along = n > 1 ? t->vortex_length * ((double)i / (n - 1) - 0.5) : 0;
            sim_scene_point(s, t->vortex_x + along * c, t->vortex_y + along * sine,
                            unit * unit * t->vortex_mass / n);
        }
    }
}

static void sim_scene_build(sim_workspace *w, const sim_truth *t, int margin)
{
    sim_scene *s = &w->scene;
    const double double_angle = 2 * t->shear_angle * SIM_DEGREE;
    sim_scene_pixels(s, w, margin);
    sim_scene_halo(s, t->theta_e, t->halo_q, t->halo_angle);
    s->shear_1 = t->shear * lensnet_cos(double_angle);
    s->shear_2 = t->shear * lensnet_sin(double_angle);
    sim_scene_masses(s, &w->params, t);
    sim_scene_source(s, &w->params, t);
}

/* Repeats the outermost pixels of the frame's middle into its margin. */
static void sim_repeat_border(sim_workspace *w)
{
    const size_t height = (size_t)w->params.height, width = (size_t)w->params.width;
    const size_t radius = (size_t)w->radius, stride = w->stride;
    size_t i, k;
    for (i = radius; i < radius + height; i++) {
        double *row = w->frame + i * stride;
        for (k = 0; k < radius; k++) {
            row[k] = row[radius];
            row[radius + width + k] = row[radius + width - 1];
        }
    }
    for (k = 0; k < radius; k++) {
        memcpy(w->frame + k * stride, w->frame + radius * stride, stride * sizeof(double));
        memcpy(w->frame + (radius + height + k) * stride, w->frame + (radius + height - 1) * stride,
               stride * sizeof(double));
    }
}

static void sim_expected_here(sim_workspace *w, const sim_truth *t)
{
    const sim_params *p = &w->params;
    const int repeat = p->psf_border == SIM_BORDER_REPEAT;
    const size_t inset = repeat ? (size_t)w->radius * w->stride + (size_t)w->radius : 0;
    const double sky = t->sky, exposure = t->exposure;
    size_t i;
    sim_scene_build(w, t, repeat ? 0 : w->radius);
    sim_render(w->isa)(&w->scene, w->frame + inset);
    if (repeat) sim_repeat_border(w);
    sim_blur(w->isa)(w->means, w->rows, w->frame, w->weights, p->height, p->width, w->radius,
                     w->stride);
    for (i = 0; i < w->pixels; i++) w->means[i] = (w->means[i] + sky) * exposure;
}

static void sim_observe_here(sim_workspace *w, sim_truth *t)
{
    const sim_params *p = &w->params;
    const size_t pixels = (size_t)p->height * (size_t)p->width;
    const uint64_t key = sim_key(t->seed, t->label, t->index);
    double low, high;
    size_t i;
    if (p->noise == SIM_NOISE_TWICE) {
        sim_normal(w->isa)(w->first, w->second, w->pixels,
                           lensnet_random_bits(key, SIM_STREAM_NORMALS, 0));
        sim_noisy_means(w->isa)(w->means, w->first, w->second, w->pixels,
                                p->background * t->exposure);
    }
    if (p->noise == SIM_NOISE_NONE)
        memcpy(w->counts, w->means, pixels * sizeof(double));
    else
        sim_poisson(w->isa)(w->counts, w->means, w->waiting, w->pixels,
                            lensnet_random_bits(key, SIM_STREAM_COUNTS, 0));
    low = high = w->counts[0];
    for (i = 0; i < pixels; i++) {
        double count = w->counts[i];
        low = count < low ? count : low;
        high = count > high ? count : high;
    }
    t->minimum = low;
    t->maximum = high;
    if (p->normalise) {
        const double span = high > low ? high - low : 1;
        for (i = 0; i < pixels; i++) w->counts[i] = (w->counts[i] - low) / span;
    }
}

SIM_API void sim_expected(double *counts, sim_workspace *w, const sim_truth *truth)
{
    sim_expected_here(w, truth);
    memcpy(counts, w->means, (size_t)w->params.height * (size_t)w->params.width * sizeof(double));
}

SIM_API void sim_observe(double *pixels, sim_truth *truth, sim_workspace *w, const double *expected)
{
    const size_t bytes = (size_t)w->params.height * (size_t)w->params.width * sizeof(double);
    memcpy(w->means, expected, bytes);
    sim_observe_here(w, truth);
    memcpy(pixels, w->counts, bytes);
}

SIM_API void sim_workspace_exaggerate(sim_workspace *w, double factor) { w->exaggeration = factor; }

static void sim_draw_exaggerated(sim_workspace *w, sim_truth *truth, uint64_t seed, int label,
                                 uint64_t index)
{
    int i;
    sim_draw(truth, &w->params, seed, label, index);
    truth->vortex_mass *= w->exaggeration;
    for (i = 0; i < truth->subhalos; i++) truth->subhalo[i].mass *= w->exaggeration;
}

static void sim_make(sim_workspace *w, sim_truth *truth, uint64_t seed, int label, uint64_t index)
{
    sim_draw_exaggerated(w, truth, seed, label, index);
    sim_expected_here(w, truth);
    sim_observe_here(w, truth);
}

SIM_API void sim_image(double *pixels, sim_truth *truth, sim_workspace *w, uint64_t seed, int label,
                       uint64_t index)
{
    sim_make(w, truth ? truth : &w->truth, seed, label, index);
    memcpy(pixels, w->counts, (size_t)w->params.height * (size_t)w->params.width * sizeof(double));
}

SIM_API void sim_image_float(float *pixels, sim_truth *truth, sim_workspace *w, uint64_t seed,
                             int label, uint64_t index)
{
    const size_t count = (size_t)w->params.height * (size_t)w->params.width;
    size_t i;
    sim_make(w, truth ? truth : &w->truth, seed, label, index);
    for (i = 0; i < count; i++) pixels[i] = (float)w->counts[i];
}

SIM_API void sim_change_map(float *map, sim_workspace *w, const sim_truth *truth)
{
    const size_t count = (size_t)w->params.height * (size_t)w->params.width;
    sim_truth smooth = *truth;
    size_t i;
    smooth.label = 0;
    smooth.subhalos = 0;
    smooth.vortex_mass = 0;
    if (truth->label) {
        sim_expected_here(w, &smooth);
        for (i = 0; i < count; i++) map[i] = (float)w->means[i];
    }
    sim_expected_here(w, truth);
    for (i = 0; i < count; i++) {
        const double expected = w->means[i];
        map[i] = truth->label && expected > 0
                     ? (float)((expected - (double)map[i]) / sqrt(expected))
                     : 0;
    }
}

SIM_API void sim_image_mapped(float *pixels, float *map, sim_workspace *w, uint64_t seed, int label,
                              uint64_t index)
{
    const size_t count = (size_t)w->params.height * (size_t)w->params.width;
    sim_truth truth;
    size_t i;
    sim_draw_exaggerated(w, &truth, seed, label, index);
    sim_change_map(map, w, &truth); /* leaves what is expected of the image behind */
    sim_observe_here(w, &truth);
    for (i = 0; i < count; i++) pixels[i] = (float)w->counts[i];
}

static double sim_pixel_x(const sim_params *p, int column)
{
    return (column - (p->width - 1) / 2.0) * p->pixel_scale;
}

static double sim_pixel_y(const sim_params *p, int row)
{
    double y = (row - (p->height - 1) / 2.0) * p->pixel_scale;
    return p->y_up ? -y : y;
}

SIM_API void sim_deflection_map(double *deflection, sim_workspace *w, const sim_truth *truth)
{
    const sim_params *p = &w->params;
    const size_t plane = (size_t)p->height * (size_t)p->width;
    double x[8], y[8], ax[8], ay[8], light[8];
    size_t i;
    int lane;
    sim_scene_build(w, truth, 0);
    for (i = 0; i < plane; i += 8) {
        for (lane = 0; lane < 8; lane++) {
            size_t at = i + (size_t)lane < plane ? i + (size_t)lane : plane - 1;
            x[lane] = sim_pixel_x(p, (int)(at % (size_t)p->width));
            y[lane] = sim_pixel_y(p, (int)(at / (size_t)p->width));
        }
        sim_shoot(w->isa)(&w->scene, ax, ay, light, x, y, 8);
        for (lane = 0; lane < 8 && i + (size_t)lane < plane; lane++) {
            deflection[i + (size_t)lane] = ax[lane];
            deflection[plane + i + (size_t)lane] = ay[lane];
        }
    }
}

/* Convergence of an extended point, mean over the ring (or disc) half a pixel wide about `radius`. */
static double sim_extended_convergence(const sim_scene *s, int point, double radius)
{
    double outer = radius + 0.25 * s->scale, inner = radius - 0.25 * s->scale, mass[2];
    sim_v part = sim_enclosed(s, sim_splat(outer * s->inverse_scale[point]));
    memcpy(&mass[1], &part, sizeof mass[1]);
    mass[0] = 0;
    if (inner > 0) {
        part = sim_enclosed(s, sim_splat(inner * s->inverse_scale[point]));
        memcpy(&mass[0], &part, sizeof mass[0]);
    } else {
        inner = 0;
    }
    return s->strength[point] * s->inverse_enclosed * (mass[1] - mass[0]) /
           (outer * outer - inner * inner);
}

SIM_API void sim_convergence_map(double *convergence, sim_workspace *w, const sim_truth *truth)
{
    const sim_params *p = &w->params;
    const sim_scene *s = &w->scene;
    const double scale = p->pixel_scale, nearest = 0.2837 * scale; /* 1/r there is a pixel's mean */
    int row, column, i;
    sim_scene_build(w, truth, 0);
    for (row = 0; row < p->height; row++) {
        for (column = 0; column < p->width; column++) {
            const double x = sim_pixel_x(p, column), y = sim_pixel_y(p, row);
            const double u = s->halo_cos * x + s->halo_sin * y,
                         v = s->halo_cos * y - s->halo_sin * x;
            const double q = s->elliptical ? s->halo_q : 1;
            const double r = sqrt(q * u * u + v * v / q);
            double sum = s->theta_e / (2 * (r > nearest ? r : nearest));
            for (i = 0; i < s->extended; i++) {
                double dx = x - s->x[i], dy = y - s->y[i];
                sum += sim_extended_convergence(s, i, sqrt(dx * dx + dy * dy));
            }
            convergence[(size_t)row * (size_t)p->width + (size_t)column] = sum;
        }
    }
    for (i = s->extended; i < s->points; i++) {
        double place_x = floor(s->x[i] / scale + p->width / 2.0);
        double place_y = floor((p->y_up ? -s->y[i] : s->y[i]) / scale + p->height / 2.0);
        if (place_x >= 0 && place_x < p->width && place_y >= 0 && place_y < p->height)
            convergence[(size_t)place_y * (size_t)p->width + (size_t)place_x] +=
                3.141592653589793 * s->strength[i] / (scale * scale);
    }
}

#if defined(__clang__)
#pragma float_control(pop)
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif

#endif /* SIMULATE_H */
