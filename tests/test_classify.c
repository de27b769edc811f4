/* test_classify.c - from a file to an answer: classifiers, sessions, names of three dialects, heads, and
 * files that are refused.
 * cc -O2 -fopenmp -I. tests/test_classify.c -o build/test_classify -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "golden.h"
#include "odd_host.h"

#include <locale.h>

#define PATH  "build/test_classify.safetensors"
#define SIDE  64 /* of the network's input */
#define FILES 5  /* test images */

static lensnet_error error;
static const char *const labels[3] = {"smooth", "clumpy", "a \"vortex\""};

static lensnet_model *saved_model(lensnet_dtype type)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_model *model;
    desc.preprocess.image_size = SIDE;
    desc.preprocess.normalisation = LENSNET_NORMALISATION_ZNORM;
    desc.labels = labels;
    model = golden_model_create(&desc);
    golden_must(lensnet_model_save(model, PATH, type, &error), &error, "save");
    return model;
}

/* Grey images of height x width that differ from each other. */
static float *test_pixels(size_t count, size_t height, size_t width)
{
    float *pixels = (float *)malloc(count * height * width * sizeof(float));
    size_t i;
    golden_expect(pixels != NULL, "out of memory");
    for (i = 0; i < count * height * width; i++)
        pixels[i] = (float)(lngen_value(3, i) + 2 * lngen_value(4, i / (7 * width)));
    return pixels;
}

/* ---- the same numbers as a graph gives ----------------------------------------------------------- */

static void expected_probabilities(float *probabilities, lensnet_model *model, const float *pixels,
                                   size_t height, size_t width)
{
    const lensnet_preprocess *preprocess = &lensnet_model_description(model)->preprocess;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    static float image[SIDE * SIDE * 3];
    float logits[3];
    double sum = 0, largest;
    lensnet_graph *graph;
    void *scratch = malloc(lensnet_preprocess_scratch_bytes(preprocess, height, width) + 1);
    int k;
    golden_expect(scratch != NULL, "out of memory");
    golden_must(lensnet_preprocess_image(image, pixels, height, width, preprocess, scratch, &error),
                &error, "preprocess");
    options.height = options.width = SIDE;
    options.batch = 1;
    graph = golden_graph(model, &options, NULL);
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = logits;
    batch.images = image;
    batch.channels = 3;
    batch.count = 1;
    golden_must(lensnet_forward(graph, &batch, &outputs, &error), &error, "forward");
    largest = logits[0] > logits[1] ? logits[0] : logits[1];
    if (logits[2] > largest) largest = logits[2];
    for (k = 0; k < 3; k++) sum += exp(logits[k] - largest);
    for (k = 0; k < 3; k++) probabilities[k] = (float)(exp(logits[k] - largest) / sum);
    lensnet_graph_destroy(graph);
    free(scratch);
}

static void check_prediction(const lensnet_classifier *classifier, const float *pixels,
                             size_t height, size_t width, const float *probabilities)
{
    lensnet_prediction prediction;
    int k, best = 0;
    for (k = 1; k < 3; k++)
        if (probabilities[k] > probabilities[best]) best = k;
    CHECK(!lensnet_classify(classifier, pixels, height, width, &prediction, &error));
    CHECK(prediction.index == best);
    CHECK(prediction.label == lensnet_classifier_label(classifier, (size_t)best));
    CHECK(prediction.probability == probabilities[best]);
}

/* One by one, in batches and from several sizes of session: the same bits, and a graph's numbers. */
static void test_sessions(void)
{
    const size_t height = 50, width = 70, size = height * width;
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    float *pixels = test_pixels(FILES, height, width);
    float together[FILES * 3], features[FILES * 64], one[3], one_features[64], expected[3];
    lensnet_classifier *classifier;
    lensnet_session *session;
    size_t batch, i, k;
    golden_must(lensnet_classifier_load(&classifier, PATH, NULL, &error), &error, "load");
    CHECK(lensnet_classifier_classes(classifier) == 3);
    CHECK(lensnet_classifier_features(classifier) == 64);
    CHECK(lensnet_classifier_preprocess(classifier)->image_size == SIDE);
    for (k = 0; k < 3; k++) CHECK(strcmp(lensnet_classifier_label(classifier, k), labels[k]) == 0);
    CHECK(strcmp(lensnet_classifier_label(classifier, 3), "") == 0);
    for (batch = 1; batch <= 6; batch += batch == 1 ? 1 : 2) { /* 1, 2, 4, 6 */
        golden_must(lensnet_session_create(&session, classifier, batch, &error), &error, "session");
        CHECK(!lensnet_session_classify(session, together, features, pixels, FILES, height, width,
                                        &error));
        for (i = 0; i < FILES; i++) {
            CHECK(!lensnet_session_classify(session, one, one_features, pixels + i * size, 1,
                                            height, width, &error));
            CHECK(memcmp(one, together + 3 * i, sizeof one) == 0);
            CHECK(memcmp(one_features, features + 64 * i, sizeof one_features) == 0);
            expected_probabilities(expected, model, pixels + i * size, height, width);
            for (k = 0; k < 3; k++) CHECK_CLOSE(one[k], expected[k], 2e-7, "probability");
            check_prediction(classifier, pixels + i * size, height, width, one);
        }
        lensnet_session_destroy(session);
    }
    lensnet_classifier_destroy(classifier);
    lensnet_model_destroy(model);
    free(pixels);
}

