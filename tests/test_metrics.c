/* test_metrics.c - every figure against scikit-learn's (tests/fixtures/metrics: 200 samples, 3
 * classes, many ties; variants with an absent class, a class never predicted, uniform and perfect
 * scores), cases small enough for a hand, and errors. metrics.txt is scikit-learn 1.2.1's output as
 * JSON, flattened by tools/flatten_fixtures.py; scores, labels and reports are as it wrote them.
 * cc -O2 -fopenmp -I. tests/test_metrics.c -o build/test_metrics -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "fixture.h"
#include "test.h"

#define N 200
#define K 3
#define T 1e-12

static char *fixture;
static double scores[N * K];
static int labels[N];

static const char *path_of(const char *table, const char *what)
{
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", table, what);
    return path;
}

static double look(const char *table, const char *what)
{
    return fixture_number(fixture, path_of(table, what));
}

static void check_list(const double *values, size_t count, size_t stride, const char *table,
                       const char *what)
{
    static double expected[2000];
    size_t i;
    const char *path = path_of(table, what);
    CHECK(fixture_numbers(fixture, path, expected, 2000) == (int)count);
    for (i = 0; i < count; i++) CHECK_CLOSE(values[i * stride], expected[i], T, path);
}

static void check_curve(const lensnet_roc *roc, const char *table, const char *name)
{
    char what[100];
    snprintf(what, sizeof what, "%s/fpr", name);
    check_list(roc->false_positive_rate, roc->points, 1, table, what);
    snprintf(what, sizeof what, "%s/tpr", name);
    check_list(roc->true_positive_rate, roc->points, 1, table, what);
}

static void check_class_curves(const char *table, const double *s, const int *y)
{
    int k, drop;
    for (k = 0; k < K; k++) {
        for (drop = 0; drop < 2; drop++) {
            char name[60];
            lensnet_roc roc;
            CHECK(!lensnet_roc_curve(&roc, s, y, N, K, k, drop, NULL, NULL));
            snprintf(name, sizeof name, "roc/%d_%s", k, drop ? "drop" : "full");
            check_curve(&roc, table, name);
            snprintf(name, sizeof name, "roc/%d_%s/thresholds", k, drop ? "drop" : "full");
            check_list(roc.threshold, roc.points, 1, table, name);
            snprintf(name, sizeof name, "roc/%d_auc", k);
            CHECK_CLOSE(roc.auc, look(table, name), T, name);
            lensnet_roc_release(&roc);
            CHECK(roc.false_positive_rate == NULL);
        }
    }
}

static void check_mean_curves(const char *table, const double *s, const int *y)
{
    lensnet_roc roc;
    CHECK(!lensnet_roc_curve(&roc, s, y, N, K, LENSNET_ROC_MICRO, 1, NULL, NULL));
    CHECK(roc.points == look(table, "roc_micro/n_points"));
    CHECK_CLOSE(roc.auc, look(table, "roc_micro/auc"), T, "micro");
    CHECK_CLOSE(lnp_roc_area(&roc), roc.auc, T, "the area under the points");
    lensnet_roc_release(&roc);
    CHECK(!lensnet_roc_curve(&roc, s, y, N, K, LENSNET_ROC_MACRO, 0, NULL, NULL));
    check_curve(&roc, table, "roc_macro_curve");
    CHECK_CLOSE(roc.auc, look(table, "roc_macro_curve/auc"), T, "macro");
    lensnet_roc_release(&roc);
}

static void check_confusion(const lensnet_metrics *m, const char *table)
{
    static const char *const kinds[] = {"true", "pred", "all"};
    double shares[K * K];
    size_t matrix[K * K];
    int kind, row, predictions[N];
    char what[60];
    lensnet_predicted_classes(predictions, scores, N, K);
    for (kind = 0; kind < 3; kind++) {
        CHECK(!lensnet_confusion_shares(shares, m->confusion, K, (lensnet_share)kind, NULL));
        for (row = 0; row < K; row++) {
            snprintf(what, sizeof what, "confusion_norm_%s/%d", kinds[kind], row);
            check_list(shares + row * K, K, 1, table, what);
        }
    }
    for (row = 0; row < K; row++) {
        double counts[K];
        int column;
        for (column = 0; column < K; column++)
            counts[column] = (double)m->confusion[row * K + column];
        snprintf(what, sizeof what, "confusion/%d", row);
        check_list(counts, K, 1, table, what);
    }
    if (strcmp(table, "main")) return;
    CHECK(!lensnet_confusion_matrix(matrix, labels, predictions, N, K, NULL));
    CHECK(!memcmp(matrix, m->confusion, sizeof matrix));
}

static void check_calibration(const char *table, const double *s, const int *y, size_t bin_count)
{
    lensnet_calibration_bin bins[15];
    double ece, mce;
    char what[60];
    size_t b;
    int row = 0;
    CHECK(!lensnet_calibration(bins, &ece, &mce, s, y, N, K, bin_count, NULL));
    snprintf(what, sizeof what, "ece_%d", (int)bin_count);
    CHECK_CLOSE(ece, look(table, what), T, what);
    snprintf(what, sizeof what, "mce_%d", (int)bin_count);
    CHECK_CLOSE(mce, look(table, what), T, what);
    for (b = 0; b < bin_count; b++) {
        double bar[4];
        if (!bins[b].count) continue;
        bar[0] = (double)b;
        bar[1] = (double)bins[b].count;
        bar[2] = bins[b].accuracy;
        bar[3] = bins[b].confidence;
        snprintf(what, sizeof what, "reliability_%d/%d", (int)bin_count, row++);
        check_list(bar, 4, 1, table, what);
    }
}

static void check_per_class(const lensnet_metrics *m, const char *table)
{
    size_t stride = sizeof *m->per_class / sizeof(double);
    double supports[K];
    int k;
    for (k = 0; k < K; k++) supports[k] = (double)m->per_class[k].support;
    CHECK(sizeof *m->per_class % sizeof(double) == 0);
    check_list(supports, K, 1, table, "prf/support");
    check_list(&m->per_class->precision, K, stride, table, "prf/precision");
    check_list(&m->per_class->recall, K, stride, table, "prf/recall");
    check_list(&m->per_class->f1, K, stride, table, "prf/f1");
    check_list(&m->per_class->average_precision, K, stride, table, "average_precision_per_class");
    check_list(&m->per_class->brier, K, stride, table, "brier_binary_per_class");
}

static void check_table(const char *table, const double *s, const int *y)
{
    lensnet_metrics m;
    int absent = !strcmp(table, "class2_absent");
    CHECK(!lensnet_metrics_compute(&m, s, y, N, K, NULL, NULL));
    CHECK(m.count == N && m.classes == K && m.present == (absent ? 2u : 3u));
    CHECK_CLOSE(m.accuracy, look(table, "accuracy"), T, "accuracy");
    CHECK_CLOSE(m.balanced_accuracy, look(table, "balanced_accuracy"), T, "balanced accuracy");
    CHECK_CLOSE(m.mcc, look(table, "mcc"), T, "mcc");
    CHECK_CLOSE(m.kappa, look(table, "cohen_kappa"), T, "kappa");
    CHECK_CLOSE(m.log_loss, look(table, "log_loss"), T, "log loss");
    CHECK_CLOSE(m.brier, look(table, "brier_multiclass_sum"), T, "brier");
    CHECK_CLOSE(m.ece, look(table, "ece_15"), T, "ece");
    CHECK_CLOSE(m.mce, look(table, "mce_15"), T, "mce");
    CHECK_CLOSE(m.auc_ovr_micro, look(table, "auc_ovr_micro"), T, "ovr micro");
    CHECK_CLOSE(m.auc_ovo_macro, look(table, "auc_ovo_macro"), T, "ovo macro");
    CHECK_CLOSE(m.auc_ovo_weighted, look(table, "auc_ovo_weighted"), T, "ovo weighted");
    if (absent) {
        CHECK(isnan(m.auc_ovr_macro) && isnan(m.auc_ovr_weighted) && isnan(m.per_class[2].auc));
        CHECK_CLOSE(m.auc_ovr_present, (look(table, "roc/0_auc") + look(table, "roc/1_auc")) / 2.0,
                    T, "present");
    } else {
        CHECK_CLOSE(m.auc_ovr_macro, look(table, "auc_ovr_macro"), T, "ovr macro");
        CHECK_CLOSE(m.auc_ovr_present, look(table, "auc_ovr_macro"), T, "ovr present");
        CHECK_CLOSE(m.auc_ovr_weighted, look(table, "auc_ovr_weighted"), T, "ovr weighted");
    }
    check_per_class(&m, table);
    check_confusion(&m, table);
    lensnet_metrics_release(&m);
    check_class_curves(table, s, y);
    check_mean_curves(table, s, y);
    check_calibration(table, s, y, 10);
    check_calibration(table, s, y, 15);
}

static void test_tables(void)
{
    static double other[N * K];
    int other_labels[N], i, k;
    check_table("main", scores, labels);
    for (i = 0; i < N; i++) other_labels[i] = labels[i] == 2 ? 1 : labels[i];
    check_table("class2_absent", scores, other_labels);
    for (i = 0; i < N; i++) {
        double weak = scores[i * K + 2] * 1e-3;
        double sum = scores[i * K] + scores[i * K + 1] + weak;
        other[i * K] = scores[i * K] / sum;
        other[i * K + 1] = scores[i * K + 1] / sum;
        other[i * K + 2] = weak / sum;
    }
    check_table("class2_never_predicted", other, labels);
    for (i = 0; i < N * K; i++) other[i] = 1.0 / 3.0;
    check_table("uniform_scores", other, labels);
    for (i = 0; i < N; i++)
        for (k = 0; k < K; k++) other[i * K + k] = (labels[i] == k ? 0.8 : 0.0) + 0.2 / 3.0;
    check_table("perfect", other, labels);
}

static void check_mini(const char *name)
{
    char what[60];
    double values[8], y[8];
    int positive[8], count, i, drop;
    snprintf(what, sizeof what, "%s/s", name);
    count = fixture_numbers(fixture, path_of("mini", what), values, 8);
    snprintf(what, sizeof what, "%s/y", name);
    fixture_numbers(fixture, path_of("mini", what), y, 8);
    for (i = 0; i < count; i++) positive[i] = (int)y[i];
    for (drop = 0; drop < 2; drop++) {
        lensnet_roc roc;
        CHECK(!lensnet_roc_binary(&roc, values, positive, (size_t)count, drop, NULL, NULL));
        snprintf(what, sizeof what, "%s/%s", name, drop ? "drop" : "full");
        check_curve(&roc, "mini", what);
        snprintf(what, sizeof what, "%s/%s/thr", name, drop ? "drop" : "full");
        check_list(roc.threshold, roc.points, 1, "mini", what);
        snprintf(what, sizeof what, "%s/auc", name);
        CHECK_CLOSE(roc.auc, look("mini", what), 0.0, what);
        lensnet_roc_release(&roc);
    }
}

static void check_report(const char *name, const int *y, const int *predictions,
                         const char *const *names, size_t classes, int digits, int zero_division)
{
    char path[200], text[2000];
    char *expected;
    size_t length, again, size;
    snprintf(path, sizeof path, "tests/fixtures/metrics/report_%s.txt", name);
    expected = fixture_load(path, &size);
    CHECK(!lensnet_classification_report(NULL, 0, &length, y, predictions, N, names, classes,
                                         digits, zero_division, NULL));
    CHECK(length == size);
    CHECK(!lensnet_classification_report(text, length + 1, &again, y, predictions, N, names,
                                         classes, digits, zero_division, NULL));
    CHECK(again == length && !strcmp(text, expected));
    CHECK(lensnet_classification_report(text, length, NULL, y, predictions, N, names, classes,
                                        digits, zero_division, NULL) == LENSNET_ERROR_ARGUMENT);
    free(expected);
}

static void test_reports(void)
{
    static const char *const names[] = {"no", "sphere", "vort"};
    static const char *const long_names[] = {"No substructure", "Subhalo (CDM sphere)", "Vortex"};
    static double weak[N * K];
    int predictions[N], without[N], absent[N], i;
    lensnet_predicted_classes(predictions, scores, N, K);
    check_report("digits2", labels, predictions, names, K, 2, 0);
    check_report("digits4", labels, predictions, names, K, 4, 0);
    check_report("longnames_digits2", labels, predictions, long_names, K, 2, 0);
    check_report("longnames_digits4", labels, predictions, long_names, K, 4, 0);
    check_report("subset_labels01", labels, predictions, names, 2, 4, 0);
    for (i = 0; i < N; i++) absent[i] = labels[i] == 2 ? 1 : labels[i];
    check_report("class2_absent", absent, predictions, names, K, 4, 0);
    memcpy(weak, scores, sizeof weak);
    for (i = 0; i < N; i++) weak[i * K + 2] *= 1e-3;
    lensnet_predicted_classes(without, weak, N, K);
    check_report("class2_never_predicted", labels, without, names, K, 4, 0);
    check_report("class2_never_predicted_zd1", labels, without, names, K, 4, 1);
}

/* names are aligned by characters, not by bytes */
static void test_report_utf8(void)
{
    static const char *const names[] = {"\xC3\xA9toile", "b"};
    static const int y[] = {0, 1};
    char text[1000];
    CHECK(!lensnet_classification_report(text, sizeof text, NULL, y, y, 2, names, 2, 2, 0, NULL));
    CHECK(strstr(text, "\n      \xC3\xA9toile       1.00") != NULL);
    CHECK(strstr(text, "\n           b       1.00") != NULL);
}

