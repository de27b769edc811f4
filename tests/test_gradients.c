/* test_gradients.c - every operator's gradients against central differences in double.
 * cc -O2 -fopenmp -I. tests/test_gradients.c -o build/test_gradients -lm
 *
 * Each operator's formula is written down here once more, plainly and in double, apart from the library.
 * The loss is a cross-entropy of a convolution over the whole map of what the operator gives, so every
 * pixel and channel has a gradient of its own. Central differences of that double loss (four points,
 * good to about 1e-11) are the truth; the library's float gradients, of the plain loops and of the
 * fastest instruction set, must agree with it within 1e-6 of the tensor's largest gradient. That is the
 * formula and the arithmetic at once: a double build of the kernels would test only the first. */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "lngen.h"

#define TOLERANCE 1e-6 /* of the tensor's largest magnitude */
#define STEP      1e-4 /* of the differences */
#define CLASSES   3
#define MOST      8192 /* numbers in a tensor */

static lensnet_error error;

static void must(lensnet_result result, const char *what)
{
    if (result) test_give_up(what, error.text, __FILE__, __LINE__);
}

/* ---- what is tested ------------------------------------------------------------------------------ */

typedef enum kind {
    CONV2D,
    LINEAR,
    LAYER_NORM,
    GELU,
    RELU,
    SIGMOID,
    SILU,
    GRN,
    ADD,
    CONCAT,
    CHANNEL_SCALE,
    SOFTMAX,
    ATTENTION,
    GROUP_NORM,
    BATCH_NORM,
    FIXED_NORM, /* batch norm with its running statistics */
    DROPOUT,
    AVERAGE_POOL,
    MULTIPLY,
    GATE,
    DROP_PATH,
    MEAN_POOL,
    MAX_POOL,
    TOKENS,
    TOKEN
} kind;

typedef struct shape {
    size_t n, h, w, c;
} shape;

typedef struct operation {
    const char *name;
    kind kind;
    shape in;
    size_t out_channels;  /* conv2d, linear */
    size_t rows, columns; /* conv2d's and max pool's kernel */
    lensnet_conv2d_desc desc;
    int biased;
} operation;

#define EPSILON   1e-6f
#define DROP_RATE 0.4f

static const operation operations[] = {
    {"conv2d 3x3", CONV2D, {2, 6, 5, 5}, 7, 3, 3, {1, 1, 1, 1}, 1},
    {"conv2d 3x3, stride 2", CONV2D, {2, 7, 6, 4}, 6, 3, 3, {2, 1, 1, 1}, 1},
    {"conv2d 3x3, no bias", CONV2D, {1, 5, 5, 3}, 18, 3, 3, {1, 0, 1, 1}, 0},
    {"conv2d 2x3, groups 2", CONV2D, {2, 5, 6, 8}, 6, 2, 3, {1, 1, 1, 2}, 1},
    {"conv2d 3x3, dilation 2", CONV2D, {1, 8, 7, 3}, 4, 3, 3, {1, 2, 2, 1}, 1},
    {"conv2d 3x3, depthwise, stride 2", CONV2D, {2, 7, 7, 6}, 6, 3, 3, {2, 1, 1, 6}, 1},
    {"conv2d 1x1", CONV2D, {2, 4, 5, 9}, 17, 1, 1, {1, 0, 1, 1}, 1},
    {"conv2d 4x4, stride 4", CONV2D, {2, 9, 10, 3}, 8, 4, 4, {4, 0, 1, 1}, 1},
    {"conv2d 2x2, stride 2", CONV2D, {2, 5, 6, 8}, 12, 2, 2, {2, 0, 1, 1}, 1},
    {"conv2d 2x2, stride 5", CONV2D, {2, 8, 9, 5}, 6, 2, 2, {5, 1, 1, 1}, 1},
    {"conv2d 3x2, padding 4", CONV2D, {1, 4, 3, 6}, 5, 3, 2, {1, 4, 1, 1}, 1},
    {"conv2d 3x3, groups 2, k 45", CONV2D, {1, 4, 5, 10}, 4, 3, 3, {1, 1, 1, 2}, 1},
    {"depthwise 7x7", CONV2D, {2, 9, 10, 20}, 20, 7, 7, {1, 3, 1, 20}, 1},
    {"depthwise 7x7 on 3x2", CONV2D, {3, 3, 2, 16}, 16, 7, 7, {1, 3, 1, 16}, 1},
    {"depthwise 7x7 on 1x1", CONV2D, {2, 1, 1, 5}, 5, 7, 7, {1, 3, 1, 5}, 1},
    {"linear", LINEAR, {2, 3, 4, 21}, 13, 0, 0, {0, 0, 0, 0}, 1},
    {"linear, no bias", LINEAR, {3, 1, 1, 40}, 33, 0, 0, {0, 0, 0, 0}, 0},
    {"layer norm", LAYER_NORM, {2, 3, 4, 20}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"layer norm, 40 channels", LAYER_NORM, {2, 2, 2, 40}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"gelu", GELU, {2, 5, 5, 7}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"relu", RELU, {2, 5, 5, 7}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"sigmoid", SIGMOID, {2, 5, 5, 7}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"silu", SILU, {2, 5, 5, 7}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"grn", GRN, {2, 5, 4, 20}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"grn on 1x1", GRN, {3, 1, 1, 19}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"add", ADD, {2, 4, 3, 11}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"multiply", MULTIPLY, {2, 4, 3, 11}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"multiply by (N, 1, 1, C)", GATE, {3, 5, 4, 11}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"concat", CONCAT, {2, 4, 3, 5}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"channel scale", CHANNEL_SCALE, {2, 9, 7, 19}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"softmax", SOFTMAX, {2, 4, 5, 7}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"attention, 2 heads", ATTENTION, {3, 3, 4, 18}, 0, 0, 0, {0, 0, 0, 2}, 0},
    {"group norm, 3 groups", GROUP_NORM, {2, 4, 3, 12}, 0, 0, 0, {0, 0, 0, 3}, 1},
    {"batch norm", BATCH_NORM, {3, 5, 13, 35}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"batch norm on 1x1", BATCH_NORM, {4, 1, 1, 7}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"batch norm, fixed statistics", FIXED_NORM, {3, 4, 7, 35}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"dropout", DROPOUT, {4, 3, 3, 5}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"average pool 3x3, stride 2", AVERAGE_POOL, {2, 7, 6, 5}, 0, 3, 3, {2, 1, 1, 1}, 0},
    {"average pool 2x2", AVERAGE_POOL, {1, 6, 6, 17}, 0, 2, 2, {2, 0, 1, 1}, 0},
    {"drop path", DROP_PATH, {8, 2, 3, 5}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"mean pool", MEAN_POOL, {2, 5, 3, 9}, 0, 0, 0, {0, 0, 0, 0}, 0},
    {"max pool 3x3, stride 2", MAX_POOL, {2, 7, 6, 5}, 0, 3, 3, {2, 1, 1, 1}, 0},
    {"max pool 2x2", MAX_POOL, {1, 6, 6, 7}, 0, 2, 2, {2, 0, 1, 1}, 0},
    {"tokens", TOKENS, {3, 2, 4, 11}, 0, 0, 0, {0, 0, 0, 0}, 1},
    {"token 5", TOKEN, {3, 2, 4, 11}, 0, 0, 0, {0, 0, 0, 0}, 0}};

