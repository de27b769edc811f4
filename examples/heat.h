/* heat.h - an image, and a map over it, as a small picture: 16 greys under 16 strengths of a warm colour; and
 * both side by side as a figure. Include svg.h and zip.h first. */
#ifndef HEAT_H
#define HEAT_H

#include "png.h"

#define HEAT_MOST 1000 /* pixels of a side that a figure shows */

static int heat_compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Values as levels 0 ... 15. Of an image the darkest and brightest hundredth are cut, and the root is taken, so
 * that faint light shows. Of a map (>= 0, and 0 outside what was looked at) the weaker half becomes 0. */
static int heat_levels(unsigned char *levels, const float *values, size_t count, int is_map)
{
    float *sorted = (float *)malloc(count * sizeof *sorted);
    double low, span;
    size_t i, zeros = 0;
    if (!sorted) return 0;
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, heat_compare_floats);
    while (is_map && zeros + 1 < count && !(sorted[zeros] > 0)) zeros++;
    low = (double)sorted[is_map ? zeros + (count - zeros) / 2 : count / 100];
    span = (double)sorted[count - 1 - (count - zeros) / 200] - low;
    for (i = 0; i < count; i++) {
        double v = span > 0 ? ((double)values[i] - low) / span : 0;
        v = v > 1 ? 1 : v > 0 ? v : 0;
        levels[i] = (unsigned char)((is_map ? v : sqrt(v)) * 15 + 0.5);
    }
    free(sorted);
    return 1;
}

/* 16 greys times 16 strengths of a warm colour over them. */
static void heat_palette(unsigned char *palette)
{
    int grey, heat, c;
    for (heat = 0; heat < 16; heat++)
        for (grey = 0; grey < 16; grey++)
            for (c = 0; c < 3; c++) {
                static const double warm[3] = {255, 130, 20};
                const double a = 0.75 * heat / 15.0, base = grey * 17.0;
                palette[3 * (16 * heat + grey) + c] =
                    (unsigned char)(base + a * (warm[c] - base) + 0.5);
            }
}

/* Appends "data:image/png;base64,..." of an image and, where `heat` is not NULL, a map of its size. Sides
 * below 65535. */
SVG_API void heat_data(sheet *s, const float *pixels, const float *heat, size_t height,
                       size_t width)
{
    unsigned char *levels = (unsigned char *)malloc(2 * height * width), palette[768];
    size_t i;
    int good = levels && heat_levels(levels, pixels, height * width, 0);
    if (good && heat) good = heat_levels(levels + height * width, heat, height * width, 1);
    s->failed |= !good;
    if (good) {
        for (i = 0; heat && i < height * width; i++)
            levels[i] = (unsigned char)(levels[i] + 16 * levels[height * width + i]);
        heat_palette(palette);
        png_data(s, levels, width, height, palette);
    }
    free(levels);
}

/* ---- a figure ---- */

static void heat_panel(sheet *s, double left, const float *pixels, const float *heat, size_t height,
                       size_t width, const char *name)
{
    svg_style style = svg_plain("middle", 14);
    sheet_add(s,
              "<image x=\"%.0f\" y=\"40\" width=\"360\" height=\"360\" "
              "style=\"image-rendering:pixelated\" href=\"",
              left);
    heat_data(s, pixels, heat, height, width);
    sheet_add(s, "\"/>\n");
    svg_text(s, left + 180, 424, style, name);
}

/* Saves the image and the map over it as SVG. `title` stands above, `source` is for who asks the file where
 * it comes from. Sides up to HEAT_MOST. */
SVG_API lensnet_result heat_save(const char *path, const float *pixels, const float *heat,
                                 size_t height, size_t width, const char *title, const char *source,
                                 lensnet_error *error)
{
    sheet s;
    svg_style style = svg_plain("middle", 14);
    style.most = 90;
    svg_begin(&s, 760, 440);
    svg_describe(&s, title, source);
    svg_text(&s, 380, 26, style, title);
    heat_panel(&s, 13, pixels, NULL, height, width, "image");
    heat_panel(&s, 387, pixels, heat, height, width, "where the network looks");
    return svg_end(&s, path, error);
}

#endif