/* Numbers in files are written and read alike where the locale's point is a comma. */
static void test_comma(void)
{
    static const char *const locales[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    lensnet_classifier *classifier;
    size_t i;
    for (i = 0; i < 4 && !setlocale(LC_ALL, locales[i]); i++)
        ;
    if (i == 4) printf("note: no locale with a comma is there\n");
    lensnet_model_destroy(saved_model(LENSNET_DTYPE_F32));
    CHECK(!lensnet_classifier_load(&classifier, PATH, NULL, &error));
    lensnet_classifier_destroy(classifier);
    setlocale(LC_ALL, "C");
    CHECK(!lensnet_classifier_load(&classifier, PATH, NULL, &error));
    lensnet_classifier_destroy(classifier);
}

/* Initial weights and an answer, in an ordinary host and in an odd one. */
static void test_odd_host(void)
{
    lensnet_model_desc desc = golden_desc("small", 3);
    lensnet_model *models[2];
    lensnet_classifier *classifiers[2];
    float *pixels = test_pixels(1, 80, 91);
    lensnet_prediction answers[2];
    size_t bytes;
    int odd;
    lensnet_model_destroy(saved_model(LENSNET_DTYPE_F16));
    for (odd = 0; odd < 2; odd++) {
        if (odd) enter_odd_host();
        golden_must(lensnet_model_create(&models[odd], &desc, &error), &error, "create");
        golden_must(lensnet_classifier_load(&classifiers[odd], PATH, NULL, &error), &error, "load");
        golden_must(lensnet_classify(classifiers[odd], pixels, 80, 91, &answers[odd], &error),
                    &error, "classify");
        if (odd) leave_odd_host();
    }
    bytes = lensnet_parameters_size(lensnet_model_parameters(models[0])) * sizeof(float);
    CHECK(memcmp(lensnet_parameters_values(lensnet_model_parameters(models[0])),
                 lensnet_parameters_values(lensnet_model_parameters(models[1])), bytes) == 0);
    CHECK(answers[0].index == answers[1].index);
    CHECK(answers[0].probability == answers[1].probability);
    for (odd = 0; odd < 2; odd++) {
        lensnet_classifier_destroy(classifiers[odd]);
        lensnet_model_destroy(models[odd]);
    }
    free(pixels);
}

/* Any number of threads share one classifier, each with a session. */
static void test_sharing(void)
{
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    float *pixels = test_pixels(FILES, 64, 64);
    float expected[FILES * 3], found[8][FILES * 3];
    lensnet_classifier *classifier;
    lensnet_session *session;
    int worker, failed = 0;
    golden_must(lensnet_classifier_load(&classifier, PATH, NULL, &error), &error, "load");
    golden_must(lensnet_session_create(&session, classifier, 2, &error), &error, "session");
    CHECK(!lensnet_session_classify(session, expected, NULL, pixels, FILES, 64, 64, &error));
    lensnet_session_destroy(session);
#ifdef _OPENMP
#pragma omp parallel for num_threads(4) reduction(+ : failed)
#endif
    for (worker = 0; worker < 8; worker++) {
        lensnet_session *own = NULL;
        lensnet_result result =
            lensnet_session_create(&own, classifier, 1 + (size_t)worker % 3, NULL);
        if (!result)
            result =
                lensnet_session_classify(own, found[worker], NULL, pixels, FILES, 64, 64, NULL);
        failed += result != LENSNET_OK;
        lensnet_session_destroy(own);
    }
    CHECK(failed == 0);
    for (worker = 0; worker < 8; worker++)
        CHECK(memcmp(found[worker], expected, sizeof expected) == 0);
    lensnet_classifier_destroy(classifier);
    lensnet_model_destroy(model);
    free(pixels);
}

/* Eight views: the mean over the turned images, whatever way up the image is given. */
static void test_views(void)
{
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    lensnet_classifier_options options = lensnet_classifier_defaults();
    float *pixels = test_pixels(1, SIDE, SIDE), *turned = test_pixels(1, SIDE, SIDE);
    float one[3], views[3], of_turned[3];
    double mean[3] = {0, 0, 0};
    lensnet_classifier *plain, *eight;
    lensnet_session *plain_session, *eight_session;
    int flip, turns, k;
    golden_must(lensnet_classifier_load(&plain, PATH, NULL, &error), &error, "load");
    options.views = 8;
    golden_must(lensnet_classifier_load(&eight, PATH, &options, &error), &error, "load");
    golden_must(lensnet_session_create(&plain_session, plain, 1, &error), &error, "session");
    golden_must(lensnet_session_create(&eight_session, eight, 1, &error), &error, "session");
    CHECK(!lensnet_session_classify(eight_session, views, NULL, pixels, 1, SIDE, SIDE, &error));
    for (flip = 0; flip < 2; flip++) {
        for (turns = 0; turns < 4; turns++) {
            golden_must(lensnet_turn(turned, pixels, SIDE, SIDE, flip, 0, turns, &error), &error,
                        "turn");
            CHECK(
                !lensnet_session_classify(plain_session, one, NULL, turned, 1, SIDE, SIDE, &error));
            for (k = 0; k < 3; k++) mean[k] += one[k] / 8;
            CHECK(!lensnet_session_classify(eight_session, of_turned, NULL, turned, 1, SIDE, SIDE,
                                            &error));
            for (k = 0; k < 3; k++) CHECK_CLOSE(of_turned[k], views[k], 1e-6, "turned");
        }
    }
    for (k = 0; k < 3; k++) CHECK_CLOSE(views[k], mean[k], 1e-6, "mean of the views");
    options.views = 3;
    lensnet_session_destroy(plain_session);
    lensnet_session_destroy(eight_session);
    lensnet_classifier_destroy(plain);
    lensnet_classifier_destroy(eight);
    CHECK(lensnet_classifier_load(&eight, PATH, &options, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(eight == NULL);
    lensnet_model_destroy(model);
    free(pixels);
    free(turned);
}

/* Probabilities of `count` images in one session. */
static void classified(float *probabilities, lensnet_precision precision, size_t batch,
                       const float *pixels, size_t count)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_session *session;
    options.precision = precision;
    golden_must(lensnet_classifier_load(&classifier, PATH, &options, &error), &error, "load");
    golden_must(lensnet_session_create(&session, classifier, batch, &error), &error, "session");
    CHECK(
        !lensnet_session_classify(session, probabilities, NULL, pixels, count, SIDE, SIDE, &error));
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
}

/* A file that allows the half turn only: eight views are those two. */
static void test_views_of_file(void)
{
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32), *again;
    lensnet_classifier_options options = lensnet_classifier_defaults();
    float *pixels = test_pixels(1, SIDE, SIDE), *turned = test_pixels(1, SIDE, SIDE);
    float one[3], other[3], views[3];
    lensnet_classifier *plain, *two;
    lensnet_session *session;
    int k;
    CHECK(lensnet_model_set_views(model, 3, &error) == LENSNET_ERROR_ARGUMENT);
    golden_must(lensnet_model_set_views(model, 2, &error), &error, "views");
    golden_must(lensnet_model_save(model, PATH, LENSNET_DTYPE_F32, &error), &error, "save");
    golden_must(lensnet_model_load(&again, PATH, NULL, NULL, &error), &error, "load");
    CHECK(lensnet_model_description(again)->views == 2);
    golden_must(lensnet_classifier_load(&plain, PATH, NULL, &error), &error, "load");
    options.views = 8;
    golden_must(lensnet_classifier_load(&two, PATH, &options, &error), &error, "load");
    golden_must(lensnet_session_create(&session, plain, 1, &error), &error, "session");
    golden_must(lensnet_turn(turned, pixels, SIDE, SIDE, 0, 0, 2, &error), &error, "turn");
    CHECK(!lensnet_session_classify(session, one, NULL, pixels, 1, SIDE, SIDE, &error));
    CHECK(!lensnet_session_classify(session, other, NULL, turned, 1, SIDE, SIDE, &error));
    lensnet_session_destroy(session);
    golden_must(lensnet_session_create(&session, two, 1, &error), &error, "session");
    CHECK(!lensnet_session_classify(session, views, NULL, pixels, 1, SIDE, SIDE, &error));
    for (k = 0; k < 3; k++)
        CHECK_CLOSE(views[k], ((double)one[k] + (double)other[k]) / 2, 1e-6, "mean of two views");
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(plain);
    lensnet_classifier_destroy(two);
    lensnet_model_destroy(model);
    lensnet_model_destroy(again);
    free(pixels);
    free(turned);
}

/* bf16 rounds: other bits than fp32, near them, and the same whatever the batch. */
static void test_precision(void)
{
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    float *pixels = test_pixels(3, SIDE, SIDE), full[9], half[9], one[9];
    int i;
    classified(full, LENSNET_PRECISION_FP32, 3, pixels, 3);
    classified(half, LENSNET_PRECISION_BF16, 3, pixels, 3);
    classified(one, LENSNET_PRECISION_BF16, 1, pixels, 3);
    CHECK(memcmp(full, half, sizeof full) != 0);
    CHECK(memcmp(one, half, sizeof half) == 0);
    for (i = 0; i < 9; i++) CHECK_CLOSE(half[i], full[i], 1e-2, "bf16");
    options.precision = (lensnet_precision)2;
    CHECK(lensnet_classifier_load(&classifier, PATH, &options, &error) == LENSNET_ERROR_ARGUMENT);
    lensnet_model_destroy(model);
    free(pixels);
}

/* ---- files --------------------------------------------------------------------------------------- */

static unsigned char *read_file(size_t *count)
{
    FILE *file = fopen(PATH, "rb");
    unsigned char *bytes;
    golden_expect(file != NULL, PATH);
    fseek(file, 0, SEEK_END);
    *count = (size_t)ftell(file);
    rewind(file);
    bytes = (unsigned char *)malloc(*count);
    golden_expect(bytes && fread(bytes, 1, *count, file) == *count, PATH);
    fclose(file);
    return bytes;
}

static void write_file(const unsigned char *bytes, size_t count)
{
    FILE *file = fopen(PATH, "wb");
    golden_expect(file && fwrite(bytes, 1, count, file) == count, PATH);
    fclose(file);
}

static void classify_all(float *probabilities, lensnet_classifier *classifier, const float *pixels)
{
    lensnet_session *session;
    golden_must(lensnet_session_create(&session, classifier, 2, &error), &error, "session");
    golden_must(
        lensnet_session_classify(session, probabilities, NULL, pixels, FILES, 64, 64, &error),
        &error, "classify");
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
}

/* From memory as from a path; half precision is near. */
static void test_memory(void)
{
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    float *pixels = test_pixels(FILES, 64, 64);
    float from_path[FILES * 3], from_memory[FILES * 3];
    lensnet_classifier *classifier;
    unsigned char *bytes;
    size_t count, i;
    golden_must(lensnet_classifier_load(&classifier, PATH, NULL, &error), &error, "load");
    classify_all(from_path, classifier, pixels);
    bytes = read_file(&count);
    golden_must(lensnet_classifier_load_memory(&classifier, bytes, count, NULL, &error), &error,
                "load");
    memset(bytes, 0, count); /* not needed any more */
    classify_all(from_memory, classifier, pixels);
    CHECK(memcmp(from_path, from_memory, sizeof from_path) == 0);
    free(bytes);
    golden_must(lensnet_model_save(model, PATH, LENSNET_DTYPE_F16, &error), &error, "save");
    golden_must(lensnet_classifier_load(&classifier, PATH, NULL, &error), &error, "load");
    classify_all(from_memory, classifier, pixels);
    for (i = 0; i < FILES * 3; i++)
        CHECK_CLOSE(from_memory[i], from_path[i], 5e-3, "half precision");
    lensnet_model_destroy(model);
    free(pixels);
}

/* timm's name of a tensor, from the authors'. */
static void timm_name(char *timm, size_t capacity, const char *author)
{
    static const char *const leaves[][2] = {
        {"dwconv.weight", "conv_dw.weight"},  {"dwconv.bias", "conv_dw.bias"},
        {"norm.weight", "norm.weight"},       {"norm.bias", "norm.bias"},
        {"pwconv1.weight", "mlp.fc1.weight"}, {"pwconv1.bias", "mlp.fc1.bias"},
        {"grn.gamma", "mlp.grn.weight"},      {"grn.beta", "mlp.grn.bias"},
        {"pwconv2.weight", "mlp.fc2.weight"}, {"pwconv2.bias", "mlp.fc2.bias"}};
    unsigned s, b;
    int end = 0;
    size_t i;
    if (sscanf(author, "downsample_layers.%u.%u.", &s, &b) == 2) {
        if (s == 0)
            snprintf(timm, capacity, "stem.%u.%s", b, strrchr(author, '.') + 1);
        else
            snprintf(timm, capacity, "stages.%u.downsample.%u.%s", s, b, strrchr(author, '.') + 1);
    } else if (sscanf(author, "stages.%u.%u.%n", &s, &b, &end) == 2) {
        for (i = 0; i < sizeof leaves / sizeof *leaves; i++)
            if (strcmp(author + end, leaves[i][0]) == 0)
                snprintf(timm, capacity, "stages.%u.blocks.%u.%s", s, b, leaves[i][1]);
    } else if (strncmp(author, "head.", 5) == 0) {
        snprintf(timm, capacity, "head.fc.%s", author + 5);
    } else {
        snprintf(timm, capacity, "head.%s", author); /* norm.* */
    }
}

typedef enum dialect { HUGGING_FACE, AUTHORS, TIMM } dialect;

#define TENSORS 60

/* Writes the model's weights in a dialect's names and shapes; `prefix` may be "". */
static void write_dialect(lensnet_model *model, dialect names, const char *prefix)
{
    static char text[TENSORS][128];
    lensnet_archive_tensor tensors[TENSORS];
    lensnet_parameters *parameters = lensnet_model_parameters(model);
    size_t i, count = lensnet_parameters_count(parameters);
    golden_expect(count <= TENSORS, "too many tensors");
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < count; i++) {
        lensnet_parameter_info info = lensnet_parameters_info(parameters, i);
        char author[128], name[100];
        int d;
        lngen_author_name(author, sizeof author, info.name);
        snprintf(name, sizeof name, "%.99s", names == AUTHORS ? author : info.name);
        if (names == TIMM) timm_name(name, sizeof name, author);
        snprintf(text[i], sizeof text[i], "%s%s", prefix, name);
        tensors[i].name = text[i];
        tensors[i].dtype = LENSNET_DTYPE_F32;
        tensors[i].rank = info.rank;
        for (d = 0; d < info.rank; d++) tensors[i].shape[d] = info.shape[d];
        if (names == TIMM && strstr(name, ".grn.")) {
            tensors[i].rank = 1;
            tensors[i].shape[0] = info.size;
        }
        if (names == TIMM && strstr(name, ".mlp.fc") && info.rank == 2) {
            tensors[i].rank = 4; /* the small sizes use 1 x 1 convolutions */
            tensors[i].shape[2] = tensors[i].shape[3] = 1;
        }
        tensors[i].values = lensnet_parameters_values(parameters) + info.offset;
    }
    golden_must(lensnet_archive_save(PATH, tensors, count, NULL, 0, NULL, &error), &error, "save");
}

