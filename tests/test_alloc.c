/* test_alloc.c - memory: steps allocate nothing, plans say the truth, every allocation may fail, and the
 * peaks that are promised hold.
 * cc -O2 -fopenmp -I. tests/test_alloc.c -o build/test_alloc -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "golden.h"

static lensnet_error error;

/* ---- an allocator that counts, and fails when told to -------------------------------------------- */

typedef struct counter {
    size_t calls, blocks, bytes, peak; /* allocations so far; living now; the most that lived */
    size_t fail_at;     /* this allocation (from 1) and all later ones fail; 0: none */
    size_t wrong_sizes; /* blocks released with another size than they were taken with */
    size_t overwritten; /* blocks that somebody wrote behind */
} counter;

#define HEADER 64   /* in front of each block: its size, and the address malloc gave */
#define GUARD  4096 /* bytes behind each block, which nobody may write */

typedef struct block_header {
    void *raw;
    size_t bytes;
} block_header;

static void *counted_allocate(size_t bytes, size_t alignment, void *user)
{
    counter *c = (counter *)user;
    unsigned char *raw, *block;
    block_header header;
    c->calls++;
    if (c->fail_at && c->calls >= c->fail_at) return NULL;
    raw = (unsigned char *)malloc(bytes + alignment + HEADER + GUARD);
    if (!raw) return NULL;
    block = raw + HEADER;
    block += (alignment - (uintptr_t)block % alignment) % alignment;
    header.raw = raw;
    header.bytes = bytes;
    memcpy(block - sizeof header, &header, sizeof header);
    memset(block + bytes, 0xa5, GUARD);
    c->blocks++;
    c->bytes += bytes;
    if (c->bytes > c->peak) c->peak = c->bytes;
    return block;
}

static void counted_release(void *block, size_t bytes, void *user)
{
    counter *c = (counter *)user;
    block_header header;
    const unsigned char *guard;
    size_t i, changed = 0;
    memcpy(&header, (unsigned char *)block - sizeof header, sizeof header);
    guard = (const unsigned char *)block + header.bytes;
    for (i = 0; i < GUARD; i++) changed += guard[i] != 0xa5;
    if (changed) c->overwritten++;
    if (header.bytes != bytes) c->wrong_sizes++;
    c->blocks--;
    c->bytes -= header.bytes;
    free(header.raw);
}

static lensnet_host counted_host(counter *c)
{
    lensnet_host host = lensnet_host_defaults();
    memset(c, 0, sizeof *c);
    host.allocate = counted_allocate;
    host.release = counted_release;
    host.user = c;
    host.threads = 2;
    return host;
}

static void check_nothing_left(const counter *c)
{
    CHECK(c->blocks == 0);
    CHECK(c->bytes == 0);
    CHECK(c->wrong_sizes == 0);
    CHECK(c->overwritten == 0);
}

/* ---- plans --------------------------------------------------------------------------------------- */

typedef struct setting {
    size_t side, batch, micro_batch;
    int training, recompute, plain;
} setting;

static lensnet_graph_options options_of(const setting *s)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    options.height = options.width = s->side;
    options.batch = s->batch;
    options.micro_batch = s->micro_batch;
    options.training = s->training;
    options.recompute = s->recompute;
    options.plain = s->plain;
    return options;
}

