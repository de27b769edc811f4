/* test_rows.c - elementwise and row kernels: every instruction set against the plain loops, bit by
 * bit; the plain loops against long double, PyTorch's values and central differences.
 * cc -O2 -fopenmp -I. tests/test_rows.c -o build/test_rows -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "units.h"

static lnp_row_kernels kernels, reference;

/* -- bits --------------------------------------------------------------------------------------- */

/* One call on fresh copies of the same inputs. Every array that a kernel writes is among them. */
#define ARRAYS 8
typedef struct bench {
    guarded input[ARRAYS];
    guarded tested[ARRAYS], expected[ARRAYS];
} bench;

static void put_specials(guarded block)
{
    static const uint32_t words[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
                                     0xffc00000, 0x00000001, 0x80000001, 0x41529ba6, 0xc1529ba6,
                                     0x7f7fffff, 0xff7fffff, 0x3f800000, 0xc1200000};
    size_t i;
    for (i = 0; i < block.count; i++) {
        const uint64_t bits = lensnet_random_bits(3, block.count, i);
        if (bits % 61 == 0) memcpy(block.values + i, words + bits / 61 % 14, sizeof words[0]);
        if (bits % 61 == 1) block.values[i] *= 30.0f;
    }
}

static bench bench_new(size_t count, int specials)
{
    bench b;
    int i;
    for (i = 0; i < ARRAYS; i++) {
        b.input[i] = guarded_random(count, (uint64_t)i + 10);
        if (specials) put_specials(b.input[i]);
        b.tested[i] = guarded_copy(b.input[i]);
        b.expected[i] = guarded_copy(b.input[i]);
    }
    return b;
}

static void bench_free(bench b, const char *what)
{
    int i, same = 1;
    for (i = 0; i < ARRAYS; i++) {
        same = same && same_bits(b.tested[i].values, b.expected[i].values, b.tested[i].count);
        guarded_free(b.input[i]);
        guarded_free(b.tested[i]);
        guarded_free(b.expected[i]);
    }
    test_check(same, what, __FILE__, __LINE__);
}

