/* train_run.h - what train.c works on: a run, where it stands, how long things take.
 * A part of train.c. */
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

#include "cluster.h"
#include "evaluation.h"
#include "provenance.h"
#include "repeats.h"
#include "run_folder.h"
#include "simulated.h"
#include "train_settings.h"

#define TRAIN_SAVE_SECONDS 600.0 /* the state is saved at least this often */

enum {
    TRAIN_PAIRS = 128, /* lines of metadata in a state */
    TRAIN_NUMBER = 32  /* characters of a number in them */
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
    provenance from;
    lensnet_model *model;
    lensnet_adamw *adamw;
    lensnet_graph *learn, *check; /* forward and backward; forward only. They share the model. */
    lensnet_plan learn_plan, check_plan;
    int fresh_head;
    lensnet_preprocess known; /* what the starting weights say of their images */
    lensnet_augmentation augmentation;
    dataset_recipe learn_images, check_images;
    float *images, *logits; /* of a batch */
    float *maps;            /* of a batch, the dense targets; NULL without --dense */
    float *targets;         /* of a batch, soft ones; NULL where labels will do */
    float *class_weights;   /* NULL: all 1 */
    lensnet_model *teacher; /* NULL: none */
    lensnet_graph *teaching;
    int *labels;    /* of a batch, or of all validation images */
    double *scores; /* of all validation images */
    size_t *order;  /* of the training images in the epoch under way */
    run_position at;
    run_clock clock;
    shards_sum sum; /* of the gradients of this process's shards; unused with one shard */
    float *room;    /* to add those of other processes */
    double *losses; /* LENSNET_LOSSES of each shard, or one of each batch of validation images */
    int stop;       /* all processes have agreed to stop */
    const char
        *again;    /* the --out that --resume goes on with: of all seeds, where there are several */
    repeat tested; /* how the best epoch does on the test images */
    uint64_t steps_here; /* since the program began */
    double recent_loss;  /* the same for the loss itself */
    int warned;          /* that it diverges */
    double dense_loss;   /* of the last steps: one part in a hundred of the newest */
    double expected_bytes;
} run;

static size_t run_count(const run *r, dataset_kind kind) { return r->data.split[kind].count; }

static size_t run_least(size_t a, size_t b) { return a < b ? a : b; }

/* Images of the largest shard. */
static size_t run_shard_size(const run *r)
{
    return (r->settings.batch + r->settings.shards - 1) / r->settings.shards;
}

/* Which of the `count` images of a batch this process computes. */
static void run_share(size_t *from, size_t *end, const run *r, size_t count)
{
    size_t first, last;
    cluster_share(&first, &last, r->settings.shards);
    *from = shards_first(count, first, r->settings.shards);
    *end = shards_first(count, last, r->settings.shards);
}

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

#endif
