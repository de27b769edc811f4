/* reading.h - the options that say how images are found and read, the same in every program. A program's
 * table may have any of
 *
 *     --bands N    --stack    --nan MODE    --fit MODE    --pixel-scale ARCSEC    --classes A=B,...
 *     --split 80/10/10
 *
 * Include system.h first, then lensnet.h. */
#ifndef READING_H
#define READING_H

#include "arguments.h"
#include "folders.h"

/* A row of the table by its name, if it is there and has a value. */
static const argument *reading_option(argument *table, size_t count, const char *name)
{
    const argument *a = arguments_find(table, count, name);
    return a && a->value && a->value[0] ? a : NULL;
}

/* "FOLDER=CLASS,FOLDER=CLASS", or the program ends. */
static void reading_check_classes(const char *text)
{
    while (*text) {
        size_t entry = strcspn(text, ","), name = strcspn(text, "=");
        if (!entry || name == 0 || name + 1 >= entry)
            arguments_fail("--classes takes FOLDER=CLASS,FOLDER=CLASS, not '%s'", text);
        text += entry + (text[entry] == ',');
    }
}

/* Fills `reading` from the options of the table that it has; what is wrong ends the program. */
ARGUMENTS_API void reading_from_options(dataset_reading *reading, argument *table, size_t count)
{
    static const char *const fits[] = {"auto", "crop", "stretch"};
    const argument *a;
    memset(reading, 0, sizeof *reading);
    reading->bands = 1;
    if ((a = reading_option(table, count, "--bands")) != NULL)
        reading->bands = (size_t)arguments_whole(a, 1, LENSNET_BANDS_LIMIT);
    if ((a = reading_option(table, count, "--stack")) != NULL)
        reading->stack = strcmp(a->value, "yes") == 0;
    if ((a = reading_option(table, count, "--nan")) != NULL &&
        lensnet_mend_parse(&reading->mend, a->value, NULL))
        arguments_fail("--nan is one of refuse, zero, median, not '%s'", a->value);
    if ((a = reading_option(table, count, "--fit")) != NULL)
        reading->fit = (dataset_fit_mode)arguments_choice(a, fits, 3);
    if ((a = reading_option(table, count, "--pixel-scale")) != NULL)
        reading->pixel_scale = arguments_number(a, 0, 1e5);
    if ((a = reading_option(table, count, "--classes")) != NULL) {
        reading_check_classes(a->value);
        reading->classes = a->value;
    }
    if ((a = reading_option(table, count, "--split")) != NULL && strchr(a->value, '/') &&
        !dataset_parse_share(reading->share, a->value))
        arguments_fail("--split takes shares of train, val and test such as 80/10/10, not '%s'",
                       a->value);
}

#endif
