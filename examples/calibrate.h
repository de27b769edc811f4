/* calibrate.h - teaches a weights file how far to believe its network, from validation images: a
 * temperature, thresholds of conformal sets for 1 ... 99 percent, and what known images look like, so
 * that others are told from them. Include system.h, then lensnet.h first.
 *
 * A temperature alone makes a network less sure of everything alike. Trained on lenses, one is too sure of what it
 * hardly knows and not sure enough of the rest, so the distance of the logits has a power as well (lensnet.h,
 * lensnet_reliability), where that gains more than chance. Either leaves the order of the classes.
 *
 * Foreign images are told by the Mahalanobis distance of the mean over the second stage's map to that of
 * known images (Lee et al. 2018, with one Gaussian for all classes). The last stage has learned to overlook
 * what tells no classes apart, and knows few round galaxies for foreign; weights/README.md has the figures
 * of both, and of five other scores (tools/compare_foreign.py). No foreign image is needed. The Gaussian's
 * correlations are shrunk towards none. Which distance 1 in 100 known images exceeds is measured on either
 * half of them with the Gaussian of the other half; the one that is kept is that of all.
 * All are turned to one of their eight views first, for which way up a lens lies is no sign. */
#ifndef CALIBRATE_H
#define CALIBRATE_H

#include "predict.h"
#include "statistics.h"

enum { CALIBRATE_LEVELS = 99 };
#define CALIBRATE_SHRINKAGE   0.1
#define CALIBRATE_FALSE_ALARM 0.01
#define CALIBRATE_CHI2        3.841 /* less gain in 2 log likelihood may be chance (5 %) */
#define CALIBRATE_LEAST_POWER 0.5
#define CALIBRATE_MOST_POWER  3.0

/* What was found; zero it before use. */
typedef struct calibration {
    size_t images, classes, features;
    int views[2];      /* 1 and 8; 0: not asked for */
    float curve[2][2]; /* temperature and power */
    float *sets[2];    /* (K, 99) */
    double loss[2][2]; /* mean cross-entropy before and after */
    float *mean, *whitening, threshold;
} calibration;

NPY_API void calibration_free(calibration *c)
{
    free(c->sets[0]);
    free(c->sets[1]);
    free(c->mean);
    free(c->whitening);
    memset(c, 0, sizeof *c);
}

/* ---- going through the images ---- */

typedef struct calibrate_pass {
    const char *path;
    const lensnet_classifier_options *choice; /* how it will be used; with a host */
    size_t batch, classes;
    double *logits; /* (N, K) logarithms of probabilities; NULL: not wanted */
    float *pooled;  /* (N, C); NULL: not wanted */
    lensnet_error *error;
} calibrate_pass;

static int calibrate_receive(void *user, size_t index, const float *probabilities,
                             const char *problem)
{
    calibrate_pass *p = (calibrate_pass *)user;
    size_t k;
    if (!probabilities) return dataset_fail(p->error, "%s", problem);
    for (k = 0; p->logits && k < p->classes; k++) {
        const double q = (double)probabilities[k];
        p->logits[index * p->classes + k] = lensnet_log(q > 1e-37 ? q : 1e-37);
    }
    return !system_interrupted() || dataset_fail(p->error, "interrupted; nothing was written");
}

static int calibrate_go(calibrate_pass *pass, int views, int turned, dataset_split *split)
{
    lensnet_classifier_options choice = *pass->choice;
    lensnet_classifier *classifier;
    predict_wish wish;
    int good;
    choice.views = views;
    choice.calibrated = 0;
    memset(&wish, 0, sizeof wish);
    wish.batch = pass->batch;
    wish.pooled = pass->pooled;
    wish.threads = choice.host->threads;
    wish.turned = turned;
    if (lensnet_classifier_load(&classifier, pass->path, &choice, pass->error)) return 0;
    good = predict_split_as(classifier, split, &wish, calibrate_receive, pass, pass->error);
    lensnet_classifier_destroy(classifier);
    return good;
}

/* ---- temperature and sets ---- */

