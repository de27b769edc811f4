/* report.h - the figures of a training run and of an evaluation, as SVG: history, ROC curves,
 * confusion matrix, reliability diagram. Each function draws one figure from plain numbers and writes
 * one file, which appears entirely or not at all. Include lensnet.h first. */
#ifndef REPORT_H
#define REPORT_H

#include "svg.h"

/* ---- training history ---- */

typedef struct report_epoch {
    int epoch; /* from 1 */
    double train_loss, val_loss;
    double val_auc; /* macro one-versus-rest */
    double val_accuracy;
    double rate; /* learning rate at the epoch's end */
    int best;    /* 1: the best validation AUC so far */
} report_epoch;

/* The least and greatest finite value of y, with some air. */
static void report_range(svg_plot *p, const double *y, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        if (!(y[i] - y[i] == 0)) continue;
        if (p->y_low > p->y_high) p->y_low = p->y_high = y[i];
        if (y[i] < p->y_low) p->y_low = y[i];
        if (y[i] > p->y_high) p->y_high = y[i];
    }
}

static void report_air(svg_plot *p, double floor_at, double ceiling_at)
{
    double air;
    if (p->y_low > p->y_high) { /* no value at all */
        p->y_low = 0;
        p->y_high = 1;
    }
    air = 0.08 * (p->y_high - p->y_low);
    if (air < 1e-4) air = 0.05 * fabs(p->y_high) + 1e-3;
    p->y_low = p->y_low - air < floor_at ? floor_at : p->y_low - air;
    p->y_high = p->y_high + air > ceiling_at ? ceiling_at : p->y_high + air;
}

static void report_series(sheet *s, const svg_plot *p, const double *x, const double *y,
                          size_t count, size_t colour)
{
    size_t i;
    svg_curve(s, p, x, y, count, svg_colour(colour), 2, "none");
    for (i = 0; i < count && count <= 40; i++)
        if (y[i] - y[i] == 0)
            svg_dot(s, svg_x(p, x[i]), svg_y(p, y[i]), 2.5, svg_colour(colour), svg_colour(colour));
}

/* A legend whose lower or upper right corner is (x, y), widths from the longest label. */
static void report_legend(sheet *s, double x, double y, int upwards, const char *const *labels,
                          const char *const *colours, const char *const *dashes, size_t count)
{
    double size = count > 14 ? 10 : 13, line = size + 7, width = 0,
           height = line * (double)count + 12;
    svg_style style = svg_plain("start", size);
    size_t i;
    style.most = 48;
    for (i = 0; i < count; i++) {
        size_t characters = 0;
        const char *at;
        for (at = labels[i]; *at; at++) characters += ((unsigned char)*at & 0xC0) != 0x80;
        if (characters > 49) characters = 49;
        if ((double)characters * size * 0.64 > width) width = (double)characters * size * 0.64;
    }
    width += 56;
    if (upwards) y -= height;
    sheet_add(s,
              "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" rx=\"4\" fill=\"white\" "
              "fill-opacity=\"0.85\" stroke=\"#cccccc\"/>\n",
              x - width, y, width, height);
    for (i = 0; i < count; i++) {
        double at = y + 6 + line * ((double)i + 0.5);
        if (colours[i][0])
            svg_line(s, x - width + 10, at, x - width + 38, at, colours[i], 2.5, dashes[i]);
        svg_text(s, x - width + 46, at + size * 0.35, style, labels[i]);
    }
}

static void report_history_losses(sheet *s, const double *x, const double *train, const double *val,
                                  size_t count)
{
    static const char *const labels[2] = {"Training", "Validation"};
    static const char *const dashes[2] = {"none", "none"};
    const char *colours[2];
    svg_plot p = {80, 56, 480, 370, 0.5, 1.5, 1, 0};
    p.x_high = (count ? x[count - 1] : 1) + 0.5;
    report_range(&p, train, count);
    report_range(&p, val, count);
    report_air(&p, 0, INFINITY);
    svg_axes(s, &p, 1, "Loss", "Epoch", "Cross-entropy");
    report_series(s, &p, x, train, count, 0);
    report_series(s, &p, x, val, count, 4);
    colours[0] = svg_colour(0);
    colours[1] = svg_colour(4);
    report_legend(s, p.left + p.width - 10, p.top + 10, 0, labels, colours, dashes, 2);
}

