/* bench.c - how fast lensnet is on this machine, measured against what the machine can do.
 * cc -O2 -fopenmp tools/bench.c -o bench -lm
 * ./bench                                   everything for Tiny at 224
 * ./bench --what forward --variant atto,tiny --size 64,224 --batch 1,32 --threads 1,2 --seconds 5
 * ./bench --help                            all options
 *
 * The limit is the best of a loop of fused multiply-adds on registers alone, written in assembly, so that
 * the compiler can neither spill nor drop one. A kernel that seems faster than 98 % of it ends the program
 * with status 1: then the limit was measured wrongly and no percentage is to be trusted. FLOPs are
 * nominal: twice the multiply-accumulates of the network, three times that for a training step;
 * recomputation earns nothing. The depthwise kernels alone are counted without the taps that fall outside
 * the image. ms, GFLOP/s and per cent belong to the median of the repeats; per cent is of the limit, or of
 * the copy bandwidth where GB/s are given. Peak MB are what the process had resident during the
 * measurement, in 10^6 bytes.
 *
 * Where the time goes (perf record, one thread, AVX-512, Tiny at 224, in per cent; the products are 97 % of
 * the arithmetic and run at about 86 % of the limit, which is where most of what is left lies):
 *   training step, batch 32   products forward and dX 53, dW 28, GELU and GRN 7, depthwise 4, the rest 8
 *   forward, batch 1          products 82, GELU and sums 6, depthwise 3, the rest 9
 * What was changed, what should move, and what moved (more in the comments of >>gemm-tiles, >>gemm and
 * >>depthwise, beside the sizes they explain):
 *   fetching the rows that come next while dY and X are dealt: dW of the largest m; 71 -> 78 % of the limit
 *   blocks of k of 384 instead of 256 and 320: fewer passes over C; up to 4 %
 *   packing past the caches, rows fetched two lines ahead: 70 % of the copy bandwidth; 52 -> 75 % (1 thread),
 *     68 -> 92 % (2)
 *   micro-batches of 16 M floats instead of 64 M: memory, hardly time; 938 -> 762 MB, up to 5 %
 *   rows of a block stay with one thread, for gradients are sums of chunks of rows instead of chains down the
 *     columns: cores should read less of each other's caches, most where they share none (a virtual machine
 *     may be moved to two cores without a common L3 and back; copying then reaches 80 instead of 45 GB/s).
 *     Training atto on two threads: 15.0 -> 11.7 ms there, 10.7 -> 9.9 ms with a common L3
 *   patches of convolutions without divisions, rows of taps at once: the stem's im2col should cost less than its
 *     products. Atto's stem and first downsampling, one thread: forward 0.53 -> 0.25, the stem's dW 0.51 -> 0.21 ms
 *   filters packed by all threads, and the second order from the rows that a thread has just read for the first:
 *     packing Tiny on two, 8.5 -> 7.7 ms, which is the memory's limit; without a common L3 7.1 -> 5.8 ms
 *   what moved nothing: fetching output tiles for writing, fewer rows in blocks of products with hooks, GRN's
 *     first half in every panel or in a pass of its own instead of at the end of a block of rows */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"

#include "../examples/arguments.h"

#include <time.h>

#define LIST    16   /* entries of an option */
#define REPEATS 4096 /* of one measurement, at most */

enum { VARIANT, SIZE, BATCH, THREADS, ISA, PRECISION, WHAT, SECONDS, JSON, OPTIONS };

static argument table[OPTIONS] = {
    {"--variant", "LIST", "tiny", "atto femto pico nano tiny base large huge, with commas", 0},
    {"--size", "LIST", "224", "pixels of the square images", 0},
    {"--batch", "LIST", NULL, "images at a time [1,32 forward, 32 training]", 0},
    {"--threads", "LIST", NULL, "[1 and as many as there are]", 0},
    {"--isa", "NAME", "best", "best, avx512, avx2, portable or reference", 0},
    {"--precision", "LIST", "fp32", "fp32, bf16", 0},
    {"--what", "LIST", "all",
     "forward, train, gemm, depthwise, gelu, optimiser, load,\nlimit, or all", 0},
    {"--seconds", "X", "2", "that each measurement takes at least", 0},
    {"--json", NULL, NULL, "one JSON object instead of the table", 0}};

static lensnet_error error;

static void fail(const char *what)
{
    fprintf(stderr, "error: %s\n", what);
    exit(1);
}

static void must(lensnet_result result)
{
    if (result) fail(error.text);
}

static float *floats(size_t count)
{
    float *block = (float *)lnp_host_allocate((count + 64) * sizeof(float), 64, NULL);
    size_t i;
    if (!block) fail("out of memory");
    for (i = 0; i < count + 64; i++) block[i] = (float)(i % 251) * 0.01f - 1.0f;
    return block;
}

static void release(float *block) { lnp_host_release(block, 0, NULL); }

/* ---- options ------------------------------------------------------------------------------------- */

typedef struct options {
    const char *variants[LIST];
    size_t sizes[LIST], batches[LIST], threads[LIST];
    lensnet_precision precisions[LIST];
    size_t variant_count, size_count, batch_count, thread_count, precision_count;
    lensnet_isa isa;
    const char *what;
    double seconds;
    int json;
} options;

static options chosen;

static size_t numbers(size_t *list, const argument *a)
{
    const char *text = a->value;
    size_t count = 0;
    char *end;
    for (;; text = end + 1) {
        const long value = strtol(text, &end, 10);
        if (end == text || value < 1 || count == LIST || (*end && *end != ','))
            arguments_fail("%s takes at most %d numbers above 0, with commas, not '%s'", a->name,
                           LIST, a->value);
        list[count++] = (size_t)value;
        if (!*end) return count;
    }
}

