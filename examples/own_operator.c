/* own_operator.c - an operator and a loss from outside the header, and the check that each needs: their
 * gradients against central differences.
 *
 * cc -O2 -fopenmp examples/own_operator.c -o own_operator -lm
 * ./own_operator
 *
 * The operator is PReLU (He et al. 2015, torch.nn.functional.prelu): x where x > 0, else a[c] x with a
 * weight for each channel. The loss is torch.nn.functional.smooth_l1_loss. Copy one of them to begin. */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "arguments.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the operator: (N, H, W, C) -> (N, H, W, C), weight a: C values ------------------------------- */

static lensnet_result prelu_shape(lensnet_node *node, lensnet_error *error)
{
    const lensnet_view x = lensnet_node_input(node, 0);
    lensnet_node_shape(node, x.h, x.w, x.c);
    return lensnet_node_expect(node, 0, x.c, error);
}

static void prelu_forward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_output(node);
    const float *a = lensnet_node_weight(node, 0).values;
    size_t i, n = x.n * x.h * x.w * x.c;
    for (i = 0; i < n; i++) y.value[i] = x.value[i] > 0 ? x.value[i] : a[i % x.c] * x.value[i];
}

/* The weight's gradient is added to, value after value: so the bits are the same however the batch is
 * split into micro-batches. */
static void prelu_backward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_output(node);
    const lensnet_weight a = lensnet_node_weight(node, 0);
    size_t i, n = x.n * x.h * x.w * x.c;
    for (i = 0; i < n; i++) {
        const float slope = x.value[i] > 0 ? 1.0f : a.values[i % x.c];
        if (x.value[i] <= 0) a.gradients[i % x.c] += y.gradient[i] * x.value[i];
        if (x.gradient) x.gradient[i] = y.gradient[i] * slope;
    }
}

static const lensnet_operator prelu_operator = {
    "prelu", /* inputs, weights, of these required, bytes of options, flags: */
    1, 1, 1, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    prelu_shape, NULL, prelu_forward, prelu_backward, NULL, NULL};

static lensnet_tensor prelu(lensnet_graph *graph, lensnet_tensor x, lensnet_parameter a)
{
    return lensnet_record(graph, &prelu_operator, &x, &a, NULL);
}

/* ---- the loss: mean of d^2 / (2 beta) where |d| = |x - t| < beta, else of |d| - beta / 2 ---------- */

typedef struct smooth_options {
    double beta;
} smooth_options;

static void smooth_forward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0);
    const smooth_options *options = (const smooth_options *)lensnet_node_options(node);
    const float *t = lensnet_loss_targets(node);
    size_t image, i, n = x.h * x.w * x.c;
    for (image = 0; image < x.n; image++) {
        double sum = 0;
        for (i = image * n; i < (image + 1) * n; i++) {
            const double d = fabs((double)x.value[i] - (double)t[i]);
            sum += d < options->beta ? d * d / (2 * options->beta) : d - options->beta / 2;
        }
        lensnet_loss_add(node, sum);
    }
}

static void smooth_backward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0);
    const smooth_options *options = (const smooth_options *)lensnet_node_options(node);
    const float *t = lensnet_loss_targets(node);
    size_t i, n = x.n * x.h * x.w * x.c;
    for (i = 0; x.gradient && i < n; i++) {
        double slope = ((double)x.value[i] - (double)t[i]) / options->beta;
        if (slope > 1) slope = 1;
        if (slope < -1) slope = -1;
        x.gradient[i] = (float)(lensnet_loss_scale(node) * slope);
    }
}

static const lensnet_operator smooth_operator = {
    "smooth l1", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(smooth_options), LENSNET_READS_INPUT | LENSNET_IS_LOSS,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, smooth_forward, smooth_backward, NULL, NULL};

/* ---- the check ----------------------------------------------------------------------------------- */

enum { IMAGES = 5, SIDE = 4, CHANNELS = 3, VALUES = IMAGES * SIDE * SIDE * CHANNELS };

typedef struct trial {
    lensnet_parameters *parameters;
    lensnet_graph *graph;
    float images[VALUES], targets[VALUES], gradients[VALUES];
    float slopes[CHANNELS]; /* gradients of PReLU's weight */
} trial;