static size_t size_of(shape s) { return s.n * s.h * s.w * s.c; }

static size_t convolved(size_t size, size_t kernel, const lensnet_conv2d_desc *desc)
{
    return (size + 2 * desc->padding - desc->dilation * (kernel - 1) - 1) / desc->stride + 1;
}

static shape output_shape(const operation *op)
{
    shape out = op->in;
    if (op->kind == CONV2D || op->kind == MAX_POOL || op->kind == AVERAGE_POOL) {
        out.h = convolved(op->in.h, op->rows, &op->desc);
        out.w = convolved(op->in.w, op->columns, &op->desc);
    }
    if (op->kind == CONV2D || op->kind == LINEAR) out.c = op->out_channels;
    if (op->kind == MEAN_POOL) out.h = out.w = 1;
    if (op->kind == CONCAT) out.c = 2 * op->in.c;
    if (op->kind == TOKENS) out.w = 1 + op->in.h * op->in.w;
    if (op->kind == TOKENS || op->kind == TOKEN) out.h = 1;
    if (op->kind == TOKEN) out.w = 1;
    if (op->kind == ATTENTION) out.c = op->in.c / 3;
    return out;
}

/* Sizes of the operator's two parameters; 0: none. */
static void parameter_sizes(size_t sizes[2], const operation *op)
{
    sizes[0] = sizes[1] = 0;
    if (op->kind == CONV2D)
        sizes[0] = op->out_channels * (op->in.c / op->desc.groups) * op->rows * op->columns;
    if (op->kind == LINEAR) sizes[0] = op->out_channels * op->in.c;
    if (op->kind == LAYER_NORM || op->kind == GRN || op->kind == GROUP_NORM ||
        op->kind == BATCH_NORM || op->kind == FIXED_NORM || op->kind == CHANNEL_SCALE ||
        op->kind == TOKENS)
        sizes[0] = op->in.c;
    if (sizes[0] && op->biased) sizes[1] = output_shape(op).c;
    if (op->kind == TOKENS) sizes[1] *= output_shape(op).w;
}

/* ---- the formulas, in double --------------------------------------------------------------------- */

static size_t at(shape s, size_t n, size_t y, size_t x, size_t c)
{
    return ((n * s.h + y) * s.w + x) * s.c + c;
}

/* Where a kernel's tap stands in the input; 0 when in the padding. */
static int tap(size_t *position, size_t out, size_t k, size_t size, const lensnet_conv2d_desc *desc)
{
    size_t padded = out * desc->stride + k * desc->dilation;
    if (padded < desc->padding || padded - desc->padding >= size) return 0;
    *position = padded - desc->padding;
    return 1;
}

static double conv2d_at(const operation *op, const double *x, const double *weight,
                        const double *bias, size_t n, size_t oy, size_t ox, size_t k)
{
    size_t group_in = op->in.c / op->desc.groups, group_out = op->out_channels / op->desc.groups;
    size_t first = k / group_out * group_in, r, s, c, iy, ix;
    double sum = op->biased ? bias[k] : 0;
    for (r = 0; r < op->rows; r++) {
        for (s = 0; s < op->columns; s++) {
            if (!tap(&iy, oy, r, op->in.h, &op->desc) || !tap(&ix, ox, s, op->in.w, &op->desc))
                continue;
            for (c = 0; c < group_in; c++) {
                sum += weight[((k * group_in + c) * op->rows + r) * op->columns + s] *
                       x[at(op->in, n, iy, ix, first + c)];
            }
        }
    }
    return sum;
}

static double max_pool_at(const operation *op, const double *x, size_t n, size_t oy, size_t ox,
                          size_t c)
{
    double largest = -1e300;
    size_t r, s, iy, ix;
    for (r = 0; r < op->rows; r++) {
        for (s = 0; s < op->columns; s++) {
            if (!tap(&iy, oy, r, op->in.h, &op->desc) || !tap(&ix, ox, s, op->in.w, &op->desc))
                continue;
            if (x[at(op->in, n, iy, ix, c)] > largest) largest = x[at(op->in, n, iy, ix, c)];
        }
    }
    return largest;
}

static double mean_pool_at(const operation *op, const double *x, size_t n, size_t c)
{
    double sum = 0;
    size_t y, w;
    for (y = 0; y < op->in.h; y++)
        for (w = 0; w < op->in.w; w++) sum += x[at(op->in, n, y, w, c)];
    return sum / (double)(op->in.h * op->in.w);
}

static double linear_at(const operation *op, const double *row, const double *weight,
                        const double *bias, size_t k)
{
    double sum = op->biased ? bias[k] : 0;
    size_t c;
    for (c = 0; c < op->in.c; c++) sum += weight[k * op->in.c + c] * row[c];
    return sum;
}

static double layer_norm_at(const operation *op, const double *row, const double *weight,
                            const double *bias, size_t channel)
{
    double mean = 0, variance = 0;
    size_t c;
    for (c = 0; c < op->in.c; c++) mean += row[c] / (double)op->in.c;
    for (c = 0; c < op->in.c; c++) variance += (row[c] - mean) * (row[c] - mean) / (double)op->in.c;
    return weight[channel] * (row[channel] - mean) / sqrt(variance + (double)EPSILON) +
           bias[channel];
}