/* What lensnet_graph_allocate takes is what the plan said, and a run takes nothing more. */
static void check_plan(lensnet_model *model, counter *c, const setting *s)
{
    lensnet_graph_options options = options_of(s);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_plan plan;
    lensnet_graph *graph;
    float *images = golden_images(s->batch, s->side, s->side);
    int labels[8] = {0, 1, 2, 0, 1, 2, 0, 1};
    size_t bytes, calls;
    golden_must(lensnet_model_graph(&graph, model, &options, s->training ? &loss : NULL, &error),
                &error, "graph");
    golden_must(lensnet_graph_plan(graph, &plan, &error), &error, "plan");
    bytes = c->bytes;
    golden_must(lensnet_graph_allocate(graph, &error), &error, "allocate");
    CHECK(c->bytes - bytes == plan.bytes);
    CHECK(plan.bytes >= plan.activation_bytes + plan.scratch_bytes);
    CHECK(plan.micro_batch >= 1 && plan.micro_batch <= s->batch);
    CHECK(s->micro_batch == 0 || plan.micro_batch == s->micro_batch);
    calls = c->calls;
    batch.images = images;
    batch.channels = 3;
    batch.count = s->batch;
    batch.labels = s->training ? labels : NULL;
    if (s->training) CHECK(!lensnet_forward_backward(graph, &batch, NULL, &error));
    CHECK(!lensnet_forward(graph, &batch, NULL, &error));
    CHECK(c->calls == calls);
    lensnet_graph_destroy(graph);
    free(images);
}

static void test_plans(void)
{
    static const setting settings[] = {{32, 1, 0, 0, 0, 0}, {64, 5, 2, 0, 0, 0},
                                       {48, 3, 3, 0, 0, 1}, {64, 5, 0, 1, 0, 0},
                                       {64, 5, 2, 1, 1, 0}, {48, 6, 4, 1, 0, 1}};
    counter c;
    lensnet_host host = counted_host(&c);
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_model *model;
    size_t i;
    desc.host = &host;
    for (i = 0; i < sizeof settings / sizeof *settings; i++) {
        model = golden_model_create(&desc);
        check_plan(model, &c, &settings[i]);
        check_plan(model, &c, &settings[i]); /* a second graph shares the model's packed weights */
        lensnet_model_destroy(model);
    }
    check_nothing_left(&c);
}

/* Batches shorter than planned, and groups of samples inside a block, are cut in other ways than whole
 * ones: none may need more scratch. Stage 3 goes in groups of 5 + 3 and 5 + 2. */
static void check_short_batch(size_t count, int threads)
{
    static const size_t depths[4] = {1, 1, 1, 1};
    static const setting s = {224, 8, 8, 1, 0, 0};
    counter c;
    lensnet_host host = counted_host(&c);
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_graph_options options = options_of(&s);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_model *model;
    lensnet_graph *graph;
    float *images = golden_images(count, 224, 224);
    int labels[8] = {0, 1, 2, 0, 1, 2, 0, 1};
    host.threads = threads;
    memcpy(desc.depths, depths, sizeof depths);
    desc.host = &host;
    model = golden_model_create(&desc);
    graph = golden_graph(model, &options, &loss);
    batch.images = images;
    batch.channels = 3;
    batch.count = count;
    batch.labels = labels;
    CHECK(!lensnet_forward_backward(graph, &batch, NULL, &error));
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
    free(images);
    check_nothing_left(&c);
}

/* A limit first lessens the images at a time, then recomputes; what is impossible is refused. */
static void test_memory_limit(void)
{
    static const setting s = {64, 8, 0, 1, 0, 0};
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_model *model;
    lensnet_graph_options options = options_of(&s);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_plan free_plan, plan;
    lensnet_graph *graph;
    int recomputed = 0;
    desc.depths[0] =
        4; /* recomputing needs a wide layer at a time: nothing is gained with one block */
    model = golden_model_create(&desc);
    golden_must(lensnet_model_graph(&graph, model, &options, &loss, &error), &error, "graph");
    golden_must(lensnet_graph_plan(graph, &free_plan, &error), &error, "plan");
    lensnet_graph_destroy(graph);
    CHECK(free_plan.micro_batch == 8 && !free_plan.recompute);
    for (options.memory_limit = free_plan.bytes; options.memory_limit > 1000;
         options.memory_limit -= free_plan.bytes / 50) {
        golden_must(lensnet_model_graph(&graph, model, &options, &loss, &error), &error, "graph");
        if (lensnet_graph_plan(graph, &plan, &error)) break;
        CHECK(plan.bytes <= options.memory_limit);
        CHECK(plan.micro_batch == 1 || !plan.recompute);
        recomputed |= plan.recompute;
        lensnet_graph_destroy(graph);
    }
    CHECK(recomputed);
    CHECK(options.memory_limit > 1000 && error.code == LENSNET_ERROR_MEMORY);
    CHECK(strstr(error.text, "memory_limit") != NULL);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
}

