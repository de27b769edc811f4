/* html_report.h - an evaluation as one HTML file that needs nothing else: where it comes from, the figures
 * with their intervals, what the network gets wrong, is unsure of, takes for foreign, and where it looks.
 * Light and dark as the reader's system is, and fit to be printed. Include system.h, then lensnet.h first. */
#ifndef HTML_REPORT_H
#define HTML_REPORT_H

#include "evaluation.h"
#include "explain.h"
#include "provenance.h"
#include "text.h"

#include "heat.h"

enum { HTML_PICTURES = 12, HTML_EXPLAINED = 3 }; /* of a kind; of each class */

typedef struct html_report {
    sheet page;
    const evaluation *e;
    const char *folder; /* where the figures lie as .svg */
    size_t *order;      /* room for one number per image */
    lensnet_error *error;
} html_report;

/* ---- the page ---- */

static const char html_head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta name=\"color-scheme\" content=\"light dark\">\n"
    "<title>lensnet evaluation</title>\n<style>\n"
    ":root{--ink:#1b1f24;--faint:#5b6570;--line:#d5dae0;--page:#fff}\n"
    "body{margin:0 auto;max-width:1200px;padding:1rem;background:var(--page);color:var(--ink);"
    "font:16px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.6rem;margin:.3rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;"
    "border-bottom:1px solid var(--line)}\n"
    "table{border-collapse:collapse;margin-bottom:1rem}td,th{padding:.2rem .8rem .2rem "
    "0;text-align:left;"
    "vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\n"
    "th{color:var(--faint);font-weight:600}small{white-space:nowrap}.scroll{overflow-x:auto}td.w{"
    "overflow-wrap:anywhere}\n"
    ".plots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr)"
    ")}\n"
    ".plots figure,.pictures figure{margin:0}.plots svg{width:100%;height:auto;display:block}"
    ".wide{grid-template-columns:1fr}\n"
    ".pictures{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(140px,1fr))}\n"
    ".pictures img{width:100%;image-rendering:pixelated;display:block}\n"
    ".looks{display:grid;gap:.8rem;grid-template-columns:repeat(3,minmax(0,260px));margin-bottom:"
    ".8rem}.looks figure{margin:0}.looks img{width:100%;image-rendering:pixelated;display:block}\n"
    "figcaption{font-size:.8rem;color:var(--faint);overflow-wrap:anywhere}p{max-width:70ch}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--faint:#9aa5b1;--line:#39424c;"
    "--page:#1a1a1a}.plots svg{filter:invert(.9) hue-rotate(180deg)}}\n"
    "@media print{body{max-width:none;font-size:10pt}.plots{grid-template-columns:1fr "
    "1fr}.wide{grid-template-columns:1fr}"
    ":root{--ink:#1b1f24;--faint:#5b6570;--line:#d5dae0;--page:#fff}"
    ".plots svg{filter:none}.scroll{overflow:visible}table{font-size:8pt}td,th{padding-right:.5rem}"
    "small{white-space:normal}tr,p{break-inside:avoid}"
    "figure{break-inside:avoid}h2,h2+p{break-after:avoid}}\n"
    "</style>\n</head>\n<body>\n";

static void html_section(sheet *s, const char *title, const char *words)
{
    sheet_add(s, "<h2>%s</h2>\n", title);
    if (words[0]) sheet_add(s, "<p>%s</p>\n", words);
}

static void html_provenance(sheet *s, const provenance *p)
{
    size_t i;
    html_section(s, "Where this comes from", "");
    sheet_add(s, "<div class=\"scroll\"><table>\n");
    for (i = 0; i < p->count; i++) {
        sheet_add(s, "<tr><th scope=\"row\">");
        sheet_quote(s, p->lines[i].key, TEXT_XML);
        sheet_add(s, "</th><td class=\"w\">");
        sheet_quote(s, p->lines[i].value, TEXT_XML);
        sheet_add(s, "</td></tr>\n");
    }
    sheet_add(s, "</table></div>\n");
}

/* ---- figures in numbers ---- */

/* A figure; that of a class without images is not a number. */
static void html_number(sheet *s, double value)
{
    if (value == value)
        sheet_add(s, "%.4f", value);
    else
        sheet_add(s, "undefined");
}

static void html_cell(sheet *s, statistics_interval i)
{
    sheet_add(s, "<td class=\"n\">");
    html_number(s, i.value);
    if (i.low == i.low) sheet_add(s, "<br><small>%.4f to %.4f</small>", i.low, i.high);
    sheet_add(s, "</td>");
}

/* The same on one line, in two cells. */
static void html_cells(sheet *s, statistics_interval i)
{
    sheet_add(s, "<td class=\"n\">");
    html_number(s, i.value);
    sheet_add(s, "</td><td>");
    if (i.low == i.low) sheet_add(s, "<small>%.4f to %.4f</small>", i.low, i.high);
    sheet_add(s, "</td>");
}