/* Thresholds of class k from the probabilities that its images give it. */
static void calibrate_class(float *sets, double *sorted, const double *logits, const int *labels,
                            size_t count, size_t classes, size_t k, double temperature)
{
    size_t i, j, n = 0;
    for (i = 0; i < count; i++) {
        const double *row = logits + i * classes;
        double sum = 0;
        if ((size_t)labels[i] != k) continue;
        for (j = 0; j < classes; j++) sum += lensnet_exp((row[j] - row[k]) / temperature);
        sorted[n++] = (double)(float)(1 / sum);
    }
    qsort(sorted, n, sizeof *sorted, statistics_ascending);
    for (j = 0; j < CALIBRATE_LEVELS; j++)
        sets[j] = (float)statistics_conformal(sorted, n, (double)(j + 1) / 100);
}

/* What a curve is fitted to. */
typedef struct calibrate_curve {
    const double *logits;
    double *bent; /* (N, K), of the last power: -(how far below the greatest)^power */
    const int *labels;
    size_t count, classes;
    double temperature; /* of the last power, for the bent logits */
} calibrate_curve;

/* The least mean cross-entropy with a power, over all temperatures. */
static double calibrate_bend(calibrate_curve *f, double power)
{
    size_t i, k;
    for (i = 0; i < f->count; i++) {
        const double *row = f->logits + i * f->classes;
        double top = row[0];
        for (k = 1; k < f->classes; k++) top = row[k] > top ? row[k] : top;
        for (k = 0; k < f->classes; k++)
            f->bent[i * f->classes + k] =
                row[k] < top ? -lensnet_exp(power * lensnet_log(top - row[k])) : 0;
    }
    lensnet_temperature_fit(&f->temperature, f->bent, f->labels, f->count, f->classes, NULL);
    return lensnet_temperature_loss(f->bent, f->labels, f->count, f->classes, f->temperature);
}

/* The power of the least loss, by golden sections. */
static double calibrate_power(calibrate_curve *f)
{
    const double golden = 0.61803398874989485;
    double low = CALIBRATE_LEAST_POWER, high = CALIBRATE_MOST_POWER;
    double a = high - golden * (high - low), b = low + golden * (high - low);
    double at_a = calibrate_bend(f, a), at_b = calibrate_bend(f, b);
    while (high - low > 1e-4) {
        if (at_a < at_b) {
            high = b;
            b = a;
            at_b = at_a;
            a = high - golden * (high - low);
            at_a = calibrate_bend(f, a);
        } else {
            low = a;
            a = b;
            at_a = at_b;
            b = low + golden * (high - low);
            at_b = calibrate_bend(f, b);
        }
    }
    return (low + high) / 2;
}

/* Is the gain in mean cross-entropy more than chance makes? */
static int calibrate_gains(const calibrate_curve *f, double before, double after)
{
    return 2 * (double)f->count * (before - after) >= CALIBRATE_CHI2;
}

/* Temperature and power, each 1 where another is no better; `f` has the bent logits and their temperature. */
static void calibrate_fit_curve(float curve[2], double loss[2], calibrate_curve *f)
{
    const double plain = calibrate_bend(f, 1), power = calibrate_power(f);
    loss[0] = lensnet_temperature_loss(f->logits, f->labels, f->count, f->classes, 1);
    curve[1] = (float)power;
    if (!calibrate_gains(f, plain, calibrate_bend(f, power))) curve[1] = 1;
    loss[1] = calibrate_bend(f, (double)curve[1]);
    if (curve[1] == 1 && !calibrate_gains(f, loss[0], loss[1])) f->temperature = 1;
    curve[0] = (float)lensnet_exp(lensnet_log(f->temperature) / (double)curve[1]);
    f->temperature = lensnet_exp((double)curve[1] * lensnet_log((double)curve[0]));
    loss[1] = lensnet_temperature_loss(f->bent, f->labels, f->count, f->classes, f->temperature);
}

static int calibrate_probabilities(calibration *c, int which, const double *logits,
                                   const int *labels, lensnet_error *error)
{
    double *sorted = (double *)malloc(c->images * sizeof *sorted);
    calibrate_curve f;
    size_t k;
    int good;
    f.logits = logits;
    f.bent = (double *)malloc(c->images * c->classes * sizeof *f.bent);
    f.labels = labels;
    f.count = c->images;
    f.classes = c->classes;
    c->sets[which] = (float *)malloc(c->classes * CALIBRATE_LEVELS * sizeof(float));
    good = (sorted && f.bent && c->sets[which]) || dataset_no_memory(error);
    good =
        good && !lensnet_temperature_fit(&f.temperature, logits, labels, f.count, f.classes, error);
    if (good) calibrate_fit_curve(c->curve[which], c->loss[which], &f);
    for (k = 0; good && k < c->classes; k++)
        calibrate_class(c->sets[which] + k * CALIBRATE_LEVELS, sorted, f.bent, labels, f.count,
                        f.classes, k, f.temperature);
    free(sorted);
    free(f.bent);
    return good;
}