/* A graph goes on running after a later one has brought larger weights of the same table into use. */
static void test_later_graph(void)
{
    lensnet_parameters *parameters;
    lensnet_parameter small, small_bias, large, large_bias;
    lensnet_graph *first, *second;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_conv2d_desc conv = lensnet_conv2d_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    float *images = golden_images(1, 8, 8), logits[5], before[5];
    golden_must(lensnet_parameters_create(&parameters, NULL, &error), &error, "parameters");
    small = lensnet_parameter_add(parameters, "small", 5, 3, 0, 0, LENSNET_INITIAL_NORMAL_002);
    small_bias = lensnet_parameter_add(parameters, "small_bias", 5, 0, 0, 0, LENSNET_INITIAL_ZERO);
    large = lensnet_parameter_add(parameters, "large", 256, 3, 3, 3, LENSNET_INITIAL_NORMAL_002);
    large_bias =
        lensnet_parameter_add(parameters, "large_bias", 256, 0, 0, 0, LENSNET_INITIAL_ZERO);
    golden_must(lensnet_parameters_allocate(parameters, 0, 7, &error), &error, "parameters");
    options.height = options.width = 8;
    options.batch = 1;
    options.training = 0;
    golden_must(lensnet_graph_create(&first, parameters, &options, &error), &error, "graph");
    lensnet_output(first, lensnet_linear(first, lensnet_mean_pool(first, lensnet_input(first, 3)),
                                         small, small_bias));
    golden_must(lensnet_graph_plan(first, NULL, &error), &error, "plan");
    golden_must(lensnet_graph_allocate(first, &error), &error, "allocate");
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = before;
    batch.images = images;
    batch.channels = 3;
    batch.count = 1;
    CHECK(!lensnet_forward(first, &batch, &outputs, &error));
    conv.padding = 1;
    golden_must(lensnet_graph_create(&second, parameters, &options, &error), &error, "graph");
    lensnet_output(second,
                   lensnet_mean_pool(second, lensnet_conv2d(second, lensnet_input(second, 3), large,
                                                            large_bias, &conv)));
    golden_must(lensnet_graph_plan(second, NULL, &error), &error, "plan");
    golden_must(lensnet_graph_allocate(second, &error), &error, "allocate");
    outputs.logits = logits;
    CHECK(!lensnet_forward(first, &batch, &outputs, &error));
    CHECK(memcmp(logits, before, sizeof before) == 0);
    CHECK(!lensnet_forward(second, &batch, NULL, &error));
    lensnet_graph_destroy(first);
    lensnet_graph_destroy(second);
    lensnet_parameters_destroy(parameters);
    free(images);
}

/* The same in training: convolutions' gradients change their order through that scratch. */
enum { SMALL = 5 * 3, LARGE = 256 * 3 * 9 };

static lensnet_graph *record_training(lensnet_parameters *parameters, int large)
{
    const lensnet_parameter none = {-1};
    lensnet_parameter weight = {large};
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_graph *graph;
    lensnet_tensor x;
    options.height = options.width = 8;
    options.batch = 1;
    options.training = 1;
    golden_must(lensnet_graph_create(&graph, parameters, &options, &error), &error, "graph");
    x = lensnet_input(graph, 3);
    x = large ? lensnet_conv2d(graph, x, weight, none, NULL)
              : lensnet_linear(graph, x, weight, none);
    lensnet_cross_entropy(graph, lensnet_mean_pool(graph, x), NULL);
    golden_must(lensnet_graph_plan(graph, NULL, &error), &error, "plan");
    golden_must(lensnet_graph_allocate(graph, &error), &error, "allocate");
    return graph;
}