static void check_dialect(lensnet_model *model, dialect names, const char *prefix)
{
    lensnet_parameters *parameters = lensnet_model_parameters(model), *found;
    lensnet_model *loaded;
    int fresh = -1;
    write_dialect(model, names, prefix);
    CHECK(!lensnet_model_load(&loaded, PATH, NULL, &fresh, &error));
    if (!loaded) {
        printf("    dialect %d with \"%s\": %s\n", (int)names, prefix, error.text);
        return;
    }
    CHECK(fresh == 0);
    found = lensnet_model_parameters(loaded);
    CHECK(lensnet_parameters_size(found) == lensnet_parameters_size(parameters));
    CHECK(memcmp(lensnet_parameters_values(found), lensnet_parameters_values(parameters),
                 lensnet_parameters_size(found) * sizeof(float)) == 0);
    CHECK(strcmp(lensnet_model_description(loaded)->labels[1], "sphere") == 0);
    lensnet_model_destroy(loaded);
}

static void test_dialects(void)
{
    lensnet_model *model = golden_model("small", 3);
    check_dialect(model, HUGGING_FACE, "");
    check_dialect(model, AUTHORS, "");
    check_dialect(model, TIMM, "");
    check_dialect(model, AUTHORS, "module.");
    check_dialect(model, TIMM, "_orig_mod.");
    check_dialect(model, HUGGING_FACE, "model.");
    lensnet_model_destroy(model);
}

