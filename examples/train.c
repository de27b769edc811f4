/* train.c - trains a ConvNeXt V2 on a folder of images, or on images from the simulator.
 *
 * cc -O2 -fopenmp examples/train.c -o train -lm
 * ./train DATA                          fine-tunes the weights that are shipped on DATA
 * ./train DATA --recipe scratch         starts from random weights
 * ./train DATA --recipe reference --weights imagenet.safetensors
 * ./train --simulate 3000 --out run     needs no data: every epoch has new simulated images
 * ./train --simulate 6000 --recipe scratch --epochs 20 --ease 10 --average 0.99 --out first
 *                                       from random weights: an atto at 128 x 128 that sees 120,000 images;
 *                                       eight minutes on two cores, validation AUC 0.70 after five
 * ./train --resume --out run            goes on after Ctrl-C, with the same bits
 *
 * DATA holds train/CLASS/NAME.npy, val/CLASS/NAME.npy and perhaps test/CLASS/NAME.npy. It prints what
 * it will do, the memory and the time it expects to need, a progress bar, a line per epoch, and how
 * the best epoch (by validation AUC) does on the test split. The folder --out then holds
 *   best.safetensors  last.safetensors  history.csv  history.svg
 *   report.txt  roc.svg  confusion.svg  reliability.svg  predictions.csv
 *
 * The result depends on the options, the seed and the images only: not on threads, processor or
 * interruptions. */
#include "system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "../tools/simulate.h"

#include "evaluation.h"
#include "huggingface.h"
#include "progress.h"
#include "run_folder.h"
#include "simulated.h"
#include "train_settings.h"

#define TRAIN_SAVE_SECONDS 600.0 /* the state is saved at least this often */

enum {
    TRAIN_PAIRS = 96, /* lines of metadata in a state */
    TRAIN_NUMBER = 32 /* characters of a number in them */
};

/* Where a run stands. All of it goes into the training state. */
typedef struct run_position {
    uint64_t epoch;  /* epochs that are finished */
    uint64_t step;   /* steps done in the one under way */
    double loss_sum; /* of those: loss times images */
    double rate;     /* of the constant and plateau schedules */
    lensnet_plateau plateau;
    double best_auc;    /* below 0 before there is one */
    report_epoch *rows; /* `epoch` of them, room for all */
} run_position;

/* How long things take, in seconds. */
typedef struct run_clock {
    double step, fetch;        /* expected: a step, and loading its images */
    double total;              /* expected: all that is left to do */
    double fetching, stepping; /* measured in the epoch under way */
    double saved;              /* when the state was saved last */
} run_clock;

typedef struct run {
    train_settings settings;
    const char *data_path; /* NULL: everything is simulated */
    lensnet_host host;
    system_names texts; /* owns strings that live as long as the run */
    const char *best, *history_csv, *history_svg, *folder; /* files in --out */
    run_folder states;
    const char *resumed; /* the state that the run goes on from */
    dataset data;
    simulated simulators[DATASET_SPLITS];
    lensnet_model *model;
    lensnet_adamw *adamw;
    lensnet_graph *learn, *check; /* forward and backward; forward only. They share the model. */
    lensnet_plan learn_plan, check_plan;
    int fresh_head;
    lensnet_augmentation augmentation;
    dataset_recipe learn_images, check_images;
    float *images, *logits; /* of a batch */
    float *maps;            /* of a batch, the dense targets; NULL without --dense */
    int *labels;            /* of a batch, or of all validation images */
    double *scores;         /* of all validation images */
    size_t *order;          /* of the training images in the epoch under way */
    run_position at;
    run_clock clock;
    uint64_t steps_here; /* since the program began */
    double dense_loss;   /* of the last steps: one part in a hundred of the newest */
    double expected_bytes;
} run;

static size_t run_count(const run *r, dataset_kind kind) { return r->data.split[kind].count; }

static size_t run_least(size_t a, size_t b) { return a < b ? a : b; }

static uint64_t run_steps(const run *r, dataset_kind kind)
{
    return (run_count(r, kind) + r->settings.batch - 1) / r->settings.batch;
}

/* A string that lives as long as the run; takes over `text`, NULL for want of memory. */
static int run_keep(run *r, const char **kept, char *text, lensnet_error *error)
{
    if (!system_names_add(&r->texts, text)) return dataset_no_memory(error);
    *kept = r->texts.items[r->texts.count - 1];
    return 1;
}

/* The files that will stand in --out. */
static int run_name_files(run *r, const char *out, lensnet_error *error)
{
    return run_keep(r, &r->best, system_path(out, "best.safetensors"), error) &&
           run_folder_name(&r->states, out, error) &&
           run_keep(r, &r->history_csv, system_path(out, "history.csv"), error) &&
           run_keep(r, &r->history_svg, system_path(out, "history.svg"), error) &&
           run_keep(r, &r->folder, system_path(out, "huggingface"), error);
}

/* ---- images ---- */

/* Lists files, or names the classes to be simulated. */
static int data_open(run *r, lensnet_error *error)
{
    dataset_reading reading;
    const size_t simulate = (size_t)arguments_whole(train_value(OPTION_SIMULATE), 0, 100000000);
    if (!simulate && !r->data_path)
        return dataset_fail(error, "there is nothing to train on: name a folder DATA, or say "
                                   "--simulate 3000; --help says more");
    reading_from_options(&reading, train_options, OPTION_COUNT);
    if (!simulate) return dataset_open_as(&r->data, r->data_path, &reading, error);
    if (simulate < 2 * SIM_CLASSES)
        return dataset_fail(error, "--simulate %zu: 6 images or more are needed", simulate);
    if (!simulated_classes(&r->data.classes, error)) return 0;
    r->data.split[DATASET_VAL].reading = r->data.split[DATASET_TEST].reading = reading;
    return !r->data_path || dataset_list_held_out(&r->data, r->data_path, 1, error);
}

/* Makes a split of images to be simulated. */
static int data_simulate(run *r, dataset_kind kind, size_t count, lensnet_error *error)
{
    uint64_t seed =
        lensnet_random_bits(r->settings.seed, lensnet_random_stream("simulate"), (uint64_t)kind);
    return simulated_open(&r->simulators[kind], &r->data.split[kind], &r->data.classes, count, seed,
                          kind == DATASET_TRAIN, r->settings.ease, r->settings.heavy,
                          r->settings.threads, error);
}