static lensnet_parameters *small_and_large(void)
{
    lensnet_parameters *p;
    golden_must(lensnet_parameters_create(&p, NULL, &error), &error, "parameters");
    lensnet_parameter_add(p, "small", 5, 3, 0, 0, LENSNET_INITIAL_NORMAL_002);
    lensnet_parameter_add(p, "large", 256, 3, 3, 3, LENSNET_INITIAL_NORMAL_002);
    golden_must(lensnet_parameters_allocate(p, 1, 7, &error), &error, "parameters");
    return p;
}

static void check_gradients(lensnet_graph *graph, const lensnet_parameters *p, float *gradients,
                            size_t first, size_t count, int again)
{
    float *images = golden_images(1, 8, 8);
    const int label = 2;
    const float *actual = lensnet_parameters_gradients((lensnet_parameters *)p) + first;
    lensnet_batch batch = lensnet_batch_defaults();
    batch.images = images;
    batch.channels = 3;
    batch.count = 1;
    batch.labels = &label;
    CHECK(!lensnet_forward_backward(graph, &batch, NULL, &error));
    if (again) CHECK(memcmp(gradients, actual, count * sizeof(float)) == 0);
    memcpy(gradients, actual, count * sizeof(float));
    free(images);
}

static void test_later_training(void)
{
    lensnet_parameters *p = small_and_large();
    lensnet_graph *first = record_training(p, 0), *second;
    const size_t at = lensnet_parameters_info(p, 1).offset;
    float small[SMALL];
    float *large = (float *)malloc(LARGE * sizeof(float));
    golden_expect(large != NULL, "out of memory");
    check_gradients(first, p, small, 0, SMALL, 0);
    second = record_training(p, 1);
    check_gradients(first, p, small, 0, SMALL, 1);
    check_gradients(second, p, large, at, LARGE, 0);
    lensnet_graph_destroy(first);
    lensnet_graph_destroy(second);
    lensnet_parameters_destroy(p);
    p = small_and_large();
    second = record_training(p, 1);
    check_gradients(second, p, large, at, LARGE, 1);
    lensnet_graph_destroy(second);
    lensnet_parameters_destroy(p);
    free(large);
}

/* One tensor read as a vector and as a matrix is refused, in either order: its gradient could only be in
 * one of their orders. */
static void test_two_uses(void)
{
    int vector_first;
    for (vector_first = 0; vector_first < 2; vector_first++) {
        lensnet_parameters *parameters;
        lensnet_parameter both, matrix, none = {-1};
        lensnet_graph *graph;
        lensnet_tensor x;
        golden_must(lensnet_parameters_create(&parameters, NULL, &error), &error, "parameters");
        both = lensnet_parameter_add(parameters, "both", 1, 2, 3, 3, LENSNET_INITIAL_NORMAL_002);
        matrix =
            lensnet_parameter_add(parameters, "matrix", 18, 2, 0, 0, LENSNET_INITIAL_NORMAL_002);
        golden_must(lensnet_parameters_allocate(parameters, 1, 7, &error), &error, "parameters");
        golden_must(lensnet_graph_create(&graph, parameters, NULL, &error), &error, "graph");
        x = lensnet_input(graph, 2);
        if (vector_first) lensnet_linear(graph, x, matrix, both);
        lensnet_conv2d(graph, x, both, none, NULL);
        if (!vector_first) lensnet_linear(graph, x, matrix, both);
        CHECK(lensnet_graph_plan(graph, NULL, &error) < 0);
        CHECK(strstr(error.text, "both") != NULL);
        lensnet_graph_destroy(graph);
        lensnet_parameters_destroy(parameters);
    }
}

/* ---- steps --------------------------------------------------------------------------------------- */

