/* simulate.c - makes sets of lens images, as many as wanted, in the folders that train.c reads.
 *
 *     cc -O2 -fopenmp tools/simulate.c -o simulate -lm
 *     ./simulate universe --train 1000 --val 125 --test 125
 *     ./simulate --help
 *
 * writes universe/train/no/000000.npy ... universe/test/vort/000124.npy (float64, shape (1,150,150),
 * min-max normalised) and universe/truth.csv, what every image shows. The physics, and what is
 * promised about it, stands in simulate.h.
 *
 * Contents:  >>options  >>files  >>sets  >>gallery  >>benchmark  >>main */
#include "../examples/system.h"
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"
#include "simulate.h"
#include "../examples/arguments.h"
#include "../examples/npy.h"
#include "../examples/progress.h"
#include "../examples/svg.h"

#include <ctype.h>

enum { SPLITS = 3, PATH_ROOM = 4096 };
static const char *const split_names[SPLITS] = {"train", "val", "test"};

/* Image 0 of val is number 2^40 of the seed and class: a set with more training images, or one drawn
 * on the fly, never contains it. */
#define SPLIT_STRIDE ((uint64_t)1 << 40)

typedef struct {
    sim_params params;
    const char *folder, *gallery; /* NULL: not asked for */
    uint64_t seed;
    long counts[SPLITS][SIM_CLASSES];
    long part, parts; /* --part I/N: 1/1 is all of it */
    int threads, float32, maps, benchmark, help, merge;
} job;

static int fail(lensnet_error *error, const char *format, ...) SIM_PRINTF(2, 3);
static int fail(lensnet_error *error, const char *format, ...)
{
    va_list values;
    error->code = LENSNET_ERROR_ARGUMENT;
    va_start(values, format);
    vsnprintf(error->text, sizeof error->text, format, values);
    va_end(values);
    return 0;
}

/* What a sentence needs at its end. */
static const char *full_stop(const char *sentence)
{
    size_t length = strlen(sentence);
    return length && (sentence[length - 1] == '.' || sentence[length - 1] == '?') ? "" : ".";
}

/* -------------------------------------------------------------------------------------------------
 * >>options  One table: name, where it goes, what it means. Functions return 1, or 0 and a sentence.
 * ---------------------------------------------------------------------------------------------- */

typedef enum { KIND_HEADING, KIND_RANGE, KIND_NUMBER, KIND_INT, KIND_CHOICE } kind;

typedef struct {
    const char *name;
    kind kind;
    size_t place;        /* in sim_params */
    const char *choices; /* "first second ...": value 0, 1, ... */
    const char *help;
} option;

#define PLACE(member) offsetof(sim_params, member)
static const option options[] = {
    {NULL, KIND_HEADING, 0, NULL, "the image"},
    {"height", KIND_INT, PLACE(height), NULL, "pixels (--size N sets both)"},
    {"width", KIND_INT, PLACE(width), NULL, "pixels"},
    {"pixel-scale", KIND_NUMBER, PLACE(pixel_scale), NULL, "arcsec"},
    {"row-0", KIND_CHOICE, PLACE(y_up), "bottom top", "where the first row is on the sky"},
    {"rays", KIND_INT, PLACE(rays), NULL, "N x N rays per pixel"},
    {"psf-sigma", KIND_NUMBER, PLACE(psf_sigma), NULL, "Gaussian blur, arcsec; 0: none"},
    {"psf-radius", KIND_INT, PLACE(psf_radius), NULL,
     "its kernel's half width, pixels; 4 sigma where sigma or the pixels change"},
    {"psf-border", KIND_CHOICE, PLACE(psf_border), "render repeat",
     "what lies beyond the frame: sky, or the last pixel again"},
    {"sky", KIND_RANGE, PLACE(sky), NULL, "counts per pixel"},
    {"exposure", KIND_RANGE, PLACE(exposure), NULL, "multiplies source and sky, log-uniform"},
    {"noise", KIND_CHOICE, PLACE(noise), "none poisson twice",
     "photon counts (twice: Model I's own way)"},
    {"background", KIND_NUMBER, PLACE(background), NULL, "Model I's Gaussian background, counts"},
    {"output", KIND_CHOICE, PLACE(normalise), "counts normalised",
     "as counts, or (image - min) / (max - min)"},
    {NULL, KIND_HEADING, 0, NULL, "the universe"},
    {"hubble", KIND_NUMBER, PLACE(hubble), NULL, "km/s/Mpc"},
    {"omega-matter", KIND_NUMBER, PLACE(omega_matter), NULL, "flat, no radiation"},
    {"einstein", KIND_CHOICE, PLACE(einstein), "luminosity angular",
     "distances in Einstein radii: as published, or as physics has it"},
    {"z-lens", KIND_RANGE, PLACE(z_lens), NULL, "redshift of the lens"},
    {"z-source", KIND_RANGE, PLACE(z_source), NULL, "redshift of the source"},
    {NULL, KIND_HEADING, 0, NULL, "the lens"},
    {"halo-mass", KIND_RANGE, PLACE(halo_mass), NULL, "solar masses, singular isothermal"},
    {"halo-q", KIND_RANGE, PLACE(halo_q), NULL, "axis ratio; 1: a sphere"},
    {"halo-angle", KIND_RANGE, PLACE(halo_angle), NULL, "degrees"},
    {"shear", KIND_RANGE, PLACE(shear), NULL, "external shear"},
    {"shear-angle", KIND_RANGE, PLACE(shear_angle), NULL, "degrees"},
    {NULL, KIND_HEADING, 0, NULL, "the source, a Sersic galaxy"},
    {"source-position", KIND_CHOICE, PLACE(source_position), "polar square",
     "source-offset is a distance, or x and y"},
    {"source-offset", KIND_RANGE, PLACE(source_offset), NULL, "arcsec"},
    {"source-radius", KIND_RANGE, PLACE(source_radius), NULL, "R_e, arcsec"},
    {"source-index", KIND_RANGE, PLACE(source_index), NULL, "Sersic n"},
    {"source-brightness", KIND_RANGE, PLACE(source_brightness), NULL, "counts per pixel at R_e"},
    {"source-q", KIND_RANGE, PLACE(source_q), NULL, "axis ratio"},
    {"source-angle", KIND_RANGE, PLACE(source_angle), NULL, "degrees"},
    {"source-sersic", KIND_CHOICE, PLACE(source_sersic), "series linear", "formula for b_n"},
    {NULL, KIND_HEADING, 0, NULL, "class sphere"},
    {"subhalo-law", KIND_CHOICE, PLACE(subhalo_law), "fixed poisson", "law of their number"},
    {"subhalo-number", KIND_NUMBER, PLACE(subhalo_number), NULL, "number, or its mean"},
    {"subhalo-mass", KIND_RANGE, PLACE(subhalo_mass), NULL, "solar masses"},
    {"subhalo-slope", KIND_NUMBER, PLACE(subhalo_slope), NULL, "dN/dm ~ m^slope"},
    {"subhalo-distance", KIND_RANGE, PLACE(subhalo_distance), NULL, "from the centre, arcsec"},
    {"subhalo-profile", KIND_CHOICE, PLACE(subhalo_profile), "point nfw tnfw",
     "NFW: mass within the truncation; truncated NFW: total mass"},
    {"subhalo-scale", KIND_NUMBER, PLACE(subhalo_scale), NULL,
     "scale radius at 1e8 solar masses, arcsec, grows as m^(1/3)"},
    {"subhalo-truncation", KIND_NUMBER, PLACE(subhalo_truncation), NULL, "in scale radii"},
    {NULL, KIND_HEADING, 0, NULL, "class vort"},
    {"vortex-mass", KIND_RANGE, PLACE(vortex_mass), NULL, "solar masses"},
    {"vortex-length", KIND_RANGE, PLACE(vortex_length), NULL, "first to last point, arcsec"},
    {"vortex-length-law", KIND_CHOICE, PLACE(vortex_length_law), "uniform log",
     "law of the lengths"},
    {"vortex-points", KIND_INT, PLACE(vortex_points), NULL, "equal masses on the string"},
    {"vortex-offset", KIND_NUMBER, PLACE(vortex_offset), NULL,
     "sigma of its centre's x, y, arcsec"},
    {"vortex-angle", KIND_RANGE, PLACE(vortex_angle), NULL, "degrees"},
};
enum { OPTIONS = sizeof options / sizeof *options };

