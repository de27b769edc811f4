/* test_backbones.c - the networks of examples/backbones.h as models, files and classifiers: sizes against timm's,
 * names in files, running statistics through training, stopping and loading, folded batch norms, and what
 * is refused. Their logits and gradients: tools/check_backbones.py.
 * cc -O2 -fopenmp -I. tests/test_backbones.c -o build/test_backbones -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#include "examples/backbones.h"

#include "lngen.h"
#include "test.h"

#define PATH  "build/backbone.safetensors"
#define STATE "build/backbone_state.safetensors"

enum { SIDE = 32, CLASSES = 4, IMAGES = 4, PIXELS = IMAGES * SIDE * SIDE };

static lensnet_error error;
static float images[PIXELS]; /* grey */
static const int labels[IMAGES] = {0, 1, 2, 3};

static void must(lensnet_result result, const char *what)
{
    if (result) test_give_up(what, error.text, __FILE__, __LINE__);
}

static int says(const char *words)
{
    if (!strstr(error.text, words)) printf("said: %s\n", error.text);
    return strstr(error.text, words) != NULL;
}

/* ---- sizes ---------------------------------------------------------------------------------------- */

/* Values in timm 1.0's state_dict() with 3 classes, num_batches_tracked apart. */
static const struct {
    const char *name;
    size_t weights;
} sizes[] = {{"resnet18", 11187651},
             {"resnet34", 21303235},
             {"resnet50", 23567299},
             {"convnext_atto", 3375483},
             {"convnext_femto", 4833939},
             {"convnext_pico", 8534211},
             {"convnext_nano", 14954483},
             {"convnext_tiny", 27822435},
             {"convnext_small", 49456995},
             {"convnext_base", 87569539},
             {"densenet121", 7040579},
             {"efficientnet_b0", 4053407},
             {"efficientnet_b1", 6579075},
             {"vit_small_patch16_224", 21666819},
             {"deit_small_patch16_224", 21666819}};

static void test_sizes(void)
{
    size_t i;
    CHECK(sizeof sizes / sizeof *sizes == BACKBONES);
    for (i = 0; i < BACKBONES; i++) {
        lensnet_model_desc desc = lensnet_model_defaults();
        must(backbone_variant(&desc, sizes[i].name, &error), sizes[i].name);
        CHECK_CLOSE((double)lensnet_model_weights(&desc), (double)sizes[i].weights, 0,
                    sizes[i].name);
        CHECK(!strcmp(lensnet_model_variant_name(&desc), sizes[i].name));
    }
}

/* Small ones of each kind, for the tests below: the table that stands for backbones.h's. */
static const resnet ten = {{1, 1, 1, 1}, 0}, twelve = {{1, 1, 1, 2}, 0}, bottle = {{1, 1, 1, 1}, 1};
static const convnext narrow = {{1, 1, 2, 1}, 16, 1};
static const size_t sparse[4] = {1, 2, 1, 1};
static const efficientnet thin = {0.25, 0.5};
static const vit shallow = {2, 48, 3, 16};
static const backbone_kind kinds[] = {{resnet_record, &ten},     {resnet_record, &twelve},
                                      {resnet_record, &bottle},  {convnext_record, &narrow},
                                      {densenet_record, sparse}, {efficientnet_record, &thin},
                                      {vit_record, &shallow}};
static const lensnet_architecture known[] = {
    {"resnet10", backbone_record, &kinds[0]},   {"resnet12", backbone_record, &kinds[1]},
    {"bottleneck", backbone_record, &kinds[2]}, {"convnext", backbone_record, &kinds[3]},
    {"densenet", backbone_record, &kinds[4]},   {"efficientnet", backbone_record, &kinds[5]},
    {"vit", backbone_record, &kinds[6]}};

enum { KNOWN = sizeof known / sizeof *known };

static lensnet_load_options load_options(void)
{
    lensnet_load_options options = lensnet_load_defaults();
    options.architectures = known;
    options.architecture_count = KNOWN;
    return options;
}

static lensnet_classifier_options classifier_options(void)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    options.architectures = known;
    options.architecture_count = KNOWN;
    return options;
}

static lensnet_model_desc describe(size_t which)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    desc.architecture = &known[which];
    desc.classes = CLASSES;
    desc.preprocess.image_size = SIDE;
    return desc;
}

static void test_macs(void)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    must(backbone_variant(&desc, "resnet18", &error), "resnet18");
    desc.classes = 1000;
    CHECK_CLOSE(lensnet_model_macs(&desc, 224, 224) / 1.814e9, 1, 1e-3,
                "resnet18: 1.81 GMAC (torchvision)");
}