/* CALL uses k (the kernels) and a[0] .. a[7] (the arrays). */
#define SAME(count, specials, CALL)                                                                \
    do {                                                                                           \
        bench both = bench_new(count, specials);                                                   \
        int turn;                                                                                  \
        for (turn = 0; turn < 2; turn++) {                                                         \
            const lnp_row_kernels *k = turn ? &reference : &kernels;                               \
            float *a[ARRAYS];                                                                      \
            int array;                                                                             \
            for (array = 0; array < ARRAYS; array++)                                               \
                a[array] = turn ? both.expected[array].values : both.tested[array].values;         \
            CALL;                                                                                  \
        }                                                                                          \
        bench_free(both, #CALL);                                                                   \
    } while (0)

static void test_elementwise(size_t n)
{
    const lnp_adamw_constants adamw = lnp_adamw_constants_at(1e-3, 0.05, 0.9, 0.999, 1e-8, 3);
    SAME(n, 1, k->gelu(a[0], a[1], n));
    SAME(n, 1, k->gelu(a[0], a[0], n));
    SAME(n, 1, k->gelu_backward(a[0], a[1], a[2], n));
    SAME(n, 1, k->gelu_backward(a[1], a[1], a[2], n));
    SAME(n, 1, k->add(a[0], a[1], a[2], n));
    SAME(n, 1, k->add(a[1], a[1], a[2], n));
    SAME(n, 1, k->add_scaled(a[0], a[1], a[2], 0.37f, n));
    SAME(n, 1, k->scale(a[0], a[1], 0.37f, n));
    SAME(n, 1, k->relu(a[0], a[1], n));
    SAME(n, 1, k->relu_backward(a[0], a[1], a[2], n));
    SAME(n, 1, k->average_towards(a[0], a[1], 0.01f, n));
    SAME(n, 1, k->gelu(a[3], a[4], n); k->square_roots(a[0], a[1], n));
    SAME(n, 0, lnp_adamw_update(k, a[0], a[1], a[2], a[3], n, &adamw));
    SAME(n, 0, k->adamw_moments(a[1], a[2], a[3], n, &adamw);
         k->adamw_apply(a[0], a[1], a[4], n, &adamw));
    SAME(n + 2, 0, double sum; k->chunk_squares(&sum, a[0], n); memcpy(a[1], &sum, sizeof sum));
}

/* Strides larger than the rows, so that whatever lies between must stay. */
static void test_rows_of(size_t rows, size_t c)
{
    const size_t s = c + 5, t = c + 3, n = (rows + 1) * s + 8, flat = (rows + 1) * (c + 1) + 8;
    SAME(n, 1, k->gelu_squares(a[0], s, a[1], t, a[2], rows, c));
    SAME(n, 1, k->gelu_squares(a[0], s, a[0], s, a[2], rows, c));
    SAME(n, 0, k->column_sum(a[0], a[1], s, rows, c));
    SAME(n, 0, k->column_products(a[0], a[1], a[2], s, rows, c));
    if (c) SAME(n, 0, k->row_statistics(a[0], a[1], a[2], s, rows, c, 1e-6f));
    SAME(n, 1, k->normalize_rows(a[0], s, a[1], t, a[2], a[3], a[4], a[5], rows, c));
    SAME(n, 1, k->normalize_rows(a[0], s, a[0], s, a[2], a[3], a[4], a[5], rows, c));
    if (c) {
        SAME(flat, 0,
             k->layer_norm_backward(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], rows, c));
        SAME(flat, 0,
             k->layer_norm_backward(a[3], a[1], a[2], a[3], a[4], a[5], a[6], a[7], rows, c));
        SAME(flat, 0,
             k->layer_norm_backward(a[4], a[1], a[2], a[3], a[4], a[5], a[6], a[7], rows, c));
        SAME(flat, 0,
             k->layer_norm_backward(NULL, a[1], a[2], a[3], a[4], a[5], a[6], a[7], rows, c));
    }
    SAME(n, 1, k->scale_shift_rows(a[0], s, a[1], t, a[2], a[3], rows, c));
    SAME(n, 1, k->grn_backward_first(a[0], a[1], a[2], a[3], a[4], a[5], s, rows, c));
    SAME(n, 1, k->grn_backward_first(a[0], a[4], a[2], a[3], a[4], a[5], s, rows, c));
    SAME(n, 1, k->grn_backward_first(a[4], a[1], a[2], a[3], a[4], a[5], s, rows, c));
    SAME(n, 1, k->grn_backward_second(a[0], a[1], a[2], a[3], a[4], a[5], a[6], s, rows, c));
    SAME(n, 1, k->grn_backward_second(a[2], a[1], a[2], a[3], a[4], a[5], a[6], s, rows, c));
    SAME(n, 1, k->grn_backward_rows(a[0], a[1], a[2], a[3], a[4], s, rows, c));
    SAME(flat, 0, lnp_pool_mean(k, a[0], a[1], 1, rows ? rows : 1, c));
    SAME(flat * 2, 0, double totals[512]; lnp_pixel_products(k, totals, a[0], a[1], c, rows, c);
         memcpy(a[2], totals, c * sizeof *totals));
}

/* GELU on a walk through all float words. */
static void test_gelu_bits(uint32_t step)
{
    float x[1024], y[1024], slope[1024], expected[1024], expected_slope[1024], one[1024];
    uint64_t word = 0;
    size_t l;
    for (l = 0; l < 1024; l++) one[l] = 1.0f;
    while (word >> 32 == 0) {
        int i;
        for (i = 0; i < 1024; i++, word += step) {
            const uint32_t bits = (uint32_t)word;
            memcpy(x + i, &bits, sizeof bits);
        }
        kernels.gelu(y, x, 1024);
        kernels.gelu_backward(slope, one, x, 1024);
        reference.gelu(expected, x, 1024);
        reference.gelu_backward(expected_slope, one, x, 1024);
        if (!same_bits(y, expected, 1024) || !same_bits(slope, expected_slope, 1024)) break;
    }
    CHECK(word >> 32 != 0);
}

