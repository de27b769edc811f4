/* test_train.c - gradients, AdamW steps and training states against PyTorch's values.
 * cc -O2 -fopenmp -I. tests/test_train.c -o build/test_train -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "golden.h"

#define GRADIENT_TOLERANCE 2e-5 /* of the tensor's largest magnitude; PyTorch's float32: 1.9e-6 */
#define WEIGHT_TOLERANCE   3e-6 /* absolute, after three steps; PyTorch's float32: 6.9e-7 */
#define LOSS_TOLERANCE     1e-5

static const int golden_labels[3] = {2, 0, 1};
static lensnet_error error;

/* ---- one forward and backward ------------------------------------------------------------------- */

typedef struct training {
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_batch batch;
    lensnet_outputs outputs;
    float *images, *input_gradients;
} training;

static void training_begin(training *t, const lensnet_model_desc *desc, size_t count, size_t side,
                           const lensnet_loss *loss)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    size_t bytes = count * side * side * 3 * sizeof(float);
    options.height = options.width = side;
    options.batch = count;
    options.training = options.input_gradient = 1;
    t->model = golden_model_create(desc);
    t->graph = golden_graph(t->model, &options, loss);
    t->images = golden_images(count, side, side);
    t->input_gradients = (float *)malloc(bytes);
    golden_expect(t->input_gradients != NULL, "out of memory");
    t->batch = lensnet_batch_defaults();
    t->batch.images = t->images;
    t->batch.channels = 3;
    t->batch.count = count;
    t->batch.labels = golden_labels;
    memset(&t->outputs, 0, sizeof t->outputs);
    t->outputs.input_gradients = t->input_gradients;
}

static void training_run(training *t)
{
    golden_must(lensnet_forward_backward(t->graph, &t->batch, &t->outputs, &error), &error,
                "lensnet_forward_backward");
}

static void training_end(training *t)
{
    lensnet_graph_destroy(t->graph);
    lensnet_model_destroy(t->model);
    free(t->images);
    free(t->input_gradients);
}

/* ---- every element against a safetensors file --------------------------------------------------- */

static lensnet_archive *archive_open(const char *folder, const char *name)
{
    char path[256];
    lensnet_archive *archive;
    snprintf(path, sizeof path, "tests/fixtures/%s/%s.safetensors", folder, name);
    golden_must(lensnet_archive_open(&archive, path, NULL, &error), &error, path);
    return archive;
}

static float *archive_values(const lensnet_archive *archive, const char *name, size_t count)
{
    const lensnet_archive_entry *entry = lensnet_archive_find(archive, name);
    float *values = (float *)malloc(count * sizeof(float));
    golden_expect(values && entry && entry->count == count, name);
    golden_must(lensnet_archive_read_float(values, archive, entry, &error), &error, name);
    return values;
}

static double largest_magnitude(const float *values, size_t count)
{
    double largest = 0;
    size_t i;
    for (i = 0; i < count; i++)
        if (!(fabs(values[i]) <= largest)) largest = fabs(values[i]);
    return largest;
}

static double largest_difference(const float *a, const float *b, size_t count)
{
    double largest = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - b[i]);
        if (!(difference <= largest)) largest = difference;
    }
    return largest;
}

/* `flat` is values or gradients; relative: the tolerance is times each tensor's largest magnitude. */
static void check_all(lensnet_model *model, const float *flat, const char *folder, const char *name,
                      double tolerance, int relative)
{
    lensnet_parameters *parameters = lensnet_model_parameters(model);
    lensnet_archive *archive = archive_open(folder, name);
    size_t i, count = lensnet_parameters_count(parameters);
    double worst = 0;
    for (i = 0; i < count; i++) {
        lensnet_parameter_info info = lensnet_parameters_info(parameters, i);
        char author[128];
        float *expected;
        double difference;
        lngen_author_name(author, sizeof author, info.name);
        expected = archive_values(archive, author, info.size);
        difference = largest_difference(flat + info.offset, expected, info.size);
        if (relative) difference /= largest_magnitude(expected, info.size);
        CHECK_CLOSE(difference, 0, tolerance, author);
        if (!(difference <= worst)) worst = difference;
        free(expected);
    }
    printf("%s %s: differs by at most %.2g\n", folder, name, worst);
    lensnet_archive_close(archive);
}