/* ---- foreign images ---- */

/* The images of a fold: all (2), or every second eight of them (0, 1), so that every fold has all views. */
typedef struct calibrate_fold {
    const float *pooled;
    size_t count, features, which;
} calibrate_fold;

static int calibrate_holds(const calibrate_fold *f, size_t i)
{
    return f->which == 2 || (i >> 3 & 1) == f->which;
}

static double calibrate_size(const calibrate_fold *f)
{
    size_t i, size = 0;
    for (i = 0; i < f->count; i++) size += (size_t)calibrate_holds(f, i);
    return (double)size;
}

/* Mean and deviation of each feature over a fold. One that never moves must not become infinite. */
static void calibrate_moments(double *mean, double *deviation, const calibrate_fold *f)
{
    const double n = calibrate_size(f);
    double smallest = 0;
    size_t i, c;
    memset(mean, 0, f->features * sizeof *mean);
    memset(deviation, 0, f->features * sizeof *deviation);
    for (i = 0; i < f->count; i++)
        for (c = 0; calibrate_holds(f, i) && c < f->features; c++)
            mean[c] += (double)f->pooled[i * f->features + c] / n;
    for (i = 0; i < f->count; i++)
        for (c = 0; calibrate_holds(f, i) && c < f->features; c++) {
            const double d = (double)f->pooled[i * f->features + c] - mean[c];
            deviation[c] += d * d / n;
        }
    for (c = 0; c < f->features; c++) {
        deviation[c] = sqrt(deviation[c]);
        smallest += 1e-3 * deviation[c] / (double)f->features;
    }
    for (c = 0; c < f->features; c++)
        if (!(deviation[c] > smallest)) deviation[c] = smallest > 0 ? smallest : 1;
}

/* The lower triangle of the correlations (C, C) over a fold, shrunk. `d` is room for C numbers. */
static void calibrate_correlate(double *correlation, double *d, const double *mean,
                                const double *deviation, const calibrate_fold *f)
{
    const double n = calibrate_size(f);
    const size_t features = f->features;
    size_t i, r, c;
    memset(correlation, 0, features * features * sizeof *correlation);
    for (i = 0; i < f->count; i++) {
        if (!calibrate_holds(f, i)) continue;
        for (c = 0; c < features; c++)
            d[c] = ((double)f->pooled[i * features + c] - mean[c]) / deviation[c];
        for (r = 0; r < features; r++) {
            const double factor = d[r] * (1 - CALIBRATE_SHRINKAGE) / n;
            for (c = 0; c <= r; c++) correlation[r * features + c] += factor * d[c];
        }
    }
    for (r = 0; r < features; r++) correlation[r * features + r] += CALIBRATE_SHRINKAGE;
}

/* The lower triangle a = G G^T becomes G (Cholesky), then its inverse. */
static void calibrate_invert_root(double *a, size_t n)
{
    size_t i, j, k;
    for (j = 0; j < n; j++)
        for (i = j; i < n; i++) {
            double sum = a[i * n + j];
            for (k = 0; k < j; k++) sum -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[j * n + j];
        }
    for (j = 0; j < n; j++) {
        a[j * n + j] = 1 / a[j * n + j];
        for (i = j + 1; i < n; i++) {
            double sum = 0;
            for (k = j; k < i; k++) sum -= a[i * n + k] * a[k * n + j];
            a[i * n + j] = sum / a[i * n + i];
        }
    }
}

/* The distance as lensnet.h computes it, before the threshold. `y` is room for C floats. */
static double calibrate_distance(const calibration *c, const float *x, float *y)
{
    const float *column = c->whitening;
    double sum = 0;
    size_t i, r;
    memset(y, 0, c->features * sizeof *y);
    for (i = 0; i < c->features; column += c->features - i, i++) {
        const float d = x[i] - c->mean[i];
        for (r = i; r < c->features; r++) y[r] += column[r - i] * d;
    }
    for (r = 0; r < c->features; r++) sum += (double)y[r] * (double)y[r];
    return sqrt(sum / (double)c->features);
}

