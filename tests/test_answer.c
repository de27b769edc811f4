/* test_answer.c - what examples/calibrate.h, explain.h, png.h and html_report.h give, against scipy,
 * scikit-learn and Pillow (tools/make_answer_fixture.py), central differences, and by what they promise.
 * cc -O2 -fopenmp -I. tests/test_answer.c -o build/test_answer -lm */
#include "examples/system.h"
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#include "examples/calibrate.h"
#include "examples/html_report.h"

#include "fixture.h"
#include "test.h"

#include "golden.h"

#define WEIGHTS_PATH "build/answer.safetensors"
#define FOLDER       "build/answer"

enum { SIDE = 32, CROP = 40, WIDE = 48, K = 3, IMAGES = 96, LEVEL_90 = 89 };

static char *fixture;
static lensnet_error error;
static const char *const labels[K] = {"smooth", "<i>clumpy & co", "a \"vortex\""};

/* ---- numbers ------------------------------------------------------------------------------------------ */

static void test_foreign(void)
{
    enum { N = 240, C = 5 };
    static float pooled[N * C];
    static double raw[N * C], expected[N];
    float room[C];
    const uint64_t base = lngen_base("features");
    calibration c;
    int i;
    memset(&c, 0, sizeof c);
    c.images = N;
    c.features = C;
    for (i = 0; i < N * C; i++) raw[i] = lngen_value(base, (uint64_t)i);
    for (i = 0; i < N * C; i++)
        pooled[i] = (float)(raw[i] + 0.75 * raw[i / C * C + (i + C - 1) % C] + i % C);
    CHECK(calibrate_foreign(&c, pooled, &error));
    fixture_numbers(fixture, "foreign/mean", expected, C);
    for (i = 0; i < C; i++) CHECK_CLOSE(c.mean[i], expected[i], 1e-6, "mean of a feature");
    fixture_numbers(fixture, "foreign/distances", expected, N);
    for (i = 0; i < N; i++)
        CHECK_CLOSE(calibrate_distance(&c, pooled + i * C, room), expected[i], 1e-6, "Mahalanobis");
    CHECK_CLOSE(c.threshold, fixture_number(fixture, "foreign/threshold"), 1e-6,
                "threshold, each half by the other's Gaussian");
    calibration_free(&c);
    c.images = N; /* a feature that never moves makes nothing infinite */
    c.features = C;
    for (i = 0; i < N; i++) pooled[i * C + 2] = 7;
    CHECK(calibrate_foreign(&c, pooled, &error));
    for (i = 0; i < N; i++) {
        const double distance = calibrate_distance(&c, pooled + i * C, room);
        CHECK(distance >= 0 && distance < 100);
    }
    pooled[2] = 8;
    CHECK(calibrate_distance(&c, pooled, room) > 100);
    calibration_free(&c);
    c.images = N;
    c.features = C;
    for (i = 0; i < N * C; i++) pooled[i] = 1;
    CHECK(!calibrate_foreign(&c, pooled, &error) && strstr(error.text, "look the same"));
    calibration_free(&c);
}

static void test_probabilities(void)
{
    enum { N = 180 };
    static double logits[N * K], said[N], levels[CALIBRATE_LEVELS], losses[2];
    static int classes[N];
    const uint64_t base = lngen_base("logits");
    calibration c;
    size_t i, k;
    memset(&c, 0, sizeof c);
    c.images = N;
    c.classes = K;
    CHECK(fixture_numbers(fixture, "labels", said, N) == N);
    for (i = 0; i < N; i++) classes[i] = (int)said[i];
    for (i = 0; i < N * K; i++) logits[i] = 4 * lngen_value(base, i);
    CHECK(calibrate_probabilities(&c, 0, logits, classes, &error));
    CHECK_CLOSE(c.curve[0][0], fixture_number(fixture, "temperature"), 1e-5, "temperature");
    CHECK(c.curve[0][1] == 1); /* another power gains no more than chance */
    fixture_numbers(fixture, "loss", losses, 2);
    CHECK_CLOSE(c.loss[0][0], losses[0], 1e-9, "log loss before");
    CHECK_CLOSE(c.loss[0][1], losses[1], 1e-9, "log loss after");
    for (k = 0; k < K; k++) {
        char name[16];
        snprintf(name, sizeof name, "sets/%d", (int)k);
        CHECK(fixture_numbers(fixture, name, levels, CALIBRATE_LEVELS) == CALIBRATE_LEVELS);
        for (i = 0; i < CALIBRATE_LEVELS; i++)
            CHECK_CLOSE(c.sets[0][k * CALIBRATE_LEVELS + i], levels[i], 1e-5, "threshold of a set");
    }
    calibration_free(&c);
    c.images = 30; /* of 10 images of a class no set holds 95 of 100 */
    c.classes = K;
    for (i = 0; i < c.images; i++) classes[i] = (int)(i % K);
    CHECK(calibrate_probabilities(&c, 1, logits, classes, &error));
    CHECK(c.sets[1][94] == 0 && c.sets[1][LEVEL_90] > 0);
    calibration_free(&c);
}

