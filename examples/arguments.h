/* arguments.h - command lines for the examples: a table of options, read and checked, and its help.
 *
 *     static argument table[] = {{"--batch", "N", "32", "images per step"},
 *                                {"--csv", NULL, NULL, "print CSV"}};
 *     words = arguments_parse(table, 2, usage, argc, argv);
 *
 * Values stand behind their option, as --batch 32 or --batch=32. --help and --version are known to every
 * program. What is wrong on a command line ends the program with one sentence and exit status 2.
 *
 * The exit statuses of all programs here: 0 all is well; 1 something could not be done, and stderr says
 * what; 2 the command line is wrong; 130 stopped by Ctrl-C, kill or a lost connection. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define ARGUMENTS_API __attribute__((unused)) static
#else
#define ARGUMENTS_API static
#endif

typedef struct argument {
    const char *name;  /* "--batch" */
    const char *takes; /* what its value is called; NULL: a switch without a value */
    const char *value; /* the default, then what was given; switches: NULL, or "yes" once given */
    const char *help;  /* a new line in it starts a new line of help */
    int given;
} argument;

/* Ends the program with a sentence and status 2. */
ARGUMENTS_API void arguments_fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("error: ", stderr);
    vfprintf(stderr, format, values);
    fputs("\n", stderr);
    va_end(values);
    exit(2);
}

ARGUMENTS_API argument *arguments_find(argument *table, size_t count, const char *name)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}

ARGUMENTS_API void arguments_help(const argument *table, size_t count, const char *usage)
{
    size_t i;
    printf("%s\n", usage);
    for (i = 0; i < count; i++) {
        char left[64];
        const char *line = table[i].help, *end;
        snprintf(left, sizeof left, "%s %s", table[i].name, table[i].takes ? table[i].takes : "");
        while ((end = strchr(line, '\n')) != NULL) {
            printf("  %-22s %.*s\n", left, (int)(end - line), line);
            left[0] = 0;
            line = end + 1;
        }
        printf("  %-22s %s", left, line);
        if (table[i].takes && table[i].value) printf(" [%s]", table[i].value);
        putchar('\n');
    }
}

/* How many letters must be changed, put in, left out or swapped with the next to make one word of the
 * other, but for the dashes; at most 24 letters are looked at. */
static int arguments_distance(const char *a, const char *b)
{
    int cost[25][25], i, j, rows, columns;
    while (*a == '-') a++;
    while (*b == '-') b++;
    rows = (int)strlen(a) < 24 ? (int)strlen(a) : 24;
    columns = (int)strlen(b) < 24 ? (int)strlen(b) : 24;
    for (i = 0; i <= rows; i++)
        for (j = 0; j <= columns; j++) {
            int best = i && j ? cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]) : i + j;
            if (i && cost[i - 1][j] + 1 < best) best = cost[i - 1][j] + 1;
            if (j && cost[i][j - 1] + 1 < best) best = cost[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                cost[i - 2][j - 2] + 1 < best)
                best = cost[i - 2][j - 2] + 1;
            cost[i][j] = best;
        }
    return cost[rows][columns];
}

/* Refuses a word that is no option, and names the one that may be meant: one that it begins, or the
 * nearest. */
static void arguments_unknown(const argument *table, size_t count, const char *word)
{
    const char *nearest = "--help";
    int least = arguments_distance(word, nearest);
    size_t i;
    for (i = 0; i < count; i++) {
        int distance = arguments_distance(word, table[i].name);
        if (strlen(word) > 3 && strncmp(table[i].name, word, strlen(word)) == 0) distance = 0;
        if (distance < least) {
            least = distance;
            nearest = table[i].name;
        }
    }
    if (least <= 2 && least < (int)strlen(word) - 2)
        arguments_fail("there is no option %s; is %s meant? --help lists them all", word, nearest);
    arguments_fail("there is no option %s; --help lists them", word);
}