static void test_temperature(void)
{
    static double logits[N * K];
    double temperature;
    int separable[2] = {0, 1}, i;
    double two[4] = {1.0, 0.0, 0.0, 1.0};
    for (i = 0; i < N * K; i++) logits[i] = 3.0 * log(scores[i]);
    CHECK(!lensnet_temperature_fit(&temperature, logits, labels, N, K, NULL));
    printf("temperature %.12f\n", temperature);
    CHECK_CLOSE(temperature, look("temperature", "T"), 1e-7, "temperature");
    CHECK_CLOSE(lensnet_temperature_loss(logits, labels, N, K, 1.0),
                look("temperature", "nll_before"), T, "before");
    CHECK_CLOSE(lensnet_temperature_loss(logits, labels, N, K, temperature),
                look("temperature", "nll_after"), T, "after");
    CHECK(fabs(lnp_temperature_mean(logits, labels, N, K, 1.0 / temperature).slope) < 1e-13);
    CHECK(!lensnet_temperature_fit(&temperature, two, separable, 2, 2, NULL));
    CHECK(temperature >= 0.001 && temperature < 0.1); /* all right: the sharper the better */
    separable[0] = 1;
    separable[1] = 0;
    CHECK(!lensnet_temperature_fit(&temperature, two, separable, 2, 2, NULL));
    CHECK(temperature > 900.0 && temperature <= 1000.0); /* all wrong: the flatter the better */
    for (i = 0; i < 4; i++) two[i] = 5.0;
    CHECK(!lensnet_temperature_fit(&temperature, two, separable, 2, 2, NULL) && temperature == 1.0);
    two[0] = HUGE_VAL;
    CHECK(lensnet_temperature_fit(&temperature, two, separable, 2, 2, NULL) ==
          LENSNET_ERROR_NUMBER);
}