/* What sha256sum says, where the padding goes into the next block and where it does not. */
/* Where the network is too sure of what it hardly knows, and not sure enough of the rest. */
static void test_power(void)
{
    enum { N = 300 };
    static double logits[N * K], said[N], curve[2];
    static int classes[N];
    const uint64_t base = lngen_base("curve");
    calibration c;
    size_t i;
    memset(&c, 0, sizeof c);
    c.images = N;
    c.classes = K;
    CHECK(fixture_numbers(fixture, "curve/labels", said, N) == N);
    for (i = 0; i < N; i++) classes[i] = (int)said[i];
    for (i = 0; i < N * K; i++) logits[i] = 5 * lngen_value(base, i);
    CHECK(calibrate_probabilities(&c, 0, logits, classes, &error));
    CHECK(fixture_numbers(fixture, "curve", curve, 2) == 2);
    CHECK_CLOSE(c.curve[0][0], curve[0], 1e-4, "temperature beside a power");
    CHECK_CLOSE(c.curve[0][1], curve[1], 2e-4, "power");
    CHECK_CLOSE(c.loss[0][1], fixture_number(fixture, "curve/loss"), 1e-8, "log loss with a power");
    calibration_free(&c);
}

static void test_sha256(void)
{
    static const struct {
        size_t count;
        const char *digits;
    } cases[] = {
        {0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {55, "595615dbe4f0f407ae397d08b4c2cb870cb9b0e11937416f950c5160acf9c005"},
        {56, "784f623b787495078e93ff28a25b581df0584055a7e71d8cd90c454716b92f51"},
        {63, "5ca3e1ef5207490eac01a795e5cc94d59582a5118bf9534665c8668d87aa647c"},
        {64, "2fcd5a0d60e4c941381fcc4e00a4bf8be422c3ddfafb93c809e8d1e2bfffae8e"},
        {119, "faef67da856d6fd9c8d12f9ed0a4fefd3cf0ce085ab43e2907418d457e3c354b"},
        {120, "c9512b08619c19fbb503c7da6b46ef20301e5f7a7a5f43989182398536f5c5c8"},
        {1000, "915e53a44c18b19bb06ba5b3f5fcaf1dc4651e8404c63425cfc6174e74659d87"},
    };
    static char bytes[1000];
    char digits[65];
    size_t i;
    for (i = 0; i < sizeof bytes; i++) bytes[i] = (char)('a' + i % 26);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        sha256_text(digits, bytes, cases[i].count);
        CHECK(strcmp(digits, cases[i].digits) == 0);
    }
}

static void test_png(void)
{
    enum { WIDTH = 37, HEIGHT = 5 };
    static unsigned char palette[768], pixels[WIDTH * HEIGHT];
    const char *expected = fixture_find(fixture, "png");
    sheet s;
    int i;
    memset(&s, 0, sizeof s);
    for (i = 0; i < 768; i++) palette[i] = (unsigned char)(7 * (i / 3) + 3 * (i % 3));
    for (i = 0; i < WIDTH * HEIGHT; i++)
        pixels[i] = (unsigned char)(11 * (i % WIDTH) + 5 * (i / WIDTH));
    png_data(&s, pixels, WIDTH, HEIGHT, palette);
    CHECK(!s.failed && expected && s.length == strcspn(expected, "\n"));
    CHECK(s.text && expected && strncmp(s.text, expected, s.length) == 0);
    sheet_clear(&s);
}

/* ---- a network and images ----------------------------------------------------------------------------- */

