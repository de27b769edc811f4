/* test_losses.c - several losses in one graph, their targets by name, heads beside the classifier.
 * cc -O2 -fopenmp -I. tests/test_losses.c -o build/test_losses -lm
 *
 * The definitions of torch.nn.functional.mse_loss and binary_cross_entropy_with_logits (mean over all
 * values) are written down once more in double; gradients are compared with central differences of
 * them. Then: a batch in parts gives the same bits, a head trains, is kept in a state and leaves with
 * the saved model. */
#ifndef LENSNET_IMPLEMENTED
#define LENSNET_IMPLEMENTATION
#endif
#include "lensnet.h"
#include "test.h"

#define SAMPLES  5
#define CHANNELS 6
#define SIDE     3
#define VALUES   (SAMPLES * SIDE * SIDE * CHANNELS)

static lensnet_error error;

static void must(lensnet_result result, const char *what)
{
    if (result) test_give_up(what, error.text, __FILE__, __LINE__);
}

/* Numbers in low ... high. */
static void draw(float *values, size_t count, double low, double high, uint64_t stream)
{
    size_t i;
    for (i = 0; i < count; i++)
        values[i] = (float)(low + (high - low) * lensnet_random_uniform(7, stream, i));
}

/* ---- formulas ------------------------------------------------------------------------------------ */

static double squared_error(double x, double t) { return (x - t) * (x - t); }

static double binary_cross_entropy(double x, double t)
{
    double p = 1 / (1 + exp(-x));
    return -t * log(p) - (1 - t) * log(1 - p);
}

typedef double (*formula)(double x, double t);

static double mean_of(formula f, const float *x, const float *t)
{
    double sum = 0;
    size_t i;
    for (i = 0; i < VALUES; i++) sum += f((double)x[i], (double)t[i]);
    return sum / VALUES;
}

static double slope_of(formula f, double x, double t)
{
    const double step = 1e-4;
    return (f(x + step, t) - f(x - step, t)) / (2 * step) / VALUES;
}

/* ---- both losses on the input itself ------------------------------------------------------------- */

static lensnet_graph *both_losses(lensnet_parameters **ps, size_t micro_batch)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_graph *g;
    lensnet_tensor x;
    must(lensnet_parameters_create(ps, NULL, &error), "parameters");
    must(lensnet_parameters_allocate(*ps, 1, 0, &error), "allocate");
    options.height = options.width = SIDE;
    options.batch = SAMPLES;
    options.micro_batch = micro_batch;
    options.training = options.input_gradient = 1;
    must(lensnet_graph_create(&g, *ps, &options, &error), "graph");
    x = lensnet_input(g, CHANNELS);
    lensnet_squared_error(g, x, "mass", 0.5f);
    lensnet_binary_cross_entropy(g, x, "labels", 2.0f);
    must(lensnet_graph_plan(g, NULL, &error), "plan");
    must(lensnet_graph_allocate(g, &error), "graph memory");
    return g;
}

static void run(lensnet_outputs *outputs, float *dx, const float *x, const lensnet_target *named,
                size_t micro_batch)
{
    lensnet_parameters *ps;
    lensnet_graph *g = both_losses(&ps, micro_batch);
    lensnet_batch batch = lensnet_batch_defaults();
    memset(outputs, 0, sizeof *outputs);
    outputs->input_gradients = dx;
    batch.images = x;
    batch.channels = CHANNELS;
    batch.count = SAMPLES;
    batch.named = named;
    batch.named_count = 2;
    must(lensnet_forward_backward(g, &batch, outputs, &error), "run");
    batch.named_count = 1;
    CHECK(lensnet_forward_backward(g, &batch, NULL, &error) == LENSNET_ERROR_ARGUMENT &&
          strstr(error.text, "\"mass\""));
    CHECK(!lensnet_forward(g, &batch, NULL, &error));
    lensnet_graph_destroy(g);
    lensnet_parameters_destroy(ps);
}