/* ---- saved and loaded ----------------------------------------------------------------------------- */

/* Norms and statistics as training might leave them. */
static void stir(lensnet_model *model)
{
    lensnet_parameters *parameters = lensnet_model_parameters(model);
    size_t i;
    for (i = 0; i < lensnet_parameters_count(parameters); i++) {
        const lensnet_parameter_info w = lensnet_parameters_info(parameters, i);
        float *values = lensnet_parameters_values(parameters) + w.offset;
        const size_t length = strlen(w.name);
        if (w.rank != 1) continue;
        if (length > 5 && !strcmp(w.name + length - 5, ".bias"))
            lngen_fill(values, w.size, w.name, 0, 0.2);
        else
            lngen_fill(values, w.size, w.name, strstr(w.name, "mean") ? 0 : 1, 0.4);
    }
    lensnet_parameters_changed(parameters);
}

static void run(float *logits, lensnet_model *model, int training, int fixed)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_graph *graph;
    options.height = options.width = SIDE;
    options.batch = IMAGES;
    options.training = training;
    options.fixed_statistics = fixed;
    must(lensnet_model_graph(&graph, model, &options, NULL, &error), "graph");
    must(lensnet_graph_plan(graph, NULL, &error), "graph");
    must(lensnet_graph_allocate(graph, &error), "graph");
    batch.images = images;
    batch.count = IMAGES;
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = logits;
    must(lensnet_forward(graph, &batch, &outputs, &error), "forward");
    lensnet_graph_destroy(graph);
}

/* The classifier of the file beside the model that it was saved from. */
static void check_classifier(const char *name, const float *logits,
                             const lensnet_classifier_options *options, double tolerance)
{
    lensnet_classifier *classifier;
    lensnet_session *session;
    float probabilities[IMAGES * CLASSES];
    char what[80];
    size_t i, k;
    must(lensnet_classifier_load(&classifier, PATH, options, &error), name);
    must(lensnet_session_create(&session, classifier, IMAGES, &error), name);
    must(lensnet_session_classify(session, probabilities, NULL, images, IMAGES, SIDE, SIDE, &error),
         name);
    snprintf(what, sizeof what, "%s: probability of the classifier", name);
    for (i = 0; i < IMAGES; i++) {
        double sum = 0;
        for (k = 0; k < CLASSES; k++) sum += exp((double)logits[i * CLASSES + k]);
        for (k = 0; k < CLASSES; k++)
            CHECK_CLOSE(probabilities[i * CLASSES + k], exp((double)logits[i * CLASSES + k]) / sum,
                        tolerance, what);
    }
    lensnet_session_destroy(session);
    lensnet_classifier_destroy(classifier);
}

/* Nothing is normalised, so that the classifier sees what the graph sees. With fixed statistics a graph that trains
 * gives the bits of one that does not, and moves nothing. */
static void test_file(size_t which)
{
    const char *name = known[which].name;
    const lensnet_classifier_options options = classifier_options();
    lensnet_load_options load = load_options();
    lensnet_model_desc desc = describe(which);
    lensnet_model *model, *again;
    lensnet_parameters *p, *q;
    lensnet_archive *archive;
    float logits[IMAGES * CLASSES], fixed[IMAGES * CLASSES];
    const char *said;
    desc.preprocess.normalisation = LENSNET_NORMALISATION_NONE;
    desc.gradients = load.gradients = 0;
    must(lensnet_model_create(&model, &desc, &error), name);
    stir(model);
    must(lensnet_model_save(model, PATH, LENSNET_DTYPE_F32, &error), name);
    must(lensnet_archive_open(&archive, PATH, NULL, &error), name);
    said = lensnet_archive_metadata(archive, "lensnet.architecture");
    CHECK(said && !strcmp(said, name));
    lensnet_archive_close(archive);
    must(lensnet_model_load(&again, PATH, &load, NULL, &error), name);
    p = lensnet_model_parameters(model);
    q = lensnet_model_parameters(again);
    CHECK(!strcmp(lensnet_model_variant_name(lensnet_model_description(again)), name));
    CHECK(lensnet_parameters_size(p) == lensnet_parameters_size(q) &&
          !memcmp(lensnet_parameters_values(p), lensnet_parameters_values(q),
                  lensnet_parameters_size(p) * sizeof(float)));
    run(logits, again, 0, 0);
    run(fixed, again, 1, 1);
    CHECK(!memcmp(logits, fixed, sizeof logits));
    CHECK(!memcmp(lensnet_parameters_values(p), lensnet_parameters_values(q),
                  lensnet_parameters_size(p) * sizeof(float)));
    check_classifier(name, logits, &options, 1e-5);
    lensnet_model_destroy(again);
    lensnet_model_destroy(model);
}