/* The copy lives as long as the program. */
static size_t words(const char **list, const argument *a)
{
    char *copy = (char *)malloc(strlen(a->value) + 1), *word;
    size_t count = 0;
    if (!copy) fail("out of memory");
    strcpy(copy, a->value);
    for (word = strtok(copy, ","); word && count < LIST; word = strtok(NULL, ","))
        list[count++] = word;
    if (!count) arguments_fail("%s takes words with commas, not '%s'", a->name, a->value);
    return count;
}

static size_t precisions(lensnet_precision *list, const argument *a)
{
    const char *names[LIST];
    const size_t count = words(names, a);
    size_t i;
    for (i = 0; i < count; i++)
        if (lensnet_precision_parse(&list[i], names[i], &error))
            arguments_fail("%s: %s", a->name, error.text);
    return count;
}

static lensnet_isa isa_named(const argument *a)
{
    static const char *const names[] = {"best", "avx512", "avx2", "portable", "reference"};
    static const lensnet_isa isas[] = {LENSNET_ISA_BEST, LENSNET_ISA_AVX512, LENSNET_ISA_AVX2,
                                       LENSNET_ISA_PORTABLE, LENSNET_ISA_REFERENCE};
    const int which = arguments_choice(a, names, 5);
    return which ? isas[which] : lensnet_isa_in_use(NULL);
}

/* Refuses what is not in the list of --what. */
static const char *measurements(const argument *a)
{
    static const char known[] = ",forward,train,gemm,depthwise,gelu,optimiser,load,limit,all,";
    const char *word = a->value;
    while (*word) {
        size_t length = strcspn(word, ",");
        char framed[32];
        snprintf(framed, sizeof framed, ",%.*s,", (int)lnp_min(length, 20), word);
        if (!length || !strstr(known, framed))
            arguments_fail(
                "--what is forward, train, gemm, depthwise, gelu, optimiser, load, limit "
                "or all, not '%s'",
                a->value);
        word += length + (word[length] == ',');
    }
    return a->value;
}

/* A team that is not open: each phase opens it for itself. */
static lnp_team *team_of(int threads)
{
    static lnp_team team;
    lnp_team_begin(&team, threads, lnp_process());
    return &team;
}

static lensnet_host host_with(size_t threads)
{
    lensnet_host host = lensnet_host_defaults();
    host.threads = (int)threads;
    host.isa_cap = chosen.isa;
    return host;
}

static void read_options(int argc, char **argv)
{
    lensnet_host host;
    if (arguments_parse(table, OPTIONS, "usage: bench [options]", argc, argv))
        arguments_fail("bench takes no file, but is given '%s'", argv[1]);
    chosen.variant_count = words(chosen.variants, &table[VARIANT]);
    chosen.size_count = numbers(chosen.sizes, &table[SIZE]);
    if (table[BATCH].given) chosen.batch_count = numbers(chosen.batches, &table[BATCH]);
    chosen.threads[0] = 1;
    chosen.thread_count = 1;
#ifdef _OPENMP
    chosen.threads[1] = (size_t)omp_get_max_threads();
    chosen.thread_count = chosen.threads[1] > 1 ? 2 : 1;
#endif
    if (table[THREADS].given) chosen.thread_count = numbers(chosen.threads, &table[THREADS]);
    chosen.isa = isa_named(&table[ISA]);
    chosen.precision_count = precisions(chosen.precisions, &table[PRECISION]);
    chosen.what = measurements(&table[WHAT]);
    chosen.seconds = arguments_number(&table[SECONDS], 0, 1e6);
    chosen.json = table[JSON].given;
    host = host_with(1);
    if (lensnet_isa_in_use(&host) != chosen.isa)
        fail("this processor or build has not that instruction set");
}

static int wanted(const char *what)
{
    const char *found = strstr(chosen.what, what);
    size_t length = strlen(what);
    if (strcmp(chosen.what, "all") == 0) return 1;
    return found && (found == chosen.what || found[-1] == ',') &&
           (!found[length] || found[length] == ',');
}

/* ---- time ---------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct timing {
    double minimum, median; /* seconds */
    size_t repeats;
} timing;

typedef void (*work)(void *context);

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Once to warm up, then at least three times and until --seconds are over. */
static timing measure(work job, void *context)
{
    static double times[REPEATS];
    double begin, end;
    timing t;
    job(context);
    t.repeats = 0;
    begin = end = now();
    while (t.repeats < REPEATS && (t.repeats < 3 || end - begin < chosen.seconds)) {
        double start = now();
        job(context);
        end = now();
        times[t.repeats++] = end - start;
    }
    qsort(times, t.repeats, sizeof *times, compare_doubles);
    t.minimum = times[0];
    t.median = times[t.repeats / 2];
    return t;
}

/* ---- what the machine can do --------------------------------------------------------------------- */

typedef void (*limit_loop)(long rounds);

#define LIMIT_FMAS 24 /* in a round: enough in flight for two units of latency 5 and more */

#if LNP_X86
#define TIMES_12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define TIMES_24(X)                                                                                \
    TIMES_12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define CLOBBERED_LOW                                                                              \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define ZERO_512(i)     "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define FMA_512(i)      "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #i "\n\t"
#define ZERO_256(i)     "vxorps %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n\t"
#define FMA_256(i)      "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n\t"
#define ADD_128(i)      "addps %%xmm15, %%xmm" #i "\n\t"
#define MULTIPLY_128(i) "mulps %%xmm14, %%xmm" #i "\n\t"