/* Accuracy and learning rate on scales of their own, thin, with their ranges in words. */
static void report_history_rest(sheet *s, const report_epoch *rows, const svg_plot *p, size_t count)
{
    svg_plot q[2];
    double *x = (double *)calloc(3 * count + 1, sizeof *x);
    char text[96];
    size_t i;
    int which;
    for (i = 0; x && i < count; i++) {
        x[i] = rows[i].epoch;
        x[count + i] = rows[i].val_accuracy;
        x[2 * count + i] = rows[i].rate;
    }
    for (which = 0; x && which < 2; which++) {
        const double *y = x + (size_t)(which + 1) * count;
        svg_style style = svg_plain("start", 12);
        q[which] = *p;
        q[which].y_low = 1;
        q[which].y_high = 0;
        report_range(&q[which], y, count);
        if (which) q[which].y_low = 0;
        snprintf(text, sizeof text, which ? "learning rate, 0 to %.3g" : "accuracy, %.3f to %.3f",
                 which ? q[which].y_high : q[which].y_low, q[which].y_high);
        report_air(&q[which], which ? 0 : -INFINITY, INFINITY);
        svg_curve(s, &q[which], x, y, count, svg_colour(which ? 8 : 3), 1.2, which ? "2 3" : "6 3");
        style.colour = svg_colour(which ? 8 : 3);
        svg_text(s, p->left + 230 * which, p->top + p->height + 66, style, text);
    }
    free(x);
}

static void report_history_auc(sheet *s, const report_epoch *rows, const double *x,
                               const double *auc, size_t count)
{
    svg_plot p = {680, 56, 480, 370, 0.5, 1.5, 1, 0};
    size_t i, best = count;
    p.x_high = (count ? x[count - 1] : 1) + 0.5;
    report_range(&p, auc, count);
    report_air(&p, 0, 1.0 + 1e-9);
    svg_axes(s, &p, 1, "Validation AUC (Macro OVR)", "Epoch", "AUC");
    report_series(s, &p, x, auc, count, 2);
    report_history_rest(s, rows, &p, count);
    for (i = 0; i < count; i++)
        if (rows[i].best) best = i;
    if (best < count) {
        char text[64];
        snprintf(text, sizeof text, "best: %.4f, epoch %d", auc[best], rows[best].epoch);
        svg_dot(s, svg_x(&p, x[best]), svg_y(&p, auc[best]), 6, "none", svg_colour(1));
        svg_text(s, p.left + p.width - 14, p.top + p.height - 16, svg_plain("end", 14), text);
    }
}

/* Two panels: the losses, and the validation AUC with its best epoch. */
SVG_API lensnet_result report_history(const char *path, const report_epoch *rows, size_t count,
                                      lensnet_error *error)
{
    double *columns = (double *)calloc(4 * count + 1, sizeof *columns);
    double *x = columns;
    sheet s;
    size_t i;
    svg_begin(&s, 1200, 500);
    svg_describe(&s, "Training history",
                 "Left: training and validation loss over the epochs. Right: macro AUC on the "
                 "validation images, its best epoch ringed; thin lines show the accuracy and, on "
                 "the scale from 0 to its largest value, the learning rate.");
    s.failed = !columns;
    for (i = 0; i < count && columns; i++) {
        x[i] = rows[i].epoch;
        x[count + i] = rows[i].train_loss;
        x[2 * count + i] = rows[i].val_loss;
        x[3 * count + i] = rows[i].val_auc;
    }
    if (columns) {
        report_history_losses(&s, x, x + count, x + 2 * count, count);
        report_history_auc(&s, rows, x, x + 3 * count, count);
    }
    free(columns);
    return svg_end(&s, path, error);
}

/* ---- ROC curves ---- */

typedef struct report_curve {
    const char *name;          /* of the class */
    const double *rates_false; /* false positive rates, ascending */
    const double *rates_true;  /* true positive rates */
    size_t count;              /* 0 where the class is absent */
    double auc;                /* NaN where it is undefined */
    int average;               /* 1: of all classes, drawn darker and dotted */
} report_curve;

static const char *report_colour(const report_curve *curve, size_t index)
{
    return curve->average ? (index % 2 ? "#222222" : "#777777") : svg_colour(index);
}

static const char *report_dashes(const report_curve *curve, size_t index)
{
    return curve->average ? "2 4" : svg_dashes(index);
}

enum { REPORT_LEGEND = 20 }; /* most lines of a legend */