/* the rank formula against all pairs, on random scores with ties */
static void test_auc_by_pairs(void)
{
    int round, i, j;
    for (round = 0; round < 50; round++) {
        double s[60];
        int y[60], count = 2 + round, wins = 0, pairs = 0;
        lensnet_roc roc;
        for (i = 0; i < count; i++) {
            s[i] = floor(10.0 * lensnet_random_uniform(1, (uint64_t)round, (uint64_t)i));
            y[i] = i ? i == 1 || lensnet_random_uniform(2, (uint64_t)round, (uint64_t)i) < 0.3 : 0;
        }
        for (i = 0; i < count; i++) {
            for (j = 0; j < count; j++) {
                if (!y[i] || y[j]) continue;
                pairs += 2;
                wins += 2 * (s[i] > s[j]) + (s[i] == s[j]);
            }
        }
        CHECK(!lensnet_roc_binary(&roc, s, y, (size_t)count, round & 1, NULL, NULL));
        CHECK_CLOSE(roc.auc, (double)wins / pairs, 1e-15, "pairs");
        CHECK_CLOSE(lnp_roc_area(&roc), roc.auc, 1e-14, "area");
        lensnet_roc_release(&roc);
    }
}

static int allocations_left;

static void *scarce_allocate(size_t bytes, size_t alignment, void *user)
{
    return allocations_left-- > 0 ? lnp_host_allocate(bytes, alignment, user) : NULL;
}

