/* train_network.h - the network of a run, its graphs and losses, and all the memory that training takes.
 * A part of train.c. */
#ifndef TRAIN_NETWORK_H
#define TRAIN_NETWORK_H

#include "soft_targets.h"
#include "train_images.h"
#include "train_other.h"
#include "weights.h"

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
    if (weights_model(&model, path, &load, NULL, error)) return 0;
    weights_print_notes(path, lensnet_model_notes(model));
    desc = lensnet_model_description(model);
    *same_labels = dataset_relabel(&r->data, desc->labels, desc->classes);
    r->known = weights_known(desc, *same_labels);
    name = lensnet_model_variant_name(desc);
    if (variant->value && strcmp(variant->value, name) != 0)
        good = dataset_fail(error,
                            "%s: these are weights of %s%s, not of %s; give others, or "
                            "--variant %s, or --weights none to start from random ones",
                            path, other_kind(desc), name, variant->value, name);
    variant->value = name; /* static storage */
    snprintf(number, sizeof number, "%d", r->known.image_size);
    if (good && !size->value) good = run_keep(r, &size->value, system_copy(number), error);
    snprintf(number, sizeof number, "%d", r->known.crop);
    if (good && !crop->value) good = run_keep(r, &crop->value, system_copy(number), error);
    if (!normalise->value) normalise->value = lensnet_normalisation_text(r->known.normalisation);
    snprintf(number, sizeof number, "%d", r->known.bands);
    if (good && !bands->value) good = run_keep(r, &bands->value, system_copy(number), error);
    if (!stretch->value) stretch->value = lensnet_stretch_text(r->known.stretch);
    lensnet_model_destroy(model);
    return good;
}

/* What learns the map with --dense: a head on stage 3, the one whose pixels are 16 wide. */
static const lensnet_head dense_heads[1] = {{"dense", 2, DENSE_PARTS *DENSE_PARTS}};

/* The way of the images to the network, and what later users should know of them. */
static lensnet_preprocess model_preprocess(const train_settings *s, const lensnet_preprocess *known)
{
    lensnet_preprocess p = *known;
    if (p.image_size != s->image_size) p.resized = 0;
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
    if (backbone_variant(&desc, s->variant, error)) return 0;
    desc.classes = r->data.classes.count;
    desc.labels = (const char *const *)r->data.classes.items;
    desc.drop_path_rate = (float)s->drop_path;
    desc.seed = s->seed;
    desc.preprocess = model_preprocess(s, &r->known);
    desc.heads = dense_heads;
    desc.head_count = s->dense > 0;
    desc.host = &r->host;
    return !lensnet_model_create(&r->model, &desc, error);
}

static int model_load(run *r, const char *path, int same_labels, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    lensnet_load_options load = lensnet_load_defaults();
    const lensnet_preprocess preprocess = model_preprocess(s, &r->known);
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
    return !weights_model(&r->model, path, &load, &r->fresh_head, error);
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
    loss.class_weights = r->class_weights;
    network = lensnet_model_record(r->learn, r->model);
    lensnet_cross_entropy(r->learn, network.logits, &loss);
    if (r->settings.dense > 0)
        lensnet_squared_error(r->learn, network.heads[0], "dense", (float)r->settings.dense);
    return LENSNET_OK;
}

/* The input's side in an epoch. */
static int run_side(const run *r, uint64_t epoch)
{
    const train_settings *s = &r->settings;
    return s->early_size && epoch < s->early_epochs ? s->early_size : s->image_size;
}

static lensnet_graph_options graph_options_of(const run *r, int training, uint64_t epoch)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    const int side = training ? run_side(r, epoch) : r->settings.image_size;
    options.height = options.width = (size_t)side;
    options.batch = training ? run_shard_size(r) : r->settings.batch;
    options.memory_limit = r->settings.memory;
    options.micro_batch = training ? r->settings.at_once : 0;
    options.precision = r->settings.precision;
    options.training = training;
    return options;
}

/* The graph that learns, as it is in this epoch. */
static int learn_plan(run *r, uint64_t epoch, lensnet_error *error)
{
    const lensnet_graph_options options = graph_options_of(r, 1, epoch);
    return !graph_record(r, &options, error) &&
           !lensnet_graph_plan(r->learn, &r->learn_plan, error);
}

/* Both graphs, planned but without memory yet. */
static int graphs_plan(run *r, lensnet_error *error)
{
    const lensnet_graph_options options = graph_options_of(r, 0, 0);
    const lensnet_loss plain = lensnet_loss_defaults();
    return learn_plan(r, r->settings.early_size ? r->settings.early_epochs : 0, error) &&
           !lensnet_model_graph(&r->check, r->model, &options, &plain, error) &&
           !lensnet_graph_plan(r->check, &r->check_plan, error);
}

