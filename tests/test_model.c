/* test_model.c - ConvNeXt V2 forward against PyTorch's values, its counts, and how it refuses.
 * cc -O2 -fopenmp -I. tests/test_model.c -o build/test_model -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "golden.h"

#define LOGITS_TOLERANCE     3e-5 /* absolute; PyTorch's own float32 differs by up to 3.4e-6 */
#define ACTIVATION_TOLERANCE 3e-5 /* of the tensor's largest magnitude */

static lensnet_error error;

/* ---- the generator of the golden values --------------------------------------------------------- */

static void test_generator(void)
{
    static const double expected[4] = {-0.8079204559326172, 0.2566108703613281, 0.689255952835083,
                                       -0.8928991556167603};
    uint64_t base = lngen_base("head.weight");
    uint64_t i;
    for (i = 0; i < 4; i++) CHECK(lngen_value(base, i) == expected[i]);
}

/* ---- counts -------------------------------------------------------------------------------------- */

typedef struct variant_counts {
    const char *name;
    size_t tensors, weights_3, weights_1000;
    double macs_224, macs_384; /* for 1000 classes */
} variant_counts;

static const variant_counts counts[] = {
    {"atto", 140, 3388363, 3708400, 547332480.0, 1607866880.0},
    {"femto", 140, 4849395, 5233240, 779629824.0, 2290412544.0},
    {"pico", 140, 8554819, 9066280, 1367055360.0, 4016476160.0},
    {"nano", 160, 14984723, 15623800, 2445528320.0, 7185617920.0},
    {"tiny", 200, 27868803, 28635496, 4455531264.0, 13092317184.0},
    {"base", 380, 87695875, 88717800, 15354729472.0, 45122117632.0},
    {"large", 380, 196424451, 197956840, 34361433600.0, 100977561600.0},
    {"huge", 380, 657481091, 660289640, 114922100480.0, 337724794880.0}};

static void test_counts(void)
{
    size_t i;
    for (i = 0; i < sizeof counts / sizeof *counts; i++) {
        const variant_counts *c = &counts[i];
        lensnet_model_desc desc = golden_desc(c->name, 3);
        CHECK(strcmp(lensnet_model_variant_name(&desc), c->name) == 0);
        CHECK(lensnet_model_weights(&desc) == c->weights_3);
        desc.classes = 1000;
        CHECK(lensnet_model_weights(&desc) == c->weights_1000);
        CHECK_CLOSE(lensnet_model_macs(&desc, 224, 224), c->macs_224, 0.5, c->name);
        CHECK_CLOSE(lensnet_model_macs(&desc, 384, 384), c->macs_384, 0.5, c->name);
    }
}

/* ---- forward ------------------------------------------------------------------------------------- */

/* Tensors of a plain graph are numbered in the order they are recorded. Walks that order as the paper
 * has it and tells for each golden activation which number it has; -1 for an unknown name. */
static int tensor_index(const lensnet_model_desc *desc, const char *wanted)
{
    static const char *const steps[] = {"dwconv", "norm", "pwconv1", "act", "grn", "pwconv2"};
    char name[64];
    int at = 0; /* the input */
    size_t stage, block, i;
    for (stage = 0; stage < 4; stage++) {
        at += 2; /* stem: convolution, norm; later: norm, convolution */
        snprintf(name, sizeof name, "downsample_layers.%u", (unsigned)stage);
        if (strcmp(name, wanted) == 0) return at;
        for (block = 0; block < desc->depths[stage]; block++) {
            for (i = 0; i < sizeof steps / sizeof *steps; i++) {
                at++;
                snprintf(name, sizeof name, "stages.%u.%u.%s", (unsigned)stage, (unsigned)block,
                         steps[i]);
                if (strcmp(name, wanted) == 0) return at;
            }
            at += 2; /* drop path, and the sum with the block's input */
            snprintf(name, sizeof name, "stages.%u.%u", (unsigned)stage, (unsigned)block);
            if (strcmp(name, wanted) == 0) return at;
        }
    }
    if (strcmp(wanted, "pooled") == 0) return at + 1;
    if (strcmp(wanted, "norm") == 0) return at + 2;
    if (strcmp(wanted, "logits") == 0) return at + 3;
    return -1;
}