static lensnet_result build(trial *t, lensnet_error *error)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    const smooth_options beta = {0.7};
    lensnet_parameter a;
    lensnet_tensor x;
    lensnet_result result = lensnet_parameters_create(&t->parameters, NULL, error);
    if (result) return result;
    a = lensnet_parameter_add(t->parameters, "a", CHANNELS, 0, 0, 0, LENSNET_INITIAL_HE);
    result = lensnet_parameters_allocate(t->parameters, 1, 7, error);
    options.height = options.width = SIDE;
    options.batch = IMAGES;
    options.micro_batch = 2; /* 2 + 2 + 1 images: any split must do */
    options.training = options.input_gradient = 1;
    if (!result) result = lensnet_graph_create(&t->graph, t->parameters, &options, error);
    if (result) return result;
    x = prelu(t->graph, lensnet_input(t->graph, CHANNELS), a);
    lensnet_record_loss(t->graph, &smooth_operator, x, "wanted", 1.0f, &beta);
    result = lensnet_graph_plan(t->graph, NULL, error);
    return result ? result : lensnet_graph_allocate(t->graph, error);
}

/* The loss; with `backward` the gradients too. */
static double run(trial *t, int backward)
{
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_target target;
    lensnet_outputs outputs;
    lensnet_error error;
    memset(&outputs, 0, sizeof outputs);
    target.name = "wanted";
    target.values = t->targets;
    batch.images = t->images;
    batch.channels = CHANNELS;
    batch.count = IMAGES;
    batch.named = &target;
    batch.named_count = 1;
    outputs.input_gradients = t->gradients;
    lensnet_parameters_changed(t->parameters);
    if (backward ? lensnet_forward_backward(t->graph, &batch, &outputs, &error)
                 : lensnet_forward(t->graph, &batch, &outputs, &error)) {
        fprintf(stderr, "error: %s\n", error.text);
        exit(1);
    }
    return outputs.loss;
}

/* The largest difference between `gradients` and central differences of the loss in `values`. */
static double worst(trial *t, float *values, const float *gradients, size_t count)
{
    const float step = 1e-3f;
    double most = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        const float middle = values[i];
        double high, low, difference;
        values[i] = middle + step;
        high = run(t, 0);
        values[i] = middle - step;
        low = run(t, 0);
        values[i] = middle;
        difference = fabs((high - low) / (2 * (double)step) - (double)gradients[i]);
        if (difference > most) most = difference;
    }
    return most;
}

int main(int argc, char **argv)
{
    static const char usage[] = "usage: own_operator";
    static trial t;
    lensnet_error error;
    double of_images, of_weight;
    int i, good;
    if (arguments_parse(NULL, 0, usage, argc, argv)) arguments_fail("%s", usage);
    if (build(&t, &error)) return fprintf(stderr, "error: %s\n", error.text), 1;
    for (i = 0; i < VALUES; i++) { /* away from 0, where PReLU has a kink */
        const double x = 2 * lensnet_random_uniform(1, 0, (uint64_t)i) - 1;
        t.images[i] = (float)(x + (x < 0 ? -0.1 : 0.1));
        t.targets[i] = (float)(3 * lensnet_random_uniform(1, 1, (uint64_t)i) - 1.5);
    }
    run(&t, 1);
    memcpy(t.slopes, lensnet_parameters_gradients(t.parameters), sizeof t.slopes);
    {
        static float gradients[VALUES];
        memcpy(gradients, t.gradients, sizeof gradients);
        of_images = worst(&t, t.images, gradients, VALUES);
    }
    of_weight = worst(&t, lensnet_parameters_values(t.parameters), t.slopes, CHANNELS);
    good = of_images < 2e-5 && of_weight < 2e-5;
    printf("prelu and smooth l1 against differences: images %.1e, weight %.1e: %s\n", of_images,
           of_weight, good ? "they agree" : "THEY DIFFER");
    lensnet_graph_destroy(t.graph);
    lensnet_parameters_destroy(t.parameters);
    return good && arguments_flush() ? 0 : 1;
}