/* Word `index` of `choices` into `word`; 0 when there are not so many. */
static int choice_word(char word[32], const char *choices, int index)
{
    int length = 0;
    for (; index > 0; index--) {
        choices = strchr(choices, ' ');
        if (!choices) return 0;
        choices++;
    }
    while (choices[length] && choices[length] != ' ' && length < 31) {
        word[length] = choices[length];
        length++;
    }
    word[length] = 0;
    return 1;
}

static int parse_number(double *value, const char *text, char end, const char **rest)
{
    char *stop;
    errno = 0;
    *value = strtod(text, &stop);
    *rest = stop;
    return stop != text && *stop == end && !errno && fabs(*value) <= DBL_MAX;
}

static int parse_whole(uint64_t *value, const char *text, uint64_t most)
{
    char *stop;
    unsigned long long parsed;
    if (!isdigit((unsigned char)*text)) return 0;
    errno = 0;
    parsed = strtoull(text, &stop, 10);
    *value = parsed;
    return !*stop && !errno && parsed <= most;
}

static int parse_option(sim_params *params, const option *o, const char *text, lensnet_error *error)
{
    char *to = (char *)params + o->place;
    const char *rest;
    sim_range range;
    uint64_t whole;
    char word[32];
    int value;
    switch (o->kind) {
    case KIND_RANGE:
        if (parse_number(&range.low, text, 0, &rest)) {
            range.high = range.low;
        } else if (!parse_number(&range.low, text, ':', &rest) ||
                   !parse_number(&range.high, rest + 1, 0, &rest)) {
            return fail(error, "--%s: expected a number or LOW:HIGH, found '%s'", o->name, text);
        }
        memcpy(to, &range, sizeof range);
        return 1;
    case KIND_NUMBER:
        if (!parse_number(&range.low, text, 0, &rest))
            return fail(error, "--%s: expected a number, found '%s'", o->name, text);
        memcpy(to, &range.low, sizeof range.low);
        return 1;
    case KIND_INT:
        if (!parse_whole(&whole, text, 1000000))
            return fail(error, "--%s: expected a whole number, found '%s'", o->name, text);
        value = (int)whole;
        memcpy(to, &value, sizeof value);
        return 1;
    case KIND_CHOICE:
        for (value = 0; choice_word(word, o->choices, value); value++) {
            if (strcmp(word, text) == 0) {
                memcpy(to, &value, sizeof value);
                return 1;
            }
        }
        return fail(error, "--%s: expected one of '%s', found '%s'", o->name, o->choices, text);
    case KIND_HEADING: break;
    }
    return 0;
}

/* "100", or "100,90,80" in the order of the classes */
static int parse_counts(long counts[SIM_CLASSES], const char *name, const char *text,
                        lensnet_error *error)
{
    const char *at = text;
    int i, fields = 0;
    while (fields < SIM_CLASSES && isdigit((unsigned char)*at)) {
        char *stop;
        errno = 0;
        counts[fields] = strtol(at, &stop, 10);
        if (errno || counts[fields] > 100000000) break;
        fields++;
        at = stop;
        if (*at != ',') break;
        at++;
    }
    if (*at || (fields != 1 && fields != SIM_CLASSES))
        return fail(error,
                    "%s: expected images per class, N or NO,SPHERE,VORT, at most 1e8, found '%s'",
                    name, text);
    for (i = fields; i < SIM_CLASSES; i++) counts[i] = counts[0];
    return 1;
}

/* "3/8": part 3 (from 1) of 8 */
static int parse_part(job *j, const char *text, lensnet_error *error)
{
    char *end = NULL;
    if (isdigit((unsigned char)*text)) j->part = strtol(text, &end, 10);
    j->parts = end && *end == '/' && isdigit((unsigned char)end[1]) ? strtol(end + 1, &end, 10) : 0;
    return (end && !*end && j->part >= 1 && j->part <= j->parts && j->parts <= 1000000) ||
           fail(error, "--part: expected I/N with I from 1 to N, found '%s'", text);
}

static int parse_preset(sim_params *params, const char *text, lensnet_error *error)
{
    if (strcmp(text, "testI") == 0) {
        *params = sim_defaults(SIM_TEST_I);
    } else if (strcmp(text, "model1") == 0) {
        *params = sim_defaults(SIM_MODEL_1);
    } else {
        return fail(error, "--preset: expected testI or model1, found '%s'", text);
    }
    return 1;
}

static const option *find_option(const char *name)
{
    int i;
    for (i = 0; i < OPTIONS; i++)
        if (options[i].name && strcmp(options[i].name, name) == 0) return &options[i];
    return NULL;
}

