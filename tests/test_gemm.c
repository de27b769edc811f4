/* test_gemm.c - every matrix product on every instruction set against its plain twin, bit by bit.
 * cc -O2 -fopenmp -I. tests/test_gemm.c -o build/test_gemm -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "units.h"

#define GUARD       24 /* floats around every output */
#define GUARD_VALUE 12345.5f

static uint64_t state = 1;

/* Values with full mantissas, some zeros, some tiny and some huge, so that rounding is exercised.
 * */
static float next_value(void)
{
    float value;
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = (float)((double)(int64_t)state / 9223372036854775808.0);
    if ((state >> 20) % 31 == 0) return 0.0f;
    if ((state >> 20) % 37 == 0) return value * 1e-30f;
    if ((state >> 20) % 41 == 0) return value * 1e4f;
    return value;
}

static float *new_block(size_t count)
{
    lensnet_host host = lensnet_host_defaults();
    float *block = (float *)lnp_allocate(&host, count * sizeof(float));
    if (!block) exit(2);
    return block;
}

static void free_block(float *block)
{
    lensnet_host host = lensnet_host_defaults();
    lnp_release(&host, block, 1);
}

static float *new_values(size_t count)
{
    float *block = new_block(count);
    size_t i;
    for (i = 0; i < count; i++) block[i] = next_value();
    return block;
}

static float *new_guarded(const float *values, size_t rows, size_t columns, size_t stride)
{
    const size_t count = rows * stride + 2 * GUARD;
    float *block = new_block(count);
    size_t i, j;
    for (i = 0; i < count; i++) block[i] = GUARD_VALUE;
    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++)
            block[GUARD + i * stride + j] = values ? values[i * columns + j] : -7.0f;
    return block;
}

/* ---- the exact scalar multiply-add ----------------------------------------------------------- */

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int same_number(float expected, float actual)
{
    return expected != expected ? actual != actual : memcmp(&expected, &actual, sizeof actual) == 0;
}

/* One at a time, and in all lanes of a vector, whose signs differ. */
static int fma_is_exact(float a, float b, float c)
{
    int good = same_number(fmaf(a, b, c), lnp_fma(a, b, c));
#if LNP_VECTORS
    const lnp_v4 left = {a, -a, a, -a}, right = {b, b, b, b}, addend = {c, c, -c, -c};
    float out[4];
    int l;
    *(lnp_v4 *)out = lnp_fma_four(left, right, addend);
    for (l = 0; l < 4; l++) good &= same_number(fmaf(l % 2 ? -a : a, b, l < 2 ? c : -c), out[l]);
#endif
    return good;
}

static uint32_t next_bits(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static void test_fma(void)
{
    static const uint32_t special[] = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff,
                                       0x00800000, 0x3f800000, 0xbf800000, 0x3f800001, 0x3f7fffff,
                                       0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x33800000,
                                       0x34000000, 0x4b800001, 0x1a000001, 0x20000001, 0x7e800001,
                                       0x7fc00000, 0x33000000, 0x32ffffff, 0x00400000, 0x5f000000};
    const size_t count = sizeof special / sizeof *special;
    size_t i, j, k, bad = 0;
    for (i = 0; i < count; i++)
        for (j = 0; j < count; j++)
            for (k = 0; k < count; k++)
                bad +=
                    !fma_is_exact(float_of(special[i]), float_of(special[j]), float_of(special[k]));
    for (i = 0; i < 1000000; i++) {
        uint32_t a = next_bits(), b = next_bits(), c = next_bits();
        if (i & 1) { /* exponents near each other, so that the sum cancels or ties */
            c = (c & 0x807fffff) | (uint32_t)(100 + (a >> 5) % 50) << 23;
            a = (a & 0x807fffff) | (uint32_t)(120 + (b >> 3) % 8) << 23;
            b = (b & 0x807ff000) | (uint32_t)(115 + (b >> 7) % 16) << 23;
        }
        if (i % 4 == 2) { /* a product just beside the middle between two sums */
            a = 0x3f800000 | (a & 0xff), b = 0x33800000 | (b & 0xff);
            c = 0x3f800000 | (c & 0x807fffff);
        }
        if (i % 8 == 4) { /* small, around where floats lose bits */
            a = (a & 0x807fffff) | 0x20000000, b = (b & 0x807fffff) | 0x1f000000 | (b & 0x00800000);
            c &= 0x80ffffff;
        }
        bad += !fma_is_exact(float_of(a), float_of(b), float_of(c));
    }
    CHECK(bad == 0);
}

