/* test_faults.c - every allocation and every file operation of every public entry point fails once: the
 * n-th only, and the n-th with all later ones; files lie about their size. Each failure must be told by
 * its code and a sentence, leak nothing, change nothing that was there, and leave no temporary file.
 * cc -O2 -fopenmp -I. tests/test_faults.c -o build/test_faults -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "tests/test.h"

/* In a folder of their own: a config.json beside weights is read. */
#define FOLDER  "build/test_faults.d"
#define WEIGHTS FOLDER "/weights"
#define STATE   FOLDER "/state"
#define TARGET  FOLDER "/target"

enum { SIDE = 32, CLASSES = 3, BATCH = 2 };

static lensnet_error error;

/* ---- a host that fails when told to -------------------------------------------------------------- */

typedef enum fault {
    ALLOCATION_ONCE,
    ALLOCATION_AND_LATER,
    FILE_ONCE,
    FILE_AND_LATER,
    SIZE_TOO_SMALL,
    SIZE_TOO_LARGE,
    FAULTS
} fault;

static const char *const fault_names[FAULTS] = {
    "the n-th allocation",           "the n-th allocation and all later ones",
    "the n-th file operation",       "the n-th file operation and all later ones",
    "the n-th size, told too small", "the n-th size, told too large"};

typedef struct faulty {
    lensnet_host inner;
    int armed;           /* only then operations count and fail */
    fault kind;          /* which */
    long nth, at;        /* the one that fails; how many there were */
    int fired, harmless; /* it failed; it was the end of reading, after which nothing can be lost */
    long blocks;         /* living now */
} faulty;

static faulty f;
static lensnet_host host;

static int fails(int is_file)
{
    const int once = f.kind == ALLOCATION_ONCE || f.kind == FILE_ONCE;
    const int of_files = f.kind == FILE_ONCE || f.kind == FILE_AND_LATER;
    if (!f.armed || f.kind >= SIZE_TOO_SMALL || of_files != is_file) return 0;
    f.at++;
    if (once ? f.at != f.nth : f.at < f.nth) return 0;
    f.fired = 1;
    return 1;
}

static void *faulty_allocate(size_t bytes, size_t alignment, void *user)
{
    void *block = fails(0) ? NULL : f.inner.allocate(bytes, alignment, NULL);
    (void)user;
    f.blocks += block != NULL;
    return block;
}

static void faulty_release(void *block, size_t bytes, void *user)
{
    (void)user;
    f.blocks -= block != NULL;
    f.inner.release(block, bytes, NULL);
}

typedef struct faulty_file {
    void *inner;
    int writing;
} faulty_file;

static int exists(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file) fclose(file);
    return file != NULL;
}

static void *faulty_open(const char *path, int writing, void *user)
{
    faulty_file *file = (faulty_file *)malloc(sizeof *file);
    const int bad = fails(1);
    (void)user;
    if (bad && !writing && !exists(path))
        f.harmless = 1; /* config.json beside weights: if there is one */
    if (file) file->inner = bad ? NULL : f.inner.file_open(path, writing, NULL);
    if (file && file->inner) {
        file->writing = writing;
        return file;
    }
    free(file);
    return NULL;
}

static uint64_t faulty_size(void *file, void *user)
{
    uint64_t size = f.inner.file_size(((faulty_file *)file)->inner, NULL);
    (void)user;
    if (fails(1)) return UINT64_MAX;
    if (!f.armed || f.kind < SIZE_TOO_SMALL || ++f.at != f.nth) return size;
    f.fired = 1;
    return f.kind == SIZE_TOO_SMALL ? size / 2 : size * 2 + 1;
}

static int faulty_read(void *file, uint64_t offset, void *bytes, size_t count, void *user)
{
    (void)user;
    return fails(1) || f.inner.file_read(((faulty_file *)file)->inner, offset, bytes, count, NULL);
}

static int faulty_write(void *file, const void *bytes, size_t count, void *user)
{
    (void)user;
    return fails(1) || f.inner.file_write(((faulty_file *)file)->inner, bytes, count, NULL);
}

