/* train.c - trains a ConvNeXt V2, or a network of backbones.h, on a folder of images, or on images from the
 * simulator.
 *
 * cc -O2 -fopenmp examples/train.c -o train -lm
 * ./train DATA                          fine-tunes the weights that are shipped on DATA
 * ./train DATA --recipe scratch         starts from random weights
 * ./train DATA --recipe reference --weights imagenet.safetensors
 * ./train DATA --recipe scratch --variant resnet18                   another network
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
 *   report.html, which shows all that is known of the result; report.txt  provenance.txt
 *   roc.svg  precision_recall.svg  confusion.svg  reliability.svg  coverage.svg  predictions.csv
 *
 * The result depends on the options, the seed and the images only: not on threads, processor or
 * interruptions.
 *
 * On several machines, or as several processes, with MPI (examples/cluster.md says more):
 *   mpicc -DLENSNET_MPI -O2 -fopenmp examples/train.c -o train -lm
 *   mpirun -n 4 ./train DATA --shards 8   as ./train DATA --shards 8 by itself, to the bit */
#include "system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "../tools/simulate.h"

#include "calibrate.h"
#include "html_report.h"
#include "huggingface.h"
#include "train_loop.h"
#include "train_provenance.h"
#include "train_seeds.h"

/* ---- the end ---- */

static int save_folder(const run *r, double temperature, lensnet_error *error)
{
    lensnet_load_options load = backbone_load_defaults();
    lensnet_model *model;
    int good;
    load.gradients = 0;
    load.host = &r->host;
    if (cluster_leads() && !system_make_folder(r->folder))
        return dataset_fail(error, "%s: the folder cannot be made: %s", r->folder, strerror(errno));
    if (lensnet_model_load(&model, r->best, &load, NULL, error)) return 0;
    good = !huggingface_save(model, temperature, r->folder, error);
    lensnet_model_destroy(model);
    return good;
}

/* Of the process that leads, which reads files by itself here. */
static int save_report(const run *r, const evaluation *e, lensnet_error *error)
{
    lensnet_host host = lensnet_host_defaults();
    host.threads = r->settings.threads;
    return evaluation_write(e, r->settings.out, error) &&
           html_report_write(e, &r->from, r->settings.out, &host, error) &&
           train_provenance_files(&r->from, r, error);
}

/* Figures, tables and the folder of the best epoch. */
static int save_results(const run *r, const evaluation *e, double temperature, lensnet_error *error)
{
    return (!r->settings.folder || save_folder(r, temperature, error)) &&
           (!cluster_leads() || save_report(r, e, error));
}

/* ---- what the best file says of its network ---- */

#define VIEWS_IMAGES 300 /* validation images that views are compared on */

/* AUC on validation images with the views that the file allows. */
static int views_auc(double *auc, run *r, const char *path, lensnet_error *error)
{
    lensnet_classifier_options choice = backbone_classifier_defaults();
    lensnet_classifier *classifier;
    dataset_split some = r->data.split[DATASET_VAL];
    evaluation e;
    int good;
    choice.views = 8;
    choice.calibrated = 0;
    choice.host = &r->host;
    choice.bands = 0; /* those of --bands */
    some.count = run_least(some.count, VIEWS_IMAGES);
    some.cache_left = 0;
    if (lensnet_classifier_load(&classifier, path, &choice, error)) return 0;
    good = evaluation_run(&e, classifier, &some, run_least(r->settings.batch, 32),
                          r->settings.threads, error);
    if (good) *auc = e.metrics.auc_ovr_macro;
    evaluation_free(&e);
    lensnet_classifier_destroy(classifier);
    return good;
}

/* A network that saw all turns alike may be averaged over all of them. Another has its views chosen: those
 * with the best AUC, the fewest of equals. */
static int choose_views(run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    lensnet_load_options load = backbone_load_defaults();
    lensnet_model *model;
    double auc, best = -1;
    int views, chosen = 1, good = 1;
    if (s->augment == AUGMENT_D4 && s->turned >= 1) return 1;
    load.gradients = 0;
    load.host = &r->host;
    if (lensnet_model_load(&model, r->best, &load, NULL, error)) return 0;
    for (views = 1; good && views <= 8; views *= 2) {
        good = !lensnet_model_set_views(model, views, error) &&
               !lensnet_model_save(model, r->best, s->type, error) &&
               views_auc(&auc, r, r->best, error);
        if (!good || !(auc > best)) continue;
        best = auc;
        chosen = views;
    }
    good = good && !lensnet_model_set_views(model, chosen, error) &&
           !lensnet_model_save(model, r->best, s->type, error);
    lensnet_model_destroy(model);
    if (good && best >= 0)
        printf("views        %d of 8, by their AUC on validation images\n", chosen);
    return good;
}

