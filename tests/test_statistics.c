/* test_statistics.c - intervals, tests and curves of examples/statistics.h against scipy, scikit-learn and
 * the plain kernels in tools/make_statistics_fixture.py, and the cases at the edge.
 * cc -O2 -fopenmp -I. tests/test_statistics.c -o build/test_statistics -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "examples/statistics.h"
#include "fixture.h"
#include "test.h"

enum { N = 200, K = 3, DRAWS = 200, FIGURES = STATISTICS_FIGURES + K * STATISTICS_CLASS_FIGURES };
#define T 1e-9

static char *fixture;
static double scores[N * K], other[N * K], expected[2000];
static int labels[N];

static void expect(const char *name, int count)
{
    if (fixture_numbers(fixture, name, expected, 2000) != count)
        test_give_up(name, "another number of values in the fixture", __FILE__, __LINE__);
}

static void check_list(const double *values, int count, const char *name)
{
    int i;
    expect(name, count);
    for (i = 0; i < count; i++) CHECK_CLOSE(values[i], expected[i], T, name);
}

static void read_sample(void)
{
    size_t i, k;
    int count;
    double *values = fixture_npy("tests/fixtures/metrics/scores.npy", &count);
    memcpy(scores, values, sizeof scores);
    free(values);
    values = fixture_npy("tests/fixtures/metrics/labels.npy", &count);
    for (i = 0; i < N; i++) labels[i] = (int)values[i];
    free(values);
    for (i = 0; i < N; i++)
        for (k = 0; k < K; k++)
            other[i * K + k] = 0.75 * scores[i * K + k] + 0.25 * scores[(i + N - 1) % N * K + k];
}

static void test_bootstrap(void)
{
    static uint32_t weights[N], members[N];
    size_t starts[K + 1], i;
    double figures[FIGURES], work[2 * K], counted[N], ends[FIGURES];
    statistics_interval intervals[FIGURES], again[FIGURES];
    statistics_sample a, b;
    int d;
    CHECK(statistics_sample_create(&a, scores, labels, N, K));
    CHECK(statistics_sample_create(&b, other, labels, N, K));
    for (i = 0; i < N; i++) weights[i] = 1;
    statistics_compute(figures, work, &a, weights);
    check_list(figures, FIGURES, "figures");
    statistics_members(members, starts, labels, N, K);
    for (d = 0; d < 2; d++) {
        char name[40];
        statistics_draw(weights, members, starts, N, K, 7, (uint64_t)d);
        for (i = 0; i < N; i++) counted[i] = weights[i];
        snprintf(name, sizeof name, "draw/%d/weights", d);
        check_list(counted, N, name);
        statistics_compute(figures, work, &a, weights);
        snprintf(name, sizeof name, "draw/%d/figures", d);
        check_list(figures, FIGURES, name);
    }
    CHECK(statistics_bootstrap(intervals, &a, NULL, DRAWS, 7));
    for (i = 0; i < FIGURES; i++) ends[i] = intervals[i].low;
    check_list(ends, FIGURES, "bootstrap/low");
    for (i = 0; i < FIGURES; i++) ends[i] = intervals[i].high;
    check_list(ends, FIGURES, "bootstrap/high");
    CHECK(statistics_bootstrap(again, &a, NULL, DRAWS, 7));
    CHECK(memcmp(intervals, again, sizeof again) == 0);
    CHECK(statistics_bootstrap(intervals, &a, &b, DRAWS, 7));
    for (i = 0; i < FIGURES; i++) ends[i] = intervals[i].low;
    check_list(ends, FIGURES, "paired/low");
    for (i = 0; i < FIGURES; i++) ends[i] = intervals[i].high;
    check_list(ends, FIGURES, "paired/high");
    statistics_sample_free(&a);
    statistics_sample_free(&b);
}

static void test_comparison(void)
{
    statistics_comparison c[K + 1];
    statistics_mcnemar m;
    int said[N], also[N], k;
    CHECK(statistics_compare(c, scores, other, labels, N, K));
    for (k = 0; k < K; k++) {
        char name[20];
        const double values[7] = {
            c[k].a, c[k].b, c[k].difference.value, c[k].difference.low, c[k].difference.high,
            c[k].z, c[k].p};
        snprintf(name, sizeof name, "delong/%d", k);
        check_list(values, 7, name);
    }
    {
        const double values[3] = {c[K].difference.value, c[K].difference.value / c[K].z, c[K].p};
        check_list(values, 3, "delong/macro");
    }
    lensnet_predicted_classes(said, scores, N, K);
    lensnet_predicted_classes(also, other, N, K);
    m = statistics_mcnemar_test(said, also, labels, N);
    {
        const double values[8] = {
            (double)m.only_a,   (double)m.only_b, m.exact,          m.chi2, m.p,
            m.difference.value, m.difference.low, m.difference.high};
        check_list(values, 8, "mcnemar");
    }
    CHECK(statistics_compare(c, scores, scores, labels, N, K)); /* with itself: no difference */
    CHECK(c[0].p == 1 && c[0].difference.low == 0 && c[K].p == 1);
    m = statistics_mcnemar_test(said, said, labels, N);
    CHECK(m.exact == 1 && m.p == 1 && m.difference.low == 0);
}

