/* svg.h - a sheet (sheet.h) to draw on, saved as SVG: lines, text, and plots with axes. Include lensnet.h
 * first. Lengths are pixels from the upper left corner. */
#ifndef SVG_H
#define SVG_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sheet.h"

#ifndef LENSNET_H
#error "svg.h: include lensnet.h first"
#endif

#if defined(__GNUC__)
#define SVG_API __attribute__((unused)) static
#else
#define SVG_API static
#endif

/* ---- shapes ---- */

#define SVG_INK   "#222222"
#define SVG_GREY  "#666666"
#define SVG_FAINT "#e4e4e4"

SVG_API void svg_begin(sheet *s, double width, double height)
{
    memset(s, 0, sizeof *s);
    sheet_add(
        s,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g "
        "%g\" role=\"img\" font-family=\"DejaVu Sans, Verdana, Helvetica, Arial, sans-serif\" "
        "font-size=\"14\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
        width, height, width, height);
}

static void svg_escape(sheet *s, const char *text, int most);

/* A title and a description, for those who cannot see the figure; right after svg_begin. */
SVG_API void svg_describe(sheet *s, const char *title, const char *description)
{
    sheet_add(s, "<title>");
    svg_escape(s, title, 200);
    sheet_add(s, "</title>\n<desc>");
    svg_escape(s, description, 2000);
    sheet_add(s, "</desc>\n");
}

SVG_API lensnet_result svg_end(sheet *s, const char *path, lensnet_error *error)
{
    sheet_add(s, "</svg>\n");
    return sheet_save(s, path, error);
}

SVG_API void svg_line(sheet *s, double x0, double y0, double x1, double y1, const char *colour,
                      double width, const char *dashes)
{
    sheet_add(s,
              "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" stroke=\"%s\" "
              "stroke-width=\"%g\" stroke-dasharray=\"%s\"/>\n",
              x0, y0, x1, y1, colour, width, dashes);
}

SVG_API void svg_box(sheet *s, double x, double y, double width, double height, const char *fill,
                     const char *stroke)
{
    sheet_add(
        s,
        "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\" stroke=\"%s\"/>\n",
        x, y, width, height, fill, stroke);
}

SVG_API void svg_dot(sheet *s, double x, double y, double radius, const char *fill,
                     const char *stroke)
{
    sheet_add(s,
              "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"%g\" fill=\"%s\" stroke=\"%s\" "
              "stroke-width=\"2\"/>\n",
              x, y, radius, fill, stroke);
}

/* Text made safe for XML, cut to `most` characters. */
static void svg_escape(sheet *s, const char *text, int most)
{
    char character[8];
    long number;
    while (*text && most-- > 0) {
        const size_t length = text_decode(&number, text);
        memcpy(character, text, length);
        character[length] = 0;
        sheet_quote(s, character, TEXT_XML);
        text += length;
    }
    if (*text) sheet_add(s, "\xE2\x80\xA6"); /* an ellipsis */
}

/* The same for lines of text, uncut. */
SVG_API void svg_escape_lines(sheet *s, const char *text)
{
    while (*text) {
        const int length = (int)strcspn(text, "\n");
        char line[4096];
        snprintf(line, sizeof line, "%.*s", length, text);
        svg_escape(s, line, (int)sizeof line);
        sheet_add(s, "\n");
        text += length + (text[length] == '\n');
    }
}

/* How text lies: anchored at its "start", "middle" or "end", turned by degrees (clockwise). */
typedef struct svg_style {
    const char *anchor, *colour;
    double size, turn;
    int bold, most; /* `most` characters are shown */
} svg_style;

SVG_API svg_style svg_plain(const char *anchor, double size)
{
    svg_style style;
    style.anchor = anchor;
    style.colour = SVG_INK;
    style.size = size;
    style.turn = 0;
    style.bold = 0;
    style.most = 1000;
    return style;
}

SVG_API void svg_text(sheet *s, double x, double y, svg_style style, const char *text)
{
    sheet_add(s, "<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"%s\" font-size=\"%g\" fill=\"%s\"", x,
              y, style.anchor, style.size, style.colour);
    if (style.bold) sheet_add(s, " font-weight=\"bold\"");
    if (style.turn != 0) sheet_add(s, " transform=\"rotate(%g %.2f %.2f)\"", style.turn, x, y);
    sheet_add(s, ">");
    svg_escape(s, text, style.most);
    sheet_add(s, "</text>\n");
}

/* ---- plots ---- */

/* A rectangle of the sheet with a straight scale on both axes. */
typedef struct svg_plot {
    double left, top, width, height;     /* on the sheet */
    double x_low, x_high, y_low, y_high; /* what its edges mean */
} svg_plot;

SVG_API double svg_x(const svg_plot *p, double x)
{
    return p->left + p->width * (x - p->x_low) / (p->x_high - p->x_low);
}

SVG_API double svg_y(const svg_plot *p, double y)
{
    return p->top + p->height * (p->y_high - y) / (p->y_high - p->y_low);
}

/* 1, 2 or 5 times a power of ten: at most `most` steps in `span`. */
static double svg_step(double span, int most)
{
    double raw = span / most, power = pow(10, floor(log10(raw)));
    return power * (raw <= power * 1.0001 ? 1 : raw <= 2 * power ? 2 : raw <= 5 * power ? 5 : 10);
}