/* Temperature, sets and what is foreign; too few images are no failure of the training. */
static int calibrate_best(run *r, lensnet_error *error)
{
    lensnet_classifier_options choice = backbone_classifier_defaults();
    calibration c;
    int good;
    if (!choose_views(r, error)) return 0;
    choice.host = &r->host;
    choice.bands = 0; /* those of --bands */
    good = calibrate_file(&c, r->best, &r->data.split[DATASET_VAL], &choice,
                          run_least(r->settings.batch, 32), error);
    calibration_free(&c);
    if (good) return 1;
    if (system_interrupted()) return 0;
    printf("note: not calibrated: %s\n", error->text);
    return 1;
}

/* How the best epoch does on images that had no part in choosing it. */
static int finish(run *r, lensnet_error *error)
{
    lensnet_classifier_options choice = backbone_classifier_defaults();
    lensnet_classifier *classifier = NULL;
    sheet text;
    evaluation e;
    int good;
    if (r->at.best_auc < 0)
        return dataset_fail(error,
                            "no epoch had a validation AUC, so there is no best one to keep");
    memset(&e, 0, sizeof e);
    memset(&text, 0, sizeof text);
    run_release_training(r);
    choice.host = &r->host;
    choice.bands = 0; /* those of --bands */
    good = calibrate_best(r, error) && train_provenance_weights(&r->from, r, error) &&
           !lensnet_classifier_load(&classifier, r->best, &choice, error) &&
           evaluation_run(&e, classifier, &r->data.split[DATASET_TEST],
                          run_least(r->settings.batch, 32), r->settings.threads, error) &&
           evaluation_text(&text, &e, error);
    e.weights = r->best;
    e.views = 1;
    good =
        good && save_results(r, &e, lensnet_classifier_reliability(classifier).temperature, error);
    if (good) repeats_take(&r->tested, &e.metrics);
    if (good && !text.failed)
        printf("\nbest epoch on the test split, %zu images:\n\n%s", e.count, text.text);
    if (!good && system_interrupted())
        dataset_fail(
            error,
            "interrupted in the final test; the trained weights are %s, and train --resume "
            "--out %s repeats the test",
            r->best, r->again);
    sheet_clear(&text);
    evaluation_free(&e);
    lensnet_classifier_destroy(classifier);
    return good;
}

static int train_all(run *r, int *stopped, lensnet_error *error)
{
    char text[24];
    double started = system_seconds();
    r->clock.saved = started;
    while (r->at.epoch < r->settings.epochs && !gave_up(r)) {
        double epoch_started = system_seconds();
        if (!train_epoch(r, stopped, error)) return 0;
        if (!*stopped && !finish_epoch(r, epoch_started, stopped, error)) return 0;
        if (!*stopped) continue;
        if (!state_save(r, error)) return 0;
        printf("stopped in epoch %llu after step %llu and saved; go on with:\n"
               "  train --resume --out %s\n",
               (unsigned long long)r->at.epoch + 1, (unsigned long long)r->at.step, r->again);
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
        if (cluster_leads() && !check_new(r, error)) return 0;
        train_choose_recipe();
        train_apply_recipe();
        return 1;
    }
    if ((cluster_leads() && system_is_folder(train_value(OPTION_OUT)->value) &&
         !run_folder_lock(&r->states, error)) ||
        !run_folder_open_state(state, &r->resumed, &r->states, &r->host, error) ||
        !train_restore_options(*state, r->resumed, &r->texts, error))
        return 0;
    data = lensnet_archive_metadata(*state, "train.data");
    return r->data_path || !data || run_keep(r, &r->data_path, system_copy(data), error);
}

/* What is certain to be needed is held against the machine's memory before any of it is taken: weights with
 * gradients and moments, a batch of images, the list of simulated ones. */
static int check_memory(const run *r, lensnet_error *error)
{
    const train_settings *s = &r->settings;
    lensnet_model_desc desc = lensnet_model_defaults();
    const double side = (double)s->image_size, machine = system_memory_bytes();
    double weights, images, list;
    if (backbone_variant(&desc, s->variant, NULL)) return 1; /* a custom one from a file */
    weights = 16 * (double)lensnet_model_weights(&desc);
    images = (double)s->batch * side * side * sizeof(float);
    list = ((double)s->simulate + 2 * (double)s->held_out) * sizeof(dataset_file);
    if (machine <= 0 || weights + images + list <= machine) return 1;
    return dataset_fail(
        error,
        "this needs %.1f GB at least (weights and optimiser %.1f, a batch of images "
        "%.1f, the list of simulated ones %.1f), and the machine has %.1f GB; choose a "
        "smaller --variant, --batch, --size or --simulate",
        (weights + images + list) / 1e9, weights / 1e9, images / 1e9, list / 1e9, machine / 1e9);
}

/* Does every process have a share, and are all on the same way? */
static int cluster_begin(run *r, lensnet_error *error)
{
    static const dataset_team team = {cluster_share, cluster_meet, cluster_gather};
    lensnet_parameters *parameters = lensnet_model_parameters(r->model);
    const float *values = lensnet_parameters_values(parameters);
    const size_t size = lensnet_parameters_size(parameters) * sizeof(float);
    int kind;
    if ((size_t)cluster.ranks > r->settings.shards)
        return dataset_fail(error,
                            "%d processes need --shards %d or more, and the run has %zu; it says "
                            "for good how many may share the work",
                            cluster.ranks, cluster.ranks, r->settings.shards);
    for (kind = 0; cluster.ranks > 1 && kind < DATASET_SPLITS; kind++)
        r->data.split[kind].team = &team;
    return cluster_agree(dataset_fingerprint(&r->data), "the images", error) &&
           cluster_agree(zip_checksum((const uint8_t *)values, size), "the starting weights",
                         error);
}

