/* load.c - load: memory stays flat over many classifications and training steps; latency; images from
 * 32 x 32 to 2048 x 2048, batches from 1 to 4096, 2 to 1000 classes. Part of tests/long.sh; the argument
 * multiplies the counts.
 * cc -O2 -fopenmp -I. tests/load.c -o build/load -lm */
#define _POSIX_C_SOURCE 200809L
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "tests/test.h"

#include <time.h>

static lensnet_error error;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Bytes that the process holds now; 0 where the system does not say. */
static double resident(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[200];
    double kilobytes = 0;
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmRSS: %lf", &kilobytes);
    if (file) fclose(file);
    return kilobytes * 1024;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void must(lensnet_result result, const char *what)
{
    if (result) test_give_up(what, error.text, __FILE__, __LINE__);
}

static lensnet_model *make_model(size_t classes, int side)
{
    static const size_t widths[4] = {8, 16, 24, 32}, depths[4] = {1, 1, 1, 1};
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model;
    memcpy(desc.widths, widths, sizeof widths);
    memcpy(desc.depths, depths, sizeof depths);
    desc.classes = classes;
    desc.preprocess.image_size = side;
    must(lensnet_model_create(&model, &desc, &error), "model");
    return model;
}

static lensnet_classifier *make_classifier(size_t classes, int side)
{
    lensnet_model *model = make_model(classes, side);
    lensnet_classifier *classifier;
    must(lensnet_model_save(model, "build/load.d/x.safetensors", LENSNET_DTYPE_F32, &error),
         "save");
    lensnet_model_destroy(model);
    must(lensnet_classifier_load(&classifier, "build/load.d/x.safetensors", NULL, &error), "load");
    remove("build/load.d/x.safetensors");
    return classifier;
}

static float *make_pixels(size_t count)
{
    float *pixels = (float *)malloc(count * sizeof *pixels);
    size_t i;
    if (!pixels) test_give_up("out of memory", "", __FILE__, __LINE__);
    for (i = 0; i < count; i++) pixels[i] = (float)((i * 2654435761u >> 7) % 1000);
    return pixels;
}

/* `count` single classifications through one session. */
static void test_classifications(size_t count)
{
    lensnet_classifier *classifier = make_classifier(3, 64);
    lensnet_session *session;
    float *pixels = make_pixels(64 * 64 + 1024), probabilities[3], first[3];
    double *times = (double *)malloc(count * sizeof *times), before = 0;
    size_t i;
    if (!times) test_give_up("out of memory", "", __FILE__, __LINE__);
    must(lensnet_session_create(&session, classifier, 1, &error), "session");
    for (i = 0; i < count; i++) {
        const double start = seconds();
        CHECK(!lensnet_session_classify(session, i ? probabilities : first, NULL, pixels + i % 1024,
                                        1, 64, 64, &error));
        times[i] = seconds() - start;
        if (i % 1024 == 0 && i) CHECK(memcmp(first, probabilities, sizeof first) == 0);
        if (i == count / 10) before = resident();
    }
    CHECK(resident() <= before + 1e6);
    qsort(times, count, sizeof *times, by_value);
    printf("note: %lu classifications: p50 %.3f ms, p99 %.3f ms, memory grew by %.0f kB\n",
           (unsigned long)count, 1e3 * times[count / 2], 1e3 * times[count / 100 * 99],
           (resident() - before) / 1e3);
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    free(times);
    free(pixels);
}

static void test_training(size_t steps)
{
    lensnet_model *model = make_model(3, 64);
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_graph *graph;
    lensnet_adamw *adamw;
    int labels[4] = {0, 1, 2, 1};
    float *images = make_pixels(4 * 64 * 64 * 3);
    double before = 0;
    size_t i;
    options.height = options.width = 64;
    options.batch = 4;
    options.training = 1;
    for (i = 0; i < 4 * 64 * 64 * 3; i++) images[i] = images[i] / 500 - 1;
    must(lensnet_model_graph(&graph, model, &options, &loss, &error), "graph");
    must(lensnet_graph_plan(graph, NULL, &error), "plan");
    must(lensnet_graph_allocate(graph, &error), "allocate");
    must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error), "adamw");
    memset(&outputs, 0, sizeof outputs);
    batch.images = images;
    batch.channels = 3;
    batch.count = 4;
    batch.labels = labels;
    for (i = 0; i < steps; i++) {
        batch.step = i;
        CHECK(!lensnet_forward_backward(graph, &batch, &outputs, &error));
        CHECK(!lensnet_adamw_step(adamw, 1e-3, NULL, &error));
        if (i == steps / 10) before = resident();
    }
    CHECK(resident() <= before + 1e6);
    printf("note: %lu training steps: loss %.4f, memory grew by %.0f kB\n", (unsigned long)steps,
           outputs.loss, (resident() - before) / 1e3);
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
    free(images);
}

