/* train_state.h - the training state: everything that a run needs to go on with the same bits.
 * A part of train.c. */
#ifndef TRAIN_STATE_H
#define TRAIN_STATE_H

#include "train_run.h"

/* The history as CSV: a file of its own, and a line of the state. */
static void history_text(sheet *s, const run_position *at)
{
    uint64_t i;
    memset(s, 0, sizeof *s);
    sheet_add(s, "epoch,train_loss,val_loss,val_auc_macro_ovr,val_accuracy,learning_rate,best\n");
    for (i = 0; i < at->epoch; i++) {
        const report_epoch *e = &at->rows[i];
        sheet_add(s, "%d,%.9g,%.9g,%.9g,%.9g,%.9g,%d\n", e->epoch, e->train_loss, e->val_loss,
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
    sheet history;
    int i, good;
    if (!cluster_leads()) return 1;
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
    state_add(&p, "history", history.text ? history.text : "");
    good = (!history.failed || dataset_no_memory(error)) && run_folder_keep(&r->states, error) &&
           !lensnet_state_save(r->model, r->adamw, p.pairs, p.count, r->states.last, error);
    sheet_clear(&history);
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

/* A count among them: what no int holds is damage too. */
static int state_count(const lensnet_archive *state, const char *key, int *good)
{
    const double value = state_number(state, key, good);
    if (value >= 0 && value <= 1e9) return (int)value;
    *good = 0;
    return 0;
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
    at->plateau.bad_epochs = state_count(state, "plateau_bad_epochs", &good);
    at->plateau.cooldown_left = state_count(state, "plateau_cooldown", &good);
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

#endif
