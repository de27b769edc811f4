/* backbones.h - other networks from the operators of level 3: ResNet, ConvNeXt V1, DenseNet, EfficientNet,
 * ViT, each written as in its paper.
 *
 * A network is one function that records it; the weights that it names are added to the table as it goes, in
 * the names and shapes of torchvision and timm, or found there when a second graph is recorded:
 *
 *     lensnet_parameters_create(&parameters, NULL, &error);
 *     backbone_graph(&graph, parameters, "resnet18", 3, &options, &error);     training or not
 *     lensnet_parameters_allocate(parameters, 1, seed, &error);
 *     backbone_load(parameters, archive, &error);                              or
 *     backbone_initialise(parameters);
 *     lensnet_graph_allocate(graph, &error);
 *
 * Include after lensnet.h. Functions return a lensnet_result. */
#ifndef BACKBONES_H
#define BACKBONES_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- weights by name ------------------------------------------------------------------------------ */

typedef struct backbone {
    lensnet_graph *graph;
    lensnet_parameters *parameters;
    char prefix[80]; /* of the names, e.g. "layer1.0." */
} backbone;

static void backbone_enter(backbone *b, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(b->prefix, sizeof b->prefix, format, list);
    va_end(list);
}

static size_t backbone_channels(const backbone *b, lensnet_tensor x)
{
    size_t channels;
    lensnet_tensor_shape(b->graph, x, NULL, NULL, &channels);
    return channels ? channels : 1; /* of a graph that has failed */
}

/* The weight PREFIX NAME SUFFIX, new or as an earlier graph left it. */
static lensnet_parameter backbone_weight(backbone *b, const char *name, const char *suffix,
                                         const size_t shape[4], lensnet_initial initial)
{
    char full[160];
    lensnet_parameter found;
    const size_t count = lensnet_parameters_count(b->parameters);
    snprintf(full, sizeof full, "%s%s%s", b->prefix, name, suffix);
    for (found.index = 0; (size_t)found.index < count; found.index++)
        if (!strcmp(lensnet_parameters_info(b->parameters, (size_t)found.index).name, full))
            return found;
    return strncmp(suffix, ".running", 8) == 0
               ? lensnet_statistic_add(b->parameters, full, shape[0], initial)
               : lensnet_parameter_add(b->parameters, full, shape[0], shape[1], shape[2], shape[3],
                                       initial);
}

static lensnet_parameter backbone_vector(backbone *b, const char *name, const char *suffix,
                                         size_t count, lensnet_initial initial)
{
    size_t shape[4] = {0, 0, 0, 0};
    shape[0] = count;
    return backbone_weight(b, name, suffix, shape, initial);
}

/* ---- layers --------------------------------------------------------------------------------------- */

typedef struct conv_shape {
    size_t width, kernel, stride, padding, groups;
    int biased;
} conv_shape;

static lensnet_tensor conv_of(backbone *b, lensnet_tensor x, const char *name, conv_shape s)
{
    lensnet_conv2d_desc desc = lensnet_conv2d_defaults();
    lensnet_parameter weight, bias = {-1};
    size_t shape[4];
    shape[0] = s.width;
    shape[1] = backbone_channels(b, x) / s.groups;
    shape[2] = shape[3] = s.kernel;
    desc.stride = s.stride;
    desc.padding = s.padding;
    desc.groups = s.groups;
    weight = backbone_weight(b, name, ".weight", shape, LENSNET_INITIAL_HE);
    if (s.biased) bias = backbone_vector(b, name, ".bias", s.width, LENSNET_INITIAL_ZERO);
    return lensnet_conv2d(b->graph, x, weight, bias, &desc);
}

/* kernel x kernel, without bias, padded to keep the size at stride 1. */
static lensnet_tensor conv(backbone *b, lensnet_tensor x, const char *name, size_t width,
                           size_t kernel, size_t stride)
{
    conv_shape s = {0, 0, 0, 0, 1, 0};
    s.width = width;
    s.kernel = kernel;
    s.stride = stride;
    s.padding = kernel / 2;
    return conv_of(b, x, name, s);
}

static lensnet_tensor depthwise(backbone *b, lensnet_tensor x, const char *name, size_t kernel,
                                size_t stride, int biased)
{
    conv_shape s = {0, 0, 0, 0, 0, 0};
    s.width = s.groups = backbone_channels(b, x);
    s.kernel = kernel;
    s.stride = stride;
    s.padding = kernel / 2;
    s.biased = biased;
    return conv_of(b, x, name, s);
}