/* What a legend says of a curve, with the name of the figure that is its `auc`. */
static void report_label(char *text, size_t room, const report_curve *curve, const char *figure)
{
    const char *kind = curve->average ? "" : "Class ";
    if (curve->auc == curve->auc)
        snprintf(text, room, "%s%.28s%s (%s = %.4f)", kind, curve->name,
                 strlen(curve->name) > 28 ? ".." : "", figure, curve->auc);
    else
        snprintf(text, room, "%s%.28s (%s)", kind, curve->name,
                 curve->average ? "a class is absent" : "absent");
}

SVG_API lensnet_result report_roc(const char *path, const report_curve *curves, size_t count,
                                  lensnet_error *error)
{
    static const double ends[2] = {0, 1};
    char texts[REPORT_LEGEND][96];
    const char *labels[REPORT_LEGEND], *colours[REPORT_LEGEND], *dashes[REPORT_LEGEND];
    svg_plot p = {86, 60, 670, 550, 0, 1, 0, 1.05};
    size_t i, shown = count > REPORT_LEGEND ? REPORT_LEGEND - 1 : count;
    sheet s;
    svg_begin(&s, 800, 700);
    svg_describe(&s, "ROC curves",
                 "True positive rate over false positive rate for each class against the rest, and "
                 "their macro and micro averages; the legend has the areas under the curves.");
    svg_axes(&s, &p, 0, "ROC curves, one class versus the rest", "False Positive Rate",
             "True Positive Rate");
    svg_curve(&s, &p, ends, ends, 2, SVG_GREY, 1.5, "7 5");
    for (i = 0; i < count; i++)
        svg_curve(&s, &p, curves[i].rates_false, curves[i].rates_true, curves[i].count,
                  report_colour(&curves[i], i), 2, report_dashes(&curves[i], i));
    for (i = 0; i < shown; i++) {
        report_label(texts[i], sizeof texts[i], &curves[i], "AUC");
        labels[i] = texts[i];
        colours[i] = report_colour(&curves[i], i);
        dashes[i] = report_dashes(&curves[i], i);
    }
    if (shown < count) {
        snprintf(texts[shown], sizeof texts[shown], "and %zu more classes", count - shown);
        labels[shown] = texts[shown];
        colours[shown] = dashes[shown] = "";
        shown++;
    }
    report_legend(&s, p.left + p.width - 12, p.top + p.height - 12, 1, labels, colours, dashes,
                  shown);
    return svg_end(&s, path, error);
}

/* ---- confusion matrix ---- */

static double report_row_share(const size_t *counts, size_t classes, size_t row, size_t column)
{
    size_t k, sum = 0;
    for (k = 0; k < classes; k++) sum += counts[row * classes + k];
    return sum ? (double)counts[row * classes + column] / (double)sum : 0;
}

/* Where the matrix stands on its sheet, and how large what is written on it is. */
typedef struct report_grid {
    double left, top, side, cell, size, name_size;
    size_t classes;
    int turned; /* 1: the names below are aslant */
} report_grid;

static report_grid report_grid_of(size_t classes)
{
    report_grid g = {220, 60, 440, 0, 0, 0, 0, 0};
    g.classes = classes;
    g.cell = g.side / (double)classes;
    g.size = g.cell > 100 ? 20 : g.cell > 60 ? 15 : g.cell * 0.26;
    g.name_size = g.cell > 40 ? 14 : g.cell > 15 ? 11 : g.cell * 0.75;
    g.turned = g.cell < 110 && classes > 1;
    return g;
}

/* A cell: how many images, and, where there is room, their share of the row. */
static void report_cell(sheet *s, const report_grid *g, size_t row, size_t column, size_t count,
                        double share)
{
    const double x = g->left + g->cell * (double)column, y = g->top + g->cell * (double)row;
    const double middle = x + g->cell / 2, line = y + g->cell / 2;
    svg_style text = svg_plain("middle", g->size);
    char colour[8], number[32];
    svg_box(s, x, y, g->cell, g->cell, svg_blues(colour, share), "none");
    if (g->size < 5) return; /* too small to read */
    text.colour = share > 0.5 ? "white" : SVG_INK;
    snprintf(number, sizeof number, "%zu", count);
    svg_text(s, middle, line + g->size * (g->cell > 60 ? 0 : 0.36), text, number);
    if (g->cell <= 60) return;
    snprintf(number, sizeof number, "%.1f %%", 100 * share);
    text.size = 0.7 * g->size;
    svg_text(s, middle, line + g->size, text, number);
}