/* Options of the program that stand alone; 1 if `text` is one of them. */
static int parse_switch(job *j, const char *text)
{
    if (strcmp(text, "--float32") == 0) return j->float32 = 1;
    if (strcmp(text, "--maps") == 0) return j->maps = 1;
    if (strcmp(text, "--merge") == 0) return j->merge = 1;
    if (strcmp(text, "--benchmark") == 0) return j->benchmark = 1;
    if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) return j->help = 1;
    if (strcmp(text, "--noiseless") == 0) {
        j->params.noise = SIM_NOISE_NONE;
        return 1;
    }
    return 0;
}

/* Ends the program unless there is such an option, and names the one that may be meant. */
static void refuse_unknown(const char *name)
{
    static const char *const others[] = {"--train", "--val",       "--test",    "--preset",
                                         "--seed",  "--size",      "--threads", "--gallery",
                                         "--part",  "--merge",     "--float32", "--noiseless",
                                         "--maps",  "--benchmark", "--version"};
    enum { OTHERS = sizeof others / sizeof *others };
    static char names[OPTIONS][32];
    argument table[OPTIONS + OTHERS];
    int i;
    memset(table, 0, sizeof table);
    for (i = 0; i < OPTIONS; i++) {
        snprintf(names[i], sizeof names[i], "--%.28s", options[i].name ? options[i].name : "");
        table[i].name = names[i];
    }
    for (i = 0; i < OTHERS; i++) table[OPTIONS + i].name = others[i];
    if (!arguments_find(table, OPTIONS + OTHERS, name))
        arguments_unknown(table, OPTIONS + OTHERS, name);
}

static int parse_value(job *j, const char *name, const char *text, lensnet_error *error)
{
    const option *o = find_option(name + 2);
    uint64_t whole;
    int split;
    for (split = 0; split < SPLITS; split++)
        if (strcmp(name + 2, split_names[split]) == 0)
            return parse_counts(j->counts[split], name, text, error);
    if (o) return parse_option(&j->params, o, text, error);
    if (strcmp(name, "--preset") == 0) return 1; /* taken before all others */
    if (strcmp(name, "--gallery") == 0) {
        j->gallery = text;
        return 1;
    }
    if (strcmp(name, "--part") == 0) return parse_part(j, text, error);
    if (strcmp(name, "--seed") == 0)
        return parse_whole(&j->seed, text, UINT64_MAX) ||
               fail(error, "--seed: expected a whole number, found '%s'", text);
    if (strcmp(name, "--size") == 0) {
        if (!parse_whole(&whole, text, 1000000))
            return fail(error, "--size: expected pixels, found '%s'", text);
        j->params.height = j->params.width = (int)whole;
        return 1;
    }
    if (strcmp(name, "--threads") == 0) {
        if (!parse_whole(&whole, text, 4096) || whole == 0)
            return fail(error, "--threads: expected 1 ... 4096, found '%s'", text);
        j->threads = (int)whole;
        return 1;
    }
    refuse_unknown(name);
    return fail(error, "%s takes no value", name);
}

/* The kernel keeps its preset's width until the blur or the pixels change. */
static void settle_blur(job *j, int changed, int given)
{
    double taps = 4 * j->params.psf_sigma / j->params.pixel_scale + 0.5;
    if (changed && !given && taps >= 0 && taps < 1e6) j->params.psf_radius = (int)taps;
}

/* A preset is taken before all other options, which change it. */
static int find_preset(job *j, int count, char **arguments, lensnet_error *error)
{
    int i, good = 1;
    for (i = 1; good && i < count; i++) {
        if (strcmp(arguments[i], "--preset") == 0 && i + 1 < count)
            good = parse_preset(&j->params, arguments[i + 1], error);
        else if (strncmp(arguments[i], "--preset=", 9) == 0)
            good = parse_preset(&j->params, arguments[i] + 9, error);
    }
    return good;
}

static int parse_arguments(job *j, int count, char **arguments, lensnet_error *error)
{
    int i, blur_changed = 0, radius_given = 0;
    memset(j, 0, sizeof *j);
    j->part = j->parts = 1;
    j->params = sim_defaults(SIM_TEST_I);
    if (!find_preset(j, count, arguments, error)) return 0;
    for (i = 1; i < count; i++) {
        const char *text = arguments[i], *value;
        char *equals = strchr(arguments[i], '=');
        if (text[0] != '-' || text[1] == 0) {
            if (j->folder)
                return fail(error, "expected one folder, found '%s' and '%s'", j->folder, text);
            j->folder = text;
            continue;
        }
        if (equals) *equals = 0;
        if (parse_switch(j, text)) {
            if (equals) return fail(error, "%s takes no value", text);
            continue;
        }
        value = equals ? equals + 1 : i + 1 < count ? arguments[++i] : NULL;
        if (!value) refuse_unknown(text);
        if (!value) return fail(error, "%s: expected a value after it", text);
        if (!parse_value(j, text, value, error)) return 0;
        blur_changed |= !strcmp(text, "--psf-sigma") || !strcmp(text, "--pixel-scale");
        radius_given |= !strcmp(text, "--psf-radius");
    }
    settle_blur(j, blur_changed, radius_given);
    return 1;
}

/* The value of an option, with so many digits. */
static void option_text(char text[64], const sim_params *params, const option *o, int digits)
{
    const char *from = (const char *)params + o->place;
    sim_range range;
    int value;
    text[0] = 0;
    switch (o->kind) {
    case KIND_RANGE:
        memcpy(&range, from, sizeof range);
        if (range.low == range.high)
            snprintf(text, 64, "%.*g", digits, range.low);
        else
            snprintf(text, 64, "%.*g:%.*g", digits, range.low, digits, range.high);
        break;
    case KIND_NUMBER:
        memcpy(&range.low, from, sizeof range.low);
        snprintf(text, 64, "%.*g", digits, range.low);
        break;
    case KIND_INT:
        memcpy(&value, from, sizeof value);
        snprintf(text, 64, "%d", value);
        break;
    case KIND_CHOICE:
        memcpy(&value, from, sizeof value);
        choice_word(text, o->choices, value);
        break;
    case KIND_HEADING: break;
    }
}

static void print_value(const sim_params *params, const option *o)
{
    char text[64];
    option_text(text, params, o, 5);
    printf("  --%-20s %-16s", o->name, text);
}

/* "a b c" as "a|b|c" */
static void print_choices(const char *choices)
{
    if (!choices) return;
    putchar(' ');
    for (; *choices; choices++) putchar(*choices == ' ' ? '|' : *choices);
}