static void test_values_and_slopes(void)
{
    static float x[VALUES], mass[VALUES], labels[VALUES], dx[VALUES], parts[VALUES];
    lensnet_target named[2];
    lensnet_outputs outputs, other;
    double worst = 0, most = 0;
    size_t i;
    draw(x, VALUES, -4, 4, 1);
    draw(mass, VALUES, -2, 2, 2);
    draw(labels, VALUES, 0, 1, 3);
    x[0] = 90;
    x[1] = -90; /* where the definition overflows; the slope is that of a line */
    labels[0] = 1;
    labels[1] = 0;
    named[0].name = "labels";
    named[0].values = labels;
    named[1].name = "mass";
    named[1].values = mass;
    run(&outputs, dx, x, named, SAMPLES);
    x[0] = x[1] = 30;
    labels[1] = 1;
    run(&outputs, dx, x, named, SAMPLES);
    CHECK_CLOSE(outputs.losses[0], mean_of(squared_error, x, mass), 1e-12, "squared error");
    CHECK_CLOSE(outputs.losses[1], mean_of(binary_cross_entropy, x, labels), 1e-12,
                "binary cross-entropy");
    CHECK_CLOSE(outputs.loss, 0.5 * outputs.losses[0] + 2 * outputs.losses[1], 1e-15, "sum");
    for (i = 0; i < VALUES; i++) {
        double wanted = 0.5 * slope_of(squared_error, (double)x[i], (double)mass[i]) +
                        2 * slope_of(binary_cross_entropy, (double)x[i], (double)labels[i]);
        if (fabs(wanted) > most) most = fabs(wanted);
        if (fabs((double)dx[i] - wanted) > worst) worst = fabs((double)dx[i] - wanted);
    }
    CHECK(most > 0 && worst <= 1e-6 * most);
    mass[9] = (float)NAN;
    labels[9] = (float)NAN;
    run(&other, parts, x, named, SAMPLES);
    CHECK(parts[9] == 0 && parts[8] == dx[8] && other.loss < outputs.loss);
    memcpy(dx, parts, sizeof dx);
    outputs = other;
    run(&other, parts, x, named, 2);
    CHECK(!memcmp(dx, parts, sizeof dx) &&
          !memcmp(&outputs.losses, &other.losses, sizeof outputs.losses));
}

/* Far out the loss stays finite: log(1 + exp(90)) in float would not. */
static void test_far_out(void)
{
    static float x[VALUES], mass[VALUES], labels[VALUES], dx[VALUES];
    lensnet_target named[2];
    lensnet_outputs outputs;
    size_t i;
    named[0].name = "labels";
    named[0].values = labels;
    named[1].name = "mass";
    named[1].values = mass;
    for (i = 0; i < VALUES; i++) {
        x[i] = mass[i] = i % 2 ? 900.0f : -900.0f;
        labels[i] = 0.5f;
    }
    run(&outputs, dx, x, named, SAMPLES);
    CHECK_CLOSE(outputs.losses[1], 450, 1e-12, "far out");
}

/* ---- what is refused ----------------------------------------------------------------------------- */

static void test_refusals(void)
{
    lensnet_parameters *ps;
    lensnet_graph *g;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_tensor x;
    int bad, i;
    must(lensnet_parameters_create(&ps, NULL, &error), "parameters");
    must(lensnet_parameters_allocate(ps, 1, 0, &error), "allocate");
    options.height = options.width = SIDE;
    for (bad = 0; bad < 5; bad++) {
        must(lensnet_graph_create(&g, ps, &options, &error), "graph");
        x = lensnet_input(g, CHANNELS);
        if (bad == 0) lensnet_squared_error(g, x, "", 1);
        if (bad == 1) lensnet_squared_error(g, x, "a name that is too long for it", 1);
        if (bad == 2) lensnet_squared_error(g, x, "mass", -1);
        if (bad == 3) lensnet_binary_cross_entropy(g, x, NULL, 1);
        for (i = 0; bad == 4 && i <= LENSNET_LOSSES; i++) lensnet_squared_error(g, x, "mass", 1);
        CHECK(lensnet_graph_plan(g, NULL, &error) == LENSNET_ERROR_ARGUMENT);
        lensnet_graph_destroy(g);
    }
    lensnet_parameters_destroy(ps);
}

/* ---- heads --------------------------------------------------------------------------------------- */

#define PIXELS 64
#define IMAGES 4

static lensnet_model *model_with_heads(void)
{
    static const lensnet_head heads[2] = {{"dense", 2, 16}, {"mass", LENSNET_HEAD_POOLED, 1}};
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model;
    must(lensnet_model_variant(&desc, "atto", &error), "variant");
    desc.preprocess.channels = 1;
    desc.heads = heads;
    desc.head_count = 2;
    must(lensnet_model_create(&model, &desc, &error), "model");
    return model;
}

