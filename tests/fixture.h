/* fixture.h - reads what tools/flatten_fixtures.py writes: flat text ("path COUNT value ...") and
 * plain .npy files. A missing file or path ends the test program: the fixture is broken, not the
 * library. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define FIXTURE_UNUSED __attribute__((unused))
#else
#define FIXTURE_UNUSED
#endif

static void fixture_fail(const char *what, const char *name)
{
    printf("FAILED fixture: %s: %s\n0 passed, 1 failed\n", what, name);
    exit(1);
}

/* the whole file, terminated by a zero byte; free() it */
static char *fixture_load(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *data;
    long size;
    if (!file) fixture_fail("cannot open (run from the repository's root)", path);
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    data = (char *)malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, file) != (size_t)size)
        fixture_fail("cannot read", path);
    fclose(file);
    data[size] = 0;
    if (bytes) *bytes = (size_t)size;
    return data;
}

/* what follows "path " at the beginning of a line, or NULL */
static const char *fixture_find(const char *text, const char *path)
{
    size_t length = strlen(path);
    while (text && *text) {
        if (!strncmp(text, path, length) && text[length] == ' ') return text + length + 1;
        text = strchr(text, '\n');
        if (text) text++;
    }
    return NULL;
}

/* at most `limit` numbers into `values`; returns how many the fixture has */
FIXTURE_UNUSED static int fixture_numbers(const char *text, const char *path, double *values,
                                          int limit)
{
    const char *at = fixture_find(text, path);
    char *next;
    int count, i;
    if (!at) fixture_fail("no such path", path);
    count = (int)strtol(at, &next, 10);
    for (i = 0; i < count && i < limit; i++) values[i] = strtod(next, &next);
    return count;
}

FIXTURE_UNUSED static double fixture_number(const char *text, const char *path)
{
    double value;
    if (fixture_numbers(text, path, &value, 1) != 1) fixture_fail("not one number", path);
    return value;
}

/* `width` bytes of a little-endian file as this machine has them */
FIXTURE_UNUSED static void fixture_little(void *to, const char *from, size_t width)
{
    const int one = 1;
    const int swap = *(const char *)&one == 0;
    size_t i;
    for (i = 0; i < width; i++) ((char *)to)[swap ? width - 1 - i : i] = from[i];
}

/* the elements of a .npy file as doubles (f4, f8, i8; little-endian; C order); free() them */
FIXTURE_UNUSED static double *fixture_npy(const char *path, int *count)
{
    size_t bytes, start, width, i;
    char *data = fixture_load(path, &bytes);
    char kind;
    double *values;
    const char *type;
    start = 10 + (size_t)(unsigned char)data[8] + 256 * (size_t)(unsigned char)data[9];
    type = strstr(data + 10, "'<");
    if (!type) fixture_fail("not a little-endian .npy", path);
    kind = type[2];
    width = (size_t)(type[3] - '0');
    *count = (int)((bytes - start) / width);
    values = (double *)malloc((size_t)*count * sizeof *values + 1);
    if (!values) fixture_fail("out of memory", path);
    for (i = 0; i < (size_t)*count; i++) {
        const char *at = data + start + i * width;
        float single;
        int64_t integer;
        if (kind == 'f' && width == 4) {
            fixture_little(&single, at, sizeof single);
            values[i] = single;
        } else if (kind == 'f' && width == 8) {
            fixture_little(&values[i], at, sizeof *values);
        } else if (kind == 'i' && width == 8) {
            fixture_little(&integer, at, sizeof integer);
            values[i] = (double)integer;
        } else {
            fixture_fail("an element type the tests do not read", path);
        }
    }
    free(data);
    return values;
}

#endif
