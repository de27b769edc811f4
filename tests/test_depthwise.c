/* test_depthwise.c - depthwise convolutions on every instruction set against their plain twin, bit by
 * bit; the twin against the law written as loops, and against PyTorch; any split of threads or
 * micro-batches gives the same bits.
 * cc -O2 -fopenmp -I. tests/test_depthwise.c -o build/test_depthwise -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "units.h"

typedef struct layer {
    size_t n, h, w, c;
    size_t size, stride, padding;
} layer;

static lnp_depthwise_geometry geometry_of(const layer *s)
{
    return lnp_depthwise_geometry_of(s->size, s->stride, s->padding, s->h, s->w, s->c);
}

/* Everything the convolution computes for one shape. */
typedef struct results {
    guarded out, mean, rstd, dx, added, dweight, dbias;
} results;

typedef struct inputs {
    guarded x, dy, residual, weight, bias, dweight, dbias;
} inputs;

static size_t pixels(const layer *s) { return s->n * s->h * s->w; }

static size_t outputs(const layer *s)
{
    const lnp_depthwise_geometry g = geometry_of(s);
    return s->n * g.out_h * g.out_w;
}

static inputs inputs_new(const layer *s)
{
    inputs in;
    in.x = guarded_random(pixels(s) * s->c, 1);
    in.dy = guarded_random(outputs(s) * s->c, 2);
    in.residual = guarded_random(pixels(s) * s->c, 3);
    in.weight = guarded_random(s->size * s->size * s->c, 4);
    in.bias = guarded_random(s->c, 5);
    in.dweight = guarded_random(s->size * s->size * s->c, 6);
    in.dbias = guarded_random(s->c, 7);
    return in;
}

static void inputs_free(inputs in)
{
    guarded_free(in.x);
    guarded_free(in.dy);
    guarded_free(in.residual);
    guarded_free(in.weight);
    guarded_free(in.bias);
    guarded_free(in.dweight);
    guarded_free(in.dbias);
}

/* `batch`: samples per call. */
static results run(lensnet_isa isa, const inputs *in, const layer *s, int threads, size_t batch)
{
    const lnp_depthwise_kernels kernels = lnp_depthwise_kernels_for(isa);
    const lnp_row_kernels rows = lnp_row_kernels_for(isa);
    const lnp_depthwise_geometry g = geometry_of(s);
    const size_t in_image = s->h * s->w * s->c, plane = g.out_h * g.out_w, image = plane * s->c;
    guarded packed = guarded_new(lnp_depthwise_packed_floats(s->size, s->c));
    guarded mirrored = guarded_new(lnp_depthwise_packed_floats(s->size, s->c));
    guarded scratch = guarded_new(lnp_depthwise_scratch_floats(s->n, &g));
    lnp_team *team = team_of(threads);
    results r;
    size_t i;
    r.out = guarded_new(outputs(s) * s->c);
    r.mean = guarded_new(outputs(s));
    r.rstd = guarded_new(outputs(s));
    r.dx = guarded_new(pixels(s) * s->c);
    r.added = guarded_new(pixels(s) * s->c);
    r.dweight = guarded_copy(in->dweight);
    r.dbias = guarded_copy(in->dbias);
    lnp_depthwise_pack(packed.values, in->weight.values, s->size, s->stride, s->c, 0, team);
    lnp_depthwise_pack(mirrored.values, in->weight.values, s->size, s->stride, s->c, 1, team);
    for (i = 0; i < s->n; i += batch) {
        const size_t n = lnp_min(batch, s->n - i);
        const float *x = in->x.values + i * in_image, *dy = in->dy.values + i * image;
        lnp_depthwise_forward(&kernels, &rows, r.out.values + i * image, r.mean.values + i * plane,
                              r.rstd.values + i * plane, x, packed.values, in->bias.values, n, &g,
                              1e-6f, team);
        lnp_depthwise_input_gradient(&kernels, &rows, r.dx.values + i * in_image, NULL, dy,
                                     mirrored.values, n, &g, team);
        lnp_depthwise_input_gradient(&kernels, &rows, r.added.values + i * in_image,
                                     in->residual.values + i * in_image, dy, mirrored.values, n, &g,
                                     team);
        lnp_depthwise_weight_gradient(&kernels, &rows, r.dweight.values, r.dbias.values, dy, x, n,
                                      &g, scratch.values, team);
    }
    guarded_free(packed);
    guarded_free(mirrored);
    guarded_free(scratch);
    return r;
}