/* d_input of the golden data is (N, C, H, W). */
static void check_input_gradients(const training *t, const char *name, size_t count, size_t side)
{
    lensnet_archive *archive = archive_open("gradients", name);
    size_t shape[4], i, size = count * side * side * 3;
    float *expected = archive_values(archive, "d_input", size);
    double worst = 0, largest = largest_magnitude(expected, size);
    shape[0] = count;
    shape[1] = 3;
    shape[2] = shape[3] = side;
    for (i = 0; i < size; i++) {
        double value = t->input_gradients[golden_channels_last(shape, i)];
        double difference = fabs(value - expected[i]);
        if (!(difference <= worst)) worst = difference;
    }
    CHECK_CLOSE(worst, 0, GRADIENT_TOLERANCE * largest, "d_input");
    free(expected);
    lensnet_archive_close(archive);
}

/* ---- gradients ----------------------------------------------------------------------------------- */

static const float *gradient_named(lensnet_model *model, const char *author)
{
    lensnet_parameters *parameters = lensnet_model_parameters(model);
    size_t i, count = lensnet_parameters_count(parameters);
    for (i = 0; i < count; i++) {
        lensnet_parameter_info info = lensnet_parameters_info(parameters, i);
        char name[128];
        lngen_author_name(name, sizeof name, info.name);
        if (strcmp(name, author) == 0)
            return lensnet_parameters_gradients(parameters) + info.offset;
    }
    return NULL;
}

static void check_gradient_statistics(training *t, const char *name)
{
    FILE *file = golden_open("gradients", name, ".txt");
    size_t i, count;
    golden_word(file, "loss");
    CHECK_CLOSE(t->outputs.loss, golden_number(file), LOSS_TOLERANCE, name);
    golden_word(file, "tensors");
    count = golden_size(file);
    for (i = 0; i < count; i++) {
        golden_statistics statistics;
        int is_input;
        const float *gradient;
        golden_read(&statistics, file);
        is_input = strcmp(statistics.name, "d_input") == 0;
        gradient = is_input ? t->input_gradients : gradient_named(t->model, statistics.name);
        CHECK(gradient != NULL);
        if (gradient) golden_compare(&statistics, gradient, is_input, GRADIENT_TOLERANCE);
    }
    fclose(file);
}

static void test_gradients(const char *name, const char *variant, size_t count, size_t side,
                           const lensnet_loss *loss)
{
    lensnet_model_desc desc = golden_desc(variant, 3);
    training t;
    training_begin(&t, &desc, count, side, loss);
    training_run(&t);
    check_gradient_statistics(&t, name);
    training_end(&t);
}

static void test_small_gradients(const char *name, size_t side, int with_input)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    training t;
    training_begin(&t, &desc, 3, side, &loss);
    training_run(&t);
    check_gradient_statistics(&t, name);
    check_all(t.model, lensnet_parameters_gradients(lensnet_model_parameters(t.model)), "gradients",
              name, GRADIENT_TOLERANCE, 1);
    if (with_input) check_input_gradients(&t, name, 3, side);
    training_end(&t);
}

static void test_losses(void)
{
    static const float class_weights[3] = {1, 2, 0.5f};
    lensnet_loss loss = lensnet_loss_defaults();
    loss.label_smoothing = 0.1f;
    test_gradients("small_64_smoothing", "small", 3, 64, &loss);
    loss = lensnet_loss_defaults();
    loss.class_weights = class_weights;
    test_gradients("small_64_weights", "small", 3, 64, &loss);
}

/* ---- drop path ----------------------------------------------------------------------------------- */

#define BLOCKS  4
#define SAMPLES 3

/* The golden masks are fixed; ours follow from (seed, step). Looks for a step whose masks are those: a
 * graph of drop paths alone, fed with ones, shows them. */