/* ---- products -------------------------------------------------------------------------------- */

typedef struct matrix {
    const float *values;
    size_t rows, columns;
    int fits; /* false once a fill has asked for something outside */
} matrix;

/* Fills with twice the values, so that a path that forgets the fill is seen. */
static void fill_twice(const void *context, float *rows, size_t stride, size_t first_row,
                       size_t row_count, size_t first_k, size_t k_count)
{
    const matrix *a = (const matrix *)context;
    size_t i, j;
    if (first_row + row_count > a->rows || first_k + k_count > a->columns || row_count > 32 ||
        k_count > 384) {
        ((matrix *)context)->fits = 0;
        return;
    }
    for (i = 0; i < row_count; i++)
        for (j = 0; j < k_count; j++)
            rows[i * stride + j] = 2.0f * a->values[(first_row + i) * a->columns + first_k + j];
}

/* What the hooks of a product were told. */
typedef struct ledger {
    matrix left; /* first: fill_twice knows it only */
    float *late; /* A, of which begin makes the rows: till then it holds NaN */
    const lnp_product *job;
    float *out;                   /* where the test wants the outputs, plus 1 */
    unsigned char *seen;          /* m x n: how often finish was told of the output */
    unsigned char *begun, *ended; /* m: how often begin and end were told of the row */
    int whole_chunks, in_order;
} ledger;

static int is_chunk_boundary(const lnp_product *job, size_t row)
{
    return row == job->m || row % job->segment_rows % job->chunk_rows == 0;
}

static void check_chunks(ledger *l, size_t first_row, size_t row_count)
{
    if (l->job->chunk_rows && (!is_chunk_boundary(l->job, first_row) ||
                               !is_chunk_boundary(l->job, first_row + row_count)))
        l->whole_chunks = 0;
}

static void begin_count(const void *context, size_t first_row, size_t row_count)
{
    ledger *l = (ledger *)context;
    size_t i;
    check_chunks(l, first_row, row_count);
    if (l->job->chunk_rows && row_count > l->job->chunk_rows) l->whole_chunks = 0; /* one */
    for (i = 0; i < row_count; i++) l->begun[first_row + i]++;
    memcpy(l->late + first_row * l->job->k, l->left.values + first_row * l->job->k,
           row_count * l->job->k * sizeof(float));
}

/* Asks for rows that begin has seen. */
static void fill_begun(const void *context, float *rows, size_t stride, size_t first_row,
                       size_t row_count, size_t first_k, size_t k_count)
{
    ledger *l = (ledger *)context;
    size_t i;
    for (i = 0; i < row_count; i++)
        if (l->begun[first_row + i] != 1) l->in_order = 0;
    fill_twice(&l->left, rows, stride, first_row, row_count, first_k, k_count);
}

static void end_count(const void *context, size_t first_row, size_t row_count)
{
    ledger *l = (ledger *)context;
    size_t i, j;
    check_chunks(l, first_row, row_count);
    if (l->job->chunk_rows && row_count > l->job->chunk_rows) l->whole_chunks = 0; /* one */
    for (i = 0; i < row_count; i++) {
        l->ended[first_row + i]++;
        for (j = 0; j < l->job->n; j++)
            if (l->seen[(first_row + i) * l->job->n + j] != 1) l->in_order = 0;
    }
}