/* Another number of classes: everything but the last layer is kept. */
static void test_fresh_head(void)
{
    static const char *const names[5] = {"a", "b", "c", "d", "e"};
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32), *loaded;
    lensnet_load_options options = lensnet_load_defaults();
    lensnet_parameters *parameters = lensnet_model_parameters(model), *found;
    size_t i, head = 0;
    int fresh = 0;
    options.classes = 5;
    options.labels = names;
    golden_must(lensnet_model_load(&loaded, PATH, &options, &fresh, &error), &error, "load");
    CHECK(fresh == 1);
    CHECK(lensnet_model_description(loaded)->classes == 5);
    CHECK(strcmp(lensnet_model_description(loaded)->labels[4], "e") == 0);
    found = lensnet_model_parameters(loaded);
    CHECK(lensnet_parameters_count(found) == lensnet_parameters_count(parameters));
    for (i = 0; i < lensnet_parameters_count(found); i++) {
        lensnet_parameter_info a = lensnet_parameters_info(parameters, i);
        lensnet_parameter_info b = lensnet_parameters_info(found, i);
        if (a.size == b.size)
            CHECK(memcmp(lensnet_parameters_values(parameters) + a.offset,
                         lensnet_parameters_values(found) + b.offset, a.size * sizeof(float)) == 0);
        else
            head++;
    }
    CHECK(head == 2);
    lensnet_model_destroy(loaded);
    options.classes = 3;
    options.labels = NULL;
    golden_must(lensnet_model_load(&loaded, PATH, &options, &fresh, &error), &error, "load");
    CHECK(fresh == 0);
    lensnet_model_destroy(loaded);
    lensnet_model_destroy(model);
}

