/* test_bits.c - the law of same bits: logits, gradients and trained weights are the same for every
 * instruction set, number of threads, micro-batch, fused or plain, recomputed or kept, whatever rounding
 * and flushing the host has set, and the same as
 * on the machine where the hashes in tests/fixtures/bits.txt were written. The runner builds this file
 * for several compilers, standards and targets.
 * cc -O2 -fopenmp -I. tests/test_bits.c -o build/test_bits -lm
 * build/test_bits --write    writes the hashes anew (after LENSNET_NUMERICS was raised) */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"
#include "golden.h"
#include "odd_host.h"

#define STEPS       10
#define HASHES_PATH "tests/fixtures/bits.txt"

static lensnet_error error;

/* ---- the networks -------------------------------------------------------------------------------- */

/* Widths that are no multiple of a vector (40 = 2.5 x 16, 24, 20), K = 3 and 5, odd sizes, batches that
 * micro-batches do not divide: 30 = 7 x 4 + 2. "large" has a first stage whose block takes the samples of
 * a micro-batch in groups of 5 + 1. */
typedef struct network {
    const char *name;
    size_t depths[4], widths[4], classes, height, width, batch;
} network;

static const network networks[] = {
    {"small", {1, 1, 1, 1}, {8, 16, 32, 64}, 3, 45, 38, 30},
    {"odd", {2, 1, 2, 1}, {40, 24, 20, 52}, 5, 70, 67, 6},
    {"large", {1, 1, 1, 1}, {8, 8, 8, 8}, 3, 400, 390, 6},
};

#define NETWORKS (sizeof networks / sizeof *networks)

/* How to run one; no field may change a bit. */
typedef struct way {
    lensnet_isa isa;
    int threads;
    size_t micro_batch;
    int plain, recompute;
    int odd_host;                /* the host rounds upwards and flushes small numbers to zero */
    lensnet_precision precision; /* but for this one, which has bits of its own */
} way;

static const way base_ways[] = {{LENSNET_ISA_BEST, 1, 0, 0, 0, 0, LENSNET_PRECISION_FP32},
                                {LENSNET_ISA_BEST, 1, 0, 0, 0, 0, LENSNET_PRECISION_BF16}};

#define PRECISIONS (sizeof base_ways / sizeof *base_ways)

/* What must be equal. */
typedef struct outcome {
    float *logits, *gradients, *weights; /* of the first step, of the first, after the last */
    float *average;                      /* of the weights, after the last step */
    float *validation;                   /* logits of a graph without backward, at the end */
    double loss;                         /* of the last step */
    size_t logit_count, weight_count;
} outcome;

static float *take(size_t count)
{
    float *values = (float *)malloc(count * sizeof(float));
    golden_expect(values != NULL, "out of memory");
    return values;
}

static lensnet_model *create(const network *net, const way *w)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_host host = lensnet_host_defaults();
    host.isa_cap = w->isa;
    host.threads = w->threads;
    memcpy(desc.depths, net->depths, sizeof desc.depths);
    memcpy(desc.widths, net->widths, sizeof desc.widths);
    desc.classes = net->classes;
    desc.labels = NULL;
    desc.drop_path_rate = 0.3f;
    desc.host = &host;
    return golden_model_create(&desc);
}

static lensnet_graph *record(lensnet_model *model, const network *net, const way *w,
                             const lensnet_loss *loss)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    options.height = net->height;
    options.width = net->width;
    options.batch = net->batch;
    options.micro_batch = w->micro_batch;
    options.plain = w->plain;
    options.recompute = w->recompute;
    options.precision = w->precision;
    options.training = loss != NULL;
    return golden_graph(model, &options, loss);
}