static uint64_t find_step(const float *rates, int kept[BLOCKS][SAMPLES])
{
    static const float ones[SAMPLES] = {1, 1, 1};
    lensnet_parameters *parameters;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_tensor input, dropped[BLOCKS];
    lensnet_graph *graph;
    uint64_t step;
    int b, n, equal = 0;
    options.height = options.width = 1;
    options.batch = options.micro_batch = SAMPLES;
    options.training = 1;
    golden_must(lensnet_parameters_create(&parameters, NULL, &error), &error, "parameters");
    golden_must(lensnet_parameters_allocate(parameters, 1, 0, &error), &error, "parameters");
    golden_must(lensnet_graph_create(&graph, parameters, &options, &error), &error, "graph");
    input = lensnet_input(graph, 1);
    for (b = 0; b < BLOCKS; b++) {
        dropped[b] = lensnet_drop_path(graph, input, rates[b]);
        lensnet_keep(graph, dropped[b]);
    }
    lensnet_cross_entropy(graph, dropped[BLOCKS - 1], NULL);
    golden_must(lensnet_graph_plan(graph, NULL, &error), &error, "plan");
    golden_must(lensnet_graph_allocate(graph, &error), &error, "allocate");
    batch.images = ones;
    batch.count = SAMPLES;
    for (step = 0; step < 100000 && !equal; step++) {
        batch.step = step;
        golden_must(lensnet_forward(graph, &batch, NULL, &error), &error, "forward");
        equal = 1;
        for (b = 0; b < BLOCKS; b++) {
            const float *values = lensnet_tensor_value(graph, dropped[b]);
            for (n = 0; n < SAMPLES; n++) equal &= (values[n] > 0) == kept[b][n];
        }
    }
    CHECK(equal);
    lensnet_graph_destroy(graph);
    lensnet_parameters_destroy(parameters);
    return step - 1;
}

static void test_drop_path(void)
{
    FILE *file = golden_open("gradients", "small_64_droppath", ".txt");
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    double expected_loss;
    float rates[BLOCKS];
    int kept[BLOCKS][SAMPLES], b, n;
    training t;
    golden_word(file, "loss");
    expected_loss = golden_number(file);
    golden_word(file, "rates");
    for (b = 0; b < BLOCKS; b++) rates[b] = (float)golden_number(file);
    for (b = 0; b < BLOCKS; b++) {
        golden_word(file, "kept");
        for (n = 0; n < SAMPLES; n++) kept[b][n] = (int)golden_number(file);
    }
    fclose(file);
    desc.drop_path_rate = rates[BLOCKS - 1];
    training_begin(&t, &desc, 3, 64, &loss);
    t.batch.step = find_step(rates, kept);
    training_run(&t);
    CHECK_CLOSE(t.outputs.loss, expected_loss, LOSS_TOLERANCE, "loss with drop path");
    check_all(t.model, lensnet_parameters_gradients(lensnet_model_parameters(t.model)), "gradients",
              "small_64_droppath", GRADIENT_TOLERANCE, 1);
    training_end(&t);
}

/* ---- parts of a batch ---------------------------------------------------------------------------- */

/* Images 0, 1 and image 2, apart: their losses and gradients add up to those of the whole batch, with the drop
 * paths of the whole. An ignored label needs to know what the whole is divided by. */
static void check_parts(const int *labels, double total_weight)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    size_t count, i;
    float *whole, *sum;
    const float *gradients;
    double whole_loss, part_loss;
    training t;
    desc.drop_path_rate = 0.6f;
    training_begin(&t, &desc, 3, 32, &loss);
    count = lensnet_parameters_size(lensnet_model_parameters(t.model));
    gradients = lensnet_parameters_gradients(lensnet_model_parameters(t.model));
    whole = (float *)malloc(count * sizeof *whole);
    sum = (float *)malloc(count * sizeof *sum);
    golden_expect(whole && sum, "out of memory");
    t.batch.labels = labels;
    t.batch.step = 5;
    training_run(&t);
    whole_loss = t.outputs.loss;
    memcpy(whole, gradients, count * sizeof *whole);
    t.batch.total = 3;
    t.batch.count = 2;
    t.batch.total_weight = total_weight;
    training_run(&t);
    part_loss = t.outputs.loss;
    memcpy(sum, gradients, count * sizeof *sum);
    t.batch.first = 2;
    t.batch.count = 1;
    t.batch.images = t.images + 2 * 32 * 32 * 3;
    t.batch.labels = labels + 2;
    training_run(&t);
    for (i = 0; i < count; i++) sum[i] += gradients[i];
    CHECK_CLOSE(part_loss + t.outputs.loss, whole_loss, 1e-6, "losses of the parts");
    CHECK_CLOSE(largest_difference(sum, whole, count) / largest_magnitude(whole, count), 0, 1e-5,
                "gradients of the parts");
    free(whole);
    free(sum);
    training_end(&t);
}

