/* train_other.h - what differs where the network that is trained is not ConvNeXt V2. A part of train.c. */
#ifndef TRAIN_OTHER_H
#define TRAIN_OTHER_H

#include "backbones.h"
#include "train_run.h"

/* What stands before the variant's name in a sentence. */
static const char *other_kind(const lensnet_model_desc *desc)
{
    return desc->architecture ? "" : "ConvNeXt V2 ";
}

/* ---- running statistics of batch norm ---- */

static int other_has_statistics(const lensnet_parameters *parameters)
{
    size_t i;
    for (i = 0; i < lensnet_parameters_count(parameters); i++)
        if (lensnet_parameters_info(parameters, i).statistic) return 1;
    return 0;
}

/* Whatever tries a pass moves them, and a run must not depend on what was tried: a copy of all values, NULL where
 * there are no statistics. */
static int other_keep_statistics(float **kept, const run *r, lensnet_error *error)
{
    lensnet_parameters *parameters = lensnet_model_parameters(r->model);
    const size_t bytes = lensnet_parameters_size(parameters) * sizeof **kept;
    *kept = NULL;
    if (!other_has_statistics(parameters)) return 1;
    *kept = (float *)malloc(bytes);
    if (!*kept) return dataset_no_memory(error);
    memcpy(*kept, lensnet_parameters_values(parameters), bytes);
    return 1;
}

static void other_put_back(float *kept, const run *r)
{
    lensnet_parameters *parameters = lensnet_model_parameters(r->model);
    if (!kept) return;
    memcpy(lensnet_parameters_values(parameters), kept,
           lensnet_parameters_size(parameters) * sizeof *kept);
    lensnet_parameters_changed(parameters);
    free(kept);
}

/* ---- what cannot be had ---- */

/* The model is there; nothing was written yet. */
static int other_check(const run *r, lensnet_error *error)
{
    if (r->settings.shards > 1 && other_has_statistics(lensnet_model_parameters(r->model)))
        return dataset_fail(error,
                            "--shards: %s has batch norm, whose statistics are those of the whole "
                            "batch, so no part of it can be computed apart; leave --shards at 1",
                            r->settings.variant);
    return 1;
}

#endif