static int faulty_close(void *file, int commit, void *user)
{
    faulty_file *mine = (faulty_file *)file;
    const int bad = fails(1), writing = mine->writing;
    int failed = f.inner.file_close(mine->inner, commit && !bad, NULL);
    (void)user;
    free(mine);
    if (bad && !writing && f.kind == FILE_ONCE) f.harmless = 1;
    if (bad && !writing && f.kind == FILE_AND_LATER && f.at == f.nth) f.harmless = 1;
    return failed || bad;
}

static void make_host(fault kind, long nth)
{
    memset(&f, 0, sizeof f);
    host = f.inner = lensnet_host_defaults();
    f.kind = kind;
    f.nth = nth;
    host.allocate = faulty_allocate;
    host.release = faulty_release;
    host.file_open = faulty_open;
    host.file_size = faulty_size;
    host.file_read = faulty_read;
    host.file_write = faulty_write;
    host.file_close = faulty_close;
    host.threads = 2;
}

/* ---- help ---------------------------------------------------------------------------------------- */

static void must(lensnet_result result, const char *what)
{
    if (result) test_give_up(what, error.text, __FILE__, __LINE__);
}

static lensnet_model *make_model(uint64_t seed)
{
    static const size_t widths[4] = {8, 8, 8, 8}, depths[4] = {1, 1, 1, 1};
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model;
    memcpy(desc.widths, widths, sizeof widths);
    memcpy(desc.depths, depths, sizeof depths);
    desc.classes = CLASSES;
    desc.seed = seed;
    desc.preprocess.image_size = SIDE;
    desc.host = &host;
    must(lensnet_model_create(&model, &desc, &error), "model");
    return model;
}

static lensnet_adamw *make_adamw(lensnet_model *model)
{
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_adamw *adamw;
    desc.average_decay = 0.9;
    must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), &desc, &error), "adamw");
    return adamw;
}

static float *make_images(void)
{
    static float images[BATCH * SIDE * SIDE * 3];
    size_t i;
    for (i = 0; i < sizeof images / sizeof *images; i++)
        images[i] = (float)lensnet_random_normal(1, 2, i);
    return images;
}

static int same_weights(lensnet_model *a, const float *values)
{
    lensnet_parameters *p = lensnet_model_parameters(a);
    return memcmp(lensnet_parameters_values(p), values,
                  lensnet_parameters_size(p) * sizeof *values) == 0;
}

static float *copy_weights(lensnet_model *model)
{
    lensnet_parameters *p = lensnet_model_parameters(model);
    const size_t bytes = lensnet_parameters_size(p) * sizeof(float);
    float *copy = (float *)malloc(bytes);
    if (!copy) test_give_up("out of memory", "", __FILE__, __LINE__);
    memcpy(copy, lensnet_parameters_values(p), bytes);
    return copy;
}

/* The first byte of the file that a save is to replace; 'o' is the old one's. */
static int first_byte(const char *path)
{
    FILE *file = fopen(path, "rb");
    int byte = file ? getc(file) : -1;
    if (file) fclose(file);
    return byte;
}

static void put_old(void)
{
    FILE *file = fopen(TARGET, "wb");
    if (!file || fputs("old", file) < 0 || fclose(file) != 0)
        test_give_up("cannot write", TARGET, __FILE__, __LINE__);
}

/* ---- entry points: each armed alone -------------------------------------------------------------- */

static lensnet_result try_model_create(void)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    static const size_t widths[4] = {8, 8, 8, 8}, depths[4] = {1, 1, 1, 1};
    lensnet_model *model;
    lensnet_result result;
    memcpy(desc.widths, widths, sizeof widths);
    memcpy(desc.depths, depths, sizeof depths);
    desc.host = &host;
    f.armed = 1;
    result = lensnet_model_create(&model, &desc, &error);
    f.armed = 0;
    CHECK(!result == (model != NULL));
    lensnet_model_destroy(model);
    return result;
}