static void test_bits(void)
{
    static const size_t widths[] = {1,  2,  7,  8,  15, 16, 17, 24, 31,
                                    32, 33, 40, 63, 64, 65, 96, 200};
    static const size_t heights[] = {0, 1, 2, 3, 4, 5, 9};
    size_t i, n;
    for (n = 0; n < 40; n++) test_elementwise(n);
    test_elementwise(1000);
    test_elementwise(2049);
    for (i = 0; i < sizeof heights / sizeof *heights; i++)
        for (n = 0; n < sizeof widths / sizeof *widths; n++) test_rows_of(heights[i], widths[n]);
    test_rows_of(3, 0);
    test_rows_of(121, 24);
    test_gelu_bits(40503);
}

/* -- accuracy ----------------------------------------------------------------------------------- */

static double spacing(double value) /* of floats about `value` */
{
    const float at = (float)fabs(value);
    return (double)nextafterf(at, INFINITY) - (double)at;
}

/* The bounds that the header states, over all finite floats. */
static void test_gelu_accuracy(void)
{
    double worst = 0, worst_slope = 0, worst_tail = 0, worst_slope_tail = 0;
    uint64_t word;
    for (word = 0; word >> 32 == 0; word += 2003) {
        const uint32_t bits = (uint32_t)word;
        long double p, y, s;
        double error, error_slope;
        float x, value, slope;
        memcpy(&x, &bits, sizeof bits);
        if (!(fabsf(x) <= 3e38f)) continue;
        value = lnp_gelu_ref_value(x, &slope);
        p = 0.5L * erfcl(-(long double)x / sqrtl(2.0L));
        y = x * p;
        s = p + x * expl(-(long double)x * x / 2) * 0.398942280401432677939946L;
        error = (double)fabsl(value - y);
        error_slope = (double)fabsl(slope - s);
        if (error > 1e-7) worst = fmax(worst, error / spacing((double)y));
        worst_slope = fmax(worst_slope, error_slope);
        if (x < -1.0f && x > -13.0f) {
            worst_tail = fmax(worst_tail, error / (double)fabsl(y));
            worst_slope_tail = fmax(worst_slope_tail, error_slope / (double)fabsl(s));
        }
    }
    CHECK(worst <= 2.0);
    CHECK(worst_slope <= 1.5e-7);
    CHECK(worst_tail <= 8e-6);
    CHECK(worst_slope_tail <= 8e-6);
}

/* Its two parts: exp(-t^2/2) and the normal distribution's tail. */
static void test_gauss_accuracy(void)
{
#if LNP_VECTORS
    double worst = 0, worst_tail = 0;
    uint32_t word;
    for (word = 0; word < LNP_GAUSS_END; word += 5003) {
        float t, e[16], tail[16];
        lnp_v16 arguments[4], squares[4], gauss[4], tails[4];
        int r;
        long double exact;
        memcpy(&t, &word, sizeof t);
        for (r = 0; r < 4; r++) {
            arguments[r] = lnp_splat_16(LENSNET_ISA_PORTABLE, t);
            squares[r] = arguments[r] * arguments[r];
        }
        lnp_gauss_rows(gauss, squares, 4);
        lnp_gauss_tail_rows(tails, arguments, squares, 4);
        lnp_store_16(LENSNET_ISA_PORTABLE, e, gauss[0]);
        lnp_store_16(LENSNET_ISA_PORTABLE, tail, tails[0]);
        exact = expl(-(long double)t * t / 2);
        worst = fmax(worst, (double)fabsl(e[0] - exact));
        exact = 0.5L * erfcl((long double)t / sqrtl(2.0L));
        worst_tail = fmax(worst_tail, (double)fabsl((long double)tail[0] * e[0] - exact));
    }
    CHECK(worst <= 1e-7);
    CHECK(worst_tail <= 1e-7);
#endif
}

