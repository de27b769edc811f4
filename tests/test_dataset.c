/* test_dataset.c - examples/dataset.h: order, splits, shuffles, batches, the cache, and the sentences
 * that bad folders get. Folders are made under build/test_dataset.
 * cc -O2 -fopenmp -I. tests/test_dataset.c -o build/test_dataset -lm */
#include "examples/system.h"
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "examples/dataset.h"
#include "test.h"

#define ROOT "build/test_dataset"

static lensnet_error error;

/* ---- folders to read ---- */

/* Takes away a folder and all in it. */
static void erase(const char *path)
{
    system_names names;
    size_t i;
    if (system_is_folder(path) && system_list(&names, path)) {
        for (i = 0; i < names.count; i++) {
            char *inside = system_path(path, names.items[i]);
            erase(inside);
            free(inside);
        }
        system_names_free(&names);
        rmdir(path);
    } else {
        remove(path);
    }
}

/* ROOT/folder/name with an image of side x side pixels that all hold `value`, rising along rows. */
static void put(const char *folder, const char *name, size_t side, float value)
{
    char path[256];
    float pixels[64 * 64];
    size_t shape[2], i;
    snprintf(path, sizeof path, ROOT "/%s", folder);
    CHECK(system_make_folder(path));
    snprintf(path, sizeof path, ROOT "/%s/%s", folder, name);
    for (i = 0; i < side * side; i++) pixels[i] = value + (float)(i % side);
    shape[0] = shape[1] = side;
    CHECK(npy_write_float(path, pixels, 2, shape, NULL));
}

static void put_many(const char *folder, int count)
{
    int i;
    char name[32];
    for (i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%03d.npy", i);
        put(folder, name, 8, (float)i);
    }
}

/* Three classes, 4 and 3 files each in train and val. */
static void make_good(void)
{
    static const char *const classes[3] = {"sphere", "no", "vort"};
    char folder[64];
    int k;
    erase(ROOT);
    for (k = 0; k < 3; k++) {
        snprintf(folder, sizeof folder, "train/%s", classes[k]);
        put_many(folder, 4);
        snprintf(folder, sizeof folder, "val/%s", classes[k]);
        put_many(folder, 3);
    }
}

/* Opening fails with a sentence that holds both words. */
static void check_refused(const char *word, const char *other)
{
    dataset d;
    error.text[0] = 0;
    CHECK(!dataset_open(&d, ROOT, &error));
    test_check(strstr(error.text, word) && strstr(error.text, other), error.text, __FILE__,
               __LINE__);
    CHECK(d.classes.count == 0 && d.split[0].files == NULL); /* nothing is left open */
}

/* ---- lists ---- */

static void check_listing(void)
{
    dataset d;
    size_t i;
    make_good();
    put("train/no", "notes.txt", 8, 0); /* not an image */
    put("train/no", ".hidden.npy", 8, 0);
    CHECK(dataset_open(&d, ROOT, &error));
    CHECK(d.classes.count == 3 && !strcmp(d.classes.items[0], "no") &&
          !strcmp(d.classes.items[1], "sphere") && !strcmp(d.classes.items[2], "vort"));
    CHECK(d.test_from_val && d.split[DATASET_TRAIN].count == 12);
    /* Of three sorted files in val the first two stay, the third is the test split. */
    CHECK(d.split[DATASET_VAL].count == 6 && d.split[DATASET_TEST].count == 3);
    for (i = 0; i < 6; i++) {
        const dataset_file *f = &d.split[DATASET_VAL].files[i];
        CHECK(f->label == (int)i / 2);
        CHECK(system_ends_in(f->path, i % 2 ? "/001.npy" : "/000.npy"));
    }
    for (i = 0; i < 3; i++) {
        CHECK(d.split[DATASET_TEST].files[i].label == (int)i);
        CHECK(system_ends_in(d.split[DATASET_TEST].files[i].path, "/002.npy"));
    }
    CHECK(!strcmp(d.split[DATASET_TRAIN].files[5].path, ROOT "/train/sphere/001.npy"));
    dataset_limit(&d.split[DATASET_TRAIN], 3);
    CHECK(d.split[DATASET_TRAIN].count == 9 && d.split[DATASET_TRAIN].files[3].label == 1);
    dataset_close(&d);
    remove(ROOT "/train/no/.hidden.npy");
    put_many("test/no", 1);
    put_many("test/sphere", 2);
    put_many("test/vort", 1);
    CHECK(dataset_open(&d, ROOT, &error));
    CHECK(!d.test_from_val && d.split[DATASET_VAL].count == 9 && d.split[DATASET_TEST].count == 4);
    dataset_close(&d);
}

