/* grow.c - starts a wide network where a narrow one has arrived.
 *
 * cc -O2 -fopenmp tools/grow.c -o grow -lm
 * ./grow weights/lensnet-atto.safetensors tiny start.safetensors
 * ./train --weights start.safetensors ...
 *
 * A channel of the wide network is a copy of one of the narrow network's, whose share of what reads it
 * is split among the copies; a block that the narrow network lacks adds nothing at first. The wide
 * network then says nearly what the narrow one says (not exactly, as some channels are copied more often
 * than others, and layer norm and GRN take means over channels), and learns from there. To every copy
 * a little of the random start is added, or all copies would learn the same for ever. Chen, Goodfellow
 * and Shlens 2016, "Net2Net: Accelerating Learning via Knowledge Transfer". */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"
#include "../examples/arguments.h"

/* How many of `wide` channels are copies of the one that channel `index` is a copy of. */
static size_t copies(size_t index, size_t wide, size_t narrow)
{
    return (wide - index % narrow - 1) / narrow + 1;
}

/* Takes from noise what copies have in common along an axis (0 outputs, 1 inputs), so that their sum is
 * what it was without it. */
static void centre(float *noise, const size_t wide[4], size_t narrow, int axis)
{
    const size_t count = wide[axis], total = wide[0] * wide[1] * wide[2] * wide[3];
    const size_t step = axis ? wide[2] * wide[3] : wide[1] * wide[2] * wide[3];
    size_t i, j;
    if (count == narrow) return;
    for (i = 0; i < total; i++) {
        const size_t index = i / step % count, number = copies(index, count, narrow);
        float mean = 0;
        if (index >= narrow) continue;
        for (j = 0; j < number; j++) mean += noise[i + j * narrow * step] / (float)number;
        for (j = 0; j < number; j++) noise[i + j * narrow * step] -= mean;
    }
}

/* A tensor of the wide network, which holds its random start, from the narrow one's of the same name:
 * (K, C, R, S), or GRN's (1, 1, 1, 4C), or vectors. */
static void grow_tensor(float *wide, const lensnet_parameter_info *to, const float *narrow,
                        const lensnet_parameter_info *from)
{
    const size_t *w = to->shape, *n = from->shape;
    size_t i;
    centre(wide, w, n[0], 0);
    centre(wide, w, n[1], 1);
    for (i = 0; i < to->size; i++) {
        const size_t s = i % w[3], r = i / w[3] % w[2], c = i / w[3] / w[2] % w[1];
        const size_t k = i / w[3] / w[2] / w[1];
        const float source =
            narrow[((k % n[0] * n[1] + c % n[1]) * n[2] + r % n[2]) * n[3] + s % n[3]];
        wide[i] = (source + wide[i]) / (float)copies(c, w[1], n[1]);
    }
}

/* Is it what ends a block, so that a block without it passes its input on? */
static int ends_block(const char *name) { return strstr(name, ".pwconv2.") != NULL; }

static int find(lensnet_parameter_info *info, const lensnet_parameters *parameters,
                const char *name)
{
    size_t i;
    for (i = 0; i < lensnet_parameters_count(parameters); i++) {
        *info = lensnet_parameters_info(parameters, i);
        if (strcmp(info->name, name) == 0) return 1;
    }
    return 0;
}

static void grow_parameters(lensnet_parameters *wide, lensnet_parameters *narrow)
{
    float *values = lensnet_parameters_values(wide);
    const float *given = lensnet_parameters_values(narrow);
    lensnet_parameter_info to, from;
    size_t i, j;
    for (i = 0; i < lensnet_parameters_count(wide); i++) {
        to = lensnet_parameters_info(wide, i);
        if (find(&from, narrow, to.name))
            grow_tensor(values + to.offset, &to, given + from.offset, &from);
        else if (ends_block(to.name))
            for (j = 0; j < to.size; j++) values[to.offset + j] = 0;
    }
    lensnet_parameters_changed(wide);
}

/* Is every stage of `wide` at least as deep and wide? */
static int larger(const lensnet_model_desc *wide, const lensnet_model_desc *narrow)
{
    int i, good = 1;
    for (i = 0; i < 4; i++)
        good = good && wide->depths[i] >= narrow->depths[i] && wide->widths[i] >= narrow->widths[i];
    return good;
}

static lensnet_result grow(const char *in, const char *variant, const char *out,
                           lensnet_error *error)
{
    lensnet_load_options load = lensnet_load_defaults();
    lensnet_model *narrow = NULL, *wide = NULL;
    lensnet_model_desc desc;
    lensnet_result result;
    load.gradients = 0;
    result = lensnet_model_load(&narrow, in, &load, NULL, error);
    if (result) return result;
    desc = *lensnet_model_description(narrow);
    result = lensnet_model_variant(&desc, variant, error);
    if (!result && !larger(&desc, lensnet_model_description(narrow))) {
        snprintf(error->text, sizeof error->text, "%s: %s is not larger in every stage", in,
                 variant);
        result = error->code = LENSNET_ERROR_ARGUMENT;
    }
    if (!result) result = lensnet_model_create(&wide, &desc, error);
    if (!result) {
        grow_parameters(lensnet_model_parameters(wide), lensnet_model_parameters(narrow));
        result = lensnet_model_save(wide, out, LENSNET_DTYPE_F32, error);
    }
    lensnet_model_destroy(wide);
    lensnet_model_destroy(narrow);
    return result;
}

int main(int argc, char **argv)
{
    lensnet_error error;
    if (arguments_parse(NULL, 0, "usage: grow IN.safetensors VARIANT OUT.safetensors", argc,
                        argv) != 3)
        arguments_fail("expected IN, VARIANT and OUT; --help says more");
    if (grow(argv[1], argv[2], argv[3], &error)) {
        fprintf(stderr, "error: %s\n", error.text);
        return 1;
    }
    printf("%s: %s grown to %s; it wants to be trained\n", argv[3], argv[1], argv[2]);
    return arguments_flush() ? 0 : 1;
}