static void test_gelu_values(void)
{
    const float special[] = {INFINITY, -INFINITY, 0.0f, -14.0f, 1e30f, -1e30f};
    const float expected[] = {INFINITY, 0.0f, 0.0f, 0.0f, 1e30f, 0.0f};
    const float expected_slope[] = {1.0f, 0.0f, 0.5f, 0.0f, 1.0f, 0.0f};
    size_t count, i;
    float *x = unit_floats("gelu_erf", "in.x", &count), *gy = unit_floats("gelu_erf", "gy", &count);
    float *y = (float *)malloc(count * sizeof *y), slope;
    units_expect(y != NULL, "out of memory");
    reference.gelu(y, x, count);
    unit_compare(y, "gelu_erf", "out", 1e-7);
    reference.gelu_backward(y, gy, x, count);
    unit_compare(y, "gelu_erf", "grad.x", 2e-7);
    for (i = 0; i < 6; i++) {
        const float value = lnp_gelu_ref_value(special[i], &slope);
        CHECK(value == expected[i] && slope == expected_slope[i]);
    }
    y[0] = lnp_gelu_ref_value(NAN, &slope);
    CHECK(isnan(y[0]) && isnan(slope));
    y[0] = lnp_gelu_ref_value(-NAN, &slope);
    CHECK(isnan(y[0]) && isnan(slope));
    free(x);
    free(gy);
    free(y);
}

/* -- against PyTorch ---------------------------------------------------------------------------- */

static void test_layer_norm(const char *name, size_t rows, float eps)
{
    size_t count;
    const size_t c = 40;
    float *x = unit_floats(name, "in.x", &count), *dy = unit_floats(name, "gy", &count);
    float *w = unit_floats(name, "in.w", &count), *b = unit_floats(name, "in.b", &count);
    float mean[6], rstd[6], y[6 * 40], dw[40] = {0.0f}, db[40] = {0.0f};
    reference.row_statistics(mean, rstd, x, c, rows, c, eps);
    reference.normalize_rows(y, c, x, c, mean, rstd, w, b, rows, c);
    unit_compare(y, name, "out", 1e-6);
    reference.layer_norm_backward(y, dw, db, dy, x, mean, rstd, w, rows, c);
    unit_compare(dw, name, "grad.w", 1e-6);
    unit_compare(db, name, "grad.b", 1e-6);
    unit_compare(y, name, "grad.x", 2e-6);
    free(x);
    free(dy);
    free(w);
    free(b);
}

static void test_grn(const char *name, size_t n, size_t pixels, size_t c)
{
    size_t count, i;
    float *x = unit_floats(name, "in.x", &count), *dy = unit_floats(name, "gy", &count);
    float *gamma = unit_floats(name, "in.gamma", &count);
    float *beta = unit_floats(name, "in.beta", &count);
    float dgamma[6] = {0.0f}, dbeta[6] = {0.0f}, out[3 * 20 * 6], dx[3 * 20 * 6];
    for (i = 0; i < n; i++) {
        const size_t at = i * pixels * c;
        float norm[6], factor[6], again[6], coef[6];
        double totals[6];
        lnp_pixel_products(&reference, totals, x + at, x + at, c, pixels, c);
        lnp_grn_factors(norm, factor, totals, gamma, c);
        reference.scale_shift_rows(out + at, c, x + at, c, factor, beta, pixels, c);
        lnp_pixel_products(&reference, totals, dy + at, x + at, c, pixels, c);
        lnp_grn_coefficients(coef, again, dgamma, totals, norm, gamma, c);
        CHECK(same_bits(factor, again, c));
        reference.grn_backward_rows(dx + at, dy + at, x + at, factor, coef, c, pixels, c);
        reference.column_sum(dbeta, dy + at, c, pixels, c);
    }
    unit_compare(out, name, "out", 1e-6);
    unit_compare(dx, name, "grad.x", 2e-6);
    unit_compare(dgamma, name, "grad.gamma", 1e-6);
    unit_compare(dbeta, name, "grad.beta", 1e-6);
    free(x);
    free(dy);
    free(gamma);
    free(beta);
}

