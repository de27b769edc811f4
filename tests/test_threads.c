/* test_threads.c - phases of tasks: each task once, each phase after the one before, on any number of
 * workers and wherever a host may call from: its own parallel region, threads with stacks of 32 kB, a child
 * after fork; and beside busy processes no barrier is waited at.
 * cc -O2 -fopenmp -I. tests/test_threads.c -o build/test_threads -lm */
#define _GNU_SOURCE /* sched_setaffinity */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#endif

#define TASKS 500
#define MOST  8 /* threads */

/* Every task of a phase mixes two numbers that the phase before left, one of them its neighbour's. */
typedef struct mill {
    lnp_team team;
    size_t tasks, phases;
    uint64_t numbers[2][TASKS];
    int done[TASKS];
    int from;
    int strange; /* workers that the team does not have */
} mill;

static void mill_task(const void *context, size_t index, size_t worker)
{
    mill *m = *(mill *const *)context;
    const uint64_t *before = m->numbers[m->from];
    const uint64_t mixed = before[index] * 6364136223846793005u + before[(index + 7) % m->tasks];
    m->numbers[1 - m->from][index] = mixed ^ (mixed >> 29);
    m->done[index]++;
    if (worker >= (size_t)m->team.threads) m->strange = 1;
}

static void mill_pass(void *context)
{
    mill *m = (mill *)context;
    size_t phase;
    for (phase = 0; phase < m->phases; phase++) {
        lnp_team_run(&m->team, mill_task, &m, m->tasks);
        m->from = 1 - m->from;
    }
}

static void mill_begin(mill *m, int threads, size_t tasks, size_t phases)
{
    size_t i;
    memset(m, 0, sizeof *m);
    lnp_team_begin(&m->team, threads, lnp_process());
    m->tasks = tasks;
    m->phases = phases;
    for (i = 0; i < tasks; i++) m->numbers[0][i] = i + 1;
}

static int mill_is_right(const mill *m, const mill *expected)
{
    size_t i, wrong = 0;
    for (i = 0; i < m->tasks; i++) wrong += m->done[i] != (int)m->phases;
    return !wrong && !m->strange && m->from == expected->from &&
           memcmp(m->numbers, expected->numbers, sizeof m->numbers) == 0;
}

static int as_one_thread(int threads, size_t tasks, size_t phases, int open)
{
    mill one, many;
    mill_begin(&one, 1, tasks, phases);
    mill_pass(&one);
    mill_begin(&many, threads, tasks, phases);
    if (open)
        lnp_team_pass(&many.team, mill_pass, &many);
    else
        mill_pass(&many);
    return mill_is_right(&many, &one) && many.team.workers == 0;
}

static void test_phases(void)
{
    static const size_t tasks[] = {1, 2, 3, 7, 64, TASKS};
    size_t i;
    int threads;
    for (threads = 1; threads <= MOST; threads++)
        for (i = 0; i < sizeof tasks / sizeof *tasks; i++) {
            CHECK(as_one_thread(threads, tasks[i], 300, 1)); /* phases of one open pass */
            CHECK(as_one_thread(threads, tasks[i], 3, 0));   /* each phase in a pass of its own */
        }
    CHECK(as_one_thread(100, TASKS, 20, 1)); /* more workers than ranges of tasks */
    CHECK(as_one_thread(2, 0, 3, 1));        /* no task at all */
}

/* The host's own threads each run a team, and OpenMP may grant fewer threads than asked for. */
static void test_hosts(void)
{
    int wrong = 0;
#ifdef _OPENMP
    lensnet_host host = lensnet_host_defaults();
    const int before = omp_get_max_threads();
#pragma omp parallel for num_threads(3) reduction(+ : wrong)
#endif
    for (int i = 0; i < 6; i++) wrong += !as_one_thread(2, 64, 100, i & 1);
    CHECK(wrong == 0);
#ifdef _OPENMP
    omp_set_dynamic(1);
    CHECK(as_one_thread(MOST, 64, 100, 1));
    omp_set_dynamic(0);
    omp_set_num_threads(100000); /* so many no system grants */
    CHECK(lnp_threads(&host) <= omp_get_num_procs());
    omp_set_num_threads(before);
    CHECK(lnp_threads(&host) <= before);
    host.threads = 77;
    CHECK(lnp_threads(&host) == 77);
#endif
}