static void results_compare(const results *a, const results *b)
{
    CHECK(same_bits(a->out.values, b->out.values, a->out.count));
    CHECK(same_bits(a->mean.values, b->mean.values, a->mean.count));
    CHECK(same_bits(a->rstd.values, b->rstd.values, a->rstd.count));
    CHECK(same_bits(a->dx.values, b->dx.values, a->dx.count));
    CHECK(same_bits(a->added.values, b->added.values, a->added.count));
    CHECK(same_bits(a->dweight.values, b->dweight.values, a->dweight.count));
    CHECK(same_bits(a->dbias.values, b->dbias.values, a->dbias.count));
}

static void results_free(results r)
{
    guarded_free(r.out);
    guarded_free(r.mean);
    guarded_free(r.rstd);
    guarded_free(r.dx);
    guarded_free(r.added);
    guarded_free(r.dweight);
    guarded_free(r.dbias);
}

static void test_filter(layer s)
{
    static const int threads[] = {1, 2, 3};
    inputs in = inputs_new(&s);
    results expected = run(LENSNET_ISA_REFERENCE, &in, &s, 1, s.n);
    int isa, t;
    for (isa = LENSNET_ISA_PORTABLE; isa <= LENSNET_ISA_AVX512; isa++)
        for (t = 0; t < 3; t++) {
            results actual;
            if (lnp_detect_isa((lensnet_isa)isa) != (lensnet_isa)isa) continue;
            actual = run((lensnet_isa)isa, &in, &s, threads[t], t == 1 ? 1 : s.n);
            results_compare(&actual, &expected);
            results_free(actual);
        }
    results_free(expected);
    inputs_free(in);
}

static void test_shape(size_t n, size_t h, size_t w, size_t c)
{
    const layer s = {n, h, w, c, 7, 1, 3};
    test_filter(s);
}

/* (N, C, H, W) to (N, H, W, C), or back */
static float *transposed(const float *from, const layer *s, int back)
{
    const size_t plane = s->h * s->w;
    float *to = (float *)malloc(pixels(s) * s->c * sizeof *to);
    size_t n, p, c;
    units_expect(to != NULL, "out of memory");
    for (n = 0; n < s->n; n++)
        for (p = 0; p < plane; p++)
            for (c = 0; c < s->c; c++) {
                const size_t first = (n * s->c + c) * plane + p, last = (n * plane + p) * s->c + c;
                to[back ? first : last] = from[back ? last : first];
            }
    return to;
}

static void compare_planes(const float *values, const layer *s, const char *name, const char *part)
{
    float *planes = transposed(values, s, 1);
    unit_compare(planes, name, part, 2e-6);
    free(planes);
}