/* The fused passes over GELU and GRN are the plain ones, to the bit. */
static void test_fusion(void)
{
    const size_t rows = 30, c = 40, n = rows * c;
    guarded h = guarded_random(n, 30), da = guarded_random(n, 31), factor = guarded_random(c, 32);
    guarded coef = guarded_random(c, 33), sums = guarded_random(c, 34),
            chain = guarded_random(c, 35);
    guarded a = guarded_new(n), slope = guarded_new(n), dh = guarded_new(n), plain = guarded_new(n);
    guarded plain_sums = guarded_copy(sums), plain_chain = guarded_copy(chain);
    kernels.grn_backward_first(a.values, slope.values, sums.values, chain.values, h.values,
                               da.values, c, rows, c);
    kernels.gelu(plain.values, h.values, n);
    CHECK(same_bits(plain.values, a.values, n));
    kernels.column_products(plain_sums.values, da.values, a.values, c, rows, c);
    kernels.column_sum(plain_chain.values, da.values, c, rows, c);
    kernels.grn_backward_second(dh.values, chain.values, da.values, a.values, slope.values,
                                factor.values, coef.values, c, rows, c);
    kernels.grn_backward_rows(plain.values, da.values, a.values, factor.values, coef.values, c,
                              rows, c);
    kernels.gelu_backward(plain.values, plain.values, h.values, n);
    CHECK(same_bits(plain.values, dh.values, n));
    kernels.column_sum(plain_chain.values, plain.values, c, rows, c);
    CHECK(same_bits(plain_sums.values, sums.values, c));
    CHECK(same_bits(plain_chain.values, chain.values, c));
    kernels.gelu_squares(dh.values, c, h.values, c, sums.values, rows, c);
    kernels.column_products(plain_sums.values, a.values, a.values, c, rows, c);
    CHECK(same_bits(dh.values, a.values, n));
    CHECK(same_bits(plain_sums.values, sums.values, c));
    guarded_free(h);
    guarded_free(da);
    guarded_free(factor);
    guarded_free(coef);
    guarded_free(sums);
    guarded_free(chain);
    guarded_free(a);
    guarded_free(slope);
    guarded_free(dh);
    guarded_free(plain);
    guarded_free(plain_sums);
    guarded_free(plain_chain);
}

/* `scale` as 1 / Z of the definition; targets as PyTorch builds them. */
static void test_cross_entropy(const char *kind, const float *targets, double scale)
{
    size_t count, i;
    float *logits = unit_floats("ce", "logits", &count), gradient[15];
    char name[64];
    double losses[5], sum = 0, *expected;
    lnp_softmax_cross_entropy(losses, gradient, logits, targets, scale, 5, 3);
    for (i = 0; i < 5; i++) sum += losses[i];
    snprintf(name, sizeof name, "ce.%s", kind);
    unit_compare(gradient, name, "dlogits", 1e-6);
    snprintf(name, sizeof name, "ce.%s.loss", kind);
    expected = unit(name, &count);
    CHECK_CLOSE(sum * scale, expected[0], 2e-6 * expected[0], name);
    lnp_softmax(gradient, logits, 5, 3);
    unit_compare(gradient, "ce", "softmax", 1e-7);
    free(expected);
    free(logits);
}

static void test_losses(void)
{
    static const size_t label[] = {0, 2, 1, 1, 1};
    static const double weight[] = {1.0, 2.0, 0.5};
    float hard[15] = {0.0f}, smooth[15], weighted[15] = {0.0f}, both[15], ignored[15] = {0.0f};
    size_t i, k, count;
    float *soft = unit_floats("ce", "soft", &count);
    double sum = 0;
    for (i = 0; i < 5; i++) {
        const double w = weight[label[i]];
        sum += w;
        hard[i * 3 + label[i]] = 1.0f;
        weighted[i * 3 + label[i]] = (float)w;
        if (i != 1 && i != 3) ignored[i * 3 + (i == 0 ? 0 : 1)] = 1.0f;
        for (k = 0; k < 3; k++) {
            const double hit = k == label[i] ? 0.9 : 0.0;
            smooth[i * 3 + k] = (float)(hit + 0.1 / 3);
            both[i * 3 + k] = (float)(hit * w + 0.1 / 3 * weight[k]);
        }
    }
    test_cross_entropy("mean", hard, 0.2);
    test_cross_entropy("sum", hard, 1.0);
    test_cross_entropy("smooth0.1", smooth, 0.2);
    test_cross_entropy("weighted", weighted, 1.0 / sum);
    test_cross_entropy("weighted_smooth0.1", both, 1.0 / sum);
    test_cross_entropy("soft_targets", soft, 0.2);
    test_cross_entropy("ignore_index", ignored, 1.0 / 3);
    free(soft);
}