/* Folders in folders are searched, other files counted; a stack is many images. */
static void check_search(void)
{
    dataset_reading reading;
    dataset d;
    float pixels[12 * 11 * 11];
    const size_t shape[3] = {12, 11, 11};
    size_t i;
    memset(&reading, 0, sizeof reading);
    make_good();
    put("train/no/part2", "b.npy", 8, 50);
    put("train/no/part1/deep", "a.NPY", 8, 51);
    put("train/no", "notes.txt", 8, 0);
    put("train/no/part1", "image.png", 8, 0);
    put("train", "README", 8, 0);
    CHECK(dataset_open(&d, ROOT, &error));
    CHECK(d.split[DATASET_TRAIN].count == 14 && d.split[DATASET_TRAIN].left_out.count == 3);
    CHECK(system_ends_in(d.split[DATASET_TRAIN].files[4].path, "no/part1/deep/a.NPY"));
    CHECK(system_ends_in(d.split[DATASET_TRAIN].files[5].path, "no/part2/b.npy"));
    CHECK(system_ends_in(d.split[DATASET_TRAIN].left_out.first, "train/no/notes.txt"));
    CHECK(strstr(d.note, "no folder 'test'"));
    dataset_close(&d);
    for (i = 0; i < 12 * 11 * 11; i++) pixels[i] = (float)i;
    make_good();
    CHECK(npy_write_float(ROOT "/train/vort/stack.npy", pixels, 3, shape, NULL));
    CHECK(dataset_open(&d, ROOT, &error));
    CHECK(!dataset_check(&d.split[DATASET_TRAIN], 1, &error) && strstr(error.text, "--stack"));
    dataset_close(&d);
    reading.stack = 1;
    CHECK(dataset_open_as(&d, ROOT, &reading, &error));
    CHECK(d.split[DATASET_TRAIN].count == 12 + 12);
    CHECK(system_ends_in(d.split[DATASET_TRAIN].files[23].path, "vort/stack.npy[11]"));
    CHECK(dataset_check(&d.split[DATASET_TRAIN], 1, &error));
    dataset_close(&d);
}

/* Names of other people's folders, two of them one class. */
static void check_mapping(void)
{
    dataset_reading reading;
    dataset d;
    memset(&reading, 0, sizeof reading);
    reading.classes = "axion=vort,no_sub=no,cdm=sphere";
    erase(ROOT);
    put_many("train/axion", 4);
    put_many("train/cdm", 3);
    put_many("train/no_sub", 2);
    put_many("train/vort", 1);
    put_many("val/axion", 2);
    put_many("val/cdm", 2);
    put_many("val/no", 2);
    CHECK(dataset_open_as(&d, ROOT, &reading, &error));
    CHECK(d.classes.count == 3 && !strcmp(d.classes.items[0], "no") &&
          !strcmp(d.classes.items[1], "sphere") && !strcmp(d.classes.items[2], "vort"));
    CHECK(dataset_class_size(&d.split[DATASET_TRAIN], 2) == 5);
    CHECK(dataset_class_size(&d.split[DATASET_TRAIN], 0) == 2);
    dataset_close(&d);
}

/* ---- shares ---- */

static int in_split(const dataset *d, int kind, const char *ending)
{
    size_t i;
    int found = 0;
    for (i = 0; i < d->split[kind].count; i++)
        found |= system_ends_in(d->split[kind].files[i].path, ending);
    return found;
}

static int split_of(const dataset *d, const char *ending)
{
    int kind, place = -1;
    for (kind = 0; kind < DATASET_SPLITS; kind++)
        if (in_split(d, kind, ending)) place = kind;
    return place;
}