/* Stripes, of another direction for each class, with noise; beyond the last of the split noise alone. */
static int make_image(float **pixels, float **map, size_t *height, size_t *width, void *user,
                      size_t index, uint64_t epoch, int thread, lensnet_error *why)
{
    const size_t of = index % K, foreign = index >= IMAGES;
    float *p = (float *)malloc(2 * WIDE * WIDE * sizeof *p);
    size_t y, x;
    (void)user, (void)epoch, (void)thread;
    if (!p) return dataset_no_memory(why);
    for (y = 0; y < WIDE; y++)
        for (x = 0; x < WIDE; x++) {
            const size_t at = of == 0 ? y : of == 1 ? x : x + y;
            p[y * WIDE + x] = (float)((foreign ? 0 : (double)(at % 8 < 4)) +
                                      lngen_value(5 + index, y * WIDE + x) * 0.4);
            p[WIDE * WIDE + y * WIDE + x] = of ? (float)(at % 8 < 4) : 0;
        }
    *pixels = p;
    if (map) *map = p + WIDE * WIDE;
    *height = *width = WIDE;
    return 1;
}

static void make_split(dataset_split *split, dataset_file *files, size_t count)
{
    size_t i;
    memset(split, 0, sizeof *split);
    memset(files, 0, count * sizeof *files);
    for (i = 0; i < count; i++) files[i].label = (int)(i % K);
    split->files = files;
    split->count = count;
    split->source = make_image;
}

static void save_network(void)
{
    lensnet_model_desc desc = golden_desc("small", K);
    lensnet_model *model;
    desc.preprocess.image_size = SIDE;
    desc.preprocess.crop = CROP;
    desc.preprocess.normalisation = LENSNET_NORMALISATION_ZNORM;
    desc.labels = labels;
    model = golden_model_create(&desc);
    golden_must(lensnet_model_save(model, WEIGHTS_PATH, LENSNET_DTYPE_F16, &error), &error, "save");
    lensnet_model_destroy(model);
}

/* ---- a file learns what it knows ---------------------------------------------------------------------- */

/* The tensors that were there before are the same, to the byte; the new ones are the calibration's. */
static void check_kept(const char *before, size_t before_size)
{
    lensnet_archive *old, *now;
    size_t i;
    FILE *file = fopen("build/answer_before.safetensors", "wb");
    golden_expect(file && fwrite(before, 1, before_size, file) == before_size && !fclose(file),
                  "a copy of the weights");
    golden_must(lensnet_archive_open(&old, "build/answer_before.safetensors", NULL, &error), &error,
                "open");
    golden_must(lensnet_archive_open(&now, WEIGHTS_PATH, NULL, &error), &error, "open");
    CHECK(lensnet_archive_count(now) == lensnet_archive_count(old) + CALIBRATE_ADDED);
    for (i = 0; i < lensnet_archive_count(old); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(old, i);
        const lensnet_archive_entry *same = lensnet_archive_find(now, entry->name);
        char *bytes = (char *)malloc(2 * (size_t)entry->bytes);
        CHECK(same && same->dtype == entry->dtype && same->bytes == entry->bytes);
        CHECK(bytes && same && !lensnet_archive_read_bytes(bytes, old, entry, &error) &&
              !lensnet_archive_read_bytes(bytes + entry->bytes, now, same, &error) &&
              memcmp(bytes, bytes + entry->bytes, (size_t)entry->bytes) == 0);
        free(bytes);
    }
    CHECK(lensnet_archive_metadata(now, "lensnet.calibration.images") &&
          strcmp(lensnet_archive_metadata(now, "lensnet.calibration.images"), "96") == 0);
    lensnet_archive_close(old);
    lensnet_archive_close(now);
}

static int same_file(const char *bytes, size_t size)
{
    size_t count;
    char *now = fixture_load(WEIGHTS_PATH, &count);
    const int same = count == size && memcmp(now, bytes, size) == 0;
    free(now);
    return same;
}

static void calibrate_must(dataset_split *split, const lensnet_classifier_options *choice,
                           size_t batch)
{
    calibration c;
    golden_expect(calibrate_file(&c, WEIGHTS_PATH, split, choice, batch, &error), error.text);
    calibration_free(&c);
}

static void read_sets(float *sets)
{
    lensnet_archive *archive;
    golden_must(lensnet_archive_open(&archive, WEIGHTS_PATH, NULL, &error), &error, "open");
    golden_must(
        lensnet_archive_read_float(
            sets, archive, lensnet_archive_find(archive, "lensnet.calibration.1.sets"), &error),
        &error, "read");
    lensnet_archive_close(archive);
}