static void test_parts(void)
{
    static const int ignored[3] = {2, -100, 1};
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    training t;
    check_parts(golden_labels, 0);
    check_parts(ignored, 2);
    training_begin(&t, &desc, 3, 32, &loss);
    t.batch.first = 1;
    t.batch.total = 3;
    CHECK(lensnet_forward_backward(t.graph, &t.batch, &t.outputs, &error) ==
          LENSNET_ERROR_ARGUMENT);
    t.batch.first = 0;
    t.batch.labels = ignored;
    CHECK(lensnet_forward_backward(t.graph, &t.batch, &t.outputs, &error) ==
          LENSNET_ERROR_ARGUMENT);
    CHECK(strstr(error.text, "total_weight") != NULL);
    training_end(&t);
}

/* ---- gradients as they are complete -------------------------------------------------------------- */

typedef struct taking {
    float *gradients, *taken;
    size_t before, calls, falls;
} taking;

/* Takes what is newly complete and leaves a mark there, which nothing may change. */
static void take(size_t first, void *user)
{
    taking *t = (taking *)user;
    size_t i;
    t->calls++;
    t->falls += first < t->before;
    CHECK(first <= t->before);
    for (i = first; i < t->before; i++) {
        t->taken[i] = t->gradients[i];
        t->gradients[i] = 12345.0f;
    }
    t->before = first;
}

/* What is called complete is: image by image in micro-batches of one, and with a convolution that turns its
 * gradient's order in the end. */
static void test_complete(void)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_graph_options options = lensnet_graph_defaults();
    size_t count, i;
    float *whole;
    taking take_all;
    training t;
    training_begin(&t, &desc, 3, 32, &loss);
    options.height = options.width = 32;
    options.batch = 3;
    options.micro_batch = 1;
    options.training = 1;
    lensnet_graph_destroy(t.graph);
    t.graph = golden_graph(t.model, &options, &loss);
    t.outputs.input_gradients = NULL;
    memset(&take_all, 0, sizeof take_all);
    count = take_all.before = lensnet_parameters_size(lensnet_model_parameters(t.model));
    take_all.gradients = lensnet_parameters_gradients(lensnet_model_parameters(t.model));
    take_all.taken = (float *)malloc(count * sizeof(float));
    whole = (float *)malloc(count * sizeof *whole);
    golden_expect(whole && take_all.taken, "out of memory");
    training_run(&t);
    memcpy(whole, take_all.gradients, count * sizeof *whole);
    t.batch.complete = take;
    t.batch.user = &take_all;
    training_run(&t);
    CHECK(take_all.before == 0 && take_all.falls > BLOCKS && take_all.calls > take_all.falls);
    CHECK(memcmp(whole, take_all.taken, count * sizeof *whole) == 0);
    for (i = 0; i < count && take_all.gradients[i] == 12345.0f; i++) {
    }
    CHECK(i == count);
    free(whole);
    free(take_all.taken);
    training_end(&t);
}

/* ---- targets ------------------------------------------------------------------------------------- */

/* One-hot targets mean what labels mean; an ignored label is as if the sample were not there. */
static void test_targets(void)
{
    static const float targets[9] = {0, 0, 1, 1, 0, 0, 0, 1, 0};
    static const int one_ignored[3] = {2, 0, -100};
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    size_t bytes, count;
    float *by_labels;
    double loss_by_labels;
    training t;
    training_begin(&t, &desc, 3, 32, &loss);
    count = lensnet_parameters_size(lensnet_model_parameters(t.model));
    bytes = count * sizeof(float);
    by_labels = (float *)malloc(bytes);
    golden_expect(by_labels != NULL, "out of memory");
    training_run(&t);
    loss_by_labels = t.outputs.loss;
    memcpy(by_labels, lensnet_parameters_gradients(lensnet_model_parameters(t.model)), bytes);
    t.batch.labels = NULL;
    t.batch.targets = targets;
    training_run(&t);
    CHECK(t.outputs.loss == loss_by_labels);
    CHECK(memcmp(by_labels, lensnet_parameters_gradients(lensnet_model_parameters(t.model)),
                 bytes) == 0);
    t.batch.targets = NULL;
    t.batch.labels = one_ignored;
    training_run(&t);
    loss_by_labels = t.outputs.loss;
    memcpy(by_labels, lensnet_parameters_gradients(lensnet_model_parameters(t.model)), bytes);
    t.batch.count = 2;
    training_run(&t);
    CHECK(t.outputs.loss == loss_by_labels);
    CHECK(memcmp(by_labels, lensnet_parameters_gradients(lensnet_model_parameters(t.model)),
                 bytes) == 0);
    free(by_labels);
    training_end(&t);
}