/* -- pooling ------------------------------------------------------------------------------------ */

static void test_mean_pool(void)
{
    size_t count, i, n, p, c;
    float *x = unit_floats("avgpool_global", "in.x", &count);
    float *dy = unit_floats("avgpool_global", "gy", &count);
    float last[2 * 20 * 3], y[6], dx[2 * 20 * 3], first[2 * 20 * 3];
    for (i = 0; i < 120; i++) {
        n = i / 60;
        c = i / 20 % 3;
        p = i % 20;
        last[(n * 20 + p) * 3 + c] = x[i];
    }
    lnp_pool_mean(&reference, y, last, 2, 20, 3);
    unit_compare(y, "avgpool_global", "out", 5e-7);
    lnp_pool_mean_backward(dx, dy, 2, 20, 3);
    for (i = 0; i < 120; i++) first[i] = dx[(i / 60 * 20 + i % 20) * 3 + i / 20 % 3];
    unit_compare(first, "avgpool_global", "grad.x", 1e-7);
    free(x);
    free(dy);
}

/* Every output against a search of its window; the gradient goes where the maximum was. */
static void test_max_pool(size_t h, size_t w, size_t kernel, size_t stride, size_t pad)
{
    lnp_pool_shape s;
    guarded x, y, dy, dx;
    int32_t argmax[2 * 12 * 12 * 3];
    double sum = 0, expected = 0;
    size_t o, i;
    s.n = 2;
    s.h = h;
    s.w = w;
    s.c = 3;
    s.kernel = kernel;
    s.stride = stride;
    s.pad = pad;
    s.out_h = (h + 2 * pad - kernel) / stride + 1;
    s.out_w = (w + 2 * pad - kernel) / stride + 1;
    x = guarded_random(2 * h * w * 3, 40);
    y = guarded_new(2 * s.out_h * s.out_w * 3);
    dy = guarded_random(y.count, 41);
    dx = guarded_new(x.count);
    lnp_pool_max(y.values, argmax, x.values, &s);
    lnp_pool_max_backward(dx.values, dy.values, argmax, &s);
    for (o = 0; o < y.count; o++) {
        const size_t c = o % 3, ox = o / 3 % s.out_w, oy = o / 3 / s.out_w % s.out_h;
        const size_t n = o / 3 / s.out_w / s.out_h;
        float largest = -INFINITY;
        for (i = 0; i < h * w; i++) {
            const int in_y = (int)(i / w) - (int)(oy * stride) + (int)pad;
            const int in_x = (int)(i % w) - (int)(ox * stride) + (int)pad;
            const float value = x.values[(n * h * w + i) * 3 + c];
            if (in_y >= 0 && in_x >= 0 && in_y < (int)kernel && in_x < (int)kernel &&
                value > largest)
                largest = value;
        }
        CHECK(y.values[o] == largest);
        CHECK(x.values[(n * h * w + (size_t)argmax[o]) * 3 + c] == largest);
        expected += (double)dy.values[o];
    }
    for (i = 0; i < dx.count; i++) sum += (double)dx.values[i];
    CHECK_CLOSE(sum, expected, 1e-4, "max pool gradient");
    guarded_free(x);
    guarded_free(y);
    guarded_free(dy);
    guarded_free(dx);
}

/* -- optimiser ---------------------------------------------------------------------------------- */