/* Non-overlapping patches, with bias. */
static lensnet_tensor patches(backbone *b, lensnet_tensor x, const char *name, size_t width,
                              size_t side)
{
    conv_shape s = {0, 0, 0, 0, 1, 1};
    s.width = width;
    s.kernel = s.stride = side;
    return conv_of(b, x, name, s);
}

static lensnet_tensor linear(backbone *b, lensnet_tensor x, const char *name, size_t width)
{
    size_t shape[4] = {0, 0, 0, 0};
    lensnet_parameter weight;
    shape[0] = width;
    shape[1] = backbone_channels(b, x);
    weight = backbone_weight(b, name, ".weight", shape, LENSNET_INITIAL_NORMAL_002);
    return lensnet_linear(b->graph, x, weight,
                          backbone_vector(b, name, ".bias", width, LENSNET_INITIAL_ZERO));
}

static lensnet_tensor batch_norm(backbone *b, lensnet_tensor x, const char *name)
{
    const size_t c = backbone_channels(b, x);
    lensnet_batch_norm_desc d = lensnet_batch_norm_defaults();
    d.weight = backbone_vector(b, name, ".weight", c, LENSNET_INITIAL_ONE);
    d.bias = backbone_vector(b, name, ".bias", c, LENSNET_INITIAL_ZERO);
    d.mean = backbone_vector(b, name, ".running_mean", c, LENSNET_INITIAL_ZERO);
    d.variance = backbone_vector(b, name, ".running_var", c, LENSNET_INITIAL_ONE);
    return lensnet_batch_norm(b->graph, x, &d);
}

static lensnet_tensor layer_norm(backbone *b, lensnet_tensor x, const char *name)
{
    const size_t c = backbone_channels(b, x);
    const lensnet_parameter weight = backbone_vector(b, name, ".weight", c, LENSNET_INITIAL_ONE);
    return lensnet_layer_norm(b->graph, x, weight,
                              backbone_vector(b, name, ".bias", c, LENSNET_INITIAL_ZERO), 1e-6f);
}

static lensnet_tensor relu(backbone *b, lensnet_tensor x) { return lensnet_relu(b->graph, x); }
static lensnet_tensor silu(backbone *b, lensnet_tensor x) { return lensnet_silu(b->graph, x); }

static lensnet_tensor add(backbone *b, lensnet_tensor x, lensnet_tensor y)
{
    return lensnet_add(b->graph, x, y);
}

/* ---- ResNet: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1 -------------- */

typedef struct resnet {
    size_t depths[4];
    int bottleneck; /* blocks of three convolutions (figure 5 right) instead of two */
} resnet;

/* F(x), equation 1. Stride in the 3 x 3 of a bottleneck, as torchvision has it. */
static lensnet_tensor resnet_residual(backbone *b, const resnet *r, lensnet_tensor x, size_t width,
                                      size_t stride)
{
    if (!r->bottleneck) {
        x = relu(b, batch_norm(b, conv(b, x, "conv1", width, 3, stride), "bn1"));
        return batch_norm(b, conv(b, x, "conv2", width, 3, 1), "bn2");
    }
    x = relu(b, batch_norm(b, conv(b, x, "conv1", width, 1, 1), "bn1"));
    x = relu(b, batch_norm(b, conv(b, x, "conv2", width, 3, stride), "bn2"));
    return batch_norm(b, conv(b, x, "conv3", 4 * width, 1, 1), "bn3");
}

/* y = F(x) + x; where the shapes differ, x is projected (option B). */
static lensnet_tensor resnet_block(backbone *b, const resnet *r, lensnet_tensor x, size_t width,
                                   size_t stride)
{
    const size_t wide = r->bottleneck ? 4 * width : width;
    lensnet_tensor y = resnet_residual(b, r, x, width, stride);
    if (stride != 1 || backbone_channels(b, x) != wide)
        x = batch_norm(b, conv(b, x, "downsample.0", wide, 1, stride), "downsample.1");
    return relu(b, add(b, y, x));
}