/* ---- refusals ------------------------------------------------------------------------------------ */

/* One clear sentence that names the file; nothing comes out. */
static void check_refused_file(const char *what)
{
    lensnet_classifier *classifier = (lensnet_classifier *)&error;
    lensnet_model *model = (lensnet_model *)&error;
    lensnet_result result;
    memset(&error, 0, sizeof error);
    result = lensnet_classifier_load(&classifier, PATH, NULL, &error);
    CHECK(result < 0 && error.code == result && classifier == NULL);
    CHECK(strstr(error.text, PATH) != NULL);
    if (!strstr(error.text, PATH)) printf("    %s: \"%s\"\n", what, error.text);
    CHECK(lensnet_model_load(&model, PATH, NULL, NULL, &error) < 0 && model == NULL);
}

static void test_refused_files(void)
{
    static const float four[4] = {1, 2, 3, 4};
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    lensnet_archive_tensor foreign;
    unsigned char *bytes;
    size_t count;
    bytes = read_file(&count);
    write_file(bytes, 0);
    check_refused_file("no byte");
    write_file(bytes, 7);
    check_refused_file("seven bytes");
    write_file(bytes, count / 2);
    check_refused_file("half a file");
    write_file(bytes, count - 1);
    check_refused_file("all but a byte");
    bytes[0] ^= 255;
    write_file(bytes, count);
    check_refused_file("a wrong length");
    remove(PATH);
    check_refused_file("no file");
    memset(&foreign, 0, sizeof foreign);
    foreign.name = "some.other.network";
    foreign.dtype = LENSNET_DTYPE_F32;
    foreign.rank = 1;
    foreign.shape[0] = 4;
    foreign.values = four;
    golden_must(lensnet_archive_save(PATH, &foreign, 1, NULL, 0, NULL, &error), &error, "save");
    check_refused_file("another network");
    free(bytes);
    lensnet_model_destroy(model);
}

/* A network that computes NaN gives no answer rather than a wrong one. */
static void test_weights_without_numbers(void)
{
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    float *pixels = test_pixels(1, SIDE, SIDE);
    lensnet_classifier *classifier = NULL;
    lensnet_prediction prediction;
    lensnet_parameters_values(lensnet_model_parameters(model))[0] = (float)NAN;
    lensnet_parameters_changed(lensnet_model_parameters(model));
    golden_must(lensnet_model_save(model, PATH, LENSNET_DTYPE_F32, &error), &error, "save");
    if (!lensnet_classifier_load(&classifier, PATH, NULL, &error))
        CHECK(lensnet_classify(classifier, pixels, SIDE, SIDE, &prediction, &error) ==
              LENSNET_ERROR_NUMBER);
    lensnet_classifier_destroy(classifier);
    lensnet_model_destroy(model);
    free(pixels);
}

static void test_refused_images(void)
{
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    float *pixels = test_pixels(1, 40, 40);
    lensnet_classifier *classifier;
    lensnet_prediction prediction, before;
    golden_must(lensnet_classifier_load(&classifier, PATH, NULL, &error), &error, "load");
    memset(&prediction, 0x5a, sizeof prediction);
    before = prediction;
    pixels[123] = (float)NAN;
    CHECK(lensnet_classify(classifier, pixels, 40, 40, &prediction, &error) ==
          LENSNET_ERROR_NUMBER);
    CHECK(strlen(error.text) > 10);
    pixels[123] = (float)INFINITY;
    CHECK(lensnet_classify(classifier, pixels, 40, 40, &prediction, &error) ==
          LENSNET_ERROR_NUMBER);
    pixels[123] = 0;
    CHECK(lensnet_classify(classifier, pixels, 0, 40, &prediction, &error) < 0);
    CHECK(lensnet_classify(classifier, pixels, 40, (size_t)-1, &prediction, &error) < 0);
    CHECK(lensnet_classify(classifier, NULL, 40, 40, &prediction, &error) < 0);
    CHECK(memcmp(&prediction, &before, sizeof before) == 0);
    CHECK(!lensnet_classify(classifier, pixels, 40, 40, &prediction, &error));
    CHECK(!lensnet_classify(classifier, pixels, 1, 1, &prediction, &error)); /* any size */
    lensnet_classifier_destroy(classifier);
    lensnet_model_destroy(model);
    free(pixels);
}