#define PAIRS_512(i) "vdpbf16ps %%zmm30, %%zmm31, %%zmm" #i "\n\t"

#if LNP_BFLOAT
LNP_TARGET_BFLOAT static void limit_loop_pairs(long rounds)
{
    __asm__ volatile(TIMES_24(ZERO_512) ZERO_512(30)
                         ZERO_512(31) "1:\n\t" TIMES_24(PAIRS_512) "dec %0\n\tjnz 1b\n\t"
                     : "+r"(rounds)
                     :
                     : CLOBBERED_LOW, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
                       "xmm23", "xmm30", "xmm31", "cc");
}
#endif

#if LNP_AVX512
LNP_TARGET_AVX512 static void limit_loop_avx512(long rounds)
{
    __asm__ volatile(TIMES_24(ZERO_512) ZERO_512(30)
                         ZERO_512(31) "1:\n\t" TIMES_24(FMA_512) "dec %0\n\tjnz 1b\n\t"
                     : "+r"(rounds)
                     :
                     : CLOBBERED_LOW, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
                       "xmm23", "xmm30", "xmm31", "cc");
}
#endif

LNP_TARGET_AVX2 static void limit_loop_avx2(long rounds)
{
    __asm__ volatile(TIMES_12(ZERO_256) ZERO_256(14) ZERO_256(15) "1:\n\t" TIMES_12(FMA_256)
                         TIMES_12(FMA_256) "dec %0\n\tjnz 1b\n\t"
                     : "+r"(rounds)
                     :
                     : CLOBBERED_LOW, "cc");
}

/* No FMA before AVX2: twelve additions and twelve products. */
static void limit_loop_portable(long rounds)
{
    __asm__ volatile("xorps %%xmm14, %%xmm14\n\txorps %%xmm15, %%xmm15\n\t"
                     "1:\n\t" ADD_128(0) MULTIPLY_128(6) ADD_128(1) MULTIPLY_128(7) ADD_128(2)
                         MULTIPLY_128(8) ADD_128(3) MULTIPLY_128(9) ADD_128(4) MULTIPLY_128(10)
                             ADD_128(5) MULTIPLY_128(11) ADD_128(0) MULTIPLY_128(6) ADD_128(1)
                                 MULTIPLY_128(7) ADD_128(2) MULTIPLY_128(8) ADD_128(3)
                                     MULTIPLY_128(9) ADD_128(4) MULTIPLY_128(10) ADD_128(5)
                                         MULTIPLY_128(11) "dec %0\n\tjnz 1b\n\t"
                     : "+r"(rounds)
                     :
                     : CLOBBERED_LOW, "cc");
}

/* A chain of additions, one a cycle. */
static void clock_loop(long rounds)
{
    long sum = 0;
    __asm__ volatile(
        "1:\n\t"
        "add $1, %1\n\tadd $1, %1\n\tadd $1, %1\n\tadd $1, %1\n\t"
        "add $1, %1\n\tadd $1, %1\n\tadd $1, %1\n\tadd $1, %1\n\t"
        "imul $1, %1, %1\n\t" /* 3 cycles; keeps a core from adding constants in front */
        "dec %0\n\tjnz 1b\n\t"
        : "+r"(rounds), "+r"(sum)
        :
        : "cc");
}
#define CLOCK_CYCLES 11.0
#elif LNP_NEON
/* clang-format off */
#define TIMES_24(X)                                                                                \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)                                                        \
    X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)                                                  \
    X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
/* clang-format on */
#define ZERO_128(i)  "movi v" #i ".4s, #0\n\t"
#define FMA_128(i)   "fmla v" #i ".4s, v30.4s, v31.4s\n\t"
static void limit_loop_portable(long rounds)
{
    __asm__ volatile(TIMES_24(ZERO_128) ZERO_128(30)
                         ZERO_128(31) "1:\n\t" TIMES_24(FMA_128) "subs %0, %0, #1\n\tb.ne 1b\n\t"
                     : "+r"(rounds)
                     :
                     : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
                       "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
                       "v23", "v30", "v31", "cc");
}

static void clock_loop(long rounds)
{
    long sum = 0;
    __asm__ volatile("1:\n\t"
                     "add %1, %1, #1\n\tadd %1, %1, #1\n\tadd %1, %1, #1\n\tadd %1, %1, #1\n\t"
                     "add %1, %1, #1\n\tadd %1, %1, #1\n\tadd %1, %1, #1\n\tadd %1, %1, #1\n\t"
                     "subs %0, %0, #1\n\tb.ne 1b\n\t"
                     : "+r"(rounds), "+r"(sum)
                     :
                     : "cc");
}
#define CLOCK_CYCLES 8.0
#else
static void limit_loop_portable(long rounds) { (void)rounds; }
static void clock_loop(long rounds) { (void)rounds; }
#define CLOCK_CYCLES 0.0
#endif

/* The loop of the chosen instruction set and the FLOPs of one of its rounds; 0: not known here. Without
 * an instruction for bfloat16 its limit is that of float32. */
static limit_loop limit_choice(double *flops, lensnet_precision precision)
{
    (void)precision;
#if LNP_BFLOAT
    if (precision == LENSNET_PRECISION_BF16 && chosen.isa == LENSNET_ISA_AVX512_BF16) {
        *flops = LIMIT_FMAS * 32 * 2;
        return limit_loop_pairs;
    }
#endif
#if LNP_AVX512
    if (chosen.isa >= LENSNET_ISA_AVX512) {
        *flops = LIMIT_FMAS * 16 * 2;
        return limit_loop_avx512;
    }
#endif
#if LNP_X86
    if (chosen.isa == LENSNET_ISA_AVX2) {
        *flops = LIMIT_FMAS * 8 * 2;
        return limit_loop_avx2;
    }
    *flops = LIMIT_FMAS * 4;
#elif LNP_NEON
    *flops = LIMIT_FMAS * 4 * 2;
#else
    *flops = 0;
#endif
    return limit_loop_portable;
}