/* ---- AdamW --------------------------------------------------------------------------------------- */

static void test_adamw(const char *name, double rate, const lensnet_adamw_desc *adamw_desc)
{
    FILE *file = golden_open("adamw", name, ".txt");
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_adamw *adamw;
    training t;
    int step;
    training_begin(&t, &desc, 3, 64, &loss);
    golden_must(lensnet_adamw_create(&adamw, lensnet_model_parameters(t.model), adamw_desc, &error),
                &error, name);
    for (step = 0; step < 3; step++) {
        double norm = 0, expected;
        training_run(&t);
        CHECK_CLOSE(t.outputs.loss, golden_number(file), LOSS_TOLERANCE, name);
        golden_must(lensnet_adamw_step(adamw, rate, &norm, &error), &error, name);
        expected = golden_number(file);
        CHECK_CLOSE(norm, expected, 1e-5 * expected, name);
    }
    CHECK(lensnet_adamw_steps(adamw) == 3);
    training_run(&t);
    CHECK_CLOSE(t.outputs.loss, golden_number(file), LOSS_TOLERANCE, name);
    fclose(file);
    check_all(t.model, lensnet_parameters_values(lensnet_model_parameters(t.model)), "adamw", name,
              WEIGHT_TOLERANCE, 0);
    lensnet_adamw_destroy(adamw);
    training_end(&t);
}

static void test_adamw_networks(void)
{
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    desc.decay_all = 1;
    test_adamw("default", 5e-5, &desc);
    desc.weight_decay = 0.05;
    desc.beta2 = 0.98;
    desc.epsilon = 1e-6;
    desc.clip_norm = 1;
    test_adamw("clipped", 1e-3, &desc);
    desc = lensnet_adamw_defaults();
    desc.weight_decay = 0.05;
    desc.decay_all = 0;
    test_adamw("groups", 1e-3, &desc);
}

/* One weight that begins at 1, with zero, tiny and huge gradients; then one that is no number. */
static void test_adamw_scalar(void)
{
    FILE *file = golden_open("adamw", "toy", ".txt");
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_parameters *parameters;
    lensnet_adamw *adamw;
    float before;
    int step;
    golden_must(lensnet_parameters_create(&parameters, NULL, &error), &error, "parameters");
    lensnet_parameter_add(parameters, "p", 1, 0, 0, 0, LENSNET_INITIAL_ONE);
    golden_must(lensnet_parameters_allocate(parameters, 1, 0, &error), &error, "parameters");
    desc.weight_decay = 0.1;
    desc.decay_all = 1;
    golden_must(lensnet_adamw_create(&adamw, parameters, &desc, &error), &error, "adamw");
    for (step = 0; step < 6; step++) {
        lensnet_parameters_gradients(parameters)[0] = (float)golden_number(file);
        golden_must(lensnet_adamw_step(adamw, 0.1, NULL, &error), &error, "adamw");
        CHECK_CLOSE(lensnet_parameters_values(parameters)[0], golden_number(file), 5e-7, "toy");
    }
    fclose(file);
    before = lensnet_parameters_values(parameters)[0];
    lensnet_parameters_gradients(parameters)[0] = (float)NAN;
    CHECK(lensnet_adamw_step(adamw, 0.1, NULL, &error) == LENSNET_ERROR_NUMBER);
    lensnet_parameters_gradients(parameters)[0] = (float)INFINITY;
    CHECK(lensnet_adamw_step(adamw, 0.1, NULL, &error) == LENSNET_ERROR_NUMBER);
    CHECK(lensnet_parameters_values(parameters)[0] == before);
    CHECK(lensnet_adamw_steps(adamw) == 6);
    lensnet_adamw_destroy(adamw);
    lensnet_parameters_destroy(parameters);
}

