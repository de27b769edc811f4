/* simulated.h - the simulator of tools/simulate.h as a source of images for dataset.h: as many as
 * wanted, new ones in every epoch, and not one file. Include system.h, lensnet.h and simulate.h first. */
#ifndef SIMULATED_H
#define SIMULATED_H

#include "dataset.h"

#ifndef SIMULATE_H
#error "simulated.h: include tools/simulate.h first"
#endif

/* A simulator for each thread; zero it before use. */
typedef struct simulated {
    sim_workspace **workspaces;
    int count;
    size_t height, width, images; /* images of an epoch */
    size_t first;                 /* images of the split that come before them */
    uint64_t seed;
    double ease; /* epochs in which substructure comes down to its mass; 0: it is never heavier */
    double heaviest; /* what it is multiplied by at the beginning */
} simulated;

/* From `heaviest` down to 1, by the same ratio in the same time: at its true mass a network from
 * random weights does not find substructure in the noise for many epochs, exaggerated it does at once. */
static double simulated_exaggeration(const simulated *s, size_t index, uint64_t epoch)
{
    double done = (double)epoch + (double)index / (double)s->images;
    if (done >= s->ease) return 1.0;
    return lensnet_pow(s->heaviest, 1.0 - done / s->ease);
}

/* Every image of every epoch has a number of its own. */
static int simulated_source(float **pixels, float **map, size_t *height, size_t *width, void *user,
                            size_t index, uint64_t epoch, int thread, lensnet_error *error)
{
    const simulated *s = (const simulated *)user;
    const size_t count = s->height * s->width;
    const int label = (int)((index - s->first) % SIM_CLASSES);
    const uint64_t number = epoch << 32 | (index - s->first) / SIM_CLASSES;
    float *image = (float *)malloc((map ? 2 : 1) * count * sizeof *image);
    if (!image || thread >= s->count) {
        free(image);
        return dataset_no_memory(error);
    }
    sim_workspace_exaggerate(s->workspaces[thread],
                             simulated_exaggeration(s, index - s->first, epoch));
    if (map) {
        *map = image + count;
        sim_image_mapped(image, *map, s->workspaces[thread], s->seed, label, number);
    } else {
        sim_image_float(image, NULL, s->workspaces[thread], s->seed, label, number);
    }
    *pixels = image;
    *height = s->height;
    *width = s->width;
    return 1;
}

/* The names of the simulator's classes. */
NPY_API int simulated_classes(system_names *classes, lensnet_error *error)
{
    int k;
    for (k = 0; k < SIM_CLASSES; k++)
        if (!system_names_add(classes, system_copy(sim_class_names[k])))
            return dataset_no_memory(error);
    return 1;
}

/* Adds `count` images to a split, classes in turn; `classes` gives the labels. With `fresh` every
 * epoch has other images, and easy ones come first if `ease` > 0: substructure `heaviest` times as
 * heavy. `s` must outlive the split. */
NPY_API int simulated_open(simulated *s, dataset_split *split, const system_names *classes,
                           size_t count, uint64_t seed, int fresh, double ease, double heaviest,
                           int threads, lensnet_error *error)
{
    const sim_params params = sim_defaults(SIM_TEST_I);
    size_t i;
    int t, good = 1;
    s->count = system_threads(threads);
    s->height = (size_t)params.height;
    s->width = (size_t)params.width;
    s->seed = seed;
    s->images = count;
    s->ease = fresh ? ease : 0.0;
    s->heaviest = heaviest;
    s->workspaces = (sim_workspace **)calloc((size_t)s->count, sizeof(sim_workspace *));
    if (!s->workspaces) return dataset_no_memory(error);
    for (t = 0; good && t < s->count; t++)
        good = !sim_workspace_create(&s->workspaces[t], &params, LENSNET_ISA_BEST, error);
    s->first = split->count;
    split->source = simulated_source;
    split->user = s;
    split->fresh = fresh;
    split->reading.pixel_scale = params.pixel_scale;
    for (i = 0; good && i < count; i++)
        good =
            dataset_add(split, NULL, dataset_find_class(classes, sim_class_names[i % SIM_CLASSES]),
                        lensnet_random_bits(seed, lensnet_random_stream("image"), i), error);
    return good;
}

NPY_API void simulated_close(simulated *s)
{
    int t;
    for (t = 0; s->workspaces && t < s->count; t++) sim_workspace_destroy(s->workspaces[t]);
    free(s->workspaces);
    memset(s, 0, sizeof *s);
}

#endif