/* Images of every size, through one session whose network sees 64 x 64. */
static void test_sizes(void)
{
    static const size_t sizes[] = {1, 32, 33, 150, 512, 1024, 2048};
    lensnet_classifier *classifier = make_classifier(3, 64);
    lensnet_session *session;
    float *pixels = make_pixels(2048 * 2048), probabilities[3];
    size_t i;
    must(lensnet_session_create(&session, classifier, 1, &error), "session");
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK(!lensnet_session_classify(session, probabilities, NULL, pixels, 1, sizes[i], sizes[i],
                                        &error));
        CHECK_CLOSE((double)probabilities[0] + (double)probabilities[1] + (double)probabilities[2],
                    1, 1e-5, "probabilities add up to 1");
    }
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    free(pixels);
}

/* Networks that see every size, themselves. */
static void test_inputs(void)
{
    static const int sides[] = {32, 224, 512, 2048};
    float *pixels = make_pixels(150 * 150);
    size_t i;
    for (i = 0; i < sizeof sides / sizeof *sides; i++) {
        lensnet_classifier *classifier = make_classifier(3, sides[i]);
        lensnet_prediction prediction;
        CHECK(!lensnet_classify(classifier, pixels, 150, 150, &prediction, &error));
        lensnet_classifier_destroy(classifier);
    }
    free(pixels);
}

/* Every image of a batch has the bits that it has alone. */
static void test_batches(void)
{
    static const size_t batches[] = {1, 2, 7, 64, 1000, 4096};
    lensnet_classifier *classifier = make_classifier(3, 32);
    float *pixels = make_pixels(4096 * 32 * 32), *all = make_pixels(4096 * 3), alone[3];
    size_t i;
    for (i = 0; i < sizeof batches / sizeof *batches; i++) {
        const size_t n = batches[i];
        lensnet_session *session;
        must(lensnet_session_create(&session, classifier, n, &error), "session");
        CHECK(!lensnet_session_classify(session, all, NULL, pixels, n, 32, 32, &error));
        CHECK(!lensnet_session_classify(session, alone, NULL, pixels + (n - 1) * 32 * 32, 1, 32, 32,
                                        &error));
        CHECK(memcmp(alone, all + (n - 1) * 3, sizeof alone) == 0);
        lensnet_session_destroy(session);
    }
    lensnet_classifier_destroy(classifier);
    free(pixels);
    free(all);
}

static void test_classes(void)
{
    static const size_t counts[] = {2, 3, 10, 100, 1000};
    float *pixels = make_pixels(32 * 32), probabilities[1000];
    size_t i, k;
    for (i = 0; i < sizeof counts / sizeof *counts; i++) {
        lensnet_classifier *classifier = make_classifier(counts[i], 32);
        lensnet_session *session;
        double sum = 0;
        must(lensnet_session_create(&session, classifier, 1, &error), "session");
        CHECK(!lensnet_session_classify(session, probabilities, NULL, pixels, 1, 32, 32, &error));
        for (k = 0; k < counts[i]; k++) sum += (double)probabilities[k];
        CHECK_CLOSE(sum, 1, 1e-4, "probabilities of all classes add up to 1");
        lensnet_session_destroy(session);
        lensnet_classifier_destroy(classifier);
    }
    free(pixels);
}

int main(int count, char **arguments)
{
    const size_t more = count > 1 ? (size_t)atoi(arguments[1]) : 1;
    if (system("mkdir -p build/load.d") != 0) return 1;
    test_sizes();
    test_inputs();
    test_batches();
    test_classes();
    test_classifications(10000 * more);
    test_training(100 * more);
    return test_end();
}