static lensnet_result try_model_load(void)
{
    lensnet_load_options options = lensnet_load_defaults();
    lensnet_model *model;
    lensnet_result result;
    options.host = &host;
    options.classes = 5; /* with a fresh head */
    f.armed = 1;
    result = lensnet_model_load(&model, WEIGHTS, &options, NULL, &error);
    f.armed = 0;
    CHECK(!result == (model != NULL));
    lensnet_model_destroy(model);
    return result;
}

static lensnet_result try_model_save(void)
{
    lensnet_model *model = make_model(1);
    lensnet_result result;
    put_old();
    f.armed = 1;
    result = lensnet_model_save(model, TARGET, LENSNET_DTYPE_F16, &error);
    f.armed = 0;
    CHECK(!result == (first_byte(TARGET) != 'o') && !exists(TARGET ".tmp-0"));
    lensnet_model_destroy(model);
    return result;
}

static lensnet_result try_state_save(void)
{
    lensnet_model *model = make_model(1);
    lensnet_adamw *adamw = make_adamw(model);
    lensnet_archive_pair pair;
    lensnet_result result;
    pair.key = "train.epoch";
    pair.value = "7";
    put_old();
    f.armed = 1;
    result = lensnet_state_save(model, adamw, &pair, 1, TARGET, &error);
    f.armed = 0;
    CHECK(!result == (first_byte(TARGET) != 'o') && !exists(TARGET ".tmp-0"));
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
    return result;
}

static lensnet_result try_state_load(void)
{
    lensnet_model *model = make_model(2);
    lensnet_adamw *adamw = make_adamw(model);
    float *before = copy_weights(model);
    lensnet_result result;
    f.armed = 1;
    result = lensnet_state_load(model, adamw, STATE, &error);
    f.armed = 0;
    CHECK(!result == !same_weights(model, before));
    CHECK(lensnet_adamw_steps(adamw) == (result ? 0u : 1u));
    free(before);
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
    return result;
}

static lensnet_result try_archive_save(void)
{
    lensnet_archive_tensor tensors[2];
    const float values[4] = {1, 2, 3, 4};
    lensnet_result result;
    memset(tensors, 0, sizeof tensors);
    tensors[0].name = "a";
    tensors[1].name = "b";
    tensors[0].dtype = tensors[1].dtype = LENSNET_DTYPE_F32;
    tensors[0].rank = tensors[1].rank = 1;
    tensors[0].shape[0] = tensors[1].shape[0] = 4;
    tensors[0].values = tensors[1].values = values;
    put_old();
    f.armed = 1;
    result = lensnet_archive_save(TARGET, tensors, 2, NULL, 0, &host, &error);
    f.armed = 0;
    CHECK(!result == (first_byte(TARGET) != 'o') && !exists(TARGET ".tmp-0"));
    return result;
}

static lensnet_result read_all(lensnet_archive *archive)
{
    static float values[8192];
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; i < lensnet_archive_count(archive) && !result; i++)
        result =
            lensnet_archive_read_float(values, archive, lensnet_archive_at(archive, i), &error);
    return result;
}

static lensnet_result try_archive_open(void)
{
    lensnet_archive *archive;
    lensnet_result result;
    f.armed = 1;
    result = lensnet_archive_open(&archive, STATE, &host, &error);
    CHECK(!result == (archive != NULL));
    if (!result) result = read_all(archive);
    lensnet_archive_close(archive);
    f.armed = 0;
    return result;
}

/* The bytes of WEIGHTS. */
static unsigned char *load_weights(size_t *size)
{
    static unsigned char bytes[1 << 20];
    FILE *file = fopen(WEIGHTS, "rb");
    *size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file) fclose(file);
    return bytes;
}

static lensnet_result try_archive_open_memory(void)
{
    lensnet_archive *archive;
    lensnet_result result;
    size_t size;
    const unsigned char *bytes = load_weights(&size);
    f.armed = 1;
    result = lensnet_archive_open_memory(&archive, bytes, size, &host, &error);
    CHECK(!result == (archive != NULL));
    if (!result) result = read_all(archive);
    lensnet_archive_close(archive);
    f.armed = 0;
    return result;
}