/* The Gaussian of a fold. `work` is room for C (C + 3) numbers. */
static void calibrate_gaussian(calibration *c, double *work, const calibrate_fold *f)
{
    const size_t n = f->features;
    double *mean = work, *deviation = work + n, *matrix = work + 3 * n;
    size_t i, r, at = 0;
    calibrate_moments(mean, deviation, f);
    calibrate_correlate(matrix, work + 2 * n, mean, deviation, f);
    calibrate_invert_root(matrix, n);
    for (i = 0; i < n; i++) {
        c->mean[i] = (float)mean[i];
        for (r = i; r < n; r++) c->whitening[at++] = (float)(matrix[r * n + i] / deviation[i]);
    }
}

/* The Gaussian of all images, and the threshold from what either half is to the other's. `work` is room for
 * C (C + 3) + N numbers, `y` for C. */
static void calibrate_known(calibration *c, double *work, float *y, const float *pooled)
{
    const size_t n = c->features, count = c->images;
    const size_t rank = (size_t)ceil((double)(count + 1) * (1 - CALIBRATE_FALSE_ALARM));
    double *distances = work + n * (n + 3);
    calibrate_fold fold = {NULL, 0, 0, 0};
    size_t i;
    fold.pooled = pooled;
    fold.count = count;
    fold.features = n;
    for (fold.which = 0; fold.which < 2; fold.which++) {
        calibrate_gaussian(c, work, &fold);
        for (i = 0; i < count; i++)
            if (!calibrate_holds(&fold, i)) distances[i] = calibrate_distance(c, pooled + i * n, y);
    }
    calibrate_gaussian(c, work, &fold);
    qsort(distances, count, sizeof *distances, statistics_ascending);
    c->threshold = (float)distances[rank > count ? count - 1 : rank - 1];
}

static int calibrate_foreign(calibration *c, const float *pooled, lensnet_error *error)
{
    const size_t n = c->features;
    double *work = (double *)malloc((n * (n + 3) + c->images) * sizeof *work);
    float *y = (float *)malloc(n * sizeof *y);
    int good;
    c->mean = (float *)malloc(n * sizeof *c->mean);
    c->whitening = (float *)malloc(n * (n + 1) / 2 * sizeof *c->whitening);
    good = (work && y && c->mean && c->whitening) || dataset_no_memory(error);
    if (good) calibrate_known(c, work, y, pooled);
    free(work);
    free(y);
    return good && (c->threshold > 0 ||
                    dataset_fail(
                        error, "all images look the same to the network; it cannot be calibrated"));
}

/* ---- all of it ---- */

/* Are there images enough of every class? If not, `error` says so. */
NPY_API int calibrate_check(const dataset_split *split, size_t classes, lensnet_error *error)
{
    size_t i, k, found;
    for (k = 0; k < classes; k++) {
        for (i = found = 0; i < split->count; i++) found += (size_t)split->files[i].label == k;
        if (found < 10)
            return dataset_fail(error,
                                "class %zu has %zu images here; calibrating needs 10 of each class "
                                "or more, and a hundred for sets of 99 percent",
                                k + 1, found);
    }
    return 1;
}

static int calibrate_passes(calibration *c, calibrate_pass *pass, int *labels, dataset_split *split)
{
    float *pooled = pass->pooled;
    size_t i;
    int which, good = 1;
    for (i = 0; i < split->count; i++) labels[i] = split->files[i].label;
    pass->pooled = NULL;
    for (which = 0; good && which < (pass->choice->views == 8 ? 2 : 1); which++) {
        c->views[which] = which ? 8 : 1;
        good = calibrate_go(pass, c->views[which], 0, split) &&
               calibrate_probabilities(c, which, pass->logits, labels, pass->error);
    }
    pass->logits = NULL;
    pass->pooled = pooled;
    return good && calibrate_go(pass, 1, 1, split) && calibrate_foreign(c, pooled, pass->error);
}

/* Calibrates the network of the file `path` on the images of `split`, which it was not trained on, as it
 * will be used: in the precision of `choice`, for one view, and with its views = 8 for eight as well.
 * Changes no file. */
