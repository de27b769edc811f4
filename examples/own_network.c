/* own_network.c - a network of one's own from the operators of level 3: a plain CNN, recorded in a
 * screenful, trained and validated on a folder of images.
 *
 * cc -O2 -fopenmp examples/own_network.c -o own_network -lm
 * ./own_network DATA
 *
 * reads DATA/train/CLASS/NAME.npy and DATA/val and prints a line per epoch: the training loss, then
 * loss and AUC on DATA/val. So small a network finds nothing in images of true strength; on
 *   ./simulate DATA --train 500 --val 100 --noiseless --subhalo-mass 3e9:5e10 --vortex-mass 1.2e11:2.4e11
 * it reaches an AUC of 0.87 in half a minute. */
#include "system.h"

#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "arguments.h"
#include "dataset.h"

#include <math.h>

enum { SIDE = 64, BATCH = 16, EPOCHS = 8, STAGES = 4 };

/* The weights: four 3 x 3 convolutions, each twice as wide as the one before, and a linear layer. */
typedef struct network {
    lensnet_parameters *parameters;
    lensnet_parameter weight[STAGES + 1], bias[STAGES + 1];
} network;

static lensnet_result network_create(network *net, size_t classes, lensnet_error *error)
{
    size_t wide = 1, s;
    char name[32];
    lensnet_result result = lensnet_parameters_create(&net->parameters, NULL, error);
    if (result) return result;
    for (s = 0; s <= STAGES; s++) {
        size_t next = s == STAGES ? classes : (size_t)16 << s, kernel = s == STAGES ? 0 : 3;
        snprintf(name, sizeof name, "layer%d.weight", (int)s);
        net->weight[s] = lensnet_parameter_add(net->parameters, name, next, wide, kernel, kernel,
                                               LENSNET_INITIAL_HE);
        snprintf(name, sizeof name, "layer%d.bias", (int)s);
        net->bias[s] =
            lensnet_parameter_add(net->parameters, name, next, 0, 0, 0, LENSNET_INITIAL_ZERO);
        wide = next;
    }
    return lensnet_parameters_allocate(net->parameters, 1, 2026, error);
}

/* The network as a formula: (convolution, ReLU, halve) four times, mean, linear, cross-entropy. */
static lensnet_result network_record(lensnet_graph **graph, const network *net, int training,
                                     lensnet_error *error)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_conv2d_desc same = lensnet_conv2d_defaults();
    lensnet_tensor x;
    lensnet_result result;
    int s;
    same.padding = 1;
    options.height = options.width = SIDE;
    options.batch = BATCH;
    options.training = training;
    result = lensnet_graph_create(graph, net->parameters, &options, error);
    if (result) return result;
    x = lensnet_input(*graph, 1);
    for (s = 0; s < STAGES; s++) {
        x = lensnet_relu(*graph, lensnet_conv2d(*graph, x, net->weight[s], net->bias[s], &same));
        x = lensnet_max_pool(*graph, x, 2, 2, 0);
    }
    x = lensnet_linear(*graph, lensnet_mean_pool(*graph, x), net->weight[STAGES],
                       net->bias[STAGES]);
    lensnet_cross_entropy(*graph, x, NULL);
    result = lensnet_graph_plan(*graph, NULL, error); /* reports what was recorded wrong */
    return result ? result : lensnet_graph_allocate(*graph, error);
}

/* Goes through a split once: with an optimiser it learns, without one it only looks. Logits may be
 * NULL. */
static int pass(double *loss, float *logits, lensnet_graph *graph, lensnet_adamw *adamw,
                dataset_split *split, const size_t *order, const dataset_recipe *recipe,
                size_t classes, lensnet_error *error)
{
    static float images[BATCH * SIDE * SIDE];
    int labels[BATCH];
    const dataset_batch fetched = {images, labels, NULL};
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    size_t first;
    *loss = 0;
    for (first = 0; first < split->count; first += batch.count) {
        batch.images = images;
        batch.labels = labels;
        batch.count = split->count - first;
        if (batch.count > BATCH) batch.count = BATCH;
        if (!dataset_fetch(&fetched, split, order, first, batch.count, recipe, error)) return 0;
        memset(&outputs, 0, sizeof outputs);
        if (logits) outputs.logits = logits + first * classes;
        if (adamw) {
            if (lensnet_forward_backward(graph, &batch, &outputs, error) ||
                lensnet_adamw_step(adamw, 1e-3, NULL, error))
                return 0;
        } else if (lensnet_forward(graph, &batch, &outputs, error)) {
            return 0;
        }
        *loss += outputs.loss * (double)batch.count / (double)split->count;
    }
    return 1;
}