/* PyTorch's clip_grad_norm_ scales by max / (norm + 1e-6): 1e-6 is seen where the norm is small. */
static void test_clip_epsilon(void)
{
    const double limit = 1e-6, norm = 5e-6;
    lensnet_parameters *parameters;
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_adamw *adamw;
    double found = 0;
    float *gradients;
    golden_must(lensnet_parameters_create(&parameters, NULL, &error), &error, "parameters");
    lensnet_parameter_add(parameters, "w", 2, 0, 0, 0, LENSNET_INITIAL_ZERO);
    golden_must(lensnet_parameters_allocate(parameters, 1, 0, &error), &error, "allocate");
    desc.clip_norm = limit;
    golden_must(lensnet_adamw_create(&adamw, parameters, &desc, &error), &error, "adamw");
    gradients = lensnet_parameters_gradients(parameters);
    gradients[0] = (float)(0.6 * norm);
    gradients[1] = (float)(0.8 * norm);
    CHECK(!lensnet_adamw_step(adamw, 1e-3, &found, &error));
    CHECK_CLOSE(found, norm, 1e-6 * norm, "the norm before clipping");
    CHECK_CLOSE((double)gradients[0], 0.6 * norm * (limit / (norm + 1e-6)), 1e-6 * norm,
                "the clipped gradient, with PyTorch's 1e-6");
    lensnet_adamw_destroy(adamw);
    lensnet_parameters_destroy(parameters);
}

/* The moving average beside the recurrence in double, and what is refused while it stands in the place
 * of the weights. */
static void test_average(void)
{
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_parameters *parameters;
    lensnet_adamw *adamw;
    double average = 1;
    float *value, last = 1;
    int step;
    golden_must(lensnet_parameters_create(&parameters, NULL, &error), &error, "parameters");
    lensnet_parameter_add(parameters, "p", 1, 0, 0, 0, LENSNET_INITIAL_ONE);
    golden_must(lensnet_parameters_allocate(parameters, 1, 0, &error), &error, "parameters");
    value = lensnet_parameters_values(parameters);
    desc.average_decay = 1;
    CHECK(lensnet_adamw_create(&adamw, parameters, &desc, &error) == LENSNET_ERROR_ARGUMENT);
    desc.average_decay = 0.75;
    golden_must(lensnet_adamw_create(&adamw, parameters, &desc, &error), &error, "adamw");
    CHECK(lensnet_adamw_swap_average(adamw, &error) == LENSNET_ERROR_STATE); /* no step yet */
    for (step = 0; step < 5; step++) {
        lensnet_parameters_gradients(parameters)[0] = 1;
        golden_must(lensnet_adamw_step(adamw, 0.1, NULL, &error), &error, "adamw");
        last = value[0];
        average = 0.75 * average + 0.25 * (double)last;
    }
    CHECK(!lensnet_adamw_swap_average(adamw, &error));
    CHECK_CLOSE(value[0], average, 3e-7, "average");
    CHECK(lensnet_adamw_step(adamw, 0.1, NULL, &error) == LENSNET_ERROR_STATE);
    CHECK(!lensnet_adamw_swap_average(adamw, &error));
    CHECK(value[0] == last);
    CHECK(!lensnet_adamw_step(adamw, 0.1, NULL, &error));
    lensnet_adamw_destroy(adamw);
    golden_must(lensnet_adamw_create(&adamw, parameters, NULL, &error), &error, "adamw");
    CHECK(!lensnet_adamw_step(adamw, 0.1, NULL, &error));
    CHECK(lensnet_adamw_swap_average(adamw, &error) == LENSNET_ERROR_STATE); /* none is kept */
    lensnet_adamw_destroy(adamw);
    lensnet_parameters_destroy(parameters);
}

/* ---- a training that is stopped and resumed ------------------------------------------------------ */

#define STATE_PATH "build/test_train_state.safetensors"

static void steps(training *t, lensnet_adamw *adamw, uint64_t first, uint64_t end)
{
    for (t->batch.step = first; t->batch.step < end; t->batch.step++) {
        training_run(t);
        golden_must(lensnet_adamw_step(adamw, 1e-3, NULL, &error), &error, "lensnet_adamw_step");
    }
}

