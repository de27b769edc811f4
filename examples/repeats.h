/* repeats.h - figures of networks that should be alike, as of one training with several seeds: their mean and
 * their spread, as text and as a table that can be read again. Include system.h, then lensnet.h first. */
#ifndef REPEATS_H
#define REPEATS_H

#include "svg.h"

enum { REPEATS_FIGURES = 3 };
static const char *const repeats_names[REPEATS_FIGURES] = {"macro AUC", "accuracy", "log loss"};
static const char *const repeats_columns[REPEATS_FIGURES] = {"auc", "accuracy", "log_loss"};

typedef struct repeat {
    const char *name; /* a seed, or a file */
    int done;         /* 0: it has no figures yet */
    double figures[REPEATS_FIGURES];
} repeat;

SYSTEM_API void repeats_take(repeat *r, const lensnet_metrics *m)
{
    r->figures[0] = m->auc_ovr_macro;
    r->figures[1] = m->accuracy;
    r->figures[2] = m->log_loss;
    r->done = 1;
}

typedef struct repeats_spread {
    size_t count;
    double mean, deviation, least,
        greatest; /* deviation: of the sample, (n - 1); NaN of fewer than 2 */
} repeats_spread;

/* Of those that are done. */
SYSTEM_API repeats_spread repeats_of(const repeat *rows, size_t count, int figure)
{
    repeats_spread s = {0, 0, 0, INFINITY, -INFINITY};
    size_t i;
    for (i = 0; i < count; i++) {
        const double value = rows[i].figures[figure];
        if (!rows[i].done) continue;
        s.count++;
        s.mean += value;
        if (value < s.least) s.least = value;
        if (value > s.greatest) s.greatest = value;
    }
    s.mean /= (double)s.count;
    for (i = 0; i < count; i++) {
        const double d = rows[i].figures[figure] - s.mean;
        if (rows[i].done) s.deviation += d * d;
    }
    s.deviation = s.count > 1 ? sqrt(s.deviation / (double)(s.count - 1)) : NAN;
    return s;
}

SYSTEM_API void repeats_text(sheet *s, const repeat *rows, size_t count)
{
    size_t i;
    int f, width = 24;
    for (i = 0; i < count; i++)
        if ((int)strlen(rows[i].name) > width) width = (int)strlen(rows[i].name);
    sheet_add(s, "%-*s", width, "");
    for (f = 0; f < REPEATS_FIGURES; f++) sheet_add(s, "  %10s", repeats_names[f]);
    for (i = 0; i < count; i++) {
        sheet_add(s, "\n%-*s", width, rows[i].name);
        for (f = 0; f < REPEATS_FIGURES && rows[i].done; f++)
            sheet_add(s, "  %10.4f", rows[i].figures[f]);
    }
    sheet_add(s, "\n%-*s", width, "mean");
    for (f = 0; f < REPEATS_FIGURES; f++) sheet_add(s, "  %10.4f", repeats_of(rows, count, f).mean);
    sheet_add(s, "\n%-*s", width, "spread (one sigma)");
    for (f = 0; f < REPEATS_FIGURES; f++)
        sheet_add(s, "  %10.4f", repeats_of(rows, count, f).deviation);
    sheet_add(s, "\n");
}

/* Nothing where it is not known. */
static void repeats_number(sheet *s, const char *format, double value)
{
    if (value - value == 0) sheet_add(s, format, value);
}

/* A line per row, "name,auc,accuracy,log_loss", empty fields where it is not done; then mean and spread. */
SYSTEM_API void repeats_csv(sheet *s, const repeat *rows, size_t count)
{
    size_t i;
    int f;
    sheet_add(s, "name");
    for (f = 0; f < REPEATS_FIGURES; f++) sheet_add(s, ",%s", repeats_columns[f]);
    for (i = 0; i < count; i++) {
        sheet_add(s, "\n%s", rows[i].name);
        for (f = 0; f < REPEATS_FIGURES; f++) {
            sheet_add(s, ",");
            if (rows[i].done) repeats_number(s, "%.17g", rows[i].figures[f]);
        }
    }
    sheet_add(s, "\nmean");
    for (f = 0; f < REPEATS_FIGURES; f++) {
        sheet_add(s, ",");
        repeats_number(s, "%.17g", repeats_of(rows, count, f).mean);
    }
    sheet_add(s, "\nspread");
    for (f = 0; f < REPEATS_FIGURES; f++) {
        sheet_add(s, ",");
        repeats_number(s, "%.17g", repeats_of(rows, count, f).deviation);
    }
    sheet_add(s, "\n");
}

/* The figures of a line of such a table; 0 if it has none. */
SYSTEM_API int repeats_read(repeat *row, const char *line)
{
    int f;
    for (f = 0; f < REPEATS_FIGURES; f++) {
        char *end;
        line = strchr(line, ',');
        if (!line) return 0;
        row->figures[f] = strtod(++line, &end);
        if (end == line) return 0;
    }
    return row->done = 1;
}

#endif