static void print_help(const job *j)
{
    int i;
    printf("simulate FOLDER [options]    makes a set of strong-lens images\n\n"
           "  --train N, --val N, --test N   images per class, or NO,SPHERE,VORT; default 0\n"
           "  --preset testI|model1          a published recipe; options below change it\n"
           "  --seed N                       another set (default 0)\n"
           "  --float32                      half the bytes; default float64\n"
           "  --noiseless                    expected counts, --noise none\n"
           "  --maps                         deflection, convergence, what substructure changes\n"
           "  --part I/N                     the I-th of N parts of the set, by as many machines\n"
           "  --merge                        with --part I/N, after all parts: joins their tables\n"
           "  --threads N                    default: all\n"
           "  --gallery FILE.svg             draws examples of each class\n"
           "  --benchmark                    images per second, in memory\n\n"
           "Files: FOLDER/train/sphere/000000.npy ..., and FOLDER/truth.csv, what each one shows.\n"
           "Image number i of a seed and class is the same bits on every machine.\n"
           "Values are a number or LOW:HIGH, drawn uniformly for each image; angles are degrees,\n"
           "anticlockwise from +x. Shown: what is in force with the other options given here.\n");
    for (i = 0; i < OPTIONS; i++) {
        if (options[i].kind == KIND_HEADING) {
            printf("\n%s\n", options[i].help);
        } else {
            print_value(&j->params, &options[i]);
            print_choices(options[i].choices);
            printf("%s%s\n", options[i].choices ? "  " : " ", options[i].help);
        }
    }
}

/* -------------------------------------------------------------------------------------------------
 * >>files  A file appears under its name when it is complete.
 * ---------------------------------------------------------------------------------------------- */

/* `values` are doubles, or floats; shape (planes, height, width), or (height, width) for 0 planes. */
static int write_npy(const char *path, const void *values, int is_float, int planes, int height,
                     int width, lensnet_error *error)
{
    char temporary[PATH_ROOM + 8];
    size_t shape[3];
    int rank = 0, good;
    if (planes) shape[rank++] = (size_t)planes;
    shape[rank++] = (size_t)height;
    shape[rank++] = (size_t)width;
    snprintf(temporary, sizeof temporary, "%s.part", path);
    good = is_float ? npy_write_float(temporary, (const float *)values, rank, shape, error->text)
                    : npy_write_double(temporary, (const double *)values, rank, shape, error->text);
    if (good && rename(temporary, path) != 0) {
        good = fail(error, "%s: cannot be given its name: %s", path, strerror(errno));
        remove(temporary);
    }
    return good;
}

/* -------------------------------------------------------------------------------------------------
 * >>sets  A set is written in blocks: all threads make images and their files, then the block's rows
 * go into the table. truth.csv has its name only when the set is complete.
 * ---------------------------------------------------------------------------------------------- */

enum { BLOCK = 256, MARK_ROOM = 128 /* the last line of the table of a part */ };

typedef struct {
    int split, label;
    long number;
} image_name;

/* One thread's things. */
typedef struct {
    sim_workspace *workspace;
    void *pixels; /* room for two planes of doubles */
} worker;

static long total_images(const job *j)
{
    long total = 0;
    int s, c;
    for (s = 0; s < SPLITS; s++)
        for (c = 0; c < SIM_CLASSES; c++) total += j->counts[s][c];
    return total;
}

/* Image `index` of the set, in the order of splits, classes, numbers. */
static image_name name_image(const job *j, long index)
{
    image_name name = {0, 0, 0};
    int s, c;
    for (s = 0; s < SPLITS; s++) {
        for (c = 0; c < SIM_CLASSES; c++) {
            if (index < j->counts[s][c]) {
                name.split = s;
                name.label = c;
                name.number = index;
                return name;
            }
            index -= j->counts[s][c];
        }
    }
    return name;
}

static uint64_t image_index(image_name name)
{
    return (uint64_t)name.split * SPLIT_STRIDE + (uint64_t)name.number;
}

static void workers_destroy(worker *workers, int count)
{
    int i;
    for (i = 0; i < count; i++) {
        sim_workspace_destroy(workers[i].workspace);
        free(workers[i].pixels);
    }
    free(workers);
}

static worker *workers_create(const job *j, int count, lensnet_error *error)
{
    const size_t plane = (size_t)j->params.height * (size_t)j->params.width * sizeof(double);
    worker *workers = (worker *)calloc((size_t)count, sizeof *workers);
    int i;
    if (!workers) {
        fail(error, "not enough memory for %d threads", count);
        return NULL;
    }
    for (i = 0; i < count; i++) {
        workers[i].pixels = malloc(2 * plane);
        if (!workers[i].pixels) fail(error, "not enough memory for %d threads", count);
        if (!workers[i].pixels || sim_workspace_create(&workers[i].workspace, &j->params,
                                                       LENSNET_ISA_BEST, error) != LENSNET_OK) {
            workers_destroy(workers, count);
            return NULL;
        }
    }
    return workers;
}

static int write_maps(const job *j, image_name name, const worker *at, const sim_truth *truth,
                      lensnet_error *error)
{
    const int height = j->params.height, width = j->params.width;
    double *map = (double *)at->pixels;
    float *change = (float *)(map + (size_t)height * (size_t)width);
    char path[PATH_ROOM];
    int i;
    snprintf(path, sizeof path, "%s/maps/%s/%s/%06ld-deflection.npy", j->folder,
             split_names[name.split], sim_class_names[name.label], name.number);
    sim_deflection_map(map, at->workspace, truth);
    if (!write_npy(path, map, 0, 2, height, width, error)) return 0;
    snprintf(path, sizeof path, "%s/maps/%s/%s/%06ld-convergence.npy", j->folder,
             split_names[name.split], sim_class_names[name.label], name.number);
    sim_convergence_map(map, at->workspace, truth);
    if (!write_npy(path, map, 0, 0, height, width, error)) return 0;
    snprintf(path, sizeof path, "%s/maps/%s/%s/%06ld-change.npy", j->folder,
             split_names[name.split], sim_class_names[name.label], name.number);
    sim_change_map(change, at->workspace, truth);
    for (i = 0; i < height * width; i++) map[i] = (double)change[i];
    return write_npy(path, map, 0, 0, height, width, error);
}

static int write_image(const job *j, image_name name, const worker *at, sim_truth *truth,
                       lensnet_error *error)
{
    char path[PATH_ROOM];
    if (system_interrupted()) return fail(error, "interrupted");
    if (j->float32)
        sim_image_float((float *)at->pixels, truth, at->workspace, j->seed, name.label,
                        image_index(name));
    else
        sim_image((double *)at->pixels, truth, at->workspace, j->seed, name.label,
                  image_index(name));
    snprintf(path, sizeof path, "%s/%s/%s/%06ld.npy", j->folder, split_names[name.split],
             sim_class_names[name.label], name.number);
    if (!write_npy(path, at->pixels, j->float32, 1, j->params.height, j->params.width, error))
        return 0;
    return !j->maps || write_maps(j, name, at, truth, error);
}