/* Brings graph and images to the size of the epoch that begins. A crop of native pixels grows with it. */
static int learn_resize(run *r, uint64_t epoch, lensnet_error *error)
{
    lensnet_preprocess *p = &r->learn_images.preprocess;
    const int side = run_side(r, epoch), native = r->settings.crop == r->settings.image_size;
    if (p->image_size == side) return 1;
    p->image_size = side;
    if (native) p->crop = side;
    lensnet_graph_destroy(r->learn);
    r->learn = NULL;
    return learn_plan(r, epoch, error) && !lensnet_graph_allocate(r->learn, error);
}

/* ---- the teacher ---- */

static int teacher_agrees(const run *r, const lensnet_model_desc *desc)
{
    const lensnet_preprocess *a = &desc->preprocess;
    const train_settings *s = &r->settings;
    size_t k;
    for (k = 0; k < desc->classes && k < r->data.classes.count; k++)
        if (strcmp(desc->labels[k], r->data.classes.items[k]) != 0) return 0;
    return desc->classes == r->data.classes.count && a->image_size == s->image_size &&
           a->crop == s->crop && a->normalisation == s->normalisation && !s->early_size;
}

static int teacher_open(run *r, lensnet_error *error)
{
    lensnet_load_options load = lensnet_load_defaults();
    const lensnet_graph_options options = graph_options_of(r, 0, 0);
    if (!r->settings.teacher) return 1;
    load.gradients = 0;
    load.host = &r->host;
    if (weights_model(&r->teacher, r->settings.teacher, &load, NULL, error)) return 0;
    if (!teacher_agrees(r, lensnet_model_description(r->teacher)))
        return dataset_fail(
            error,
            "%s: a teacher must have the classes, --size, --crop and --normalise of "
            "what it teaches, and --early-size must be 0",
            r->settings.teacher);
    return !lensnet_model_graph(&r->teaching, r->teacher, &options, NULL, error) &&
           !lensnet_graph_plan(r->teaching, NULL, error) &&
           !lensnet_graph_allocate(r->teaching, error);
}

/* ---- the loss ---- */

/* Every class as if it had the mean number of images. */
static void balance_classes(run *r)
{
    const dataset_split *split = &r->data.split[DATASET_TRAIN];
    const size_t classes = r->data.classes.count;
    size_t k;
    for (k = 0; k < classes; k++) {
        size_t size = dataset_class_size(split, (int)k);
        r->class_weights[k] =
            size ? (float)((double)split->count / (double)(classes * size)) : 1.0f;
    }
}

static int parse_class_weights(run *r, const char *text, lensnet_error *error)
{
    const size_t classes = r->data.classes.count;
    char *end;
    size_t k;
    for (k = 0; k < classes; k++, text = end + (*end == ',')) {
        double weight = strtod(text, &end);
        if (end == text || !(weight >= 0 && weight < 1e6) || *end != (k + 1 < classes ? ',' : 0))
            return dataset_fail(
                error, "--class-weights: none, balanced or %zu numbers of 0 or more are expected",
                classes);
        r->class_weights[k] = (float)weight;
    }
    return 1;
}

static int class_weights_make(run *r, lensnet_error *error)
{
    const char *text = r->settings.class_weights;
    if (!text) return 1;
    r->class_weights = (float *)calloc(r->data.classes.count, sizeof *r->class_weights);
    if (!r->class_weights) return dataset_no_memory(error);
    if (strcmp(text, "balanced") != 0) return parse_class_weights(r, text, error);
    balance_classes(r);
    return 1;
}

static lensnet_augmentation augmentation_of(const train_settings *s)
{
    lensnet_augmentation a = lensnet_augmentation_defaults();
    a.share = s->turned;
    if (s->augment != AUGMENT_REFERENCE) {
        a.quarter_turns = s->augment == AUGMENT_D4;
        a.hflip_probability = a.vflip_probability = s->augment == AUGMENT_D4 ? 0.5 : 0;
        a.degrees = a.translate = 0;
        a.minimum_scale = a.maximum_scale = 1;
    }
    if (s->degrees >= 0) a.degrees = s->degrees;
    if (s->shift >= 0) a.translate = s->shift;
    if (s->shear >= 0) a.shear = s->shear;
    if (s->zoom >= 0) {
        a.minimum_scale = 1 - s->zoom;
        a.maximum_scale = 1 + s->zoom;
    }
    return a;
}

/* Does it change anything? */
static int augments(const train_settings *s)
{
    return s->augment != AUGMENT_NONE || s->degrees > 0 || s->shift > 0 || s->zoom > 0 ||
           s->shear > 0;
}