static void train(outcome *out, lensnet_graph *graph, lensnet_model *model, lensnet_batch *batch,
                  int odd_host)
{
    lensnet_parameters *parameters = lensnet_model_parameters(model);
    lensnet_outputs outputs;
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_adamw *adamw;
    desc.clip_norm = 1;
    desc.average_decay = 0.7;
    golden_must(lensnet_adamw_create(&adamw, parameters, &desc, &error), &error, "adamw");
    memset(&outputs, 0, sizeof outputs);
    if (odd_host) enter_odd_host();
    for (batch->step = 0; batch->step < STEPS; batch->step++) {
        outputs.logits = batch->step == 0 ? out->logits : NULL;
        golden_must(lensnet_forward_backward(graph, batch, &outputs, &error), &error, "step");
        if (batch->step == 0)
            memcpy(out->gradients, lensnet_parameters_gradients(parameters),
                   out->weight_count * sizeof(float));
        golden_must(lensnet_adamw_step(adamw, 1e-3, NULL, &error), &error, "adamw");
    }
    if (odd_host) leave_odd_host();
    out->loss = outputs.loss;
    memcpy(out->weights, lensnet_parameters_values(parameters), out->weight_count * sizeof(float));
    CHECK(!lensnet_adamw_swap_average(adamw, &error));
    memcpy(out->average, lensnet_parameters_values(parameters), out->weight_count * sizeof(float));
    CHECK(!lensnet_adamw_swap_average(adamw, &error));
    lensnet_adamw_destroy(adamw);
}

static void run(outcome *out, const network *net, const way *w)
{
    lensnet_model *model = create(net, w);
    lensnet_loss loss = lensnet_loss_defaults();
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_graph *graph;
    float *images = golden_images(net->batch, net->height, net->width);
    int labels[30];
    size_t i;
    for (i = 0; i < net->batch; i++) labels[i] = (int)(i * 7 % net->classes);
    out->logit_count = net->batch * net->classes;
    out->weight_count = lensnet_parameters_size(lensnet_model_parameters(model));
    out->logits = take(out->logit_count);
    out->validation = take(out->logit_count);
    out->gradients = take(out->weight_count);
    out->weights = take(out->weight_count);
    out->average = take(out->weight_count);
    batch.images = images;
    batch.channels = 3;
    batch.count = net->batch;
    batch.labels = labels;
    batch.seed = 5;
    loss.label_smoothing = 0.1f;
    if (w->odd_host) enter_odd_host(); /* what fast-math is recognised by must not mind */
    graph = record(model, net, w, &loss);
    if (w->odd_host) leave_odd_host();
    train(out, graph, model, &batch, w->odd_host);
    lensnet_graph_destroy(graph);
    graph = record(model, net, w, NULL);
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = out->validation;
    batch.labels = NULL;
    if (w->odd_host) enter_odd_host();
    golden_must(lensnet_forward(graph, &batch, &outputs, &error), &error, "validation");
    if (w->odd_host) leave_odd_host();
    lensnet_graph_destroy(graph);
    lensnet_model_destroy(model);
    free(images);
}

static void release(outcome *out)
{
    free(out->logits);
    free(out->validation);
    free(out->gradients);
    free(out->weights);
    free(out->average);
}

/* ---- comparing ----------------------------------------------------------------------------------- */

static void check_same(const float *a, const float *b, size_t count, const char *what,
                       const char *text)
{
    size_t i, different = 0, first = 0;
    for (i = 0; i < count; i++) {
        if (memcmp(a + i, b + i, sizeof *a) == 0) continue;
        if (different++ == 0) first = i;
    }
    CHECK(different == 0);
    if (different)
        printf("    %s: %s: %lu of %lu differ, first number %lu: %.9g and %.9g\n", text, what,
               (unsigned long)different, (unsigned long)count, (unsigned long)first, a[first],
               b[first]);
}