static void test_steps(void)
{
    static const int labels[4] = {0, 1, 2, 0};
    setting s = {64, 4, 3, 1, 0, 0};
    counter c;
    lensnet_host host = counted_host(&c);
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_graph_options options = options_of(&s);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_adamw_desc adamw_desc = lensnet_adamw_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_model *model;
    lensnet_graph *training, *validation;
    lensnet_adamw *adamw;
    float *images = golden_images(4, 64, 64);
    size_t calls;
    desc.host = &host;
    desc.drop_path_rate = 0.2f;
    adamw_desc.clip_norm = 1;
    adamw_desc.average_decay = 0.99;
    model = golden_model_create(&desc);
    training = golden_graph(model, &options, &loss);
    options.training = 0;
    validation = golden_graph(model, &options, &loss);
    golden_must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), &adamw_desc, &error),
                &error, "adamw");
    batch.images = images;
    batch.channels = 3;
    batch.count = 4;
    batch.labels = labels;
    calls = c.calls;
    for (batch.step = 0; batch.step < 3; batch.step++) {
        CHECK(!lensnet_forward_backward(training, &batch, NULL, &error));
        CHECK(!lensnet_adamw_step(adamw, 1e-3, NULL, &error));
        CHECK(!lensnet_forward(validation, &batch, NULL, &error));
    }
    CHECK(c.calls == calls);
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(training);
    lensnet_graph_destroy(validation);
    lensnet_model_destroy(model);
    free(images);
    check_nothing_left(&c);
}

/* ---- every allocation fails once ----------------------------------------------------------------- */

#define STATE_PATH "build/test_alloc_state.safetensors"

/* A scenario runs until something fails, takes down what it built, and returns what happened. */
typedef lensnet_result (*scenario)(const lensnet_host *host);

static lensnet_result train_scenario(const lensnet_host *host)
{
    static const int labels[2] = {1, 2};
    setting s = {32, 2, 1, 1, 1, 0};
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_graph_options options = options_of(&s);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_model *model = NULL;
    lensnet_graph *graph = NULL;
    lensnet_adamw *adamw = NULL;
    static const float class_weights[3] = {1, 2, 3};
    float *images = golden_images(2, 32, 32);
    lensnet_result r;
    desc.host = host;
    loss.class_weights = class_weights;
    batch.images = images;
    batch.channels = 3;
    batch.count = 2;
    batch.labels = labels;
    r = lensnet_model_create(&model, &desc, &error);
    if (!r) r = lensnet_model_graph(&graph, model, &options, &loss, &error);
    if (!r) r = lensnet_graph_plan(graph, NULL, &error);
    if (!r) r = lensnet_graph_allocate(graph, &error);
    if (!r) r = lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error);
    if (!r) r = lensnet_forward_backward(graph, &batch, NULL, &error);
    if (!r) r = lensnet_adamw_step(adamw, 1e-3, NULL, &error);
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
    free(images);
    return r;
}

/* Loading a state that fails half-way must leave weights and step count as they were. */
static lensnet_result state_scenario(const lensnet_host *host)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_model *model = NULL, *loaded = NULL;
    lensnet_adamw *adamw = NULL;
    float *before = NULL;
    size_t bytes = 0;
    lensnet_result r;
    desc.host = host;
    desc.seed = 77;
    r = lensnet_model_create(&model, &desc, &error);
    if (!r) r = lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error);
    if (!r) {
        bytes = lensnet_parameters_size(lensnet_model_parameters(model)) * sizeof(float);
        before = (float *)malloc(bytes);
        golden_expect(before != NULL, "out of memory");
        memcpy(before, lensnet_parameters_values(lensnet_model_parameters(model)), bytes);
        r = lensnet_state_load(model, adamw, STATE_PATH, &error);
        if (r) {
            CHECK(memcmp(before, lensnet_parameters_values(lensnet_model_parameters(model)),
                         bytes) == 0);
            CHECK(lensnet_adamw_steps(adamw) == 0);
        }
    }
    if (!r) {
        lensnet_load_options load = lensnet_load_defaults();
        load.host = host;
        r = lensnet_model_load(&loaded, STATE_PATH, &load, NULL, &error);
        CHECK((r == 0) == (loaded != NULL));
    }
    if (!r) r = lensnet_model_save(loaded, STATE_PATH ".copy", LENSNET_DTYPE_F16, &error);
    lensnet_model_destroy(loaded);
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
    free(before);
    return r;
}

