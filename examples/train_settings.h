/* train_settings.h - what train.c can be told: its options, the recipes that fill in what was not
 * said, and how both go into a training state and come back. Include lensnet.h first. */
#ifndef TRAIN_SETTINGS_H
#define TRAIN_SETTINGS_H

#include "arguments.h"
#include "dataset.h"
#include "reading.h"
#include "shards.h"

/* ---- options ---- */

typedef enum {
    OPTION_RECIPE,
    OPTION_WEIGHTS,
    OPTION_VARIANT,
    OPTION_SIZE,
    OPTION_CROP,
    OPTION_BANDS,
    OPTION_STRETCH,
    OPTION_NORMALISE,
    OPTION_EPOCHS,
    OPTION_BATCH,
    OPTION_SHARDS,
    OPTION_RATE,
    OPTION_SCHEDULE,
    OPTION_WARMUP,
    OPTION_COOLDOWN,
    OPTION_PATIENCE,
    OPTION_WEIGHT_DECAY,
    OPTION_DECAY,
    OPTION_LAYER_DECAY,
    OPTION_FREEZE,
    OPTION_CLIP,
    OPTION_AVERAGE,
    OPTION_DROP_PATH,
    OPTION_SMOOTHING,
    OPTION_CLASS_WEIGHTS,
    OPTION_MIXUP,
    OPTION_CUTMIX,
    OPTION_DISTILL,
    OPTION_DISTILL_SHARE,
    OPTION_AUGMENT,
    OPTION_TURNED,
    OPTION_DEGREES,
    OPTION_SHIFT,
    OPTION_ZOOM,
    OPTION_SHEAR,
    OPTION_EARLY_SIZE,
    OPTION_EARLY_EPOCHS,
    OPTION_EARLY_STOP,
    OPTION_DENSE,
    OPTION_SEED,
    OPTION_SIMULATE,
    OPTION_MIX,
    OPTION_EASE,
    OPTION_HEAVY,
    OPTION_HELD_OUT,
    OPTION_LIMIT,
    OPTION_TYPE,
    OPTION_PRECISION,
    OPTION_SPLIT,
    OPTION_CLASSES,
    OPTION_STACK,
    OPTION_NAN,
    OPTION_FIT,
    OPTION_PIXEL_SCALE,
    OPTION_STORED, /* the options up to here make the result; the state keeps them */
    OPTION_OUT = OPTION_STORED,
    OPTION_RESUME,
    OPTION_SEEDS,
    OPTION_FOLDER,
    OPTION_THREADS,
    OPTION_CACHE,
    OPTION_MEMORY,
    OPTION_AT_ONCE,
    OPTION_STOP_AFTER,
    OPTION_COUNT
} train_option;