/* ---- what a file says of its network ------------------------------------------------------------ */

enum { FEATURES = 96, LEVELS = 99 }; /* at most so many features; see lensnet.h, >>classify-impl */

/* Tensors to be added to a file; a rank of 0 with one value is a scalar. */
typedef struct belief_tensor {
    const char *name;
    size_t count;
    const float *values;
} belief_tensor;

/* Writes PATH anew with the tensors that are in it and those of `added`. */
static void add_tensors(const belief_tensor *added, size_t added_count)
{
    lensnet_archive *archive;
    lensnet_archive_tensor tensors[256];
    void *bytes[256];
    size_t i, count, old;
    golden_must(lensnet_archive_open(&archive, PATH, NULL, &error), &error, "open");
    old = count = lensnet_archive_count(archive);
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < old; i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        bytes[i] = malloc((size_t)entry->bytes + 1);
        golden_must(lensnet_archive_read_bytes(bytes[i], archive, entry, &error), &error, "read");
        tensors[i].name = entry->name;
        tensors[i].dtype = entry->dtype;
        tensors[i].rank = entry->rank;
        memcpy(tensors[i].shape, entry->shape, sizeof entry->shape);
        tensors[i].bytes = bytes[i];
    }
    for (i = 0; i < added_count; i++, count++) {
        tensors[count].name = added[i].name;
        tensors[count].dtype = LENSNET_DTYPE_F32;
        tensors[count].rank = 1;
        tensors[count].shape[0] = added[i].count;
        tensors[count].values = added[i].values;
    }
    {
        const lensnet_archive_pair pairs[3] = {
            {"lensnet.labels", lensnet_archive_metadata(archive, "lensnet.labels")},
            {"lensnet.image_size", lensnet_archive_metadata(archive, "lensnet.image_size")},
            {"lensnet.normalisation", lensnet_archive_metadata(archive, "lensnet.normalisation")}};
        golden_must(lensnet_archive_save(PATH, tensors, count, pairs, 3, NULL, &error), &error,
                    "save");
    }
    for (i = 0; i < old; i++) free(bytes[i]);
    lensnet_archive_close(archive);
}

/* Plain probabilities, predictions and pooled features of the test images. */
/* Labels are looked at here, for they go with the classifier. */
static void predict_all(lensnet_prediction *predictions, float *probabilities, float *pooled,
                        const lensnet_classifier_options *options, const float *pixels)
{
    lensnet_classifier *classifier;
    lensnet_session *session;
    size_t i;
    golden_must(lensnet_classifier_load(&classifier, PATH, options, &error), &error, "load");
    golden_must(lensnet_session_create(&session, classifier, 2, &error), &error, "session");
    golden_must(lensnet_session_predict(session, predictions, probabilities, pooled, pixels, FILES,
                                        SIDE, SIDE, &error),
                &error, "predict");
    for (i = 0; i < FILES; i++)
        CHECK(strcmp(predictions[i].label,
                     predictions[i].unknown ? "unknown" : labels[predictions[i].index]) == 0);
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
}

/* A whitening of FEATURES columns whose value at (row, column) is known, packed as the file has it. */
static double whitening_at(size_t row, size_t column)
{
    return row == column ? 2.0 : 0.01 * ((double)((row * 7 + column * 3) % 11) - 5);
}

static size_t pack_whitening(float *packed, size_t features)
{
    size_t row, column, at = 0;
    for (column = 0; column < features; column++)
        for (row = column; row < features; row++) packed[at++] = (float)whitening_at(row, column);
    return at;
}

static double distance_of(const float *x, const float *mean, size_t features)
{
    size_t row, column;
    double sum = 0;
    for (row = 0; row < features; row++) {
        double y = 0;
        for (column = 0; column <= row; column++)
            y += (double)(float)whitening_at(row, column) *
                 ((double)x[column] - (double)mean[column]);
        sum += y * y;
    }
    return sqrt(sum / (double)features);
}

static void check_calibrated(const lensnet_prediction *prediction, const float *calibrated,
                             const float *plain, const float *sets, const float curve[2],
                             size_t level)
{
    double sum = 0, top = 0, weights[3];
    int k, size = 0;
    for (k = 0; k < 3; k++) top = (double)plain[k] > top ? (double)plain[k] : top;
    for (k = 0; k < 3; k++) {
        weights[k] = exp(-pow(log(top / (double)plain[k]) / (double)curve[0], (double)curve[1]));
        sum += weights[k];
    }
    for (k = 0; k < 3; k++) {
        const int member = calibrated[k] >= sets[(size_t)k * LEVELS + level];
        CHECK_CLOSE(calibrated[k], weights[k] / sum, 1e-6, "tempered probability");
        size += member;
        CHECK((int)(prediction->set >> k & 1) == member);
    }
    CHECK(prediction->set_size == size);
    CHECK(prediction->probability == calibrated[prediction->index]);
}