static lensnet_result try_classifier_load(void)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_result result;
    options.host = &host;
    f.armed = 1;
    result = lensnet_classifier_load(&classifier, WEIGHTS, &options, &error);
    f.armed = 0;
    CHECK(!result == (classifier != NULL));
    lensnet_classifier_destroy(classifier);
    return result;
}

static lensnet_classifier *make_classifier(void)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    options.host = &host;
    must(lensnet_classifier_load(&classifier, WEIGHTS, &options, &error), "classifier");
    return classifier;
}

static lensnet_result try_classifier_load_memory(void)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_result result;
    size_t size;
    const unsigned char *bytes = load_weights(&size);
    options.host = &host;
    f.armed = 1;
    result = lensnet_classifier_load_memory(&classifier, bytes, size, &options, &error);
    f.armed = 0;
    CHECK(!result == (classifier != NULL));
    lensnet_classifier_destroy(classifier);
    return result;
}

static lensnet_result try_classify(void)
{
    lensnet_classifier *classifier = make_classifier();
    lensnet_prediction prediction;
    lensnet_result result;
    prediction.label = "untouched";
    f.armed = 1;
    result = lensnet_classify(classifier, make_images(), 40, 30, &prediction, &error);
    f.armed = 0;
    CHECK(!result == (strcmp(prediction.label, "untouched") != 0));
    lensnet_classifier_destroy(classifier);
    return result;
}

static lensnet_result try_session_create(void)
{
    lensnet_classifier *classifier = make_classifier();
    lensnet_session *session;
    lensnet_result result;
    f.armed = 1;
    result = lensnet_session_create(&session, classifier, BATCH, &error);
    f.armed = 0;
    CHECK(!result == (session != NULL));
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    return result;
}

/* A session whose images change their size takes memory again; after a failure it goes on. */
static lensnet_result try_session_sizes(void)
{
    lensnet_classifier *classifier = make_classifier();
    lensnet_session *session;
    float first[CLASSES], again[CLASSES], other[CLASSES] = {-1, -1, -1};
    lensnet_result result;
    must(lensnet_session_create(&session, classifier, BATCH, &error), "session");
    must(lensnet_session_classify(session, first, NULL, make_images(), 1, 30, 40, &error), "small");
    f.armed = 1;
    result = lensnet_session_classify(session, other, NULL, make_images(), 1, 50, 44, &error);
    f.armed = 0;
    CHECK(!result || (other[0] == -1 && other[2] == -1));
    must(lensnet_session_classify(session, again, NULL, make_images(), 1, 30, 40, &error), "again");
    CHECK(memcmp(first, again, sizeof first) == 0);
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    return result;
}

static lensnet_result run_graph(lensnet_graph *graph)
{
    lensnet_batch batch = lensnet_batch_defaults();
    int labels[BATCH] = {0, 2};
    batch.images = make_images();
    batch.channels = 3;
    batch.count = BATCH;
    batch.labels = labels;
    return lensnet_forward_backward(graph, &batch, NULL, &error);
}

static lensnet_result try_graph(void)
{
    lensnet_model *model = make_model(1);
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_graph *graph = NULL;
    float *before = copy_weights(model);
    lensnet_result result;
    options.height = options.width = SIDE;
    options.batch = BATCH;
    options.training = 1;
    f.armed = 1;
    result = lensnet_model_graph(&graph, model, &options, &loss, &error);
    CHECK(!result == (graph != NULL));
    if (!result) result = lensnet_graph_plan(graph, NULL, &error);
    if (!result) result = lensnet_graph_allocate(graph, &error);
    if (!result) result = run_graph(graph);
    f.armed = 0;
    CHECK(same_weights(model, before));
    free(before);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
    return result;
}

