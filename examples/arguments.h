/* arguments.h - command lines for the examples: a table of options, read and checked, and its help.
 *
 *     static argument table[] = {{"--batch", "N", "32", "images per step"},
 *                                {"--csv", NULL, NULL, "print CSV"}};
 *     arguments_parse(table, 2, &plain, argc, argv);
 *
 * What is wrong on a command line ends the program with one sentence and exit status 2. */
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

/* Ends the program with a sentence. */
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

/* Reads the command line into `table`. What is not an option is moved to the front of argv[1 ...];
 * returns how many such words there are. `--help` prints `usage` and the table, then ends. */
ARGUMENTS_API int arguments_parse(argument *table, size_t count, const char *usage, int argc,
                                  char **argv)
{
    int i, plain = 0, options = 1;
    for (i = 1; i < argc; i++) {
        char *word = argv[i];
        argument *a;
        if (!options || word[0] != '-' || !word[1]) {
            argv[1 + plain++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            options = 0;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            arguments_help(table, count, usage);
            exit(0);
        }
        a = arguments_find(table, count, word);
        if (!a) arguments_fail("there is no option %s; --help lists them", word);
        if (a->takes && i + 1 == argc) arguments_fail("%s needs a value: %s", word, a->takes);
        a->value = a->takes ? argv[++i] : "yes";
        a->given = 1;
    }
    return plain;
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

#endif