static void run_loop(limit_loop loop, long rounds, int threads)
{
    int i;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
    for (i = 0; i < threads; i++) loop(rounds);
}

#define THREADS_MAX 1024
static double limits[2][THREADS_MAX + 1]; /* GFLOP/s by precision, threads: the best seen so far */

/* Looks again, ten times 10 ms: the clock moves. */
static double limit_of(size_t threads, lensnet_precision precision)
{
    const long rounds = 1000000;
    double flops;
    limit_loop loop = limit_choice(&flops, precision);
    double *best = &limits[precision][0];
    int i;
    if (threads > THREADS_MAX) fail("too many threads");
    if (flops <= 0) return 0;
    for (i = 0; i < 10; i++) {
        double start = now(), rate;
        run_loop(loop, rounds, (int)threads);
        rate = flops * (double)rounds * (double)threads / (now() - start) / 1e9;
        if (rate > best[threads]) best[threads] = rate;
    }
    return best[threads];
}

static double limit_fp32(size_t threads) { return limit_of(threads, LENSNET_PRECISION_FP32); }
static double limit_bf16(size_t threads) { return limit_of(threads, LENSNET_PRECISION_BF16); }

static double clock_ghz(void)
{
    const long rounds = 2000000;
    double best = 0;
    int i;
    for (i = 0; i < 10; i++) {
        double start = now(), rate;
        clock_loop(rounds);
        rate = CLOCK_CYCLES * (double)rounds / (now() - start) / 1e9;
        if (rate > best) best = rate;
    }
    return best;
}

typedef struct copy {
    float *to, *from;
    size_t count, threads;
} copy;

static void copy_work(void *context)
{
    const copy *c = (const copy *)context;
    const int threads = (int)c->threads;
    int i;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
    for (i = 0; i < threads; i++) {
        size_t first = c->count * (size_t)i / c->threads,
               end = c->count * ((size_t)i + 1) / c->threads;
        memcpy(c->to + first, c->from + first, (end - first) * sizeof(float));
    }
}

/* GB/s, read and written together, of blocks far larger than the caches. */
static double copy_bandwidth(size_t threads)
{
    copy c;
    timing t;
    c.count = (size_t)64 << 20;
    c.to = floats(c.count);
    c.from = floats(c.count);
    c.threads = threads;
    t = measure(copy_work, &c);
    release(c.to);
    release(c.from);
    return 2 * (double)c.count * sizeof(float) / t.minimum / 1e9;
}

/* Peak resident memory since the last reset, in 10^6 bytes; 0 where the system does not tell. */
static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5", file);
    fclose(file);
}

static double peak_mb(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[200];
    double kilobytes = 0;
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmHWM: %lf", &kilobytes);
    if (file) fclose(file);
    return kilobytes * 1024 / 1e6;
}

static void processor_name(char *name, size_t capacity)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[300], *colon;
    snprintf(name, capacity, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "model name", 10) != 0 || !(colon = strchr(line, ':'))) continue;
        colon[strcspn(colon, "\r\n\"\\")] = 0;
        snprintf(name, capacity, "%s", colon + 2);
        break;
    }
    if (file) fclose(file);
}

/* ---- reports ------------------------------------------------------------------------------------- */

typedef struct record {
    char group[16], name[64]; /* "forward" ...; what exactly */
    const char *variant;      /* of a network, else NULL */
    size_t size, batch, threads;
    lensnet_precision precision;
    timing time;
    double flops, bytes; /* of one repeat; 0: not counted in these */
    double values;       /* elements, for cycles a value; 0 */
    double limit, bandwidth, peak;
} record;

#define RECORDS 512
static record records[RECORDS];
static size_t record_count;
static int beyond_limit;

static double gflops(const record *r) { return r->flops / r->time.median / 1e9; }

static double percent(const record *r)
{
    if (r->flops > 0 && r->limit > 0) return 100 * gflops(r) / r->limit;
    if (r->bytes > 0 && r->bandwidth > 0)
        return 100 * r->bytes / r->time.median / 1e9 / r->bandwidth;
    return 0;
}

/* Measures with the limit looked at before and after. */
static void report(record *r, work job, void *context)
{
    double per_image = (double)(r->batch ? r->batch : 1);
    if (record_count == RECORDS) fail("too many measurements for one run");
    r->limit = limit_of(r->threads, r->precision);
    r->time = measure(job, context);
    r->limit = limit_of(r->threads, r->precision);
    if (r->limit > 0 && r->flops / r->time.minimum / 1e9 > 0.98 * r->limit) beyond_limit = 1;
    records[record_count++] = *r;
    if (chosen.json) return;
    printf("%-10s %-30s %7lu %9.3f %9.3f", r->group, r->name, (unsigned long)r->threads,
           1e3 * r->time.median / per_image, 1e3 * r->time.minimum / per_image);
    if (r->flops > 0)
        printf(" %8.1f GFLOP/s %5.1f %%", gflops(r), percent(r));
    else if (r->bytes > 0)
        printf(r->bandwidth > 0 ? " %8.1f GB/s    %5.1f %%" : " %8.1f GB/s",
               r->bytes / r->time.median / 1e9, percent(r));
    if (r->values > 0)
        printf("  %.2f cycles a value", r->time.median * clock_ghz() * 1e9 / r->values);
    if (r->peak > 0) printf("  %.0f MB", r->peak);
    printf("\n");
    fflush(stdout);
}