/* The name of a class beside its row and below its column. */
static void report_grid_name(sheet *s, const report_grid *g, size_t index, const char *text)
{
    const double middle = g->cell * ((double)index + 0.5), letter = g->name_size * 0.62;
    svg_style name = svg_plain("end", g->name_size);
    name.most = (int)(150 / letter);
    svg_text(s, g->left - 8, g->top + middle + g->name_size * 0.36, name, text);
    name.turn = g->turned ? -35 : 0;
    name.anchor = g->turned ? "end" : "middle";
    name.most = (int)((g->turned ? 118 : g->cell) / letter);
    svg_text(s, g->left + middle + (g->turned ? g->name_size * 0.4 : 0),
             g->top + g->side + g->name_size + 6, name, text);
}

/* The colours' scale, to the right. */
static void report_grid_scale(sheet *s, const report_grid *g)
{
    const double left = g->left + g->side + 24;
    char colour[8];
    int i;
    for (i = 0; i < 100; i++)
        sheet_add(s, "<rect x=\"%g\" y=\"%.2f\" width=\"18\" height=\"%.2f\" fill=\"%s\"/>\n", left,
                  g->top + g->side * (99 - i) / 100, g->side / 100 + 0.5,
                  svg_blues(colour, i / 99.0));
    svg_box(s, left, g->top, 18, g->side, "none", SVG_GREY);
    svg_text(s, left + 24, g->top + 10, svg_plain("start", 12), "100 %");
    svg_text(s, left + 24, g->top + g->side, svg_plain("start", 12), "0 %");
}

/* counts: (K, K), rows true, columns predicted. */
SVG_API lensnet_result report_confusion(const char *path, const char *const *names,
                                        const size_t *counts, size_t classes, lensnet_error *error)
{
    const report_grid g = report_grid_of(classes);
    svg_style text = svg_plain("middle", 16);
    size_t i, j;
    sheet s;
    svg_begin(&s, 770, 640);
    svg_describe(
        &s, "Confusion matrix",
        "Rows: true classes. Columns: predicted classes. Each cell has the number of images "
        "and its share of the row, which is also its shade.");
    text.bold = 1;
    svg_text(&s, g.left + g.side / 2, g.top - 18, text, "Confusion matrix");
    for (i = 0; i < classes; i++)
        for (j = 0; j < classes; j++)
            report_cell(&s, &g, i, j, counts[i * classes + j],
                        report_row_share(counts, classes, i, j));
    svg_box(&s, g.left, g.top, g.side, g.side, "none", SVG_GREY);
    for (i = 0; i < classes; i++) report_grid_name(&s, &g, i, names[i]);
    text = svg_plain("middle", 15);
    svg_text(&s, g.left + g.side / 2, g.turned ? 618 : g.top + g.side + 58, text,
             "Predicted Label");
    text.turn = -90;
    svg_text(&s, 30, g.top + g.side / 2, text, "True Label");
    report_grid_scale(&s, &g);
    return svg_end(&s, path, error);
}

/* ---- precision and recall ---- */

/* The same curves with recall for rates_false and precision for rates_true; `auc` is the average
 * precision. */
SVG_API lensnet_result report_precision_recall(const char *path, const report_curve *curves,
                                               size_t count, lensnet_error *error)
{
    char texts[REPORT_LEGEND][96];
    const char *labels[REPORT_LEGEND], *colours[REPORT_LEGEND], *dashes[REPORT_LEGEND];
    svg_plot p = {86, 60, 670, 550, 0, 1, 0, 1.05};
    size_t i, shown = count > REPORT_LEGEND ? REPORT_LEGEND : count;
    sheet s;
    svg_begin(&s, 800, 700);
    svg_describe(
        &s, "Precision-recall curves",
        "Precision over recall for each class against the rest; the legend has the average "
        "precisions.");
    svg_axes(&s, &p, 0, "Precision and recall, one class versus the rest", "Recall", "Precision");
    for (i = 0; i < count; i++)
        svg_curve(&s, &p, curves[i].rates_false, curves[i].rates_true, curves[i].count,
                  svg_colour(i), 2, svg_dashes(i));
    for (i = 0; i < shown; i++) {
        report_label(texts[i], sizeof texts[i], &curves[i], "AP");
        labels[i] = texts[i];
        colours[i] = svg_colour(i);
        dashes[i] = svg_dashes(i);
    }
    report_legend(&s, p.left + 306, p.top + p.height - 12, 1, labels, colours, dashes, shown);
    return svg_end(&s, path, error);
}

/* ---- coverage ---- */

/* How often conformal sets hold the true class, over how often they should: `levels` wanted coverages, then
 * for all images (curve 0) and each class their measured ones. */
