/* train_provenance.h - what a training tells of itself in what it leaves behind: in best.safetensors, the
 * figures and the model card what is the same wherever it runs, in provenance.txt the rest as well.
 * A part of train.c. */
#ifndef TRAIN_PROVENANCE_H
#define TRAIN_PROVENANCE_H

#include "calibrate.h"
#include "train_run.h"

#define PROVENANCE_KEY "lensnet.provenance"

/* One option as a shell would take it. */
static void train_provenance_option(sheet *s, const argument *a)
{
    const char *quote = a->value[strcspn(a->value, " \t")] || !a->value[0] ? "'" : "";
    const char *gap = s->length ? " " : "";
    if (a->takes)
        sheet_add(s, "%s%s %s%s%s", gap, a->name, quote, a->value, quote);
    else if (strcmp(a->value, "yes") == 0)
        sheet_add(s, "%s%s", gap, a->name);
}

/* The options that make the result, as a command line would say them. */
static void train_provenance_options(provenance *p)
{
    sheet s;
    int i;
    memset(&s, 0, sizeof s);
    for (i = 0; i < OPTION_STORED; i++)
        if (train_options[i].value) train_provenance_option(&s, &train_options[i]);
    if (s.text) provenance_add(p, "options", "%s", s.text);
    sheet_clear(&s);
}

static void train_provenance_images(provenance *p, const run *r)
{
    int kind;
    provenance_add(p, "names of the images", "%016llx",
                   (unsigned long long)dataset_fingerprint(&r->data));
    for (kind = 0; kind < DATASET_SPLITS; kind++) {
        char key[40];
        snprintf(key, sizeof key, "images of %s", dataset_kind_names[kind]);
        if (r->data_path)
            provenance_add(p, key, "%zu, pixels %016llx", r->data.split[kind].count,
                           (unsigned long long)r->data.split[kind].contents);
        else
            provenance_add(p, key, "%zu, simulated", r->data.split[kind].count);
    }
}

/* Completes what main began with, once the options are what they are. */
static void train_provenance_add(provenance *p, const run *r)
{
    train_provenance_options(p);
    if (r->settings.weights) provenance_file(p, "starting weights", r->settings.weights);
    train_provenance_images(p, r);
}

/* Into best.safetensors. */
static int train_provenance_weights(const provenance *p, const run *r, lensnet_error *error)
{
    lensnet_archive_pair line;
    sheet s;
    int good;
    memset(&s, 0, sizeof s);
    provenance_text(&s, p, 0);
    line.key = PROVENANCE_KEY;
    line.value = s.text;
    good = (!s.failed || dataset_no_memory(error)) &&
           calibrate_write(r->best, NULL, &line, 1, &r->host, error);
    sheet_clear(&s);
    return good;
}

/* Into the figures, the model card (where there is one) and provenance.txt. */
static int train_provenance_files(const provenance *p, const run *r, lensnet_error *error)
{
    char *card = r->settings.folder ? system_path(r->folder, "README.md") : NULL;
    const int good = (card || !r->settings.folder || dataset_no_memory(error)) &&
                     !provenance_stamp_all(p, r->settings.out, error) &&
                     !provenance_save(p, r->settings.out, error) &&
                     (!card || !provenance_card(p, card, error));
    free(card);
    return good;
}

#endif
