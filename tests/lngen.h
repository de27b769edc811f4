/* lngen.h - the numbers behind the golden data. Weights and images of the reference runs are not stored:
 * each is made from its tensor's name by FNV-1a and splitmix64, here and in the Python scripts that
 * computed the reference values, with the same bits. tools/make_fixtures.py holds what came out.
 *
 *   base  = fnv1a(name) xor seed * GOLDEN,  z = splitmix64's finaliser of base + (i + 1) * GOLDEN
 *   v(i)  = ((z >> 40) - 2^23) / 2^23 in [-1, 1), exact in float
 *   value = (float)(offset + scale * v(i)), i the row-major index */
#ifndef LNGEN_H
#define LNGEN_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__GNUC__)
#define LNGEN_UNUSED __attribute__((unused)) /* a test need not use everything here */
#else
#define LNGEN_UNUSED
#endif

#define LNGEN_SEED   1
#define LNGEN_GOLDEN 0x9E3779B97F4A7C15u
#define LNGEN_BLOCK  16 /* pixels that share an image's coarse value, along each side */

LNGEN_UNUSED static uint64_t lngen_base(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    while (*name) hash = (hash ^ (unsigned char)*name++) * 0x100000001b3u;
    return hash ^ LNGEN_SEED * LNGEN_GOLDEN;
}

LNGEN_UNUSED static double lngen_value(uint64_t base, uint64_t index)
{
    uint64_t z = base + (index + 1) * LNGEN_GOLDEN;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)((int64_t)(z >> 40) - (1 << 23)) / 8388608.0;
}

LNGEN_UNUSED static void lngen_fill(float *values, size_t count, const char *name, double offset,
                                    double scale)
{
    uint64_t base = lngen_base(name);
    size_t i;
    for (i = 0; i < count; i++) values[i] = (float)(offset + scale * lngen_value(base, i));
}

LNGEN_UNUSED static int lngen_ends_in(const char *name, const char *ending)
{
    size_t length = strlen(name), tail = strlen(ending);
    return length >= tail && strcmp(name + length - tail, ending) == 0;
}

/* 2^-k with the smallest k for which fan_in <= 6 * 4^k: about sqrt(3 / fan_in). */
LNGEN_UNUSED static double lngen_fan_scale(size_t fan_in)
{
    double scale = 1;
    size_t bound = 6;
    for (; fan_in > bound; bound *= 4) scale /= 2;
    return scale;
}

/* The weights of the golden networks, by the authors' tensor names. */
LNGEN_UNUSED static void lngen_weight(float *values, const char *name, size_t count,
                                      size_t first_dimension, int is_vector)
{
    if (lngen_ends_in(name, ".gamma")) {
        lngen_fill(values, count, name, 0, 0.5);
    } else if (lngen_ends_in(name, ".beta") || lngen_ends_in(name, ".bias")) {
        lngen_fill(values, count, name, 0, 0.25);
    } else if (is_vector) {
        lngen_fill(values, count, name, 1, 0.25);
    } else {
        lngen_fill(values, count, name, 0, lngen_fan_scale(count / first_dimension));
    }
}

/* (count, height, width, channels): half fine noise, plus a value per block of 16 x 16 pixels. */
LNGEN_UNUSED static void lngen_images(float *images, size_t count, size_t channels, size_t height,
                                      size_t width)
{
    uint64_t fine = lngen_base("input"), coarse = lngen_base("input.coarse");
    size_t rows = (height + LNGEN_BLOCK - 1) / LNGEN_BLOCK;
    size_t columns = (width + LNGEN_BLOCK - 1) / LNGEN_BLOCK;
    size_t n, c, y, x;
    for (n = 0; n < count; n++) {
        for (c = 0; c < channels; c++) {
            for (y = 0; y < height; y++) {
                for (x = 0; x < width; x++) {
                    size_t plane = n * channels + c;
                    size_t pixel = (plane * height + y) * width + x;
                    size_t block = (plane * rows + y / LNGEN_BLOCK) * columns + x / LNGEN_BLOCK;
                    images[((n * height + y) * width + x) * channels + c] =
                        (float)(0.5 * lngen_value(fine, pixel) + lngen_value(coarse, block));
                }
            }
        }
    }
}

/* Hugging Face's name of a tensor of ConvNeXt V2 -> the authors', which the golden data use. */
LNGEN_UNUSED static void lngen_author_name(char *author, size_t capacity, const char *name)
{
    static const char *const heads[][2] = {
        {"convnextv2.embeddings.patch_embeddings.", "downsample_layers.0.0."},
        {"convnextv2.embeddings.layernorm.", "downsample_layers.0.1."},
        {"convnextv2.layernorm.", "norm."},
        {"classifier.", "head."}};
    const char *leaf = strrchr(name, '.') + 1;
    unsigned stage, at;
    int end = 0;
    size_t i;
    for (i = 0; i < sizeof heads / sizeof *heads; i++) {
        size_t length = strlen(heads[i][0]);
        if (strncmp(name, heads[i][0], length) == 0) {
            snprintf(author, capacity, "%s%s", heads[i][1], name + length);
            return;
        }
    }
    if (sscanf(name, "convnextv2.encoder.stages.%u.downsampling_layer.%u.", &stage, &at) == 2) {
        snprintf(author, capacity, "downsample_layers.%u.%u.%s", stage, at, leaf);
    } else if (sscanf(name, "convnextv2.encoder.stages.%u.layers.%u.%n", &stage, &at, &end) == 2 &&
               end > 0) {
        const char *part = name + end;
        if (strncmp(part, "grn.", 4) == 0) {
            part = strcmp(leaf, "weight") == 0 ? "grn.gamma" : "grn.beta";
        } else if (strncmp(part, "layernorm.", 10) == 0) {
            part += 5; /* "norm." */
        }
        snprintf(author, capacity, "stages.%u.%u.%s", stage, at, part);
    } else {
        snprintf(author, capacity, "%s", name);
    }
}

/* Gives every parameter its golden value. Needs lensnet.h. */
LNGEN_UNUSED static void lngen_parameters(lensnet_parameters *parameters)
{
    float *values = lensnet_parameters_values(parameters);
    size_t i, count = lensnet_parameters_count(parameters);
    for (i = 0; i < count; i++) {
        lensnet_parameter_info info = lensnet_parameters_info(parameters, i);
        char name[128];
        lngen_author_name(name, sizeof name, info.name);
        lngen_weight(values + info.offset, name, info.size, info.shape[0], info.rank == 1);
    }
    lensnet_parameters_changed(parameters);
}

#endif