static void check_way(const outcome *expected, const network *net, const way *w)
{
    outcome out;
    char text[160];
    snprintf(text, sizeof text, "%s, %s, %s, %d threads, micro-batch %lu%s%s", net->name,
             lensnet_precision_text(w->precision),
             w->isa == LENSNET_ISA_BEST ? "best" : lensnet_isa_text(w->isa), w->threads,
             (unsigned long)w->micro_batch, w->plain ? ", plain" : "",
             w->recompute  ? ", recomputed"
             : w->odd_host ? ", odd host"
                           : "");
    run(&out, net, w);
    check_same(out.logits, expected->logits, expected->logit_count, "logits", text);
    check_same(out.gradients, expected->gradients, expected->weight_count, "gradients", text);
    check_same(out.weights, expected->weights, expected->weight_count, "weights", text);
    check_same(out.average, expected->average, expected->weight_count, "average", text);
    check_same(out.validation, expected->validation, expected->logit_count, "validation", text);
    CHECK(out.loss == expected->loss);
    release(&out);
}

/* ---- hashes -------------------------------------------------------------------------------------- */

/* FNV-1a over the numbers' bits, least significant byte first. */
static uint64_t hash_of(const float *values, size_t count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    size_t i;
    int shift;
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        for (shift = 0; shift < 32; shift += 8)
            hash = (hash ^ (bits >> shift & 255)) * 0x100000001b3u;
    }
    return hash;
}

static void describe_hashes(char *line, size_t capacity, const network *net, const way *w,
                            const outcome *out)
{
    const char *precision = w->precision == LENSNET_PRECISION_BF16 ? " bf16" : "";
    snprintf(line, capacity, "%s%s numerics %d logits %016llx gradients %016llx weights %016llx",
             net->name, precision, LENSNET_NUMERICS,
             (unsigned long long)hash_of(out->logits, out->logit_count),
             (unsigned long long)hash_of(out->gradients, out->weight_count),
             (unsigned long long)hash_of(out->weights, out->weight_count));
}

static void check_hashes(const network *net, const way *w, const outcome *out)
{
    char line[200], expected[200];
    FILE *file = fopen(HASHES_PATH, "r");
    int found = 0;
    describe_hashes(line, sizeof line, net, w, out);
    while (file && fgets(expected, sizeof expected, file)) {
        expected[strcspn(expected, "\r\n")] = 0;
        found |= strcmp(line, expected) == 0;
    }
    CHECK(found);
    if (!found) printf("    not in %s: %s\n", HASHES_PATH, line);
    if (file) fclose(file);
}

static int write_hashes(void)
{
    FILE *file = fopen(HASHES_PATH, "w");
    size_t i;
    const way *w;
    golden_expect(file != NULL, HASHES_PATH);
    fprintf(file,
            "# FNV-1a of logits and gradients of the first step, and of the weights after ten\n"
            "# AdamW steps; written by build/test_bits --write\n");
    for (w = base_ways; w < base_ways + PRECISIONS; w++)
        for (i = 0; i < NETWORKS; i++) {
            outcome out;
            char line[200];
            run(&out, &networks[i], w);
            describe_hashes(line, sizeof line, &networks[i], w, &out);
            fprintf(file, "%s\n", line);
            release(&out);
        }
    return fclose(file) != 0;
}

/* ---- all ways ------------------------------------------------------------------------------------ */

/* What one run can afford. Without fused vectors a network takes a hundred times as long as with them, and
 * once more under an emulator: of such ways only those of `small` are all gone every day.
 *   LENSNET_TEST_QUICK    `small` and `odd`, few ways
 *   LENSNET_TEST_HASHES   every network one way: the hashes, for emulators
 *   LENSNET_TEST_WHOLE    every network, every way (tests/long.sh bits) */
typedef enum effort { EFFORT_HASHES, EFFORT_QUICK, EFFORT_DAILY, EFFORT_WHOLE } effort;

static effort effort_asked(void)
{
    if (getenv("LENSNET_TEST_WHOLE")) return EFFORT_WHOLE;
    if (getenv("LENSNET_TEST_HASHES")) return EFFORT_HASHES;
    return getenv("LENSNET_TEST_QUICK") ? EFFORT_QUICK : EFFORT_DAILY;
}

static int is_slow(const way *w)
{
    lensnet_host host = lensnet_host_defaults();
    host.isa_cap = w->isa;
    return lensnet_isa_in_use(&host) < LENSNET_ISA_AVX2;
}