/* ---- training ------------------------------------------------------------------------------------- */

typedef struct learner {
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_adamw *adamw;
} learner;

static void begin_learning(learner *l, lensnet_model *model)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_adamw_desc adamw = lensnet_adamw_defaults();
    l->model = model;
    options.height = options.width = SIDE;
    options.batch = IMAGES;
    options.training = 1;
    adamw.average_decay = 0.5;
    must(lensnet_model_graph(&l->graph, model, &options, NULL, &error), "learner");
    must(lensnet_graph_plan(l->graph, NULL, &error), "learner");
    must(lensnet_graph_allocate(l->graph, &error), "learner");
    must(lensnet_adamw_create(&l->adamw, lensnet_model_parameters(model), &adamw, &error),
         "learner");
}

static void step(learner *l)
{
    lensnet_batch batch = lensnet_batch_defaults();
    batch.images = images;
    batch.count = IMAGES;
    batch.labels = labels;
    batch.step = lensnet_adamw_steps(l->adamw);
    must(lensnet_forward_backward(l->graph, &batch, NULL, &error), "step");
    must(lensnet_adamw_step(l->adamw, 1e-3, NULL, &error), "step");
}

static void end_learning(learner *l)
{
    lensnet_adamw_destroy(l->adamw);
    lensnet_graph_destroy(l->graph);
    lensnet_model_destroy(l->model);
}

static size_t statistic(const lensnet_model *model)
{
    lensnet_parameters *p = lensnet_model_parameters((lensnet_model *)(size_t)model);
    size_t i = 0;
    while (!lensnet_parameters_info(p, i).statistic) i++;
    return lensnet_parameters_info(p, i).offset;
}

static int same_values(const learner *a, const learner *b)
{
    lensnet_parameters *p = lensnet_model_parameters(a->model),
                       *q = lensnet_model_parameters(b->model);
    return !memcmp(lensnet_parameters_values(p), lensnet_parameters_values(q),
                   lensnet_parameters_size(p) * sizeof(float));
}

/* Three steps, and two steps, a state and one more: the same bits, running statistics and their average among
 * them. */
static void test_training(void)
{
    lensnet_load_options load = load_options();
    lensnet_model_desc desc = describe(0);
    lensnet_model *model;
    learner whole, resumed;
    float before;
    size_t at;
    desc.drop_path_rate = load.drop_path_rate = 0.2f;
    must(lensnet_model_create(&model, &desc, &error), "training");
    begin_learning(&whole, model);
    at = statistic(model);
    before = lensnet_parameters_values(lensnet_model_parameters(model))[at];
    step(&whole);
    CHECK(lensnet_parameters_values(lensnet_model_parameters(model))[at] != before);
    step(&whole);
    must(lensnet_state_save(whole.model, whole.adamw, NULL, 0, STATE, &error), "state");
    must(lensnet_model_load(&model, STATE, &load, NULL, &error), "state");
    begin_learning(&resumed, model);
    must(lensnet_state_load(resumed.model, resumed.adamw, STATE, &error), "state");
    CHECK(same_values(&whole, &resumed));
    step(&whole);
    step(&resumed);
    CHECK(same_values(&whole, &resumed));
    must(lensnet_adamw_swap_average(whole.adamw, &error), "average");
    must(lensnet_adamw_swap_average(resumed.adamw, &error), "average");
    CHECK(same_values(&whole, &resumed));
    end_learning(&whole);
    end_learning(&resumed);
}

/* ---- files of others ------------------------------------------------------------------------------ */

/* The file anew under `prefix`, with a counter as torch has, and with or without its metadata. */
static void copy_file(const char *prefix, const char *architecture, const char *without)
{
    enum { MOST = 200 };
    static lensnet_archive_tensor tensors[MOST];
    static char names[MOST][100];
    lensnet_archive_pair pairs[2] = {{"format", "pt"}, {"lensnet.architecture", NULL}};
    lensnet_archive *archive;
    const float zero = 0;
    size_t i, count = 0;
    must(lensnet_archive_open(&archive, PATH, NULL, &error), "copy");
    pairs[1].value = architecture;
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < lensnet_archive_count(archive) && count < MOST - 1; i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        lensnet_archive_tensor *t = &tensors[count];
        void *bytes = malloc((size_t)entry->bytes);
        if (without && !strcmp(without, entry->name)) {
            free(bytes);
            continue;
        }
        if (!bytes) exit(1);
        must(lensnet_archive_read_bytes(bytes, archive, entry, &error), "copy");
        snprintf(names[count], sizeof *names, "%s%s", prefix, entry->name);
        t->name = names[count++];
        t->dtype = entry->dtype;
        t->rank = entry->rank;
        memcpy(t->shape, entry->shape, sizeof t->shape);
        t->bytes = bytes;
    }
    snprintf(names[count], sizeof *names, "%sbn1.num_batches_tracked", prefix);
    tensors[count].name = names[count];
    tensors[count].dtype = LENSNET_DTYPE_F32;
    tensors[count++].values = &zero;
    lensnet_archive_close(archive);
    must(lensnet_archive_save("build/backbone_other.safetensors", tensors, count, pairs,
                              architecture ? 2 : 1, NULL, &error),
         "copy");
    for (i = 0; i + 1 < count; i++) free((void *)(size_t)tensors[i].bytes);
}