static lensnet_result classify_scenario(const lensnet_host *host)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier = NULL;
    lensnet_session *session = NULL;
    lensnet_prediction prediction;
    float pixels[40 * 50], probabilities[3];
    size_t i;
    lensnet_result r;
    options.host = host;
    options.views = 8;
    for (i = 0; i < 40 * 50; i++) pixels[i] = (float)lngen_value(1, i);
    r = lensnet_classifier_load(&classifier, STATE_PATH, &options, &error);
    CHECK((r == 0) == (classifier != NULL));
    if (!r) r = lensnet_classify(classifier, pixels, 40, 50, &prediction, &error);
    if (!r) r = lensnet_session_create(&session, classifier, 2, &error);
    if (!r) r = lensnet_session_classify(session, probabilities, NULL, pixels, 1, 40, 50, &error);
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    return r;
}

/* Allocation 1, 2, 3 ... fails until none has to. */
static void sweep(scenario run, const char *name)
{
    counter c;
    lensnet_host host = counted_host(&c);
    size_t failed = 0;
    lensnet_result result;
    do {
        memset(&c, 0, sizeof c);
        memset(&error, 0, sizeof error);
        c.fail_at = ++failed;
        result = run(&host);
        if (c.calls < failed) break; /* nothing failed any more */
        CHECK(result == LENSNET_ERROR_MEMORY);
        CHECK(error.code == LENSNET_ERROR_MEMORY && strlen(error.text) > 10);
        check_nothing_left(&c);
    } while (failed < 10000);
    CHECK(result == LENSNET_OK);
    check_nothing_left(&c);
    printf("%s: %lu allocations, each failed once\n", name, (unsigned long)failed - 1);
}

static void write_state(void)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_model *model;
    lensnet_adamw *adamw;
    desc.preprocess.image_size = 32;
    model = golden_model_create(&desc);
    golden_must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error), &error,
                "adamw");
    golden_must(lensnet_state_save(model, adamw, NULL, 0, STATE_PATH, &error), &error, "save");
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
}

static void test_failures(void)
{
    write_state();
    sweep(train_scenario, "training");
    sweep(state_scenario, "states");
    sweep(classify_scenario, "classifying");
    remove(STATE_PATH);
    remove(STATE_PATH ".copy");
}

/* ---- sessions ------------------------------------------------------------------------------------ */

static void test_sessions(void)
{
    counter c;
    lensnet_host host = counted_host(&c);
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_session *session;
    float *pixels = golden_images(7, 40, 20); /* 7 grey images of 60 x 40 */
    float probabilities[21];
    size_t calls, bytes;
    write_state();
    options.host = &host;
    golden_must(lensnet_classifier_load(&classifier, STATE_PATH, &options, &error), &error, "load");
    bytes = c.bytes;
    golden_must(lensnet_session_create(&session, classifier, 3, &error), &error, "session");
    CHECK(lensnet_session_bytes(session) == c.bytes - bytes);
    CHECK(!lensnet_session_classify(session, probabilities, NULL, pixels, 1, 60, 40, &error));
    calls = c.calls;
    CHECK(!lensnet_session_classify(session, probabilities, NULL, pixels, 7, 60, 40, &error));
    CHECK(!lensnet_session_classify(session, probabilities, NULL, pixels, 2, 60, 40, &error));
    CHECK(c.calls == calls);
    lensnet_session_destroy(session);
    CHECK(c.bytes == bytes);
    lensnet_classifier_destroy(classifier);
    check_nothing_left(&c);
    free(pixels);
    remove(STATE_PATH);
}

