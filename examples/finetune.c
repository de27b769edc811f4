/* finetune.c - teaches a trained network your own images: the whole training loop in a screenful.
 *
 * cc -O2 -fopenmp examples/finetune.c -o finetune -lm
 * ./finetune weights/lensnet-atto.safetensors DATA tuned.safetensors
 *
 * DATA holds train/CLASS/NAME.npy. Other class names than the network's get a fresh last layer. What it
 * leaves out (validation, a plan for the rate, stopping and resuming, figures) train.c has. */
#include "system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "arguments.h"
#include "dataset.h"

enum { EPOCHS = 5, BATCH = 16 };
#define RATE 1e-4

static int epoch(lensnet_graph *graph, lensnet_adamw *adamw, dataset_split *train,
                 const dataset_recipe *recipe, float *images, double *loss, lensnet_error *error)
{
    int labels[BATCH];
    const dataset_batch place = {images, labels, NULL};
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    size_t first, *order = (size_t *)malloc(train->count * sizeof *order);
    int good = order != NULL || dataset_no_memory(error);
    if (good) dataset_shuffle(order, train->count, 0, recipe->epoch);
    memset(&outputs, 0, sizeof outputs);
    batch.images = images;
    batch.channels = (size_t)recipe->preprocess.channels;
    batch.labels = labels;
    for (first = 0, *loss = 0; good && first < train->count; first += batch.count) {
        batch.count = train->count - first < BATCH ? train->count - first : BATCH;
        good = dataset_fetch(&place, train, order, first, batch.count, recipe, error) &&
               !lensnet_forward_backward(graph, &batch, &outputs, error) &&
               !lensnet_adamw_step(adamw, RATE, NULL, error);
        *loss += outputs.loss * (double)batch.count / (double)train->count;
    }
    free(order);
    return good;
}

static int finetune(const char *weights, const char *data, const char *out, lensnet_error *error)
{
    static float images[BATCH * 224 * 224 * 3];
    lensnet_load_options load = lensnet_load_defaults();
    lensnet_graph_options options = lensnet_graph_defaults();
    dataset_recipe recipe;
    dataset d;
    lensnet_model *model = NULL;
    lensnet_graph *graph = NULL;
    lensnet_adamw *adamw = NULL;
    double loss = 0;
    int good = dataset_open(&d, data, error);
    if (!good) return 0;
    good = !lensnet_model_load(&model, weights, NULL, NULL, error);
    if (good && !dataset_relabel(&d, lensnet_model_description(model)->labels,
                                 lensnet_model_description(model)->classes)) {
        lensnet_model_destroy(model); /* other classes: once more, with a fresh last layer */
        load.classes = d.classes.count;
        load.labels = (const char *const *)d.classes.items;
        good = !lensnet_model_load(&model, weights, &load, NULL, error);
    }
    if (good) {
        memset(&recipe, 0, sizeof recipe);
        recipe.preprocess = dataset_grey(lensnet_model_description(model)->preprocess);
        options.height = options.width = (size_t)recipe.preprocess.image_size;
        options.batch = BATCH;
        options.training = 1;
    }
    good = good && (recipe.preprocess.image_size <= 224 ||
                    dataset_fail(error, "%s: its images are larger than 224 pixels", weights));
    good = good && !lensnet_model_graph(&graph, model, &options, NULL, error) &&
           !lensnet_graph_plan(graph, NULL, error) && !lensnet_graph_allocate(graph, error) &&
           !lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, error);
    for (; good && recipe.epoch < EPOCHS; recipe.epoch++) {
        good = epoch(graph, adamw, &d.split[DATASET_TRAIN], &recipe, images, &loss, error);
        if (good) printf("epoch %d of %d: loss %.4f\n", (int)recipe.epoch + 1, EPOCHS, loss);
    }
    good = good && !lensnet_model_save(model, out, LENSNET_DTYPE_F32, error);
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
    dataset_close(&d);
    return good;
}

int main(int argc, char **argv)
{
    static const char usage[] = "usage: finetune WEIGHTS DATA OUT.safetensors";
    lensnet_error error;
    if (arguments_parse(NULL, 0, usage, argc, argv) != 3) arguments_fail("%s", usage);
    if (finetune(argv[1], argv[2], argv[3], &error)) return arguments_flush() ? 0 : 1;
    fprintf(stderr, "error: %s\n", error.text);
    return 1;
}