static lensnet_tensor resnet_record(backbone *b, const void *details, lensnet_tensor x,
                                    size_t classes)
{
    const resnet *r = (const resnet *)details;
    size_t stage, block;
    x = relu(b, batch_norm(b, conv(b, x, "conv1", 64, 7, 2), "bn1"));
    x = lensnet_max_pool(b->graph, x, 3, 2, 1);
    for (stage = 0; stage < 4; stage++)
        for (block = 0; block < r->depths[stage]; block++) {
            backbone_enter(b, "layer%d.%d.", (int)stage + 1, (int)block);
            x = resnet_block(b, r, x, (size_t)64 << stage, stage > 0 && block == 0 ? 2 : 1);
        }
    backbone_enter(b, "");
    return linear(b, lensnet_mean_pool(b->graph, x), "fc", classes);
}

static const resnet resnet18 = {{2, 2, 2, 2}, 0}, resnet34 = {{3, 4, 6, 3}, 0},
                    resnet50 = {{3, 4, 6, 3}, 1};

/* ---- ConvNeXt V1: Liu et al. 2022, "A ConvNet for the 2020s"; timm's names ------------------------- */

typedef struct convnext {
    size_t depths[4], width;
    int convolutions; /* timm writes the linear layers of the small ones as 1 x 1 convolutions */
} convnext;

static lensnet_tensor convnext_pointwise(backbone *b, const convnext *n, lensnet_tensor x,
                                         const char *name, size_t width)
{
    return n->convolutions ? patches(b, x, name, width, 1) : linear(b, x, name, width);
}

/* Figure 4, with layer scale (gamma). */
static lensnet_tensor convnext_block(backbone *b, const convnext *n, lensnet_tensor x)
{
    const size_t c = backbone_channels(b, x);
    lensnet_tensor y = layer_norm(b, depthwise(b, x, "conv_dw", 7, 1, 1), "norm");
    y = lensnet_gelu(b->graph, convnext_pointwise(b, n, y, "mlp.fc1", 4 * c));
    y = convnext_pointwise(b, n, y, "mlp.fc2", c);
    y = lensnet_channel_scale(b->graph, y, backbone_vector(b, "gamma", "", c, LENSNET_INITIAL_ONE));
    return add(b, x, y);
}

static lensnet_tensor convnext_record(backbone *b, const void *details, lensnet_tensor x,
                                      size_t classes)
{
    const convnext *n = (const convnext *)details;
    size_t stage, block;
    x = layer_norm(b, patches(b, x, "stem.0", n->width, 4), "stem.1");
    for (stage = 0; stage < 4; stage++) {
        backbone_enter(b, "stages.%d.downsample.", (int)stage);
        if (stage > 0) x = patches(b, layer_norm(b, x, "0"), "1", n->width << stage, 2);
        for (block = 0; block < n->depths[stage]; block++) {
            backbone_enter(b, "stages.%d.blocks.%d.", (int)stage, (int)block);
            x = convnext_block(b, n, x);
        }
    }
    backbone_enter(b, "head.");
    return linear(b, layer_norm(b, lensnet_mean_pool(b->graph, x), "norm"), "fc", classes);
}

static const convnext convnext_atto = {{2, 2, 6, 2}, 40, 1}, convnext_femto = {{2, 2, 6, 2}, 48, 1},
                      convnext_pico = {{2, 2, 6, 2}, 64, 1}, convnext_nano = {{2, 2, 8, 2}, 80, 1},
                      convnext_tiny = {{3, 3, 9, 3}, 96, 0},
                      convnext_small = {{3, 3, 27, 3}, 96, 0},
                      convnext_base = {{3, 3, 27, 3}, 128, 0};

/* ---- DenseNet: Huang et al. 2017, "Densely Connected Convolutional Networks", table 1 -------------- */

enum { DENSENET_GROWTH = 32 };

/* BN-ReLU-Conv(1)-BN-ReLU-Conv(3), beside what went in. */
static lensnet_tensor densenet_layer(backbone *b, lensnet_tensor x)
{
    lensnet_tensor y = relu(b, batch_norm(b, x, "norm1"));
    y = relu(b, batch_norm(b, conv(b, y, "conv1", 4 * DENSENET_GROWTH, 1, 1), "norm2"));
    return lensnet_concat(b->graph, x, conv(b, y, "conv2", DENSENET_GROWTH, 3, 1));
}