/* Lines of another key stay, one of the same key gives way, and checksums are to be made anew. */
static void test_lines(void)
{
    static const lensnet_archive_pair old[4] = {
        {"format", "pt"}, {"b", "2"}, {LENSNET_ARCHIVE_CHECKSUMS, "stale"}, {"c", "3"}};
    static const lensnet_archive_pair added[2] = {{"b", "new"}, {"d", "4"}};
    static const char *const keys[5] = {"format", LENSNET_ARCHIVE_CHECKSUMS, "c", "b", "d"};
    static const char *const values[5] = {"pt", NULL, "3", "new", "4"};
    lensnet_archive_pair pairs[6];
    size_t i;
    CHECK(calibrate_lines(pairs, old, 4, added, 2) == 5);
    for (i = 0; i < 5; i++) {
        CHECK(strcmp(pairs[i].key, keys[i]) == 0);
        CHECK(values[i] ? pairs[i].value && strcmp(pairs[i].value, values[i]) == 0
                        : !pairs[i].value);
    }
}

static void test_file(void)
{
    static dataset_file files[IMAGES];
    const lensnet_host host = lensnet_host_defaults();
    lensnet_classifier_options choice = lensnet_classifier_defaults();
    calibration c;
    dataset_split split;
    static float sets[2][K * CALIBRATE_LEVELS];
    size_t before_size, size;
    char *before = fixture_load(WEIGHTS_PATH, &before_size), *once;
    choice.host = &host;
    choice.views = 8;
    make_split(&split, files, 29); /* 9 of one class */
    CHECK(!calibrate_file(&c, WEIGHTS_PATH, &split, &choice, 7, &error) &&
          strstr(error.text, "10 of each class"));
    calibration_free(&c);
    CHECK(same_file(before, before_size));
    make_split(&split, files, IMAGES);
    calibrate_must(&split, &choice, 7);
    check_kept(before, before_size);
    once = fixture_load(WEIGHTS_PATH, &size);
    calibrate_must(&split, &choice, 32);
    CHECK(same_file(once, size)); /* what was there is replaced; the batch changes nothing */
    read_sets(sets[0]);
    choice.precision = LENSNET_PRECISION_BF16; /* another precision has other probabilities */
    calibrate_must(&split, &choice, 32);
    read_sets(sets[1]);
    CHECK(memcmp(sets[0], sets[1], sizeof sets[0]) != 0);
    choice.precision = LENSNET_PRECISION_FP32;
    calibrate_must(&split, &choice, 32);
    CHECK(same_file(once, size));
    free(before);
    free(once);
}

/* ---- the answers -------------------------------------------------------------------------------------- */

static void check_answers(const evaluation *e)
{
    size_t k, images, known = 0, strange = 0, i;
    double size;
    for (k = 0; k < K; k++) { /* by construction, on the images that the thresholds came from */
        const size_t covered = evaluation_covered(&images, &size, e, k);
        CHECK(images >= IMAGES / K && (double)covered >= 0.9 * IMAGES / K);
    }
    for (i = 0; i < e->count; i++)
        *(i < IMAGES ? &known : &strange) += (size_t)e->predictions[i].unknown;
    CHECK(known <= IMAGES / 20);
    CHECK(strange == e->count - IMAGES); /* noise, which it never saw */
}

/* ---- where it looks ----------------------------------------------------------------------------------- */

/* A class's logit less the mean of all. */
static double score(explainer *x, size_t label)
{
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    float logits[K];
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = logits;
    batch.images = x->input;
    batch.channels = (size_t)x->preprocess.channels;
    batch.count = 1;
    batch.targets = x->targets;
    golden_must(lensnet_forward(x->graph, &batch, &outputs, &error), &error, "forward");
    return (double)logits[label] - ((double)logits[0] + (double)logits[1] + (double)logits[2]) / K;
}

/* The last bias before the stage's map is added to every pixel of a channel: what it does to the score is
 * the sum of that channel's gradients. */