static void html_classes(sheet *s, const evaluation *e)
{
    size_t k, f;
    sheet_add(s, "<div class=\"scroll\"><table>\n<tr><th scope=\"col\">class</th>"
                 "<th class=\"n\" scope=\"col\">images</th>");
    for (f = 0; f < STATISTICS_CLASS_FIGURES; f++)
        sheet_add(s, "<th class=\"n\" scope=\"col\">%s</th>", evaluation_class_figures[f]);
    if (e->reliability.sets)
        sheet_add(s,
                  "<th class=\"n\" scope=\"col\">in its %.0f&#160;%% set</th>"
                  "<th class=\"n\" scope=\"col\">set size</th>",
                  100 * e->reliability.coverage);
    sheet_add(s, "</tr>\n");
    for (k = 0; k < e->classes; k++) {
        size_t images;
        double size;
        const size_t covered = evaluation_covered(&images, &size, e, k);
        sheet_add(s, "<tr><th scope=\"row\">");
        sheet_quote(s, e->names[k], TEXT_XML);
        sheet_add(s, "</th><td class=\"n\">%zu</td>", images);
        for (f = 0; f < STATISTICS_CLASS_FIGURES; f++)
            html_cell(s, e->intervals[STATISTICS_FIGURES + k * STATISTICS_CLASS_FIGURES + f]);
        if (e->reliability.sets) {
            html_cell(s, statistics_share(covered, images));
            sheet_add(s, "<td class=\"n\">");
            html_number(s, size);
            sheet_add(s, "</td>");
        }
        sheet_add(s, "</tr>\n");
    }
    sheet_add(s, "</table></div>\n");
}

static void html_numbers(sheet *s, const evaluation *e)
{
    size_t k, images, unknown = 0;
    double size;
    html_section(s, "In numbers",
                 "Small: 95 % intervals, from 2000 draws of as many images of each class with "
                 "replacement; of shares in sets Wilson&#39;s.");
    sheet_add(s, "<div class=\"scroll\"><table>\n");
    for (k = 0; k < STATISTICS_FIGURES; k++) {
        sheet_add(s, "<tr><th scope=\"row\">");
        sheet_quote(s, evaluation_figures[k], TEXT_XML);
        sheet_add(s, "</th>");
        html_cells(s, e->intervals[k]);
        sheet_add(s, "</tr>\n");
    }
    for (k = 0; k < e->count; k++) unknown += (size_t)e->predictions[k].unknown;
    if (e->reliability.foreign) {
        sheet_add(s, "<tr><th scope=\"row\">taken for foreign</th>");
        html_cells(s, statistics_share(unknown, e->count));
        sheet_add(s, "</tr>\n");
    }
    if (e->reliability.sets) {
        const size_t covered = evaluation_covered(&images, &size, e, e->classes);
        sheet_add(s, "<tr><th scope=\"row\">true class in its %.0f&#160;%% set</th>",
                  100 * e->reliability.coverage);
        html_cells(s, statistics_share(covered, images));
        sheet_add(s,
                  "</tr>\n<tr><th scope=\"row\">mean size of a set</th><td "
                  "class=\"n\">%.4f</td><td></td></tr>\n",
                  size);
    }
    sheet_add(s, "</table></div>\n");
    html_classes(s, e);
}

/* ---- figures as pictures ---- */

/* The file's figure inside the page; nothing where there is none. */
static void html_plot(sheet *s, const char *folder, const char *name)
{
    char *path = system_path(folder, name), *bytes = path ? provenance_read(path) : NULL;
    const char *from = bytes ? strstr(bytes, "<svg") : NULL;
    if (from) sheet_add(s, "<figure>\n%s</figure>\n", from);
    free(bytes);
    free(path);
}

/* Training left its history in the folder of the weights. */
static void html_history(sheet *s, const char *weights)
{
    char *folder = system_copy(weights), *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash) slash[slash == folder] = 0;
    sheet_add(s, "<div class=\"plots wide\">\n");
    html_plot(s, slash ? folder : ".", "history.svg");
    sheet_add(s, "</div>\n");
    free(folder);
}

static void html_plots(html_report *r)
{
    static const char *const names[] = {"roc.svg", "precision_recall.svg", "confusion.svg",
                                        "reliability.svg", "coverage.svg"};
    size_t i;
    html_section(&r->page, "In figures", "");
    sheet_add(&r->page, "<div class=\"plots\">\n");
    for (i = 0; i < sizeof names / sizeof *names; i++) html_plot(&r->page, r->folder, names[i]);
    sheet_add(&r->page, "</div>\n");
    if (r->e->weights) html_history(&r->page, r->e->weights);
}