static void test_errors(void)
{
    static const int y[3] = {0, 1, 2}, wrong[3] = {0, 1, 3};
    double s[9] = {0.5, 0.25, 0.25, 0.1, 0.8, 0.1, 0.2, 0.2, 0.6};
    static const int single[3] = {1, 1, 1};
    lensnet_host host = lensnet_host_defaults();
    lensnet_metrics m;
    lensnet_roc roc;
    lensnet_error error;
    lensnet_calibration_bin bin;
    int i;
    CHECK(lensnet_metrics_compute(&m, s, wrong, 3, 3, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(strstr(error.text, "found 3 for sample 2") != NULL && m.per_class == NULL);
    CHECK(lensnet_metrics_compute(&m, s, y, 0, 3, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_metrics_compute(&m, s, y, 3, 1, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_metrics_compute(&m, NULL, y, 3, 3, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_roc_curve(&roc, s, y, 3, 3, 3, 0, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_roc_curve(&roc, s, single, 3, 3, LENSNET_ROC_MACRO, 0, NULL, &error) ==
          LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_calibration(&bin, NULL, NULL, s, y, 3, 3, 0, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(!lensnet_metrics_compute(&m, s, single, 3, 3, NULL, &error));
    CHECK(m.present == 1 && isnan(m.auc_ovr_present) && isnan(m.auc_ovo_macro) && m.mcc == 0.0);
    lensnet_metrics_release(&m);
    s[4] = 0.9;
    CHECK(lensnet_metrics_compute(&m, s, y, 3, 3, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(strstr(error.text, "sample 1") != NULL);
    CHECK(!lensnet_roc_curve(&roc, s, y, 3, 3, 1, 0, NULL, &error)); /* any scores will do */
    lensnet_roc_release(&roc);
    s[5] = NAN;
    CHECK(lensnet_metrics_compute(&m, s, y, 3, 3, NULL, &error) == LENSNET_ERROR_NUMBER);
    CHECK(strstr(error.text, "sample 1, class 2") != NULL);
    CHECK(lensnet_roc_binary(&roc, s, y, 9, 0, NULL, &error) == LENSNET_ERROR_NUMBER);
    lensnet_metrics_release(NULL);
    lensnet_roc_release(NULL);
    host.allocate = scarce_allocate;
    for (i = 0; i < 2; i++) {
        allocations_left = i;
        CHECK(lensnet_metrics_compute(&m, scores, labels, N, K, &host, NULL) ==
              LENSNET_ERROR_MEMORY);
        CHECK(m.per_class == NULL);
    }
    for (i = 0; i < 7; i++) { /* ranking, curves, one for each class, grid, result */
        allocations_left = i;
        CHECK(lensnet_roc_curve(&roc, scores, labels, N, K, LENSNET_ROC_MACRO, 0, &host, NULL) ==
              LENSNET_ERROR_MEMORY);
    }
    allocations_left = 7;
    CHECK(!lensnet_roc_curve(&roc, scores, labels, N, K, LENSNET_ROC_MACRO, 0, &host, NULL));
    lensnet_roc_release(&roc);
}

int main(void)
{
    int count, i;
    double *values = fixture_npy("tests/fixtures/metrics/scores.npy", &count);
    fixture = fixture_load("tests/fixtures/metrics/metrics.txt", NULL);
    CHECK(count == N * K);
    memcpy(scores, values, sizeof scores);
    free(values);
    values = fixture_npy("tests/fixtures/metrics/labels.npy", &count);
    CHECK(count == N);
    for (i = 0; i < N; i++) labels[i] = (int)values[i];
    free(values);
    test_tables();
    check_mini("ties");
    check_mini("anti");
    check_mini("simple");
    check_mini("all_tied");
    test_reports();
    test_report_utf8();
    test_temperature();
    test_auc_by_pairs();
    test_errors();
    free(fixture);
    return test_end();
}