/* In the golden data what comes out of a convolution or block is (N, C, H, W); the middle of a block,
 * which PyTorch computes channels last, is (N, H, W, C). */
static int is_channels_first(const golden_statistics *s)
{
    return s->rank == 4 && !lngen_ends_in(s->name, ".norm") &&
           !lngen_ends_in(s->name, ".pwconv1") && !lngen_ends_in(s->name, ".act") &&
           !lngen_ends_in(s->name, ".grn") && !lngen_ends_in(s->name, ".pwconv2");
}

typedef struct forward_case {
    char variant[16];
    size_t classes, count, height, width, weights;
    double *logits;
    size_t tensor_count;
    golden_statistics *tensors;
} forward_case;

static void forward_case_read(forward_case *c, const char *name)
{
    FILE *file = golden_open("forward", name, ".txt");
    size_t i;
    golden_expect(fscanf(file, "%15s", c->variant) == 1, name);
    c->classes = golden_size(file);
    c->count = golden_size(file);
    c->height = golden_size(file);
    c->width = golden_size(file);
    c->weights = golden_size(file);
    golden_word(file, "logits");
    golden_expect(golden_size(file) == c->count && golden_size(file) == c->classes, name);
    c->logits = (double *)malloc(c->count * c->classes * sizeof *c->logits);
    golden_expect(c->logits != NULL, "out of memory");
    for (i = 0; i < c->count * c->classes; i++) c->logits[i] = golden_number(file);
    golden_word(file, "tensors");
    c->tensor_count = golden_size(file);
    c->tensors = (golden_statistics *)malloc((c->tensor_count + 1) * sizeof *c->tensors);
    golden_expect(c->tensors != NULL, "out of memory");
    for (i = 0; i < c->tensor_count; i++) golden_read(&c->tensors[i], file);
    fclose(file);
}

static void keep_all(lensnet_graph *graph, const lensnet_model_desc *desc, const forward_case *c)
{
    size_t i;
    for (i = 0; i < c->tensor_count; i++) {
        lensnet_tensor tensor;
        tensor.index = tensor_index(desc, c->tensors[i].name);
        golden_expect(tensor.index > 0, c->tensors[i].name);
        lensnet_keep(graph, tensor);
    }
}

static void check_kept(lensnet_graph *graph, const lensnet_model_desc *desc, const forward_case *c)
{
    size_t i;
    for (i = 0; i < c->tensor_count; i++) {
        const golden_statistics *golden = &c->tensors[i];
        const float *values;
        lensnet_tensor tensor;
        size_t height, width, channels, size;
        tensor.index = tensor_index(desc, golden->name);
        values = lensnet_tensor_value(graph, tensor);
        lensnet_tensor_shape(graph, tensor, &height, &width, &channels);
        size = golden->shape[0] * golden->shape[1] * golden->shape[2] * golden->shape[3];
        CHECK(values != NULL);
        CHECK(c->count * height * width * channels == size);
        if (values && c->count * height * width * channels == size)
            golden_compare(golden, values, is_channels_first(golden), ACTIVATION_TOLERANCE);
    }
}

static void check_logits(const float *logits, const forward_case *c, const char *name)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < c->count * c->classes; i++) {
        double difference = fabs(logits[i] - c->logits[i]);
        if (!(difference <= worst)) worst = difference;
    }
    CHECK_CLOSE(worst, 0, LOGITS_TOLERANCE, name);
    printf("forward %s: logits differ by at most %.2g\n", name, worst);
}

static void run_forward(lensnet_model *model, const forward_case *c, const float *images, int plain,
                        const char *name)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_graph *graph;
    options.height = c->height;
    options.width = c->width;
    options.batch = options.micro_batch = c->count;
    options.plain = plain;
    batch.images = images;
    batch.channels = 3;
    batch.count = c->count;
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = (float *)malloc(c->count * c->classes * sizeof(float));
    golden_expect(outputs.logits != NULL, "out of memory");
    golden_must(lensnet_model_graph(&graph, model, &options, NULL, &error), &error, name);
    if (plain) keep_all(graph, lensnet_model_description(model), c);
    golden_must(lensnet_graph_plan(graph, NULL, &error), &error, name);
    golden_must(lensnet_graph_allocate(graph, &error), &error, name);
    golden_must(lensnet_forward(graph, &batch, &outputs, &error), &error, name);
    check_logits(outputs.logits, c, name);
    if (plain) check_kept(graph, lensnet_model_description(model), c);
    free(outputs.logits);
    lensnet_graph_destroy(graph);
}

