/* statistics.h - how sure a figure of a classifier is, and whether two classifiers differ: bootstrap
 * intervals, DeLong's and McNemar's tests, precision-recall curves, conformal thresholds, the test of
 * Kolmogorov and Smirnov. Plain numbers in and out, malloc and libm. Include lensnet.h first.
 *
 * N samples, K classes, scores (N, K) as in lensnet.h's metrics. Functions return 1 on success, 0 without
 * memory. */
#ifndef STATISTICS_H
#define STATISTICS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef LENSNET_H
#error "statistics.h: include lensnet.h first"
#endif

#if defined(__GNUC__)
#define STATISTICS_API __attribute__((unused)) static
#else
#define STATISTICS_API static
#endif

#define STATISTICS_NORMAL_95 1.959963984540054 /* the 0.975 quantile of the normal distribution */

typedef struct statistics_interval {
    double value, low, high;
} statistics_interval;

/* ---- small tools ---- */

static int statistics_ascending(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

/* The quantile q of ascending values, linear between them: numpy.quantile's default. */
STATISTICS_API double statistics_quantile(const double *sorted, size_t count, double q)
{
    const double at = q * (double)(count - 1);
    const size_t below = (size_t)at < count - 1 ? (size_t)at : count - 1;
    const double part = at - (double)below;
    if (below + 1 >= count) return sorted[count - 1];
    return sorted[below] + part * (sorted[below + 1] - sorted[below]);
}

/* P(|Z| >= |z|) of a standard normal Z. */
STATISTICS_API double statistics_normal_tails(double z) { return erfc(fabs(z) / sqrt(2.0)); }

/* Wilson's 95 % interval of a share. */
STATISTICS_API statistics_interval statistics_share(size_t part, size_t whole)
{
    const double z = STATISTICS_NORMAL_95, n = (double)whole, p = whole ? (double)part / n : 0;
    const double middle = (p + z * z / (2 * n)) / (1 + z * z / n);
    const double half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    statistics_interval i = {p, middle - half, middle + half};
    if (!whole) i.value = i.low = i.high = NAN;
    return i;
}

/* ---- ranks ---- */

/* Samples by descending score, once for each class; `last` marks where a group of equal scores ends. */
typedef struct statistics_ranks {
    size_t count, classes;
    uint32_t *order; /* (K, N) */
    unsigned char *last;
} statistics_ranks;

typedef struct statistics_ranked {
    double score;
    uint32_t index;
} statistics_ranked;

static int statistics_descending(const void *left, const void *right)
{
    const statistics_ranked *a = (const statistics_ranked *)left;
    const statistics_ranked *b = (const statistics_ranked *)right;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

STATISTICS_API void statistics_ranks_free(statistics_ranks *r)
{
    free(r->order);
    free(r->last);
    memset(r, 0, sizeof *r);
}

STATISTICS_API int statistics_ranks_create(statistics_ranks *r, const double *scores, size_t count,
                                           size_t classes)
{
    statistics_ranked *list = (statistics_ranked *)malloc(count * sizeof *list);
    size_t i, k;
    r->count = count;
    r->classes = classes;
    r->order = (uint32_t *)malloc(count * classes * sizeof *r->order);
    r->last = (unsigned char *)malloc(count * classes);
    for (k = 0; list && r->order && r->last && k < classes; k++) {
        for (i = 0; i < count; i++) {
            list[i].score = scores[i * classes + k];
            list[i].index = (uint32_t)i;
        }
        qsort(list, count, sizeof *list, statistics_descending);
        for (i = 0; i < count; i++) {
            r->order[k * count + i] = list[i].index;
            r->last[k * count + i] = i + 1 == count || list[i].score != list[i + 1].score;
        }
    }
    free(list);
    if (list && r->order && r->last) return 1;
    statistics_ranks_free(r);
    return 0;
}

/* ---- figures of a weighted sample ---- */

/* What is counted again and again: computed once for each sample. */
typedef struct statistics_sample {
    size_t count, classes;
    const int *labels;
    int *predictions;
    double *losses, *briers, *confidences;
    unsigned char *bins; /* of the calibration error */
    statistics_ranks ranks;
    statistics_ranks
        all; /* of all N K scores in one row: order has the sample, last the bits LAST, OWN */
} statistics_sample;

enum { STATISTICS_LAST = 1, STATISTICS_OWN = 2 }; /* ends a group; is the score of the true class */

/* Figures in the order of the values; then, for each class, those of STATISTICS_CLASS_... */
enum {
    STATISTICS_ACCURACY,
    STATISTICS_BALANCED_ACCURACY,
    STATISTICS_F1,
    STATISTICS_AUC, /* macro, class against rest */
    STATISTICS_AUC_MICRO,
    STATISTICS_AUC_PAIRS, /* macro, class against class (Hand & Till 2001) */
    STATISTICS_AVERAGE_PRECISION,
    STATISTICS_LOG_LOSS,
    STATISTICS_BRIER,
    STATISTICS_ECE,
    STATISTICS_MATTHEWS,
    STATISTICS_KAPPA,
    STATISTICS_FIGURES
};
enum {
    STATISTICS_CLASS_AUC,
    STATISTICS_CLASS_AVERAGE_PRECISION,
    STATISTICS_CLASS_PRECISION,
    STATISTICS_CLASS_RECALL,
    STATISTICS_CLASS_F1,
    STATISTICS_CLASS_FIGURES
};

STATISTICS_API size_t statistics_figures(size_t classes)
{
    return STATISTICS_FIGURES + classes * STATISTICS_CLASS_FIGURES;
}

STATISTICS_API void statistics_sample_free(statistics_sample *s)
{
    free(s->predictions);
    free(s->losses);
    free(s->bins);
    statistics_ranks_free(&s->ranks);
    statistics_ranks_free(&s->all);
    memset(s, 0, sizeof *s);
}

/* The bin (b / B, (b + 1) / B] of a confidence, as lensnet_calibration has it. */
static unsigned char statistics_bin(double confidence)
{
    int b = (int)(confidence * LENSNET_METRICS_BINS);
    if (b >= LENSNET_METRICS_BINS) b = LENSNET_METRICS_BINS - 1;
    while (b > 0 && confidence <= (double)b / LENSNET_METRICS_BINS) b--;
    while (b + 1 < LENSNET_METRICS_BINS && confidence > (double)(b + 1) / LENSNET_METRICS_BINS) b++;
    return (unsigned char)b;
}

static void statistics_sample_row(statistics_sample *s, const double *p, size_t i)
{
    const size_t label = (size_t)s->labels[i];
    double sum = 0, brier = 0, right;
    size_t k;
    for (k = 0; k < s->classes; k++) {
        const double off = p[k] - (k == label);
        sum += p[k];
        brier += off * off;
    }
    right = p[label] / sum;
    s->losses[i] = -log(right > 2.2204460492503131e-16 ? right : 2.2204460492503131e-16);
    s->briers[i] = brier;
    s->confidences[i] = p[s->predictions[i]];
    s->bins[i] = statistics_bin(s->confidences[i]);
}

static int statistics_sample_ranks(statistics_sample *s, const double *probabilities)
{
    size_t i, scores = s->count * s->classes;
    if (!statistics_ranks_create(&s->ranks, probabilities, s->count, s->classes) ||
        !statistics_ranks_create(&s->all, probabilities, scores, 1))
        return 0;
    for (i = 0; i < scores; i++) {
        const size_t at = s->all.order[i], sample = at / s->classes;
        const int own = at % s->classes == (size_t)s->labels[sample];
        s->all.order[i] = (uint32_t)sample;
        s->all.last[i] = (unsigned char)(s->all.last[i] | (own ? STATISTICS_OWN : 0));
    }
    return 1;
}

/* `labels` are borrowed; probabilities (N, K) are not needed after the call. */
STATISTICS_API int statistics_sample_create(statistics_sample *s, const double *probabilities,
                                            const int *labels, size_t count, size_t classes)
{
    size_t i;
    memset(s, 0, sizeof *s);
    s->count = count;
    s->classes = classes;
    s->labels = labels;
    s->predictions = (int *)malloc(count * sizeof *s->predictions);
    s->losses = (double *)malloc(3 * count * sizeof *s->losses);
    s->bins = (unsigned char *)malloc(count);
    if (!s->predictions || !s->losses || !s->bins || !statistics_sample_ranks(s, probabilities)) {
        statistics_sample_free(s);
        return 0;
    }
    s->briers = s->losses + count;
    s->confidences = s->briers + count;
    lensnet_predicted_classes(s->predictions, probabilities, count, classes);
    for (i = 0; i < count; i++) statistics_sample_row(s, probabilities + i * classes, i);
    return 1;
}

/* AUC and average precision of class k, samples counting `weights` times; returns the sum of the AUCs of its
 * scores against each other class alone. `work` is room for 2 K numbers. */
static double statistics_ranking(double *auc, double *precision, double *work,
                                 const statistics_sample *s, size_t k, const uint32_t *weights)
{
    const uint32_t *order = s->ranks.order + k * s->count;
    const unsigned char *last = s->ranks.last + k * s->count;
    double *pairs = work, *others = work + s->classes; /* won, and there, of each class */
    double positives = 0, negatives = 0, fresh = 0, all = 0, area = 0, sum = 0;
    size_t i, j, first = 0, c;
    memset(work, 0, 2 * s->classes * sizeof *work);
    for (i = 0; i < s->count; i++) {
        if ((size_t)s->labels[order[i]] == k) fresh += weights[order[i]];
        if (!last[i]) continue;
        for (j = first; j <= i; j++) {
            const double w = weights[order[j]];
            const size_t label = (size_t)s->labels[order[j]];
            if (label == k) continue;
            pairs[label] += w * (positives + fresh / 2);
            others[label] += w;
            negatives += w;
        }
        positives += fresh;
        if (fresh > 0) area += fresh * positives / (positives + negatives);
        fresh = 0;
        first = i + 1;
    }
    for (c = 0; c < s->classes; c++) {
        all += pairs[c];
        if (c != k) sum += pairs[c] / (positives * others[c]);
    }
    *auc = all / (positives * negatives); /* NaN where one side is missing */
    *precision = area / positives;
    return sum;
}

/* The AUC of all scores together, each its own class's or not. */
static double statistics_micro(const statistics_sample *s, const uint32_t *weights)
{
    const statistics_ranks *r = &s->all;
    double fresh[2] = {0, 0}, seen[2] = {0, 0}, pairs = 0;
    size_t i;
    for (i = 0; i < r->count; i++) {
        fresh[(r->last[i] & STATISTICS_OWN) != 0] += weights[r->order[i]];
        if (!(r->last[i] & STATISTICS_LAST)) continue;
        pairs += fresh[0] * (seen[1] + fresh[1] / 2);
        seen[0] += fresh[0];
        seen[1] += fresh[1];
        fresh[0] = fresh[1] = 0;
    }
    return pairs / (seen[0] * seen[1]);
}

static double statistics_ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

/* How far decisions agree with the truth beyond chance, from sums over the classes of `met`: predicted times
 * true, predicted squared, true squared. */
static void statistics_agreement(double *figures, double right, double count, const double met[3])
{
    const double chance = met[0], whole = count * count;
    const double spread = (whole - met[1]) * (whole - met[2]);
    figures[STATISTICS_MATTHEWS] = statistics_ratio(right * count - chance, sqrt(spread));
    figures[STATISTICS_KAPPA] = (right * count - chance) / (whole - chance);
}

/* Precision, recall and F1 of each class; their means go to the figures of all. */
static void statistics_decisions(double *figures, const statistics_sample *s,
                                 const uint32_t *weights)
{
    size_t i, k, present = 0;
    double right = 0, recalls = 0, f1s = 0, met[3] = {0, 0, 0};
    for (k = 0; k < s->classes; k++) {
        double *f = figures + STATISTICS_FIGURES + k * STATISTICS_CLASS_FIGURES;
        double support = 0, predicted = 0, correct = 0;
        for (i = 0; i < s->count; i++) {
            const double w = weights[i];
            const int is = (size_t)s->labels[i] == k, said = (size_t)s->predictions[i] == k;
            support += is ? w : 0;
            predicted += said ? w : 0;
            correct += is & said ? w : 0;
        }
        f[STATISTICS_CLASS_PRECISION] = statistics_ratio(correct, predicted);
        f[STATISTICS_CLASS_RECALL] = statistics_ratio(correct, support);
        f[STATISTICS_CLASS_F1] = statistics_ratio(2 * correct, predicted + support);
        recalls += f[STATISTICS_CLASS_RECALL];
        f1s += f[STATISTICS_CLASS_F1];
        right += correct;
        present += support > 0;
        met[0] += predicted * support;
        met[1] += predicted * predicted;
        met[2] += support * support;
    }
    figures[STATISTICS_ACCURACY] = right / (double)s->count;
    figures[STATISTICS_BALANCED_ACCURACY] = recalls / (double)present;
    figures[STATISTICS_F1] = f1s / (double)s->classes;
    statistics_agreement(figures, right, (double)s->count, met);
}

static void statistics_means(double *figures, const statistics_sample *s, const uint32_t *weights)
{
    double bins[LENSNET_METRICS_BINS] = {0}, loss = 0, brier = 0, ece = 0;
    size_t i;
    for (i = 0; i < s->count; i++) {
        const double w = weights[i];
        loss += w * s->losses[i];
        brier += w * s->briers[i];
        bins[s->bins[i]] += w * ((s->predictions[i] == s->labels[i]) - s->confidences[i]);
    }
    for (i = 0; i < LENSNET_METRICS_BINS; i++) ece += fabs(bins[i]);
    figures[STATISTICS_LOG_LOSS] = loss / (double)s->count;
    figures[STATISTICS_BRIER] = brier / (double)s->count;
    figures[STATISTICS_ECE] = ece / (double)s->count;
}

/* All figures (room for statistics_figures(K)) where sample i counts weights[i] times; the weights sum
 * to N. NaN where a class has no samples. `work` is room for 2 K numbers. */
STATISTICS_API void statistics_compute(double *figures, double *work, const statistics_sample *s,
                                       const uint32_t *weights)
{
    const double classes = (double)s->classes;
    double aucs = 0, precisions = 0, pairs = 0;
    size_t k;
    statistics_decisions(figures, s, weights);
    statistics_means(figures, s, weights);
    for (k = 0; k < s->classes; k++) {
        double *f = figures + STATISTICS_FIGURES + k * STATISTICS_CLASS_FIGURES;
        pairs += statistics_ranking(&f[STATISTICS_CLASS_AUC],
                                    &f[STATISTICS_CLASS_AVERAGE_PRECISION], work, s, k, weights);
        aucs += f[STATISTICS_CLASS_AUC];
        precisions += f[STATISTICS_CLASS_AVERAGE_PRECISION];
    }
    figures[STATISTICS_AUC] = aucs / classes;
    figures[STATISTICS_AUC_MICRO] = statistics_micro(s, weights);
    figures[STATISTICS_AUC_PAIRS] = pairs / (classes * (classes - 1));
    figures[STATISTICS_AVERAGE_PRECISION] = precisions / classes;
}

/* ---- bootstrap ---- */

/* Draw number `draw` of a seed: as many samples of each class as there are, with replacement. `members`
 * holds the samples class by class, `starts` (K + 1) where each class begins. */
STATISTICS_API void statistics_draw(uint32_t *weights, const uint32_t *members,
                                    const size_t *starts, size_t count, size_t classes,
                                    uint64_t seed, uint64_t draw)
{
    const uint64_t stream = lensnet_random_stream("bootstrap") + draw;
    size_t i, k;
    memset(weights, 0, count * sizeof *weights);
    for (k = 0; k < classes; k++) {
        const size_t size = starts[k + 1] - starts[k];
        for (i = starts[k]; i < starts[k + 1]; i++) {
            const double u = lensnet_random_uniform(seed, stream, i);
            weights[members[starts[k] + (size_t)(u * (double)size)]]++;
        }
    }
}

/* The samples class by class. */
STATISTICS_API void statistics_members(uint32_t *members, size_t *starts, const int *labels,
                                       size_t count, size_t classes)
{
    size_t i, k, at = 0;
    for (k = 0; k < classes; k++) {
        starts[k] = at;
        for (i = 0; i < count; i++)
            if ((size_t)labels[i] == k) members[at++] = (uint32_t)i;
    }
    starts[classes] = at;
}

/* Percentile intervals from the figures of all draws (draws, M). */
static void statistics_percentiles(statistics_interval *intervals, const double *values,
                                   double *column, size_t draws, size_t m)
{
    size_t d, f;
    for (f = 0; f < m; f++) {
        int bad = 0;
        for (d = 0; d < draws; d++) {
            column[d] = values[d * m + f];
            bad |= column[d] != column[d];
        }
        intervals[f].low = intervals[f].high = NAN;
        if (bad) continue;
        qsort(column, draws, sizeof *column, statistics_ascending);
        intervals[f].low = statistics_quantile(column, draws, 0.025);
        intervals[f].high = statistics_quantile(column, draws, 0.975);
    }
}

/* 95 % percentile intervals of every figure (Efron 1979) from `draws` stratified draws; the values are those
 * of the sample itself. With `other` (a sample of the same images, or NULL) the figures are the differences
 * `sample` - `other`, both from the same draws. */
STATISTICS_API int statistics_bootstrap(statistics_interval *intervals,
                                        const statistics_sample *sample,
                                        const statistics_sample *other, size_t draws, uint64_t seed)
{
    const size_t n = sample->count, k = sample->classes, m = statistics_figures(k);
    double *values = (double *)malloc((draws * m + m + draws) * sizeof *values);
    uint32_t *members = (uint32_t *)malloc(n * sizeof *members);
    size_t *starts = (size_t *)malloc((k + 1) * sizeof *starts);
    int good = values && members && starts;
    long d;
    if (good) statistics_members(members, starts, sample->labels, n, k);
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 8) reduction(&& : good)
#endif
    for (d = 0; d <= (good ? (long)draws : -1); d++) { /* the last is the sample itself */
        uint32_t *weights = (uint32_t *)malloc(n * sizeof *weights);
        double *figures = values + (size_t)d * m;
        double *minus = (double *)malloc((m + 2 * k) * sizeof *minus), *work = minus + m;
        size_t i;
        good = good && weights && minus;
        for (i = 0; good && i < n; i++) weights[i] = 1;
        if (good && d < (long)draws)
            statistics_draw(weights, members, starts, n, k, seed, (uint64_t)d);
        if (good) statistics_compute(figures, work, sample, weights);
        if (good && other) statistics_compute(minus, work, other, weights);
        for (i = 0; good && other && i < m; i++) figures[i] -= minus[i];
        free(weights);
        free(minus);
    }
    if (good) {
        size_t f;
        statistics_percentiles(intervals, values, values + draws * m + m, draws, m);
        for (f = 0; f < m; f++) intervals[f].value = values[draws * m + f];
    }
    free(values);
    free(members);
    free(starts);
    return good;
}

/* ---- DeLong ---- */

/* The placement of every sample for class k against the rest (DeLong et al. 1988; by ranks as Sun & Xu
 * 2014): for a positive the share of negatives below it, for a negative the share of positives above it;
 * ties count half. Their mean on either side is the AUC. */
STATISTICS_API double statistics_placements(double *placements, const statistics_ranks *r,
                                            const int *labels, size_t k)
{
    const uint32_t *order = r->order + k * r->count;
    const unsigned char *last = r->last + k * r->count;
    size_t i, j, first = 0, positives = 0, negatives = 0, above[2] = {0, 0};
    double sum = 0;
    for (i = 0; i < r->count; i++) positives += (size_t)labels[i] == k;
    negatives = r->count - positives;
    for (i = 0; i < r->count; i++) {
        size_t equal[2] = {0, 0};
        if (!last[i]) continue;
        for (j = first; j <= i; j++) equal[(size_t)labels[order[j]] == k]++;
        for (j = first; j <= i; j++) {
            const int is = (size_t)labels[order[j]] == k;
            const double below = (double)(negatives - above[0] - equal[0]) + 0.5 * (double)equal[0];
            const double over = (double)above[1] + 0.5 * (double)equal[1];
            placements[order[j]] = is ? below / (double)negatives : over / (double)positives;
            if (is) sum += placements[order[j]];
        }
        above[0] += equal[0];
        above[1] += equal[1];
        first = i + 1;
    }
    return sum / (double)positives;
}

/* Covariance of two AUCs of class k from their samples' placements. */
STATISTICS_API double statistics_delong(const double *a, double auc_a, const double *b,
                                        double auc_b, const int *labels, size_t count, size_t k)
{
    double sum[2] = {0, 0};
    size_t i, n[2] = {0, 0};
    for (i = 0; i < count; i++) {
        const int is = (size_t)labels[i] == k;
        sum[is] += (a[i] - auc_a) * (b[i] - auc_b);
        n[is]++;
    }
    return sum[0] / ((double)n[0] * (double)(n[0] - 1)) +
           sum[1] / ((double)n[1] * (double)(n[1] - 1));
}

/* Two classifiers on the same images. */
typedef struct statistics_comparison {
    double a, b;                    /* the two AUCs */
    statistics_interval difference; /* a - b, 95 % */
    double z, p;                    /* two-sided; p is 1 where the two are the same */
} statistics_comparison;

static void statistics_comparison_end(statistics_comparison *c, double variance)
{
    const double error = sqrt(variance > 0 ? variance : 0);
    c->difference.value = c->a - c->b;
    c->difference.low = c->difference.value - STATISTICS_NORMAL_95 * error;
    c->difference.high = c->difference.value + STATISTICS_NORMAL_95 * error;
    c->z = error > 0 ? c->difference.value / error : 0;
    c->p = error > 0 ? statistics_normal_tails(c->z) : 1;
}

/* DeLong's test of the AUC of each class (comparisons 0 ... K - 1), and of their mean (comparison K): what
 * a sample adds to the mean of the K AUCs is one number, and those of each true class are a group, so
 * that for two classes this is DeLong's test again. Every class needs two samples. */
STATISTICS_API int statistics_compare(statistics_comparison *comparisons, const double *scores_a,
                                      const double *scores_b, const int *labels, size_t count,
                                      size_t classes)
{
    statistics_ranks a, b;
    double *work = (double *)calloc(3 * count + 3 * classes, sizeof *work);
    double *pa = work, *pb = work + count, *mean = work + 2 * count;
    double *n = work + 3 * count, *sums = n + classes, *squares = sums + classes;
    size_t i, k;
    double variance = 0;
    int good = work != NULL;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    good = good && statistics_ranks_create(&a, scores_a, count, classes) &&
           statistics_ranks_create(&b, scores_b, count, classes);
    for (i = 0; good && i < count; i++) n[labels[i]]++;
    memset(&comparisons[classes], 0, sizeof *comparisons);
    for (k = 0; good && k < classes; k++) {
        statistics_comparison *c = &comparisons[k];
        c->a = statistics_placements(pa, &a, labels, k);
        c->b = statistics_placements(pb, &b, labels, k);
        statistics_comparison_end(c,
                                  statistics_delong(pa, c->a, pa, c->a, labels, count, k) +
                                      statistics_delong(pb, c->b, pb, c->b, labels, count, k) -
                                      2 * statistics_delong(pa, c->a, pb, c->b, labels, count, k));
        comparisons[classes].a += c->a / (double)classes;
        comparisons[classes].b += c->b / (double)classes;
        for (i = 0; i < count; i++) {
            const int is = (size_t)labels[i] == k;
            const double side = is ? n[k] : (double)count - n[k];
            mean[i] += (pa[i] - c->a - pb[i] + c->b) / side / (double)classes;
        }
    }
    for (i = 0; good && i < count; i++) {
        sums[labels[i]] += mean[i];
        squares[labels[i]] += mean[i] * mean[i];
    }
    for (k = 0; good && k < classes; k++)
        variance += (squares[k] - sums[k] * sums[k] / n[k]) * n[k] / (n[k] - 1);
    if (good) statistics_comparison_end(&comparisons[classes], variance);
    statistics_ranks_free(&a);
    statistics_ranks_free(&b);
    free(work);
    return good;
}

/* ---- McNemar ---- */

typedef struct statistics_mcnemar {
    size_t only_a, only_b;          /* samples that only one of the two gets right */
    double exact;                   /* p-value, two-sided, binomial */
    double chi2, p;                 /* with continuity correction (Edwards 1948), and its p-value */
    statistics_interval difference; /* of the accuracies, a - b, 95 % (Wald) */
} statistics_mcnemar;

/* 2 P(X <= least) of a fair coin thrown n times, at most 1. */
static double statistics_coin(size_t least, size_t n)
{
    double sum = 0;
    size_t i;
    for (i = 0; i <= least; i++)
        sum += exp(lgamma((double)n + 1) - lgamma((double)i + 1) - lgamma((double)(n - i) + 1) -
                   (double)n * log(2.0));
    return 2 * sum < 1 ? 2 * sum : 1;
}

STATISTICS_API statistics_mcnemar statistics_mcnemar_test(const int *predictions_a,
                                                          const int *predictions_b,
                                                          const int *labels, size_t count)
{
    statistics_mcnemar m;
    double b, c, n = (double)count, error;
    size_t i;
    memset(&m, 0, sizeof m);
    for (i = 0; i < count; i++) {
        m.only_a += predictions_a[i] == labels[i] && predictions_b[i] != labels[i];
        m.only_b += predictions_a[i] != labels[i] && predictions_b[i] == labels[i];
    }
    b = (double)m.only_a;
    c = (double)m.only_b;
    m.exact = statistics_coin(b < c ? m.only_a : m.only_b, m.only_a + m.only_b);
    m.chi2 = b + c > 0 ? (fabs(b - c) - 1) * (fabs(b - c) - 1) / (b + c) : 0;
    m.p = b + c > 0 ? erfc(sqrt(m.chi2 / 2)) : 1;
    error = sqrt(b + c - (b - c) * (b - c) / n) / n;
    m.difference.value = (b - c) / n;
    m.difference.low = m.difference.value - STATISTICS_NORMAL_95 * error;
    m.difference.high = m.difference.value + STATISTICS_NORMAL_95 * error;
    return m;
}

/* ---- precision and recall ---- */

typedef struct statistics_curve {
    size_t points;
    double *recall, *precision,
        *threshold; /* one block; recall ascends from 0, precision 1 there */
} statistics_curve;

/* Of class k against the rest: a point for each score that occurs, from the largest down, with the
 * point (0, 1) before them, as scikit-learn's precision_recall_curve (in its reversed order). */
STATISTICS_API int statistics_precision_recall(statistics_curve *curve, const statistics_ranks *r,
                                               const double *scores, const int *labels, size_t k)
{
    double *block = (double *)malloc(3 * (r->count + 1) * sizeof *block);
    size_t i, points = 1, right = 0, positives = 0;
    memset(curve, 0, sizeof *curve);
    if (!block) return 0;
    curve->recall = block;
    curve->precision = block + r->count + 1;
    curve->threshold = block + 2 * (r->count + 1);
    curve->recall[0] = 0;
    curve->precision[0] = 1;
    curve->threshold[0] = INFINITY;
    for (i = 0; i < r->count; i++) positives += (size_t)labels[i] == k;
    for (i = 0; i < r->count; i++) {
        const uint32_t at = r->order[k * r->count + i];
        right += (size_t)labels[at] == k;
        if (!r->last[k * r->count + i]) continue;
        curve->recall[points] = (double)right / (double)positives;
        curve->precision[points] = (double)right / (double)(i + 1);
        curve->threshold[points++] = scores[at * r->classes + k];
    }
    curve->points = points;
    return 1;
}

STATISTICS_API void statistics_curve_free(statistics_curve *curve)
{
    free(curve->recall);
    memset(curve, 0, sizeof *curve);
}

/* ---- conformal sets ---- */

/* The threshold of one class's sets at a coverage (Sadinle, Lei & Wasserman 2019): with it, the class is in
 * the set where its probability is at least that. `sorted`: ascending probabilities of the true class on
 * `count` images of it that the network was not trained on. 0 where they are too few to promise that. */
STATISTICS_API double statistics_conformal(const double *sorted, size_t count, double coverage)
{
    const double wanted = ceil((double)(count + 1) * coverage - 1e-9);
    return wanted > (double)count || wanted < 1 ? 0 : sorted[count - (size_t)wanted];
}

/* ---- two distributions ---- */

typedef struct statistics_shift {
    double distance, p;
} statistics_shift;

/* Kolmogorov and Smirnov's test of two ascending samples, with the limiting distribution. */
STATISTICS_API statistics_shift statistics_kolmogorov(const double *a, size_t a_count,
                                                      const double *b, size_t b_count)
{
    statistics_shift shift = {0, 0};
    size_t i = 0, j = 0, term;
    double x, sign = 1;
    while (i < a_count && j < b_count) {
        const double at = a[i] < b[j] ? a[i] : b[j];
        double gap;
        while (i < a_count && a[i] <= at) i++;
        while (j < b_count && b[j] <= at) j++;
        gap = fabs((double)i / (double)a_count - (double)j / (double)b_count);
        if (gap > shift.distance) shift.distance = gap;
    }
    x = shift.distance * sqrt((double)a_count * (double)b_count / (double)(a_count + b_count));
    for (term = 1; term <= 100; term++, sign = -sign)
        shift.p += 2 * sign * exp(-2 * (double)(term * term) * x * x);
    if (x < 0.2 || shift.p > 1) shift.p = 1;
    if (shift.p < 0) shift.p = 0;
    return shift;
}

#endif