/* After the settings are known: simulators, limits, room in the cache. */
static int data_prepare(run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    int kind, good = 1;
    if (s->simulate) good = data_simulate(r, DATASET_TRAIN, s->simulate, error);
    if (s->simulate && !r->data_path)
        good = good && data_simulate(r, DATASET_VAL, s->held_out, error) &&
               data_simulate(r, DATASET_TEST, s->held_out, error);
    for (kind = 0; kind < DATASET_SPLITS; kind++)
        r->data.split[kind].reading.bands = (size_t)s->bands;
    for (kind = 0; kind < DATASET_SPLITS; kind++)
        if (s->limit && !r->data.split[kind].source) dataset_limit(&r->data.split[kind], s->limit);
    /* Validation images come first: they are the same in every epoch. */
    r->data.split[DATASET_VAL].cache_left = s->cache;
    return good && dataset_describe(&r->settings.source_size, &r->settings.pixel_scale,
                                    &r->data.split[DATASET_TRAIN], error);
}

/* Reads every file once. */
static int data_check(run *r, lensnet_error *error)
{
    dataset_split *split = r->data.split;
    size_t files = 0;
    int kind, good;
    for (kind = 0; kind < DATASET_SPLITS; kind++)
        files += split[kind].source ? 0 : split[kind].count;
    if (files && system_is_terminal(stderr)) fprintf(stderr, "reading %zu images ...\r", files);
    good =
        split[DATASET_VAL].source || dataset_check(&split[DATASET_VAL], r->settings.threads, error);
    split[DATASET_TRAIN].cache_left = split[DATASET_VAL].cache_left;
    if (!split[DATASET_VAL].source) split[DATASET_VAL].cache_left = 0;
    if (good && !split[DATASET_TRAIN].source)
        good = dataset_check(&split[DATASET_TRAIN], r->settings.threads, error);
    if (good && !split[DATASET_TEST].source)
        good = dataset_check(&split[DATASET_TEST], r->settings.threads, error);
    if (files && system_is_terminal(stderr)) fprintf(stderr, "%40s\r", "");
    return good;
}

/* ---- the model ---- */

/* The options that the starting weights decide: variant, size, normalisation. If their labels are our
 * classes, these take their order, and the head stays. */
static int model_peek(run *r, const char *path, int *same_labels, lensnet_error *error)
{
    lensnet_load_options load = lensnet_load_defaults();
    argument *variant = &train_options[OPTION_VARIANT], *size = &train_options[OPTION_SIZE];
    argument *normalise = &train_options[OPTION_NORMALISE], *crop = &train_options[OPTION_CROP];
    argument *bands = &train_options[OPTION_BANDS], *stretch = &train_options[OPTION_STRETCH];
    lensnet_model *model;
    const lensnet_model_desc *desc;
    const char *name;
    char number[TRAIN_NUMBER];
    int good = 1;
    load.gradients = 0;
    load.host = &r->host;
    if (lensnet_model_load(&model, path, &load, NULL, error)) return 0;
    desc = lensnet_model_description(model);
    name = lensnet_model_variant_name(desc);
    if (variant->value && strcmp(variant->value, name) != 0)
        good = dataset_fail(error,
                            "%s: these are weights of ConvNeXt V2 %s, not of %s; give others, or "
                            "--variant %s, or --weights none to start from random ones",
                            path, name, variant->value, name);
    variant->value = name; /* static storage */
    snprintf(number, sizeof number, "%d", desc->preprocess.image_size);
    if (good && !size->value) good = run_keep(r, &size->value, system_copy(number), error);
    snprintf(number, sizeof number, "%d", desc->preprocess.crop);
    if (good && !crop->value) good = run_keep(r, &crop->value, system_copy(number), error);
    if (!normalise->value)
        normalise->value = lensnet_normalisation_text(desc->preprocess.normalisation);
    snprintf(number, sizeof number, "%d", desc->preprocess.bands);
    if (good && !bands->value) good = run_keep(r, &bands->value, system_copy(number), error);
    if (!stretch->value) stretch->value = lensnet_stretch_text(desc->preprocess.stretch);
    *same_labels = dataset_relabel(&r->data, desc->labels, desc->classes);
    lensnet_model_destroy(model);
    return good;
}

/* What learns the map with --dense: a head on stage 3, the one whose pixels are 16 wide. */
static const lensnet_head dense_heads[1] = {{"dense", 2, DENSE_PARTS *DENSE_PARTS}};

/* The way of the images to the network, and what later users should know of them. */
static lensnet_preprocess model_preprocess(const train_settings *s)
{
    lensnet_preprocess p = lensnet_preprocess_defaults();
    p.image_size = s->image_size;
    p.crop = s->crop;
    p.bands = s->bands;
    if (s->bands > 1) p.channels = s->bands;
    p.stretch = s->stretch;
    p.normalisation = s->normalisation;
    p.source_size = s->source_size;
    p.pixel_scale = s->pixel_scale;
    return p;
}

static int model_create(run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    lensnet_model_desc desc = lensnet_model_defaults();
    if (lensnet_model_variant(&desc, s->variant, error)) return 0;
    desc.classes = r->data.classes.count;
    desc.labels = (const char *const *)r->data.classes.items;
    desc.drop_path_rate = (float)s->drop_path;
    desc.seed = s->seed;
    desc.preprocess = model_preprocess(s);
    desc.heads = dense_heads;
    desc.head_count = s->dense > 0;
    desc.host = &r->host;
    return !lensnet_model_create(&r->model, &desc, error);
}

static int model_load(run *r, const char *path, int same_labels, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    lensnet_load_options load = lensnet_load_defaults();
    const lensnet_preprocess preprocess = model_preprocess(s);
    load.preprocess = &preprocess;
    load.heads = dense_heads;
    load.head_count = s->dense > 0;
    load.drop_path_rate = (float)s->drop_path;
    load.seed = s->seed;
    load.host = &r->host;
    if (!same_labels) {
        load.classes = r->data.classes.count;
        load.labels = (const char *const *)r->data.classes.items;
    }
    return !lensnet_model_load(&r->model, path, &load, &r->fresh_head, error);
}