static int calibrate_fit(calibration *c, const char *path, dataset_split *split,
                         const lensnet_classifier_options *choice, size_t batch,
                         lensnet_error *error)
{
    lensnet_classifier_options plain = *choice;
    lensnet_classifier *classifier;
    calibrate_pass pass;
    double *logits;
    int *labels, good;
    plain.calibrated = 0;
    if (lensnet_classifier_load(&classifier, path, &plain, error)) return 0;
    c->images = split->count;
    c->classes = lensnet_classifier_classes(classifier);
    c->features = lensnet_classifier_pooled(classifier);
    lensnet_classifier_destroy(classifier);
    if (!calibrate_check(split, c->classes, error)) return 0;
    pass.path = path;
    pass.choice = choice;
    pass.batch = batch;
    pass.classes = c->classes;
    pass.error = error;
    pass.logits = logits = (double *)malloc(c->images * c->classes * sizeof *logits);
    pass.pooled = (float *)malloc(c->images * c->features * sizeof(float));
    labels = (int *)malloc(c->images * sizeof *labels);
    good = logits && pass.pooled && labels ? calibrate_passes(c, &pass, labels, split)
                                           : dataset_no_memory(error);
    free(logits);
    free(pass.pooled);
    free(labels);
    return good;
}

/* ---- the file ---- */

enum { CALIBRATE_ADDED = 7 };

static void calibrate_tensor(lensnet_archive_tensor *t, const char *name, const float *values,
                             size_t rows, size_t columns)
{
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = LENSNET_DTYPE_F32;
    t->rank = columns ? 2 : rows ? 1 : 0;
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->values = values;
}

/* The tensors of a calibration; returns how many. Names and shapes: lensnet.h, >>classify-impl. */
static size_t calibrate_tensors(lensnet_archive_tensor *t, const calibration *c)
{
    static const char *const temperatures[2] = {"lensnet.calibration.1.temperature",
                                                "lensnet.calibration.8.temperature"};
    static const char *const sets[2] = {"lensnet.calibration.1.sets", "lensnet.calibration.8.sets"};
    size_t n = 0;
    int which;
    for (which = 0; which < 2; which++) {
        if (!c->views[which]) continue;
        calibrate_tensor(&t[n++], temperatures[which], c->curve[which],
                         c->curve[which][1] == 1 ? 0 : 2, 0);
        calibrate_tensor(&t[n++], sets[which], c->sets[which], c->classes, CALIBRATE_LEVELS);
    }
    calibrate_tensor(&t[n++], "lensnet.foreign.2.mean", c->mean, c->features, 0);
    calibrate_tensor(&t[n++], "lensnet.foreign.2.whitening", c->whitening,
                     c->features * (c->features + 1) / 2, 0);
    calibrate_tensor(&t[n++], "lensnet.foreign.2.threshold", &c->threshold, 0, 0);
    return n;
}

/* Is it a tensor of an earlier calibration? */
static int calibrate_is_old(const char *name)
{
    return strncmp(name, "lensnet.calibration.", 20) == 0 ||
           strncmp(name, "lensnet.foreign.", 16) == 0;
}

