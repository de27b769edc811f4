/* train_seeds.h - the same training with several seeds, each in a folder of its own, OUT/seed-S; what they
 * reach on the test images stands in OUT/seeds.csv and OUT/seeds.txt. A part of train.c. */
#ifndef TRAIN_SEEDS_H
#define TRAIN_SEEDS_H

#include "repeats.h"
#include "train_run.h"

enum { SEEDS_MOST = 1000 };

typedef struct seeds {
    size_t count;
    uint64_t first;
    repeat *rows;
    const char *out, *table, *data;
    system_names texts;             /* owns strings */
    argument options[OPTION_COUNT]; /* as they are for every seed */
} seeds;

static void seeds_free(seeds *s)
{
    free(s->rows);
    system_names_free(&s->texts);
}

static const char *seeds_keep(seeds *s, char *text)
{
    return system_names_add(&s->texts, text) ? s->texts.items[s->texts.count - 1] : NULL;
}

/* The folder of seed i. */
static const char *seeds_folder(seeds *s, size_t i)
{
    char name[40];
    snprintf(name, sizeof name, "seed-%s", s->rows[i].name);
    return seeds_keep(s, system_path(s->out, name));
}

static int seeds_make_rows(seeds *s, size_t count, lensnet_error *error)
{
    repeat *rows = (repeat *)calloc(count, sizeof *rows);
    char text[TRAIN_NUMBER];
    size_t i;
    if (!rows) return dataset_no_memory(error);
    for (i = 0; i < count; i++) {
        if (i < s->count) rows[i] = s->rows[i];
        snprintf(text, sizeof text, "%llu", (unsigned long long)s->first + i);
        if (!rows[i].name && !(rows[i].name = seeds_keep(s, system_copy(text)))) {
            free(rows);
            return dataset_no_memory(error);
        }
    }
    free(s->rows);
    s->rows = rows;
    s->count = count;
    return 1;
}

/* Takes up the table of a run that was stopped: which seeds there are, and which are done. */
static int seeds_read(seeds *s, lensnet_error *error)
{
    FILE *file = fopen(s->table, "r");
    char line[256];
    size_t count = 0;
    int good = file != NULL;
    while (good && fgets(line, sizeof line, file)) {
        char *end;
        const unsigned long long seed = strtoull(line, &end, 10);
        if (end == line || *end != ',') continue;
        if (!count) s->first = (uint64_t)seed;
        if (count >= SEEDS_MOST || seed != s->first + count) break;
        good = seeds_make_rows(s, ++count, error);
        if (good && !repeats_read(&s->rows[count - 1], line)) s->rows[count - 1].done = 0;
    }
    if (file) fclose(file);
    return good && (s->count || dataset_fail(error, "%s: it names no seed", s->table));
}

static int seeds_save(const seeds *s, lensnet_error *error)
{
    sheet table;
    if (!cluster_leads()) return 1;
    memset(&table, 0, sizeof table);
    repeats_csv(&table, s->rows, s->count);
    return !sheet_save(&table, s->table, error);
}

/* A seed that has not begun yet takes its options from the state of the first. */
static int seeds_inherit(seeds *s, lensnet_error *error)
{
    const lensnet_host host = lensnet_host_defaults();
    lensnet_archive *state = NULL;
    const char *folder = seeds_folder(s, 0), *path, *data;
    run_folder states;
    int good;
    memset(&states, 0, sizeof states);
    good = (folder || dataset_no_memory(error)) && run_folder_name(&states, folder, error) &&
           run_folder_open_state(&state, &path, &states, &host, error) &&
           train_restore_options(state, path, &s->texts, error);
    data = good && !s->data ? lensnet_archive_metadata(state, "train.data") : NULL;
    if (data && !(s->data = seeds_keep(s, system_copy(data)))) good = dataset_no_memory(error);
    lensnet_archive_close(state);
    run_folder_release(&states);
    return good;
}