/* The network and its losses. */
static lensnet_result graph_record(run *r, const lensnet_graph_options *options,
                                   lensnet_error *error)
{
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_network network;
    lensnet_result result =
        lensnet_graph_create(&r->learn, lensnet_model_parameters(r->model), options, error);
    if (result) return result;
    loss.label_smoothing = (float)r->settings.smoothing;
    network = lensnet_model_record(r->learn, r->model);
    lensnet_cross_entropy(r->learn, network.logits, &loss);
    if (r->settings.dense > 0)
        lensnet_squared_error(r->learn, network.heads[0], "dense", (float)r->settings.dense);
    return LENSNET_OK;
}

/* Both graphs, planned but without memory yet. */
static int graphs_plan(run *r, lensnet_error *error)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_loss plain = lensnet_loss_defaults();
    options.height = options.width = (size_t)r->settings.image_size;
    options.batch = r->settings.batch;
    options.memory_limit = r->settings.memory;
    options.training = 1;
    if (graph_record(r, &options, error) || lensnet_graph_plan(r->learn, &r->learn_plan, error))
        return 0;
    options.training = 0;
    return !lensnet_model_graph(&r->check, r->model, &options, &plain, error) &&
           !lensnet_graph_plan(r->check, &r->check_plan, error);
}

static lensnet_augmentation augmentation_of(train_augment kind, double share)
{
    lensnet_augmentation a = lensnet_augmentation_defaults();
    a.share = share;
    if (kind == AUGMENT_REFERENCE) return a;
    a.quarter_turns = 1;
    a.degrees = a.translate = 0;
    a.minimum_scale = a.maximum_scale = 1;
    return a;
}

/* Everything that training needs beside the model. */
static int run_allocate(run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    const size_t side = (size_t)s->image_size, classes = r->data.classes.count;
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    r->check_images.preprocess = dataset_grey(lensnet_model_description(r->model)->preprocess);
    r->check_images.seed = s->seed;
    r->check_images.threads = s->threads;
    r->learn_images = r->check_images;
    r->augmentation = augmentation_of(s->augment, s->turned);
    if (s->augment != AUGMENT_NONE) r->learn_images.augmentation = &r->augmentation;
    r->images = (float *)calloc(
        s->batch * side * side * (size_t)r->check_images.preprocess.channels, sizeof *r->images);
    if (s->dense > 0) r->maps = (float *)calloc(s->batch * dense_size(side), sizeof *r->maps);
    r->logits = (float *)calloc(s->batch * classes, sizeof *r->logits);
    r->labels = (int *)calloc(s->batch + run_count(r, DATASET_VAL), sizeof *r->labels);
    r->scores = (double *)calloc(run_count(r, DATASET_VAL) * classes, sizeof *r->scores);
    r->order = (size_t *)calloc(run_count(r, DATASET_TRAIN), sizeof *r->order);
    r->at.rows = (report_epoch *)calloc((size_t)s->epochs, sizeof *r->at.rows);
    if (!r->images || (s->dense > 0 && !r->maps) || !r->logits || !r->labels || !r->scores ||
        !r->order || !r->at.rows)
        return dataset_no_memory(error);
    desc.weight_decay = s->weight_decay;
    desc.decay_all = s->decay_all;
    desc.clip_norm = s->clip;
    desc.average_decay = s->average;
    return !lensnet_adamw_create(&r->adamw, lensnet_model_parameters(r->model), &desc, error) &&
           !lensnet_graph_allocate(r->learn, error) && !lensnet_graph_allocate(r->check, error);
}

static void run_release_training(run *r)
{
    lensnet_graph_destroy(r->learn);
    lensnet_graph_destroy(r->check);
    lensnet_adamw_destroy(r->adamw);
    lensnet_model_destroy(r->model);
    free(r->images);
    free(r->maps);
    free(r->logits);
    free(r->labels);
    free(r->scores);
    free(r->order);
    r->learn = r->check = NULL;
    r->adamw = NULL;
    r->model = NULL;
    r->images = r->maps = r->logits = NULL;
    r->labels = NULL;
    r->scores = NULL;
    r->order = NULL;
}

static void run_release(run *r)
{
    int kind;
    run_release_training(r);
    dataset_close(&r->data);
    for (kind = 0; kind < DATASET_SPLITS; kind++) simulated_close(&r->simulators[kind]);
    free(r->at.rows);
    system_names_free(&r->texts);
    run_folder_release(&r->states);
}

/* ---- the training state ---- */

/* The history as CSV: a file of its own, and a line of the state. */
static void history_text(svg_sheet *s, const run_position *at)
{
    uint64_t i;
    memset(s, 0, sizeof *s);
    svg_add(s, "epoch,train_loss,val_loss,val_auc_macro_ovr,val_accuracy,learning_rate,best\n");
    for (i = 0; i < at->epoch; i++) {
        const report_epoch *e = &at->rows[i];
        svg_add(s, "%d,%.9g,%.9g,%.9g,%.9g,%.9g,%d\n", e->epoch, e->train_loss, e->val_loss,
                e->val_auc, e->val_accuracy, e->rate, e->best);
    }
}

static int history_parse(run_position *at, uint64_t epochs, const char *text)
{
    uint64_t i;
    for (i = 0; i < epochs; i++) {
        report_epoch *e = &at->rows[i];
        text = strchr(text, '\n');
        if (!text || sscanf(++text, "%d,%lf,%lf,%lf,%lf,%lf,%d", &e->epoch, &e->train_loss,
                            &e->val_loss, &e->val_auc, &e->val_accuracy, &e->rate, &e->best) != 7)
            return 0;
    }
    return 1;
}

/* The metadata of a state in the making. */
typedef struct state_pairs {
    lensnet_archive_pair pairs[TRAIN_PAIRS];
    char keys[TRAIN_PAIRS][TRAIN_NUMBER], numbers[TRAIN_PAIRS][TRAIN_NUMBER];
    size_t count;
} state_pairs;