/* norms[n][c] = sqrt(sum over pixels of x^2), then divided by their mean over the channels. */
static void grn_ratios(double *ratios, const operation *op, const double *x)
{
    size_t n, y, w, c;
    for (n = 0; n < op->in.n; n++) {
        double *row = ratios + n * op->in.c, mean = 0;
        for (c = 0; c < op->in.c; c++) {
            row[c] = 0;
            for (y = 0; y < op->in.h; y++) {
                for (w = 0; w < op->in.w; w++) {
                    double value = x[at(op->in, n, y, w, c)];
                    row[c] += value * value;
                }
            }
            row[c] = sqrt(row[c]);
            mean += row[c] / (double)op->in.c;
        }
        for (c = 0; c < op->in.c; c++) row[c] /= mean + 1e-6;
    }
}

static double fixed_mean(size_t channel) { return 0.125 * (double)channel - 1; }
static double fixed_variance(size_t channel) { return 0.5 + 0.25 * (double)channel; }

static double average_pool_at(const operation *op, const double *x, size_t n, size_t oy, size_t ox,
                              size_t c)
{
    double sum = 0;
    size_t r, s, iy, ix;
    for (r = 0; r < op->rows; r++)
        for (s = 0; s < op->columns; s++)
            if (tap(&iy, oy, r, op->in.h, &op->desc) && tap(&ix, ox, s, op->in.w, &op->desc))
                sum += x[at(op->in, n, iy, ix, c)];
    return sum / (double)(op->rows * op->columns);
}

static double softmax_at(const operation *op, const double *row, size_t channel)
{
    double sum = 0;
    size_t c;
    for (c = 0; c < op->in.c; c++) sum += exp(row[c]);
    return exp(row[channel]) / sum;
}

/* qkv at its sample; token: a pixel. */
static double attention_at(const operation *op, const double *qkv, size_t token, size_t channel)
{
    const size_t tokens = op->in.h * op->in.w, c = op->in.c / 3, wide = c / op->desc.groups;
    const size_t head = channel / wide * wide;
    double sum = 0, above = 0;
    size_t other, i;
    for (other = 0; other < tokens; other++) {
        double score = 0;
        for (i = head; i < head + wide; i++)
            score += qkv[token * 3 * c + i] * qkv[other * 3 * c + c + i];
        score = exp(score / sqrt((double)wide));
        sum += score;
        above += score * qkv[other * 3 * c + 2 * c + channel];
    }
    return above / sum;
}

/* Normalised, before weight and bias. */
static double group_norm_at(const operation *op, const double *x, size_t n, size_t channel,
                            double value)
{
    const size_t wide = op->in.c / op->desc.groups, first = channel / wide * wide;
    const double count = (double)(op->in.h * op->in.w * wide);
    double mean = 0, variance = 0;
    size_t y, w, c;
    for (y = 0; y < op->in.h; y++)
        for (w = 0; w < op->in.w; w++)
            for (c = first; c < first + wide; c++) mean += x[at(op->in, n, y, w, c)] / count;
    for (y = 0; y < op->in.h; y++)
        for (w = 0; w < op->in.w; w++)
            for (c = first; c < first + wide; c++) {
                const double d = x[at(op->in, n, y, w, c)] - mean;
                variance += d * d / count;
            }
    return (value - mean) / sqrt(variance + (double)EPSILON);
}

/* mean[c] and deviation[c] of the whole batch. */
static void batch_statistics(double *mean, double *deviation, const operation *op, const double *x)
{
    const size_t c = op->in.c, rows = op->in.n * op->in.h * op->in.w;
    size_t i;
    memset(mean, 0, c * sizeof *mean);
    memset(deviation, 0, c * sizeof *deviation);
    for (i = 0; i < rows * c; i++) mean[i % c] += x[i] / (double)rows;
    for (i = 0; i < rows * c; i++)
        deviation[i % c] += (x[i] - mean[i % c]) * (x[i] - mean[i % c]) / (double)rows;
    for (i = 0; i < c; i++) deviation[i] = sqrt(deviation[i] + (double)EPSILON);
}

static void formula(double *y, const operation *op, const double *x, double *const parameters[2],
                    const double *kept)
{
    static double ratios[MOST], mean[MOST], deviation[MOST];
    shape out = output_shape(op);
    const double *p = parameters[0], *q = parameters[1];
    size_t n, oy, ox, c;
    if (op->kind == GRN) grn_ratios(ratios, op, x);
    if (op->kind == BATCH_NORM) batch_statistics(mean, deviation, op, x);
    for (n = 0; n < out.n; n++) {
        for (oy = 0; oy < out.h; oy++) {
            for (ox = 0; ox < out.w; ox++) {
                for (c = 0; c < out.c; c++) {
                    size_t i = at(out, n, oy, ox, c);
                    const double *row = x + at(op->in, n, oy, ox, 0);
                    switch (op->kind) {
                    case CONV2D: y[i] = conv2d_at(op, x, p, q, n, oy, ox, c); break;
                    case LINEAR: y[i] = linear_at(op, row, p, q, c); break;
                    case LAYER_NORM: y[i] = layer_norm_at(op, row, p, q, c); break;
                    case GELU: y[i] = x[i] * 0.5 * erfc(-x[i] / sqrt(2.0)); break;
                    case RELU: y[i] = x[i] > 0 ? x[i] : 0; break;
                    case SIGMOID: y[i] = 1 / (1 + exp(-x[i])); break;
                    case SILU: y[i] = x[i] / (1 + exp(-x[i])); break;
                    case CONCAT: /* x and sigmoid(x) */
                        y[i] = c < op->in.c ? row[c] : 1 / (1 + exp(-row[c - op->in.c]));
                        break;
                    case CHANNEL_SCALE: y[i] = p[c] * x[i]; break;
                    case SOFTMAX: y[i] = softmax_at(op, row, c); break;
                    case ATTENTION:
                        y[i] = attention_at(op, x + at(op->in, n, 0, 0, 0), oy * out.w + ox, c);
                        break;
                    case GROUP_NORM: y[i] = group_norm_at(op, x, n, c, x[i]) * p[c] + q[c]; break;
                    case FIXED_NORM:
                        y[i] = (x[i] - fixed_mean(c)) / sqrt(fixed_variance(c) + EPSILON) * p[c] +
                               q[c];
                        break;
                    case BATCH_NORM: y[i] = (x[i] - mean[c]) / deviation[c] * p[c] + q[c]; break;
                    case DROPOUT: y[i] = kept[i] > 0 ? x[i] / (1 - (double)DROP_RATE) : 0; break;
                    case AVERAGE_POOL: y[i] = average_pool_at(op, x, n, oy, ox, c); break;
                    case MULTIPLY: y[i] = x[i] / (1 + exp(-x[i])); break; /* x sigmoid(x) */
                    case GATE: y[i] = x[i] * mean_pool_at(op, x, n, c); break;
                    case GRN: y[i] = p[c] * x[i] * ratios[n * op->in.c + c] + q[c] + x[i]; break;
                    case ADD: y[i] = x[i] + (x[i] > 0 ? x[i] : 0); break; /* x + relu(x) */
                    case DROP_PATH:
                        y[i] = kept[at(out, n, 0, 0, 0)] > 0 ? x[i] / (1 - (double)DROP_RATE) : 0;
                        break;
                    case MEAN_POOL: y[i] = mean_pool_at(op, x, n, c); break;
                    case MAX_POOL: y[i] = max_pool_at(op, x, n, oy, ox, c); break;
                    case TOKENS: /* p, then the pixels; q is the position */
                        y[i] = q[ox * out.c + c] + (ox ? x[at(op->in, n, 0, ox - 1, c)] : p[c]);
                        break;
                    case TOKEN: y[i] = x[at(op->in, n, 0, 5, c)]; break;
                    }
                }
            }
        }
    }
}