/* The folder of the run, from now on its own. */
static int begin_folder(run *r, lensnet_error *error)
{
    if (!system_make_folder(r->settings.out))
        return dataset_fail(error, "%s: the folder cannot be made: %s; choose another --out",
                            r->settings.out, strerror(errno));
    if (access(r->settings.out, W_OK) != 0)
        return dataset_fail(error, "%s: nothing can be written there: %s; choose another --out",
                            r->settings.out, strerror(errno));
    if (!run_folder_lock(&r->states, error) || (!r->resumed && !check_new(r, error))) return 0;
    run_folder_clean(r->settings.out);
    return 1;
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
        good = check_memory(r, error) && data_prepare(r, error);
    }
    good = good && (weights ? model_load(r, weights, same_labels, error) : model_create(r, error));
    good = good && other_check(r, error) && class_weights_make(r, error) && graphs_plan(r, error) &&
           data_check(r, error) && run_allocate(r, error);
    if (good && state)
        good = state_restore_position(r, state, r->resumed, error) &&
               !lensnet_state_load(r->model, r->adamw, r->resumed, error);
    lensnet_archive_close(state);
    return cluster_meet(good, NULL, error) && cluster_begin(r, error) &&
           (!cluster_leads() || begin_folder(r, error));
}

/* Does what the options say, from the first word to the last; `among`: the seeds of which this is one, or
 * NULL. */
static int train_run(run *r, const seeds *among, int *stopped, lensnet_error *error)
{
    char text[24];
    int good = begin(r, error) && (!among || seeds_save(among, error));
    if (good) {
        train_provenance_add(&r->from, r);
        forecast_memory(r);
        describe(r);
        good = forecast_time(r, error);
    }
    if (good) {
        printf("time         %s expected (%.1f images/s, loading %.1f %%)\n\n",
               system_duration(text, r->clock.total),
               (double)r->settings.batch / (r->clock.step + r->clock.fetch),
               100 * r->clock.fetch / (r->clock.step + r->clock.fetch));
        system_flush_output();
    }
    system_begin_work();
    good = good && train_all(r, stopped, error);
    if (good && system_flush_output())
        good = dataset_fail(error,
                            "the standard output cannot be written: %s; all is saved, go on with "
                            "train --resume --out %s",
                            system_flush_output(), r->again);
    good = cluster_meet(good, NULL, error);
    run_release(r);
    return good;
}

/* One seed after the other, each as if it were alone. */
static int train_seeds(run *r, int *stopped, lensnet_error *error)
{
    const run fresh = *r;
    seeds s;
    size_t i;
    int good = cluster_meet(seeds_begin(&s, r->data_path, error), NULL, error);
    for (i = 0; good && !*stopped && i < s.count; i++) {
        if (s.rows[i].done || !(good = seeds_choose(&s, i, error))) continue;
        *r = fresh;
        r->data_path = s.data;
        r->again = s.out;
        printf("%sseed %s, the %zu. of %zu\n\n", i ? "\n" : "", s.rows[i].name, i + 1, s.count);
        good = train_run(r, &s, stopped, error);
        if (!good || *stopped) continue;
        memcpy(s.rows[i].figures, r->tested.figures, sizeof r->tested.figures);
        s.rows[i].done = 1;
        good = seeds_save(&s, error);
    }
    good = cluster_meet(good, NULL, error) && (*stopped || seeds_finish(&s, error));
    seeds_free(&s);
    return good;
}

int main(int argc, char **argv)
{
    static run r;
    lensnet_error error;
    int stopped = 0, good, words;
    system_catch_interrupts();
    cluster_open(&argc, &argv);
    provenance_begin(&r.from, argc, argv); /* parsing moves the words */
    words = arguments_parse(train_options, OPTION_COUNT, train_usage, argc, argv);
    if (words > 1 && weights_is_file(argv[1]))
        arguments_fail("weights are an option: train %s --weights %s", argv[2], argv[1]);
    if (words > 1) arguments_fail("one folder DATA is expected, not also '%s'", argv[2]);
    r.data_path = words ? argv[1] : NULL;
    r.host = lensnet_host_defaults();
    r.known = lensnet_preprocess_defaults();
    r.again = train_value(OPTION_OUT)->value;
    cluster_host(&r.host);
    good =
        seeds_wanted() ? train_seeds(&r, &stopped, &error) : train_run(&r, NULL, &stopped, &error);
    if (!good) fprintf(stderr, "error: %s\n", error.text);
    cluster_close(good, &error);
    if (system_interrupted() && (stopped || !good)) return 130;
    return !good;
}