static void state_add(state_pairs *p, const char *key, const char *value)
{
    snprintf(p->keys[p->count], TRAIN_NUMBER, "train.%s", key);
    p->pairs[p->count].key = p->keys[p->count];
    p->pairs[p->count].value = value;
    p->count++;
}

static void state_add_whole(state_pairs *p, const char *key, uint64_t value)
{
    snprintf(p->numbers[p->count], TRAIN_NUMBER, "%llu", (unsigned long long)value);
    state_add(p, key, p->numbers[p->count]);
}

/* 17 digits give back the same double. */
static void state_add_number(state_pairs *p, const char *key, double value)
{
    snprintf(p->numbers[p->count], TRAIN_NUMBER, "%.17g", value);
    state_add(p, key, p->numbers[p->count]);
}

static int state_save(run *r, lensnet_error *error)
{
    const run_position *at = &r->at;
    state_pairs p;
    svg_sheet history;
    int i, good;
    p.count = 0;
    history_text(&history, at);
    for (i = 0; i < OPTION_STORED; i++)
        state_add(&p, train_options[i].name + 2, train_options[i].value);
    if (r->data_path) state_add(&p, "data", r->data_path);
    state_add_whole(&p, "fingerprint", dataset_fingerprint(&r->data));
    state_add_whole(&p, "epoch", at->epoch);
    state_add_whole(&p, "step", at->step);
    state_add_number(&p, "loss_sum", at->loss_sum);
    state_add_number(&p, "rate_now", at->rate);
    state_add_number(&p, "best_auc", at->best_auc);
    state_add_whole(&p, "plateau_has_best", (uint64_t)at->plateau.has_best);
    state_add_number(&p, "plateau_best", at->plateau.best);
    state_add_whole(&p, "plateau_bad_epochs", (uint64_t)at->plateau.bad_epochs);
    state_add_whole(&p, "plateau_cooldown", (uint64_t)at->plateau.cooldown_left);
    state_add(&p, "history", history.bytes ? history.bytes : "");
    good = (!history.failed || dataset_no_memory(error)) && run_folder_keep(&r->states, error) &&
           !lensnet_state_save(r->model, r->adamw, p.pairs, p.count, r->states.last, error);
    free(history.bytes);
    r->clock.saved = system_seconds();
    return good;
}

/* A number of the state; *good becomes 0 if it is missing or none. */
static double state_number(const lensnet_archive *state, const char *key, int *good)
{
    char name[64], *end;
    const char *text;
    double value;
    snprintf(name, sizeof name, "train.%s", key);
    text = lensnet_archive_metadata(state, name);
    value = text ? strtod(text, &end) : 0;
    if (!text || end == text || *end) *good = 0;
    return value;
}

/* The position, from the metadata of a state; data and settings are open. */
static int state_restore_position(run *r, const lensnet_archive *state, const char *path,
                                  lensnet_error *error)
{
    run_position *at = &r->at;
    const char *history = lensnet_archive_metadata(state, "train.history");
    const char *fingerprint = lensnet_archive_metadata(state, "train.fingerprint");
    char now[TRAIN_NUMBER];
    int good = history && fingerprint;
    double epoch = state_number(state, "epoch", &good), step = state_number(state, "step", &good);
    at->loss_sum = state_number(state, "loss_sum", &good);
    at->rate = state_number(state, "rate_now", &good);
    at->best_auc = state_number(state, "best_auc", &good);
    at->plateau.has_best = state_number(state, "plateau_has_best", &good) != 0;
    at->plateau.best = state_number(state, "plateau_best", &good);
    at->plateau.bad_epochs = (int)state_number(state, "plateau_bad_epochs", &good);
    at->plateau.cooldown_left = (int)state_number(state, "plateau_cooldown", &good);
    good = good && epoch >= 0 && epoch <= (double)r->settings.epochs && step >= 0 &&
           step <= (double)run_steps(r, DATASET_TRAIN);
    if (good) {
        at->epoch = (uint64_t)epoch;
        at->step = (uint64_t)step;
        good = history_parse(at, at->epoch, history);
    }
    if (!good)
        return dataset_fail(error,
                            "%s: its record of the run is damaged; take a copy, or begin a new "
                            "run in another --out",
                            path);
    snprintf(now, sizeof now, "%llu", (unsigned long long)dataset_fingerprint(&r->data));
    if (strcmp(now, fingerprint) != 0)
        return dataset_fail(error,
                            "%s: the images are not those that the run was begun with (files "
                            "were added, removed or renamed); begin a new run in another --out",
                            r->data_path ? r->data_path : "simulator");
    return 1;
}

/* ---- forecast ---- */

/* The first `count` images of the training batch, as they stand. */
static lensnet_batch batch_of(const run *r, size_t count, lensnet_target *dense)
{
    lensnet_batch batch = lensnet_batch_defaults();
    batch.images = r->images;
    batch.channels = (size_t)r->check_images.preprocess.channels;
    batch.count = count;
    batch.labels = r->labels;
    dense->name = "dense";
    dense->values = r->maps;
    batch.named = dense;
    batch.named_count = r->maps != NULL;
    return batch;
}

/* Seconds of a forward pass, with backward if `training`, over the first `count` images of the
 * batch; weights and optimiser stay as they are. */
static int forecast_pass(run *r, int training, size_t count, double *seconds, lensnet_error *error)
{
    lensnet_target dense;
    const lensnet_batch batch = batch_of(r, count, &dense);
    double start = 0;
    int round, rounds = 4;
    for (round = 0; round <= rounds; round++) {
        if (round == 1) start = system_seconds(); /* the first round warms up */
        lensnet_parameters_changed(lensnet_model_parameters(r->model)); /* as after a step */
        if (training ? lensnet_forward_backward(r->learn, &batch, NULL, error)
                     : lensnet_forward(r->check, &batch, NULL, error))
            return 0;
        if (round >= 1 && system_seconds() - start > 2) rounds = round;
    }
    *seconds = (system_seconds() - start) / rounds;
    return 1;
}