/* No default here: the recipe has one. */
static argument train_options[OPTION_COUNT] = {
    {"--recipe", "NAME", "auto",
     "finetune, scratch, reference, or simulated: from random weights on\n"
     "simulated lenses; auto: fine-tunes the weights that are shipped, or\n"
     "starts from scratch where there are none",
     0},
    {"--weights", "FILE", NULL, "weights to start from; none: random ones", 0},
    {"--variant", "NAME", NULL,
     "atto femto pico nano tiny base large huge; or another network, in timm's\n"
     "name: resnet18 resnet34 resnet50 densenet121 efficientnet_b0\n"
     "efficientnet_b1 convnext_atto ... convnext_base vit_small_patch16_224\n"
     "deit_small_patch16_224",
     0},
    {"--size", "N", NULL, "side of the network's input, pixels", 0},
    {"--crop", "N", NULL, "side of what is cut from the middle of an image first; 0: all of it", 0},
    {"--bands", "N", NULL, "planes of an image, (N, H, W) or (H, W, N); 1: grey", 0},
    {"--stretch", "NAME", NULL, "none asinh log sqrt: lifts what is faint, before all else", 0},
    {"--normalise", "NAME", NULL, "none minmax znorm imagenet minmax+imagenet", 0},
    {"--epochs", "N", NULL, "passes over the training images", 0},
    {"--batch", "N", NULL, "images per step", 0},
    {"--shards", "N", "1",
     "parts of a batch whose gradients are computed apart and then added: as\n"
     "many processes may share the work (LENSNET_MPI), with the same bits",
     0},
    {"--rate", "X", NULL, "learning rate of AdamW", 0},
    {"--schedule", "NAME", NULL,
     "constant, cosine, hold: constant and then --cooldown, or\n"
     "plateau: a tenth when the validation loss rests",
     0},
    {"--warmup", "EPOCHS", NULL, "epochs in which the rate grows from 0", 0},
    {"--cooldown", "EPOCHS", NULL, "of schedule hold: last epochs, in which it falls to 0", 0},
    {"--patience", "EPOCHS", NULL, "of the plateau schedule", 0},
    {"--weight-decay", "X", NULL, "AdamW's", 0},
    {"--decay", "WHAT", NULL, "all, or matrices: not biases, norms and GRN", 0},
    {"--layer-decay", "X", NULL,
     "the rate of a layer is this times the rate of the one above it; 1: the same", 0},
    {"--freeze", "N", NULL, "the first N of the 4 stages stay as they are", 0},
    {"--clip", "X", NULL, "largest norm of the gradient; 0: off", 0},
    {"--average", "X", NULL,
     "decay of the weights' moving average, which is then judged and\n"
     "kept instead of the weights; 0: off",
     0},
    {"--drop-path", "X", NULL, "stochastic depth of the last block", 0},
    {"--smoothing", "X", NULL, "label smoothing", 0},
    {"--class-weights", "LIST", "none",
     "weights of the classes in the loss: none, balanced (by the number of\n"
     "images), or a number for each, e.g. 1,2,2",
     0},
    {"--mixup", "X", "0", "alpha of mixup, e.g. 0.8; 0: off", 0},
    {"--cutmix", "X", "0", "alpha of CutMix, e.g. 1; with both, one of them by lot; 0: off", 0},
    {"--distill", "FILE", "none", "weights of a teacher, whose probabilities are learned too", 0},
    {"--distill-share", "X", "0.5", "how much of the target is the teacher's", 0},
    {"--augment", "NAME", NULL, "none, d4: flips and quarter turns, reference: flips and affine",
     0},
    {"--turned", "X", NULL, "share of the images that --augment changes", 0},
    {"--degrees", "X", "as --augment", "of rotation, either way", 0},
    {"--shift", "X", "as --augment", "of the side, either way", 0},
    {"--zoom", "X", "as --augment", "0.1: images grow and shrink by up to a tenth", 0},
    {"--shear", "X", "as --augment", "degrees, either way", 0},
    {"--early-size", "N", "0", "side of the input in the first epochs, for speed; 0: as --size", 0},
    {"--early-epochs", "N", "0", "how many they are", 0},
    {"--early-stop", "EPOCHS", "0", "stop after so many without a better AUC; 0: never", 0},
    {"--dense", "X", NULL,
     "weight of a second loss on simulated images: where substructure changes\n"
     "what is seen; its head is not saved; 0: off",
     0},
    {"--seed", "N", "0", "of the weights, the order, the changes to images, the simulator", 0},
    {"--simulate", "N", "0", "train on N new simulated images in every epoch", 0},
    {"--mix", "WHAT", "no", "yes: the simulated images join those of DATA; no: they replace them",
     0},
    {"--ease", "EPOCHS", NULL,
     "epochs in which simulated substructure, too heavy at first, comes down\n"
     "to its mass; 0: it always has its mass",
     0},
    {"--heavy", "X", NULL, "how many times too heavy it is at first", 0},
    {"--held-out", "N", "600", "simulated images to validate on, and as many to test on", 0},
    {"--limit", "N", "0", "use at most N images of each class of each split; 0: all", 0},
    {"--type", "NAME", "f32", "numbers in best.safetensors: f32, f16 or bf16", 0},
    {"--precision", "NAME", "fp32", "of the matrix products: fp32 or bf16", 0},
    {"--split", "A/B/C", "folders",
     "shares of train, val and test, e.g. 80/10/10, for images that stand\n"
     "in DATA/train alone or in DATA/CLASS; equal images stay together",
     0},
    {"--classes", "LIST", "", "classes of folders by other names: axion=vort,cdm=sphere", 0},
    {"--stack", NULL, "no", "files may be stacks of images (N, H, W)", 0},
    {"--nan", "MODE", "refuse", "pixels that are not finite: refuse, zero, median", 0},
    {"--fit", "MODE", "auto",
     "images of another size or scale than the first: auto, crop or stretch;\n"
     "auto brings them to one pixel scale, where all are known",
     0},
    {"--pixel-scale", "ARCSEC", "0", "of images that do not say theirs; 0: unknown", 0},
    {"--out", "FOLDER", "run", "where everything is written", 0},
    {"--resume", NULL, NULL, "go on where the run in --out stopped", 0},
    {"--seeds", "N", NULL,
     "train N times, with --seed and the seeds after it, each in OUT/seed-S;\n"
     "seeds.csv and seeds.txt then say mean and spread on the test images",
     0},
    {"--folder", NULL, NULL, "also write OUT/huggingface for transformers, or timm", 0},
    {"--threads", "N", "0", "0: all; changes no bit of the result", 0},
    {"--cache", "MB", "128", "memory for images that stay after they were read", 0},
    {"--memory", "MB", "0", "limit for the network's buffers, a little slower; 0: none", 0},
    {"--at-once", "IMAGES", "0",
     "that a pass computes at a time; 0: chosen. More take more memory, and let\n"
     "more be sent meanwhile where processes share; changes no bit of the result",
     0},
    {"--stop-after", "STEPS", "0", "stop and save after so many steps, as Ctrl-C does; 0: never",
     0}};

