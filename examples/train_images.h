/* train_images.h - the images of a run: files, simulated ones, or both.
 * A part of train.c. */
#ifndef TRAIN_IMAGES_H
#define TRAIN_IMAGES_H

#include "train_run.h"

/* Lists files, or names the classes to be simulated. */
static int data_open(run *r, lensnet_error *error)
{
    dataset_reading reading;
    const size_t simulate = (size_t)arguments_whole(train_value(OPTION_SIMULATE), 0, 100000000);
    if (!simulate && !r->data_path)
        arguments_fail("there is nothing to train on: name a folder DATA, or say --simulate 3000; "
                       "--help says more");
    reading_from_options(&reading, train_options, OPTION_COUNT);
    if (!simulate || strcmp(train_value(OPTION_MIX)->value, "yes") == 0)
        return (r->data_path || dataset_fail(error, "--mix yes needs a folder DATA")) &&
               dataset_open_as(&r->data, r->data_path, &reading, error);
    if (simulate < 2 * SIM_CLASSES)
        return dataset_fail(error, "--simulate %zu: 6 images or more are needed", simulate);
    if (!simulated_classes(&r->data.classes, error)) return 0;
    r->data.split[DATASET_VAL].reading = r->data.split[DATASET_TEST].reading = reading;
    return !r->data_path || dataset_list_held_out(&r->data, r->data_path, 1, error);
}

/* Adds images to be simulated to a split. */
static int data_simulate(run *r, dataset_kind kind, size_t count, lensnet_error *error)
{
    uint64_t seed =
        lensnet_random_bits(r->settings.seed, lensnet_random_stream("simulate"), (uint64_t)kind);
    int k;
    for (k = 0; k < SIM_CLASSES; k++)
        if (dataset_find_class(&r->data.classes, sim_class_names[k]) < 0)
            return dataset_fail(error,
                                "%s: it has no class '%s', so simulated images of it cannot join",
                                r->data_path, sim_class_names[k]);
    return simulated_open(&r->simulators[kind], &r->data.split[kind], &r->data.classes, count, seed,
                          kind == DATASET_TRAIN, r->settings.ease, r->settings.heavy,
                          r->settings.threads, error);
}

/* After the settings are known: simulators, limits, room in the cache. */
static int data_prepare(run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    int kind, good = 1;
    for (kind = 0; kind < DATASET_SPLITS; kind++)
        if (s->limit) dataset_limit(&r->data.split[kind], s->limit);
    if (s->simulate) good = data_simulate(r, DATASET_TRAIN, s->simulate, error);
    if (s->simulate && !r->data_path)
        good = good && data_simulate(r, DATASET_VAL, s->held_out, error) &&
               data_simulate(r, DATASET_TEST, s->held_out, error);
    for (kind = 0; kind < DATASET_SPLITS; kind++)
        r->data.split[kind].reading.bands = (size_t)s->bands;
    /* Validation images come first: they are the same in every epoch. */
    r->data.split[DATASET_VAL].cache_left = s->cache;
    return good && dataset_describe(&r->settings.source_size, &r->settings.pixel_scale,
                                    &r->data.split[DATASET_TRAIN], error);
}

/* Of the validation images this process looks at whole batches: those from `first` to `end`. */
static void data_check_batches(size_t *first, size_t *end, const run *r)
{
    const size_t batch = r->settings.batch, count = run_count(r, DATASET_VAL);
    cluster_share(first, end, (size_t)run_steps(r, DATASET_VAL));
    *first = run_least(*first * batch, count);
    *end = run_least(*end * batch, count);
}

/* This process's share of the files. */
static int data_check_share(run *r, dataset_kind kind, lensnet_error *error)
{
    size_t first, end;
    cluster_share(&first, &end, run_count(r, kind));
    if (kind == DATASET_VAL) data_check_batches(&first, &end, r);
    return dataset_check_range(&r->data.split[kind], first, end, r->settings.threads, error);
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
    good = data_check_share(r, DATASET_VAL, error);
    split[DATASET_TRAIN].cache_left = split[DATASET_VAL].cache_left;
    if (!split[DATASET_VAL].source) split[DATASET_VAL].cache_left = 0;
    good = good && data_check_share(r, DATASET_TRAIN, error) &&
           data_check_share(r, DATASET_TEST, error);
    if (files && system_is_terminal(stderr)) fprintf(stderr, "%40s\r", "");
    if (!cluster_meet(good, NULL, error)) return 0;
    for (kind = 0; kind < DATASET_SPLITS; kind++) cluster_count(&split[kind].contents);
    return 1;
}

#endif