/* The same for a full batch of `batch` images, which may take too long to try. */
static int forecast_batch(run *r, int training, size_t batch, double *seconds, lensnet_error *error)
{
    size_t micro = (training ? r->learn_plan : r->check_plan).micro_batch;
    size_t count = run_least(batch, 2 * micro);
    if (!forecast_pass(r, training, count, seconds, error)) return 0;
    *seconds *= (double)batch / (double)count;
    return *seconds > 3 || count == batch || forecast_pass(r, training, batch, seconds, error);
}

/* Seconds of an optimiser step, tried on an equal number of other weights (at most a million). */
static int forecast_adamw(const run *r, double *seconds, lensnet_error *error)
{
    const size_t all = lensnet_model_weights(lensnet_model_description(r->model));
    const size_t tried = run_least(all, 1000000);
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_parameters *parameters = NULL;
    lensnet_adamw *adamw = NULL;
    double start = 0;
    int round, good;
    desc.clip_norm = r->settings.clip;
    desc.average_decay = r->settings.average;
    good = !lensnet_parameters_create(&parameters, &r->host, error);
    if (good) lensnet_parameter_add(parameters, "trial", tried, 0, 0, 0, LENSNET_INITIAL_ZERO);
    good = good && !lensnet_parameters_allocate(parameters, 1, 0, error) &&
           !lensnet_adamw_create(&adamw, parameters, &desc, error);
    for (round = 0; good && round < 4; round++) {
        if (round == 1) start = system_seconds();
        good = !lensnet_adamw_step(adamw, 1e-3, NULL, error);
    }
    *seconds = (system_seconds() - start) / 3 * (double)all / (double)tried;
    lensnet_adamw_destroy(adamw);
    lensnet_parameters_destroy(parameters);
    return good;
}

/* Seconds to load the first `count` images of a split, which then stand in the batch. */
static int forecast_fetch(run *r, dataset_kind kind, size_t count, double *seconds,
                          lensnet_error *error)
{
    double start = system_seconds();
    const dataset_batch batch = {r->images, r->labels, kind == DATASET_TRAIN ? r->maps : NULL};
    int good = dataset_fetch(&batch, &r->data.split[kind], NULL, 0, count,
                             kind == DATASET_TRAIN ? &r->learn_images : &r->check_images, error);
    *seconds = system_seconds() - start;
    return good;
}

/* Tries everything that an epoch does on the first images, without a step of the optimiser. */
static int forecast_time(run *r, lensnet_error *error)
{
    const size_t batch = run_least(r->settings.batch, run_count(r, DATASET_TRAIN));
    const size_t check = run_least(r->settings.batch, run_count(r, DATASET_VAL));
    const double epochs = (double)(r->settings.epochs - r->at.epoch);
    double adamw, pass, fetch, image, steps;
    run_clock *c = &r->clock;
    if (!forecast_adamw(r, &adamw, error) ||
        !forecast_fetch(r, DATASET_TRAIN, batch, &c->fetch, error) ||
        !forecast_batch(r, 1, batch, &c->step, error) ||
        !forecast_fetch(r, DATASET_VAL, check, &fetch, error) ||
        !forecast_batch(r, 0, check, &pass, error))
        return 0;
    c->step += adamw;
    image = (pass + fetch) / (double)check;
    steps = epochs * (double)run_steps(r, DATASET_TRAIN) - (double)r->at.step;
    c->total =
        steps * (c->step + c->fetch) +
        (epochs * (double)run_count(r, DATASET_VAL) + (double)run_count(r, DATASET_TEST)) * image;
    return 1;
}

/* Bytes at the highest: what the graphs have planned (each counted the packed weights, which they
 * share), 16 for a weight (value, gradient, moments) or 20 with their average, the images in the cache
 * and in the batch, and the program. */
static void forecast_memory(run *r)
{
    const double weights = (double)lensnet_model_weights(lensnet_model_description(r->model));
    const double batch = (double)r->settings.batch * r->settings.image_size *
                         r->settings.image_size * r->check_images.preprocess.channels *
                         sizeof(float);
    const dataset_split *split = r->data.split;
    double cached = 0;
    int kind;
    size_t i;
    for (kind = 0; kind < DATASET_SPLITS; kind++)
        for (i = 0; i < split[kind].count; i++)
            if (split[kind].files[i].pixels)
                cached += (double)(split[kind].files[i].height * split[kind].files[i].width) * 4;
    if (split[DATASET_VAL].source)
        cached += (double)(split[DATASET_VAL].count * r->simulators[DATASET_VAL].height *
                           r->simulators[DATASET_VAL].width) *
                  sizeof(float);
    r->expected_bytes = (double)r->learn_plan.bytes + (double)r->check_plan.bytes -
                        (double)r->check_plan.packed_bytes +
                        (r->settings.average > 0 ? 20 : 16) * weights + batch + cached + 5e6;
}

/* ---- what is going to happen ---- */

static void describe_split(const run *r, dataset_kind kind)
{
    const dataset_split *split = &r->data.split[kind];
    size_t k;
    printf("  %-10s %zu images (", dataset_kind_names[kind], split->count);
    for (k = 0; k < r->data.classes.count; k++)
        printf("%s%s %zu", k ? ", " : "", r->data.classes.items[k],
               dataset_class_size(split, (int)k));
    printf(")%s\n", split->fresh                                    ? ", new ones in every epoch"
                    : split->source                                 ? ", simulated"
                    : kind == DATASET_TEST && r->data.test_from_val ? ", the second half of val"
                                                                    : "");
}