static lensnet_result try_adamw(void)
{
    lensnet_model *model = make_model(1);
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_adamw *adamw;
    lensnet_result result;
    desc.average_decay = 0.5;
    f.armed = 1;
    result = lensnet_adamw_create(&adamw, lensnet_model_parameters(model), &desc, &error);
    CHECK(!result == (adamw != NULL));
    if (!result) result = lensnet_adamw_step(adamw, 1e-3, NULL, &error);
    f.armed = 0;
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
    return result;
}

/* A network of one's own. */
static lensnet_result try_own_network(void)
{
    lensnet_parameters *parameters = NULL;
    lensnet_graph *graph = NULL;
    lensnet_graph_options options = lensnet_graph_defaults();
    const lensnet_parameter none = {-1};
    lensnet_result result;
    options.height = options.width = 8;
    options.batch = BATCH;
    f.armed = 1;
    result = lensnet_parameters_create(&parameters, &host, &error);
    CHECK(!result == (parameters != NULL));
    if (!result) {
        lensnet_parameter conv =
            lensnet_parameter_add(parameters, "conv", 8, 3, 3, 3, LENSNET_INITIAL_NORMAL_002);
        lensnet_parameter head =
            lensnet_parameter_add(parameters, "head", 3, 8, 0, 0, LENSNET_INITIAL_NORMAL_002);
        result = lensnet_parameters_allocate(parameters, 1, 1, &error);
        if (!result) result = lensnet_graph_create(&graph, parameters, &options, &error);
        if (!result) {
            lensnet_tensor x = lensnet_conv2d(graph, lensnet_input(graph, 3), conv, none, NULL);
            x = lensnet_linear(graph, lensnet_mean_pool(graph, lensnet_relu(graph, x)), head, none);
            lensnet_cross_entropy(graph, x, NULL);
            result = lensnet_graph_plan(graph, NULL, &error);
        }
        if (!result) result = lensnet_graph_allocate(graph, &error);
    }
    f.armed = 0;
    lensnet_graph_destroy(graph);
    lensnet_parameters_destroy(parameters);
    return result;
}

static const double scores[] = {0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.2, 0.2, 0.6, 0.3, 0.4, 0.3};
static const int labels[] = {0, 1, 2, 1};

static lensnet_result try_metrics(void)
{
    lensnet_metrics metrics;
    lensnet_result result;
    f.armed = 1;
    result = lensnet_metrics_compute(&metrics, scores, labels, 4, 3, &host, &error);
    f.armed = 0;
    if (!result) lensnet_metrics_release(&metrics);
    return result;
}

static lensnet_result try_roc(void)
{
    lensnet_roc roc;
    lensnet_result result;
    f.armed = 1;
    result = lensnet_roc_curve(&roc, scores, labels, 4, 3, 1, 1, &host, &error);
    if (!result) {
        lensnet_roc_release(&roc);
        result = lensnet_roc_binary(&roc, scores, labels, 2, 0, &host, &error);
        if (!result) lensnet_roc_release(&roc);
    }
    f.armed = 0;
    return result;
}

/* ---- the sweep ----------------------------------------------------------------------------------- */

typedef struct entry_point {
    const char *name;
    lensnet_result (*attempt)(void);
} entry_point;

static const entry_point entry_points[] = {
    {"model_create", try_model_create},
    {"model_load", try_model_load},
    {"model_save", try_model_save},
    {"state_save", try_state_save},
    {"state_load", try_state_load},
    {"archive_save", try_archive_save},
    {"archive_open, archive_read_float", try_archive_open},
    {"archive_open_memory", try_archive_open_memory},
    {"classifier_load", try_classifier_load},
    {"classifier_load_memory", try_classifier_load_memory},
    {"classify", try_classify},
    {"session_create", try_session_create},
    {"session_classify at another size", try_session_sizes},
    {"model_graph, graph_plan, graph_allocate, forward_backward", try_graph},
    {"adamw_create, adamw_step", try_adamw},
    {"parameters_create ... graph_allocate", try_own_network},
    {"metrics_compute", try_metrics},
    {"roc_curve, roc_binary", try_roc}};

static int points;