/* The plain twin against PyTorch in double. */
static void test_golden(const char *name, size_t n, size_t c, size_t h, size_t w)
{
    const lnp_depthwise_kernels kernels = lnp_depthwise_kernels_for(LENSNET_ISA_REFERENCE);
    const lnp_row_kernels rows = lnp_row_kernels_for(LENSNET_ISA_REFERENCE);
    size_t count;
    float *planes = unit_floats(name, "in.x", &count), *dplanes = unit_floats(name, "gy", &count);
    float *weight = unit_floats(name, "in.w", &count), *bias = unit_floats(name, "in.b", &count);
    float *packed, *x, *dy, *out, *scratch;
    float dweight[49 * 16] = {0.0f}, dbias[16] = {0.0f};
    const layer s = {n, h, w, c, 7, 1, 3};
    const lnp_depthwise_geometry geometry = geometry_of(&s);
    packed = (float *)malloc(lnp_depthwise_packed_floats(7, c) * sizeof *packed);
    out = (float *)malloc(pixels(&s) * c * sizeof *out);
    scratch = (float *)malloc(lnp_depthwise_scratch_floats(n, &geometry) * sizeof *scratch);
    units_expect(packed && out && scratch, "out of memory");
    x = transposed(planes, &s, 0);
    dy = transposed(dplanes, &s, 0);
    lnp_depthwise_pack(packed, weight, 7, 1, c, 0, team_of(1));
    lnp_depthwise_forward(&kernels, &rows, out, NULL, NULL, x, packed, bias, n, &geometry, 0.0f,
                          team_of(1));
    compare_planes(out, &s, name, "out");
    lnp_depthwise_pack(packed, weight, 7, 1, c, 1, team_of(1));
    lnp_depthwise_input_gradient(&kernels, &rows, out, NULL, dy, packed, n, &geometry, team_of(1));
    compare_planes(out, &s, name, "grad.x");
    lnp_depthwise_weight_gradient(&kernels, &rows, dweight, dbias, dy, x, n, &geometry, scratch,
                                  team_of(1));
    unit_compare(dweight, name, "grad.w", 2e-6);
    unit_compare(dbias, name, "grad.b", 2e-6);
    free(planes);
    free(dplanes);
    free(weight);
    free(bias);
    free(packed);
    free(x);
    free(dy);
    free(out);
    free(scratch);
}

/* -- the law of >>depthwise, as loops ------------------------------------------------------------- */

/* Pixel (n, y, x, c) of a tensor of h x w, or NULL outside the image. */
static const float *pixel_at(const float *tensor, size_t h, size_t w, const layer *s, size_t n,
                             size_t y, size_t x, size_t c)
{
    return y < h && x < w ? tensor + ((n * h + y) * w + x) * s->c + c : NULL;
}

static float out_by_law(const inputs *in, const layer *s, size_t n, size_t y, size_t x, size_t c)
{
    const float *weight = in->weight.values + c * s->size * s->size;
    float sum = in->bias.values[c];
    size_t u, v;
    for (u = 0; u < s->size; u++)
        for (v = 0; v < s->size;
             v++) { /* what lies above or left of the image wraps to beyond it */
            const float *p =
                pixel_at(in->x.values, s->h, s->w, s, n, y * s->stride + u - s->padding,
                         x * s->stride + v - s->padding, c);
            if (p) sum = fmaf(weight[u * s->size + v], *p, sum);
        }
    return sum;
}

static float dx_by_law(const inputs *in, const layer *s, size_t n, size_t y, size_t x, size_t c)
{
    const lnp_depthwise_geometry g = geometry_of(s);
    const float *weight = in->weight.values + c * s->size * s->size;
    float sum = 0.0f;
    size_t oy, ox;
    for (oy = 0; oy < g.out_h; oy++)
        for (ox = 0; ox < g.out_w; ox++) {
            const size_t u = y + s->padding - oy * s->stride, v = x + s->padding - ox * s->stride;
            if (u < s->size && v < s->size)
                sum = fmaf(weight[u * s->size + v],
                           *pixel_at(in->dy.values, g.out_h, g.out_w, s, n, oy, ox, c), sum);
        }
    return sum;
}

/* A chain in every band of 14 rows, begun at zero; the bands are added in order. tap size * size: the
 * bias. */
static float dweight_by_law(const inputs *in, const layer *s, size_t c, size_t tap)
{
    const lnp_depthwise_geometry g = geometry_of(s);
    const size_t taps = s->size * s->size, u = tap / s->size, v = tap % s->size;
    float total = tap == taps ? in->dbias.values[c] : in->dweight.values[c * taps + tap];
    float chain = 0.0f;
    size_t n, y, x;
    for (n = 0; n < s->n; n++)
        for (y = 0; y < g.out_h; y++) {
            if (y % 14 == 0) chain = 0.0f;
            for (x = 0; x < g.out_w; x++) {
                const float dy = *pixel_at(in->dy.values, g.out_h, g.out_w, s, n, y, x, c);
                const float *p =
                    pixel_at(in->x.values, s->h, s->w, s, n, y * s->stride + u - s->padding,
                             x * s->stride + v - s->padding, c);
                if (tap == taps)
                    chain += dy;
                else if (p)
                    chain = fmaf(dy, *p, chain);
            }
            if (y % 14 == 13 || y == g.out_h - 1) total += chain;
        }
    return total;
}