/* Mean over the samples of -log softmax(head . y) at the sample's label n mod K. */
static double loss_of(const operation *op, const double *y, const double *head)
{
    shape out = output_shape(op);
    size_t per_sample = out.h * out.w * out.c, n, k, c, p;
    double loss = 0;
    for (n = 0; n < out.n; n++) {
        double logits[CLASSES], sum = 0;
        for (k = 0; k < CLASSES; k++) {
            logits[k] = 0;
            for (p = 0; p < out.h * out.w; p++)
                for (c = 0; c < out.c; c++)
                    logits[k] += head[(k * out.c + c) * out.h * out.w + p] *
                                 y[n * per_sample + p * out.c + c];
        }
        for (k = 0; k < CLASSES; k++) sum += exp(logits[k]);
        loss += (log(sum) - logits[n % CLASSES]) / (double)out.n;
    }
    return loss;
}

/* ---- the library's side -------------------------------------------------------------------------- */

typedef struct trial {
    float x[MOST], parameters[2][MOST], head[MOST];   /* in */
    float dx[MOST], gradients[2][MOST], output[MOST]; /* out */
    double loss;
} trial;

static lensnet_batch_norm_desc norm; /* of the network that is being built */

static lensnet_tensor record(lensnet_graph *graph, const operation *op, lensnet_tensor x,
                             lensnet_parameter p, lensnet_parameter q)
{
    switch (op->kind) {
    case CONV2D: return lensnet_conv2d(graph, x, p, q, &op->desc);
    case LINEAR: return lensnet_linear(graph, x, p, q);
    case LAYER_NORM: return lensnet_layer_norm(graph, x, p, q, EPSILON);
    case GELU: return lensnet_gelu(graph, x);
    case RELU: return lensnet_relu(graph, x);
    case SIGMOID: return lensnet_sigmoid(graph, x);
    case SILU: return lensnet_silu(graph, x);
    case CONCAT: return lensnet_concat(graph, x, lensnet_sigmoid(graph, x));
    case CHANNEL_SCALE: return lensnet_channel_scale(graph, x, p);
    case SOFTMAX: return lensnet_softmax(graph, x);
    case ATTENTION: return lensnet_attention(graph, x, op->desc.groups);
    case GROUP_NORM: return lensnet_group_norm(graph, x, op->desc.groups, p, q, EPSILON);
    case BATCH_NORM:
    case FIXED_NORM: return lensnet_batch_norm(graph, x, &norm);
    case DROPOUT: return lensnet_dropout(graph, x, DROP_RATE);
    case AVERAGE_POOL:
        return lensnet_average_pool(graph, x, op->rows, op->desc.stride, op->desc.padding);
    case MULTIPLY: return lensnet_multiply(graph, x, lensnet_sigmoid(graph, x));
    case GATE: return lensnet_multiply(graph, x, lensnet_mean_pool(graph, x));
    case GRN: return lensnet_grn(graph, x, p, q);
    case ADD: return lensnet_add(graph, x, lensnet_relu(graph, x));
    case DROP_PATH: return lensnet_drop_path(graph, x, DROP_RATE);
    case MEAN_POOL: return lensnet_mean_pool(graph, x);
    case MAX_POOL: return lensnet_max_pool(graph, x, op->rows, op->desc.stride, op->desc.padding);
    case TOKENS: return lensnet_tokens(graph, x, p, q);
    case TOKEN: return lensnet_token(graph, x, 5);
    }
    return x;
}

static lensnet_parameter add(lensnet_parameters *parameters, const operation *op, int which)
{
    static const char *const names[2] = {"weight", "bias"};
    lensnet_parameter none = {-1};
    size_t sizes[2];
    parameter_sizes(sizes, op);
    if (!sizes[which]) return none;
    if (which == 0 && op->kind == CONV2D)
        return lensnet_parameter_add(parameters, names[0], op->out_channels,
                                     op->in.c / op->desc.groups, op->rows, op->columns,
                                     LENSNET_INITIAL_ZERO);
    if (which == 0 && op->kind == LINEAR)
        return lensnet_parameter_add(parameters, names[0], op->out_channels, op->in.c, 0, 0,
                                     LENSNET_INITIAL_ZERO);
    return lensnet_parameter_add(parameters, names[which], sizes[which], 0, 0, 0,
                                 LENSNET_INITIAL_ZERO);
}

/* Copies between the flat buffer and the trial's own arrays. */
static void exchange(float *own, lensnet_parameters *parameters, float *flat,
                     lensnet_parameter which, int into_flat)
{
    lensnet_parameter_info info;
    if (which.index < 0) return;
    info = lensnet_parameters_info(parameters, (size_t)which.index);
    memcpy(into_flat ? flat + info.offset : own, into_flat ? own : flat + info.offset,
           info.size * sizeof(float));
}