static void check_gradient(explainer *x, size_t label)
{
    lensnet_parameters *ps = lensnet_model_parameters(x->model);
    const float *g = lensnet_tensor_gradient(x->graph, x->stage);
    double sums[16], step = 1.0 / 64;
    size_t i, c, at = lensnet_parameters_count(ps);
    float *bias;
    for (i = 0; i < at; i++)
        if (strstr(lensnet_parameters_info(ps, i).name, "stages.1.") &&
            system_ends_in(lensnet_parameters_info(ps, i).name, "pwconv2.bias"))
            break;
    golden_expect(i < at && x->channels == 16, "a bias");
    bias = lensnet_parameters_values(ps) + lensnet_parameters_info(ps, i).offset;
    for (c = 0; c < x->channels; c++)
        for (sums[c] = 0, i = 0; i < x->side * x->side; i++)
            sums[c] -= (double)g[i * x->channels + c];
    for (c = 0; c < x->channels; c++) {
        const float was = bias[c];
        double up, down;
        bias[c] = was + (float)step;
        lensnet_parameters_changed(ps);
        up = score(x, label);
        bias[c] = was - (float)step;
        lensnet_parameters_changed(ps);
        down = score(x, label);
        bias[c] = was;
        lensnet_parameters_changed(ps);
        CHECK_CLOSE(sums[c], (up - down) / (2 * step), 2e-3 * (1 + fabs(sums[c])),
                    "gradient of the score on a channel");
    }
}

/* The map at a pixel of the crop, between the four nearest of the stage. */
static double between(const explainer *x, size_t row, size_t column)
{
    const double scale = (double)x->side / CROP, last = (double)x->side - 1;
    double y = ((double)row + 0.5) * scale - 0.5, u = ((double)column + 0.5) * scale - 0.5;
    size_t top, left, down, right;
    y = y < 0 ? 0 : y > last ? last : y;
    u = u < 0 ? 0 : u > last ? last : u;
    top = (size_t)y;
    left = (size_t)u;
    down = top + (y < last);
    right = left + (u < last);
    y -= (double)top;
    u -= (double)left;
    return (1 - y) * ((1 - u) * (double)x->map[top * x->side + left] +
                      u * (double)x->map[top * x->side + right]) +
           y * ((1 - u) * (double)x->map[down * x->side + left] +
                u * (double)x->map[down * x->side + right]);
}

static void check_map(const explainer *x, const float *map)
{
    const float *a = lensnet_tensor_value(x->graph, x->stage);
    const float *g = lensnet_tensor_gradient(x->graph, x->stage);
    const size_t first = (WIDE - CROP) / 2;
    double most = 0;
    size_t i, c, row, column;
    for (i = 0; i < x->side * x->side; i++) {
        double sum = 0;
        for (c = 0; c < x->channels; c++)
            sum += fabs((double)(a[i * x->channels + c]) * (double)g[i * x->channels + c]);
        CHECK_CLOSE(x->map[i], sum, 1e-6 * sum, "sum over the channels");
        if (sum > most) most = sum;
    }
    CHECK(most > 0);
    for (row = 0; row < WIDE; row++)
        for (column = 0; column < WIDE; column++) {
            const int inside =
                row >= first && row < first + CROP && column >= first && column < first + CROP;
            CHECK_CLOSE(map[row * WIDE + column],
                        inside ? between(x, row - first, column - first) : 0, 1e-5 * most,
                        "the map over the image");
        }
}

static void test_explain(void)
{
    explainer x;
    float *pixels, map[WIDE * WIDE];
    size_t height, width;
    golden_expect(make_image(&pixels, NULL, &height, &width, NULL, 1, 0, 0, &error), "an image");
    golden_expect(explain_open(&x, WEIGHTS_PATH, NULL, &error), error.text);
    CHECK(x.side == SIDE / 8 && x.classes == K);
    CHECK(explain_image(map, &x, pixels, height, width, 1, &error));
    check_map(&x, map);
    check_gradient(&x, 1);
    explain_close(&x);
    CHECK(!explain_open(&x, "build/missing.safetensors", NULL, &error));
    explain_close(&x);
    free(pixels);
}

/* ---- the report --------------------------------------------------------------------------------------- */

static size_t count_of(const char *text, const char *word)
{
    size_t count = 0;
    for (text = strstr(text, word); text; text = strstr(text + 1, word)) count++;
    return count;
}