/* The digits after the point that a step needs. */
static int svg_digits(double step)
{
    int digits = (int)ceil(-log10(step) - 1e-9);
    return digits < 0 ? 0 : digits;
}

static void svg_tick(sheet *s, const svg_plot *p, int vertical, double value, double step)
{
    svg_style style = svg_plain(vertical ? "end" : "middle", 12);
    double x = svg_x(p, value), y = svg_y(p, value);
    char label[32];
    snprintf(label, sizeof label, "%.*f", svg_digits(step), fabs(value) < step / 1e6 ? 0 : value);
    if (vertical) {
        svg_line(s, p->left, y, p->left + p->width, y, SVG_FAINT, 1, "none");
        svg_text(s, p->left - 8, y + 4, style, label);
    } else {
        svg_line(s, x, p->top, x, p->top + p->height, SVG_FAINT, 1, "none");
        svg_text(s, x, p->top + p->height + 19, style, label);
    }
}

/* Grid, ticks, frame, title and the names of the axes. whole_x: no ticks between whole numbers. */
SVG_API void svg_axes(sheet *s, const svg_plot *p, int whole_x, const char *title,
                      const char *x_name, const char *y_name)
{
    double x_step = svg_step(p->x_high - p->x_low, (int)(p->width / 70));
    double y_step = svg_step(p->y_high - p->y_low, (int)(p->height / 45));
    double value;
    svg_style head = svg_plain("middle", 16), name = svg_plain("middle", 14);
    if (whole_x && x_step < 1) x_step = 1;
    for (value = ceil(p->x_low / x_step - 1e-9) * x_step; value <= p->x_high + x_step / 1e6;
         value += x_step)
        svg_tick(s, p, 0, value, x_step);
    for (value = ceil(p->y_low / y_step - 1e-9) * y_step; value <= p->y_high + y_step / 1e6;
         value += y_step)
        svg_tick(s, p, 1, value, y_step);
    svg_box(s, p->left, p->top, p->width, p->height, "none", SVG_GREY);
    head.bold = 1;
    svg_text(s, p->left + p->width / 2, p->top - 16, head, title);
    svg_text(s, p->left + p->width / 2, p->top + p->height + 45, name, x_name);
    name.turn = -90;
    svg_text(s, p->left - 54, p->top + p->height / 2, name, y_name);
}

/* A line through `count` points; those that are not finite break it. Points nearer than a third of a
 * pixel to the one before are left out. */
SVG_API void svg_curve(sheet *s, const svg_plot *p, const double *x, const double *y, size_t count,
                       const char *colour, double width, const char *dashes)
{
    double last_x = 0, last_y = 0;
    size_t i;
    int drawing = 0;
    sheet_add(s,
              "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" stroke-dasharray=\"%s\" "
              "stroke-linejoin=\"round\" d=\"M%.2f %.2f",
              colour, width, dashes, p->left, p->top + p->height);
    for (i = 0; i < count; i++) {
        double at_x = svg_x(p, x[i]), at_y = svg_y(p, y[i]);
        int near = drawing && i + 1 < count && fabs(at_x - last_x) + fabs(at_y - last_y) < 0.33;
        if (!(at_x - at_x == 0 && at_y - at_y == 0)) {
            drawing = 0;
        } else if (!near) {
            sheet_add(s, "%s%.2f %.2f", drawing ? "L" : "M", at_x, at_y);
            drawing = 1;
            last_x = at_x;
            last_y = at_y;
        }
    }
    sheet_add(s, "\"/>\n");
}

/* ---- colours ---- */

#define SVG_COLOURS 10

/* Blue, red and green first, as these classes are usually shown. */
SVG_API const char *svg_colour(size_t index)
{
    static const char *const colours[SVG_COLOURS] = {"#1f5fd0", "#d62728", "#2a9d3a", "#8e44ad",
                                                     "#e67e22", "#16a0a8", "#c2388c", "#7f6a3d",
                                                     "#5b6770", "#a3b31f"};
    return colours[index % SVG_COLOURS];
}

/* Lines of the same colour differ in their dashes. */
SVG_API const char *svg_dashes(size_t index)
{
    static const char *const dashes[4] = {"none", "9 4", "2 3", "9 3 2 3"};
    return dashes[index / SVG_COLOURS % 4];
}

/* The sequential map "Blues" (ColorBrewer), 0 white ... 1 dark; `text` has room for 8 characters. */
SVG_API const char *svg_blues(char *text, double value)
{
    static const unsigned char map[9][3] = {{247, 251, 255}, {222, 235, 247}, {198, 219, 239},
                                            {158, 202, 225}, {107, 174, 214}, {66, 146, 198},
                                            {33, 113, 181},  {8, 81, 156},    {8, 48, 107}};
    double at = 8 * (value > 1 ? 1 : value > 0 ? value : 0);
    int cell = at >= 8 ? 7 : (int)at, c;
    unsigned mixed[3];
    for (c = 0; c < 3; c++)
        mixed[c] = (unsigned)(map[cell][c] + (at - cell) * (map[cell + 1][c] - map[cell][c]) + 0.5);
    snprintf(text, 8, "#%02x%02x%02x", mixed[0] & 255, mixed[1] & 255, mixed[2] & 255);
    return text;
}

#endif
