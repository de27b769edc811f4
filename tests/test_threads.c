/* test_threads.c - phases of tasks: each task once, each phase after the one before, on any number of
 * workers and wherever a host may call from.
 * cc -O2 -fopenmp -I. tests/test_threads.c -o build/test_threads -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"

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

int main(void)
{
    test_phases();
    return test_end();
}