/* 40 images a class; then equal ones under other names, in another class even. */
static void check_shares(void)
{
    dataset_reading reading;
    dataset d, again;
    int k, s, kinds[40];
    memset(&reading, 0, sizeof reading);
    CHECK(dataset_parse_share(reading.share, "80/10/10"));
    CHECK(!dataset_parse_share(reading.share, "80/10") &&
          !dataset_parse_share(reading.share, "80/10/10/5") &&
          !dataset_parse_share(reading.share, "80/-10/30") &&
          !dataset_parse_share(reading.share, "0/50/50"));
    CHECK(dataset_parse_share(reading.share, "80/10/10"));
    erase(ROOT);
    put_many("no", 40);
    for (k = 0; k < 40; k++) {
        char name[32];
        snprintf(name, sizeof name, "%03d.npy", k);
        put("vort", name, 8, 1000 + (float)k);
    }
    CHECK(dataset_open_as(&d, ROOT, &reading, &error));
    for (k = 0; k < 2; k++)
        for (s = 0; s < 3; s++) CHECK(dataset_class_size(&d.split[s], k) == (s == 0 ? 32u : 4u));
    CHECK(strstr(d.note, "80/10/10"));
    for (k = 0; k < 40; k++) {
        char name[32];
        snprintf(name, sizeof name, "no/%03d.npy", k);
        kinds[k] = split_of(&d, name);
        CHECK(kinds[k] >= 0);
        snprintf(name, sizeof name, "copy%03d.npy", k); /* of no/k */
        put(k % 2 ? "no" : "vort", name, 8, (float)k);
    }
    CHECK(dataset_open_as(&again, ROOT, &reading, &error));
    for (k = 0; k < 40; k++) {
        char name[32], copy[32];
        snprintf(name, sizeof name, "no/%03d.npy", k);
        snprintf(copy, sizeof copy, "copy%03d.npy", k);
        CHECK(split_of(&again, name) == split_of(&again, copy));
    }
    dataset_close(&again);
    dataset_close(&d);
    /* train alone, and beside a test folder */
    erase(ROOT);
    put_many("train/no", 40);
    put_many("train/vort", 40); /* the same pixels as in no */
    CHECK(dataset_open_as(&d, ROOT, &reading, &error));
    CHECK(d.split[0].count + d.split[1].count + d.split[2].count == 80);
    dataset_close(&d);
    put_many("test/no", 2);
    put_many("test/vort", 2);
    CHECK(dataset_open_as(&d, ROOT, &reading, &error));
    CHECK(d.split[DATASET_TEST].count == 4 && d.split[0].count + d.split[1].count == 80);
    dataset_close(&d);
    put_many("val/no", 2);
    put_many("val/vort", 2);
    CHECK(!dataset_open_as(&d, ROOT, &reading, &error) && strstr(error.text, "leave --split out"));
}

/* What is measured: a folder, half of another, all there is. */
static void check_measured(void)
{
    static const char *const labels[3] = {"no", "sphere", "vort"};
    dataset d;
    dataset_split *split;
    make_good();
    CHECK(dataset_open_split(&d, &split, ROOT, DATASET_VAL, labels, 3, NULL, &error));
    CHECK(split->count == 6 && strstr(d.note, "first half is the validation split"));
    dataset_close(&d);
    CHECK(dataset_open_split(&d, &split, ROOT, DATASET_TRAIN, labels, 3, NULL, &error));
    CHECK(split->count == 12 && !d.note[0]);
    dataset_close(&d);
    CHECK(dataset_open_split(&d, &split, ROOT "/val", DATASET_TEST, labels, 3, NULL, &error));
    CHECK(split->count == 9 && strstr(d.note, "all 9 images in it are measured"));
    dataset_close(&d);
    CHECK(!dataset_open_split(&d, &split, ROOT "/val", DATASET_TEST, labels, 2, NULL, &error));
    CHECK(strstr(error.text, "'vort' is not one of the classes"));
}