static lensnet_tensor densenet_record(backbone *b, const void *details, lensnet_tensor x,
                                      size_t classes)
{
    const size_t *depths = (const size_t *)details;
    int block, layer;
    backbone_enter(b, "features.");
    x = relu(b, batch_norm(b, conv(b, x, "conv0", 2 * DENSENET_GROWTH, 7, 2), "norm0"));
    x = lensnet_max_pool(b->graph, x, 3, 2, 1);
    for (block = 0; block < 4; block++) {
        for (layer = 0; (size_t)layer < depths[block]; layer++) {
            backbone_enter(b, "features.denseblock%d.denselayer%d.", block + 1, layer + 1);
            x = densenet_layer(b, x);
        }
        if (block == 3) break;
        backbone_enter(b, "features.transition%d.", block + 1);
        x = relu(b, batch_norm(b, x, "norm"));
        x = conv(b, x, "conv", backbone_channels(b, x) / 2, 1, 1);
        x = lensnet_average_pool(b->graph, x, 2, 2, 0);
    }
    backbone_enter(b, "features.");
    x = relu(b, batch_norm(b, x, "norm5"));
    backbone_enter(b, "");
    return linear(b, lensnet_mean_pool(b->graph, x), "classifier", classes);
}

static const size_t densenet121[4] = {6, 12, 24, 16};

/* ---- EfficientNet: Tan & Le 2019, table 1; timm's names -------------------------------------------- */

typedef struct efficientnet {
    double width, depth; /* factors on B0's channels and layers (equation 3) */
} efficientnet;

typedef struct efficientnet_stage {
    size_t expansion, kernel, stride, channels, layers;
} efficientnet_stage;

static const efficientnet_stage efficientnet_stages[7] = {
    {1, 3, 1, 16, 1},  {6, 3, 2, 24, 2},  {6, 5, 2, 40, 2}, {6, 3, 2, 80, 3},
    {6, 5, 1, 112, 3}, {6, 5, 2, 192, 4}, {6, 3, 1, 320, 1}};

/* Scaled channels are multiples of 8, at least nine tenths of what was asked for. */
static size_t efficientnet_width(const efficientnet *e, size_t channels)
{
    const double wanted = e->width * (double)channels;
    size_t width = (size_t)(wanted + 4) / 8 * 8;
    return (double)width < 0.9 * wanted ? width + 8 : width;
}

/* Squeeze and excitation (Hu et al. 2018): a gate for each channel. */
static lensnet_tensor efficientnet_excite(backbone *b, lensnet_tensor x, size_t squeezed)
{
    lensnet_tensor gate = lensnet_mean_pool(b->graph, x);
    gate = silu(b, patches(b, gate, "se.conv_reduce", squeezed, 1));
    gate = patches(b, gate, "se.conv_expand", backbone_channels(b, x), 1);
    return lensnet_multiply(b->graph, x, lensnet_sigmoid(b->graph, gate));
}

/* MBConv (Sandler et al. 2018): expand, depthwise, gate, project; the first stage does not expand. */
static lensnet_tensor efficientnet_block(backbone *b, const efficientnet_stage *s, lensnet_tensor x,
                                         size_t width, size_t stride)
{
    const size_t c = backbone_channels(b, x);
    const int expands = s->expansion > 1;
    lensnet_tensor y = x;
    if (expands) y = silu(b, batch_norm(b, conv(b, y, "conv_pw", c * s->expansion, 1, 1), "bn1"));
    y = depthwise(b, y, "conv_dw", s->kernel, stride, 0);
    y = silu(b, batch_norm(b, y, expands ? "bn2" : "bn1"));
    y = efficientnet_excite(b, y, c / 4);
    y = batch_norm(b, conv(b, y, expands ? "conv_pwl" : "conv_pw", width, 1, 1),
                   expands ? "bn3" : "bn2");
    return stride == 1 && c == width ? add(b, x, y) : y;
}

static lensnet_tensor efficientnet_record(backbone *b, const void *details, lensnet_tensor x,
                                          size_t classes)
{
    const efficientnet *e = (const efficientnet *)details;
    size_t stage, layer;
    x = silu(b, batch_norm(b, conv(b, x, "conv_stem", efficientnet_width(e, 32), 3, 2), "bn1"));
    for (stage = 0; stage < 7; stage++) {
        const efficientnet_stage *s = &efficientnet_stages[stage];
        const double layers = e->depth * (double)s->layers;
        for (layer = 0; (double)layer < layers; layer++) {
            backbone_enter(b, "blocks.%d.%d.", (int)stage, (int)layer);
            x = efficientnet_block(b, s, x, efficientnet_width(e, s->channels),
                                   layer == 0 ? s->stride : 1);
        }
    }
    backbone_enter(b, "");
    x = silu(b, batch_norm(b, conv(b, x, "conv_head", efficientnet_width(e, 1280), 1, 1), "bn2"));
    return linear(b, lensnet_mean_pool(b->graph, x), "classifier", classes);
}