#ifdef __linux__

/* A network as users have one: what it computed before a fork, the child computes too. */
typedef struct network {
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_adamw *adamw;
    float images[2 * 32 * 32];
    float logits[2 * 3];
} network;

static void network_begin(network *n, const lensnet_host *host)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_plan plan;
    int good;
    size_t i;
    for (i = 0; i < 4; i++) {
        desc.depths[i] = 1;
        desc.widths[i] = 16 << i;
    }
    desc.gradients = 1;
    desc.preprocess.image_size = 32;
    desc.host = host;
    options.height = options.width = 32;
    options.batch = 2;
    options.training = 1;
    good = !lensnet_model_create(&n->model, &desc, NULL) &&
           !lensnet_model_graph(&n->graph, n->model, &options, NULL, NULL) &&
           !lensnet_graph_plan(n->graph, &plan, NULL) && !lensnet_graph_allocate(n->graph, NULL) &&
           !lensnet_adamw_create(&n->adamw, lensnet_model_parameters(n->model), NULL, NULL);
    if (!good) test_give_up("a small network", "not made", __FILE__, __LINE__);
    for (i = 0; i < 2 * 32 * 32; i++) n->images[i] = (float)(i * 7919 % 251) * 0.01f - 1.0f;
}

static int network_step(network *n)
{
    static const int labels[] = {0, 2};
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    memset(&outputs, 0, sizeof outputs);
    outputs.logits = n->logits;
    batch.images = n->images;
    batch.labels = labels;
    batch.count = 2;
    return !lensnet_forward_backward(n->graph, &batch, &outputs, NULL) &&
           !lensnet_adamw_step(n->adamw, 1e-3, NULL, NULL);
}

static void network_end(network *n)
{
    lensnet_adamw_destroy(n->adamw);
    lensnet_graph_destroy(n->graph);
    lensnet_model_destroy(n->model);
}

/* Ends the process if the child hangs. */
static int status_of(pid_t child)
{
    int status = -1;
    alarm(60);
    waitpid(child, &status, 0);
    alarm(0);
    return status;
}

static void test_fork(void)
{
    static network parent, expected;
    lensnet_host host = lensnet_host_defaults();
    pid_t child;
    host.threads = 2;
    network_begin(&parent, &host);
    CHECK(network_step(&parent));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        static network own;
        int good;
        alarm(60);
        good = network_step(&parent); /* objects made before the fork */
        host.threads = 1;
        network_begin(&own, &host); /* and new ones, with one thread */
        good = good && network_step(&own) && network_step(&own);
        _exit(good && memcmp(own.logits, parent.logits, sizeof own.logits) == 0 ? 0 : 1);
    }
    CHECK(status_of(child) == 0);
    CHECK(network_step(&parent)); /* the parent goes on */
    network_begin(&expected, &host);
    CHECK(network_step(&expected) && network_step(&expected));
    CHECK(memcmp(expected.logits, parent.logits, sizeof expected.logits) == 0);
    network_end(&expected);
    network_end(&parent);
}

/* ---- threads of the host -------------------------------------------------------------------------- */

#define GUESTS 8

#if defined(__OPTIMIZE__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__) &&    \
    !defined(__clang__)
#define GUEST_STACK 32768
#else /* unoptimised and instrumented code takes more */
#define GUEST_STACK (1024 * 1024)
#endif

/* Each asks the one classifier, and has threads of OpenMP for itself. */
typedef struct guest {
    pthread_t thread;
    const lensnet_classifier *classifier;
    const float *pixels;
    lensnet_prediction prediction;
    int good;
} guest;

static void *guest_asks(void *context)
{
    guest *g = (guest *)context;
    int i;
    g->good = 1;
    for (i = 0; i < 3; i++)
        g->good =
            g->good && !lensnet_classify(g->classifier, g->pixels, 32, 32, &g->prediction, NULL);
    return NULL;
}