static lensnet_result load_other(const char *told_name, int tables)
{
    lensnet_classifier_options options =
        tables ? classifier_options() : lensnet_classifier_defaults();
    lensnet_archive_pair told[2] = {{"lensnet.image_size", "32"}, {"lensnet.architecture", NULL}};
    lensnet_classifier *classifier;
    lensnet_result result;
    told[1].value = told_name;
    options.told = told;
    options.told_count = told_name ? 2 : 1;
    result =
        lensnet_classifier_load(&classifier, "build/backbone_other.safetensors", &options, &error);
    lensnet_classifier_destroy(classifier);
    return result;
}

/* PATH is a resnet10's. */
static void test_other_files(void)
{
    copy_file("", NULL, NULL); /* found by its names */
    CHECK(load_other(NULL, 1) == LENSNET_OK);
    CHECK(load_other("resnet12", 1) == LENSNET_ERROR_FORMAT && says("said to be a resnet12") &&
          says("layer4.1.conv1.weight"));
    CHECK(load_other("resnet19", 1) == LENSNET_ERROR_UNSUPPORTED && says("is a resnet19"));
    CHECK(load_other("resnet10", 0) == LENSNET_ERROR_UNSUPPORTED && says("is a resnet10"));
    copy_file("model.", "resnet10", NULL);
    CHECK(load_other(NULL, 1) == LENSNET_OK);
    copy_file("", "resnet12", NULL);
    CHECK(load_other(NULL, 1) == LENSNET_ERROR_FORMAT && says("said to be a resnet12"));
    copy_file("", "resnet10", "layer4.0.bn2.running_var");
    CHECK(load_other(NULL, 1) == LENSNET_ERROR_FORMAT &&
          says("no tensor 'layer4.0.bn2.running_var'"));
    copy_file("", "convnext", NULL);
    CHECK(load_other(NULL, 1) == LENSNET_ERROR_FORMAT && says("said to be a convnext"));
    remove("build/backbone_other.safetensors");
}

/* ---- what is refused ------------------------------------------------------------------------------ */

static void test_refused(void)
{
    static const lensnet_head head[1] = {{"map", 2, 4}};
    lensnet_model_desc desc = describe(6);
    lensnet_model *model;
    float rates[200];
    desc.heads = head;
    desc.head_count = 1;
    CHECK(lensnet_model_create(&model, &desc, &error) == LENSNET_ERROR_UNSUPPORTED &&
          says("vit has no map for the head"));
    desc = describe(4);
    desc.drop_path_rate = 0.1f;
    CHECK(lensnet_model_create(&model, &desc, &error) == LENSNET_ERROR_UNSUPPORTED &&
          says("densenet has no blocks that a drop path could skip"));
    desc = describe(0);
    desc.heads = head; /* a residual network's stages are maps */
    desc.head_count = 1;
    must(lensnet_model_create(&model, &desc, &error), "resnet18");
    CHECK(lensnet_model_rates(rates, model, LENSNET_LAYER_DECAY_SINGLE, 0.9, 0, &error) ==
              LENSNET_ERROR_UNSUPPORTED &&
          says("not of resnet10"));
    CHECK(!lensnet_model_rates(rates, model, LENSNET_LAYER_DECAY_SINGLE, 1, 0, &error) &&
          rates[9] == 1);
    lensnet_model_destroy(model);
    CHECK(backbone_variant(&desc, "resnet19", &error) == LENSNET_ERROR_ARGUMENT &&
          says("huge; or resnet18") && says("deit_small_patch16_224"));
}

int main(void)
{
    size_t i;
    lngen_fill(images, PIXELS, "images", 0, 1);
    test_sizes();
    test_macs();
    for (i = KNOWN; i-- > 0;) test_file(i);
    test_other_files();
    test_training();
    test_refused();
    remove(PATH);
    remove(STATE);
    return test_end();
}