/* Is there a run with several seeds in --out, or is one asked for? */
static int seeds_wanted(void)
{
    char *table = system_path(train_value(OPTION_OUT)->value, "seeds.csv");
    const int there = train_value(OPTION_RESUME)->given && table && system_exists(table);
    free(table);
    return train_value(OPTION_SEEDS)->given || there;
}

static int seeds_begin_new(seeds *s, lensnet_error *error)
{
    run_folder states;
    const char *folder;
    int good, there;
    s->first = (uint64_t)arguments_whole(train_value(OPTION_SEED), 0, LONG_MAX - SEEDS_MOST);
    good = seeds_make_rows(s, (size_t)arguments_whole(train_value(OPTION_SEEDS), 1, SEEDS_MOST),
                           error);
    folder = good ? seeds_folder(s, 0) : NULL;
    good = good && (folder || dataset_no_memory(error)) && run_folder_name(&states, folder, error);
    if (!good) return 0;
    there = run_folder_has_state(&states);
    run_folder_release(&states);
    return !there || dataset_fail(error,
                                  "%s: there is a run already; add --resume to go on with it, or "
                                  "choose another --out",
                                  folder);
}

static int seeds_begin_again(seeds *s, lensnet_error *error)
{
    size_t i, wanted = 0;
    if (train_value(OPTION_SEEDS)->given)
        wanted = (size_t)arguments_whole(train_value(OPTION_SEEDS), 1, SEEDS_MOST);
    if (!system_exists(s->table))
        return dataset_fail(error, "%s: there is no run with several seeds to go on with",
                            s->table);
    if (!seeds_read(s, error) || !seeds_inherit(s, error)) return 0;
    for (i = 0; i < s->count; i++) /* they are to become longer */
        if (train_value(OPTION_EPOCHS)->given || train_value(OPTION_COOLDOWN)->given)
            s->rows[i].done = 0;
    return wanted <= s->count || seeds_make_rows(s, wanted, error);
}

/* `data`: the folder DATA, or NULL. seeds_free in any case. */
static int seeds_begin(seeds *s, const char *data, lensnet_error *error)
{
    memset(s, 0, sizeof *s);
    s->data = data;
    s->out = train_value(OPTION_OUT)->value;
    s->table = seeds_keep(s, system_path(s->out, "seeds.csv"));
    if (!s->table) return dataset_no_memory(error);
    if (!(train_value(OPTION_RESUME)->given ? seeds_begin_again(s, error)
                                            : seeds_begin_new(s, error)))
        return 0;
    memcpy(s->options, train_options, sizeof s->options);
    return 1;
}

/* Sets the options for seed i, which goes on where it stopped or begins. */
static int seeds_choose(seeds *s, size_t i, lensnet_error *error)
{
    run_folder states;
    const char *folder = seeds_folder(s, i);
    memcpy(train_options, s->options, sizeof s->options);
    if (!folder || !run_folder_name(&states, folder, error)) return dataset_no_memory(error);
    train_options[OPTION_OUT].value = folder;
    train_options[OPTION_SEED].value = s->rows[i].name;
    train_options[OPTION_SEED].given = 1;
    train_options[OPTION_RESUME].given =
        train_options[OPTION_RESUME].given && run_folder_has_state(&states);
    run_folder_release(&states);
    return 1;
}

/* Mean and spread, on the terminal and in OUT/seeds.txt. */
static int seeds_finish(const seeds *s, lensnet_error *error)
{
    char *path = system_path(s->out, "seeds.txt");
    sheet table;
    int good = path || dataset_no_memory(error);
    if (!cluster_leads()) {
        free(path);
        return good;
    }
    memset(&table, 0, sizeof table);
    sheet_add(&table, "%zu seeds, on the test split\n", s->count);
    repeats_text(&table, s->rows, s->count);
    if (good && !table.failed)
        printf("\n%s\nwritten to %s: seeds.csv seeds.txt\n", table.text, s->out);
    good = !sheet_save(&table, good ? path : "", error) && good;
    free(path);
    return good;
}

#endif