static const char train_usage[] =
    "usage: train [options] DATA          images in DATA/train|val|test/CLASS/NAME.npy\n"
    "       train [options] --simulate N  images from the simulator\n"
    "       train --resume --out FOLDER   go on with a run that was stopped\n"
    "Trains ConvNeXt V2. Values in brackets are defaults; the others depend on the recipe:\n";

/* ---- recipes ---- */

typedef enum {
    RECIPE_SCRATCH,
    RECIPE_FINETUNE,
    RECIPE_REFERENCE,
    RECIPE_SIMULATED,
    RECIPES
} train_recipe;

static const char *const train_recipe_names[RECIPES] = {"scratch", "finetune", "reference",
                                                        "simulated"};

/* NULL: as in the weights. `reference` is what the published result was trained with; `simulated` is what
 * made networks learn soonest from simulated images (weights/README.md). */
static const struct {
    train_option option;
    const char *values[RECIPES];
} train_recipes[] = {{OPTION_VARIANT, {"atto", NULL, "tiny", "atto"}},
                     {OPTION_SIZE, {"128", NULL, "224", "112"}},
                     {OPTION_CROP, {"0", NULL, "0", "112"}},
                     {OPTION_BANDS, {"1", NULL, "1", "1"}},
                     {OPTION_STRETCH, {"none", NULL, "none", "sqrt"}},
                     {OPTION_NORMALISE, {"znorm", NULL, "znorm", "znorm"}},
                     {OPTION_EPOCHS, {"30", "10", "15", "15"}},
                     {OPTION_BATCH, {"32", "32", "100", "8"}},
                     {OPTION_RATE, {"5e-4", "1e-4", "5e-5", "8e-4"}},
                     {OPTION_SCHEDULE, {"cosine", "cosine", "plateau", "hold"}},
                     {OPTION_WARMUP, {"1", "1", "0", "0.3"}},
                     {OPTION_COOLDOWN, {"0", "0", "0", "7"}},
                     {OPTION_PATIENCE, {"3", "3", "3", "3"}},
                     {OPTION_WEIGHT_DECAY, {"0.05", "0.05", "0.01", "0.05"}},
                     {OPTION_DECAY, {"matrices", "matrices", "all", "matrices"}},
                     {OPTION_LAYER_DECAY, {"1", "1", "1", "1"}},
                     {OPTION_FREEZE, {"0", "0", "0", "0"}},
                     {OPTION_CLIP, {"1", "1", "0", "1"}},
                     {OPTION_AVERAGE, {"0", "0", "0", "0.998"}},
                     {OPTION_DROP_PATH, {"0", "0", "0", "0"}},
                     {OPTION_SMOOTHING, {"0", "0", "0", "0"}},
                     {OPTION_AUGMENT, {"d4", "d4", "reference", "none"}},
                     {OPTION_TURNED, {"1", "1", "1", "1"}},
                     {OPTION_DENSE, {"0", "0", "0", "2"}},
                     {OPTION_EASE, {"12", "0", "0", "5"}},
                     {OPTION_HEAVY, {"6", "6", "6", "16"}}};

/* The first of these that exists is what `auto` fine-tunes; the small one is as good on lenses, and learns seven
 * times as many images in the same time. */
static const char *const train_shipped[] = {"weights/lensnet-atto.safetensors",
                                            "weights/lensnet-tiny.safetensors"};

/* ---- settings ---- */