/* Every element is closed in its turn; 0 where one is not. */
static int is_nested(const char *at)
{
    static const char *const empty[] = {"meta", "img", "br"};
    char open[64][24];
    size_t depth = 0, k;
    while ((at = strchr(at, '<')) != NULL) {
        const char *end = strchr(at, '>');
        const int closes = at[1] == '/', declares = at[1] == '!';
        const size_t length = strcspn(at + 1 + closes, " \t\n/>");
        char name[24];
        int is_empty = end && end[-1] == '/';
        if (!end || length >= sizeof name) return 0;
        snprintf(name, sizeof name, "%.*s", (int)length, at + 1 + closes);
        for (k = 0; k < sizeof empty / sizeof *empty; k++) is_empty |= !strcmp(name, empty[k]);
        if (closes && (!depth || strcmp(open[--depth], name) != 0)) return 0;
        if (!closes && !declares && !is_empty) {
            if (depth == 64) return 0;
            memcpy(open[depth++], name, sizeof name);
        }
        at = end;
    }
    return depth == 0;
}

/* Every ampersand begins an entity. */
static int is_escaped(const char *at)
{
    for (; (at = strchr(at, '&')) != NULL; at++) {
        const size_t length = strspn(at + 1, "#abcdefghijklmnopqrstuvwxyz0123456789");
        if (!length || at[1 + length] != ';') return 0;
    }
    return 1;
}

static void check_report(const char *html, const evaluation *e)
{
    size_t i, mistakes = 0, unknown = 0, pictures;
    const size_t maps = (K - 1) * HTML_EXPLAINED; /* class 0 has none */
    for (i = 0; i < e->count; i++) {
        mistakes += e->predictions[i].index != e->labels[i];
        unknown += (size_t)e->predictions[i].unknown;
    }
    pictures = (mistakes < HTML_PICTURES ? mistakes : HTML_PICTURES) +
               (unknown < HTML_PICTURES ? unknown : HTML_PICTURES) + HTML_PICTURES +
               2 * K * HTML_EXPLAINED + maps;
    CHECK(strncmp(html, "<!DOCTYPE html>", 15) == 0 && is_nested(html) && is_escaped(html));
    CHECK(!strstr(html, "<script") && !strstr(html, "src=\"http") && !strstr(html, "href="));
    CHECK(!strstr(html, "<i>") && count_of(html, "&lt;i&gt;clumpy &amp; co") > 3);
    CHECK(count_of(html, "src=\"data:image/png;base64,iVBORw0KGgo") == pictures &&
          count_of(html, "<img ") == pictures);
    CHECK(count_of(html, "what its substructure changes") == maps);
    CHECK(count_of(html, "<svg") == 5 && count_of(html, "<title>") == 6);
    CHECK(strstr(html, "<td class=\"w\">answer &lt;1&gt;</td>") != NULL);
    CHECK(strstr(html, "prefers-color-scheme:dark") && strstr(html, "@media print"));
}

static void test_report(void)
{
    static dataset_file files[IMAGES + 6];
    const lensnet_host host = lensnet_host_defaults();
    lensnet_classifier *classifier;
    dataset_split split;
    evaluation e;
    provenance from;
    char *html;
    memset(&from, 0, sizeof from);
    provenance_add(&from, "name", "%s", "answer <1>");
    make_split(&split, files, IMAGES + 6);
    golden_must(lensnet_classifier_load(&classifier, WEIGHTS_PATH, NULL, &error), &error, "load");
    golden_expect(evaluation_run(&e, classifier, &split, 16, 0, &error), error.text);
    e.weights = WEIGHTS_PATH;
    check_answers(&e);
    golden_expect(system_make_folder(FOLDER), "a folder");
    CHECK(evaluation_write(&e, FOLDER, &error));
    CHECK(html_report_write(&e, &from, FOLDER, &host, &error));
    html = fixture_load(FOLDER "/report.html", NULL);
    check_report(html, &e);
    free(html);
    CHECK(!html_report_write(&e, &from, "build/answer/nowhere", &host, &error));
    evaluation_free(&e);
    lensnet_classifier_destroy(classifier);
}

int main(void)
{
    fixture = fixture_load("tests/fixtures/answer.txt", NULL);
    golden_expect(system_make_folder("build"), "a folder");
    test_foreign();
    test_probabilities();
    test_power();
    test_sha256();
    test_png();
    save_network();
    test_explain();
    test_lines();
    test_file();
    test_report();
    free(fixture);
    return test_end();
}