static record blank(const char *group, const char *name, size_t threads)
{
    record r;
    memset(&r, 0, sizeof r);
    snprintf(r.group, sizeof r.group, "%s", group);
    snprintf(r.name, sizeof r.name, "%s", name);
    r.threads = threads;
    return r;
}

static void print_json_record(const record *r)
{
    double per_image = (double)(r->batch ? r->batch : 1);
    printf("{");
    if (r->variant)
        printf("\"variant\":\"%s\",\"size\":%lu,\"batch\":%lu,", r->variant, (unsigned long)r->size,
               (unsigned long)r->batch);
    else
        printf("\"name\":\"%s\",", r->name);
    printf("\"threads\":%lu,\"isa\":\"%s\",\"precision\":\"%s\",\"%s\":%.6g,\"%s\":%.6g,"
           "\"repeats\":%lu,",
           (unsigned long)r->threads, lensnet_isa_text(chosen.isa),
           lensnet_precision_text(r->precision), r->variant ? "ms_per_image" : "ms",
           1e3 * r->time.median / per_image, r->variant ? "min_ms_per_image" : "min_ms",
           1e3 * r->time.minimum / per_image, (unsigned long)r->time.repeats);
    if (r->flops > 0)
        printf("\"gflops\":%.6g,\"percent_of_limit\":%.4g", gflops(r), percent(r));
    else
        printf("\"gb_per_s\":%.6g,\"percent_of_copy\":%.4g", r->bytes / r->time.median / 1e9,
               percent(r));
    if (r->values > 0)
        printf(",\"cycles_per_value\":%.4g", r->time.median * clock_ghz() * 1e9 / r->values);
    if (r->peak > 0) printf(",\"peak_mb\":%.6g", r->peak);
    printf("}");
}

static void print_json_by_threads(const char *key, double (*value)(size_t))
{
    size_t i;
    printf("\"%s\":{", key);
    for (i = 0; i < chosen.thread_count; i++)
        printf("%s\"%lu\":%.6g", i ? "," : "", (unsigned long)chosen.threads[i],
               value(chosen.threads[i]));
    printf("}");
}

static void print_json(void)
{
    static const char *const groups[] = {"forward", "train",     "gemm", "depthwise",
                                         "gelu",    "optimiser", "load"};
    char name[200];
    size_t g, i;
    processor_name(name, sizeof name);
    printf("{\"processor\":\"%s\",\"isa\":\"%s\",\"clock_ghz\":%.4g,", name,
           lensnet_isa_text(chosen.isa), clock_ghz());
    print_json_by_threads("limit_gflops", limit_fp32);
    printf(",");
    print_json_by_threads("limit_gflops_bf16", limit_bf16);
    printf(",");
    print_json_by_threads("copy_gb_per_s", copy_bandwidth);
    for (g = 0; g < sizeof groups / sizeof *groups; g++) {
        int first = 1;
        printf(",\"%s\":[", groups[g]);
        for (i = 0; i < record_count; i++) {
            if (strcmp(records[i].group, groups[g]) != 0) continue;
            if (!first) printf(",");
            first = 0;
            print_json_record(&records[i]);
        }
        printf("]");
    }
    printf("}\n");
}

/* ---- networks ------------------------------------------------------------------------------------ */

typedef struct network {
    lensnet_host host;
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_adamw *adamw;
    lensnet_batch batch;
    float *images;
    int *labels;
} network;

static lensnet_model_desc desc_of(const char *variant)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    must(lensnet_model_variant(&desc, variant, &error));
    return desc;
}

static void network_begin(network *n, const char *variant, size_t size, size_t batch,
                          size_t threads, lensnet_precision precision, int training)
{
    lensnet_model_desc desc = desc_of(variant);
    lensnet_graph_options o = lensnet_graph_defaults();
    size_t i;
    memset(n, 0, sizeof *n);
    n->host = host_with(threads);
    desc.host = &n->host;
    desc.gradients = training;
    must(lensnet_model_create(&n->model, &desc, &error));
    o.height = o.width = size;
    o.batch = batch;
    o.training = training;
    o.precision = precision;
    must(lensnet_model_graph(&n->graph, n->model, &o, NULL, &error));
    must(lensnet_graph_plan(n->graph, NULL, &error));
    must(lensnet_graph_allocate(n->graph, &error));
    if (training)
        must(lensnet_adamw_create(&n->adamw, lensnet_model_parameters(n->model), NULL, &error));
    n->images = floats(batch * size * size * 3);
    n->labels = (int *)malloc(batch * sizeof(int));
    if (!n->labels) fail("out of memory");
    for (i = 0; i < batch; i++) n->labels[i] = (int)(i % 3);
    n->batch = lensnet_batch_defaults();
    n->batch.images = n->images;
    n->batch.channels = 3;
    n->batch.count = batch;
    n->batch.labels = training ? n->labels : NULL;
}

static void network_end(network *n)
{
    lensnet_adamw_destroy(n->adamw);
    lensnet_graph_destroy(n->graph);
    lensnet_model_destroy(n->model);
    release(n->images);
    free(n->labels);
}

static void forward_work(void *context)
{
    network *n = (network *)context;
    must(lensnet_forward(n->graph, &n->batch, NULL, &error));
}

static void train_work(void *context)
{
    network *n = (network *)context;
    must(lensnet_forward_backward(n->graph, &n->batch, NULL, &error));
    must(lensnet_adamw_step(n->adamw, 1e-5, NULL, &error));
}

