/* train_loop.h - steps, epochs, validation, and what is kept of them.
 * A part of train.c. */
#ifndef TRAIN_LOOP_H
#define TRAIN_LOOP_H

#include "progress.h"
#include "train_forecast.h"
#include "train_state.h"

/* What schedule hold multiplies the rate by at the end: 1 - sqrt(done), which lets a network settle from a
 * high rate better than a line (Haegele et al. 2024, arXiv 2405.18392). */
static double cooldown_factor(const train_settings *s, double epoch)
{
    double left = (double)s->epochs - epoch;
    if (s->schedule != SCHEDULE_HOLD || left >= s->cooldown) return 1;
    return 1 - sqrt(1 - left / s->cooldown);
}

/* --early-stop: the best epoch lies too far back. */
static int gave_up(const run *r)
{
    uint64_t best = 0, i;
    if (!r->settings.early_stop) return 0;
    for (i = 0; i < r->at.epoch; i++)
        if (r->at.rows[i].best) best = i + 1;
    return r->at.epoch >= best + r->settings.early_stop;
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

/* Makes soft targets of the labels of a batch or a shard, whose `images` they are, where they are asked for.
 * Images are mixed with others of the shard. */
static int soften(run *r, lensnet_batch *batch, float *images, float *targets, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    const size_t classes = r->data.classes.count;
    if (!r->targets) return 1;
    soft_labels(targets, batch->labels, batch->count, classes, s->smoothing, r->class_weights);
    if (s->mixup > 0 || s->cutmix > 0)
        soft_mix(images, targets, batch->count, (size_t)r->learn_images.preprocess.image_size,
                 batch->channels, classes, s->mixup, s->cutmix, s->seed, batch->step);
    batch->labels = NULL;
    if (s->teacher) {
        lensnet_outputs outputs;
        memset(&outputs, 0, sizeof outputs);
        outputs.logits = r->logits;
        if (lensnet_forward(r->teaching, batch, &outputs, error)) return 0;
        soft_teach(targets, r->logits, batch->count, classes, s->teacher_share);
    }
    batch->targets = targets;
    return 1;
}

/* A loss that has left where it began by this much will not come back by itself. */
#define DIVERGED_FACTOR 3.0

/* Says once that a run goes wrong; it goes on, and what it judges best is still the best there was. */
static void warn_of_divergence(run *r, double loss)
{
    const double start =
        lensnet_log((double)r->data.classes.count); /* of a network that knows nothing */
    r->recent_loss = r->steps_here > 1 ? 0.95 * r->recent_loss + 0.05 * loss : loss;
    if (r->warned || r->recent_loss < DIVERGED_FACTOR * start) return;
    r->warned = 1;
    fprintf(stderr,
            "\nwarning: epoch %llu, step %llu: the loss is %.3g, far above the %.3g of knowing "
            "nothing; "
            "this run seems to diverge: stop it and begin anew with a lower --rate\n",
            (unsigned long long)r->at.epoch + 1, (unsigned long long)r->at.step, r->recent_loss,
            start);
}

/* What the loss of a batch of `count` images is divided by where classes weigh differently; 0: its images. */
static double batch_weight(const run *r, size_t first, size_t count)
{
    const dataset_split *split = &r->data.split[DATASET_TRAIN];
    double sum = 0;
    size_t i;
    if (!r->class_weights || r->targets) return 0;
    for (i = first; i < first + count; i++)
        sum += (double)r->class_weights[split->files[r->order[i]].label];
    return sum > 0 ? sum : 1; /* nothing counts: any divisor will do */
}

/* Loss and gradient of one shard of a batch of `count` images. This process's images of the batch begin with
 * number `from`. Of a sum that has begun, what is complete is sent. */
static int shard_step(run *r, size_t shard, size_t first, size_t count, size_t from,
                      lensnet_error *error)
{
    const size_t shards = r->settings.shards, classes = r->data.classes.count;
    const size_t side = (size_t)r->learn_images.preprocess.image_size;
    const size_t begin = shards_first(count, shard, shards), skip = begin - from;
    lensnet_parameters *parameters = lensnet_model_parameters(r->model);
    float *gradients = lensnet_parameters_gradients(parameters);
    lensnet_target dense;
    lensnet_batch batch = batch_of(r, shards_first(count, shard + 1, shards) - begin, &dense);
    lensnet_outputs outputs;
    float *images = r->images + skip * side * side * batch.channels;
    memset(&outputs, 0, sizeof outputs);
    if (batch.count) {
        batch.images = images;
        batch.labels += skip;
        if (r->maps) dense.values += skip * dense_size(side);
        batch.seed = r->settings.seed;
        batch.step = r->at.epoch * run_steps(r, DATASET_TRAIN) + r->at.step;
        if (shards > 1) {
            batch.first = begin;
            batch.total = count;
            batch.total_weight = batch_weight(r, first, count);
            batch.complete = cluster_complete;
        }
        if (!soften(r, &batch, images, r->targets ? r->targets + skip * classes : NULL, error) ||
            lensnet_forward_backward(r->learn, &batch, &outputs, error))
            return 0;
    } else {
        memset(gradients, 0, lensnet_parameters_size(parameters) * sizeof *gradients);
    }
    memcpy(r->losses + shard * LENSNET_LOSSES, outputs.losses, sizeof outputs.losses);
    return 1;
}

/* --stop-after: enough. */
static int stop_after(const run *r)
{
    return r->settings.stop_after && r->steps_here >= r->settings.stop_after;
}

/* Does this process wish to stop? */
static int should_stop(void) { return system_interrupted() || system_flush_output() != NULL; }

/* Loss and gradient of a batch: this process's shards, then the sum of all. The sum is under way while the last
 * shard is computed. `losses`: one of each kind. */
static int batch_step(run *r, double losses[LENSNET_LOSSES], size_t first, size_t count,
                      lensnet_error *error)
{
    const size_t shards = r->settings.shards;
    float *gradients = lensnet_parameters_gradients(lensnet_model_parameters(r->model));
    const size_t size = lensnet_parameters_size(lensnet_model_parameters(r->model));
    size_t shard, end, from, to, k;
    int good = 1;
    shards_clear(&r->sum);
    cluster_share(&shard, &end, shards);
    run_share(&from, &to, r, count);
    for (; good && shard + 1 < end; shard++) {
        good = shard_step(r, shard, first, count, from, error);
        if (good) shards_push(&r->sum, shard, gradients, size);
    }
    if (!cluster_meet(good, NULL, error)) return 0;
    if (shards > 1) cluster_begin_sum(gradients, &r->sum, r->room, shards, shard, size);
    good = shard_step(r, shard, first, count, from, error);
    if (shards > 1) cluster_end_sum(good);
    r->stop |= should_stop();
    if (!cluster_meet(good, &r->stop, error)) return 0;
    cluster_gather(r->losses, LENSNET_LOSSES * sizeof *r->losses, shards);
    for (k = 0; k < LENSNET_LOSSES; k++)
        for (losses[k] = r->losses[k], shard = 1; shard < shards; shard++)
            losses[k] += r->losses[shard * LENSNET_LOSSES + k];
    return 1;
}

static int train_step(run *r, lensnet_error *error)
{
    dataset_split *split = &r->data.split[DATASET_TRAIN];
    const size_t first = (size_t)r->at.step * r->settings.batch;
    const size_t count = run_least(r->settings.batch, split->count - first);
    double start = system_seconds(), ready, norm, losses[LENSNET_LOSSES];
    const dataset_batch images = {r->images, r->labels, r->maps};
    lensnet_result result;
    size_t from, end;
    run_share(&from, &end, r, count);
    if (!dataset_fetch(&images, split, r->order, first + from, end - from, &r->learn_images, error))
        return 0;
    run_share(&from, &end, r, r->settings.batch);
    dataset_read_ahead(split, r->order, first + count + from, end - from);
    ready = system_seconds();
    if (!batch_step(r, losses, first, count, error)) return 0;
    result = lensnet_adamw_step(r->adamw, learning_rate(r), &norm, error);
    if (result == LENSNET_ERROR_NUMBER)
        return dataset_fail(error,
                            "epoch %llu, step %llu: the gradient is not finite (loss %g); begin "
                            "anew with a lower --rate, or with --clip 1",
                            (unsigned long long)r->at.epoch + 1, (unsigned long long)r->at.step + 1,
                            losses[0]);
    if (result) return 0;
    r->at.loss_sum += losses[0] * (double)count;
    r->dense_loss = r->steps_here ? 0.99 * r->dense_loss + 0.01 * losses[1] : losses[1];
    r->at.step++;
    r->steps_here++;
    warn_of_divergence(r, losses[0]);
    r->clock.fetching += ready - start;
    r->clock.stepping += system_seconds() - ready;
    return 1;
}

/* What the bar says beside its figures. */
static void epoch_note(char *note, size_t capacity, const run *r, size_t done, const char *left)
{
    char dense[32] = "";
    if (r->maps) snprintf(dense, sizeof dense, "dense %.4f  ", r->dense_loss);
    snprintf(note, capacity, "loss %.4f  %sall: %s left",
             r->at.loss_sum / (double)(done ? done : 1), dense, left);
}

/* The steps of an epoch that are left. */
static int train_epoch(run *r, int *stopped, lensnet_error *error)
{
    const size_t total = run_count(r, DATASET_TRAIN), batch = r->settings.batch;
    const uint64_t steps = run_steps(r, DATASET_TRAIN);
    progress_bar bar;
    char title[48], note[96], left[24];
    int good = learn_resize(r, r->at.epoch, error);
    dataset_shuffle(r->order, total, r->settings.seed, r->at.epoch);
    r->learn_images.epoch = r->at.epoch;
    r->clock.fetching = r->clock.stepping = 0;
    snprintf(title, sizeof title, "epoch %llu/%llu", (unsigned long long)r->at.epoch + 1,
             (unsigned long long)r->settings.epochs);
    progress_start(&bar, run_least((size_t)r->at.step * batch, total));
    while (good && !(*stopped = r->stop || stop_after(r)) && r->at.step < steps) {
        size_t done;
        double rate, later = (double)(r->settings.epochs - r->at.epoch - 1) * (double)total;
        good = train_step(r, error);
        done = run_least((size_t)r->at.step * batch, total);
        rate = progress_rate(&bar, done);
        system_duration(left, rate > 0 ? ((double)(total - done) + later) / rate : 0);
        epoch_note(note, sizeof note, r, done, left);
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

/* Losses and scores of the batches of validation images first ... end - 1. */
static int validate_share(run *r, size_t first, size_t end, lensnet_error *error)
{
    dataset_split *split = &r->data.split[DATASET_VAL];
    const size_t classes = r->data.classes.count, batches = r->settings.batch;
    size_t i, count;
    progress_bar bar;
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    batch.images = r->images;
    batch.channels = (size_t)r->check_images.preprocess.channels;
    progress_start(&bar, first);
    for (; first < end && !system_interrupted(); first += count) {
        const dataset_batch images = {r->images, r->labels + first, NULL};
        count = run_least(batches, split->count - first);
        if (!dataset_fetch(&images, split, NULL, first, count, &r->check_images, error)) return 0;
        dataset_read_ahead(split, NULL, first + count, batches);
        memset(&outputs, 0, sizeof outputs);
        outputs.logits = r->logits;
        batch.count = count;
        batch.labels = r->labels + first;
        if (lensnet_forward(r->check, &batch, &outputs, error)) return 0;
        r->losses[first / batches] = outputs.loss;
        for (i = 0; i < count; i++)
            softmax(r->scores + (first + i) * classes, r->logits + i * classes, classes);
        progress_show(&bar, "validation", first + count, end, "");
    }
    progress_end(&bar);
    return 1;
}

/* Loss and scores of the validation split; its labels come to stand in r->labels. Batches are shared out among
 * the processes, and every one gets to know all of them. */
static int validate(run *r, double *loss, int *stopped, lensnet_error *error)
{
    const dataset_split *split = &r->data.split[DATASET_VAL];
    const size_t batch = r->settings.batch, batches = (size_t)run_steps(r, DATASET_VAL);
    size_t first, end, i;
    int good;
    data_check_batches(&first, &end, r);
    good = validate_share(r, first, end, error);
    *stopped = system_interrupted();
    if (!cluster_meet(good, stopped, error)) return 0;
    if (*stopped) return 1;
    cluster_gather(r->losses, sizeof *r->losses, batches);
    cluster_gather_blocks(r->scores, r->data.classes.count * sizeof *r->scores, batch,
                          split->count);
    for (i = 0; i < split->count; i++) r->labels[i] = split->files[i].label;
    for (*loss = 0, i = 0; i < batches; i++)
        *loss += r->losses[i] * (double)run_least(batch, split->count - i * batch);
    *loss /= (double)split->count;
    return 1;
}

static int history_save(run *r, lensnet_error *error)
{
    sheet s;
    if (!cluster_leads()) return 1;
    history_text(&s, &r->at);
    return !sheet_save(&s, r->history_csv, error) &&
           !report_history(r->history_svg, r->at.rows, (size_t)r->at.epoch, error);
}

static void print_epoch(const run *r, const report_epoch *e, double seconds)
{
    char text[24], line[3][200];
    const char *const forms[3] = {line[0], line[1], line[2]}, *best = e->best ? "  best" : "";
    const int digits = r->settings.epochs > 99 ? 3 : 2;
    const unsigned long long epochs = (unsigned long long)r->settings.epochs;
    double busy = r->clock.fetching + r->clock.stepping;
    system_duration(text, seconds);
    snprintf(
        line[0], sizeof line[0],
        "epoch %*d/%llu  loss %.4f  validation: loss %.4f  AUC %.4f  accuracy %.4f  rate %.3g  "
        "%s  loading %.1f %%%s",
        digits, e->epoch, epochs, e->train_loss, e->val_loss, e->val_auc, e->val_accuracy, e->rate,
        text, busy > 0 ? 100 * r->clock.fetching / busy : 0, best);
    snprintf(line[1], sizeof line[1], "epoch %*d/%llu  loss %.4f, %.4f  AUC %.4f  acc. %.4f  %s%s",
             digits, e->epoch, epochs, e->train_loss, e->val_loss, e->val_auc, e->val_accuracy,
             text, best);
    snprintf(line[2], sizeof line[2], "%*d/%llu  AUC %.4f  %s%s", digits, e->epoch, epochs,
             e->val_auc, text, best);
    progress_print_fitting(forms, 3);
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
    if (row->val_auc < 0.52)
        printf("note: an AUC of %.3f is chance; the network has learned nothing yet\n",
               row->val_auc);
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

#endif
