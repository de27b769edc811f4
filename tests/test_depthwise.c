/* test_depthwise.c - the 7x7 depthwise convolution on every instruction set against its plain twin,
 * bit by bit, the twin against PyTorch; any split of threads or micro-batches gives the same bits.
 * cc -O2 -fopenmp -I. tests/test_depthwise.c -o build/test_depthwise -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "units.h"

typedef struct shape {
    size_t n, h, w, c;
} shape;

/* Everything the convolution computes for one shape. */
typedef struct results {
    guarded out, mean, rstd, dx, added, dweight, dbias;
} results;

typedef struct inputs {
    guarded x, dy, residual, weight, bias, dweight, dbias;
} inputs;

static size_t pixels(const shape *s) { return s->n * s->h * s->w; }

static inputs inputs_new(const shape *s)
{
    inputs in;
    in.x = guarded_random(pixels(s) * s->c, 1);
    in.dy = guarded_random(pixels(s) * s->c, 2);
    in.residual = guarded_random(pixels(s) * s->c, 3);
    in.weight = guarded_random(49 * s->c, 4);
    in.bias = guarded_random(s->c, 5);
    in.dweight = guarded_random(49 * s->c, 6);
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
/* A team that is not open: each phase opens it for itself. */
static lnp_team *team_of(int threads)
{
    static lnp_team team;
    lnp_team_begin(&team, threads, lnp_process());
    return &team;
}

static results run(lensnet_isa isa, const inputs *in, const shape *s, int threads, size_t batch)
{
    const lnp_depthwise_kernels kernels = lnp_depthwise_kernels_for(isa);
    const lnp_row_kernels rows = lnp_row_kernels_for(isa);
    const size_t image = s->h * s->w * s->c, plane = s->h * s->w;
    guarded packed = guarded_new(lnp_depthwise_packed_floats(s->c));
    guarded mirrored = guarded_new(lnp_depthwise_packed_floats(s->c));
    guarded scratch = guarded_new(lnp_depthwise_scratch_floats(s->n, s->h, s->c));
    results r;
    size_t i;
    r.out = guarded_new(pixels(s) * s->c);
    r.mean = guarded_new(pixels(s));
    r.rstd = guarded_new(pixels(s));
    r.dx = guarded_new(pixels(s) * s->c);
    r.added = guarded_new(pixels(s) * s->c);
    r.dweight = guarded_copy(in->dweight);
    r.dbias = guarded_copy(in->dbias);
    lnp_depthwise_pack(packed.values, in->weight.values, s->c, 0, team_of(threads));
    lnp_depthwise_pack(mirrored.values, in->weight.values, s->c, 1, team_of(threads));
    for (i = 0; i < s->n; i += batch) {
        const size_t n = lnp_min(batch, s->n - i), at = i * image;
        lnp_depthwise_forward(&kernels, &rows, r.out.values + at, r.mean.values + i * plane,
                              r.rstd.values + i * plane, in->x.values + at, packed.values,
                              in->bias.values, n, s->h, s->w, s->c, 1e-6f, team_of(threads));
        lnp_depthwise_input_gradient(&kernels, &rows, r.dx.values + at, NULL, in->dy.values + at,
                                     mirrored.values, n, s->h, s->w, s->c, team_of(threads));
        lnp_depthwise_input_gradient(&kernels, &rows, r.added.values + at, in->residual.values + at,
                                     in->dy.values + at, mirrored.values, n, s->h, s->w, s->c,
                                     team_of(threads));
        lnp_depthwise_weight_gradient(&kernels, &rows, r.dweight.values, r.dbias.values,
                                      in->dy.values + at, in->x.values + at, n, s->h, s->w, s->c,
                                      scratch.values, team_of(threads));
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

static void test_shape(size_t n, size_t h, size_t w, size_t c)
{
    static const int threads[] = {1, 2, 3};
    shape s;
    inputs in;
    results expected;
    int isa, t;
    s.n = n;
    s.h = h;
    s.w = w;
    s.c = c;
    in = inputs_new(&s);
    expected = run(LENSNET_ISA_REFERENCE, &in, &s, 1, n);
    for (isa = LENSNET_ISA_PORTABLE; isa <= LENSNET_ISA_AVX512; isa++)
        for (t = 0; t < 3; t++) {
            results actual;
            if (lnp_detect_isa((lensnet_isa)isa) != (lensnet_isa)isa) continue;
            actual = run((lensnet_isa)isa, &in, &s, threads[t], t == 1 ? 1 : n);
            results_compare(&actual, &expected);
            results_free(actual);
        }
    results_free(expected);
    inputs_free(in);
}

/* (N, C, H, W) to (N, H, W, C), or back */
static float *transposed(const float *from, const shape *s, int back)
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

static void compare_planes(const float *values, const shape *s, const char *name, const char *part)
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
    shape s;
    s.n = n;
    s.h = h;
    s.w = w;
    s.c = c;
    packed = (float *)malloc(lnp_depthwise_packed_floats(c) * sizeof *packed);
    out = (float *)malloc(pixels(&s) * c * sizeof *out);
    scratch = (float *)malloc(lnp_depthwise_scratch_floats(n, h, c) * sizeof *scratch);
    units_expect(packed && out && scratch, "out of memory");
    x = transposed(planes, &s, 0);
    dy = transposed(dplanes, &s, 0);
    lnp_depthwise_pack(packed, weight, c, 0, team_of(1));
    lnp_depthwise_forward(&kernels, &rows, out, NULL, NULL, x, packed, bias, n, h, w, c, 0.0f,
                          team_of(1));
    compare_planes(out, &s, name, "out");
    lnp_depthwise_pack(packed, weight, c, 1, team_of(1));
    lnp_depthwise_input_gradient(&kernels, &rows, out, NULL, dy, packed, n, h, w, c, team_of(1));
    compare_planes(out, &s, name, "grad.x");
    lnp_depthwise_weight_gradient(&kernels, &rows, dweight, dbias, dy, x, n, h, w, c, scratch,
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

/* The law of >>depthwise, bit by bit: a chain in every band of 14 rows, begun at zero, added in order. */
static void test_bands(void)
{
    const shape s = {2, 29, 5, 3};
    inputs in = inputs_new(&s);
    results r = run(LENSNET_ISA_REFERENCE, &in, &s, 2, 2);
    const float *dy = in.dy.values, *x = in.x.values;
    size_t c, u, v, n, y, i, wrong = 0;
    for (c = 0; c < s.c; c++) {
        float bias = in.dbias.values[c], sum = 0.0f;
        for (n = 0; n < s.n; n++)
            for (y = 0; y < s.h; y++) {
                if (y % 14 == 0) sum = 0.0f;
                for (i = 0; i < s.w; i++) sum += dy[((n * s.h + y) * s.w + i) * s.c + c];
                if (y % 14 == 13 || y == s.h - 1) bias += sum;
            }
        wrong += !same_bits(&bias, r.dbias.values + c, 1);
        for (u = 0; u < 7; u++)
            for (v = 0; v < 7; v++) {
                float total = in.dweight.values[(c * 7 + u) * 7 + v], chain = 0.0f;
                for (n = 0; n < s.n; n++)
                    for (y = 0; y < s.h; y++) {
                        if (y % 14 == 0) chain = 0.0f;
                        for (i = 0; i < s.w; i++)
                            if (y + u >= 3 && y + u - 3 < s.h && i + v >= 3 && i + v - 3 < s.w)
                                chain = fmaf(dy[((n * s.h + y) * s.w + i) * s.c + c],
                                             x[((n * s.h + y + u - 3) * s.w + i + v - 3) * s.c + c],
                                             chain);
                        if (y % 14 == 13 || y == s.h - 1) total += chain;
                    }
                wrong += !same_bits(&total, r.dweight.values + (c * 7 + u) * 7 + v, 1);
            }
    }
    CHECK(wrong == 0);
    results_free(r);
    inputs_free(in);
}

int main(void)
{
    size_t w;
    test_bands();
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