static lensnet_graph *graph_with_heads(lensnet_model *model, size_t micro_batch)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_graph *g;
    lensnet_network net;
    size_t h, w, c;
    options.height = options.width = PIXELS;
    options.batch = IMAGES;
    options.micro_batch = micro_batch;
    options.training = 1;
    must(lensnet_graph_create(&g, lensnet_model_parameters(model), &options, &error), "graph");
    net = lensnet_model_record(g, model);
    lensnet_cross_entropy(g, net.logits, NULL);
    lensnet_squared_error(g, net.heads[0], "dense", 2);
    lensnet_squared_error(g, net.heads[1], "mass", 1);
    lensnet_tensor_shape(g, net.heads[0], &h, &w, &c);
    CHECK(h == PIXELS / 16 && w == PIXELS / 16 && c == 16);
    must(lensnet_graph_plan(g, NULL, &error), "plan");
    must(lensnet_graph_allocate(g, &error), "graph memory");
    return g;
}

/* A few steps on one batch; the losses of the last. */
static void train(lensnet_model *model, lensnet_adamw *adamw, size_t micro_batch, int steps,
                  lensnet_outputs *outputs)
{
    static float images[IMAGES * PIXELS * PIXELS], dense[IMAGES * 16 * 16], mass[IMAGES];
    static const int labels[IMAGES] = {0, 1, 2, 1};
    lensnet_target named[2];
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_graph *g = graph_with_heads(model, micro_batch);
    draw(images, sizeof images / sizeof *images, -1, 1, 4);
    draw(dense, sizeof dense / sizeof *dense, -1, 1, 5);
    draw(mass, IMAGES, 0, 1, 6);
    named[0].name = "mass";
    named[0].values = mass;
    named[1].name = "dense";
    named[1].values = dense;
    batch.images = images;
    batch.count = IMAGES;
    batch.labels = labels;
    batch.named = named;
    batch.named_count = 2;
    while (steps-- > 0) {
        memset(outputs, 0, sizeof *outputs);
        must(lensnet_forward_backward(g, &batch, outputs, &error), "step");
        must(lensnet_adamw_step(adamw, 2e-4, NULL, &error), "adamw");
    }
    lensnet_graph_destroy(g);
}

static int same_weights(lensnet_model *a, lensnet_model *b)
{
    size_t size = lensnet_parameters_size(lensnet_model_parameters(a));
    return size == lensnet_parameters_size(lensnet_model_parameters(b)) &&
           !memcmp(lensnet_parameters_values(lensnet_model_parameters(a)),
                   lensnet_parameters_values(lensnet_model_parameters(b)), size * sizeof(float));
}

static void test_heads(const char *state, const char *saved)
{
    lensnet_model *a = model_with_heads(), *b = model_with_heads(), *c;
    lensnet_adamw *of_a, *of_b;
    lensnet_outputs first, last;
    lensnet_archive *archive;

    must(lensnet_adamw_create(&of_a, lensnet_model_parameters(a), NULL, &error), "adamw");
    must(lensnet_adamw_create(&of_b, lensnet_model_parameters(b), NULL, &error), "adamw");
    train(a, of_a, IMAGES, 1, &first);
    must(lensnet_state_save(a, of_a, NULL, 0, state, &error), "state");
    train(a, of_a, IMAGES, 7, &last);

    CHECK(last.losses[0] < first.losses[0] && last.losses[1] < first.losses[1] &&
          last.loss < first.loss);
    must(lensnet_state_load(b, of_b, state, &error), "state");
    train(b, of_b, 3, 7, &first);
    CHECK(same_weights(a, b));
    must(lensnet_model_load(&c, state, NULL, NULL, &error), "state as a model");
    lensnet_model_destroy(c);
    must(lensnet_model_save(a, saved, LENSNET_DTYPE_F32, &error), "save");
    must(lensnet_archive_open(&archive, saved, NULL, &error), "open");
    CHECK(!lensnet_archive_find(archive, "lensnet.heads.dense.weight") &&
          lensnet_archive_find(archive, "classifier.weight"));
    lensnet_archive_close(archive);
    must(lensnet_model_load(&c, saved, NULL, NULL, &error), "load");
    lensnet_model_destroy(c);
    lensnet_adamw_destroy(of_a);
    lensnet_adamw_destroy(of_b);
    lensnet_model_destroy(a);
    lensnet_model_destroy(b);
}