static void fix_statistics(lensnet_parameters *parameters, size_t channels)
{
    float *values = lensnet_parameters_values(parameters);
    float *mean = values + lensnet_parameters_info(parameters, (size_t)norm.mean.index).offset;
    float *variance =
        values + lensnet_parameters_info(parameters, (size_t)norm.variance.index).offset;
    size_t c;
    for (c = 0; c < channels; c++) {
        mean[c] = (float)fixed_mean(c);
        variance[c] = (float)fixed_variance(c);
    }
}

static void evaluate(trial *t, const operation *op, lensnet_isa isa, size_t micro_batch)
{
    lensnet_host host = lensnet_host_defaults();
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_parameters *parameters;
    lensnet_parameter p, q, head, none = {-1};
    lensnet_graph *graph;
    lensnet_tensor x, y;
    shape out = output_shape(op);
    int labels[8], i;
    for (i = 0; i < 8; i++) labels[i] = i % CLASSES;
    host.isa_cap = isa;
    host.threads = isa == LENSNET_ISA_REFERENCE ? 1 : 2;
    must(lensnet_parameters_create(&parameters, &host, &error), op->name);
    p = add(parameters, op, 0);
    q = add(parameters, op, 1);
    head = lensnet_parameter_add(parameters, "head", CLASSES, out.c, out.h, out.w,
                                 LENSNET_INITIAL_ZERO);
    if (op->kind == BATCH_NORM || op->kind == FIXED_NORM) {
        norm = lensnet_batch_norm_defaults();
        norm.weight = p;
        norm.bias = q;
        norm.mean = lensnet_statistic_add(parameters, "mean", out.c, LENSNET_INITIAL_ZERO);
        norm.variance = lensnet_statistic_add(parameters, "variance", out.c, LENSNET_INITIAL_ONE);
        norm.epsilon = EPSILON;
    }
    must(lensnet_parameters_allocate(parameters, 1, 0, &error), op->name);
    exchange(t->parameters[0], parameters, lensnet_parameters_values(parameters), p, 1);
    exchange(t->parameters[1], parameters, lensnet_parameters_values(parameters), q, 1);
    exchange(t->head, parameters, lensnet_parameters_values(parameters), head, 1);
    if (op->kind == FIXED_NORM) fix_statistics(parameters, out.c);
    lensnet_parameters_changed(parameters);

    options.height = op->in.h;
    options.width = op->in.w;
    options.batch = op->in.n;
    options.micro_batch = micro_batch;
    options.training = options.input_gradient = 1;
    options.fixed_statistics = op->kind == FIXED_NORM;
    must(lensnet_graph_create(&graph, parameters, &options, &error), op->name);
    x = lensnet_input(graph, op->in.c);
    y = record(graph, op, x, p, q);
    lensnet_keep(graph, y);
    lensnet_cross_entropy(graph, lensnet_conv2d(graph, y, head, none, NULL), NULL);
    must(lensnet_graph_plan(graph, NULL, &error), op->name);
    must(lensnet_graph_allocate(graph, &error), op->name);
    memset(&outputs, 0, sizeof outputs);
    outputs.input_gradients = t->dx;
    batch.images = t->x;
    batch.channels = op->in.c;
    batch.count = op->in.n;
    batch.labels = labels;
    must(lensnet_forward_backward(graph, &batch, &outputs, &error), op->name);
    t->loss = outputs.loss;
    memcpy(t->output, lensnet_tensor_value(graph, y),
           size_of(out) / op->in.n * micro_batch * sizeof(float));
    exchange(t->gradients[0], parameters, lensnet_parameters_gradients(parameters), p, 0);
    exchange(t->gradients[1], parameters, lensnet_parameters_gradients(parameters), q, 0);
    lensnet_graph_destroy(graph);
    lensnet_parameters_destroy(parameters);
}

/* ---- comparing ----------------------------------------------------------------------------------- */

/* Numbers of which no two in a tensor are nearer than the differences reach, and none is near 0, so that
 * the kinks of ReLU and max pool are not crossed. */
static void fill_apart(float *x, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        x[i] = ((float)(i * 7919 % count) - 0.5f * (float)count + 0.25f) / 64;
}

static void prepare(trial *t, const operation *op)
{
    size_t sizes[2], head = CLASSES * size_of(output_shape(op)) / op->in.n;
    parameter_sizes(sizes, op);
    if (op->kind == RELU || op->kind == MAX_POOL || op->kind == ADD)
        fill_apart(t->x, size_of(op->in));
    else
        lngen_fill(t->x, size_of(op->in), op->name, 0.125, 1.5);
    lngen_fill(t->parameters[0], sizes[0], "weight", 0.25, 0.5);
    lngen_fill(t->parameters[1], sizes[1], "bias", 0, 0.5);
    lngen_fill(t->head, head, "head", 0, 2.0 / sqrt((double)head));
}

typedef struct doubles {
    double x[MOST], parameters[2][MOST], head[MOST], y[MOST], kept[MOST];
} doubles;

static void widen(double *to, const float *from, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) to[i] = from[i];
}

static void widen_all(doubles *d, const trial *t, const operation *op)
{
    shape out = output_shape(op);
    size_t i;
    widen(d->x, t->x, MOST);
    widen(d->parameters[0], t->parameters[0], MOST);
    widen(d->parameters[1], t->parameters[1], MOST);
    widen(d->head, t->head, MOST);
    for (i = 0; i < size_of(out); i++)
        d->kept[i] = fabs(t->output[i]) > 0; /* drop path, dropout: not dropped */
}

static double loss_at(doubles *d, const operation *op)
{
    double *parameters[2];
    parameters[0] = d->parameters[0];
    parameters[1] = d->parameters[1];
    formula(d->y, op, d->x, parameters, d->kept);
    return loss_of(op, d->y, d->head);
}

/* Four points: the error is STEP^4 times a fifth derivative. */
static double derivative(doubles *d, const operation *op, double *value)
{
    double middle = *value, near_difference, far_difference;
    *value = middle + STEP;
    near_difference = loss_at(d, op);
    *value = middle - STEP;
    near_difference -= loss_at(d, op);
    *value = middle + 2 * STEP;
    far_difference = loss_at(d, op);
    *value = middle - 2 * STEP;
    far_difference -= loss_at(d, op);
    *value = middle;
    return (8 * near_difference - far_difference) / (12 * STEP);
}