/* ---- peaks --------------------------------------------------------------------------------------- */

#define TINY_PATH "build/test_alloc_tiny.safetensors"

/* The most memory this process ever had resident, in bytes; 0 where the system does not say. */
static double peak_resident(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[200];
    double kilobytes = 0;
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmHWM: %lf", &kilobytes);
    if (file) fclose(file);
    return kilobytes * 1024;
}

/* In a process of its own: classifies one image and tells the peak. */
static int classify_once(void)
{
    lensnet_classifier *classifier;
    lensnet_prediction prediction;
    static float pixels[150 * 150];
    size_t i;
    for (i = 0; i < 150 * 150; i++) pixels[i] = (float)lngen_value(1, i);
    golden_must(lensnet_classifier_load(&classifier, TINY_PATH, NULL, &error), &error, "load");
    golden_must(lensnet_classify(classifier, pixels, 150, 150, &prediction, &error), &error,
                "classify");
    lensnet_classifier_destroy(classifier);
    printf("%.0f\n", peak_resident());
    return 0;
}

static void write_tiny(void)
{
    lensnet_model_desc desc = golden_desc("tiny", 3);
    lensnet_model *model;
    desc.gradients = 0;
    model = golden_model_create(&desc);
    golden_must(lensnet_model_save(model, TINY_PATH, LENSNET_DTYPE_F32, &error), &error, "save");
    lensnet_model_destroy(model);
}

static void test_classify_peak(const char *program)
{
    double weights = 27868803.0 * 4, peak = 0;
    char command[300];
    FILE *answer;
    if (peak_resident() <= 0) {
        printf("note: this system does not tell peak memory\n");
        return;
    }
    write_tiny();
    snprintf(command, sizeof command, "%s --classify > build/test_alloc_peak.txt", program);
    CHECK(system(command) == 0);
    answer = fopen("build/test_alloc_peak.txt", "r");
    if (answer) {
        CHECK(fscanf(answer, "%lf", &peak) == 1);
        fclose(answer);
    }
    CHECK(peak > weights / 2 && peak <= 1.3 * weights);
    printf("note: classifying with Tiny takes %.1f MB, %.2f times its weights\n", peak / 1e6,
           peak / weights);
    remove(TINY_PATH);
    remove("build/test_alloc_peak.txt");
}

/* All that training Tiny at 224 with batch 32 takes: weights, gradients, moments, the graph, and a batch
 * of grey images with its labels. */
static void test_training_peak(void)
{
    counter c;
    lensnet_host host = counted_host(&c);
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_plan plan;
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_adamw *adamw;
    double batch_bytes = 32.0 * 224 * 224 * sizeof(float), total;
    desc.host = &host;
    options.training = 1;
    golden_must(lensnet_model_create(&model, &desc, &error), &error, "model");
    golden_must(lensnet_model_graph(&graph, model, &options, &loss, &error), &error, "graph");
    golden_must(lensnet_graph_plan(graph, &plan, &error), &error, "plan");
    golden_must(lensnet_graph_allocate(graph, &error), &error, "allocate");
    golden_must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error), &error,
                "adamw");
    total = (double)c.peak + batch_bytes;
    CHECK(total <= 1.2e9);
    printf("note: training Tiny at 224, batch 32, takes %.0f MB (graph %.0f MB, micro-batch %lu)\n",
           total / 1e6, (double)plan.bytes / 1e6, (unsigned long)plan.micro_batch);
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
    check_nothing_left(&c);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--classify") == 0) return classify_once();
    test_plans();
    test_memory_limit();
    check_short_batch(8, 2);
    check_short_batch(7, 1);
    test_later_graph();
    test_later_training();
    test_two_uses();
    test_steps();
    test_failures();
    test_sessions();
    test_training_peak();
    if (!getenv("LENSNET_TEST_QUICK")) test_classify_peak(argv[0]);
    return test_end();
}