/* ---- rates by layer ------------------------------------------------------------------------------ */

/* The value of a weight by name, its first number. */
static float first_of(lensnet_model *model, const float *values, const char *name, size_t *index)
{
    lensnet_parameters *p = lensnet_model_parameters(model);
    for (*index = 0; *index < lensnet_parameters_count(p); (*index)++) {
        lensnet_parameter_info info = lensnet_parameters_info(p, *index);
        if (!strcmp(info.name, name)) return values[info.offset];
    }
    CHECK(!"no such weight");
    return 0;
}

/* With the same gradient everywhere AdamW's first step is the rate itself, so each weight moves by its own. */
static void test_rates(void)
{
    static const struct {
        const char *name;
        double rate; /* 0.9^(13 - layer) of atto's 12 blocks, two stages frozen */
    } wanted[] = {{"convnextv2.embeddings.patch_embeddings.weight", 0},
                  {"convnextv2.encoder.stages.1.layers.1.dwconv.bias", 0},
                  {"convnextv2.encoder.stages.2.downsampling_layer.1.bias", 0.43046721},
                  {"convnextv2.encoder.stages.2.layers.0.dwconv.bias", 0.43046721},
                  {"convnextv2.encoder.stages.2.layers.5.pwconv2.bias", 0.729},
                  {"convnextv2.encoder.stages.3.layers.1.grn.bias", 0.9},
                  {"convnextv2.layernorm.bias", 1},
                  {"classifier.bias", 1},
                  {"lensnet.heads.dense.bias", 1}};
    lensnet_model *model = model_with_heads();
    lensnet_parameters *p = lensnet_model_parameters(model);
    const size_t count = lensnet_parameters_count(p), size = lensnet_parameters_size(p);
    float *before = (float *)malloc(size * sizeof(float)),
          *rates = (float *)malloc(count * sizeof(float));
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_adamw *adamw;
    double norm, moved;
    size_t i, index;
    CHECK(lensnet_model_rates(rates, model, LENSNET_LAYER_DECAY_SINGLE, 0, 0, &error) ==
          LENSNET_ERROR_ARGUMENT);
    must(lensnet_model_rates(rates, model, LENSNET_LAYER_DECAY_SINGLE, 0.9, 2, &error), "rates");
    desc.weight_decay = 0;
    desc.rates = rates;
    desc.average_decay = 0.5;
    must(lensnet_adamw_create(&adamw, p, &desc, &error), "adamw");
    memcpy(before, lensnet_parameters_values(p), size * sizeof(float));
    for (i = 0; i < size; i++) lensnet_parameters_gradients(p)[i] = 1;
    must(lensnet_adamw_step(adamw, 0.25, &norm, &error), "step");
    for (i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        moved = (double)first_of(model, before, wanted[i].name, &index) -
                (double)first_of(model, lensnet_parameters_values(p), wanted[i].name, &index);
        CHECK_CLOSE(moved, 0.25 * wanted[i].rate, 1e-6, wanted[i].name);
        CHECK_CLOSE((double)rates[index], wanted[i].rate, 1e-7, wanted[i].name);
    }
    for (i = 0, index = 0; i < count; i++)
        if (rates[i] > 0) index += lensnet_parameters_info(p, i).size;
    CHECK_CLOSE(norm, sqrt((double)index), 1e-9 * norm, "the frozen count in no norm");
    must(lensnet_adamw_swap_average(adamw, &error), "average");
    CHECK(first_of(model, lensnet_parameters_values(p), wanted[0].name, &index) ==
          first_of(model, before, wanted[0].name, &index));
    lensnet_adamw_destroy(adamw);
    rates[3] = -1;
    CHECK(lensnet_adamw_create(&adamw, p, &desc, &error) == LENSNET_ERROR_ARGUMENT && !adamw);
    free(before);
    free(rates);
    lensnet_model_destroy(model);
}

int main(int argc, char **argv)
{
    char state[512], saved[512];
    snprintf(state, sizeof state, "%s.state.tmp", argv[0]);
    snprintf(saved, sizeof saved, "%s.saved.tmp", argv[0]);
    (void)argc;
    test_values_and_slopes();
    test_far_out();
    test_refusals();
    test_heads(state, saved);
    test_rates();
    remove(state);
    remove(saved);
    return test_end();
}