static void bench_network(const char *variant, size_t size, size_t batch, size_t threads,
                          lensnet_precision precision, int training)
{
    lensnet_model_desc desc = desc_of(variant);
    record r = blank(training ? "train" : "forward", "", threads);
    network n;
    reset_peak();
    network_begin(&n, variant, size, batch, threads, precision, training);
    snprintf(r.name, sizeof r.name, "%s %lu, batch %lu, %s", variant, (unsigned long)size,
             (unsigned long)batch, lensnet_precision_text(precision));
    r.precision = precision;
    r.variant = variant;
    r.size = size;
    r.batch = batch;
    r.flops = (training ? 6 : 2) * lensnet_model_macs(&desc, size, size) * (double)batch;
    if (training)
        train_work(&n);
    else
        forward_work(&n);
    r.peak = peak_mb();
    report(&r, training ? train_work : forward_work, &n);
    network_end(&n);
}

static void bench_networks(int training)
{
    static const size_t usual[2] = {1, 32};
    size_t v, s, b, t, p;
    const size_t *batches = chosen.batch_count ? chosen.batches : usual + training;
    size_t batch_count = chosen.batch_count ? chosen.batch_count : (size_t)(2 - training);
    for (v = 0; v < chosen.variant_count; v++)
        for (s = 0; s < chosen.size_count; s++)
            for (b = 0; b < batch_count; b++)
                for (t = 0; t < chosen.thread_count; t++)
                    for (p = 0; p < chosen.precision_count; p++)
                        bench_network(chosen.variants[v], chosen.sizes[s], batches[b],
                                      chosen.threads[t], chosen.precisions[p], training);
}

/* ---- products ------------------------------------------------------------------------------------ */

typedef struct product_bench {
    lnp_gemm_kernels chosen_kernels, *kernels;
    lnp_product product;
    lnp_gradient_product gradient;
    float *scratch;
    int threads;
} product_bench;

static void product_work(void *context)
{
    product_bench *b = (product_bench *)context;
    lnp_multiply_rows(b->kernels, &b->product, b->scratch, team_of(b->threads));
}

static void gradient_work(void *context)
{
    product_bench *b = (product_bench *)context;
    lnp_multiply_gradient(b->kernels, &b->gradient, b->scratch, team_of(b->threads));
}

/* Y (m, n) = X (m, k) W^T, and dW = dY^T X; dX is such a Y with n and k exchanged. */
static void bench_product(size_t m, size_t n, size_t k, size_t threads, lensnet_precision precision)
{
    record r = blank("gemm", "", threads);
    product_bench b;
    float *x = floats(m * k), *y = floats(m * n), *w = floats(n * k), *packed;
    memset(&b, 0, sizeof b);
    b.chosen_kernels = precision == LENSNET_PRECISION_BF16 ? lnp_bfloat_kernels_for(chosen.isa)
                                                           : *lnp_gemm_kernels_for(chosen.isa);
    b.kernels = &b.chosen_kernels;
    r.precision = precision;
    b.threads = (int)threads;
    packed = floats(lnp_packed_floats(b.kernels, n, k));
    b.scratch = floats(lnp_max(lnp_product_scratch_floats(b.kernels, m, k, b.threads),
                               lnp_gradient_scratch_floats(b.kernels, m, n, k, b.threads)));
    lnp_pack_weights(b.kernels, packed, w, n, k, 1, team_of(b.threads));
    b.product.m = b.gradient.m = m;
    b.product.n = b.gradient.n = n;
    b.product.k = b.gradient.k = k;
    b.product.a = b.gradient.x = x;
    b.product.a_stride = b.gradient.x_stride = k;
    b.product.packed = packed;
    b.product.out = y;
    b.product.out_stride = b.gradient.dy_stride = n;
    b.gradient.dy = y;
    b.gradient.dw = w;
    b.gradient.segment_rows = m;
    r.flops = 2 * (double)m * (double)n * (double)k;
    snprintf(r.name, sizeof r.name, "Y %lu x %lu x %lu %s", (unsigned long)m, (unsigned long)n,
             (unsigned long)k, lensnet_precision_text(precision));
    report(&r, product_work, &b);
    memset(y, 0, m * n * sizeof(float)); /* else dW grows without end */
    snprintf(r.name, sizeof r.name, "dW %lu x %lu x %lu %s", (unsigned long)m, (unsigned long)n,
             (unsigned long)k, lensnet_precision_text(precision));
    report(&r, gradient_work, &b);
    release(x);
    release(y);
    release(w);
    release(packed);
    release(b.scratch);
}

static void bench_products(const lensnet_model_desc *desc, size_t size, size_t threads,
                           lensnet_precision precision)
{
    size_t stage, side = size / 4;
    for (stage = 0; stage < 4; stage++, side /= 2) {
        size_t c = desc->widths[stage], m = side * side;
        bench_product(m, 4 * c, c, threads, precision);
        bench_product(m, c, 4 * c, threads, precision);
        if (stage < 3)
            bench_product(side / 2 * (side / 2), desc->widths[stage + 1], 4 * c, threads,
                          precision);
    }
}

/* ---- depthwise ----------------------------------------------------------------------------------- */

typedef struct depthwise_bench {
    lnp_depthwise_kernels kernels;
    lnp_row_kernels rows;
    float *out, *mean, *rstd, *x, *packed, *bias, *scratch;
    lnp_depthwise_geometry geometry;
    int threads;
} depthwise_bench;

static void depthwise_forward_work(void *context)
{
    depthwise_bench *b = (depthwise_bench *)context;
    lnp_depthwise_forward(&b->kernels, &b->rows, b->out, b->mean, b->rstd, b->x, b->packed, b->bias,
                          1, &b->geometry, 1e-6f, team_of(b->threads));
}