static void finish_count(const void *context, float *outputs, size_t stride, size_t first_row,
                         size_t row_count, size_t first_column, size_t column_count)
{
    ledger *l = (ledger *)context;
    size_t i, j;
    check_chunks(l, first_row, row_count);
    for (i = 0; i < row_count; i++)
        for (j = 0; j < column_count; j++) {
            l->seen[(first_row + i) * l->job->n + first_column + j]++;
            l->out[(first_row + i) * l->job->out_stride + first_column + j] =
                outputs[i * stride + j] + 1.0f;
        }
}

typedef struct shape {
    size_t m, n, k;
} shape;

enum {
    WITH_FILL = 1,
    ACCUMULATE = 2,
    NO_BIAS = 4,
    TRANSPOSED = 8,
    WITH_VISITS = 16,
    BFLOAT = 32,
    NOT_KEPT = 64
};

static lnp_gemm_kernels kernels_of(lensnet_isa isa, int bfloat)
{
    return bfloat ? lnp_bfloat_kernels_for(isa) : *lnp_gemm_kernels_for(isa);
}

/* The last instruction set with kernels of its own. */
static int last_isa(int bfloat)
{
    const lensnet_isa best = lnp_detect_isa(LENSNET_ISA_BEST);
    return !bfloat && best > LENSNET_ISA_AVX512 ? LENSNET_ISA_AVX512 : (int)best;
}

/* Runs the product on one instruction set; returns the guarded output. */
static float *run_product(lensnet_isa isa, shape s, int flags, size_t segment_rows,
                          size_t chunk_rows, int threads, const float *a, const float *w,
                          const float *bias, const float *before)
{
    const lnp_gemm_kernels chosen = kernels_of(isa, flags & BFLOAT), *kernels = &chosen;
    const size_t stride = s.n + 5, cells = s.m * s.n;
    float *packed = new_block(lnp_packed_floats(kernels, s.n, s.k));
    float *scratch = new_block(lnp_product_scratch_floats(kernels, s.m, s.k, threads));
    float *out = new_guarded(before, s.m, s.n, stride);
    float *late = new_values(s.m * s.k);
    ledger l;
    lnp_product job;
    size_t i;
    int once = 1;
    l.left.values = a;
    l.left.rows = s.m;
    l.left.columns = s.k;
    l.left.fits = 1;
    lnp_pack_weights(kernels, packed, w, s.n, s.k, (flags & TRANSPOSED) != 0, team_of(threads));
    memset(&job, 0, sizeof job);
    job.m = s.m;
    job.n = s.n;
    job.k = s.k;
    if (flags & WITH_VISITS)
        for (i = 0; i < s.m * s.k; i++) late[i] = NAN;
    l.late = late;
    job.a = flags & WITH_FILL && s.m % 2 ? NULL : flags & WITH_VISITS ? late : a;
    job.a_stride = s.k;
    job.fill = !(flags & WITH_FILL) ? NULL : flags & WITH_VISITS ? fill_begun : fill_twice;
    job.packed = packed;
    job.bias = flags & NO_BIAS ? NULL : bias;
    job.accumulate = (flags & ACCUMULATE) != 0;
    l.out = out + GUARD;
    job.out = flags & NOT_KEPT ? NULL : l.out;
    job.out_stride = stride;
    job.begin = flags & WITH_VISITS ? begin_count : NULL;
    job.finish = finish_count;
    job.end = flags & WITH_VISITS ? end_count : NULL;
    job.context = &l;
    job.segment_rows = segment_rows;
    job.chunk_rows = chunk_rows;
    l.job = &job;
    l.seen = (unsigned char *)calloc(cells + 2 * s.m + 1, 1);
    l.begun = l.seen + cells;
    l.ended = l.begun + s.m;
    l.whole_chunks = l.in_order = 1;
    if (!l.seen) exit(2);
    lnp_multiply_rows(kernels, &job, scratch, team_of(threads));
    for (i = 0; i < cells + 2 * s.m; i++)
        once &= l.seen[i] == (i < cells || flags & WITH_VISITS ? 1 : 0);
    CHECK(once);
    CHECK(l.whole_chunks);
    CHECK(l.in_order);
    CHECK(l.left.fits);
    free(l.seen);
    free_block(late);
    free_block(packed);
    free_block(scratch);
    return out;
}