/* Images first ... first + count - 1. Returns how many were written: all, or fewer and a sentence. */
static long write_block(const job *j, long first, long count, worker *workers, int threads,
                        sim_truth *truths, lensnet_error *error)
{
    long done = 0, i;
    int failed = 0;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(+ : done)
#endif
    for (i = 0; i < count; i++) {
        lensnet_error mine;
        int stop;
#ifdef _OPENMP
#pragma omp atomic read
#endif
        stop = failed;
        if (stop) continue;
        if (write_image(j, name_image(j, first + i), &workers[system_thread()], &truths[i],
                        &mine)) {
            done++;
        } else {
#ifdef _OPENMP
#pragma omp critical
#endif
            {
                if (!failed) *error = mine;
#ifdef _OPENMP
#pragma omp atomic write
#endif
                failed = 1;
            }
        }
    }
    (void)threads;
    return done;
}

static void write_truth_head(FILE *file)
{
    fprintf(file, "file,split,class,number,seed,index,z_lens,z_source,halo_mass,theta_e,halo_q,"
                  "halo_angle,shear,shear_angle,source_x,source_y,source_radius,source_index,"
                  "source_brightness,source_q,source_angle,sky,exposure,minimum,maximum,"
                  "vortex_mass,vortex_x,vortex_y,vortex_length,vortex_angle,subhalos,"
                  "subhalo_mass_x_y\n");
}

/* Subhalos are one field: mass x y; mass x y; ... */
static void write_truth(FILE *file, image_name name, const sim_truth *t)
{
    const char *split = split_names[name.split], *class_name = sim_class_names[name.label];
    int i;
    fprintf(file, "%s/%s/%06ld.npy,%s,%s,%ld,%llu,%llu", split, class_name, name.number, split,
            class_name, name.number, (unsigned long long)t->seed, (unsigned long long)t->index);
    fprintf(file, ",%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g", t->z_lens, t->z_source,
            t->halo_mass, t->theta_e, t->halo_q, t->halo_angle, t->shear, t->shear_angle);
    fprintf(file, ",%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g", t->source_x, t->source_y,
            t->source_radius, t->source_index, t->source_brightness, t->source_q, t->source_angle);
    fprintf(file, ",%.17g,%.17g,%.17g,%.17g", t->sky, t->exposure, t->minimum, t->maximum);
    fprintf(file, ",%.17g,%.17g,%.17g,%.17g,%.17g,%d,", t->vortex_mass, t->vortex_x, t->vortex_y,
            t->vortex_length, t->vortex_angle, t->subhalos);
    for (i = 0; i < t->subhalos; i++)
        fprintf(file, "%s%.17g %.17g %.17g", i ? "; " : "", t->subhalo[i].mass, t->subhalo[i].x,
                t->subhalo[i].y);
    fputc('\n', file);
}

static int make_folder(const char *path, lensnet_error *error)
{
    return system_make_folder(path) ||
           fail(error, "cannot make the folder %s: %s", path, strerror(errno));
}

/* The table of a set, or of a part of it until --merge joins them. */
static void name_table(char *path, size_t room, const job *j, long part)
{
    if (j->parts == 1)
        snprintf(path, room, "%s/truth.csv", j->folder);
    else
        snprintf(path, room, "%s/truth-%ld-of-%ld.csv", j->folder, part, j->parts);
}

static uint64_t mix(uint64_t set, const char *text)
{
    for (; *text; text++) set = (set ^ (unsigned char)*text) * 0x100000001B3u;
    return set;
}

/* A number for all that the images of a set depend on. */
static uint64_t name_set(const job *j)
{
    uint64_t set = 0xCBF29CE484222325u;
    char text[64];
    int i, c;
    for (i = 0; i < OPTIONS; i++) {
        option_text(text, &j->params, &options[i], 17);
        set = mix(mix(set, text), ",");
    }
    for (i = 0; i < SPLITS; i++) {
        for (c = 0; c < SIM_CLASSES; c++) {
            snprintf(text, sizeof text, "%ld,", j->counts[i][c]);
            set = mix(set, text);
        }
    }
    snprintf(text, sizeof text, "%llu,%d,%d", (unsigned long long)j->seed, j->float32, j->maps);
    return mix(set, text);
}

/* How the last line of the table of a part begins; the number of its set follows. It tells a table that is
 * whole from one that is not, and parts of one set from those of another. */
static void name_part(char *text, size_t room, long part, const job *j, long images)
{
    snprintf(text, room, "# part %ld/%ld: %ld images, set ", part, j->parts, images);
}

/* The number of the first image of a part. */
static long part_first(const job *j, long part)
{
    const long total = total_images(j);
    return total / j->parts * (part - 1) + total % j->parts * (part - 1) / j->parts;
}

/* A part may find the folders of the others. */
static int make_folders(const job *j, lensnet_error *error)
{
    char path[PATH_ROOM];
    int split, label;
    if (strlen(j->folder) > PATH_ROOM - 100) return fail(error, "the folder's path is too long");
    for (split = -1; split < (j->parts == 1 ? SPLITS : 0); split++) {
        if (split < 0)
            name_table(path, sizeof path, j, j->part);
        else
            snprintf(path, sizeof path, "%s/%s", j->folder, split_names[split]);
        if (system_exists(path))
            return fail(error, "%s is there already: choose a new folder, or remove the old set",
                        path);
    }
    for (split = 0; split < SPLITS; split++) {
        for (label = 0; label < SIM_CLASSES; label++) {
            if (!j->counts[split][label]) continue;
            snprintf(path, sizeof path, "%s/%s/%s", j->folder, split_names[split],
                     sim_class_names[label]);
            if (!make_folder(path, error)) return 0;
            snprintf(path, sizeof path, "%s/maps/%s/%s", j->folder, split_names[split],
                     sim_class_names[label]);
            if (j->maps && !make_folder(path, error)) return 0;
        }
    }
    return 1;
}