/* Takes over the archive's own tensors as bytes; `blocks` are to be freed. */
static int calibrate_copy(lensnet_archive_tensor *tensors, void **blocks, size_t *count,
                          const lensnet_archive *archive, int without_old, lensnet_error *error)
{
    size_t i;
    for (i = 0; i < lensnet_archive_count(archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        lensnet_archive_tensor *t = &tensors[*count];
        if (without_old && calibrate_is_old(entry->name)) continue;
        blocks[*count] = malloc((size_t)entry->bytes + 1);
        if (!blocks[*count]) return dataset_no_memory(error);
        memset(t, 0, sizeof *t);
        t->name = entry->name;
        t->dtype = entry->dtype;
        t->rank = entry->rank;
        memcpy(t->shape, entry->shape, sizeof t->shape);
        t->bytes = blocks[(*count)++];
        if (lensnet_archive_read_bytes(blocks[*count - 1], archive, entry, error)) return 0;
    }
    return 1;
}

/* The archive's lines of metadata with `lines` in place of those of the same keys; the line of checksums
 * is left to be filled in. */
static size_t calibrate_lines(lensnet_archive_pair *pairs, const lensnet_archive_pair *old,
                              size_t old_count, const lensnet_archive_pair *lines,
                              size_t line_count)
{
    size_t i, j, count = 0;
    for (i = 0; i < old_count; i++) {
        for (j = 0; j < line_count && strcmp(lines[j].key, old[i].key) != 0;) j++;
        if (j < line_count) continue;
        pairs[count] = old[i];
        if (strcmp(old[i].key, LENSNET_ARCHIVE_CHECKSUMS) == 0) pairs[count].value = NULL;
        count++;
    }
    for (j = 0; j < line_count; j++) pairs[count++] = lines[j];
    return count;
}

/* The whole file, to be freed; NULL where it cannot be read. */
static unsigned char *calibrate_bytes(size_t *size, const char *path, const lensnet_host *host,
                                      lensnet_error *error)
{
    const lensnet_host h = host ? *host : lensnet_host_defaults();
    void *file = h.file_open(path, 0, h.user);
    unsigned char *bytes = NULL;
    int good = file != NULL;
    *size = 0;
    if (good) *size = (size_t)h.file_size(file, h.user);
    if (good) bytes = (unsigned char *)malloc(*size + 1);
    good = good && bytes && h.file_read(file, 0, bytes, *size, h.user) == 0;
    if (file) h.file_close(file, 0, h.user);
    if (good) return bytes;
    free(bytes);
    dataset_fail(error, "%s: it cannot be read, or there is no memory for it", path);
    return NULL;
}

/* Writes the file anew with `c` (NULL: as it stands) and with lines of metadata, which replace those of
 * the same keys. All else stays as it is, to the byte. `host` has the files; NULL: the default one. */
NPY_API int calibrate_write(const char *path, const calibration *c,
                            const lensnet_archive_pair *lines, size_t line_count,
                            const lensnet_host *host, lensnet_error *error)
{
    lensnet_archive *archive;
    lensnet_archive_tensor *tensors;
    lensnet_archive_pair *pairs;
    const lensnet_archive_pair *old;
    void **blocks;
    size_t i, old_count, room, count = 0, copied, size;
    int good;
    /* not from the file: what is open cannot be replaced on Windows */
    unsigned char *bytes = calibrate_bytes(&size, path, host, error);
    if (!bytes || lensnet_archive_open_memory(&archive, bytes, size, host, error)) {
        free(bytes);
        return 0;
    }
    room = lensnet_archive_count(archive) + CALIBRATE_ADDED;
    old = lensnet_archive_pairs(archive, &old_count);
    tensors = (lensnet_archive_tensor *)malloc(room * sizeof *tensors);
    blocks = (void **)malloc(room * sizeof *blocks);
    pairs = (lensnet_archive_pair *)malloc((old_count + line_count + 1) * sizeof *pairs);
    good = ((tensors && blocks && pairs) || dataset_no_memory(error)) &&
           calibrate_copy(tensors, blocks, &count, archive, c != NULL, error);
    copied = count;
    if (good && c) count += calibrate_tensors(tensors + count, c);
    if (good) {
        const size_t pair_count = calibrate_lines(pairs, old, old_count, lines, line_count);
        good = !lensnet_archive_save(path, tensors, count, pairs, pair_count, host, error);
    }
    for (i = 0; blocks && i < copied; i++) free(blocks[i]);
    free(blocks);
    free(tensors);
    free(pairs);
    lensnet_archive_close(archive);
    free(bytes);
    return good;
}

/* Calibrates the file on a split and writes the result into it, and into *c, which is to be freed in any
 * case. `choice` is how the network will be used, and has a host. */
NPY_API int calibrate_file(calibration *c, const char *path, dataset_split *split,
                           const lensnet_classifier_options *choice, size_t batch,
                           lensnet_error *error)
{
    char images[32];
    lensnet_archive_pair lines[2];
    memset(c, 0, sizeof *c);
    snprintf(images, sizeof images, "%zu", split->count);
    lines[0].key = "lensnet.calibration.images";
    lines[0].value = images;
    lines[1].key = "lensnet.calibration.precision";
    lines[1].value = lensnet_precision_text(choice->precision);
    return calibrate_fit(c, path, split, choice, batch, error) &&
           calibrate_write(path, c, lines, 2, choice->host, error);
}

#endif