/* Large tensors are sampled: every third number, from the first. LENSNET_TEST_QUICK leaves about forty of
 * each: the differences are the same arithmetic everywhere, and an emulator is slow at it. */
static size_t sampling_step(size_t count)
{
    const size_t few = count / 40 | 1;
    if (getenv("LENSNET_TEST_QUICK"))
        return few % 7 ? few : few + 2; /* not one column of 7 x 7 filters */
    return count > 400 ? 3 : 1;
}

static double check_tensor(doubles *d, const operation *op, double *values, const float *gradients,
                           size_t count, const char *what)
{
    double worst = 0, largest = 0;
    const size_t step = sampling_step(count);
    size_t i;
    for (i = 0; i < count; i += step) {
        double expected = derivative(d, op, values + i);
        double difference = fabs(gradients[i] - expected);
        if (!(difference <= worst)) worst = difference;
        if (fabs(expected) > largest) largest = fabs(expected);
    }
    if (count) CHECK(largest > 0);
    if (count) CHECK_CLOSE(worst / largest, 0, TOLERANCE, what);
    return count ? worst / largest : 0;
}

static void check_against_differences(const trial *t, const operation *op)
{
    static doubles d;
    size_t sizes[2];
    double worst[3];
    char what[3][100];
    parameter_sizes(sizes, op);
    snprintf(what[0], sizeof what[0], "%s: input", op->name);
    snprintf(what[1], sizeof what[1], "%s: first parameter", op->name);
    snprintf(what[2], sizeof what[2], "%s: second parameter", op->name);
    widen_all(&d, t, op);
    CHECK_CLOSE(t->loss, loss_at(&d, op), 2e-6, op->name);
    worst[0] = check_tensor(&d, op, d.x, t->dx, size_of(op->in), what[0]);
    worst[1] = check_tensor(&d, op, d.parameters[0], t->gradients[0], sizes[0], what[1]);
    worst[2] = check_tensor(&d, op, d.parameters[1], t->gradients[1], sizes[1], what[2]);
    printf("%-32s input %.1e, parameters %.1e %.1e\n", op->name, worst[0], worst[1], worst[2]);
}

static void test_operation(const operation *op)
{
    static const lensnet_isa paths[] = {LENSNET_ISA_PORTABLE, LENSNET_ISA_AVX2, LENSNET_ISA_BEST};
    static trial plain, fast;
    size_t i;
    memset(&plain, 0, sizeof plain);
    prepare(&plain, op);
    evaluate(&plain, op, LENSNET_ISA_REFERENCE, op->in.n);
    for (i = 0; i < 4; i++) { /* the last one in parts */
        memset(&fast, 0, sizeof fast);
        prepare(&fast, op);
        evaluate(&fast, op, paths[i < 3 ? i : 2], i < 3 ? op->in.n : 1);
        CHECK(plain.loss == fast.loss);
        CHECK(i == 3 || memcmp(plain.output, fast.output, sizeof plain.output) == 0);
        CHECK(memcmp(plain.dx, fast.dx, sizeof plain.dx) == 0);
        CHECK(memcmp(plain.gradients, fast.gradients, sizeof plain.gradients) == 0);
    }
    check_against_differences(&plain, op);
}

/* A channel that is zero everywhere has norm 0, where the norm has no derivative: it counts as 0. */
static void test_grn_zero_channel(void)
{
    static trial t;
    operation op = {"grn, a zero channel", GRN, {2, 3, 3, 6}, 0, 0, 0, {0, 0, 0, 0}, 1};
    static doubles d;
    size_t i;
    memset(&t, 0, sizeof t);
    prepare(&t, &op);
    for (i = 2; i < size_of(op.in); i += op.in.c) t.x[i] = 0;
    evaluate(&t, &op, LENSNET_ISA_BEST, op.in.n);
    widen_all(&d, &t, &op);
    for (i = 0; i < size_of(op.in); i++) {
        /* there the difference is good to STEP only: the norm grows like |x| */
        double tolerance = i % op.in.c == 2 ? 1e-4 : 1e-6;
        CHECK_CLOSE(t.dx[i], derivative(&d, &op, d.x + i), tolerance, op.name);
    }
}

/* ---- the loss ------------------------------------------------------------------------------------ */

typedef struct loss_case {
    const char *name;
    float smoothing;
    int weighted, soft;
} loss_case;

#define LOSS_SAMPLES 5
#define LOSS_CLASSES 4

static const float loss_weights[LOSS_CLASSES] = {1, 2, 0.5f, 3};
static const int loss_labels[LOSS_SAMPLES] = {3, 0, -100, 2, 1};

/* -sum T log p / Z, with T and Z as PyTorch defines them. */
static double loss_formula(const loss_case *c, const double *logits, const float *soft)
{
    double loss = 0, divisor = 0;
    int n, k;
    for (n = 0; n < LOSS_SAMPLES; n++) {
        const double *row = logits + n * LOSS_CLASSES;
        int label = loss_labels[n];
        double sum = 0;
        if (!c->soft && label < 0) continue;
        for (k = 0; k < LOSS_CLASSES; k++) sum += exp(row[k]);
        for (k = 0; k < LOSS_CLASSES; k++) {
            double weight = c->weighted ? loss_weights[k] : 1;
            double target = c->soft ? soft[n * LOSS_CLASSES + k]
                                    : (1 - (double)c->smoothing) * (k == label) * weight +
                                          (double)c->smoothing / LOSS_CLASSES * weight;
            loss -= target * (row[k] - log(sum));
        }
        divisor += !c->soft && c->weighted ? loss_weights[label] : 1;
    }
    return loss / divisor;
}

static double loss_derivative(const loss_case *c, double *logits, const float *soft, int i)
{
    double middle = logits[i], difference;
    logits[i] = middle + STEP;
    difference = loss_formula(c, logits, soft);
    logits[i] = middle - STEP;
    difference -= loss_formula(c, logits, soft);
    logits[i] = middle;
    return difference / (2 * STEP);
}