/* `total` images from number `first` of the set on. */
static int write_blocks(const job *j, FILE *table, long first, long total, long *done,
                        lensnet_error *error)
{
    const int threads = system_threads(j->threads);
    worker *workers = workers_create(j, threads, error);
    sim_truth *truths = (sim_truth *)malloc(BLOCK * sizeof *truths);
    progress_bar bar;
    char passed[24];
    int good = workers && truths;
    if (workers && !truths) fail(error, "not enough memory for the table of a block of images");
    progress_start(&bar, 0);
    while (good && *done < total) {
        long count = total - *done < BLOCK ? total - *done : BLOCK, i;
        long written = write_block(j, first + *done, count, workers, threads, truths, error);
        good = written == count;
        for (i = 0; good && i < count; i++)
            write_truth(table, name_image(j, first + *done + i), &truths[i]);
        if (good && fflush(table) != 0)
            good = fail(error, "cannot write %s/truth.csv: %s", j->folder, strerror(errno));
        *done += written;
        progress_show(&bar, "images", (size_t)*done, (size_t)total, "");
    }
    progress_end(&bar);
    if (workers) workers_destroy(workers, threads);
    free(truths);
    if (good)
        printf("%ld images in %s, %s, %.0f per second\n", total, j->folder,
               system_duration(passed, system_seconds() - bar.started),
               progress_rate(&bar, (size_t)total));
    return good;
}

static int make_set(const job *j, lensnet_error *error)
{
    char part[PATH_ROOM + 32], whole[PATH_ROOM + 16], reason[sizeof error->text];
    char mark[MARK_ROOM];
    const long first = part_first(j, j->part), total = part_first(j, j->part + 1) - first;
    long done = 0;
    FILE *table;
    int good;
    if (total_images(j) == 0)
        return fail(error, "no images asked for: say how many per class, e.g. --train 100");
    if (!make_folders(j, error)) return 0;
    system_catch_interrupts();
    system_begin_work();
    name_table(whole, sizeof whole, j, j->part);
    snprintf(part, sizeof part, "%s.part", whole);
    table = fopen(part, "w");
    if (!table) return fail(error, "cannot create %s: %s", part, strerror(errno));
    write_truth_head(table);
    good = write_blocks(j, table, first, total, &done, error);
    name_part(mark, sizeof mark, j->part, j, total);
    if (j->parts > 1) fprintf(table, "%s%016llx\n", mark, (unsigned long long)name_set(j));
    if (ferror(table) && good) good = fail(error, "cannot write %s: %s", part, strerror(errno));
    if (fclose(table) != 0 && good)
        good = fail(error, "cannot write %s: %s", part, strerror(errno));
    if (good && rename(part, whole) != 0)
        good = fail(error, "cannot rename %s: %s", part, strerror(errno));
    if (!good) {
        memcpy(reason, error->text, sizeof reason);
        fail(
            error,
            "%s%s The set is not complete: %ld of %ld images lie in %.100s, their table (as far as "
            "it goes) is truth.csv.part; remove the folder before the next try",
            reason, full_stop(reason), done, total, j->folder);
    }
    return good;
}

/* The rest of the file must be the mark of the part, and its set that of the first part. */
static int check_mark(char set[MARK_ROOM], FILE *file, const char *path, const char *begins,
                      lensnet_error *error)
{
    char line[MARK_ROOM] = "#";
    const size_t length = strlen(begins);
    if (!fgets(line + 1, sizeof line - 1, file) || strncmp(line, begins, length) != 0 ||
        strlen(line) != length + 17 || getc(file) != EOF)
        return fail(error,
                    "%s: it does not end with the mark of this part and its images; make it anew",
                    path);
    if (!set[0]) memcpy(set, line + length, 18);
    return !strcmp(set, line + length) ||
           fail(error, "%s has another seed, other numbers of images or options than part 1", path);
}

/* Appends the table of a part, without its mark, and without its first line but for that of the first part.
 * `set`: what the mark of the first part says; empty for this one. */
static int append_table(FILE *table, const char *path, const job *j, long part, char *set,
                        lensnet_error *error)
{
    FILE *file = fopen(path, "r");
    char mark[MARK_ROOM];
    long lines = 0;
    int c, good, last = '\n';
    if (!file) return fail(error, "%s: %s; is this part complete?", path, strerror(errno));
    while ((c = getc(file)) != EOF && !(c == '#' && last == '\n')) {
        if (lines || part == 1) putc(c, table);
        lines += c == '\n';
        last = c;
    }
    name_part(mark, sizeof mark, part, j, lines - 1);
    good = check_mark(set, file, path, mark, error);
    fclose(file);
    return good;
}

/* Joins the tables of all parts to truth.csv, and removes them. */
static int merge_parts(const job *j, lensnet_error *error)
{
    char path[PATH_ROOM + 64], temporary[PATH_ROOM + 32], whole[PATH_ROOM + 16];
    char set[MARK_ROOM] = "";
    FILE *table;
    long i;
    int good = 1;
    if (strlen(j->folder) > PATH_ROOM - 100) return fail(error, "the folder's path is too long");
    snprintf(whole, sizeof whole, "%s/truth.csv", j->folder);
    snprintf(temporary, sizeof temporary, "%s.part", whole);
    if (system_exists(whole)) return fail(error, "%s is there already", whole);
    table = fopen(temporary, "w");
    if (!table) return fail(error, "cannot create %s: %s", temporary, strerror(errno));
    for (i = 1; good && i <= j->parts; i++) {
        name_table(path, sizeof path, j, i);
        good = append_table(table, path, j, i, set, error);
    }
    if ((ferror(table) | (fclose(table) != 0)) && good)
        good = fail(error, "cannot write %s: %s", temporary, strerror(errno));
    if (good && rename(temporary, whole) != 0)
        good = fail(error, "cannot rename %s: %s", temporary, strerror(errno));
    if (!good) remove(temporary);
    for (i = 1; good && i <= j->parts; i++) {
        name_table(path, sizeof path, j, i);
        remove(path);
    }
    return good;
}

/* -------------------------------------------------------------------------------------------------
 * >>gallery  Examples of every class as one SVG file, the pixels as PNG images inside it.
 * ---------------------------------------------------------------------------------------------- */

enum { GALLERY_COLUMNS = 5, COLOURS = 256 };

/* Growing bytes. */
typedef struct {
    unsigned char *data;
    size_t used, room;
    int failed;
} bytes;

static void bytes_add(bytes *b, const void *data, size_t count)
{
    if (b->used + count > b->room) {
        size_t room = (b->used + count) * 2;
        unsigned char *grown = b->failed ? NULL : (unsigned char *)realloc(b->data, room);
        if (!grown) {
            b->failed = 1;
            return;
        }
        b->data = grown;
        b->room = room;
    }
    memcpy(b->data + b->used, data, count);
    b->used += count;
}

static void bytes_big_endian(bytes *b, uint32_t value)
{
    unsigned char four[4];
    int i;
    for (i = 0; i < 4; i++) four[i] = (unsigned char)(value >> (24 - 8 * i));
    bytes_add(b, four, 4);
}