/* Before the first step the average in a state is a copy of the weights. */
static void check_first_average(const training *t, const lensnet_adamw *adamw)
{
    const lensnet_parameters *parameters = lensnet_model_parameters(t->model);
    const lensnet_parameter_info info = lensnet_parameters_info(parameters, 0);
    const lensnet_archive_entry *entry;
    lensnet_archive *archive;
    float *average = (float *)malloc(info.size * sizeof(float));
    char name[200];
    golden_expect(average != NULL, "out of memory");
    golden_must(lensnet_state_save(t->model, adamw, NULL, 0, STATE_PATH, &error), &error, "save");
    golden_must(lensnet_archive_open(&archive, STATE_PATH, NULL, &error), &error, "open");
    snprintf(name, sizeof name, "lensnet.average.%s", info.name);
    entry = lensnet_archive_find(archive, name);
    CHECK(entry && !lensnet_archive_read_float(average, archive, entry, &error));
    CHECK(memcmp(average,
                 lensnet_parameters_values(lensnet_model_parameters(t->model)) + info.offset,
                 info.size * sizeof(float)) == 0);
    lensnet_archive_close(archive);
    free(average);
}

static void test_resume(void)
{
    static const lensnet_archive_pair pairs[1] = {{"epoch", "7"}};
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_adamw_desc adamw_desc = lensnet_adamw_defaults();
    lensnet_adamw *first, *second;
    lensnet_archive *archive;
    lensnet_model *as_model;
    training t, resumed;
    size_t bytes;
    desc.drop_path_rate = 0.3f;
    adamw_desc.average_decay = 0.9;
    training_begin(&t, &desc, 3, 32, &loss);
    golden_must(
        lensnet_adamw_create(&first, lensnet_model_parameters(t.model), &adamw_desc, &error),
        &error, "adamw");
    bytes = lensnet_parameters_size(lensnet_model_parameters(t.model)) * sizeof(float);
    check_first_average(&t, first);
    steps(&t, first, 0, 4);
    golden_must(lensnet_state_save(t.model, first, pairs, 1, STATE_PATH, &error), &error, "save");
    steps(&t, first, 4, 8);

    desc.seed = 99; /* weights, moments and step all come from the file */
    training_begin(&resumed, &desc, 3, 32, &loss);
    golden_must(
        lensnet_adamw_create(&second, lensnet_model_parameters(resumed.model), &adamw_desc, &error),
        &error, "adamw");
    golden_must(lensnet_state_load(resumed.model, second, STATE_PATH, &error), &error, "load");
    CHECK(lensnet_adamw_steps(second) == 4);
    steps(&resumed, second, lensnet_adamw_steps(second), 8);
    CHECK(memcmp(lensnet_parameters_values(lensnet_model_parameters(t.model)),
                 lensnet_parameters_values(lensnet_model_parameters(resumed.model)), bytes) == 0);
    CHECK(!lensnet_adamw_swap_average(first, &error));
    CHECK(!lensnet_adamw_swap_average(second, &error));
    CHECK(memcmp(lensnet_parameters_values(lensnet_model_parameters(t.model)),
                 lensnet_parameters_values(lensnet_model_parameters(resumed.model)), bytes) == 0);
    CHECK(lensnet_state_save(t.model, first, NULL, 0, STATE_PATH, &error) == LENSNET_ERROR_STATE);
    CHECK(lensnet_state_load(t.model, first, STATE_PATH, &error) == LENSNET_ERROR_STATE);

    golden_must(lensnet_archive_open(&archive, STATE_PATH, NULL, &error), &error, "open");
    CHECK(lensnet_archive_metadata(archive, "epoch") &&
          strcmp(lensnet_archive_metadata(archive, "epoch"), "7") == 0);
    lensnet_archive_close(archive);
    CHECK(!lensnet_model_load(&as_model, STATE_PATH, NULL, NULL, &error));
    lensnet_model_destroy(as_model);
    remove(STATE_PATH);
    lensnet_adamw_destroy(first);
    lensnet_adamw_destroy(second);
    training_end(&t);
    training_end(&resumed);
}