typedef enum { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_HOLD, SCHEDULE_PLATEAU } train_schedule;
typedef enum { AUGMENT_NONE, AUGMENT_D4, AUGMENT_REFERENCE } train_augment;

/* The options as numbers. */
typedef struct train_settings {
    train_recipe recipe;
    const char *weights; /* NULL: random */
    const char *variant;
    int image_size, crop;
    int bands, source_size; /* the side of the training images, 0: unknown */
    double pixel_scale;     /* and theirs, arc seconds */
    lensnet_stretch_mode stretch;
    lensnet_normalisation normalisation;
    uint64_t epochs;
    size_t batch;
    size_t shards; /* parts of a batch */
    double rate, warmup, cooldown, weight_decay, clip, average, drop_path, smoothing;
    train_schedule schedule;
    int patience, decay_all, freeze;
    double layer_decay;
    const char *class_weights, *teacher; /* NULL: none */
    double mixup, cutmix, teacher_share;
    double degrees, shift, zoom, shear; /* below 0: as the augmentation says */
    int early_size;                     /* 0: none */
    uint64_t early_epochs, early_stop;
    int mix;
    lensnet_precision precision;
    train_augment augment;
    double turned, dense;
    uint64_t seed;
    size_t simulate, held_out, limit;
    double ease, heavy; /* epochs, times */
    lensnet_dtype type;
    const char *out;
    int resume, folder, threads;
    size_t cache, memory; /* bytes */
    size_t at_once;       /* images; 0: chosen */
    uint64_t stop_after;  /* steps; 0: never */
} train_settings;

static const argument *train_value(train_option option) { return &train_options[option]; }

/* Which weights and which recipe: both are filled in where `auto` leaves them open. */
static void train_choose_recipe(void)
{
    argument *recipe = &train_options[OPTION_RECIPE], *weights = &train_options[OPTION_WEIGHTS];
    static const char *const words[] = {"scratch", "finetune", "reference", "simulated", "auto"};
    int choice = arguments_choice(recipe, words, 5);
    size_t i;
    if (!weights->given && (choice == RECIPES || choice == RECIPE_FINETUNE))
        for (i = 0; i < sizeof train_shipped / sizeof *train_shipped && !weights->value; i++)
            if (system_exists(train_shipped[i])) weights->value = train_shipped[i];
    if (!weights->value && choice == RECIPE_FINETUNE)
        arguments_fail("recipe finetune needs weights to start from: give --weights FILE, or take "
                       "--recipe scratch");
    if (!weights->value && choice == RECIPE_REFERENCE)
        arguments_fail("recipe reference starts from ImageNet weights: give --weights FILE, the "
                       "model.safetensors of a ConvNeXt V2 Tiny in Hugging Face's form (or none)");
    if (choice == RECIPE_SCRATCH || choice == RECIPE_SIMULATED) {
        if (weights->given && strcmp(weights->value, "none") != 0)
            arguments_fail("recipe %s starts from random weights: leave out --weights %s, or take "
                           "--recipe finetune",
                           train_recipe_names[choice], weights->value);
        weights->value = "none";
    }
    if (!weights->value) weights->value = "none";
    if (choice == RECIPES) {
        choice = strcmp(weights->value, "none") == 0 ? RECIPE_SCRATCH : RECIPE_FINETUNE;
        recipe->value = train_recipe_names[choice];
    }
}

/* Gives every open option the recipe's value. */
static void train_apply_recipe(void)
{
    int recipe = arguments_choice(&train_options[OPTION_RECIPE], train_recipe_names, RECIPES);
    size_t i;
    for (i = 0; i < sizeof train_recipes / sizeof *train_recipes; i++) {
        argument *a = &train_options[train_recipes[i].option];
        if (!a->given && !a->value) a->value = train_recipes[i].values[recipe];
    }
}

/* A range of the augmentation; below 0 if it is left as it is. */
static double train_range(train_option option, double most)
{
    const argument *a = train_value(option);
    return strcmp(a->value, "as --augment") == 0 ? -1 : arguments_number(a, 0, most);
}

/* NULL for the word "none". */
static const char *train_unless_none(train_option option)
{
    const char *value = train_value(option)->value;
    return strcmp(value, "none") == 0 ? NULL : value;
}