static void test_loss(const loss_case *c)
{
    float x[LOSS_SAMPLES * LOSS_CLASSES], dx[LOSS_SAMPLES * LOSS_CLASSES];
    float soft[LOSS_SAMPLES * LOSS_CLASSES];
    double logits[LOSS_SAMPLES * LOSS_CLASSES], worst = 0;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_parameters *parameters;
    lensnet_graph *graph;
    int i;
    lngen_fill(x, LOSS_SAMPLES * LOSS_CLASSES, "logits", 0, 3);
    for (i = 0; i < LOSS_SAMPLES * LOSS_CLASSES; i++) {
        logits[i] = x[i];
        soft[i] = i % LOSS_CLASSES == 0 ? 0.5f : 0.5f / (LOSS_CLASSES - 1);
    }
    must(lensnet_parameters_create(&parameters, NULL, &error), c->name);
    must(lensnet_parameters_allocate(parameters, 1, 0, &error), c->name);
    options.height = options.width = 1;
    options.batch = LOSS_SAMPLES;
    options.training = options.input_gradient = 1;
    must(lensnet_graph_create(&graph, parameters, &options, &error), c->name);
    loss.label_smoothing = c->smoothing;
    loss.class_weights = c->weighted ? loss_weights : NULL;
    lensnet_cross_entropy(graph, lensnet_input(graph, LOSS_CLASSES), &loss);
    must(lensnet_graph_plan(graph, NULL, &error), c->name);
    must(lensnet_graph_allocate(graph, &error), c->name);
    memset(&outputs, 0, sizeof outputs);
    outputs.input_gradients = dx;
    batch.images = x;
    batch.channels = LOSS_CLASSES;
    batch.count = LOSS_SAMPLES;
    if (c->soft)
        batch.targets = soft;
    else
        batch.labels = loss_labels;
    must(lensnet_forward_backward(graph, &batch, &outputs, &error), c->name);
    CHECK_CLOSE(outputs.loss, loss_formula(c, logits, soft), 1e-6, c->name);
    for (i = 0; i < LOSS_SAMPLES * LOSS_CLASSES; i++) {
        double difference = fabs(dx[i] - loss_derivative(c, logits, soft, i));
        if (!(difference <= worst)) worst = difference;
    }
    CHECK_CLOSE(worst, 0, 2e-7, c->name);
    printf("%-32s logits %.1e\n", c->name, worst);
    lensnet_graph_destroy(graph);
    lensnet_parameters_destroy(parameters);
}

/* The law of >>rows, bit by bit: the gradient of a bias, of a norm's shift and of GRN's is, sample after
 * sample, a sum of chunks of 56 pixels, each begun at zero. 57 pixels: the second chunk is one. */
static void test_chunk_law(void)
{
    enum { C = 3, PIXELS = 57, CHUNK = 56, KINDS = 3, SAMPLES = 2 };
    lensnet_parameters *parameters;
    lensnet_parameter scale[KINDS], shift[KINDS], head;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_graph *graph;
    lensnet_tensor y[KINDS], x;
    float images[SAMPLES * PIXELS * C];
    int labels[SAMPLES] = {2, 0};
    lensnet_parameter none = {-1};
    size_t k, c, n, p;
    must(lensnet_parameters_create(&parameters, NULL, &error), "law");
    scale[0] = lensnet_parameter_add(parameters, "w0", C, C, 0, 0, LENSNET_INITIAL_NORMAL_002);
    scale[1] = lensnet_parameter_add(parameters, "w1", C, 0, 0, 0, LENSNET_INITIAL_ONE);
    scale[2] = lensnet_parameter_add(parameters, "w2", C, 0, 0, 0, LENSNET_INITIAL_ONE);
    shift[0] = lensnet_parameter_add(parameters, "b0", C, 0, 0, 0, LENSNET_INITIAL_ZERO);
    shift[1] = lensnet_parameter_add(parameters, "b1", C, 0, 0, 0, LENSNET_INITIAL_ZERO);
    shift[2] = lensnet_parameter_add(parameters, "b2", C, 0, 0, 0, LENSNET_INITIAL_ZERO);
    head = lensnet_parameter_add(parameters, "head", 3, C, PIXELS, 1, LENSNET_INITIAL_NORMAL_002);
    must(lensnet_parameters_allocate(parameters, 1, 3, &error), "law");
    lngen_fill(images, SAMPLES * PIXELS * C, "images", 0, 2);
    options.height = PIXELS;
    options.width = 1;
    options.batch = options.micro_batch = SAMPLES;
    options.training = 1;
    must(lensnet_graph_create(&graph, parameters, &options, &error), "law");
    x = lensnet_input(graph, C);
    y[0] = lensnet_linear(graph, x, scale[0], shift[0]);
    y[1] = lensnet_layer_norm(graph, y[0], scale[1], shift[1], EPSILON);
    y[2] = lensnet_grn(graph, y[1], scale[2], shift[2]);
    for (k = 0; k < KINDS; k++) lensnet_keep(graph, y[k]);
    lensnet_cross_entropy(graph, lensnet_conv2d(graph, y[2], head, none, NULL), NULL);
    must(lensnet_graph_plan(graph, NULL, &error), "law");
    must(lensnet_graph_allocate(graph, &error), "law");
    batch.images = images;
    batch.channels = C;
    batch.count = SAMPLES;
    batch.labels = labels;
    must(lensnet_forward_backward(graph, &batch, NULL, &error), "law");
    for (k = 0; k < KINDS; k++) {
        const float *dy = lensnet_tensor_gradient(graph, y[k]);
        float actual[C];
        exchange(actual, parameters, lensnet_parameters_gradients(parameters), shift[k], 0);
        for (c = 0; c < C; c++) {
            float total = 0.0f, chunk = 0.0f;
            for (n = 0; n < SAMPLES; n++)
                for (p = 0; p < PIXELS; p++) {
                    chunk = (p % CHUNK ? chunk : 0.0f) + dy[(n * PIXELS + p) * C + c];
                    if (p % CHUNK == CHUNK - 1 || p == PIXELS - 1) total += chunk;
                }
            CHECK(memcmp(&total, &actual[c], sizeof total) == 0);
        }
    }
    lensnet_graph_destroy(graph);
    lensnet_parameters_destroy(parameters);
}

/* Batch norm beside its definition: the running statistics move, AdamW leaves them alone, a graph that only
 * runs uses them, and the batch is never split. */