static void check_product(shape s, int flags, size_t segment_rows, size_t chunk_rows)
{
    const size_t bytes = (s.m * (s.n + 5) + 2 * GUARD) * sizeof(float);
    float *a = new_values(s.m * s.k), *w = new_values(s.n * s.k), *bias = new_values(s.n);
    float *before = new_values(s.m * s.n);
    float *expected = run_product(LENSNET_ISA_REFERENCE, s, flags, segment_rows, chunk_rows, 1, a,
                                  w, bias, before);
    int isa, threads;
    for (isa = LENSNET_ISA_PORTABLE; isa <= last_isa(flags & BFLOAT); isa++)
        for (threads = 1; threads <= 3; threads++) {
            float *out = run_product((lensnet_isa)isa, s, flags, segment_rows, chunk_rows, threads,
                                     a, w, bias, before);
            if (memcmp(out, expected, bytes) != 0)
                printf("%s, %d threads: m %u n %u k %u flags %d\n",
                       lensnet_isa_text((lensnet_isa)isa), threads, (unsigned)s.m, (unsigned)s.n,
                       (unsigned)s.k, flags);
            CHECK(memcmp(out, expected, bytes) == 0);
            free_block(out);
        }
    free_block(a);
    free_block(w);
    free_block(bias);
    free_block(before);
    free_block(expected);
}

/* As Python's ml_dtypes and PyTorch round numbers that are neither tiny nor huge. */
static float rounded(float value, int bfloat)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bfloat ? float_of((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000) : value;
}

/* Element k of a chain comes as number `turn`: in bfloat16 the odd one of a pair is first. */
static size_t in_turn(size_t turn, size_t count, int bfloat)
{
    return bfloat && (turn ^ 1) < count ? turn ^ 1 : turn;
}

/* The reference itself, against a product written without any of the library. */
static void test_reference(int bfloat)
{
    const shape s = {5, 7, 11};
    float *a = new_values(s.m * s.k), *w = new_values(s.n * s.k), *bias = new_values(s.n);
    float *before = new_values(s.m * s.n);
    int transposed;
    for (transposed = 0; transposed < 2; transposed++) {
        float *out = run_product(LENSNET_ISA_REFERENCE, s,
                                 (transposed ? TRANSPOSED : 0) | (bfloat ? BFLOAT : 0), 0, 0, 1, a,
                                 w, bias, before);
        size_t m, n, turn;
        for (m = 0; m < s.m; m++)
            for (n = 0; n < s.n; n++) {
                float sum = bias[n];
                for (turn = 0; turn < s.k; turn++) {
                    const size_t k = in_turn(turn, s.k, bfloat);
                    sum = fmaf(rounded(a[m * s.k + k], bfloat),
                               rounded(w[transposed ? n * s.k + k : k * s.n + n], bfloat), sum);
                }
                sum += 1.0f; /* what finish_count adds */
                CHECK(memcmp(&sum, out + GUARD + m * (s.n + 5) + n, sizeof sum) == 0);
            }
        free_block(out);
    }
    free_block(a);
    free_block(w);
    free_block(bias);
    free_block(before);
}

static void test_products(void)
{
    static const size_t ns[] = {1, 3, 8, 16, 24, 31, 32, 33, 40, 48, 96, 100};
    static const size_t ks[] = {0, 1, 2, 15, 16, 40, 96, 321};
    static const shape big[] = {{49, 384, 768}, {300, 40, 160}, {170, 65, 800},
                                {13, 96, 3072}, {400, 33, 385}, {784, 32, 20}};
    size_t m, i;
    for (m = 1; m <= 60; m++) /* every height with a changing choice of the rest */
        for (i = 0; i < 4; i++) {
            shape s;
            s.m = m;
            s.n = ns[(m * 5 + i * 3) % (sizeof ns / sizeof *ns)];
            s.k = ks[(m + i * 3) % (sizeof ks / sizeof *ks)];
            check_product(s, (int)((m + i * 5) % 32), 0, 0);
            if (i == 0) check_product(s, (int)((m * 3) % 32) | BFLOAT, 0, 0);
            if (i == 1) check_product(s, NOT_KEPT | (m & 1 ? BFLOAT : 0), 0, 0);
        }
    for (i = 0; i < sizeof big / sizeof *big; i++) {
        check_product(big[i], TRANSPOSED, 0, 0);
        check_product(big[i], WITH_FILL | ACCUMULATE | WITH_VISITS, 0, 0);
        check_product(big[i], (i & 1 ? TRANSPOSED : WITH_FILL) | BFLOAT, 0, 0);
    }
}