/* The published split: of 2,500 files of each class the first 1,250 and the last 1,250. */
static void check_halves(void)
{
    dataset_split val, test;
    int label, i, good = 1;
    memset(&val, 0, sizeof val);
    memset(&test, 0, sizeof test);
    for (label = 0; label < 3; label++)
        for (i = 0; i < 2500; i++)
            good = good && dataset_add(&val, NULL, label, (uint64_t)(2500 * label + i), &error);
    CHECK(good && dataset_halve(&test, &val, &error));
    CHECK(val.count == 3750 && test.count == 3750);
    for (i = 0; i < 3750; i++) {
        label = i / 1250;
        good = good && val.files[i].name == (uint64_t)(2500 * label + i % 1250) &&
               test.files[i].name == (uint64_t)(2500 * label + 1250 + i % 1250) &&
               val.files[i].label == label && test.files[i].label == label;
    }
    CHECK(good);
    dataset_split_free(&val);
    dataset_split_free(&test);
}

static void check_labels(void)
{
    static const char *const turned[3] = {"vort", "no", "sphere"};
    static const char *const other[3] = {"vort", "no", "cdm"};
    dataset d;
    uint64_t before;
    make_good();
    CHECK(dataset_open(&d, ROOT, &error));
    before = dataset_fingerprint(&d);
    CHECK(!dataset_relabel(&d, other, 3) && !dataset_relabel(&d, turned, 2));
    CHECK(dataset_fingerprint(&d) == before);
    CHECK(dataset_relabel(&d, turned, 3) && !strcmp(d.classes.items[0], "vort"));
    CHECK(d.split[DATASET_TRAIN].files[0].label == 1);  /* no */
    CHECK(d.split[DATASET_TRAIN].files[4].label == 2);  /* sphere */
    CHECK(d.split[DATASET_TRAIN].files[11].label == 0); /* vort */
    CHECK(dataset_fingerprint(&d) != before);
    dataset_close(&d);
    put("train/no", "more.npy", 8, 0);
    CHECK(dataset_open(&d, ROOT, &error) && dataset_fingerprint(&d) != before);
    dataset_close(&d);
}

/* ---- what is refused ---- */

static void check_bad_folders(void)
{
    erase(ROOT);
    check_refused(ROOT, "no such folder");
    put_many("val/no", 2);
    check_refused("no folder 'train'", ROOT);
    put_many("train/no", 2);
    check_refused("1 class folder", "two or more");
    make_good();
    erase(ROOT "/val");
    check_refused("no folder 'val'", ROOT);
    make_good();
    erase(ROOT "/val/vort");
    check_refused(ROOT "/val", "'vort' is missing");
    make_good();
    put_many("val/blob", 2);
    check_refused(ROOT "/val/blob", "not one of the classes");
    check_refused(ROOT "/val/blob", "--classes blob=no");
    make_good();
    CHECK(rename(ROOT "/val", ROOT "/valid") == 0);
    check_refused("no folder 'val'", "one named 'valid'");
    CHECK(rename(ROOT "/valid", ROOT "/Validation") == 0);
    check_refused("no folder 'val'", "one named 'Validation'");
    CHECK(rename(ROOT "/train", ROOT "/Training") == 0);
    check_refused("no folder 'train'", "one named 'Training'");
    erase(ROOT);
    put_many("no", 9);
    put_many("vort", 9);
    check_refused("no folder 'train'", "--split 80/10/10");
    make_good();
    erase(ROOT "/train/no");
    CHECK(system_make_folder(ROOT "/train/no"));
    check_refused(ROOT "/train/no", "holds no images");
    put("train/no", "only.npy", 8, 0);
    check_refused(ROOT "/train/no", "1 image,");
    make_good();
    erase(ROOT "/val/no");
    put_many("val/no", 1);
    check_refused(ROOT "/val/no", "test split");
}

static void check_bad_file(const char *word)
{
    dataset d;
    CHECK(dataset_open(&d, ROOT, &error));
    error.text[0] = 0;
    CHECK(!dataset_check(&d.split[DATASET_TRAIN], 2, &error));
    test_check(strstr(error.text, "train/sphere/001.npy") && strstr(error.text, word), error.text,
               __FILE__, __LINE__);
    dataset_close(&d);
}

static void check_bad_files(void)
{
    static const float values[4] = {1, NAN, 2, 3};
    static const size_t shape[2] = {2, 2};
    FILE *file;
    make_good();
    CHECK(npy_write_float(ROOT "/train/sphere/001.npy", values, 2, shape, NULL));
    check_bad_file("row 0, column 1 is NaN");
    file = fopen(ROOT "/train/sphere/001.npy", "wb");
    if (file) fclose(file);
    check_bad_file("empty");
    put("train/sphere", "001.npy", 8, 0);
    CHECK(truncate(ROOT "/train/sphere/001.npy", 300) == 0);
    check_bad_file("cut short");
    put("train/vort", "000.npy", 8, NAN);
    check_bad_file("1 more file");
}

