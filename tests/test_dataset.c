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
    make_good();
    erase(ROOT "/train/no");
    CHECK(system_make_folder(ROOT "/train/no"));
    check_refused(ROOT "/train/no", "no .npy files");
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

int main(void)
{
    check_listing();
    check_halves();
    check_labels();
    check_bad_folders();
    check_bad_files();
    check_shuffle();
    check_fetch();
    erase(ROOT);
    return test_end();
}