static void test_guests(void)
{
    static const char path[] = "build/threads.safetensors";
    static guest guests[GUESTS + 1];
    lensnet_host host = lensnet_host_defaults();
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier = NULL;
    static network n;
    pthread_attr_t attributes;
    int i, good = 1;
    host.threads = 2;
    options.host = &host;
    network_begin(&n, &host);
    CHECK(lensnet_model_save(n.model, path, LENSNET_DTYPE_F32, NULL) == LENSNET_OK);
    CHECK(lensnet_classifier_load(&classifier, path, &options, NULL) == LENSNET_OK);
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, GUEST_STACK) == 0);
    for (i = 0; i <= GUESTS; i++) {
        guests[i].classifier = classifier;
        guests[i].pixels = n.images;
    }
    (void)guest_asks(&guests[GUESTS]); /* the host itself: what is expected */
    for (i = 0; i < GUESTS; i++)
        good = good && !pthread_create(&guests[i].thread, &attributes, guest_asks, &guests[i]);
    for (i = 0; good && i < GUESTS; i++) {
        pthread_join(guests[i].thread, NULL);
        CHECK(guests[i].good && memcmp(&guests[i].prediction, &guests[GUESTS].prediction,
                                       sizeof guests[i].prediction) == 0);
    }
    CHECK(good);
    pthread_attr_destroy(&attributes);
    lensnet_classifier_destroy(classifier);
    network_end(&n);
    remove(path);
}

#ifdef LNP_TEAMS

/* ---- beside busy processes ---------------------------------------------------------------------- */

#define SPINNERS 4
#define ROUNDS   15

static int last_processor(void)
{
    cpu_set_t set;
    int cpu, last = -1;
    if (sched_getaffinity(0, sizeof set, &set)) return -1;
    for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &set)) last = cpu;
    return CPU_COUNT(&set) == 2 ? last : -1; /* with more, there is room beside the spinners */
}

static pid_t spinner(int processor)
{
    pid_t child = fork();
    if (child == 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)processor, &set);
        alarm(60);
        if (sched_setaffinity(0, sizeof set, &set) == 0)
            for (;;) lnp_pause();
        _exit(1);
    }
    return child;
}

/* Phases of 16 tasks of some ten microseconds: as in a small network. */
#define BUSY_TASKS  16
#define BUSY_PHASES 60

typedef struct labour {
    lnp_team team;
    uint64_t results[BUSY_TASKS][16];
} labour;

static void labour_task(const void *context, size_t index, size_t worker)
{
    labour *l = *(labour *const *)context;
    uint64_t x = l->results[index][0] + index;
    int i;
    (void)worker;
    for (i = 0; i < 8000; i++) x = x * 6364136223846793005u + 1442695040888963407u;
    l->results[index][0] = x;
}

static void labour_pass(void *context)
{
    labour *l = (labour *)context;
    int i;
    for (i = 0; i < BUSY_PHASES; i++) lnp_team_run(&l->team, labour_task, &l, BUSY_TASKS);
}

static double seconds_of_pass(labour *l)
{
    const double start = omp_get_wtime();
    lnp_team_pass(&l->team, labour_pass, l);
    return omp_get_wtime() - start;
}

/* With a barrier after every phase, the second thread's turns would be waited for: 5 times as long. Taken
 * in turns, so that what else the machine does hits both; the median of the ratios. */
static void test_busy(void)
{
    static labour one, two;
    double ratios[ROUNDS], ratio;
    pid_t children[SPINNERS];
    const int processor = last_processor();
    int i, j;
    if (processor < 0) {
        printf("note: busy processes need two processors: left out\n");
        return;
    }
    for (i = 0; i < SPINNERS; i++) children[i] = spinner(processor);
    lnp_team_begin(&one.team, 1, lnp_process());
    lnp_team_begin(&two.team, 2, lnp_process());
    for (i = 0; i < ROUNDS; i++) {
        const double alone = seconds_of_pass(&one);
        ratio = seconds_of_pass(&two) / alone;
        for (j = i; j > 0 && ratios[j - 1] > ratio; j--) ratios[j] = ratios[j - 1];
        ratios[j] = ratio;
    }
    for (i = 0; i < SPINNERS; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    printf("note: beside %d busy processes two threads take %.2f times as long as one (%.2f ... "
           "%.2f)\n",
           SPINNERS, ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
    CHECK(ratios[ROUNDS / 2] < 1.8);
    CHECK(memcmp(one.results, two.results, sizeof one.results) == 0);
}
#endif
#endif

int main(void)
{
    test_phases();
    test_hosts();
#ifdef __linux__
    test_fork();
    test_guests();
#ifdef LNP_TEAMS
    if (!getenv("LENSNET_TEST_QUICK")) test_busy();
#endif
#endif
    return test_end();
}