/* Is the way worth its time, beside the first one of this network? */
static int affordable(effort e, const network *net, const way *w)
{
    if (e == EFFORT_WHOLE || !is_slow(w)) return 1;
    if (e <= EFFORT_QUICK)
        return e == EFFORT_QUICK && net == &networks[0] && w->precision == LENSNET_PRECISION_FP32;
    if (net == &networks[0]) return 1;
    return net == &networks[1] && !w->plain && w->isa != LENSNET_ISA_REFERENCE;
}

/* Is the network? */
static int network_affordable(effort e, const network *net, const way *base)
{
    if (e != EFFORT_QUICK || net == &networks[0]) return 1;
    return net == &networks[1] && (base->precision == LENSNET_PRECISION_FP32 || !is_slow(base));
}

static void check_instruction_sets(const outcome *expected, const network *net, const way *base,
                                   effort e)
{
    static const lensnet_isa caps[] = {LENSNET_ISA_REFERENCE, LENSNET_ISA_PORTABLE,
                                       LENSNET_ISA_AVX2, LENSNET_ISA_AVX512,
                                       LENSNET_ISA_AVX512_BF16};
    size_t i;
    for (i = 0; i < sizeof caps / sizeof *caps; i++) {
        way w = *base;
        lensnet_host host = lensnet_host_defaults();
        w.isa = host.isa_cap = caps[i];
        if (lensnet_isa_in_use(&host) != caps[i]) {
            printf("note: %s is not there\n", lensnet_isa_text(caps[i]));
            continue;
        }
        if (caps[i] == LENSNET_ISA_AVX512_BF16 && w.precision == LENSNET_PRECISION_FP32) continue;
        for (w.plain = 0; w.plain <= 1; w.plain++)
            if (affordable(e, net, &w)) check_way(expected, net, &w);
    }
}

static void check_splits(const outcome *expected, const network *net, const way *base)
{
    static const size_t micro_batches[] = {1, 2, 4, 30};
    size_t i;
    way w = *base;
    for (i = 0; i < sizeof micro_batches / sizeof *micro_batches; i++) {
        w.micro_batch = micro_batches[i];
        w.threads = 1 + (int)(i % 3);
        check_way(expected, net, &w);
    }
    for (w.threads = 1; w.threads <= 3; w.threads++) {
        w.micro_batch = 4; /* 30 = 7 x 4 + 2 */
        w.plain = w.recompute = 0;
        check_way(expected, net, &w);
        w.recompute = 1;
        check_way(expected, net, &w);
        w.recompute = 0;
        w.plain = 1;
        check_way(expected, net, &w);
    }
}

static void test_network(const network *net, const way *base, effort e)
{
    outcome expected;
    way w = *base;
    run(&expected, net, base);
    check_hashes(net, base, &expected);
    w.odd_host = 1;
    w.threads = 2;
    if (affordable(e, net, &w)) check_way(&expected, net, &w);
    w = *base;
    CHECK(expected.loss == expected.loss && expected.loss > 0);
    if (e <= EFFORT_QUICK) {
        w.threads = 2;
        w.micro_batch = 4;
        w.recompute = 1;
        if (affordable(e, net, &w)) check_way(&expected, net, &w);
        w.isa = LENSNET_ISA_REFERENCE;
        w.plain = 1;
        if (affordable(e, net, &w)) check_way(&expected, net, &w);
    } else {
        check_instruction_sets(&expected, net, base, e);
        check_splits(&expected, net, base);
    }
    release(&expected);
}

int main(int argc, char **argv)
{
    const effort e = effort_asked();
    size_t i;
    const way *w;
    if (argc == 2 && strcmp(argv[1], "--write") == 0) return write_hashes();
    for (w = base_ways; w < base_ways + PRECISIONS; w++)
        for (i = 0; i < NETWORKS; i++)
            if (network_affordable(e, &networks[i], w)) test_network(&networks[i], w, e);
    return test_end();
}