SVG_API lensnet_result report_coverage(const char *path, const double *wanted,
                                       const double *measured, size_t levels,
                                       const char *const *names, size_t classes,
                                       lensnet_error *error)
{
    static const double ends[2] = {0, 1};
    const char *labels[REPORT_LEGEND], *colours[REPORT_LEGEND], *dashes[REPORT_LEGEND];
    svg_plot p = {86, 60, 570, 500, 0, 1, 0, 1};
    size_t k, shown = classes + 1 > REPORT_LEGEND ? REPORT_LEGEND : classes + 1;
    sheet s;
    svg_begin(&s, 700, 650);
    svg_describe(&s, "Coverage of the conformal sets",
                 "Share of images whose set holds the true class, over the coverage asked for; on "
                 "the diagonal they are the same.");
    svg_axes(&s, &p, 0, "Coverage of the sets", "Coverage asked for", "True class in the set");
    svg_curve(&s, &p, ends, ends, 2, SVG_GREY, 1.5, "7 5");
    for (k = 0; k <= classes; k++)
        svg_curve(&s, &p, wanted, measured + k * levels, levels, k ? svg_colour(k - 1) : "#222222",
                  k ? 1.5 : 3, "none");
    for (k = 0; k < shown; k++) {
        labels[k] = k ? names[k - 1] : "all images";
        colours[k] = k ? svg_colour(k - 1) : "#222222";
        dashes[k] = "none";
    }
    report_legend(&s, p.left + p.width - 12, p.top + p.height - 12, 1, labels, colours, dashes,
                  shown);
    return svg_end(&s, path, error);
}

/* ---- reliability ---- */

typedef struct report_bin {
    double confidence; /* mean of the greatest probability; NaN in an empty bin */
    double accuracy;   /* share of right answers; NaN in an empty bin */
    size_t count;
} report_bin;

/* How often an answer of a given confidence is right: `count` equal bins of the greatest probability,
 * and below how many answers fall into each. */
SVG_API lensnet_result report_reliability(const char *path, const report_bin *bins, size_t count,
                                          double ece, lensnet_error *error)
{
    static const double ends[2] = {0, 1};
    svg_plot p = {86, 60, 570, 380, 0, 1, 0, 1}, q = {86, 500, 570, 90, 0, 1, 0, 1};
    svg_style note = svg_plain("start", 14);
    size_t b, most = 1;
    char text[64];
    sheet s;
    svg_begin(&s, 700, 660);
    svg_describe(
        &s, "Reliability diagram",
        "Share of right answers over the confidence of the answer, in equal bins; below, how "
        "many answers fall into each bin.");
    svg_axes(&s, &p, 0, "Reliability", "", "Share of right answers");
    for (b = 0; b < count; b++) {
        double x = svg_x(&p, (double)b / (double)count) + 1, width = p.width / (double)count - 2;
        double right = svg_y(&p, bins[b].accuracy), said = svg_y(&p, bins[b].confidence);
        if (bins[b].count > most) most = bins[b].count;
        if (!bins[b].count) continue;
        svg_box(&s, x, right, width, p.top + p.height - right, "#6baed6", "#2171b5");
        sheet_add(&s,
                  "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\" "
                  "fill-opacity=\"0.22\" stroke=\"%s\" stroke-dasharray=\"3 2\"/>\n",
                  x, right < said ? right : said, width, fabs(right - said), svg_colour(1),
                  svg_colour(1));
    }
    svg_curve(&s, &p, ends, ends, 2, SVG_GREY, 1.5, "7 5");
    snprintf(text, sizeof text, "ECE = %.4f (%zu bins)", ece, count);
    note.bold = 1;
    svg_text(&s, p.left + 14, p.top + 28, note, text);
    note.bold = 0;
    note.colour = svg_colour(1);
    note.size = 12;
    svg_text(&s, p.left + 14, p.top + 48, note, "red: from accuracy to mean confidence");
    q.y_high = (double)most * 1.08;
    svg_axes(&s, &q, 0, "", "Confidence (greatest probability)", "Answers");
    for (b = 0; b < count; b++) {
        double x = svg_x(&q, (double)b / (double)count) + 1, y = svg_y(&q, (double)bins[b].count);
        if (bins[b].count)
            svg_box(&s, x, y, q.width / (double)count - 2, q.top + q.height - y, "#9ecae1",
                    "#2171b5");
    }
    return svg_end(&s, path, error);
}

#endif