static void test_curves(void)
{
    statistics_ranks ranks;
    int k;
    CHECK(statistics_ranks_create(&ranks, scores, N, K));
    for (k = 0; k < K; k++) {
        statistics_curve curve;
        char name[30];
        CHECK(statistics_precision_recall(&curve, &ranks, scores, labels, (size_t)k));
        snprintf(name, sizeof name, "curve/%d/precision", k);
        check_list(curve.precision, (int)curve.points, name);
        snprintf(name, sizeof name, "curve/%d/recall", k);
        check_list(curve.recall, (int)curve.points, name);
        snprintf(name, sizeof name, "curve/%d/threshold", k);
        check_list(curve.threshold + 1, (int)curve.points - 1, name);
        statistics_curve_free(&curve);
    }
    statistics_ranks_free(&ranks);
}

static size_t class_scores(double *sorted, int label, int inside, int column)
{
    size_t i, n = 0;
    for (i = 0; i < N; i++)
        if ((labels[i] == label) == inside) sorted[n++] = scores[i * K + (size_t)column];
    qsort(sorted, n, sizeof *sorted, statistics_ascending);
    return n;
}

static void test_sets(void)
{
    double sorted[N], thresholds[99];
    size_t n;
    int k, percent;
    for (k = 0; k < K; k++) {
        char name[20];
        n = class_scores(sorted, k, 1, k);
        for (percent = 1; percent < 100; percent++)
            thresholds[percent - 1] = statistics_conformal(sorted, n, percent / 100.0);
        snprintf(name, sizeof name, "conformal/%d", k);
        check_list(thresholds, 99, name);
    }
    CHECK(statistics_conformal(sorted, 9, 0.9) ==
          sorted[0]); /* nine images promise 90 %, not more */
    CHECK(statistics_conformal(sorted, 9, 0.91) == 0);
    CHECK(statistics_conformal(sorted, 8, 0.9) == 0);
}

static void test_shares_and_shifts(void)
{
    static const size_t parts[4][2] = {{0, 9}, {4, 9}, {9, 9}, {9000, 10000}};
    double values[8], a[N], b[N];
    size_t i, m, n;
    statistics_shift shift;
    for (i = 0; i < 4; i++) {
        const statistics_interval share = statistics_share(parts[i][0], parts[i][1]);
        values[2 * i] = share.low;
        values[2 * i + 1] = share.high;
    }
    check_list(values, 8, "wilson");
    CHECK(statistics_share(0, 0).value != statistics_share(0, 0).value);
    m = class_scores(a, 0, 1, 0);
    n = class_scores(b, 0, 0, 0);
    shift = statistics_kolmogorov(a, m, b, n);
    values[0] = shift.distance;
    values[1] = shift.p;
    check_list(values, 2, "shift/far");
    n = class_scores(b, 0, 1, 1);
    for (i = 0; i < n; i++) b[i] *= 1.4;
    shift = statistics_kolmogorov(a, m, b, n);
    values[0] = shift.distance;
    values[1] = shift.p;
    check_list(values, 2, "shift/near");
    shift = statistics_kolmogorov(a, m, a, m);
    values[0] = shift.distance;
    values[1] = shift.p;
    check_list(values, 2, "shift/same");
}

int main(void)
{
    fixture = fixture_load("tests/fixtures/metrics/statistics.txt", NULL);
    read_sample();
    test_bootstrap();
    test_comparison();
    test_curves();
    test_sets();
    test_shares_and_shifts();
    free(fixture);
    return test_end();
}