static void depthwise_input_work(void *context)
{
    depthwise_bench *b = (depthwise_bench *)context;
    lnp_depthwise_input_gradient(&b->kernels, &b->rows, b->x, NULL, b->out, b->packed, 1,
                                 &b->geometry, team_of(b->threads));
}

static void depthwise_weight_work(void *context)
{
    depthwise_bench *b = (depthwise_bench *)context;
    lnp_depthwise_weight_gradient(&b->kernels, &b->rows, b->packed, b->bias, b->out, b->x, 1,
                                  &b->geometry, b->scratch, team_of(b->threads));
}

/* Outputs of a row and taps of a filter's row that meet inside the image: what is skipped earns nothing. */
static double taps_along(const lnp_depthwise_geometry *g)
{
    size_t x, tap, count = 0;
    for (x = 0; x < g->out_w; x++)
        for (tap = 0; tap < g->size; tap++)
            count += x * g->stride + tap >= g->padding && x * g->stride + tap - g->padding < g->w;
    return (double)count;
}

static void bench_filter(size_t size, size_t stride, size_t side, size_t c, size_t threads)
{
    static const work works[3] = {depthwise_forward_work, depthwise_input_work,
                                  depthwise_weight_work};
    static const char *const names[3] = {"forward + norm sums", "input gradient",
                                         "weight gradient"};
    size_t pixels = side * side, i;
    char kind[32] = "";
    depthwise_bench b;
    b.kernels = lnp_depthwise_kernels_for(chosen.isa);
    b.rows = lnp_row_kernels_for(chosen.isa);
    b.geometry = lnp_depthwise_geometry_of(size, stride, size / 2, side, side, c);
    b.out = floats(pixels * c);
    b.x = floats(pixels * c);
    b.mean = floats(pixels);
    b.rstd = floats(pixels);
    b.packed = floats(lnp_depthwise_packed_floats(size, c));
    b.bias = floats(c);
    b.scratch = floats(lnp_depthwise_scratch_floats(1, &b.geometry));
    b.threads = (int)threads;
    if (size != 7)
        snprintf(kind, sizeof kind, "%lux%lu/%lu ", (unsigned long)size, (unsigned long)size,
                 (unsigned long)stride);
    for (i = 0; i < 3; i++) {
        record r = blank("depthwise", "", threads);
        r.flops = 2 * taps_along(&b.geometry) * taps_along(&b.geometry) * (double)c;
        snprintf(r.name, sizeof r.name, "%s%lu^2 x %lu, %s", kind, (unsigned long)side,
                 (unsigned long)c, names[i]);
        report(&r, works[i], &b);
    }
    release(b.out);
    release(b.x);
    release(b.mean);
    release(b.rstd);
    release(b.packed);
    release(b.bias);
    release(b.scratch);
}

/* The network's filter in every stage; others, on the map of the first. */
static void bench_depthwise(const size_t *widths, size_t side, size_t threads)
{
    size_t stage;
    for (stage = 0; stage < 4; stage++) bench_filter(7, 1, side >> stage, widths[stage], threads);
    bench_filter(3, 1, side, widths[0], threads);
    bench_filter(5, 1, side, widths[0], threads);
    bench_filter(3, 2, side, widths[0], threads);
    bench_filter(5, 2, side, widths[0], threads);
}

/* ---- GELU ---------------------------------------------------------------------------------------- */

typedef struct gelu_bench {
    lnp_row_kernels rows;
    float *y, *slope, *x;
    size_t count, rounds;
} gelu_bench;

static void gelu_work(void *context)
{
    gelu_bench *b = (gelu_bench *)context;
    size_t i;
    for (i = 0; i < b->rounds; i++) b->rows.gelu(b->y, b->x, b->count);
}

static void gelu_backward_work(void *context)
{
    gelu_bench *b = (gelu_bench *)context;
    size_t i;
    for (i = 0; i < b->rounds; i++) b->rows.gelu_backward(b->y, b->slope, b->x, b->count);
}

/* In the first-level cache, on one thread: the arithmetic alone. */
static void bench_gelu(void)
{
    gelu_bench b;
    record r = blank("gelu", "value", 1);
    size_t i;
    b.rows = lnp_row_kernels_for(chosen.isa);
    b.count = 2048;
    b.rounds = 512;
    b.y = floats(b.count);
    b.slope = floats(b.count);
    b.x = floats(b.count);
    for (i = 0; i < b.count; i++) b.x[i] = (float)lensnet_random_normal(1, 1, i) * 1.5f;
    r.values = (double)(b.count * b.rounds);
    report(&r, gelu_work, &b);
    snprintf(r.name, sizeof r.name, "derivative");
    report(&r, gelu_backward_work, &b);
    release(b.y);
    release(b.slope);
    release(b.x);
}

/* ---- optimiser ----------------------------------------------------------------------------------- */

static void adamw_work(void *context)
{
    network *n = (network *)context;
    must(lensnet_adamw_step(n->adamw, 1e-5, NULL, &error));
}

static void pack_work(void *context)
{
    network *n = (network *)context;
    lensnet_parameters *p = lensnet_model_parameters(n->model);
    lensnet_parameters_changed(p);
    lnp_parameters_pack(p, n->images, SIZE_MAX, team_of(n->host.threads));
}

/* AdamW reads weights, gradients and both moments (and the gradients once more for their norm) and
 * writes weights and moments. Clipping reads and writes the gradients, the average is read and written.
 * Packing reads the weights and writes them in both orders. */