static void test_clip(void)
{
    const size_t n = 3 * LNP_ROUND_CHUNKS * LNP_CHUNK_VALUES / 2 + 77;
    guarded x = guarded_random(n, 50);
    double expected = 0, sum;
    size_t i;
    int threads;
    for (i = 0; i < n; i++) expected += (double)x.values[i] * (double)x.values[i];
    sum = lnp_sum_of_squares(&reference, x.values, n, team_of(1));
    CHECK_CLOSE(sum, expected, 1e-12 * expected, "sum of squares");
    for (threads = 1; threads <= 3; threads++) {
        const double again = lnp_sum_of_squares(&kernels, x.values, n, team_of(threads));
        CHECK(memcmp(&again, &sum, sizeof sum) == 0);
    }
    guarded_free(x);
}

/* Three steps against the formula in double. */
static void test_adamw(void)
{
    float p = 0.7f, m = 0.0f, v = 0.0f;
    double p2 = (double)p, m2 = 0, v2 = 0;
    const double lr = 1e-3, decay = 0.05, beta1 = 0.9, beta2 = 0.98, eps = 1e-6;
    int t;
    for (t = 1; t <= 3; t++) {
        const lnp_adamw_constants k =
            lnp_adamw_constants_at(lr, decay, beta1, beta2, eps, (uint64_t)t);
        const float g = (float)(0.3 - 0.25 * t);
        lnp_adamw_update(&reference, &p, &m, &v, &g, 1, &k);
        m2 = beta1 * m2 + (1 - beta1) * (double)g;
        v2 = beta2 * v2 + (1 - beta2) * (double)g * (double)g;
        p2 = p2 * (1 - lr * decay) -
             lr / (1 - pow(beta1, t)) * m2 / (sqrt(v2) / sqrt(1 - pow(beta2, t)) + eps);
        CHECK_CLOSE((double)p, p2, 2e-7, "adamw");
    }
}

/* -- the wide layer in bfloat16 ------------------------------------------------------------------ */

/* Every bfloat16 there is, against the definition. */
static void test_half_gelu(void)
{
    uint32_t half;
    double worst = 0, worst_slope = 0;
    for (half = 0; half < 65536; half++) {
        const float h = lnp_half_number((uint16_t)half);
        float slope;
        const float gelu = lnp_half_gelu_ref(h, &slope);
        const double x = (double)h, phi = exp(-x * x / 2) / sqrt(2 * acos(-1.0));
        const double below = erfc(-x / sqrt(2.0)) / 2;
        if (h != h) {
            CHECK(gelu != gelu && slope != slope);
            continue;
        }
        worst_slope = fmax(worst_slope, fabs((double)slope - (h > 12.9f ? 1.0 : below + x * phi)));
        if (x > -12.8 && x < 1e38 && fabs(x) > 1e-37)
            worst = fmax(worst, fabs((double)gelu / (x * below) - 1));
        if (x <= -12.9) CHECK(gelu == 0.0f);
    }
    printf("gelu in bfloat16: %.2e of itself, slope %.2e\n", worst, worst_slope);
    CHECK(worst < 1.0 / 1024);
    CHECK(worst_slope < 1.0 / 1024);
}

enum { HALF_ROWS = 7, HALF_COLUMNS = 45, HALF_STRIDE = 50, HALF_COUNT = HALF_ROWS * HALF_STRIDE };

typedef struct half_arrays {
    uint16_t a[HALF_COUNT], h[HALF_COUNT];
    float x[HALF_COUNT], y[HALF_COUNT], z[HALF_COUNT], sums[2][HALF_STRIDE];
} half_arrays;