static void describe(const run *r)
{
    const train_settings *s = &r->settings;
    const lensnet_model_desc *desc = lensnet_model_description(r->model);
    int kind;
    printf("images       %s\n", r->data_path ? r->data_path : "simulated");
    for (kind = 0; kind < DATASET_SPLITS; kind++) describe_split(r, (dataset_kind)kind);
    dataset_print_notes(&r->data, stdout);
    printf("network      ConvNeXt V2 %s, %zu weights, ", s->variant, lensnet_model_weights(desc));
    if (s->crop) printf("crop %d, ", s->crop);
    printf("input %d x %d, %s\n", s->image_size, s->image_size,
           train_value(OPTION_NORMALISE)->value);
    printf("start        %s%s\n",
           s->resume    ? "the state of the stopped run"
           : s->weights ? s->weights
                        : "random weights",
           s->resume || !s->weights ? ""
           : r->fresh_head          ? ", with a fresh head"
                                    : ", head included");
    printf("recipe       %s: %llu epochs of %llu steps of %zu images, AdamW, rate %g (%s, warm-up "
           "%g),\n"
           "             decay %g (%s), clip %g, average %g, drop path %g, smoothing %g,\n"
           "             augmentation %s, seed %llu\n",
           train_recipe_names[s->recipe], (unsigned long long)s->epochs,
           (unsigned long long)run_steps(r, DATASET_TRAIN), s->batch, s->rate,
           train_value(OPTION_SCHEDULE)->value, s->warmup, s->weight_decay,
           train_value(OPTION_DECAY)->value, s->clip, s->average, s->drop_path, s->smoothing,
           train_value(OPTION_AUGMENT)->value, (unsigned long long)s->seed);
    printf("processor    %s, %d threads, %zu images at a time\n",
           lensnet_isa_text(lensnet_isa_in_use(&r->host)), dataset_threads(s->threads),
           r->learn_plan.micro_batch);
    printf("memory       %.0f MB expected\n", r->expected_bytes / 1e6);
    system_flush_output();
}

/* ---- the loop ---- */

/* What schedule hold multiplies the rate by at the end: 1 - sqrt(done), which lets a network settle from a
 * high rate better than a line (Haegele et al. 2024, arXiv 2405.18392). */
static double cooldown_factor(const train_settings *s, double epoch)
{
    double left = (double)s->epochs - epoch;
    if (s->schedule != SCHEDULE_HOLD || left >= s->cooldown) return 1;
    return 1 - sqrt(1 - left / s->cooldown);
}

/* The rate of the next step. */
static double learning_rate(const run *r)
{
    const train_settings *s = &r->settings;
    double epoch = (double)r->at.epoch + (double)r->at.step / (double)run_steps(r, DATASET_TRAIN);
    lensnet_cosine cosine;
    if (s->schedule == SCHEDULE_HOLD && epoch >= s->warmup)
        return s->rate * cooldown_factor(s, epoch);
    if (s->schedule != SCHEDULE_COSINE)
        return epoch < s->warmup ? r->at.rate * epoch / s->warmup : r->at.rate;
    cosine.base_rate = s->rate;
    cosine.minimum_rate = s->rate < 1e-4 ? 0.01 * s->rate : 1e-6;
    cosine.warmup_epochs = s->warmup;
    cosine.epochs = (double)s->epochs;
    return lensnet_cosine_rate(&cosine, epoch);
}

static int train_step(run *r, lensnet_error *error)
{
    dataset_split *split = &r->data.split[DATASET_TRAIN];
    const size_t first = (size_t)r->at.step * r->settings.batch;
    const size_t count = run_least(r->settings.batch, split->count - first);
    double start = system_seconds(), ready, norm;
    const dataset_batch images = {r->images, r->labels, r->maps};
    lensnet_target dense;
    lensnet_batch batch = batch_of(r, count, &dense);
    lensnet_outputs outputs;
    lensnet_result result;
    if (!dataset_fetch(&images, split, r->order, first, count, &r->learn_images, error)) return 0;
    dataset_read_ahead(split, r->order, first + count, r->settings.batch);
    ready = system_seconds();
    memset(&outputs, 0, sizeof outputs);
    batch.seed = r->settings.seed;
    batch.step = r->at.epoch * run_steps(r, DATASET_TRAIN) + r->at.step;
    if (lensnet_forward_backward(r->learn, &batch, &outputs, error)) return 0;
    result = lensnet_adamw_step(r->adamw, learning_rate(r), &norm, error);
    if (result == LENSNET_ERROR_NUMBER)
        return dataset_fail(error,
                            "epoch %llu, step %llu: the gradient is not finite (loss %g); begin "
                            "anew with a lower --rate, or with --clip 1",
                            (unsigned long long)r->at.epoch + 1, (unsigned long long)r->at.step + 1,
                            outputs.loss);
    if (result) return 0;
    r->at.loss_sum += outputs.losses[0] * (double)count;
    r->dense_loss =
        r->steps_here ? 0.99 * r->dense_loss + 0.01 * outputs.losses[1] : outputs.losses[1];
    r->at.step++;
    r->steps_here++;
    r->clock.fetching += ready - start;
    r->clock.stepping += system_seconds() - ready;
    return 1;
}

static int should_stop(const run *r)
{
    return system_interrupted() || system_flush_output() ||
           (r->settings.stop_after && r->steps_here >= r->settings.stop_after);
}

/* The steps of an epoch that are left. */
static int train_epoch(run *r, int *stopped, lensnet_error *error)
{
    const size_t total = run_count(r, DATASET_TRAIN), batch = r->settings.batch;
    const uint64_t steps = run_steps(r, DATASET_TRAIN);
    progress_bar bar;
    char title[48], note[96], left[24];
    int good = 1;
    dataset_shuffle(r->order, total, r->settings.seed, r->at.epoch);
    r->learn_images.epoch = r->at.epoch;
    r->clock.fetching = r->clock.stepping = 0;
    snprintf(title, sizeof title, "epoch %llu/%llu", (unsigned long long)r->at.epoch + 1,
             (unsigned long long)r->settings.epochs);
    progress_start(&bar, run_least((size_t)r->at.step * batch, total));
    while (good && !(*stopped = should_stop(r)) && r->at.step < steps) {
        size_t done;
        double rate, later = (double)(r->settings.epochs - r->at.epoch - 1) * (double)total;
        good = train_step(r, error);
        done = run_least((size_t)r->at.step * batch, total);
        rate = progress_rate(&bar, done);
        system_duration(left, rate > 0 ? ((double)(total - done) + later) / rate : 0);
        snprintf(note, sizeof note, "loss %.4f  dense %.4f  all: %s left",
                 r->at.loss_sum / (double)(done ? done : 1), r->dense_loss, left);
        progress_show(&bar, title, done, total, note);
        if (good && system_seconds() - r->clock.saved > TRAIN_SAVE_SECONDS)
            good = state_save(r, error);
    }
    progress_end(&bar);
    return good;
}