static void bench_optimiser(const char *variant, size_t threads)
{
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    record r = blank("optimiser", "", threads);
    double weights, bandwidth = copy_bandwidth(threads);
    network n;
    float *images;
    network_begin(&n, variant, 32, 1, threads, LENSNET_PRECISION_FP32, 1);
    weights = (double)lensnet_parameters_size(lensnet_model_parameters(n.model));
    train_work(&n);
    snprintf(r.name, sizeof r.name, "AdamW, %s", variant);
    r.bandwidth = bandwidth;
    r.bytes = 32 * weights;
    report(&r, adamw_work, &n);
    lensnet_adamw_destroy(n.adamw);
    desc.clip_norm = 1e-6; /* always clips */
    desc.average_decay = 0.999;
    must(lensnet_adamw_create(&n.adamw, lensnet_model_parameters(n.model), &desc, &error));
    snprintf(r.name, sizeof r.name, "clipped, averaged, %s", variant);
    r.bytes = 48 * weights;
    report(&r, adamw_work, &n);
    images = n.images;
    n.images = floats(lnp_pack_scratch_floats(lensnet_model_parameters(n.model)));
    snprintf(r.name, sizeof r.name, "packing, %s", variant);
    r.bytes = 12 * weights;
    report(&r, pack_work, &n);
    release(n.images);
    n.images = images;
    network_end(&n);
}

/* ---- loading ------------------------------------------------------------------------------------- */

#define LOAD_PATH "lensnet-bench.tmp.safetensors"

typedef struct load_bench {
    lensnet_host host;
    size_t bytes;
} load_bench;

static void load_work(void *context)
{
    load_bench *b = (load_bench *)context;
    lensnet_classifier_options o = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    o.host = &b->host;
    must(lensnet_classifier_load(&classifier, LOAD_PATH, &o, &error));
    lensnet_classifier_destroy(classifier);
}

static void read_work(void *context)
{
    load_bench *b = (load_bench *)context;
    FILE *file = fopen(LOAD_PATH, "rb");
    char *block = (char *)malloc(b->bytes);
    if (!file || !block || fread(block, 1, b->bytes, file) != b->bytes)
        fail("cannot read " LOAD_PATH);
    fclose(file);
    free(block);
}

static void bench_load(const char *variant, size_t threads)
{
    lensnet_model_desc desc = desc_of(variant);
    record r = blank("load", "", threads);
    lensnet_model *model;
    load_bench b;
    b.host = host_with(threads);
    desc.gradients = 0;
    desc.host = &b.host;
    must(lensnet_model_create(&model, &desc, &error));
    must(lensnet_model_save(model, LOAD_PATH, LENSNET_DTYPE_F32, &error));
    b.bytes = lensnet_parameters_size(lensnet_model_parameters(model)) * sizeof(float);
    lensnet_model_destroy(model);
    r.bytes = (double)b.bytes;
    snprintf(r.name, sizeof r.name, "fread, %s fp32", variant);
    report(&r, read_work, &b);
    snprintf(r.name, sizeof r.name, "classifier, %s fp32", variant);
    report(&r, load_work, &b);
    if (!chosen.json)
        printf("%-10s %-30s %.2f times fread\n", "load", "",
               records[record_count - 1].time.median / records[record_count - 2].time.median);
    remove(LOAD_PATH);
}

/* ---- all ----------------------------------------------------------------------------------------- */

static void print_machine(void)
{
    char name[200];
    size_t i;
    processor_name(name, sizeof name);
    printf("%s, %s, %.2f GHz, lensnet %d.%d.%d\n", name, lensnet_isa_text(chosen.isa), clock_ghz(),
           LENSNET_VERSION_MAJOR, LENSNET_VERSION_MINOR, LENSNET_VERSION_PATCH);
    for (i = 0; i < chosen.thread_count; i++)
        printf("%lu thread%s: limit %.1f GFLOP/s, bf16 %.1f GFLOP/s, copy %.1f GB/s\n",
               (unsigned long)chosen.threads[i], chosen.threads[i] == 1 ? "" : "s",
               limit_fp32(chosen.threads[i]), limit_bf16(chosen.threads[i]),
               copy_bandwidth(chosen.threads[i]));
    if (chosen.isa != LENSNET_ISA_AVX512_BF16)
        printf("no instruction for bfloat16 here: bf16 is computed with float32's\n");
    printf("%-10s %-30s %7s %9s %9s\n", "", "", "threads", "ms", "min ms");
    fflush(stdout);
}

static void bench_kernels(void)
{
    size_t t, s, p;
    for (t = 0; t < chosen.thread_count; t++) {
        lensnet_model_desc desc = desc_of(chosen.variants[0]);
        for (s = 0; s < chosen.size_count; s++) {
            size_t side = chosen.sizes[s] / 4;
            for (p = 0; p < chosen.precision_count && wanted("gemm"); p++)
                bench_products(&desc, chosen.sizes[s], chosen.threads[t], chosen.precisions[p]);
            if (wanted("depthwise")) bench_depthwise(desc.widths, side, chosen.threads[t]);
        }
        if (wanted("optimiser")) bench_optimiser(chosen.variants[0], chosen.threads[t]);
        if (wanted("load")) bench_load(chosen.variants[0], chosen.threads[t]);
    }
    if (wanted("gelu")) bench_gelu();
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    if (!chosen.json) print_machine();
    if (wanted("forward")) bench_networks(0);
    if (wanted("train")) bench_networks(1);
    bench_kernels();
    if (chosen.json) print_json();
    if (beyond_limit)
        fail("a kernel seems faster than 98 % of the limit: the limit was measured wrongly");
    return arguments_flush() ? 0 : 1;
}
