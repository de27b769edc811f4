/* cluster_cost.c - what a step of training over MPI costs on this machine, part by part: the constants of
 * tools/cluster_cost.py, which says from them what it would cost on a cluster.
 *
 *     mpicc -DLENSNET_MPI -O2 -fopenmp tools/cluster_cost.c -o cluster_cost -lm
 *     for n in 1 2 4; do mpirun -n $n ./cluster_cost --variant atto --batch 64; done >costs.csv
 *     python3 tools/cluster_cost.py costs.csv
 *
 * One process needs no MPI: cc -O2 -fopenmp tools/cluster_cost.c -o cluster_cost -lm
 *
 * A step is that of train.c without the reading of images: forward and backward pass of this process's shards,
 * their sum over all processes, which is under way while the last shard is computed, the optimiser. Prints a
 * line of comma-separated seconds, each the median of its rounds. */
#include "../examples/system.h"
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "../examples/arguments.h"
#include "../examples/dataset.h"

#include "../examples/cluster.h"

static argument options[] = {
    {"--variant", "NAME", "atto", "size of the network", 0},
    {"--batch", "N", "64", "images per step, of all processes together", 0},
    {"--shards", "N", "8", "parts of a batch", 0},
    {"--size", "PIXELS", "224", "side of the input", 0},
    {"--threads", "N", "1", "of each process", 0},
    {"--rounds", "N", "3", "times that each part is timed", 0},
    {"--at-once", "N", "0", "images that a pass computes at a time; 0: the plan's choice", 0},
    {"--step", NULL, NULL, "time whole steps alone", 0},
    {"--head", NULL, NULL, "print the names of the columns first", 0},
};
enum { VARIANT, BATCH, SHARDS, SIZE, THREADS, ROUNDS, AT_ONCE, STEP, HEAD, OPTIONS };

enum { ROUNDS_MOST = 100 };

typedef struct trial {
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_plan plan;
    lensnet_adamw *adamw;
    shards_sum sum;
    float *images, *room;
    int *labels;
    size_t weights, batch, shards, side, first,
        end; /* shards first ... end - 1 are this process's */
} trial;

/* The time of each round of what is measured. */
typedef struct rounds {
    double seconds[ROUNDS_MOST];
    int count;
} rounds;

static void together(void)
{
#ifdef LENSNET_MPI
    cluster_check(MPI_Barrier(MPI_COMM_WORLD));
#endif
}

static int before(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(rounds *r)
{
    qsort(r->seconds, (size_t)r->count, sizeof *r->seconds, before);
    return r->seconds[r->count / 2];
}

static int open_trial(trial *t, const lensnet_host *host, lensnet_error *error)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_graph_options graph = lensnet_graph_defaults();
    size_t i, pixels;
    desc.host = host;
    desc.gradients = 1;
    if (lensnet_model_variant(&desc, options[VARIANT].value, error) ||
        lensnet_model_create(&t->model, &desc, error))
        return 0;
    graph.height = graph.width = t->side;
    graph.batch = (t->batch + t->shards - 1) / t->shards;
    graph.training = 1;
    graph.micro_batch = (size_t)arguments_whole(&options[AT_ONCE], 0, 65536);
    if (lensnet_model_graph(&t->graph, t->model, &graph, NULL, error) ||
        lensnet_graph_plan(t->graph, &t->plan, error) || lensnet_graph_allocate(t->graph, error) ||
        lensnet_adamw_create(&t->adamw, lensnet_model_parameters(t->model), NULL, error))
        return 0;
    t->weights = lensnet_parameters_size(lensnet_model_parameters(t->model));
    pixels = graph.batch * t->side * t->side * 3;
    t->images = (float *)malloc(pixels * sizeof *t->images);
    t->labels = (int *)calloc(graph.batch, sizeof *t->labels);
    t->room = cluster_room(t->shards, t->weights);
    cluster_share(&t->first, &t->end, t->shards);
    if (!t->images || !t->labels || !t->room ||
        !shards_allocate(&t->sum, t->first, t->end, t->weights))
        return dataset_no_memory(error);
    for (i = 0; i < pixels; i++) t->images[i] = (float)lensnet_random_uniform(0, 0, i) - 0.5f;
    return 1;
}

static void close_trial(trial *t)
{
    shards_free(&t->sum);
    free(t->room);
    free(t->labels);
    free(t->images);
    lensnet_adamw_destroy(t->adamw);
    lensnet_graph_destroy(t->graph);
    lensnet_model_destroy(t->model);
}

typedef void (*completion)(size_t first, void *user);

/* Forward and backward pass of `count` images. */
static int pass(trial *t, size_t count, completion complete, lensnet_error *error)
{
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    memset(&outputs, 0, sizeof outputs);
    batch.images = t->images;
    batch.channels = 3;
    batch.labels = t->labels;
    batch.count = count;
    batch.complete = complete;
    return !lensnet_forward_backward(t->graph, &batch, &outputs, error);
}

static float *gradients(trial *t)
{
    return lensnet_parameters_gradients(lensnet_model_parameters(t->model));
}

static size_t shard_size(const trial *t, size_t k)
{
    return shards_first(t->batch, k + 1, t->shards) - shards_first(t->batch, k, t->shards);
}

