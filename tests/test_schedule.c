/* test_schedule.c - learning-rate schedules against PyTorch's decisions (tests/fixtures/schedule:
 * PyTorch 1.13.1's output as JSON, flattened by tools/flatten_fixtures.py json).
 * cc -O2 -fopenmp -I. tests/test_schedule.c -o build/test_schedule -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "fixture.h"
#include "test.h"

static char *fixture;

static double look(const char *format, const char *name, int i)
{
    char path[200];
    snprintf(path, sizeof path, format, name, i);
    return fixture_number(fixture, path);
}

static void check_plateau(const char *name, lensnet_plateau plateau)
{
    double rate = look("plateau/%s/lr0", name, 0);
    char path[200];
    int i;
    for (i = 0;; i++) {
        snprintf(path, sizeof path, "plateau/%s/trace/%d/lr", name, i);
        if (!fixture_find(fixture, path)) break;
        CHECK(!lensnet_plateau_step(&plateau, &rate, look("plateau/%s/trace/%d/metric", name, i),
                                    NULL));
        CHECK_CLOSE(rate, look("plateau/%s/trace/%d/lr", name, i), 1e-20, name);
        CHECK_CLOSE(plateau.best, look("plateau/%s/trace/%d/best", name, i), 0.0, name);
        CHECK(plateau.bad_epochs == look("plateau/%s/trace/%d/bad", name, i));
        CHECK(plateau.cooldown_left == look("plateau/%s/trace/%d/cooldown", name, i));
    }
    CHECK(i >= 5);
}

static lensnet_plateau plateau_of(int maximise, double factor, int patience)
{
    lensnet_plateau plateau = lensnet_plateau_defaults();
    plateau.maximise = maximise;
    plateau.factor = factor;
    plateau.patience = patience;
    return plateau;
}

static void test_plateau(void)
{
    lensnet_plateau p;
    check_plateau("defaults_min_15", lensnet_plateau_defaults());
    check_plateau("min_factor0.5_pat2", plateau_of(0, 0.5, 2));
    p = plateau_of(0, 0.1, 1);
    p.cooldown = 2;
    p.minimum_rate = 1e-6;
    check_plateau("min_factor0.1_pat1_cool2_minlr", p);
    check_plateau("max_auc_factor0.1_pat3", plateau_of(1, 0.1, 3));
    check_plateau("max_auc_factor0.5_pat0", plateau_of(1, 0.5, 0));
    p = plateau_of(0, 0.5, 1);
    p.threshold = 0.01;
    p.absolute = 1;
    check_plateau("abs_thr_0.01", p);
    check_plateau("eps_blocks_small_change", plateau_of(0, 0.5, 0));
    check_plateau("lr0_5e-5_pat0_run_down", plateau_of(0, 0.1, 0));
    check_plateau("nan_metric", plateau_of(0, 0.5, 1));
    check_plateau("neg_loss_rel_threshold", plateau_of(0, 0.5, 0));
}

static void test_plateau_edges(void)
{
    lensnet_plateau p = plateau_of(1, 0.5, 0);
    lensnet_error error;
    double rate = 1.0;
    CHECK(!lensnet_plateau_step(&p, &rate, NAN, &error) && rate == 0.5 && !p.has_best);
    CHECK(!lensnet_plateau_step(&p, &rate, 0.1, &error) && rate == 0.5 && p.best == 0.1);
    p = plateau_of(1, 0.5, 0);
    p.absolute = 1;
    CHECK(!lensnet_plateau_step(&p, &rate, 0.1, &error) && p.has_best);
    CHECK(!lensnet_plateau_step(&p, &rate, 0.10005, &error) && rate == 0.25);
    p.factor = 1.0;
    CHECK(lensnet_plateau_step(&p, &rate, 0.1, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(strstr(error.text, "factor") != NULL);
    p.factor = NAN;
    CHECK(lensnet_plateau_step(&p, &rate, 0.1, NULL) == LENSNET_ERROR_ARGUMENT);
    p = plateau_of(0, 0.5, -1);
    CHECK(lensnet_plateau_step(&p, &rate, 0.1, NULL) == LENSNET_ERROR_ARGUMENT);
    p = plateau_of(0, 0.5, 1);
    p.bad_epochs = 2147483647;
    CHECK(lensnet_plateau_step(&p, &rate, 0.1, NULL) == LENSNET_ERROR_ARGUMENT && rate == 0.25);
    CHECK(lensnet_plateau_step(NULL, &rate, 0.1, NULL) == LENSNET_ERROR_ARGUMENT);
}

static void test_cosine(void)
{
    lensnet_cosine cosine;
    double expected[60];
    int i;
    cosine.base_rate = look("warmup_cosine/%s", "lr", 0);
    cosine.minimum_rate = look("warmup_cosine/%s", "min_lr", 0);
    cosine.warmup_epochs = look("warmup_cosine/%s", "warmup_epochs", 0);
    cosine.epochs = look("warmup_cosine/%s", "epochs", 0);
    CHECK(fixture_numbers(fixture, "warmup_cosine/values", expected, 60) == 60);
    for (i = 0; i < 60; i++)
        CHECK_CLOSE(lensnet_cosine_rate(&cosine, i / 4.0), expected[i], 1e-19, "cosine");
    CHECK(lensnet_cosine_rate(&cosine, 0.0) == 0.0);
    CHECK(lensnet_cosine_rate(&cosine, 15.0) == 1e-6 && lensnet_cosine_rate(&cosine, 99.0) == 1e-6);
    cosine.warmup_epochs = 0.0;
    CHECK(lensnet_cosine_rate(&cosine, 0.0) == cosine.base_rate);
}

static void check_depth(const char *variant, const int depths[4], double drop_path_rate)
{
    int stage, block, index = 0;
    int group = !strcmp(variant, "base");
    lensnet_layer_decay kind = group ? LENSNET_LAYER_DECAY_GROUP : LENSNET_LAYER_DECAY_SINGLE;
    int blocks = depths[0] + depths[1] + depths[2] + depths[3];
    double decay = look("layer_decay/%s/decay", variant, 0), drop_paths[64];
    char path[200];
    CHECK(lensnet_layer_count(kind, depths) == look("layer_decay/%s/num_layers", variant, 0));
    snprintf(path, sizeof path, "droppath_linspace/%s/per_block", variant);
    CHECK(fixture_numbers(fixture, path, drop_paths, 64) == blocks);
    for (stage = 0; stage < 4; stage++) {
        for (block = -1; block < depths[stage]; block++) {
            char name[40];
            if (block < 0)
                snprintf(name, sizeof name, "downsample_layers.%d", stage);
            else
                snprintf(name, sizeof name, "stages.%d.%d", stage, block);
            snprintf(path, sizeof path, "layer_decay/%s/id/%s", variant, name);
            CHECK(lensnet_layer_number(kind, depths, stage, block) ==
                  fixture_number(fixture, path));
            snprintf(path, sizeof path, "layer_decay/%s/scale/%s", variant, name);
            CHECK_CLOSE(lensnet_layer_scale(kind, decay, depths, stage, block),
                        fixture_number(fixture, path), 1e-15, path);
            if (block < 0) continue;
            CHECK_CLOSE(lensnet_drop_path_rate(drop_path_rate, index, blocks), drop_paths[index],
                        1e-8, "drop path"); /* the reference is float32 */
            index++;
        }
    }
    CHECK(lensnet_layer_scale(kind, decay, depths, LENSNET_LAYER_HEAD, 0) == 1.0);
}

static void test_depth(void)
{
    static const int atto[4] = {2, 2, 6, 2}, tiny[4] = {3, 3, 9, 3}, base[4] = {3, 3, 27, 3};
    check_depth("atto", atto, 0.1);
    check_depth("tiny", tiny, 0.2);
    check_depth("base", base, 0.1);
    CHECK(lensnet_drop_path_rate(0.3, 0, 1) == 0.0);
}

int main(void)
{
    fixture = fixture_load("tests/fixtures/schedule/schedule.txt", NULL);
    test_plateau();
    test_plateau_edges();
    test_cosine();
    test_depth();
    free(fixture);
    return test_end();
}