static void test_chunks(void)
{
    static const struct {
        shape s;
        size_t segment_rows, chunk_rows;
    } cases[] = {{{196, 48, 40}, 196, 56}, {{147, 64, 20}, 49, 56},   {{1000, 32, 8}, 200, 56},
                 {{490, 33, 900}, 49, 49}, {{36, 96, 16}, 9, 4},      {{333, 16, 16}, 111, 168},
                 {{56, 96, 3}, 56, 56},    {{400, 40, 1600}, 80, 56}, {{2000, 8, 4}, 4, 3}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++)
        check_product(cases[i].s, TRANSPOSED | (i & 1 ? WITH_FILL : 0) | WITH_VISITS,
                      cases[i].segment_rows, cases[i].chunk_rows);
}

/* ---- scratch: what is planned for m rows must do for fewer ------------------------------------- */

/* What lnp_multiply_rows takes for so many rows, as it cuts them. */
static size_t product_needs(const lnp_gemm_kernels *kernels, lnp_product *job, float *room,
                            int threads)
{
    const lnp_chunks chunks = lnp_chunks_of(kernels, job);
    lnp_row_block blocks[LNP_SHARED_BLOCKS];
    size_t count = 0;
    if (job->m <= lnp_shared_rows(job->k, threads) &&
        lnp_imbalance(&chunks, (size_t)threads) > 1030)
        count = lnp_shared_blocks(kernels, job, &chunks, room, blocks);
    if (!count)
        return (size_t)threads * lnp_tile_floats(kernels, job->k) *
               lnp_tiles_in(kernels, lnp_min(job->m, LNP_BLOCK_ROWS));
    return (size_t)(blocks[count - 1].packed - room) +
           blocks[count - 1].tiles * lnp_tile_floats(kernels, job->k);
}

static size_t gradient_needs(const lnp_gemm_kernels *kernels, size_t m, size_t n, size_t k,
                             int threads)
{
    const lnp_gradient_grid grid = lnp_gradient_grid_of(kernels, n, k, (size_t)threads);
    const size_t steps = kernels->bfloat ? 2 * m / kernels->bfloat->elements : m; /* samples of 1 */
    return (lnp_gradient_dy_floats(kernels, steps, n, grid.across) +
            lnp_gradient_x_floats(kernels, steps)) *
           grid.across * grid.along;
}

static void check_scratch(const lnp_gemm_kernels *kernels, size_t n, size_t k, size_t segment_rows,
                          int threads)
{
    const size_t most = 1400;
    float *room = new_block(lnp_tile_floats(kernels, k) *
                            (lnp_tiles_in(kernels, most) + LNP_SHARED_BLOCKS + 12 * 16));
    size_t product = 0, gradient = 0, short_products = 0, short_gradients = 0;
    lnp_product job;
    memset(&job, 0, sizeof job);
    job.n = n;
    job.k = k;
    job.segment_rows = segment_rows;
    job.chunk_rows = segment_rows ? 56 : 0;
    for (job.m = 1; job.m <= most; job.m++) {
        product = lnp_max(product, product_needs(kernels, &job, room, threads));
        gradient = lnp_max(gradient, gradient_needs(kernels, job.m, n, k, threads));
        short_products += lnp_product_scratch_floats(kernels, job.m, k, threads) < product;
        short_gradients += lnp_gradient_scratch_floats(kernels, job.m, n, k, threads) < gradient;
    }
    CHECK(short_products == 0);
    CHECK(short_gradients == 0);
    free_block(room);
}