/* What train.c does with a batch. `after`: nothing is sent before the last shard is computed. */
static int step(trial *t, int after, lensnet_error *error)
{
    double loss[SHARDS_MOST];
    size_t k;
    int good = 1, stop = 0;
    shards_clear(&t->sum);
    memset(loss, 0, sizeof loss);
    for (k = t->first; good && k + 1 < t->end; k++) {
        good = pass(t, shard_size(t, k), NULL, error);
        if (good) shards_push(&t->sum, k, gradients(t), t->weights);
    }
    if (!cluster_meet(good, NULL, error)) return 0;
    if (t->shards > 1) cluster_begin_sum(gradients(t), &t->sum, t->room, t->shards, k, t->weights);
    good = pass(t, shard_size(t, k), after ? NULL : cluster_complete, error);
    if (t->shards > 1) cluster_end_sum(good);
    if (!cluster_meet(good, &stop, error)) return 0;
    cluster_gather(loss, sizeof *loss, t->shards);
    return !lensnet_adamw_step(t->adamw, 1e-9, NULL, error);
}

/* One round of a part. */
typedef enum { PART_STEP, PART_AFTER, PART_SHARD, PART_IMAGE, PART_ADD, PART_ADAMW, PARTS } part;
static const char *const part_names[PARTS] = {"step", "after", "shard", "image", "add", "adamw"};

static int round_of(trial *t, part which, lensnet_error *error)
{
    switch (which) {
    case PART_STEP: return step(t, 0, error);
    case PART_AFTER: return step(t, 1, error);
    case PART_SHARD: return pass(t, t->batch / t->shards, NULL, error);
    case PART_IMAGE: return pass(t, 1, NULL, error);
    case PART_ADD: shards_add(t->sum.nodes[0].values, gradients(t), t->weights); return 1;
    case PART_ADAMW: return !lensnet_adamw_step(t->adamw, 1e-9, NULL, error);
    case PARTS: break;
    }
    return 0;
}

/* The median times of the first parts, which take turns and in which all processes are busy; the first round is
 * for the caches. */
static int measure(double seconds[PARTS], trial *t, int parts, int count, lensnet_error *error)
{
    static rounds of[PARTS];
    int good = 1, i, k;
    for (i = -1; good && i < count; i++) {
        for (k = 0; good && k < parts; k++) {
            double start;
            together();
            start = system_seconds();
            good = round_of(t, (part)k, error);
            if (i >= 0) of[k].seconds[of[k].count++] = system_seconds() - start;
        }
    }
    for (k = 0; good && k < parts; k++) seconds[k] = median(&of[k]);
    return cluster_meet(good, NULL, error);
}

/* Seconds in which two neighbours send each other `count` numbers; 0 where there is one process. */
static double exchange(trial *t, size_t count, int repeats)
{
    double seconds = 0;
#ifdef LENSNET_MPI
    const int other = cluster.rank ^ 1;
    rounds r;
    int i;
    r.count = repeats;
    together();
    for (i = 0; other < cluster.ranks && i < repeats; i++) {
        seconds = system_seconds();
        cluster_check(MPI_Sendrecv(gradients(t), (int)count, MPI_FLOAT, other, 1,
                                   t->sum.nodes[0].values, (int)count, MPI_FLOAT, other, 1,
                                   MPI_COMM_WORLD, MPI_STATUS_IGNORE));
        r.seconds[i] = system_seconds() - seconds;
    }
    if (cluster.ranks > 1) seconds = median(&r);
#endif
    (void)t;
    (void)count;
    (void)repeats;
    return seconds;
}

static int run(trial *t, const lensnet_host *host, lensnet_error *error)
{
    const int count = (int)arguments_whole(&options[ROUNDS], 1, ROUNDS_MOST);
    double seconds[PARTS] = {0}, small = 0, large = 0;
    const int parts = options[STEP].given ? 1 : PARTS;
    int which;
    if (!cluster_meet(open_trial(t, host, error), NULL, error) ||
        !measure(seconds, t, parts, count, error))
        return 0;
    if (!options[STEP].given) small = exchange(t, 1, ROUNDS_MOST);
    if (!options[STEP].given) large = exchange(t, t->weights / 2, count);
    if (cluster_leads() && options[HEAD].given) {
        printf("variant,size,weights,batch,shards,ranks,threads,at_once");
        for (which = 0; which < PARTS; which++) printf(",%s", part_names[which]);
        printf(",latency,byte\n");
    }
    printf("%s,%zu,%zu,%zu,%zu,%d,%d,%zu", options[VARIANT].value, t->side, t->weights, t->batch,
           t->shards, cluster.ranks, host->threads, t->plan.micro_batch);
    for (which = 0; which < PARTS; which++) printf(",%.6g", seconds[which]);
    printf(",%.6g,%.6g\n", small, large / (4 * (double)(t->weights / 2)));
    return 1;
}

int main(int argc, char **argv)
{
    static const char usage[] = "usage: cluster_cost [options]\n"
                                "Times a step of training over MPI, and its parts.\n";
    lensnet_host host = lensnet_host_defaults();
    lensnet_error error;
    trial t;
    int good;
    cluster_open(&argc, &argv);
    if (arguments_parse(options, OPTIONS, usage, argc, argv)) arguments_fail("%s", usage);
    memset(&t, 0, sizeof t);
    memset(&error, 0, sizeof error);
    t.batch = (size_t)arguments_whole(&options[BATCH], 1, 65536);
    t.shards = (size_t)arguments_whole(&options[SHARDS], 1, SHARDS_MOST);
    t.side = (size_t)arguments_whole(&options[SIZE], 32, 1024);
    host.threads = (int)arguments_whole(&options[THREADS], 1, 4096);
    if (t.shards > t.batch || (size_t)cluster.ranks > t.shards)
        arguments_fail("a shard has an image at least, and a process a shard");
    good = run(&t, &host, &error);
    close_trial(&t);
    if (!good && cluster_leads()) fprintf(stderr, "error: %s\n", error.text);
    cluster_close(good, &error);
    return arguments_flush() && good ? 0 : 1;
}