/* AdamW, with a rate of its own for every layer where that was asked for. */
static int adamw_create(run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    lensnet_parameters *parameters = lensnet_model_parameters(r->model);
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    const int large = strcmp(s->variant, "base") == 0 || strcmp(s->variant, "large") == 0 ||
                      strcmp(s->variant, "huge") == 0;
    float *rates = NULL;
    int good = 1;
    desc.weight_decay = s->weight_decay;
    desc.decay_all = s->decay_all;
    desc.clip_norm = s->clip;
    desc.average_decay = s->average;
    if (s->layer_decay < 1 || s->freeze) {
        rates = (float *)calloc(lensnet_parameters_count(parameters), sizeof *rates);
        if (!rates) return dataset_no_memory(error);
        good = !lensnet_model_rates(rates, r->model,
                                    large ? LENSNET_LAYER_DECAY_GROUP : LENSNET_LAYER_DECAY_SINGLE,
                                    s->layer_decay, s->freeze, error);
    }
    desc.rates = rates;
    good = good && !lensnet_adamw_create(&r->adamw, parameters, &desc, error);
    free(rates);
    return good;
}

/* Memory to add shards in. */
static int shards_create(run *r)
{
    const size_t count = lensnet_parameters_size(lensnet_model_parameters(r->model));
    size_t first, end;
    if (r->settings.shards == 1) return 1;
    cluster_share(&first, &end, r->settings.shards);
    r->room = cluster_room(r->settings.shards, count);
    return r->room && shards_allocate(&r->sum, first, end, count);
}

/* Everything that training needs beside the model. */
static int run_allocate(run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    const size_t classes = r->data.classes.count;
    const size_t side = (size_t)(s->early_size > s->image_size ? s->early_size : s->image_size);
    const int soft = s->mixup > 0 || s->cutmix > 0 || s->teacher;
    r->check_images.preprocess = dataset_grey(lensnet_model_description(r->model)->preprocess);
    r->check_images.seed = s->seed;
    r->check_images.threads = s->threads;
    r->learn_images = r->check_images;
    r->augmentation = augmentation_of(s);
    if (augments(s)) r->learn_images.augmentation = &r->augmentation;
    r->images = (float *)calloc(
        s->batch * side * side * (size_t)r->check_images.preprocess.channels, sizeof *r->images);
    if (s->dense > 0) r->maps = (float *)calloc(s->batch * dense_size(side), sizeof *r->maps);
    if (soft) r->targets = (float *)calloc(s->batch * classes, sizeof *r->targets);
    r->logits = (float *)calloc(s->batch * classes, sizeof *r->logits);
    r->labels = (int *)calloc(s->batch + run_count(r, DATASET_VAL), sizeof *r->labels);
    r->scores = (double *)calloc(run_count(r, DATASET_VAL) * classes, sizeof *r->scores);
    r->order = (size_t *)calloc(run_count(r, DATASET_TRAIN), sizeof *r->order);
    r->losses = (double *)calloc(s->shards * LENSNET_LOSSES + (size_t)run_steps(r, DATASET_VAL),
                                 sizeof *r->losses);
    r->at.rows = (report_epoch *)calloc((size_t)s->epochs, sizeof *r->at.rows);
    if (!r->images || (s->dense > 0 && !r->maps) || (soft && !r->targets) || !r->logits ||
        !r->labels || !r->scores || !r->order || !r->losses || !r->at.rows || !shards_create(r))
        return dataset_no_memory(error);
    return adamw_create(r, error) && teacher_open(r, error) &&
           !lensnet_graph_allocate(r->learn, error) && !lensnet_graph_allocate(r->check, error);
}

static void run_release_training(run *r)
{
    lensnet_graph_destroy(r->learn);
    lensnet_graph_destroy(r->check);
    lensnet_graph_destroy(r->teaching);
    lensnet_model_destroy(r->teacher);
    lensnet_adamw_destroy(r->adamw);
    lensnet_model_destroy(r->model);
    free(r->images);
    free(r->maps);
    free(r->targets);
    free(r->class_weights);
    free(r->logits);
    free(r->labels);
    free(r->scores);
    free(r->order);
    free(r->losses);
    free(r->room);
    shards_free(&r->sum);
    r->learn = r->check = r->teaching = NULL;
    r->teacher = NULL;
    r->targets = r->class_weights = NULL;
    r->adamw = NULL;
    r->model = NULL;
    r->images = r->maps = r->logits = NULL;
    r->labels = NULL;
    r->scores = NULL;
    r->order = NULL;
    r->losses = NULL;
    r->room = NULL;
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

#endif