static void test_scratch(void)
{
    static const size_t shapes[][2] = {
        {40, 160}, {384, 1536}, {1536, 384}, {3072, 768}, {768, 3072}};
    static const size_t segments[] = {0, 196, 49};
    size_t s, i;
    int isa, threads, bfloat;
    for (bfloat = 0; bfloat < 2; bfloat++)
        for (isa = LENSNET_ISA_PORTABLE; isa <= last_isa(bfloat); isa++)
            for (threads = 1; threads <= 8; threads += 1 + 2 * bfloat)
                for (s = 0; s < sizeof shapes / sizeof *shapes; s++)
                    for (i = 0; i < sizeof segments / sizeof *segments; i++) {
                        const lnp_gemm_kernels kernels = kernels_of((lensnet_isa)isa, bfloat);
                        check_scratch(&kernels, shapes[s][0], shapes[s][1], segments[i], threads);
                    }
}

/* ---- gradients of weights -------------------------------------------------------------------- */

/* segment_rows: of a sample, in bfloat16; 0: in float32 */
static float *run_gradient(lensnet_isa isa, shape s, size_t segment_rows, int with_fill,
                           int threads, const float *dy, const float *x, const float *before)
{
    const lnp_gemm_kernels chosen = kernels_of(isa, segment_rows > 0), *kernels = &chosen;
    float *scratch = new_block(lnp_gradient_scratch_floats(kernels, s.m, s.n, s.k, threads));
    float *dw = new_guarded(before, s.n, s.k, s.k);
    matrix right;
    lnp_gradient_product job;
    right.values = x;
    right.rows = s.m;
    right.columns = s.k;
    right.fits = 1;
    memset(&job, 0, sizeof job);
    job.m = s.m;
    job.n = s.n;
    job.k = s.k;
    job.dy = dy;
    job.dy_stride = s.n;
    job.x = with_fill && s.m % 2 ? NULL : x;
    job.x_stride = s.k;
    job.x_fill = with_fill ? fill_twice : NULL;
    job.x_fill_context = &right;
    job.dw = dw + GUARD;
    job.segment_rows = segment_rows;
    lnp_multiply_gradient(kernels, &job, scratch, team_of(threads));
    CHECK(right.fits);
    free_block(scratch);
    return dw;
}

static void check_gradient(shape s, size_t segment_rows, int with_fill)
{
    const size_t bytes = (s.n * s.k + 2 * GUARD) * sizeof(float);
    float *dy = new_values(s.m * s.n), *x = new_values(s.m * s.k), *before = new_values(s.n * s.k);
    float *expected =
        run_gradient(LENSNET_ISA_REFERENCE, s, segment_rows, with_fill, 1, dy, x, before);
    int isa, threads;
    for (isa = LENSNET_ISA_PORTABLE; isa <= last_isa(segment_rows > 0); isa++)
        for (threads = 1; threads <= 3; threads++) {
            float *dw =
                run_gradient((lensnet_isa)isa, s, segment_rows, with_fill, threads, dy, x, before);
            if (memcmp(dw, expected, bytes) != 0)
                printf("gradient, %s, %d threads: m %u n %u k %u, segments of %u\n",
                       lensnet_isa_text((lensnet_isa)isa), threads, (unsigned)s.m, (unsigned)s.n,
                       (unsigned)s.k, (unsigned)segment_rows);
            CHECK(memcmp(dw, expected, bytes) == 0);
            free_block(dw);
        }
    free_block(dy);
    free_block(x);
    free_block(before);
    free_block(expected);
}