/* ---- images ---- */

/* An image, and over it, where `heat` is not NULL, a map of its size. */
static void html_picture(sheet *s, const float *pixels, const float *heat, size_t height,
                         size_t width, const char *words)
{
    sheet_add(s, "<img alt=\"%s\" src=\"", words);
    heat_data(s, pixels, heat, height, width);
    sheet_add(s, "\">\n");
}

static void html_caption(sheet *s, const evaluation *e, size_t i)
{
    const dataset_file *file = &e->split->files[i];
    const lensnet_prediction *p = &e->predictions[i];
    const char *name = file->path, *slash;
    sheet_add(s, "<figcaption>");
    if (name) {
        slash = strrchr(name, '/');
        sheet_quote(s, slash ? slash + 1 : name, TEXT_XML);
    } else {
        sheet_add(s, "simulated %zu", i);
    }
    sheet_add(s, "<br>is ");
    sheet_quote(s, e->names[e->labels[i]], TEXT_XML);
    sheet_add(s, ",<br>said ");
    sheet_quote(s, e->names[p->index], TEXT_XML);
    sheet_add(s, " %.1f&#160;%%", 100 * (double)p->probability);
    if (e->reliability.foreign) sheet_add(s, "<br>foreign %.2f", (double)p->foreign);
    sheet_add(s, "</figcaption>");
}

/* Where simulate --maps leaves what the substructure of DATA/SPLIT/CLASS/NAME.npy changes in it:
 * DATA/maps/SPLIT/CLASS/NAME-change.npy. To be freed; NULL: there is no such file. */
static char *html_map_path(const char *path)
{
    const size_t length = strlen(path), room = length + 32;
    size_t from = length, slashes = 0;
    char *map;
    while (from > 0 && (slashes += path[from - 1] == '/') < 3) from--;
    if (slashes == 2 && from == 0) slashes = 3; /* SPLIT/CLASS/NAME.npy, seen from inside DATA */
    if (slashes < 3 || !system_ends_in(path, ".npy") || !(map = (char *)malloc(room))) return NULL;
    snprintf(map, room, "%.*smaps/%.*s-change.npy", (int)from, path, (int)(length - from - 4),
             path + from);
    if (system_exists(map)) return map;
    free(map);
    return NULL;
}

/* The map of an image from a file, into memory of its own; NULL where there is none of its size. */
static float *html_map(const dataset_image *image, const char *path)
{
    char *name = path ? html_map_path(path) : NULL, problem[NPY_TEXT];
    picture map;
    if (!name || !picture_read(&map, name, 1, problem)) {
        free(name);
        return NULL;
    }
    free(name);
    if (map.height == image->picture.height && map.width == image->picture.width) return map.pixels;
    picture_free(&map);
    return NULL;
}

/* Reads image i again; 0 leaves it out. Sides above 1000 pixels are not shown. */
static int html_read(dataset_image *image, const html_report *r, size_t i)
{
    lensnet_error error;
    if (!dataset_pixels(image, 1, r->e->split, i, 0, 0, &error)) return 0;
    if (image->picture.height <= 1000 && image->picture.width <= 1000) return 1;
    dataset_image_free(image);
    return 0;
}

/* The images of a kind by descending importance, as far as there is room. */
static void html_gallery(html_report *r, const char *title, const char *words,
                         double (*importance)(const evaluation *, size_t))
{
    size_t i, n = 0, shown;
    html_section(&r->page, title, words);
    for (i = 0; i < r->e->count; i++) { /* insertion into the list of the first few */
        const double value = importance(r->e, i);
        size_t at;
        if (!(value > 0)) continue;
        if (n < HTML_PICTURES)
            at = n++;
        else if (value > importance(r->e, r->order[n - 1]))
            at = n - 1;
        else
            continue;
        for (; at > 0 && importance(r->e, r->order[at - 1]) < value; at--)
            r->order[at] = r->order[at - 1];
        r->order[at] = i;
    }
    if (!n) {
        sheet_add(&r->page, "<p>None.</p>\n");
        return;
    }
    sheet_add(&r->page, "<div class=\"pictures\">\n");
    for (shown = 0; shown < n; shown++) {
        dataset_image image;
        if (!html_read(&image, r, r->order[shown])) continue;
        sheet_add(&r->page, "<figure>");
        html_picture(&r->page, image.picture.pixels, NULL, image.picture.height,
                     image.picture.width, "image");
        html_caption(&r->page, r->e, r->order[shown]);
        sheet_add(&r->page, "</figure>\n");
        dataset_image_free(&image);
    }
    sheet_add(&r->page, "</div>\n");
}

static double html_mistake(const evaluation *e, size_t i)
{
    return e->predictions[i].index == e->labels[i] ? 0 : (double)e->predictions[i].probability;
}