/* A state of another network is refused, and then both objects are as before. */
static void test_foreign_state(void)
{
    lensnet_model_desc desc = golden_desc("small", 3), other = golden_desc("small", 3);
    lensnet_model *model, *wider;
    lensnet_adamw *adamw, *wider_adamw;
    size_t bytes;
    float *before;
    other.widths[3] = 72;
    model = golden_model_create(&desc);
    wider = golden_model_create(&other);
    golden_must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error), &error,
                "adamw");
    golden_must(lensnet_adamw_create(&wider_adamw, lensnet_model_parameters(wider), NULL, &error),
                &error, "adamw");
    golden_must(lensnet_state_save(wider, wider_adamw, NULL, 0, STATE_PATH, &error), &error,
                "save");
    bytes = lensnet_parameters_size(lensnet_model_parameters(model)) * sizeof(float);
    before = (float *)malloc(bytes);
    golden_expect(before != NULL, "out of memory");
    memcpy(before, lensnet_parameters_values(lensnet_model_parameters(model)), bytes);
    CHECK(lensnet_state_load(model, adamw, STATE_PATH, &error) < 0);
    CHECK(strstr(error.text, STATE_PATH) != NULL);
    CHECK(memcmp(before, lensnet_parameters_values(lensnet_model_parameters(model)), bytes) == 0);
    CHECK(lensnet_adamw_steps(adamw) == 0);
    free(before);
    remove(STATE_PATH);
    lensnet_adamw_destroy(adamw);
    lensnet_adamw_destroy(wider_adamw);
    lensnet_model_destroy(model);
    lensnet_model_destroy(wider);
}

/* Writes another LENSNET_NUMERICS into the state's file: `digit`, for the one digit that stands there; its
 * checksums, which older versions had not, get a name that says nothing. */
static void change_numerics(char digit)
{
    static const char key[] = "\"lensnet.numerics\":\"", sums[] = "\"lensnet.checksums\"";
    static char bytes[65536];
    FILE *file = fopen(STATE_PATH, "r+b");
    size_t length, i;
    golden_expect(file != NULL, STATE_PATH);
    length = fread(bytes, 1, sizeof bytes, file);
    for (i = 0; i + sizeof key < length; i++)
        if (memcmp(bytes + i, key, sizeof key - 1) == 0) break;
    golden_expect(i + sizeof key < length, "no numerics in " STATE_PATH);
    CHECK(bytes[i + sizeof key - 1] == '0' + LENSNET_NUMERICS);
    fseek(file, (long)(i + sizeof key - 1), SEEK_SET);
    fputc(digit, file);
    for (i = 0; i + sizeof sums < length; i++)
        if (memcmp(bytes + i, sums, sizeof sums - 1) == 0) break;
    golden_expect(i + sizeof sums < length, "no checksums in " STATE_PATH);
    fseek(file, (long)(i + 1), SEEK_SET);
    fputc('L', file);
    fclose(file);
}

/* A state of a version that computed other bits is refused: its run could not go on as it was. Its weights
 * can still be loaded. */
static void test_older_state(void)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_model *model = golden_model_create(&desc), *as_model;
    lensnet_adamw *adamw;
    golden_must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error), &error,
                "adamw");
    golden_must(lensnet_state_save(model, adamw, NULL, 0, STATE_PATH, &error), &error, "save");
    CHECK(!lensnet_state_load(model, adamw, STATE_PATH, &error));
    change_numerics('1');
    CHECK(lensnet_state_load(model, adamw, STATE_PATH, &error) == LENSNET_ERROR_UNSUPPORTED);
    CHECK(strstr(error.text, "numerics 1") != NULL);
    CHECK(!lensnet_model_load(&as_model, STATE_PATH, NULL, NULL, &error));
    lensnet_model_destroy(as_model);
    remove(STATE_PATH);
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
}

int main(void)
{
    lensnet_loss loss = lensnet_loss_defaults();
    test_small_gradients("small_64", 64, 0);
    test_small_gradients("small_32", 32, 1);
    test_losses();
    test_drop_path();
    test_targets();
    test_parts();
    test_complete();
    test_adamw_scalar();
    test_clip_epsilon();
    test_adamw_networks();
    test_average();
    test_resume();
    test_foreign_state();
    test_older_state();
    if (getenv("LENSNET_TEST_QUICK")) return test_end();
    test_gradients("atto_64", "atto", 2, 64, &loss);
    test_gradients("atto_150", "atto", 2, 150, &loss);
    test_gradients("tiny_96", "tiny", 2, 96, &loss);
    return test_end();
}