static void test_gradients(void)
{
    static const size_t ms[] = {1, 2, 15, 31, 32, 33, 49, 257};
    static const size_t ks[] = {1, 3, 8, 16, 27, 32, 40, 96, 100};
    static const shape big[] = {{1200, 40, 33}, {600, 400, 96}, {49, 700, 65}, {513, 96, 384}};
    static const size_t segments[] = {400, 25, 1, 27};
    size_t n, i;
    for (n = 1; n <= 45; n++)
        for (i = 0; i < 3; i++) {
            shape s;
            s.n = n;
            s.m = ms[(n + i * 3) % (sizeof ms / sizeof *ms)];
            s.k = ks[(n * 5 + i * 2) % (sizeof ks / sizeof *ks)];
            check_gradient(s, 0, (int)(n + i) & 1);
            if (i == 0) check_gradient(s, s.m, (int)n & 1);
        }
    for (i = 0; i < sizeof big / sizeof *big; i++) {
        check_gradient(big[i], 0, (int)i & 1);
        check_gradient(big[i], segments[i], !((int)i & 1));
    }
}

/* The gradient of the reference, where a sample's last pair lacks its second row. */
static void test_gradient_reference(void)
{
    const shape s = {10, 3, 4}; /* samples of 5 rows */
    float *dy = new_values(s.m * s.n), *x = new_values(s.m * s.k), *before = new_values(s.n * s.k);
    float *dw = run_gradient(LENSNET_ISA_REFERENCE, s, 5, 0, 1, dy, x, before);
    static const size_t order[] = {1, 0, 3, 2, 4, 6, 5, 8, 7, 9};
    size_t n, k, i;
    for (n = 0; n < s.n; n++)
        for (k = 0; k < s.k; k++) {
            float sum = before[n * s.k + k];
            for (i = 0; i < s.m; i++)
                sum = fmaf(rounded(dy[order[i] * s.n + n], 1), rounded(x[order[i] * s.k + k], 1),
                           sum);
            CHECK(memcmp(&sum, dw + GUARD + n * s.k + k, sizeof sum) == 0);
        }
    free_block(dy);
    free_block(x);
    free_block(before);
    free_block(dw);
}

/* ---- the instruction and its twin ---------------------------------------------------------------- */

#if LNP_BFLOAT
/* A float whose first 16 bits are of `kind`: anything, small enough for products near 2^-126, of like
 * size (sums cancel), or an addend at the smallest normal number with products just below its ulp. */
static float operand(int kind)
{
    uint32_t bits;
    state = state * 6364136223846793005u + 1442695040888963407u;
    bits = (uint32_t)(state >> 32);
    if (kind == 1) bits = (bits & 0x807fffffu) | (32 + (uint32_t)(state >> 20) % 40) << 23;
    if (kind == 2) bits = (bits & 0x807fffffu) | (120 + (uint32_t)(state >> 20) % 12) << 23;
    if (kind == 3) bits = (bits & 0x807fffffu) | (50 + (uint32_t)(state >> 20) % 6) << 23;
    return float_of(bits);
}

static void test_instruction(void)
{
    float a[32], b[32], sums[16];
    int kind, i, same = 1;
    long turn;
    if (lnp_detect_isa(LENSNET_ISA_BEST) < LENSNET_ISA_AVX512_BF16) {
        printf("note: AVX-512 BF16 is not there\n");
        return;
    }
    CHECK(lnp_bfloat_probe());
    for (kind = 0; kind < 4; kind++)
        for (turn = 0; turn < 50000; turn++) {
            for (i = 0; i < 32; i++) {
                a[i] = operand(kind);
                b[i] = operand(kind);
                if (turn & 1 && i & 1) a[i] = 0.0f;
            }
            for (i = 0; i < 16; i++)
                sums[i] = kind == 3 ? float_of(0x00800000u + (uint32_t)i % 4) : operand(kind);
            same &= lnp_bfloat_probe_lanes(a, b, sums);
        }
    CHECK(same);
}
#endif

int main(void)
{
    printf("best instruction set here: %s\n", lensnet_isa_text(lnp_detect_isa(LENSNET_ISA_BEST)));
    test_fma();
    test_reference(0);
    test_reference(1);
    test_gradient_reference();
#if LNP_BFLOAT
    test_instruction();
#endif
    test_products();
    test_chunks();
    test_scratch();
    test_gradients();
    return test_end();
}