/* Softmax in double, rounded to float: ties are those of float probabilities. */
static void softmax(double *scores, const float *logits, size_t classes)
{
    double most = logits[0], sum = 0;
    size_t k;
    for (k = 1; k < classes; k++)
        if (logits[k] > most) most = logits[k];
    for (k = 0; k < classes; k++) sum += scores[k] = lensnet_exp(logits[k] - most);
    for (k = 0; k < classes; k++) scores[k] = (float)(scores[k] / sum);
}

/* Loss and scores of the validation split; its labels come to stand in r->labels. */
static int validate(run *r, double *loss, int *stopped, lensnet_error *error)
{
    dataset_split *split = &r->data.split[DATASET_VAL];
    const size_t classes = r->data.classes.count;
    size_t first, i, count;
    progress_bar bar;
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    batch.images = r->images;
    batch.channels = (size_t)r->check_images.preprocess.channels;
    *loss = 0;
    progress_start(&bar, 0);
    for (first = 0; first < split->count && !(*stopped = system_interrupted()); first += count) {
        const dataset_batch images = {r->images, r->labels + first, NULL};
        count = run_least(r->settings.batch, split->count - first);
        if (!dataset_fetch(&images, split, NULL, first, count, &r->check_images, error)) return 0;
        dataset_read_ahead(split, NULL, first + count, r->settings.batch);
        memset(&outputs, 0, sizeof outputs);
        outputs.logits = r->logits;
        batch.count = count;
        batch.labels = r->labels + first;
        if (lensnet_forward(r->check, &batch, &outputs, error)) return 0;
        *loss += outputs.loss * (double)count;
        for (i = 0; i < count; i++)
            softmax(r->scores + (first + i) * classes, r->logits + i * classes, classes);
        progress_show(&bar, "validation", first + count, split->count, "");
    }
    progress_end(&bar);
    *loss /= (double)split->count;
    return 1;
}

static int history_save(run *r, lensnet_error *error)
{
    svg_sheet s;
    history_text(&s, &r->at);
    return !svg_save(&s, r->history_csv, error) &&
           !report_history(r->history_svg, r->at.rows, (size_t)r->at.epoch, error);
}

static void print_epoch(const run *r, const report_epoch *e, double seconds)
{
    char text[24];
    double busy = r->clock.fetching + r->clock.stepping;
    printf(
        "epoch %*d/%llu  loss %.4f  validation: loss %.4f  AUC %.4f  accuracy %.4f  rate %.3g  %s  "
        "loading %.1f %%%s\n",
        r->settings.epochs > 99 ? 3 : 2, e->epoch, (unsigned long long)r->settings.epochs,
        e->train_loss, e->val_loss, e->val_auc, e->val_accuracy, e->rate,
        system_duration(text, seconds), busy > 0 ? 100 * r->clock.fetching / busy : 0,
        e->best ? "  best" : "");
    system_flush_output();
}

/* With --average the moving average of the weights is what is judged and kept. */
static int swap_average(run *r, lensnet_error *error)
{
    return r->settings.average <= 0 || !lensnet_adamw_swap_average(r->adamw, error);
}

/* Validation figures of the epoch that has ended; the best weights so far are saved. */
static int judge_epoch(run *r, report_epoch *row, int *stopped, lensnet_error *error)
{
    lensnet_metrics metrics;
    if (!validate(r, &row->val_loss, stopped, error)) return 0;
    if (*stopped) return 1;
    if (lensnet_metrics_compute(&metrics, r->scores, r->labels, run_count(r, DATASET_VAL),
                                r->data.classes.count, &r->host, error))
        return 0;
    row->val_auc = metrics.auc_ovr_macro;
    row->val_accuracy = metrics.accuracy;
    row->best = row->val_auc > r->at.best_auc;
    lensnet_metrics_release(&metrics);
    if (!row->best) return 1;
    r->at.best_auc = row->val_auc;
    return !lensnet_model_save(r->model, r->best, r->settings.type, error);
}

/* After the last step of an epoch: validation, schedule, history, best and last state. */
static int finish_epoch(run *r, double started, int *stopped, lensnet_error *error)
{
    run_position *at = &r->at;
    report_epoch *row = &at->rows[at->epoch];
    int good;
    memset(row, 0, sizeof *row);
    good = swap_average(r, error) && judge_epoch(r, row, stopped, error) && swap_average(r, error);
    if (!good || *stopped) return good;
    row->epoch = (int)at->epoch + 1;
    row->train_loss = at->loss_sum / (double)run_count(r, DATASET_TRAIN);
    at->step--; /* the rate of the epoch's last step */
    row->rate = learning_rate(r);
    at->step++;
    if (r->settings.schedule == SCHEDULE_PLATEAU &&
        lensnet_plateau_step(&at->plateau, &at->rate, row->val_loss, error))
        return 0;
    at->epoch++;
    at->step = 0;
    at->loss_sum = 0;
    good = history_save(r, error) && state_save(r, error);
    print_epoch(r, row, system_seconds() - started);
    return good;
}

/* ---- the end ---- */

static int save_folder(const run *r, lensnet_error *error)
{
    lensnet_load_options load = lensnet_load_defaults();
    lensnet_model *model;
    int good;
    load.gradients = 0;
    load.host = &r->host;
    if (!system_make_folder(r->folder))
        return dataset_fail(error, "%s: the folder cannot be made: %s", r->folder, strerror(errno));
    if (lensnet_model_load(&model, r->best, &load, NULL, error)) return 0;
    good = !huggingface_save(model, r->folder, error);
    lensnet_model_destroy(model);
    return good;
}