static const efficientnet efficientnet_b0 = {1.0, 1.0}, efficientnet_b1 = {1.0, 1.1};

/* ---- ViT: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; timm's names -------------------- */

typedef struct vit {
    size_t depth, width, heads, patch;
} vit;

/* Equations 2 and 3. */
static lensnet_tensor vit_block(backbone *b, const vit *v, lensnet_tensor x)
{
    lensnet_tensor y = linear(b, layer_norm(b, x, "norm1"), "attn.qkv", 3 * v->width);
    x = add(b, x, linear(b, lensnet_attention(b->graph, y, v->heads), "attn.proj", v->width));
    y = lensnet_gelu(b->graph, linear(b, layer_norm(b, x, "norm2"), "mlp.fc1", 4 * v->width));
    return add(b, x, linear(b, y, "mlp.fc2", v->width));
}

/* Equation 1: patches in a row behind the class token, each with its position. */
static lensnet_tensor vit_embed(backbone *b, const vit *v, lensnet_tensor x)
{
    size_t shape[4] = {1, 1, 0, 0}, height, width;
    lensnet_parameter class_token;
    x = patches(b, x, "patch_embed.proj", v->width, v->patch);
    lensnet_tensor_shape(b->graph, x, &height, &width, NULL);
    shape[2] = v->width;
    class_token = backbone_weight(b, "cls_token", "", shape, LENSNET_INITIAL_NORMAL_002);
    shape[1] = 1 + height * width;
    return lensnet_tokens(b->graph, x, class_token,
                          backbone_weight(b, "pos_embed", "", shape, LENSNET_INITIAL_NORMAL_002));
}

static lensnet_tensor vit_record(backbone *b, const void *details, lensnet_tensor x, size_t classes)
{
    const vit *v = (const vit *)details;
    size_t block;
    x = vit_embed(b, v, x);
    for (block = 0; block < v->depth; block++) {
        backbone_enter(b, "blocks.%d.", (int)block);
        x = vit_block(b, v, x);
    }
    backbone_enter(b, "");
    return linear(b, lensnet_token(b->graph, layer_norm(b, x, "norm"), 0), "head", classes);
}

/* DeiT-S (Touvron et al. 2021) is ViT-S trained in another way. */
static const vit vit_small = {12, 384, 6, 16};

/* ---- all of them, by name -------------------------------------------------------------------------- */

typedef struct backbone_entry {
    const char *name;
    lensnet_tensor (*record)(backbone *b, const void *details, lensnet_tensor images,
                             size_t classes); /* -> logits */
    const void *details;
} backbone_entry;

static const backbone_entry backbones[] = {
    {"resnet18", resnet_record, &resnet18},
    {"resnet34", resnet_record, &resnet34},
    {"resnet50", resnet_record, &resnet50},
    {"convnext_atto", convnext_record, &convnext_atto},
    {"convnext_femto", convnext_record, &convnext_femto},
    {"convnext_pico", convnext_record, &convnext_pico},
    {"convnext_nano", convnext_record, &convnext_nano},
    {"convnext_tiny", convnext_record, &convnext_tiny},
    {"convnext_small", convnext_record, &convnext_small},
    {"convnext_base", convnext_record, &convnext_base},
    {"densenet121", densenet_record, densenet121},
    {"efficientnet_b0", efficientnet_record, &efficientnet_b0},
    {"efficientnet_b1", efficientnet_record, &efficientnet_b1},
    {"vit_small_patch16_224", vit_record, &vit_small},
    {"deit_small_patch16_224", vit_record, &vit_small}};

enum { BACKBONES = sizeof backbones / sizeof *backbones };

/* ---- graphs and files ------------------------------------------------------------------------------ */

static lensnet_result backbone_fail(lensnet_error *error, lensnet_result code, const char *format,
                                    ...)
{
    va_list list;
    va_start(list, format);
    if (error) {
        error->code = code;
        vsnprintf(error->text, sizeof error->text, format, list);
    }
    va_end(list);
    return code;
}