/* What changes targets and images beyond the classic recipe. */
static void train_read_extras(train_settings *s)
{
    static const char *const no_yes[] = {"no", "yes"};
    lensnet_error error;
    s->layer_decay = arguments_number(train_value(OPTION_LAYER_DECAY), 1e-6, 1);
    s->freeze = (int)arguments_whole(train_value(OPTION_FREEZE), 0, 4);
    s->class_weights = train_unless_none(OPTION_CLASS_WEIGHTS);
    s->teacher = train_unless_none(OPTION_DISTILL);
    s->teacher_share = s->teacher ? arguments_number(train_value(OPTION_DISTILL_SHARE), 0, 1) : 0;
    s->mixup = arguments_number(train_value(OPTION_MIXUP), 0, 4);
    s->cutmix = arguments_number(train_value(OPTION_CUTMIX), 0, 4);
    s->degrees = train_range(OPTION_DEGREES, 360);
    s->shift = train_range(OPTION_SHIFT, 1);
    s->zoom = train_range(OPTION_ZOOM, 0.99);
    s->shear = train_range(OPTION_SHEAR, 89);
    s->early_size = (int)arguments_whole(train_value(OPTION_EARLY_SIZE), 0, 4096);
    s->early_epochs = (uint64_t)arguments_whole(train_value(OPTION_EARLY_EPOCHS), 0, 100000);
    s->early_stop = (uint64_t)arguments_whole(train_value(OPTION_EARLY_STOP), 0, 100000);
    s->mix = arguments_choice(train_value(OPTION_MIX), no_yes, 2);
    if (lensnet_precision_parse(&s->precision, train_value(OPTION_PRECISION)->value, &error))
        arguments_fail("--precision: %s", error.text);
    if (s->dense > 0 && (s->mixup > 0 || s->cutmix > 0))
        arguments_fail("--dense does not go together with --mixup and --cutmix");
    if (s->dense > 0 && s->image_size < 32) arguments_fail("--dense needs --size 32 or more");
    if (s->early_size && s->early_size < 32) arguments_fail("--early-size must be 32 or more");
    if (!s->early_epochs) s->early_size = 0;
}