static double html_unsure(const evaluation *e, size_t i)
{
    return 1.0001 - (double)e->predictions[i].probability;
}

static double html_foreign(const evaluation *e, size_t i)
{
    return e->predictions[i].unknown ? (double)e->predictions[i].foreign : 0;
}

/* ---- where it looks ---- */

/* What is known of the image: where substructure changes it. */
static void html_truth(html_report *r, const dataset_image *image, size_t i)
{
    const size_t h = image->picture.height, w = image->picture.width;
    float *read = html_map(image, r->e->split->files[i].path);
    float *map = read ? read : image->map;
    size_t k;
    double most = 0;
    for (k = 0; map && k < h * w; k++) {
        map[k] = fabsf(map[k]);
        if ((double)map[k] > most) most = (double)map[k];
    }
    if (most > 0) {
        sheet_add(&r->page, "<figure>");
        html_picture(&r->page, image->picture.pixels, map, h, w, "what the substructure changes");
        sheet_add(&r->page,
                  "<figcaption>what its substructure changes: at most %.1f sigma of a "
                  "pixel&#39;s noise</figcaption></figure>\n",
                  most);
    }
    free(read);
}

static void html_explain_one(html_report *r, explainer *x, size_t i)
{
    dataset_image image;
    float *map;
    size_t h, w;
    sheet *s = &r->page;
    if (!html_read(&image, r, i)) return;
    h = image.picture.height;
    w = image.picture.width;
    map = (float *)malloc(h * w * sizeof *map);
    s->failed |= !map;
    if (map && image.picture.bands == 1 &&
        explain_image(map, x, image.picture.pixels, h, w, (size_t)r->e->predictions[i].index,
                      r->error)) {
        sheet_add(s, "<div class=\"looks\"><figure>");
        html_picture(s, image.picture.pixels, NULL, h, w, "image");
        html_caption(s, r->e, i);
        sheet_add(s, "</figure>\n<figure>");
        html_picture(s, image.picture.pixels, map, h, w, "where the network looks");
        sheet_add(s, "<figcaption>where it looks</figcaption></figure>\n");
        html_truth(r, &image, i);
        sheet_add(s, "</div>\n");
    }
    free(map);
    dataset_image_free(&image);
}

/* The first few images of each class. */
static void html_explain(html_report *r, const lensnet_host *host)
{
    explainer x;
    size_t i, k;
    if (!r->e->weights) return;
    html_section(
        &r->page, "Where it looks",
        "Gradient of the answer times activation in the network&#39;s second stage, absolute and "
        "summed over the channels (the summands of HiResCAM; Grad-CAM, which averages the gradient "
        "first, loses the place). The weaker half is left clear. Beside it, where simulate "
        "--maps or train --simulate knows, what subhalos or the vortex change.");
    if (explain_open(&x, r->e->weights, host, r->error)) {
        for (k = 0; k < r->e->classes; k++) {
            size_t shown = 0;
            for (i = 0; i < r->e->count && shown < HTML_EXPLAINED; i++) {
                if ((size_t)r->e->labels[i] != k) continue;
                html_explain_one(r, &x, i);
                shown++;
            }
        }
    } else if (r->error) {
        sheet_add(&r->page, "<p>");
        sheet_quote(&r->page, r->error->text, TEXT_XML);
        sheet_add(&r->page, "</p>\n");
    }
    explain_close(&x);
}

/* ---- all of it ---- */

/* Writes FOLDER/report.html; the figures lie in the folder already (evaluation_write). */
NPY_API int html_report_write(const evaluation *e, const provenance *from, const char *folder,
                              const lensnet_host *host, lensnet_error *error)
{
    html_report r;
    char *path = system_path(folder, "report.html");
    int good;
    memset(&r, 0, sizeof r);
    r.e = e;
    r.folder = folder;
    r.error = error;
    r.order = (size_t *)malloc(HTML_PICTURES * sizeof *r.order);
    good = (path && r.order) || dataset_no_memory(error);
    if (good) {
        sheet_add(&r.page,
                  "%s<h1>Evaluation of a lens classifier</h1>\n<p>%zu images, %zu classes.</p>\n",
                  html_head, e->count, e->classes);
        html_numbers(&r.page, e);
        html_plots(&r);
        html_gallery(&r, "Most confident mistakes", "", html_mistake);
        html_gallery(&r, "Most unsure", "", html_unsure);
        if (e->reliability.foreign)
            html_gallery(&r, "Taken for foreign", "Beyond 1 the network does not know such images.",
                         html_foreign);
        html_explain(&r, host);
        html_provenance(&r.page, from);
        sheet_add(&r.page, "</body>\n</html>\n");
        good = !sheet_save(&r.page, path, error);
    }
    free(r.order);
    free(path);
    return good;
}

#endif