/* ---- order and batches ---- */

static void check_shuffle(void)
{
    size_t a[101], b[101], i, moved = 0;
    int seen[101] = {0};
    dataset_shuffle(a, 101, 7, 3);
    dataset_shuffle(b, 101, 7, 3);
    CHECK(memcmp(a, b, sizeof a) == 0);
    for (i = 0; i < 101; i++) {
        CHECK(a[i] < 101 && !seen[a[i]]++);
        moved += a[i] != i;
    }
    CHECK(moved > 80);
    dataset_shuffle(b, 101, 7, 4);
    CHECK(memcmp(a, b, sizeof a) != 0);
    dataset_shuffle(b, 101, 8, 3);
    CHECK(memcmp(a, b, sizeof a) != 0);
    dataset_shuffle(a, 1, 0, 0);
    CHECK(a[0] == 0);
}

/* Equal bits for any number of threads, with and without a cache, from the first and later epochs. */
static void check_fetch(void)
{
    enum { COUNT = 10, PIXELS = COUNT * 32 * 32 };
    static float a[PIXELS], b[PIXELS];
    lensnet_augmentation augmentation = lensnet_augmentation_defaults();
    size_t order[12], cached = 0, i;
    int labels[COUNT], same;
    const dataset_batch first = {a, labels, NULL}, second = {b, NULL, NULL};
    dataset_recipe recipe;
    dataset d;
    dataset_split *train = &d.split[DATASET_TRAIN];
    make_good();
    put("train/no", "000.npy", 20, 1); /* sizes may differ */
    CHECK(dataset_open(&d, ROOT, &error));
    memset(&recipe, 0, sizeof recipe);
    recipe.preprocess = dataset_grey(lensnet_preprocess_defaults());
    recipe.preprocess.image_size = 32;
    recipe.augmentation = &augmentation;
    recipe.threads = 1;
    dataset_shuffle(order, 12, 0, 0);
    CHECK(recipe.preprocess.channels == 1);
    CHECK(dataset_fetch(&first, train, order, 2, COUNT, &recipe, &error));
    for (i = 0; i < COUNT; i++) CHECK(labels[i] == (int)order[2 + i] / 4);
    recipe.threads = 3;
    train->cache_left = 1000; /* three images of 64 floats */
    for (same = 0; same < 3; same++) {
        memset(b, 0, sizeof b);
        CHECK(dataset_fetch(&second, train, order, 2, COUNT, &recipe, &error));
        CHECK(memcmp(a, b, sizeof a) == 0);
    }
    for (i = 0; i < 12; i++) cached += train->files[i].pixels != NULL;
    CHECK_CLOSE((double)cached, 3, 0, "images in the cache");
    CHECK(train->cache_left < 256);
    recipe.epoch = 1;
    CHECK(dataset_fetch(&second, train, order, 2, COUNT, &recipe, &error));
    CHECK(memcmp(a, b, sizeof a) != 0);
    dataset_read_ahead(train, order, 0, 100);
    dataset_close(&d);
    put("train/vort", "003.npy", 4, INFINITY);
    CHECK(dataset_open(&d, ROOT, &error));
    CHECK(!dataset_fetch(&second, train, NULL, 2, COUNT, &recipe, &error));
    CHECK(strstr(error.text, "train/vort/003.npy: the pixel") != NULL);
    dataset_close(&d);
}