/* Records the network of that name for images of 3 channels, with a cross-entropy if it trains, and plans it.
 * The first graph adds the weights to the table, which is to be allocated after it; later ones share
 * them. *graph is the caller's; on failure NULL. */
static lensnet_result backbone_graph(lensnet_graph **graph, lensnet_parameters *parameters,
                                     const char *name, size_t classes,
                                     const lensnet_graph_options *options, lensnet_error *error)
{
    backbone b;
    lensnet_tensor logits;
    lensnet_result result;
    size_t i = 0;
    while (i < BACKBONES && strcmp(backbones[i].name, name) != 0) i++;
    *graph = NULL;
    if (i == BACKBONES)
        return backbone_fail(error, LENSNET_ERROR_ARGUMENT, "no backbone is named %s", name);
    result = lensnet_graph_create(graph, parameters, options, error);
    if (result) return result;
    memset(&b, 0, sizeof b);
    b.graph = *graph;
    b.parameters = parameters;
    logits = backbones[i].record(&b, backbones[i].details, lensnet_input(*graph, 3), classes);
    if (options->training)
        lensnet_cross_entropy(*graph, logits, NULL);
    else
        lensnet_output(*graph, logits);
    result = lensnet_graph_plan(*graph, NULL, error);
    if (result) {
        lensnet_graph_destroy(*graph);
        *graph = NULL;
    }
    return result;
}

/* After lensnet_parameters_allocate: what no lensnet_initial says. Layer scale begins at 1e-6. */
static void backbone_initialise(lensnet_parameters *parameters)
{
    size_t i, k;
    for (i = 0; i < lensnet_parameters_count(parameters); i++) {
        const lensnet_parameter_info w = lensnet_parameters_info(parameters, i);
        const size_t length = strlen(w.name);
        if (length < 6 || strcmp(w.name + length - 6, ".gamma") != 0) continue;
        for (k = 0; k < w.size; k++) lensnet_parameters_values(parameters)[w.offset + k] = 1e-6f;
    }
    lensnet_parameters_changed(parameters);
}

/* Reads every weight of the table; other tensors of the archive (num_batches_tracked) are passed over. */
static lensnet_result backbone_load(lensnet_parameters *parameters, const lensnet_archive *archive,
                                    lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; i < lensnet_parameters_count(parameters) && !result; i++) {
        const lensnet_parameter_info w = lensnet_parameters_info(parameters, i);
        const lensnet_archive_entry *entry = lensnet_archive_find(archive, w.name);
        int d, fits = entry && entry->rank == w.rank;
        for (d = 0; fits && d < w.rank; d++) fits = entry->shape[d] == w.shape[d];
        if (!fits)
            return backbone_fail(error, LENSNET_ERROR_FORMAT,
                                 "the file has no tensor %s, or of another shape", w.name);
        result = lensnet_archive_read_float(lensnet_parameters_values(parameters) + w.offset,
                                            archive, entry, error);
    }
    lensnet_parameters_changed(parameters);
    return result;
}

/* Writes every weight in float32, and the network's name as "lensnet.network" in the metadata. */
static lensnet_result backbone_save(lensnet_parameters *parameters, const char *name,
                                    const char *path, lensnet_error *error)
{
    const size_t count = lensnet_parameters_count(parameters);
    lensnet_archive_tensor *tensors = (lensnet_archive_tensor *)calloc(count, sizeof *tensors);
    lensnet_archive_pair pairs[2] = {{"format", "pt"}, {"lensnet.network", NULL}};
    lensnet_result result;
    size_t i;
    int d;
    if (!tensors) return backbone_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a table");
    for (i = 0; i < count; i++) {
        const lensnet_parameter_info w = lensnet_parameters_info(parameters, i);
        tensors[i].name = w.name;
        tensors[i].dtype = LENSNET_DTYPE_F32;
        tensors[i].rank = w.rank;
        for (d = 0; d < w.rank; d++) tensors[i].shape[d] = w.shape[d];
        tensors[i].values = lensnet_parameters_values(parameters) + w.offset;
    }
    pairs[1].value = name;
    result = lensnet_archive_save(path, tensors, count, pairs, 2, NULL, error);
    free(tensors);
    return result;
}

#endif