/* How the best epoch does on images that had no part in choosing it. */
static int finish(run *r, lensnet_error *error)
{
    lensnet_classifier_options choice = lensnet_classifier_defaults();
    lensnet_classifier *classifier = NULL;
    svg_sheet text;
    evaluation e;
    int good;
    if (r->at.best_auc < 0)
        return dataset_fail(error,
                            "no epoch had a validation AUC, so there is no best one to keep");
    memset(&e, 0, sizeof e);
    memset(&text, 0, sizeof text);
    run_release_training(r);
    choice.host = &r->host;
    good = !lensnet_classifier_load(&classifier, r->best, &choice, error) &&
           evaluation_run(&e, classifier, &r->data.split[DATASET_TEST],
                          run_least(r->settings.batch, 32), r->settings.threads, error) &&
           evaluation_text(&text, &e, error) && evaluation_write(&e, r->settings.out, error) &&
           (!r->settings.folder || save_folder(r, error));
    if (good && !text.failed)
        printf("\nbest epoch on the test split, %zu images:\n\n%s", e.count, text.bytes);
    if (!good && system_interrupted())
        dataset_fail(
            error,
            "interrupted in the final test; the trained weights are %s, and train --resume "
            "--out %s repeats the test",
            r->best, r->settings.out);
    free(text.bytes);
    evaluation_free(&e);
    lensnet_classifier_destroy(classifier);
    return good;
}

static int train_all(run *r, int *stopped, lensnet_error *error)
{
    char text[24];
    double started = system_seconds();
    r->clock.saved = started;
    while (r->at.epoch < r->settings.epochs) {
        double epoch_started = system_seconds();
        if (!train_epoch(r, stopped, error)) return 0;
        if (!*stopped && !finish_epoch(r, epoch_started, stopped, error)) return 0;
        if (!*stopped) continue;
        if (!state_save(r, error)) return 0;
        printf("stopped in epoch %llu after step %llu and saved; go on with:\n"
               "  train --resume --out %s\n",
               (unsigned long long)r->at.epoch + 1, (unsigned long long)r->at.step,
               r->settings.out);
        return 1;
    }
    if (!finish(r, error)) return 0;
    printf("\ntook %s (expected ", system_duration(text, system_seconds() - started));
    printf("%s) and %.0f MB (expected %.0f MB); everything is in %s\n",
           system_duration(text, r->clock.total), system_peak_bytes() / 1e6,
           r->expected_bytes / 1e6, r->settings.out);
    return 1;
}

/* ---- the beginning ---- */

static int check_new(const run *r, lensnet_error *error)
{
    return !run_folder_has_state(&r->states) ||
           dataset_fail(error,
                        "%s: there is a run already; add --resume to go on with it, or choose "
                        "another --out",
                        r->states.last);
}

/* Options, from the command line alone or also from the state of a stopped run. */
static int begin_options(run *r, lensnet_archive **state, lensnet_error *error)
{
    const char *data;
    if (!run_name_files(r, train_value(OPTION_OUT)->value, error)) return 0;
    if (!train_value(OPTION_RESUME)->given) {
        if (!check_new(r, error)) return 0;
        train_choose_recipe();
        train_apply_recipe();
        return 1;
    }
    if ((system_is_folder(train_value(OPTION_OUT)->value) && !run_folder_lock(&r->states, error)) ||
        !run_folder_open_state(state, &r->resumed, &r->states, &r->host, error) ||
        !train_restore_options(*state, r->resumed, &r->texts, error))
        return 0;
    data = lensnet_archive_metadata(*state, "train.data");
    return r->data_path || !data || run_keep(r, &r->data_path, system_copy(data), error);
}

/* Everything up to the first step. */
static int begin(run *r, lensnet_error *error)
{
    lensnet_archive *state = NULL;
    const char *weights = NULL; /* what the model is loaded from */
    int same_labels = 0, good = begin_options(r, &state, error) && data_open(r, error);
    if (good) {
        weights = state ? r->resumed : train_value(OPTION_WEIGHTS)->value;
        if (strcmp(weights, "none") == 0) weights = NULL;
        good = !weights || model_peek(r, weights, &same_labels, error);
    }
    if (good) {
        train_read_settings(&r->settings);
        r->at.plateau = lensnet_plateau_defaults();
        r->at.plateau.patience = r->settings.patience;
        r->at.rate = r->settings.rate;
        r->at.best_auc = -1;
        r->host.threads = r->settings.threads;
        good = data_prepare(r, error);
    }
    good = good && (weights ? model_load(r, weights, same_labels, error) : model_create(r, error));
    good = good && graphs_plan(r, error) && data_check(r, error) && run_allocate(r, error);
    if (good && state)
        good = state_restore_position(r, state, r->resumed, error) &&
               !lensnet_state_load(r->model, r->adamw, r->resumed, error);
    lensnet_archive_close(state);
    if (good && !system_make_folder(r->settings.out))
        good = dataset_fail(error, "%s: the folder cannot be made: %s; choose another --out",
                            r->settings.out, strerror(errno));
    if (good && access(r->settings.out, W_OK) != 0)
        good = dataset_fail(error, "%s: nothing can be written there: %s; choose another --out",
                            r->settings.out, strerror(errno));
    good = good && run_folder_lock(&r->states, error) && (r->resumed || check_new(r, error));
    if (good) run_folder_clean(r->settings.out);
    return good;
}

int main(int argc, char **argv)
{
    static run r;
    lensnet_error error;
    char text[24];
    int stopped = 0, good, words;
    words = arguments_parse(train_options, OPTION_COUNT, train_usage, argc, argv);
    if (words > 1) arguments_fail("one folder DATA is expected, not also '%s'", argv[2]);
    r.data_path = words ? argv[1] : NULL;
    r.host = lensnet_host_defaults();
    system_catch_interrupts();
    good = begin(&r, &error);
    if (good) {
        forecast_memory(&r);
        describe(&r);
        good = forecast_time(&r, &error);
    }
    if (good) {
        printf("time         %s expected (%.1f images/s, loading %.1f %%)\n\n",
               system_duration(text, r.clock.total),
               (double)r.settings.batch / (r.clock.step + r.clock.fetch),
               100 * r.clock.fetch / (r.clock.step + r.clock.fetch));
        system_flush_output();
    }
    system_begin_work();
    good = good && train_all(&r, &stopped, &error);
    if (good && system_flush_output())
        good = dataset_fail(&error,
                            "the standard output cannot be written: %s; all is saved, go on with "
                            "train --resume --out %s",
                            system_flush_output(), r.settings.out);
    run_release(&r);
    if (!good) fprintf(stderr, "error: %s\n", error.text);
    if (system_interrupted() && (stopped || !good)) return 130;
    return !good;
}