/* The AUC needs no probabilities, only an order; softmax gives comparable ones across images. */
static double validation_auc(const float *logits, const dataset_split *split, size_t classes,
                             lensnet_error *error)
{
    double *scores = (double *)calloc(split->count * classes, sizeof *scores);
    int *labels = (int *)calloc(split->count, sizeof *labels);
    double auc = NAN;
    lensnet_metrics metrics;
    size_t i, k;
    for (i = 0; scores && labels && i < split->count; i++) {
        double sum = 0;
        for (k = 0; k < classes; k++) sum += lensnet_exp(logits[i * classes + k]);
        for (k = 0; k < classes; k++)
            scores[i * classes + k] = lensnet_exp(logits[i * classes + k]) / sum;
        labels[i] = split->files[i].label;
    }
    if (scores && labels &&
        !lensnet_metrics_compute(&metrics, scores, labels, split->count, classes, NULL, error)) {
        auc = metrics.auc_ovr_macro;
        lensnet_metrics_release(&metrics);
    }
    free(scores);
    free(labels);
    return auc;
}

static int train(const network *net, dataset *data, lensnet_error *error)
{
    dataset_split *learn = &data->split[DATASET_TRAIN], *check = &data->split[DATASET_VAL];
    const size_t classes = data->classes.count;
    size_t *order = (size_t *)calloc(learn->count, sizeof *order);
    float *logits = (float *)calloc(check->count * classes, sizeof *logits);
    lensnet_graph *forward_backward = NULL, *forward = NULL;
    lensnet_adamw *adamw = NULL;
    dataset_recipe recipe;
    double loss, check_loss;
    int good = (order && logits) || dataset_no_memory(error);
    memset(&recipe, 0, sizeof recipe);
    recipe.preprocess = lensnet_preprocess_defaults(); /* z-norm, bilinear */
    recipe.preprocess.image_size = SIDE;
    recipe.preprocess.channels = 1;
    good = good && !network_record(&forward_backward, net, 1, error) &&
           !network_record(&forward, net, 0, error) &&
           !lensnet_adamw_create(&adamw, net->parameters, NULL, error);
    for (recipe.epoch = 0; good && recipe.epoch < EPOCHS; recipe.epoch++) {
        dataset_shuffle(order, learn->count, recipe.seed, recipe.epoch);
        good = pass(&loss, NULL, forward_backward, adamw, learn, order, &recipe, classes, error) &&
               pass(&check_loss, logits, forward, NULL, check, NULL, &recipe, classes, error);
        if (good)
            printf("epoch %d  loss %.4f  validation: loss %.4f  AUC %.4f\n", (int)recipe.epoch + 1,
                   loss, check_loss, validation_auc(logits, check, classes, error));
    }
    lensnet_adamw_destroy(adamw);
    lensnet_graph_destroy(forward);
    lensnet_graph_destroy(forward_backward);
    free(order);
    free(logits);
    return good;
}

int main(int argc, char **argv)
{
    static const char usage[] = "usage: own_network DATA";
    network net = {NULL, {{0}}, {{0}}};
    lensnet_error error;
    dataset data;
    int good;
    if (arguments_parse(NULL, 0, usage, argc, argv) != 1) arguments_fail("%s", usage);
    good = dataset_open(&data, argv[1], &error) &&
           !network_create(&net, data.classes.count, &error) && train(&net, &data, &error);
    lensnet_parameters_destroy(net.parameters);
    dataset_close(&data);
    if (!good) fprintf(stderr, "error: %s\n", error.text);
    return good && arguments_flush() ? 0 : 1;
}