static void test_forward(const char *name)
{
    forward_case c;
    lensnet_model *model;
    float *images;
    forward_case_read(&c, name);
    model = golden_model(c.variant, c.classes);
    CHECK(lensnet_parameters_size(lensnet_model_parameters(model)) == c.weights);
    images = golden_images(c.count, c.height, c.width);
    if (c.tensor_count > 0) run_forward(model, &c, images, 1, name);
    run_forward(model, &c, images, 0, name);
    free(images);
    lensnet_model_destroy(model);
    free(c.logits);
    free(c.tensors);
}

/* ---- a grey batch -------------------------------------------------------------------------------- */

/* One channel means the same as three equal ones. */
static void test_grey(void)
{
    lensnet_model *model = golden_model("small", 3);
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_graph *graph;
    float grey[33 * 40], colour[33 * 40 * 3], first[3], second[3];
    size_t i;
    for (i = 0; i < 33 * 40; i++) {
        grey[i] = colour[3 * i] = colour[3 * i + 1] = colour[3 * i + 2] =
            (float)lngen_value(lngen_base("grey"), i);
    }
    options.height = 33;
    options.width = 40;
    options.batch = 1;
    graph = golden_graph(model, &options, NULL);
    memset(&outputs, 0, sizeof outputs);
    batch.count = 1;
    batch.images = grey;
    outputs.logits = first;
    CHECK(!lensnet_forward(graph, &batch, &outputs, &error));
    batch.images = colour;
    batch.channels = 3;
    outputs.logits = second;
    CHECK(!lensnet_forward(graph, &batch, &outputs, &error));
    CHECK(memcmp(first, second, sizeof first) == 0);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
}

/* ---- refusals ------------------------------------------------------------------------------------ */

#define CHECK_REFUSED(call, expected_code)                                                         \
    do {                                                                                           \
        lensnet_result refused;                                                                    \
        memset(&error, 0, sizeof error);                                                           \
        refused = (call);                                                                          \
        CHECK(refused == (expected_code));                                                         \
        CHECK(error.code == (expected_code));                                                      \
        CHECK(strlen(error.text) > 20);                                                            \
    } while (0)

static void test_refused_descriptions(void)
{
    lensnet_model *model = (lensnet_model *)&error;
    lensnet_model_desc desc = lensnet_model_defaults();
    CHECK_REFUSED(lensnet_model_variant(&desc, "gigantic", &error), LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_model_variant(&desc, NULL, NULL) == LENSNET_ERROR_ARGUMENT);
    desc.classes = 0;
    CHECK_REFUSED(lensnet_model_create(&model, &desc, &error), LENSNET_ERROR_ARGUMENT);
    CHECK(model == NULL);
    desc = golden_desc("small", 3);
    desc.drop_path_rate = 1;
    CHECK_REFUSED(lensnet_model_create(&model, &desc, &error), LENSNET_ERROR_ARGUMENT);
    desc = golden_desc("small", 3);
    desc.depths[2] = 0;
    CHECK_REFUSED(lensnet_model_create(&model, &desc, &error), LENSNET_ERROR_ARGUMENT);
    desc = golden_desc("small", 3);
    desc.widths[1] = (size_t)-1 / 8;
    CHECK(lensnet_model_create(&model, &desc, &error) < 0);
    CHECK(model == NULL);
}

static lensnet_result plan_at(lensnet_model *model, size_t height, size_t width, size_t batch)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_graph *graph = NULL;
    lensnet_result result;
    options.height = height;
    options.width = width;
    options.batch = batch;
    result = lensnet_model_graph(&graph, model, &options, NULL, &error);
    if (!result) result = lensnet_graph_plan(graph, NULL, &error);
    lensnet_graph_destroy(graph);
    return result;
}