static void check(int good, const entry_point *e, fault kind, const char *what)
{
    char text[200];
    snprintf(text, sizeof text, "%s: %s fails: %s", e->name, fault_names[kind], what);
    test_check(good, text, __FILE__, __LINE__);
}

static void check_failure(lensnet_result result, const entry_point *e, fault kind)
{
    if (!f.harmless) check(result != LENSNET_OK, e, kind, "it is told");
    if (kind <= ALLOCATION_AND_LATER)
        check(result == LENSNET_ERROR_MEMORY, e, kind, "the code is MEMORY");
    else if (result)
        check(result == LENSNET_ERROR_FILE || result == LENSNET_ERROR_FORMAT, e, kind,
              "the code is FILE or FORMAT");
    if (result)
        check(error.code == result && strlen(error.text) > 10, e, kind, "there is a sentence");
    check(f.blocks == 0, e, kind, "nothing leaks");
}

static void sweep(const entry_point *e, fault kind)
{
    long n;
    for (n = 1; n < 100000; n++) {
        lensnet_result result;
        make_host(kind, n);
        memset(&error, 0, sizeof error);
        result = e->attempt();
        if (!f.fired) {
            check(result == LENSNET_OK && f.blocks == 0, e, kind, "without one all is well");
            return;
        }
        points++;
        check_failure(result, e, kind);
    }
}

static void make_files(void)
{
    lensnet_model *model;
    lensnet_adamw *adamw;
    make_host(ALLOCATION_ONCE, 0);
    model = make_model(1);
    adamw = make_adamw(model);
    must(lensnet_adamw_step(adamw, 1e-3, NULL, &error), "step");
    must(lensnet_model_save(model, WEIGHTS, LENSNET_DTYPE_F32, &error), "weights");
    must(lensnet_state_save(model, adamw, NULL, 0, STATE, &error), "state");
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
}

/* A file of a few kilobytes that says that its images have 4096 x 4096 pixels: the caller's limit holds. */
static void test_limit(void)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_load_options load = lensnet_load_defaults();
    lensnet_preprocess large = lensnet_preprocess_defaults();
    lensnet_classifier *classifier;
    lensnet_session *session;
    lensnet_model *model;
    make_host(ALLOCATION_ONCE, 0);
    large.image_size = 4096;
    load.preprocess = &large;
    must(lensnet_model_load(&model, WEIGHTS, &load, NULL, &error), "load");
    must(lensnet_model_save(model, TARGET, LENSNET_DTYPE_F32, &error), "save");
    lensnet_model_destroy(model);
    options.host = &host;
    CHECK(options.memory_limit >= (size_t)1 << 30);
    options.memory_limit = 50000000;
    must(lensnet_classifier_load(&classifier, TARGET, &options, &error), "classifier");
    CHECK(lensnet_session_create(&session, classifier, 1, &error) == LENSNET_ERROR_MEMORY);
    CHECK(!session && strstr(error.text, "memory_limit") != NULL);
    lensnet_classifier_destroy(classifier);
    must(lensnet_classifier_load(&classifier, WEIGHTS, &options, &error), "classifier");
    CHECK(lensnet_session_create(&session, classifier, 65536, &error) == LENSNET_ERROR_MEMORY);
    CHECK(!session && strstr(error.text, "memory_limit") != NULL);
    must(lensnet_session_create(&session, classifier, 64, &error), "session");
    CHECK(lensnet_session_bytes(session) < 2 * options.memory_limit);
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
    CHECK(f.blocks == 0);
}

int main(void)
{
    size_t i;
    int kind;
    if (system("mkdir -p " FOLDER) != 0) test_give_up("mkdir", FOLDER, __FILE__, __LINE__);
    make_files();
    test_limit();
    for (i = 0; i < sizeof entry_points / sizeof *entry_points; i++)
        for (kind = 0; kind < FAULTS; kind++) sweep(&entry_points[i], (fault)kind);
    printf("note: %d faults, each told, none with an effect\n", points);
    CHECK(points > 1000);
    remove(WEIGHTS);
    remove(STATE);
    remove(TARGET);
    remove(FOLDER);
    return test_end();
}