static void test_batch_norm_statistics(void)
{
    enum { C = 5, N = 3, PIXELS = 6, ROWS = N * PIXELS };
    lensnet_parameters *parameters;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_adamw_desc decaying = lensnet_adamw_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_graph *graph[2];
    lensnet_plan plan;
    lensnet_adamw *adamw;
    float images[ROWS * C], before[4 * C], logits[N * C], *values;
    int labels[N] = {1, 3, 0}, k;
    size_t i, c;
    must(lensnet_parameters_create(&parameters, NULL, &error), "statistics");
    norm = lensnet_batch_norm_defaults();
    norm.weight = lensnet_parameter_add(parameters, "weight", C, 0, 0, 0, LENSNET_INITIAL_ONE);
    norm.bias = lensnet_parameter_add(parameters, "bias", C, 0, 0, 0, LENSNET_INITIAL_ZERO);
    norm.mean = lensnet_statistic_add(parameters, "mean", C, LENSNET_INITIAL_ZERO);
    norm.variance = lensnet_statistic_add(parameters, "variance", C, LENSNET_INITIAL_ONE);
    must(lensnet_parameters_allocate(parameters, 1, 0, &error), "statistics");
    values = lensnet_parameters_values(parameters);
    lngen_fill(images, ROWS * C, "images", 2, 3);
    options.height = PIXELS;
    options.width = 1;
    options.batch = N;
    options.micro_batch = 1;
    for (k = 0; k < 2; k++) {
        options.training = !k;
        must(lensnet_graph_create(&graph[k], parameters, &options, &error), "statistics");
        lensnet_cross_entropy(
            graph[k],
            lensnet_mean_pool(graph[k],
                              lensnet_batch_norm(graph[k], lensnet_input(graph[k], C), &norm)),
            NULL);
        must(lensnet_graph_plan(graph[k], &plan, &error), "statistics");
        CHECK(plan.micro_batch == (k ? 1 : N));
        must(lensnet_graph_allocate(graph[k], &error), "statistics");
    }
    CHECK(lensnet_parameters_info(parameters, 2).statistic);
    CHECK(!lensnet_parameters_info(parameters, 1).statistic);
    batch.images = images;
    batch.channels = C;
    batch.count = N;
    batch.labels = labels;
    decaying.weight_decay = 0.5;
    must(lensnet_adamw_create(&adamw, parameters, &decaying, &error), "statistics");
    must(lensnet_forward_backward(graph[0], &batch, NULL, &error), "statistics");
    for (c = 0; c < C; c++) {
        double mean = 0, square = 0;
        for (i = 0; i < ROWS; i++) mean += images[i * C + c] / (double)ROWS;
        for (i = 0; i < ROWS; i++)
            square += (images[i * C + c] - mean) * (images[i * C + c] - mean) / (ROWS - 1);
        CHECK_CLOSE(values[2 * C + c], 0.1 * mean, 1e-6, "running mean");
        CHECK_CLOSE(values[3 * C + c], 0.9 + 0.1 * square, 1e-6, "running variance");
    }
    memcpy(before, values, sizeof before);
    must(lensnet_adamw_step(adamw, 0.1, NULL, &error), "statistics");
    CHECK(memcmp(before, values, C * sizeof *values) != 0);
    CHECK(memcmp(before + 2 * C, values + 2 * C, 2 * C * sizeof *values) == 0);
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = logits;
    must(lensnet_forward(graph[1], &batch, &outputs, &error), "statistics");
    CHECK(memcmp(before + 2 * C, values + 2 * C, 2 * C * sizeof *values) == 0);
    for (i = 0; i < N * C; i++) {
        double sum = 0;
        size_t p;
        c = i % C;
        for (p = 0; p < PIXELS; p++)
            sum += (images[(i / C * PIXELS + p) * C + c] - values[2 * C + c]) / (double)PIXELS;
        CHECK_CLOSE(logits[i],
                    sum / sqrt((double)values[3 * C + c] + 1e-5) * values[c] + values[C + c], 2e-6,
                    "inference");
    }
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(graph[0]);
    lensnet_graph_destroy(graph[1]);
    lensnet_parameters_destroy(parameters);
}

/* A branch without a loss gives no gradient, and must leave that of the other branch as it is. */
static void test_dead_branch(int branches)
{
    enum { VALUES = 2 * 3 * 3 * 4 };
    lensnet_parameters *parameters;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_graph *graph;
    lensnet_tensor x;
    static float images[VALUES], expected[VALUES];
    float dx[VALUES];
    int labels[2] = {1, 3};
    must(lensnet_parameters_create(&parameters, NULL, &error), "branch");
    must(lensnet_parameters_allocate(parameters, 1, 3, &error), "branch");
    lngen_fill(images, VALUES, "images", 0, 2);
    options.height = options.width = 3;
    options.batch = 2;
    options.training = options.input_gradient = 1;
    must(lensnet_graph_create(&graph, parameters, &options, &error), "branch");
    x = lensnet_input(graph, 4);
    lensnet_cross_entropy(graph, lensnet_mean_pool(graph, lensnet_relu(graph, x)), NULL);
    if (branches > 1) lensnet_keep(graph, lensnet_gelu(graph, lensnet_gelu(graph, x)));
    must(lensnet_graph_plan(graph, NULL, &error), "branch");
    must(lensnet_graph_allocate(graph, &error), "branch");
    memset(&outputs, 0, sizeof outputs);
    outputs.input_gradients = branches > 1 ? dx : expected;
    batch.images = images;
    batch.channels = 4;
    batch.count = 2;
    batch.labels = labels;
    must(lensnet_forward_backward(graph, &batch, &outputs, &error), "branch");
    must(lensnet_forward_backward(graph, &batch, &outputs, &error), "branch");
    if (branches > 1) CHECK(memcmp(dx, expected, sizeof dx) == 0);
    lensnet_graph_destroy(graph);
    lensnet_parameters_destroy(parameters);
}

int main(void)
{
    static const loss_case losses[] = {{"loss: labels", 0, 0, 0},
                                       {"loss: smoothing", 0.1f, 0, 0},
                                       {"loss: class weights", 0, 1, 0},
                                       {"loss: smoothing, class weights", 0.2f, 1, 0},
                                       {"loss: soft targets", 0, 0, 1}};
    size_t i;
    for (i = 0; i < sizeof operations / sizeof *operations; i++) test_operation(&operations[i]);
    test_grn_zero_channel();
    test_chunk_law();
    test_batch_norm_statistics();
    test_dead_branch(1);
    test_dead_branch(2);
    for (i = 0; i < sizeof losses / sizeof *losses; i++) test_loss(&losses[i]);
    return test_end();
}