static void test_law(size_t size, size_t stride, size_t padding)
{
    const layer s = {2, 29, 9, 3, size, stride, padding};
    const lnp_depthwise_geometry g = geometry_of(&s);
    const size_t taps = size * size;
    inputs in = inputs_new(&s);
    results r = run(LENSNET_ISA_REFERENCE, &in, &s, 2, 2);
    size_t i, wrong = 0;
    for (i = 0; i < r.out.count; i++) {
        const size_t pixel = i / s.c, row = pixel / g.out_w;
        const float y = out_by_law(&in, &s, row / g.out_h, row % g.out_h, pixel % g.out_w, i % s.c);
        wrong += !same_bits(&y, r.out.values + i, 1);
    }
    for (i = 0; i < r.dx.count; i++) {
        const size_t pixel = i / s.c, row = pixel / s.w;
        const float dx = dx_by_law(&in, &s, row / s.h, row % s.h, pixel % s.w, i % s.c);
        wrong += !same_bits(&dx, r.dx.values + i, 1);
    }
    for (i = 0; i < r.dweight.count; i++) {
        const float dw = dweight_by_law(&in, &s, i / taps, i % taps);
        wrong += !same_bits(&dw, r.dweight.values + i, 1);
    }
    for (i = 0; i < s.c; i++) {
        const float db = dweight_by_law(&in, &s, i, taps);
        wrong += !same_bits(&db, r.dbias.values + i, 1);
    }
    if (wrong)
        printf("%u x %u, stride %u, padding %u: %u values\n", (unsigned)size, (unsigned)size,
               (unsigned)stride, (unsigned)padding, (unsigned)wrong);
    CHECK(wrong == 0);
    results_free(r);
    inputs_free(in);
}

/* Every size, stride and padding: odd and even maps, narrow ones, channels that are no vector. */
static void test_filters(void)
{
    static const layer maps[] = {{2, 15, 17, 24, 0, 0, 0}, {1, 16, 8, 40, 0, 0, 0},
                                 {2, 7, 6, 7, 0, 0, 0},    {1, 8, 23, 16, 0, 0, 0},
                                 {3, 7, 7, 33, 0, 0, 0},   {2, 2, 3, 5, 0, 0, 0}};
    size_t size, stride, padding, i;
    for (size = 3; size <= 7; size += 2)
        for (stride = 1; stride <= 2; stride++)
            for (padding = 0; padding < size; padding++) {
                test_law(size, stride, padding);
                for (i = padding % 2; i < sizeof maps / sizeof *maps; i += 2) {
                    layer s = maps[i];
                    s.size = size;
                    s.stride = stride;
                    s.padding = padding;
                    if (lnp_min(s.h, s.w) + 2 * padding >= size) test_filter(s);
                }
            }
}

int main(void)
{
    size_t w;
    test_filters();
    test_golden("dw7_9x11", 2, 3, 9, 11);
    test_golden("dw7_2x2", 2, 3, 2, 2);
    test_golden("dw7_1x1", 1, 3, 1, 1);
    test_golden("dw7_7x5", 1, 2, 7, 5);
    test_golden("dw7_14x14", 1, 2, 14, 14);
    for (w = 1; w <= 36; w++) test_shape(1, 37 - w, w, 24); /* every width of a tile */
    test_shape(3, 14, 14, 40);
    test_shape(2, 7, 7, 96);
    test_shape(1, 29, 31, 16);
    test_shape(2, 5, 3, 1);
    test_shape(2, 3, 9, 7);
    test_shape(4, 1, 1, 33);
    test_shape(3, 2, 2, 41);
    test_shape(1, 9, 17, 67);
    return test_end();
}
