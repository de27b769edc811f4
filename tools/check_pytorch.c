/* check_pytorch.c - lensnet's half of tools/check_pytorch.py, which builds and drives it.
 * cc -O2 -fopenmp tools/check_pytorch.c -o check_pytorch -lm
 *
 *   check_pytorch save FOLDER VARIANT CLASSES      a model with test weights (none zero), as a folder that
 *                                                  transformers loads
 *   check_pytorch logits FILE IMAGES N H W OUT     logits of FILE's network for raw floats (N, H, W, 3)
 *   check_pytorch train FILE IMAGES N H W RATE STEPS OUT
 *                                                  AdamW steps, all labels i mod K; prints each loss and
 *                                                  saves the weights as OUT
 *   check_pytorch losses X T N H W OUT             0.5 times squared error plus 2 times binary cross-entropy
 *                                                  of raw floats X and targets T (N, H, W, 3): prints both
 *                                                  losses, writes the gradient of X */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"
#include "../examples/huggingface.h"
#include "../tests/lngen.h"

static lensnet_error error;

static int must(lensnet_result result)
{
    if (result) fprintf(stderr, "check_pytorch: %s\n", error.text);
    if (result) exit(1);
    return 0;
}

static float *read_floats(const char *path, size_t count)
{
    FILE *file = fopen(path, "rb");
    float *values = (float *)malloc(count * sizeof(float));
    if (!file || !values || fread(values, sizeof(float), count, file) != count) {
        fprintf(stderr, "check_pytorch: cannot read %lu floats of %s\n", (unsigned long)count,
                path);
        exit(1);
    }
    fclose(file);
    return values;
}

static int save(char **arguments)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model;
    must(lensnet_model_variant(&desc, arguments[1], &error));
    desc.classes = (size_t)atol(arguments[2]);
    must(lensnet_model_create(&model, &desc, &error));
    lngen_parameters(lensnet_model_parameters(model));
    must(huggingface_save(model, 1.0, arguments[0], &error));
    lensnet_model_destroy(model);
    return 0;
}

typedef struct job {
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_batch batch;
    float *images;
    size_t classes;
} job;

static job begin(char **arguments, const lensnet_loss *loss)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    job j;
    options.batch = (size_t)atol(arguments[2]);
    options.height = (size_t)atol(arguments[3]);
    options.width = (size_t)atol(arguments[4]);
    options.training = loss != NULL;
    must(lensnet_model_load(&j.model, arguments[0], NULL, NULL, &error));
    must(lensnet_model_graph(&j.graph, j.model, &options, loss, &error));
    must(lensnet_graph_plan(j.graph, NULL, &error));
    must(lensnet_graph_allocate(j.graph, &error));
    j.classes = lensnet_model_description(j.model)->classes;
    j.images = read_floats(arguments[1], options.batch * options.height * options.width * 3);
    j.batch = lensnet_batch_defaults();
    j.batch.images = j.images;
    j.batch.channels = 3;
    j.batch.count = options.batch;
    return j;
}

static int logits(char **arguments)
{
    job j = begin(arguments, NULL);
    lensnet_outputs outputs;
    FILE *file = fopen(arguments[5], "wb");
    size_t count = j.batch.count * j.classes;
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = (float *)malloc(count * sizeof(float));
    if (!file || !outputs.logits) return 1;
    must(lensnet_forward(j.graph, &j.batch, &outputs, &error));
    return fwrite(outputs.logits, sizeof(float), count, file) != count || fclose(file) != 0;
}

static int train(char **arguments)
{
    lensnet_loss loss = lensnet_loss_defaults();
    job j = begin(arguments, &loss);
    int *labels = (int *)malloc(j.batch.count * sizeof(int));
    int step, steps = atoi(arguments[6]);
    lensnet_outputs outputs;
    lensnet_adamw *adamw;
    size_t i;
    if (!labels) return 1;
    for (i = 0; i < j.batch.count; i++) labels[i] = (int)(i % j.classes);
    j.batch.labels = labels;
    memset(&outputs, 0, sizeof outputs);
    must(lensnet_adamw_create(&adamw, lensnet_model_parameters(j.model), NULL, &error));
    for (step = 0; step < steps; step++) {
        must(lensnet_forward_backward(j.graph, &j.batch, &outputs, &error));
        must(lensnet_adamw_step(adamw, atof(arguments[5]), NULL, &error));
        printf("%.9g\n", outputs.loss);
    }
    return must(lensnet_model_save(j.model, arguments[7], LENSNET_DTYPE_F32, &error));
}

static int losses(char **arguments)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_parameters *none;
    lensnet_graph *graph;
    lensnet_tensor x;
    lensnet_target target = {"t", NULL};
    lensnet_outputs outputs;
    size_t count;
    FILE *file = fopen(arguments[5], "wb");
    options.batch = batch.count = (size_t)atol(arguments[2]);
    options.height = (size_t)atol(arguments[3]);
    options.width = (size_t)atol(arguments[4]);
    options.training = options.input_gradient = 1;
    count = options.batch * options.height * options.width * 3;
    must(lensnet_parameters_create(&none, NULL, &error));
    must(lensnet_parameters_allocate(none, 1, 0, &error));
    must(lensnet_graph_create(&graph, none, &options, &error));
    x = lensnet_input(graph, 3);
    lensnet_squared_error(graph, x, "t", 0.5f);
    lensnet_binary_cross_entropy(graph, x, "t", 2);
    must(lensnet_graph_plan(graph, NULL, &error));
    must(lensnet_graph_allocate(graph, &error));
    batch.images = read_floats(arguments[0], count);
    batch.channels = 3;
    target.values = read_floats(arguments[1], count);
    batch.named = &target;
    batch.named_count = 1;
    memset(&outputs, 0, sizeof outputs);
    outputs.input_gradients = (float *)malloc(count * sizeof(float));
    if (!file || !outputs.input_gradients) return 1;
    must(lensnet_forward_backward(graph, &batch, &outputs, &error));
    printf("%.17g %.17g\n", outputs.losses[0], outputs.losses[1]);
    return fwrite(outputs.input_gradients, sizeof(float), count, file) != count ||
           fclose(file) != 0;
}

int main(int argc, char **argv)
{
    if (argc == 8 && strcmp(argv[1], "losses") == 0) return losses(argv + 2);
    if (argc == 5 && strcmp(argv[1], "save") == 0) return save(argv + 2);
    if (argc == 8 && strcmp(argv[1], "logits") == 0) return logits(argv + 2);
    if (argc == 10 && strcmp(argv[1], "train") == 0) return train(argv + 2);
    fprintf(stderr, "usage: see the first comment of tools/check_pytorch.c\n");
    return 2;
}
