/* train_forecast.h - what a run will take, tried before it begins, and said.
 * A part of train.c. */
#ifndef TRAIN_FORECAST_H
#define TRAIN_FORECAST_H

#include "train_network.h"

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

/* Seconds to add the shards, of which every process has the same number here. */
static int forecast_sum(run *r, double *seconds, lensnet_error *error)
{
    const size_t count = lensnet_parameters_size(lensnet_model_parameters(r->model));
    float *gradients = lensnet_parameters_gradients(lensnet_model_parameters(r->model));
    double start;
    size_t first, end;
    *seconds = 0;
    if (r->settings.shards == 1) return 1;
    if (!cluster_meet(1, NULL, error)) return 0;
    start = system_seconds();
    shards_clear(&r->sum);
    cluster_share(&first, &end, r->settings.shards);
    for (; first + 1 < end; first++) shards_push(&r->sum, first, gradients, count);
    cluster_begin_sum(gradients, &r->sum, r->room, r->settings.shards, first, count);
    cluster_end_sum(1);
    *seconds = system_seconds() - start;
    return 1;
}

/* Tries everything that an epoch does on the first images, without a step of the optimiser. */
static int forecast_time(run *r, lensnet_error *error)
{
    const size_t shard = run_least(run_shard_size(r), run_count(r, DATASET_TRAIN));
    const size_t check = run_least(r->settings.batch, run_count(r, DATASET_VAL));
    const double epochs = (double)(r->settings.epochs - r->at.epoch);
    double adamw, sum, pass, fetch, image, steps;
    run_clock *c = &r->clock;
    size_t batch, first;
    float *kept;
    int good;
    run_share(&first, &batch, r, run_least(r->settings.batch, run_count(r, DATASET_TRAIN)));
    batch -= first;
    if (!other_keep_statistics(&kept, r, error)) return 0;
    good = forecast_adamw(r, &adamw, error) &&
           forecast_fetch(r, DATASET_TRAIN, batch, &c->fetch, error) &&
           forecast_batch(r, 1, shard, &c->step, error) && forecast_sum(r, &sum, error) &&
           forecast_fetch(r, DATASET_VAL, check, &fetch, error) &&
           forecast_batch(r, 0, check, &pass, error);
    other_put_back(kept, r);
    if (!good) return 0;
    c->step = c->step * (double)batch / (double)shard + adamw + sum;
    image = (pass + fetch) / (double)check / (double)cluster.ranks;
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
    r->expected_bytes =
        (double)r->learn_plan.bytes + (double)r->check_plan.bytes -
        (double)r->check_plan.packed_bytes + (r->settings.average > 0 ? 20 : 16) * weights +
        (r->settings.shards > 1 ? 4 * (r->sum.room + 1) : 0) * weights + batch + cached + 5e6;
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
    printf("network      %s%s, %zu weights, ", other_kind(desc), s->variant,
           lensnet_model_weights(desc));
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
           lensnet_isa_text(lensnet_isa_in_use(&r->host)), system_threads(s->threads),
           r->learn_plan.micro_batch);
    if (s->shards > 1)
        printf("shards       %zu of a batch, computed by %d process%s\n", s->shards, cluster.ranks,
               cluster.ranks > 1 ? "es" : "");
    printf("memory       %.0f MB expected%s\n", r->expected_bytes / 1e6,
           cluster.ranks > 1 ? " by each" : "");
    system_flush_output();
}

#endif
