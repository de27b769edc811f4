/* units.h - reads tests/fixtures/units/units_f64.safetensors: for each operator inputs, outputs and
 * gradients that PyTorch computed in double (NAME.in.x, NAME.out, NAME.gy, NAME.grad.x ...), and
 * helpers that every kernel test needs. Included after lensnet.h and test.h. */
#ifndef UNITS_H
#define UNITS_H

static void units_expect(int good, const char *what)
{
    if (good) return;
    printf("FAILED fixture units: %s (run from the repository's root)\n0 passed, 1 failed\n", what);
    exit(1);
}

/* A team that is not open: each phase opens it for itself. */
static lnp_team *team_of(int threads)
{
    static lnp_team team;
    lnp_team_begin(&team, threads, lnp_process());
    return &team;
}

/* The values of a tensor as doubles, and their number; the caller frees them. */
static double *unit(const char *name, size_t *count)
{
    FILE *file = fopen("tests/fixtures/units/units_f64.safetensors", "rb");
    unsigned char prefix[8];
    char quoted[96], *header;
    const char *entry;
    unsigned long length = 0, first, last;
    double *values;
    int i;
    units_expect(file != NULL && fread(prefix, 1, 8, file) == 8, "cannot read");
    for (i = 3; i >= 0; i--) length = length * 256 + prefix[i];
    header = (char *)calloc(length + 1, 1);
    units_expect(header && fread(header, 1, length, file) == length, "no header");
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    entry = strstr(header, quoted);
    units_expect(entry != NULL, name);
    entry = strstr(entry, "\"data_offsets\":[");
    units_expect(entry && sscanf(entry + 16, "%lu,%lu", &first, &last) == 2, name);
    *count = (last - first) / sizeof *values;
    values = (double *)malloc(last - first + 1);
    units_expect(values && fseek(file, (long)(8 + length + first), SEEK_SET) == 0, name);
    units_expect(fread(values, sizeof *values, *count, file) == *count, name);
    free(header);
    fclose(file);
    return values;
}

/* The same for "CASE.PART", as floats. */
static float *unit_floats(const char *name, const char *part, size_t *count)
{
    char path[96];
    double *values;
    float *floats;
    size_t i;
    snprintf(path, sizeof path, "%s.%s", name, part);
    values = unit(path, count);
    floats = (float *)malloc(*count * sizeof *floats + 1);
    units_expect(floats != NULL, "out of memory");
    for (i = 0; i < *count; i++) floats[i] = (float)values[i];
    free(values);
    return floats;
}

/* Compares with "CASE.PART"; the tolerance is relative to its largest magnitude. */
static void unit_compare(const float *actual, const char *name, const char *part, double tolerance)
{
    char path[96];
    double *expected, largest = 1e-30;
    size_t count, i;
    snprintf(path, sizeof path, "%s.%s", name, part);
    expected = unit(path, &count);
    for (i = 0; i < count; i++)
        if (fabs(expected[i]) > largest) largest = fabs(expected[i]);
    for (i = 0; i < count; i++)
        CHECK_CLOSE((double)actual[i], expected[i], tolerance * largest, path);
    free(expected);
}

/* Blocks that notice writing outside: `count` floats, off the vectors' alignment, between guards. */
#define GUARD_FLOATS 37
#define GUARD_WORD   0x7fc0deadu

typedef struct guarded {
    float *values;
    size_t count;
} guarded;

static void guard_set(float *at)
{
    const uint32_t word = GUARD_WORD;
    size_t i;
    for (i = 0; i < GUARD_FLOATS; i++) memcpy(at + i, &word, sizeof word);
}

static guarded guarded_new(size_t count)
{
    guarded block;
    float *memory = (float *)malloc((count + 2 * GUARD_FLOATS) * sizeof *memory);
    units_expect(memory != NULL, "out of memory");
    guard_set(memory);
    guard_set(memory + GUARD_FLOATS + count);
    block.values = memory + GUARD_FLOATS;
    block.count = count;
    return block;
}

static int guard_intact(const float *at)
{
    const uint32_t word = GUARD_WORD;
    size_t i;
    for (i = 0; i < GUARD_FLOATS; i++)
        if (memcmp(at + i, &word, sizeof word) != 0) return 0;
    return 1;
}

static void guarded_free(guarded block)
{
    CHECK(guard_intact(block.values - GUARD_FLOATS));
    CHECK(guard_intact(block.values + block.count));
    free(block.values - GUARD_FLOATS);
}

static guarded guarded_copy(guarded from)
{
    guarded block = guarded_new(from.count);
    memcpy(block.values, from.values, from.count * sizeof *block.values);
    return block;
}

/* Normal numbers of standard deviation 1; `stream` tells them apart. */
static guarded guarded_random(size_t count, uint64_t stream)
{
    guarded block = guarded_new(count);
    size_t i;
    for (i = 0; i < count; i++) block.values[i] = (float)lensnet_random_normal(7, stream, i);
    return block;
}

/* Bit for bit; any NaN equals any NaN. */
static int same_bits(const float *a, const float *b, size_t count)
{
    size_t i;
    if (memcmp(a, b, count * sizeof *a) == 0) return 1;
    for (i = 0; i < count; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

#endif