/* All options as numbers, checked; those that only the weights can fill must be filled by now. */
static void train_read_settings(train_settings *s)
{
    static const char *const schedules[] = {"constant", "cosine", "hold", "plateau"};
    static const char *const augments[] = {"none", "d4", "reference"};
    static const char *const decays[] = {"matrices", "all"};
    static const char *const types[] = {"f32", "f16", "bf16"};
    static const lensnet_dtype dtypes[] = {LENSNET_DTYPE_F32, LENSNET_DTYPE_F16,
                                           LENSNET_DTYPE_BF16};
    lensnet_error error;
    memset(s, 0, sizeof *s);
    s->recipe =
        (train_recipe)arguments_choice(train_value(OPTION_RECIPE), train_recipe_names, RECIPES);
    s->weights = train_value(OPTION_WEIGHTS)->value;
    if (strcmp(s->weights, "none") == 0) s->weights = NULL;
    s->variant = train_value(OPTION_VARIANT)->value;
    s->image_size = (int)arguments_whole(train_value(OPTION_SIZE), 32, 4096);
    s->crop = (int)arguments_whole(train_value(OPTION_CROP), 0, 65536);
    s->bands = (int)arguments_whole(train_value(OPTION_BANDS), 1, LENSNET_BANDS_LIMIT);
    if (lensnet_stretch_parse(&s->stretch, train_value(OPTION_STRETCH)->value, &error))
        arguments_fail("--stretch: %s", error.text);
    if (lensnet_normalisation_parse(&s->normalisation, train_value(OPTION_NORMALISE)->value,
                                    &error))
        arguments_fail("--normalise: %s", error.text);
    s->epochs = (uint64_t)arguments_whole(train_value(OPTION_EPOCHS), 1, 100000);
    s->batch = (size_t)arguments_whole(train_value(OPTION_BATCH), 1, 65536);
    s->shards = (size_t)arguments_whole(train_value(OPTION_SHARDS), 1, SHARDS_MOST);
    if (s->shards > s->batch)
        arguments_fail("--shards: a batch of %zu has no %zu parts", s->batch, s->shards);
    s->rate = arguments_number(train_value(OPTION_RATE), 1e-12, 10);
    s->schedule = (train_schedule)arguments_choice(train_value(OPTION_SCHEDULE), schedules, 4);
    s->warmup = arguments_number(train_value(OPTION_WARMUP), 0, 1e5);
    s->cooldown = arguments_number(train_value(OPTION_COOLDOWN), 0, 1e5);
    s->patience = (int)arguments_whole(train_value(OPTION_PATIENCE), 0, 100000);
    s->weight_decay = arguments_number(train_value(OPTION_WEIGHT_DECAY), 0, 10);
    s->decay_all = arguments_choice(train_value(OPTION_DECAY), decays, 2);
    s->clip = arguments_number(train_value(OPTION_CLIP), 0, 1e9);
    s->average = arguments_number(train_value(OPTION_AVERAGE), 0, 0.999999);
    s->drop_path = arguments_number(train_value(OPTION_DROP_PATH), 0, 0.99);
    s->smoothing = arguments_number(train_value(OPTION_SMOOTHING), 0, 0.99);
    s->augment = (train_augment)arguments_choice(train_value(OPTION_AUGMENT), augments, 3);
    s->turned = arguments_number(train_value(OPTION_TURNED), 0, 1);
    s->dense = arguments_number(train_value(OPTION_DENSE), 0, 1e6);
    s->seed = (uint64_t)arguments_whole(train_value(OPTION_SEED), 0, LONG_MAX);
    s->simulate = (size_t)arguments_whole(train_value(OPTION_SIMULATE), 0, 100000000);
    s->ease = arguments_number(train_value(OPTION_EASE), 0, 1e5);
    s->heavy = arguments_number(train_value(OPTION_HEAVY), 1, 1000);
    s->held_out = (size_t)arguments_whole(train_value(OPTION_HELD_OUT), 12, 1000000);
    s->limit = (size_t)arguments_whole(train_value(OPTION_LIMIT), 0, 100000000);
    s->type = dtypes[arguments_choice(train_value(OPTION_TYPE), types, 3)];
    s->out = train_value(OPTION_OUT)->value;
    s->resume = train_value(OPTION_RESUME)->given;
    s->folder = train_value(OPTION_FOLDER)->given;
    s->threads = (int)arguments_whole(train_value(OPTION_THREADS), 0, 4096);
    s->memory = (size_t)arguments_whole(train_value(OPTION_MEMORY), 0, 1000000) * 1000000;
    s->at_once = (size_t)arguments_whole(train_value(OPTION_AT_ONCE), 0, 65536);
    s->cache = (size_t)arguments_whole(train_value(OPTION_CACHE), 0, 1000000) << 20;
    s->stop_after = (uint64_t)arguments_whole(train_value(OPTION_STOP_AFTER), 0, LONG_MAX);
    train_read_extras(s);
}

/* ---- in a training state ---- */

/* States that are older than an option were made as its default says. */
static const char *train_stored_option(const lensnet_archive *state, train_option option)
{
    char key[64];
    const char *stored;
    snprintf(key, sizeof key, "train.%s", train_options[option].name + 2);
    stored = lensnet_archive_metadata(state, key);
    if (stored) return stored;
    if (option == OPTION_LAYER_DECAY || option == OPTION_BANDS || option == OPTION_SHARDS)
        return "1";
    if (option == OPTION_FREEZE || option == OPTION_AVERAGE) return "0";
    if (option == OPTION_STRETCH) return "none";
    return train_options[option].given ? NULL : train_options[option].value;
}

/* With --resume a run may be made longer: these may be said anew. */
static int train_may_change(train_option option)
{
    return option == OPTION_EPOCHS || option == OPTION_COOLDOWN;
}

/* The options of the stopped run, from the state's metadata; what the command line repeats must say
 * the same. Values are copied into `texts`. */
static int train_restore_options(const lensnet_archive *state, const char *path,
                                 system_names *texts, lensnet_error *error)
{
    int i;
    for (i = 0; i < OPTION_STORED; i++) {
        argument *a = &train_options[i];
        const char *stored = train_stored_option(state, (train_option)i);
        if (!stored)
            return dataset_fail(error,
                                "%s: it is no training state of this program ('%s' is missing); "
                                "start a new run in another --out",
                                path, a->name);
        if (a->given && train_may_change((train_option)i)) continue;
        if (a->given && strcmp(a->value, stored) != 0)
            return dataset_fail(error,
                                "%s: the run was begun with %s %s, not %s; leave the option away, "
                                "or begin a new run in another --out",
                                path, a->name, stored, a->value);
        if (!system_names_add(texts, system_copy(stored))) return dataset_no_memory(error);
        a->value = texts->items[texts->count - 1];
    }
    return 1;
}

#endif