/* Probabilities, score and sets have the same bits on every path that is there, with one thread and three. */
static void check_belief_everywhere(const lensnet_prediction *expected, const float *probabilities,
                                    const float *pooled, size_t features,
                                    lensnet_classifier_options options, const float *pixels)
{
    static float other[FILES * 3], also[FILES * FEATURES];
    lensnet_host host = lensnet_host_defaults();
    lensnet_prediction predictions[FILES];
    int cap, i;
    options.host = &host;
    for (cap = LENSNET_ISA_REFERENCE; cap <= LENSNET_ISA_AVX512_BF16; cap++) {
        host.isa_cap = (lensnet_isa)cap;
        host.threads = cap % 2 ? 3 : 1;
        predict_all(predictions, other, also, &options, pixels);
        CHECK(memcmp(other, probabilities, sizeof other) == 0);
        CHECK(memcmp(also, pooled, FILES * features * sizeof *also) == 0);
        for (i = 0; i < FILES; i++)
            CHECK(predictions[i].foreign == expected[i].foreign &&
                  predictions[i].set == expected[i].set &&
                  predictions[i].unknown == expected[i].unknown);
    }
}

/* With a power of 1 the file says nothing of it. */
static void test_belief(float power)
{
    const float curve[2] = {1.7f, power};
    static float mean[FEATURES], whitening[FEATURES * (FEATURES + 1) / 2], sets[3 * LEVELS];
    static float pooled[FILES * FEATURES], again[FILES * FEATURES];
    float plain[FILES * 3], calibrated[FILES * 3], threshold;
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    const size_t features = lensnet_model_description(model)->widths[1];
    float *pixels = test_pixels(FILES, SIDE, SIDE);
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_prediction predictions[FILES], one;
    lensnet_classifier *classifier;
    belief_tensor added[5];
    size_t i;
    golden_expect(features <= FEATURES, "FEATURES");
    predict_all(predictions, plain, pooled, NULL, pixels);
    CHECK(predictions[0].set_size == -1 && predictions[0].foreign == 0 && !predictions[0].unknown);
    for (i = 0; i < 3 * LEVELS; i++)
        sets[i] = (float)(0.9 - 0.9 * (double)(i % LEVELS) / LEVELS) * (i < LEVELS ? 0.3f : 1.0f);
    for (i = 0; i < features; i++) mean[i] = pooled[features + i]; /* the second image is at home */
    threshold = (float)(distance_of(pooled, mean, features) / 1.5);
    added[0].name = "lensnet.calibration.1.temperature", added[0].count = power == 1 ? 1 : 2;
    added[0].values = curve;
    added[1].name = "lensnet.calibration.1.sets", added[1].count = 3 * LEVELS;
    added[1].values = sets;
    added[2].name = "lensnet.foreign.2.mean", added[2].count = features, added[2].values = mean;
    added[3].name = "lensnet.foreign.2.whitening",
    added[3].count = pack_whitening(whitening, features);
    added[3].values = whitening;
    added[4].name = "lensnet.foreign.2.threshold", added[4].count = 1;
    added[4].values = &threshold;
    add_tensors(added, 5);
    options.coverage = 0.8;
    predict_all(predictions, calibrated, again, &options, pixels);
    CHECK(memcmp(pooled, again, FILES * features * sizeof(float)) == 0);
    for (i = 0; i < FILES; i++) {
        double foreign = distance_of(pooled + i * features, mean, features) / (double)threshold;
        check_calibrated(predictions + i, calibrated + 3 * i, plain + 3 * i, sets, curve, 79);
        CHECK_CLOSE(predictions[i].foreign, foreign, 1e-4 * (1 + foreign), "foreign score");
        CHECK(predictions[i].unknown == (predictions[i].foreign > 1));
    }
    CHECK(predictions[0].unknown && predictions[1].foreign == 0);
    check_belief_everywhere(predictions, calibrated, again, features, options, pixels);
    golden_must(lensnet_classifier_load(&classifier, PATH, &options, &error), &error, "load");
    golden_must(lensnet_classify(classifier, pixels, SIDE, SIDE, &one, &error), &error, "classify");
    CHECK(one.foreign == predictions[0].foreign && one.set == predictions[0].set &&
          one.probability == predictions[0].probability);
    CHECK(lensnet_classifier_reliability(classifier).sets == 1 &&
          lensnet_classifier_reliability(classifier).foreign == 1 &&
          lensnet_classifier_reliability(classifier).coverage == 0.8 &&
          lensnet_classifier_reliability(classifier).temperature == (double)curve[0] &&
          lensnet_classifier_reliability(classifier).power == (double)power);
    lensnet_classifier_destroy(classifier);
    options.calibrated = 0; /* plain softmax, to the bit */
    predict_all(predictions, calibrated, NULL, &options, pixels);
    CHECK(memcmp(plain, calibrated, sizeof plain) == 0 && predictions[0].set_size == -1);
    options.calibrated = 1; /* nothing is known for eight views but what is foreign */
    options.views = 8;
    predict_all(predictions, NULL, NULL, &options, pixels);
    CHECK(predictions[0].set_size == -1 && predictions[0].unknown);
    options.coverage = 1;
    CHECK(lensnet_classifier_load(&classifier, PATH, &options, &error) == LENSNET_ERROR_ARGUMENT);
    free(pixels);
    lensnet_model_destroy(model);
}