/* All kernels in turn over numbers of every kind. */
static void half_run(half_arrays *r, const lnp_half_kernels *k, const float *values)
{
    size_t i;
    memset(r, 0, sizeof *r);
    for (i = 0; i < HALF_COUNT; i++) r->x[i] = values[i];
    k->gelu_squares(r->a, r->h, HALF_STRIDE, r->x, HALF_STRIDE, r->sums[0], HALF_ROWS,
                    HALF_COLUMNS);
    k->gelu_squares(r->a, NULL, HALF_STRIDE, r->x, HALF_STRIDE, r->sums[0], HALF_ROWS,
                    HALF_COLUMNS);
    k->grn_first(r->a, r->h, r->sums[0], r->sums[1], r->x, HALF_STRIDE, HALF_ROWS, HALF_COLUMNS);
    k->scale_shift(r->y, HALF_STRIDE, r->a, HALF_STRIDE, values, values + 50, HALF_ROWS,
                   HALF_COLUMNS);
    k->grn_second(r->x, r->sums[0], r->a, r->h, values, values + 50, HALF_STRIDE, HALF_ROWS,
                  HALF_COLUMNS);
    k->respond(r->h, HALF_STRIDE, r->a, HALF_STRIDE, values + 20, values + 60, HALF_ROWS,
               HALF_COLUMNS);
    k->normalize(r->a, HALF_STRIDE, values, HALF_STRIDE, values + 9, values + 90, values + 100,
                 values + 200, HALF_ROWS, HALF_COLUMNS);
    k->gelu(r->z, values, HALF_COUNT - 3);
    k->gelu_backward(r->z, r->y, values, HALF_COUNT - 5);
}

static int same_halves(const uint16_t *a, const uint16_t *b)
{
    size_t i;
    for (i = 0; i < HALF_COUNT; i++)
        if (a[i] != b[i] && !((a[i] & 0x7fff) > 0x7f80 && (b[i] & 0x7fff) > 0x7f80)) return 0;
    return 1;
}

static void test_half_bits(int specials)
{
    static half_arrays expected, tested;
    guarded values = guarded_random(HALF_COUNT, 77);
    int isa;
    if (specials) put_specials(values);
    half_run(&expected, lnp_half_kernels_for(LENSNET_ISA_REFERENCE), values.values);
    for (isa = LENSNET_ISA_PORTABLE; isa <= LENSNET_ISA_AVX512_BF16; isa++) {
        if (lnp_detect_isa((lensnet_isa)isa) != (lensnet_isa)isa) continue;
        half_run(&tested, lnp_half_kernels_for((lensnet_isa)isa), values.values);
        CHECK(same_halves(tested.a, expected.a));
        CHECK(same_halves(tested.h, expected.h));
        CHECK(same_bits(tested.x, expected.x, HALF_COUNT));
        CHECK(same_bits(tested.y, expected.y, HALF_COUNT));
        CHECK(same_bits(tested.z, expected.z, HALF_COUNT));
        CHECK(same_bits(tested.sums[0], expected.sums[0], 2 * HALF_STRIDE));
    }
    guarded_free(values);
}

int main(void)
{
    int isa;
    reference = lnp_row_kernels_for(LENSNET_ISA_REFERENCE);
    for (isa = LENSNET_ISA_PORTABLE; isa <= LENSNET_ISA_AVX512; isa++) {
        if (lnp_detect_isa((lensnet_isa)isa) != (lensnet_isa)isa) continue;
        kernels = lnp_row_kernels_for((lensnet_isa)isa);
        test_bits();
        test_fusion();
        test_clip();
    }
    kernels = reference;
    test_fusion();
    test_gelu_accuracy();
    test_gauss_accuracy();
    test_gelu_values();
    test_half_gelu();
    test_half_bits(0);
    test_half_bits(1);
    test_layer_norm("layernorm_eps1e-06", 6, 1e-6f);
    test_layer_norm("layernorm_eps1e-12", 4, 1e-12f);
    test_grn("grn", 3, 20, 6);
    test_grn("grn_1x1", 3, 1, 6);
    test_grn("grn_tiny_activations", 2, 9, 6);
    test_grn("grn_all_zero_sample", 1, 4, 4);
    test_losses();
    test_mean_pool();
    test_max_pool(9, 11, 3, 2, 1);
    test_max_pool(8, 6, 2, 2, 0);
    test_max_pool(5, 5, 3, 1, 1);
    test_adamw();
    return test_end();
}