/* Pixels that are not finite, and images of several bands. */
static void check_reading(void)
{
    static const float odd[9] = {1, 2, 3, 4, NAN, 6, 7, 8, 90};
    static const size_t shape[2] = {3, 3};
    static float batch[32 * 32 * 3];
    const dataset_batch where = {batch, NULL, NULL};
    dataset_reading reading;
    dataset_recipe recipe;
    dataset_image image;
    dataset d;
    float bands[3 * 16 * 16];
    const size_t colours[3] = {16, 16, 3};
    size_t i;
    memset(&reading, 0, sizeof reading);
    reading.mend = LENSNET_MEND_MEDIAN;
    make_good();
    CHECK(npy_write_float(ROOT "/train/no/000.npy", odd, 2, shape, NULL));
    CHECK(dataset_open_as(&d, ROOT, &reading, &error));
    CHECK(dataset_pixels(&image, 0, &d.split[0], 0, 0, 0, &error));
    CHECK(image.mended == 1 && image.picture.pixels[4] == 4);
    dataset_image_free(&image);
    dataset_close(&d);
    for (i = 0; i < 3 * 16 * 16; i++) bands[i] = (float)(i % 3);
    CHECK(npy_write_float(ROOT "/train/no/000.npy", bands, 3, colours, NULL));
    reading.bands = 3;
    CHECK(dataset_open_as(&d, ROOT, &reading, &error));
    memset(&recipe, 0, sizeof recipe);
    recipe.preprocess = lensnet_preprocess_defaults();
    recipe.preprocess.bands = 3;
    recipe.preprocess.image_size = 32;
    recipe.preprocess.normalisation = LENSNET_NORMALISATION_MINMAX;
    recipe.preprocess = dataset_grey(recipe.preprocess);
    d.split[0].cache_left = 100000;
    for (i = 0; i < 2; i++) {
        memset(batch, 0, sizeof batch);
        CHECK(dataset_fetch(&where, &d.split[0], NULL, 0, 1, &recipe, &error));
        CHECK(batch[0] == 0 && batch[1] == 0.5f && batch[2] == 1 && batch[3 * 1023 + 2] == 1);
    }
    CHECK(d.split[0].files[0].pixels != NULL);
    CHECK(!dataset_fetch(&where, &d.split[0], NULL, 1, 1, &recipe, &error));
    CHECK(strstr(error.text, "001.npy") && strstr(error.text, "1 band, but images of 3"));
    dataset_close(&d);
}

/* A network that knows 20 pixels of 0.5 arc seconds. */
static void check_fit(void)
{
    lensnet_preprocess network = lensnet_preprocess_defaults();
    dataset_image image;
    picture *p = &image.picture;
    size_t side, i;
    float pixels[64 * 64];
    memset(&image, 0, sizeof image);
    network.source_size = 20;
    network.pixel_scale = 0.5;
    p->bands = 1;
    p->height = p->width = 64;
    p->pixels = pixels;
    for (i = 0; i < 64 * 64; i++) pixels[i] = i / 64 == 32 && i % 64 == 32 ? 9.0f : 1.0f;
    CHECK(dataset_fit_side(p, &network, DATASET_FIT_AUTO) == 0); /* an unknown scale */
    CHECK(dataset_fit_side(p, &network, DATASET_FIT_CROP) == 20);
    CHECK(dataset_fit_side(p, &network, DATASET_FIT_STRETCH) == 0);
    p->pixel_scale = 0.25;
    CHECK(dataset_fit_side(p, &network, DATASET_FIT_AUTO) == 40);
    p->pixel_scale = 0.05;
    CHECK(dataset_fit_side(p, &network, DATASET_FIT_AUTO) == 200);
    CHECK(dataset_fit(&image, &network, DATASET_FIT_AUTO, &error));
    CHECK(image.own && p->height == 200 && p->width == 200);
    CHECK(p->pixels[0] == 1.0f && p->pixels[100 * 200 + 100] == 9.0f);
    dataset_image_free(&image);
    /* a network with a crop of its own gets it in its own pixels */
    memset(&image, 0, sizeof image);
    p->bands = 1;
    p->height = p->width = 64;
    p->pixels = pixels;
    p->pixel_scale = 0.25;
    network.crop = 10;
    for (side = 0; side < 2; side++) {
        CHECK(dataset_fit(&image, &network, DATASET_FIT_AUTO, &error));
        CHECK(p->height == 10 && p->width == 10);
        p->pixel_scale = 0.5; /* the second time: nothing to do */
    }
    dataset_image_free(&image);
}

int main(void)
{
    check_listing();
    check_search();
    check_mapping();
    check_shares();
    check_measured();
    check_reading();
    check_fit();
    check_halves();
    check_labels();
    check_bad_folders();
    check_bad_files();
    check_shuffle();
    check_fetch();
    erase(ROOT);
    return test_end();
}
