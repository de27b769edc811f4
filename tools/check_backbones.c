/* check_backbones.c - lensnet's side of check_backbones.py: one network of examples/backbones.h, beside
 * timm and torchvision.
 * cc -O2 -fopenmp tools/check_backbones.c -o check_backbones -lm
 *
 * check_backbones NAME WEIGHTS IMAGES COUNT SIDE CLASSES RATE STEPS OUT [silu]
 *
 * reads raw channels-last floats, runs the network as it stands (OUT.logits), takes one step forward and
 * backward (OUT.gradients.safetensors: gradients, and running statistics after it), takes STEPS steps with
 * AdamW in all, prints the loss of each, and saves the weights (OUT.safetensors). Labels are 0 1 2 ...
 * With `silu` every ReLU becomes a SiLU: a network without kinks. */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

static int smooth;
#define lensnet_relu(graph, x) (smooth ? lensnet_silu(graph, x) : lensnet_relu(graph, x))
#include "../examples/backbones.h"

static lensnet_error error;

static void must(lensnet_result result)
{
    if (!result) return;
    fprintf(stderr, "error: %s\n", error.text);
    exit(1);
}

static void write_floats(const char *path, const float *values, size_t count)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(values, sizeof *values, count, file) != count || fclose(file)) exit(1);
}

static float *read_floats(const char *path, size_t count)
{
    float *values = (float *)malloc(count * sizeof *values);
    FILE *file = fopen(path, "rb");
    if (!values || !file || fread(values, sizeof *values, count, file) != count) exit(1);
    fclose(file);
    return values;
}

/* Gradients under their weights' names, but running statistics as they are. */
static void save_gradients(lensnet_parameters *parameters, const char *out)
{
    char path[600];
    lensnet_archive_tensor tensors[1000];
    const size_t count = lensnet_parameters_count(parameters);
    size_t i;
    if (count > 1000) exit(1);
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < count; i++) {
        const lensnet_parameter_info w = lensnet_parameters_info(parameters, i);
        tensors[i].name = w.name;
        tensors[i].dtype = LENSNET_DTYPE_F32;
        tensors[i].rank = 1;
        tensors[i].shape[0] = w.size;
        tensors[i].values = (w.statistic ? lensnet_parameters_values(parameters)
                                         : lensnet_parameters_gradients(parameters)) +
                            w.offset;
    }
    snprintf(path, sizeof path, "%s.gradients.safetensors", out);
    must(lensnet_archive_save(path, tensors, count, NULL, 0, NULL, &error));
}

int main(int argc, char **argv)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_load_options load = backbone_load_defaults();
    const lensnet_archive_pair told[2] = {{"lensnet.architecture", argv[1]},
                                          {"lensnet.image_size", argv[5]}};
    lensnet_model *model;
    lensnet_parameters *parameters;
    lensnet_graph *learn, *check;
    lensnet_adamw *adamw;
    char path[600];
    float *images, *logits;
    size_t classes, i;
    int labels[64], step;
    smooth = argc == 11 && !strcmp(argv[10], "silu");
    if (argc != 10 + smooth)
        return fprintf(stderr, "see the first lines of check_backbones.c\n"), 2;
    batch.count = options.batch = (size_t)atoi(argv[4]);
    options.height = options.width = (size_t)atoi(argv[5]);
    classes = (size_t)atoi(argv[6]);
    if (batch.count > 64) return 2;
    images = read_floats(argv[3], batch.count * options.height * options.width * 3);
    logits = (float *)malloc(batch.count * classes * sizeof *logits);
    if (!logits) return 1;
    for (i = 0; i < batch.count; i++) labels[i] = (int)(i % classes);
    load.told = told;
    load.told_count = 2;
    must(lensnet_model_load(&model, argv[2], &load, NULL, &error));
    parameters = lensnet_model_parameters(model);
    must(lensnet_model_graph(&check, model, &options, NULL, &error));
    options.training = 1;
    must(lensnet_model_graph(&learn, model, &options, NULL, &error));
    must(lensnet_graph_plan(check, NULL, &error));
    must(lensnet_graph_plan(learn, NULL, &error));
    must(lensnet_graph_allocate(check, &error));
    must(lensnet_graph_allocate(learn, &error));
    must(lensnet_adamw_create(&adamw, parameters, NULL, &error));
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = logits;
    batch.images = images;
    batch.channels = 3;
    batch.labels = labels;
    must(lensnet_forward(check, &batch, &outputs, &error));
    snprintf(path, sizeof path, "%s.logits", argv[9]);
    write_floats(path, logits, batch.count * classes);
    for (step = 0; step < atoi(argv[8]); step++) {
        must(lensnet_forward_backward(learn, &batch, &outputs, &error));
        printf("%.9g\n", outputs.loss);
        if (step == 0) save_gradients(parameters, argv[9]);
        must(lensnet_adamw_step(adamw, atof(argv[7]), NULL, &error));
    }
    snprintf(path, sizeof path, "%s.safetensors", argv[9]);
    must(lensnet_model_save(model, path, LENSNET_DTYPE_F32, &error));
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(check);
    lensnet_graph_destroy(learn);
    lensnet_model_destroy(model);
    free(images);
    free(logits);
    return 0;
}
