/* dense.h - a map as a second thing to learn: where in the image, and how strongly, substructure changes
 * what is seen. A network that has to say where learns from a quarter of the images. The simulator
 * knows the map; the head that learns it is thrown away with the last epoch.
 *
 * The map has standard deviations of a pixel's noise. It is summed over cells of 4 x 4 pixels of the
 * network's input, expressed in the noise of such a cell, and compressed: asinh(m / 2). A head on stage 3
 * sees 16 x 16 pixels, so it has 16 outputs, one for each cell. */
#ifndef DENSE_H
#define DENSE_H

#include <math.h>

#ifndef LENSNET_H
#error "dense.h: include lensnet.h first"
#endif

#include <math.h>

enum { DENSE_CELL = 4, DENSE_STRIDE = 16, DENSE_PARTS = DENSE_STRIDE / DENSE_CELL };

/* Values of a target for images of side `side`: (side / 16, side / 16, 16). */
static size_t dense_size(size_t side)
{
    size_t cells = side / DENSE_STRIDE;
    return cells * cells * DENSE_PARTS * DENSE_PARTS;
}

static double dense_asinh(double x)
{
    double size = lensnet_log((x < 0 ? -x : x) + sqrt(x * x + 1));
    return x < 0 ? -size : size;
}

/* The sum over the cell whose first pixel is (top, left). */
static double dense_sum(const float *map, size_t side, size_t top, size_t left)
{
    double sum = 0;
    size_t y, x;
    for (y = top; y < top + DENSE_CELL; y++)
        for (x = left; x < left + DENSE_CELL; x++) sum += (double)map[y * side + x];
    return sum;
}

/* map (side, side), already cropped and turned like its image, `zoom` native pixels wide each. */
static void dense_target(float *target, const float *map, size_t side, double zoom)
{
    const size_t cells = side / DENSE_STRIDE, parts = DENSE_PARTS;
    size_t cy, cx, py, px;
    for (cy = 0; cy < cells; cy++)
        for (cx = 0; cx < cells; cx++)
            for (py = 0; py < parts; py++)
                for (px = 0; px < parts; px++) {
                    double sum = dense_sum(map, side, cy * DENSE_STRIDE + py * DENSE_CELL,
                                           cx * DENSE_STRIDE + px * DENSE_CELL);
                    *target++ = (float)dense_asinh(sum * zoom / DENSE_CELL / 2);
                }
}

#endif