static void svg_base64(sheet *svg, const unsigned char *data, size_t count)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i;
    for (i = 0; i < count; i += 3) {
        size_t here = count - i < 3 ? count - i : 3;
        uint32_t three = (uint32_t)data[i] << 16;
        if (here > 1) three |= (uint32_t)data[i + 1] << 8;
        if (here > 2) three |= data[i + 2];
        sheet_add(svg, "%c%c%c%c", digits[three >> 18], digits[three >> 12 & 63],
                  here > 1 ? digits[three >> 6 & 63] : '=', here > 2 ? digits[three & 63] : '=');
    }
}

static uint32_t png_crc(const unsigned char *data, size_t count)
{
    uint32_t crc = 0xFFFFFFFFu;
    size_t i;
    int bit;
    for (i = 0; i < count; i++) {
        crc ^= data[i];
        for (bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

static void png_chunk(bytes *png, const char *type, const unsigned char *data, size_t count)
{
    size_t start;
    bytes_big_endian(png, (uint32_t)count);
    start = png->used;
    bytes_add(png, type, 4);
    bytes_add(png, data, count);
    if (!png->failed) bytes_big_endian(png, png_crc(png->data + start, png->used - start));
}

/* zlib stream of stored blocks */
static void png_deflate(bytes *out, const unsigned char *data, size_t count)
{
    uint32_t a = 1, b = 0;
    size_t i, at;
    bytes_add(out, "\x78\x01", 2);
    for (at = 0; at < count; at += 65535) {
        size_t here = count - at < 65535 ? count - at : 65535;
        unsigned char head[5];
        head[0] = at + here == count;
        head[1] = (unsigned char)(here & 255);
        head[2] = (unsigned char)(here >> 8);
        head[3] = (unsigned char)~head[1];
        head[4] = (unsigned char)~head[2];
        bytes_add(out, head, 5);
        bytes_add(out, data + at, here);
    }
    for (i = 0; i < count; i++) {
        a = (a + data[i]) % 65521;
        b = (b + a) % 65521;
    }
    bytes_big_endian(out, b << 16 | a);
}

/* From night to light: equal steps look like equal steps of brightness. */
static void colour_table(unsigned char table[COLOURS * 3])
{
    static const unsigned char stops[6][3] = {{3, 4, 18},    {46, 24, 98},   {134, 40, 116},
                                              {218, 84, 76}, {248, 170, 74}, {255, 250, 222}};
    int i, c;
    for (i = 0; i < COLOURS; i++) {
        double at = 5.0 * i / (COLOURS - 1);
        int stop = at < 4 ? (int)at : 4;
        for (c = 0; c < 3; c++)
            table[3 * i + c] =
                (unsigned char)(stops[stop][c] +
                                (at - stop) * (stops[stop + 1][c] - stops[stop][c]) + 0.5);
    }
}

/* Palette image; `levels` is height rows of width indices. */
static void png_image(bytes *png, const unsigned char *levels, int width, int height)
{
    unsigned char head[13] = {0}, table[COLOURS * 3];
    bytes raw = {NULL, 0, 0, 0}, packed = {NULL, 0, 0, 0};
    int i;
    for (i = 0; i < 4; i++) {
        head[i] = (unsigned char)(width >> (24 - 8 * i));
        head[4 + i] = (unsigned char)(height >> (24 - 8 * i));
    }
    head[8] = 8;
    head[9] = 3;
    colour_table(table);
    for (i = 0; i < height; i++) {
        bytes_add(&raw, "", 1); /* no filter */
        bytes_add(&raw, levels + (size_t)i * (size_t)width, (size_t)width);
    }
    if (!raw.failed) png_deflate(&packed, raw.data, raw.used);
    bytes_add(png, "\x89PNG\r\n\x1a\n", 8);
    png_chunk(png, "IHDR", head, sizeof head);
    png_chunk(png, "PLTE", table, sizeof table);
    if (!packed.failed) png_chunk(png, "IDAT", packed.data, packed.used);
    png_chunk(png, "IEND", head, 0);
    png->failed |= raw.failed | packed.failed;
    free(raw.data);
    free(packed.data);
}

static void svg_image(sheet *svg, const unsigned char *levels, int width, int height, double x,
                      double y, double shown_width, double shown_height)
{
    bytes png = {NULL, 0, 0, 0};
    png_image(&png, levels, width, height);
    sheet_add(svg,
              "<image x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" preserveAspectRatio=\"none\" "
              "style=\"image-rendering:pixelated\" href=\"data:image/png;base64,",
              x, y, shown_width, shown_height);
    if (!png.failed) svg_base64(svg, png.data, png.used);
    sheet_add(svg, "\"/>\n");
    svg->failed |= png.failed;
    free(png.data);
}

/* Faint arcs matter, so colour follows the square root. */
static void gallery_levels(unsigned char *levels, const double *pixels, size_t count)
{
    double low = pixels[0], high = pixels[0], span;
    size_t i;
    for (i = 0; i < count; i++) {
        low = pixels[i] < low ? pixels[i] : low;
        high = pixels[i] > high ? pixels[i] : high;
    }
    span = high > low ? high - low : 1;
    for (i = 0; i < count; i++)
        levels[i] = (unsigned char)(sqrt((pixels[i] - low) / span) * (COLOURS - 1) + 0.5);
}

static void gallery_colour_bar(sheet *svg, double x, double y, double height)
{
    enum { BAR = 14 };
    static const double ticks[] = {0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1};
    unsigned char ramp[COLOURS * BAR];
    size_t i;
    for (i = 0; i < sizeof ramp; i++) ramp[i] = (unsigned char)(COLOURS - 1 - i / BAR);
    svg_image(svg, ramp, BAR, COLOURS, x, y, BAR, height);
    for (i = 0; i < sizeof ticks / sizeof *ticks; i++) {
        double at = y + height * (1 - sqrt(ticks[i]));
        svg_line(svg, x + BAR, at, x + BAR + 5, at, SVG_GREY, 1, "");
        sheet_add(svg, "<text x=\"%g\" y=\"%g\">%g</text>\n", x + BAR + 9, at + 4, ticks[i]);
    }
    sheet_add(svg,
              "<text transform=\"translate(%g %g) rotate(90)\" text-anchor=\"middle\">brightness "
              "between the faintest pixel and the brightest</text>\n",
              x + 62, y + height / 2);
}

static void gallery_scale_bar(sheet *svg, const sim_params *p, double x, double y, double side)
{
    double field = p->width * p->pixel_scale, length = 1;
    while (length > 0.5 * field) length /= 10;
    while (length < 0.05 * field) length *= 10;
    svg_line(svg, x + 8, y + side - 9, x + 8 + side * length / field, y + side - 9, "#fff", 2, "");
    sheet_add(svg, "<text x=\"%g\" y=\"%g\" fill=\"#fff\">%g arcsec</text>\n", x + 8, y + side - 15,
              length);
}

static void gallery_draw(sheet *svg, const job *j, sim_workspace *w, double *pixels,
                         unsigned char *levels)
{
    static const char *const meaning[SIM_CLASSES] = {
        "smooth halo", "halo with cold dark matter subhalos", "halo with a superfluid vortex"};
    const double side = 150, gap = 6, label = 24, right = 84;
    const double width = gap + GALLERY_COLUMNS * (side + gap) + right;
    const double height = SIM_CLASSES * (side + label) + gap;
    const size_t count = (size_t)j->params.height * (size_t)j->params.width;
    int c, i;
    svg_begin(svg, width, height);
    sheet_add(svg, "<g font-size=\"12\" fill=\"%s\">\n", SVG_GREY);
    for (c = 0; c < SIM_CLASSES; c++) {
        double y = c * (side + label) + label;
        sheet_add(svg,
                  "<text x=\"%g\" y=\"%g\"><tspan font-weight=\"bold\" fill=\"%s\">%s</tspan>: "
                  "%s</text>\n",
                  gap, y - 7, SVG_INK, sim_class_names[c], meaning[c]);
        for (i = 0; i < GALLERY_COLUMNS; i++) {
            double x = gap + i * (side + gap);
            sim_image(pixels, NULL, w, j->seed, c, (uint64_t)i);
            gallery_levels(levels, pixels, count);
            svg_image(svg, levels, j->params.width, j->params.height, x, y, side, side);
            if (i == 0) gallery_scale_bar(svg, &j->params, x, y, side);
        }
    }
    gallery_colour_bar(svg, gap + GALLERY_COLUMNS * (side + gap), label, height - label - gap);
    sheet_add(svg, "</g>\n");
}

static int make_gallery(const job *j, lensnet_error *error)
{
    const size_t count = (size_t)j->params.height * (size_t)j->params.width;
    double *pixels = (double *)malloc(count * sizeof(double));
    unsigned char *levels = (unsigned char *)malloc(count);
    sim_workspace *w = NULL;
    sheet svg;
    int good = pixels && levels;
    if (!good) fail(error, "not enough memory for a gallery");
    good = good && sim_workspace_create(&w, &j->params, LENSNET_ISA_BEST, error) == LENSNET_OK;
    if (good) {
        gallery_draw(&svg, j, w, pixels, levels);
        good = svg_end(&svg, j->gallery, error) == LENSNET_OK;
    }
    sim_workspace_destroy(w);
    free(levels);
    free(pixels);
    return good;
}

/* -------------------------------------------------------------------------------------------------
 * >>benchmark  Images per second into memory, float32, every thread at work.
 * ---------------------------------------------------------------------------------------------- */

static double benchmark_class(const job *j, worker *workers, int threads, int label, long count)
{
    double started = system_seconds();
    long i;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
    for (i = 0; i < count; i++) {
        const worker *at = &workers[system_thread()];
        sim_image_float((float *)at->pixels, NULL, at->workspace, j->seed, label, (uint64_t)i);
    }
    (void)threads;
    return system_seconds() - started;
}

static int run_benchmark(const job *j, lensnet_error *error)
{
    const int threads = system_threads(j->threads), rounds = 5;
    worker *workers = workers_create(j, threads, error);
    int c, round;
    if (!workers) return 0;
    printf("images of %d x %d in memory, %d thread%s, %s; best and median of %d rounds, processor "
           "time\n",
           j->params.height, j->params.width, threads, threads == 1 ? "" : "s",
           lensnet_isa_text(sim_isa(LENSNET_ISA_BEST)), rounds);
    for (c = 0; c < SIM_CLASSES; c++) {
        double rates[8], probe, processor = 1e9;
        long count;
        benchmark_class(j, workers, threads, c, 2 * threads);
        probe = benchmark_class(j, workers, threads, c, 16 * threads) / (16 * threads);
        count = probe > 0 ? (long)(0.4 / probe) + threads : 1000;
        for (round = 0; round < rounds; round++) {
            clock_t before = clock();
            double rate = (double)count / benchmark_class(j, workers, threads, c, count);
            double used = (double)(clock() - before) / CLOCKS_PER_SEC / (double)count;
            int k = round;
            for (; k > 0 && rates[k - 1] < rate; k--) rates[k] = rates[k - 1];
            rates[k] = rate;
            processor = used < processor ? used : processor;
        }
        printf("  %-7s %8.0f  %8.0f images/s  %7.3f ms of a core per image\n", sim_class_names[c],
               rates[0], rates[rounds / 2], 1000 * processor);
    }
    workers_destroy(workers, threads);
    return 1;
}

/* -------------------------------------------------------------------------------------------------
 * >>main
 * ---------------------------------------------------------------------------------------------- */

/* 0 where the command line asks for nothing. */
static int asks(const job *j, lensnet_error *error)
{
    return j->help || j->folder || j->benchmark || j->gallery ||
           fail(error, "say where the images go, e.g. simulate universe --train 100; see --help");
}

static int run_job(const job *j, lensnet_error *error)
{
    if (j->merge && (!j->folder || j->parts == 1))
        return fail(error, "--merge needs the folder and --part I/N, any of the N parts");
    if (j->merge) return merge_parts(j, error);
    if (sim_check(&j->params, error) != LENSNET_OK) return 0;
    if (j->benchmark && !run_benchmark(j, error)) return 0;
    if (j->gallery && !make_gallery(j, error)) return 0;
    if (j->folder) return make_set(j, error);
    return 1;
}

/* What was printed must have arrived. */
static int flush_output(lensnet_error *error)
{
    return (fflush(stdout) == 0 && !ferror(stdout)) ||
           fail(error, "the output could not be written: %s", strerror(errno));
}

int main(int count, char **arguments)
{
    lensnet_error error;
    int status = 2; /* the command line is wrong */
    job j;
    if (count == 2 && strcmp(arguments[1], "--version") == 0)
        return printf("lensnet %d.%d.%d\n", LENSNET_VERSION_MAJOR, LENSNET_VERSION_MINOR,
                      LENSNET_VERSION_PATCH) < 0;
    if (parse_arguments(&j, count, arguments, &error) && asks(&j, &error)) {
        if (j.help) print_help(&j);
        if ((j.help || run_job(&j, &error)) && flush_output(&error)) return 0;
        status = 1;
    }
    fprintf(stderr, "error: %s%s\n", error.text, full_stop(error.text));
    return status;
}