/* A set is 64 bits: with a class more there is none, and that is said. */
static void test_sets_of_many_classes(void)
{
    enum { MANY = 65 };
    static float sets[MANY * LEVELS];
    const float temperature = 1;
    lensnet_model_desc desc = golden_desc("small", MANY);
    lensnet_prediction one;
    float *pixels = test_pixels(1, SIDE, SIDE);
    lensnet_classifier *classifier;
    lensnet_model *model;
    belief_tensor added[2];
    desc.preprocess.image_size = SIDE;
    model = golden_model_create(&desc);
    golden_must(lensnet_model_save(model, PATH, LENSNET_DTYPE_F32, &error), &error, "save");
    added[0].name = "lensnet.calibration.1.temperature", added[0].count = 1;
    added[0].values = &temperature;
    added[1].name = "lensnet.calibration.1.sets", added[1].count = MANY * LEVELS;
    added[1].values = sets;
    add_tensors(added, 2);
    golden_must(lensnet_classifier_load(&classifier, PATH, NULL, &error), &error, "load");
    golden_must(lensnet_classify(classifier, pixels, SIDE, SIDE, &one, &error), &error, "classify");
    CHECK(one.set == 0 && one.set_size == -1);
    CHECK(lensnet_classifier_reliability(classifier).sets == 0 &&
          lensnet_classifier_reliability(classifier).coverage == 0.9);
    lensnet_classifier_destroy(classifier);
    lensnet_model_destroy(model);
    free(pixels);
}

/* Files of 0.3.0 tell foreign images by the last stage; where the second stage's numbers are there too, they
 * are what counts. */
static void test_belief_of_old_files(void)
{
    static float zeros[FEATURES], whitening[FEATURES * (FEATURES + 1) / 2],
        pooled[FILES * FEATURES];
    static float narrow[FEATURES * (FEATURES + 1) / 2];
    const float threshold = 2, half = 0.5f;
    lensnet_model *model = saved_model(LENSNET_DTYPE_F32);
    const size_t last = lensnet_model_description(model)->widths[3];
    const size_t second = lensnet_model_description(model)->widths[1];
    float *pixels = test_pixels(FILES, SIDE, SIDE);
    lensnet_prediction predictions[FILES];
    belief_tensor added[6];
    size_t i;
    added[0].name = "lensnet.foreign.mean", added[0].count = last, added[0].values = zeros;
    added[1].name = "lensnet.foreign.whitening", added[1].count = pack_whitening(whitening, last);
    added[1].values = whitening;
    added[2].name = "lensnet.foreign.threshold", added[2].count = 1, added[2].values = &threshold;
    added[3].name = "lensnet.foreign.2.mean", added[3].count = second, added[3].values = zeros;
    added[4].name = "lensnet.foreign.2.whitening", added[4].count = pack_whitening(narrow, second);
    added[4].values = narrow;
    added[5].name = "lensnet.foreign.2.threshold", added[5].count = 1, added[5].values = &half;
    add_tensors(added, 3);
    predict_all(predictions, NULL, pooled, NULL, pixels);
    for (i = 0; i < FILES; i++)
        CHECK_CLOSE(predictions[i].foreign, distance_of(pooled + i * last, zeros, last) / 2, 1e-4,
                    "foreign score of the last stage");
    lensnet_model_destroy(model);
    model = saved_model(LENSNET_DTYPE_F32);
    add_tensors(added, 6);
    predict_all(predictions, NULL, pooled, NULL, pixels);
    for (i = 0; i < FILES; i++)
        CHECK_CLOSE(predictions[i].foreign, distance_of(pooled + i * second, zeros, second) / 0.5,
                    1e-4, "foreign score of the second stage");
    free(pixels);
    lensnet_model_destroy(model);
}

/* Wrong sizes and numbers of each tensor. */
static void test_belief_refused(void)
{
    static const float wrong[3] = {INFINITY, -1, 1}, power[2] = {2, 11};
    static const struct {
        const char *name;
        size_t count;
        const float *values;
    } files[] = {{"lensnet.calibration.1.temperature", 3, wrong},
                 {"lensnet.calibration.1.temperature", 2, wrong + 1},
                 {"lensnet.calibration.1.temperature", 2, power},
                 {"lensnet.calibration.1.temperature", 1, wrong},
                 {"lensnet.calibration.1.temperature", 1, wrong + 1},
                 {"lensnet.foreign.mean", 2, wrong},
                 {"lensnet.foreign.2.mean", 2, wrong}};
    size_t i;
    for (i = 0; i < sizeof files / sizeof *files; i++) {
        lensnet_classifier *classifier = (lensnet_classifier *)&error;
        belief_tensor added;
        lensnet_model_destroy(saved_model(LENSNET_DTYPE_F32));
        added.name = files[i].name;
        added.count = files[i].count;
        added.values = files[i].values;
        add_tensors(&added, 1);
        CHECK(lensnet_classifier_load(&classifier, PATH, NULL, &error) == LENSNET_ERROR_FORMAT);
        CHECK(classifier == NULL && strstr(error.text, added.name) != NULL);
    }
}

int main(void)
{
    test_sessions();
    test_comma();
    test_odd_host();
    test_sharing();
    test_views();
    test_views_of_file();
    test_precision();
    test_memory();
    test_dialects();
    test_fresh_head();
    test_refused_files();
    test_weights_without_numbers();
    test_refused_images();
    test_belief(1);
    test_belief(1.6f);
    test_sets_of_many_classes();
    test_belief_of_old_files();
    test_belief_refused();
    remove(PATH);
    return test_end();
}
