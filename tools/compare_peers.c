/* compare_peers.c - lensnet's half of tools/compare_peers.py, which builds and drives it: waits for a line
 * on standard input, does the work once, answers with the seconds it took.
 * cc -O2 -fopenmp tools/compare_peers.c -o compare_peers -lm
 *
 *   compare_peers forward|train VARIANT SIZE BATCH THREADS fp32|bf16
 *   compare_peers macs VARIANT SIZE            multiply-accumulates of one image, forward
 *
 * Batch norms stand apart in the forward pass; a classifier folds them. */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "../examples/backbones.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static lensnet_error error;

static void must(lensnet_result result)
{
    if (!result) return;
    fprintf(stderr, "compare_peers: %s\n", error.text);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_host host = lensnet_host_defaults();
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_adamw *adamw = NULL;
    size_t i, count;
    float *images;
    int *labels;
    char line[16];
    const int counts = argc == 4 && strcmp(argv[1], "macs") == 0;
    if (argc != 7 && !counts) {
        fprintf(stderr, "usage: see the first comment of tools/compare_peers.c\n");
        return 2;
    }
    options.training = strcmp(argv[1], "train") == 0;
    must(backbone_variant(&desc, argv[2], &error));
    options.height = options.width = (size_t)atol(argv[3]);
    desc.preprocess.image_size = (int)options.width;
    if (counts)
        return printf("%.0f\n", lensnet_model_macs(&desc, options.height, options.width)) < 0;
    options.batch = (size_t)atol(argv[4]);
    must(lensnet_precision_parse(&options.precision, argv[6], &error));
    host.threads = atoi(argv[5]);
    desc.host = &host;
    desc.gradients = options.training;
    must(lensnet_model_create(&model, &desc, &error));
    must(lensnet_model_graph(&graph, model, &options, NULL, &error));
    must(lensnet_graph_plan(graph, NULL, &error));
    must(lensnet_graph_allocate(graph, &error));
    if (options.training)
        must(lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error));
    count = options.batch * options.height * options.width * 3;
    images = (float *)malloc(count * sizeof(float));
    labels = (int *)malloc(options.batch * sizeof(int));
    if (!images || !labels) return 1;
    for (i = 0; i < count; i++) images[i] = (float)lensnet_random_normal(1, 1, i);
    for (i = 0; i < options.batch; i++) labels[i] = (int)(i % 3);
    batch.images = images;
    batch.channels = 3;
    batch.count = options.batch;
    batch.labels = options.training ? labels : NULL;
    while (fgets(line, sizeof line, stdin)) {
        double start = now();
        if (options.training) {
            must(lensnet_forward_backward(graph, &batch, NULL, &error));
            must(lensnet_adamw_step(adamw, 1e-5, NULL, &error));
        } else {
            must(lensnet_forward(graph, &batch, NULL, &error));
        }
        printf("%.9f\n", now() - start);
        fflush(stdout);
    }
    return 0;
}