/* What every program knows. */
static void arguments_common(const argument *table, size_t count, const char *usage,
                             const char *word)
{
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        arguments_help(table, count, usage);
    } else if (strcmp(word, "--version") == 0) {
#ifdef LENSNET_VERSION_MAJOR
        printf("lensnet %d.%d.%d\n", LENSNET_VERSION_MAJOR, LENSNET_VERSION_MINOR,
               LENSNET_VERSION_PATCH);
#else
        printf("lensnet\n");
#endif
    } else {
        return;
    }
    if (fflush(stdout) != 0) {
        fputs("error: the output could not be written\n", stderr);
        exit(1);
    }
    exit(0);
}

/* Takes the value of an option from behind its '=' or from the next word. */
static void arguments_value(argument *a, const char *equals, const char *next)
{
    a->given = 1;
    if (!a->takes && equals) arguments_fail("%s takes no value", a->name);
    a->value = !a->takes ? "yes" : equals ? equals + 1 : next;
    if (!a->value) arguments_fail("%s needs a value: %s", a->name, a->takes);
}

/* Reads the command line into `table`. What is not an option is moved to the front of argv[1 ...];
 * returns how many such words there are. `--help` prints `usage` and the table, then ends. */
ARGUMENTS_API int arguments_parse(argument *table, size_t count, const char *usage, int argc,
                                  char **argv)
{
    int i, plain = 0, options = 1;
    for (i = 1; i < argc; i++) {
        char *word = argv[i], *equals;
        argument *a;
        if (!options || word[0] != '-' || !word[1]) {
            argv[1 + plain++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            options = 0;
            continue;
        }
        arguments_common(table, count, usage, word);
        equals = strchr(word, '=');
        if (equals) *equals = 0;
        a = arguments_find(table, count, word);
        if (!a) arguments_unknown(table, count, word);
        arguments_value(a, equals, i + 1 < argc ? argv[i + 1] : NULL);
        i += a->takes && !equals;
    }
    return plain;
}

/* Writes out what was printed; 0 if that could not be done, e.g. for a full disk. Every program ends so. */
ARGUMENTS_API int arguments_flush(void)
{
    int good = fflush(stdout) == 0 && !ferror(stdout);
    if (!good) fprintf(stderr, "error: the output could not be written: %s\n", strerror(errno));
    return good;
}

/* The value as a number in low ... high; anything else ends the program. */
ARGUMENTS_API double arguments_number(const argument *a, double low, double high)
{
    char *end;
    double value = strtod(a->value, &end);
    if (end == a->value || *end || !(value >= low && value <= high))
        arguments_fail("%s takes a number from %g to %g, not '%s'", a->name, low, high, a->value);
    return value;
}

ARGUMENTS_API long arguments_whole(const argument *a, long low, long high)
{
    char *end;
    long value;
    errno = 0;
    value = strtol(a->value, &end, 10);
    if (end == a->value || *end || errno || value < low || value > high)
        arguments_fail("%s takes a whole number from %ld to %ld, not '%s'", a->name, low, high,
                       a->value);
    return value;
}

/* Of --precision, in the order of lensnet_precision. */
static const char *const arguments_precisions[] = {"fp32", "bf16"};

/* The place of the value among `count` words; anything else ends the program. */
ARGUMENTS_API int arguments_choice(const argument *a, const char *const *words, int count)
{
    char list[256] = "";
    int i;
    for (i = 0; i < count; i++) {
        if (strcmp(a->value, words[i]) == 0) return i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", words[i]);
    }
    arguments_fail("%s is one of %s, not '%s'", a->name, list, a->value);
    return 0;
}

/* Of --coverage; 0.9 where it is not given. */
ARGUMENTS_API double arguments_coverage(const argument *a)
{
    return a->value ? arguments_number(a, 0.01, 0.99) : 0.9;
}

/* Of --views. */
ARGUMENTS_API int arguments_views(const argument *a)
{
    static const char *const words[] = {"1", "8"};
    return arguments_choice(a, words, 2) ? 8 : 1;
}

#endif