static void test_refused_sizes(void)
{
    lensnet_model *model = golden_model("small", 3);
    CHECK(!plan_at(model, 32, 32, 1));
    CHECK(!plan_at(model, 33, 63, 1));
    CHECK(plan_at(model, 31, 64, 1) < 0);
    CHECK(plan_at(model, 64, 31, 1) < 0);
    CHECK(plan_at(model, 64, 64, 0) < 0);
    CHECK(plan_at(model, (size_t)1 << 40, (size_t)1 << 40, 1) < 0);
    lensnet_model_destroy(model);
}

static void test_refused_batches(void)
{
    static const int bad_labels[2] = {0, 3};
    lensnet_model *model = golden_model("small", 3);
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_graph *graph;
    float *images = golden_images(3, 32, 32);
    options.height = options.width = 32;
    options.batch = 2;
    CHECK(!lensnet_model_graph(&graph, model, &options, &loss, &error));
    batch.images = images;
    batch.channels = 3;
    batch.count = 2;
    batch.labels = bad_labels;
    CHECK_REFUSED(lensnet_forward(graph, &batch, NULL, &error), LENSNET_ERROR_STATE);
    CHECK(!lensnet_graph_plan(graph, NULL, &error));
    CHECK(!lensnet_graph_allocate(graph, &error));
    CHECK_REFUSED(lensnet_forward(graph, &batch, NULL, &error), LENSNET_ERROR_ARGUMENT);
    batch.labels = NULL;
    batch.count = 3;
    CHECK_REFUSED(lensnet_forward(graph, &batch, NULL, &error), LENSNET_ERROR_ARGUMENT);
    batch.count = 0;
    CHECK_REFUSED(lensnet_forward(graph, &batch, NULL, &error), LENSNET_ERROR_ARGUMENT);
    batch.count = 2;
    batch.channels = 2;
    CHECK(lensnet_forward(graph, &batch, NULL, &error) < 0);
    batch.channels = 3;
    CHECK(lensnet_forward_backward(graph, &batch, NULL, &error) < 0); /* nothing to train for */
    CHECK(!lensnet_forward(graph, &batch, NULL, &error));
    free(images);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
}

/* A recording call that fails is reported once, by plan, and names what went wrong. */
static void test_poisoned_graph(void)
{
    lensnet_parameters *parameters;
    lensnet_parameter weight, none = {-1};
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_graph *graph;
    lensnet_tensor x;
    golden_must(lensnet_parameters_create(&parameters, NULL, &error), &error, "parameters");
    weight = lensnet_parameter_add(parameters, "odd.weight", 4, 5, 3, 3, LENSNET_INITIAL_HE);
    golden_must(lensnet_parameters_allocate(parameters, 0, 1, &error), &error, "parameters");
    options.height = options.width = 16;
    golden_must(lensnet_graph_create(&graph, parameters, &options, &error), &error, "graph");
    x = lensnet_input(graph, 3);
    x = lensnet_conv2d(graph, x, weight, none, NULL); /* 5 channels expected, 3 found */
    x = lensnet_relu(graph, x);
    lensnet_output(graph, x);
    CHECK_REFUSED(lensnet_graph_plan(graph, NULL, &error), LENSNET_ERROR_SHAPE);
    CHECK(strstr(error.text, "odd.weight") != NULL);
    CHECK(lensnet_graph_allocate(graph, NULL) < 0);
    lensnet_graph_destroy(graph);
    lensnet_parameters_destroy(parameters);
}

int main(void)
{
    test_generator();
    test_counts();
    test_refused_descriptions();
    test_refused_sizes();
    test_refused_batches();
    test_poisoned_graph();
    test_grey();
    test_forward("atto_c3_n3_64x64");
    test_forward("atto_c3_n1_96x160");
    if (getenv("LENSNET_TEST_QUICK")) return test_end();
    test_forward("atto_c3_n2_150x150");
    test_forward("atto_c3_n2_224x224");
    test_forward("atto_c1000_n2_224x224");
    test_forward("tiny_c3_n2_224x224");
    test_forward("tiny_c1000_n1_224x224");
    return test_end();
}
