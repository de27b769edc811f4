/* forward_once.c - one forward pass of atto at 64 x 64 on one thread, for counting its instructions.
 * cc -O2 -fopenmp -I. tests/forward_once.c -o build/forward_once -lm
 * valgrind --tool=callgrind --toggle-collect=lensnet_forward build/forward_once */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "golden.h"

int main(void)
{
    lensnet_model_desc desc = golden_desc("atto", 3);
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_host host = lensnet_host_defaults();
    lensnet_outputs outputs;
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_error error;
    float logits[3];
    host.threads = 1;
    desc.host = &host;
    desc.gradients = 0;
    model = golden_model_create(&desc);
    options.height = options.width = 64;
    options.batch = 1;
    graph = golden_graph(model, &options, NULL);
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = logits;
    batch.images = golden_images(1, 64, 64);
    batch.channels = 3;
    batch.count = 1;
    golden_must(lensnet_forward(graph, &batch, &outputs, &error), &error, "lensnet_forward");
    printf("logits %g %g %g\n", logits[0], logits[1], logits[2]);
    return 0;
}
