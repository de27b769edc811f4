/* backbones.h - other networks from the operators of level 3: ResNet, ConvNeXt V1, DenseNet, EfficientNet,
 * ViT, each written as in its paper.
 *
 * Each is a lensnet_architecture: one function that records it. The weights that it names are added to the
 * table as it goes, in the names and shapes of torchvision and timm, or found there when another graph is
 * recorded. Models, files and classifiers take them like ConvNeXt V2:
 *
 *     backbone_variant(&desc, "resnet18", &error);                        then lensnet_model_create(...)
 *     options = backbone_load_defaults();                                 then lensnet_model_load(...)
 *     options = backbone_classifier_defaults();                           then lensnet_classifier_load(...)
 *
 * Include after lensnet.h. */
#ifndef BACKBONES_H
#define BACKBONES_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define BACKBONE_API __attribute__((unused)) static
#else
#define BACKBONE_API static
#endif

/* ---- weights by name ------------------------------------------------------------------------------ */

typedef struct backbone {
    lensnet_graph *graph;
    lensnet_parameters *parameters;
    const lensnet_model_desc *desc;
    lensnet_network *network; /* what is recorded */
    size_t block, blocks;     /* of those that drop path may skip: so far, and in all */
    char prefix[80];          /* of the names, e.g. "layer1.0." */
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

typedef struct backbone_conv_shape {
    size_t width, kernel, stride, padding, groups;
} backbone_conv_shape;

/* kernel x kernel, padded to keep the size at stride 1. */
static backbone_conv_shape backbone_same_size(size_t width, size_t kernel, size_t stride,
                                              size_t groups)
{
    backbone_conv_shape s;
    s.width = width;
    s.kernel = kernel;
    s.stride = stride;
    s.padding = kernel / 2;
    s.groups = groups;
    return s;
}

static lensnet_parameter backbone_filters(backbone *b, lensnet_tensor x, const char *name,
                                          const backbone_conv_shape *s)
{
    size_t shape[4];
    shape[0] = s->width;
    shape[1] = backbone_channels(b, x) / s->groups;
    shape[2] = shape[3] = s->kernel;
    return backbone_weight(b, name, ".weight", shape, LENSNET_INITIAL_HE);
}

static lensnet_conv2d_desc backbone_conv_desc(const backbone_conv_shape *s)
{
    lensnet_conv2d_desc d = lensnet_conv2d_defaults();
    d.stride = s->stride;
    d.padding = s->padding;
    d.groups = s->groups;
    return d;
}

static lensnet_tensor backbone_biased(backbone *b, lensnet_tensor x, const char *name,
                                      backbone_conv_shape s)
{
    const lensnet_conv2d_desc desc = backbone_conv_desc(&s);
    const lensnet_parameter weight = backbone_filters(b, x, name, &s);
    return lensnet_conv2d(b->graph, x, weight,
                          backbone_vector(b, name, ".bias", s.width, LENSNET_INITIAL_ZERO), &desc);
}

static lensnet_tensor backbone_conv(backbone *b, lensnet_tensor x, const char *name,
                                    backbone_conv_shape s)
{
    const lensnet_conv2d_desc desc = backbone_conv_desc(&s);
    const lensnet_parameter none = {-1};
    return lensnet_conv2d(b->graph, x, backbone_filters(b, x, name, &s), none, &desc);
}

static lensnet_batch_norm_desc backbone_norm_desc(backbone *b, const char *name, size_t c)
{
    lensnet_batch_norm_desc d = lensnet_batch_norm_defaults();
    d.weight = backbone_vector(b, name, ".weight", c, LENSNET_INITIAL_ONE);
    d.bias = backbone_vector(b, name, ".bias", c, LENSNET_INITIAL_ZERO);
    d.mean = backbone_vector(b, name, ".running_mean", c, LENSNET_INITIAL_ZERO);
    d.variance = backbone_vector(b, name, ".running_var", c, LENSNET_INITIAL_ONE);
    return d;
}

static lensnet_tensor backbone_batch_norm(backbone *b, lensnet_tensor x, const char *name)
{
    const lensnet_batch_norm_desc d = backbone_norm_desc(b, name, backbone_channels(b, x));
    return lensnet_batch_norm(b->graph, x, &d);
}

/* Convolution and batch norm, which a classifier computes as one. */
static lensnet_tensor backbone_conv_norm(backbone *b, lensnet_tensor x, const char *name,
                                         const char *norm, backbone_conv_shape s)
{
    const lensnet_conv2d_desc desc = backbone_conv_desc(&s);
    const lensnet_parameter weight = backbone_filters(b, x, name, &s);
    const lensnet_batch_norm_desc d = backbone_norm_desc(b, norm, s.width);
    return lensnet_conv2d_batch_norm(b->graph, x, weight, &desc, &d);
}

/* Non-overlapping patches. */
static lensnet_tensor backbone_patches(backbone *b, lensnet_tensor x, const char *name,
                                       size_t width, size_t side)
{
    backbone_conv_shape s = backbone_same_size(width, side, side, 1);
    s.padding = 0;
    return backbone_biased(b, x, name, s);
}

static lensnet_tensor backbone_linear(backbone *b, lensnet_tensor x, const char *name, size_t width)
{
    size_t shape[4] = {0, 0, 0, 0};
    lensnet_parameter weight;
    shape[0] = width;
    shape[1] = backbone_channels(b, x);
    weight = backbone_weight(b, name, ".weight", shape, LENSNET_INITIAL_NORMAL_002);
    return lensnet_linear(b->graph, x, weight,
                          backbone_vector(b, name, ".bias", width, LENSNET_INITIAL_ZERO));
}

static lensnet_tensor backbone_layer_norm(backbone *b, lensnet_tensor x, const char *name)
{
    const size_t c = backbone_channels(b, x);
    const lensnet_parameter weight = backbone_vector(b, name, ".weight", c, LENSNET_INITIAL_ONE);
    return lensnet_layer_norm(b->graph, x, weight,
                              backbone_vector(b, name, ".bias", c, LENSNET_INITIAL_ZERO), 1e-6f);
}

static size_t backbone_sum_of(const size_t depths[4])
{
    return depths[0] + depths[1] + depths[2] + depths[3];
}

static lensnet_tensor backbone_relu(backbone *b, lensnet_tensor x)
{
    return lensnet_relu(b->graph, x);
}
static lensnet_tensor backbone_silu(backbone *b, lensnet_tensor x)
{
    return lensnet_silu(b->graph, x);
}

/* x + y, where y may be dropped (stochastic depth: Huang et al. 2016), the deeper the block the sooner. */
static lensnet_tensor backbone_add(backbone *b, lensnet_tensor x, lensnet_tensor y)
{
    const float depth = b->blocks > 1 ? (float)b->block / (float)(b->blocks - 1) : 0.0f;
    const float rate = b->desc->drop_path_rate * depth;
    return lensnet_add(b->graph, x, rate > 0 ? lensnet_drop_path(b->graph, y, rate) : y);
}

/* The last layer, in float32: what it costs is nothing, what it rounds would be seen. */
static void backbone_classify_features(backbone *b, lensnet_tensor features, const char *name)
{
    b->network->features = features;
    lensnet_graph_set_precision(b->graph, LENSNET_PRECISION_FP32);
    b->network->logits = backbone_linear(b, features, name, b->desc->classes);
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
        x = backbone_relu(
            b, backbone_conv_norm(b, x, "conv1", "bn1", backbone_same_size(width, 3, stride, 1)));
        return backbone_conv_norm(b, x, "conv2", "bn2", backbone_same_size(width, 3, 1, 1));
    }
    x = backbone_relu(b,
                      backbone_conv_norm(b, x, "conv1", "bn1", backbone_same_size(width, 1, 1, 1)));
    x = backbone_relu(
        b, backbone_conv_norm(b, x, "conv2", "bn2", backbone_same_size(width, 3, stride, 1)));
    return backbone_conv_norm(b, x, "conv3", "bn3", backbone_same_size(4 * width, 1, 1, 1));
}

/* y = F(x) + x; where the shapes differ, x is projected (option B). */
static lensnet_tensor resnet_block(backbone *b, const resnet *r, lensnet_tensor x, size_t width,
                                   size_t stride)
{
    const size_t wide = r->bottleneck ? 4 * width : width;
    lensnet_tensor y = resnet_residual(b, r, x, width, stride);
    if (stride != 1 || backbone_channels(b, x) != wide)
        x = backbone_conv_norm(b, x, "downsample.0", "downsample.1",
                               backbone_same_size(wide, 1, stride, 1));
    return backbone_relu(b, backbone_add(b, x, y));
}

static void resnet_record(backbone *b, const void *details, lensnet_tensor x)
{
    const resnet *r = (const resnet *)details;
    size_t stage, block;
    b->blocks = backbone_sum_of(r->depths);
    x = backbone_relu(b, backbone_conv_norm(b, x, "conv1", "bn1", backbone_same_size(64, 7, 2, 1)));
    x = lensnet_max_pool(b->graph, x, 3, 2, 1);
    for (stage = 0; stage < 4; stage++) {
        for (block = 0; block < r->depths[stage]; block++, b->block++) {
            backbone_enter(b, "layer%d.%d.", (int)stage + 1, (int)block);
            x = resnet_block(b, r, x, (size_t)64 << stage, stage > 0 && block == 0 ? 2 : 1);
        }
        b->network->stages[stage] = x;
    }
    backbone_enter(b, "");
    backbone_classify_features(b, lensnet_mean_pool(b->graph, x), "fc");
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
    return n->convolutions ? backbone_patches(b, x, name, width, 1)
                           : backbone_linear(b, x, name, width);
}

/* Figure 4, with layer scale (gamma). */
static lensnet_tensor convnext_block(backbone *b, const convnext *n, lensnet_tensor x)
{
    const size_t c = backbone_channels(b, x);
    lensnet_tensor y = backbone_layer_norm(
        b, backbone_biased(b, x, "conv_dw", backbone_same_size(c, 7, 1, c)), "norm");
    y = lensnet_gelu(b->graph, convnext_pointwise(b, n, y, "mlp.fc1", 4 * c));
    y = convnext_pointwise(b, n, y, "mlp.fc2", c);
    y = lensnet_channel_scale(b->graph, y,
                              backbone_vector(b, "gamma", "", c, LENSNET_INITIAL_TINY));
    return backbone_add(b, x, y);
}

static void convnext_record(backbone *b, const void *details, lensnet_tensor x)
{
    const convnext *n = (const convnext *)details;
    size_t stage, block;
    b->blocks = backbone_sum_of(n->depths);
    x = backbone_layer_norm(b, backbone_patches(b, x, "stem.0", n->width, 4), "stem.1");
    for (stage = 0; stage < 4; stage++) {
        backbone_enter(b, "stages.%d.downsample.", (int)stage);
        if (stage > 0)
            x = backbone_patches(b, backbone_layer_norm(b, x, "0"), "1", n->width << stage, 2);
        for (block = 0; block < n->depths[stage]; block++, b->block++) {
            backbone_enter(b, "stages.%d.blocks.%d.", (int)stage, (int)block);
            x = convnext_block(b, n, x);
        }
        b->network->stages[stage] = x;
    }
    backbone_enter(b, "head.");
    backbone_classify_features(b, backbone_layer_norm(b, lensnet_mean_pool(b->graph, x), "norm"),
                               "fc");
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
    lensnet_tensor y = backbone_relu(b, backbone_batch_norm(b, x, "norm1"));
    y = backbone_relu(b, backbone_conv_norm(b, y, "conv1", "norm2",
                                            backbone_same_size(4 * DENSENET_GROWTH, 1, 1, 1)));
    return lensnet_concat(
        b->graph, x, backbone_conv(b, y, "conv2", backbone_same_size(DENSENET_GROWTH, 3, 1, 1)));
}

static void densenet_record(backbone *b, const void *details, lensnet_tensor x)
{
    const size_t *depths = (const size_t *)details;
    int block, layer;
    backbone_enter(b, "features.");
    x = backbone_relu(b, backbone_conv_norm(b, x, "conv0", "norm0",
                                            backbone_same_size(2 * DENSENET_GROWTH, 7, 2, 1)));
    x = lensnet_max_pool(b->graph, x, 3, 2, 1);
    for (block = 0; block < 4; block++) {
        for (layer = 0; (size_t)layer < depths[block]; layer++) {
            backbone_enter(b, "features.denseblock%d.denselayer%d.", block + 1, layer + 1);
            x = densenet_layer(b, x);
        }
        b->network->stages[block] = x;
        if (block == 3) break;
        backbone_enter(b, "features.transition%d.", block + 1);
        x = backbone_relu(b, backbone_batch_norm(b, x, "norm"));
        x = backbone_conv(b, x, "conv", backbone_same_size(backbone_channels(b, x) / 2, 1, 1, 1));
        x = lensnet_average_pool(b->graph, x, 2, 2, 0);
    }
    backbone_enter(b, "features.");
    x = backbone_relu(b, backbone_batch_norm(b, x, "norm5"));
    backbone_enter(b, "");
    backbone_classify_features(b, lensnet_mean_pool(b->graph, x), "classifier");
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

static size_t efficientnet_layers(const efficientnet *e, size_t stage)
{
    const double layers = e->depth * (double)efficientnet_stages[stage].layers;
    const size_t whole = (size_t)layers;
    return (double)whole < layers ? whole + 1 : whole;
}

/* Squeeze and excitation (Hu et al. 2018): a gate for each channel. */
static lensnet_tensor efficientnet_excite(backbone *b, lensnet_tensor x, size_t squeezed)
{
    lensnet_tensor gate = lensnet_mean_pool(b->graph, x);
    gate = backbone_silu(b, backbone_patches(b, gate, "se.conv_reduce", squeezed, 1));
    gate = backbone_patches(b, gate, "se.conv_expand", backbone_channels(b, x), 1);
    return lensnet_multiply(b->graph, x, lensnet_sigmoid(b->graph, gate));
}

/* MBConv (Sandler et al. 2018): expand, depthwise, gate, project; the first stage does not expand. */
static lensnet_tensor efficientnet_block(backbone *b, const efficientnet_stage *s, lensnet_tensor x,
                                         size_t width, size_t stride)
{
    const size_t c = backbone_channels(b, x);
    const size_t wide = c * s->expansion;
    const int expands = s->expansion > 1;
    lensnet_tensor y = x;
    if (expands)
        y = backbone_silu(
            b, backbone_conv_norm(b, y, "conv_pw", "bn1", backbone_same_size(wide, 1, 1, 1)));
    y = backbone_silu(b, backbone_conv_norm(b, y, "conv_dw", expands ? "bn2" : "bn1",
                                            backbone_same_size(wide, s->kernel, stride, wide)));
    y = efficientnet_excite(b, y, c / 4);
    y = backbone_conv_norm(b, y, expands ? "conv_pwl" : "conv_pw", expands ? "bn3" : "bn2",
                           backbone_same_size(width, 1, 1, 1));
    return stride == 1 && c == width ? backbone_add(b, x, y) : y;
}

static void efficientnet_record(backbone *b, const void *details, lensnet_tensor x)
{
    static const size_t maps[7] = {4, 0, 1, 4,
                                   2, 4, 3}; /* the last of each size, as timm has them; 4: none */
    const efficientnet *e = (const efficientnet *)details;
    size_t stage, layer;
    for (stage = 0; stage < 7; stage++) b->blocks += efficientnet_layers(e, stage);
    x = backbone_silu(b,
                      backbone_conv_norm(b, x, "conv_stem", "bn1",
                                         backbone_same_size(efficientnet_width(e, 32), 3, 2, 1)));
    for (stage = 0; stage < 7; stage++) {
        const efficientnet_stage *s = &efficientnet_stages[stage];
        for (layer = 0; layer < efficientnet_layers(e, stage); layer++, b->block++) {
            backbone_enter(b, "blocks.%d.%d.", (int)stage, (int)layer);
            x = efficientnet_block(b, s, x, efficientnet_width(e, s->channels),
                                   layer == 0 ? s->stride : 1);
        }
        if (maps[stage] < 4) b->network->stages[maps[stage]] = x;
    }
    backbone_enter(b, "");
    x = backbone_conv_norm(b, x, "conv_head", "bn2",
                           backbone_same_size(efficientnet_width(e, 1280), 1, 1, 1));
    backbone_classify_features(b, lensnet_mean_pool(b->graph, backbone_silu(b, x)), "classifier");
}

static const efficientnet efficientnet_b0 = {1.0, 1.0}, efficientnet_b1 = {1.0, 1.1};

/* ---- ViT: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; timm's names -------------------- */

typedef struct vit {
    size_t depth, width, heads, patch;
} vit;

/* Equations 2 and 3. */
static lensnet_tensor vit_block(backbone *b, const vit *v, lensnet_tensor x)
{
    lensnet_tensor y =
        backbone_linear(b, backbone_layer_norm(b, x, "norm1"), "attn.qkv", 3 * v->width);
    x = backbone_add(
        b, x, backbone_linear(b, lensnet_attention(b->graph, y, v->heads), "attn.proj", v->width));
    y = lensnet_gelu(
        b->graph, backbone_linear(b, backbone_layer_norm(b, x, "norm2"), "mlp.fc1", 4 * v->width));
    return backbone_add(b, x, backbone_linear(b, y, "mlp.fc2", v->width));
}

/* Equation 1: patches in a row behind the class token, each with its position. */
static lensnet_tensor vit_embed(backbone *b, const vit *v, lensnet_tensor x)
{
    size_t shape[4] = {1, 1, 0, 0}, height, width;
    lensnet_parameter class_token;
    x = backbone_patches(b, x, "patch_embed.proj", v->width, v->patch);
    lensnet_tensor_shape(b->graph, x, &height, &width, NULL);
    shape[2] = v->width;
    class_token = backbone_weight(b, "cls_token", "", shape, LENSNET_INITIAL_NORMAL_002);
    shape[1] = 1 + height * width;
    return lensnet_tokens(b->graph, x, class_token,
                          backbone_weight(b, "pos_embed", "", shape, LENSNET_INITIAL_NORMAL_002));
}

/* It has no maps: what the blocks see is a row of tokens. */
static void vit_record(backbone *b, const void *details, lensnet_tensor x)
{
    const vit *v = (const vit *)details;
    b->blocks = v->depth;
    x = vit_embed(b, v, x);
    for (; b->block < v->depth; b->block++) {
        backbone_enter(b, "blocks.%d.", (int)b->block);
        x = vit_block(b, v, x);
    }
    backbone_enter(b, "");
    backbone_classify_features(b, lensnet_token(b->graph, backbone_layer_norm(b, x, "norm"), 0),
                               "head");
}

/* DeiT-S (Touvron et al. 2021) is ViT-S trained in another way. */
static const vit vit_small = {12, 384, 6, 16};

/* ---- all of them, by name -------------------------------------------------------------------------- */

typedef struct backbone_kind {
    void (*record)(backbone *b, const void *details, lensnet_tensor images);
    const void *details;
} backbone_kind;

static void backbone_record(lensnet_network *network, lensnet_graph *graph,
                            lensnet_parameters *parameters, lensnet_tensor images,
                            const lensnet_model_desc *desc, const void *details)
{
    const backbone_kind *kind = (const backbone_kind *)details;
    backbone b;
    memset(&b, 0, sizeof b);
    b.network = network;
    b.graph = graph;
    b.parameters = parameters;
    b.desc = desc;
    kind->record(&b, kind->details, images);
}

static const backbone_kind backbone_kinds[] = {{resnet_record, &resnet18},
                                               {resnet_record, &resnet34},
                                               {resnet_record, &resnet50},
                                               {convnext_record, &convnext_atto},
                                               {convnext_record, &convnext_femto},
                                               {convnext_record, &convnext_pico},
                                               {convnext_record, &convnext_nano},
                                               {convnext_record, &convnext_tiny},
                                               {convnext_record, &convnext_small},
                                               {convnext_record, &convnext_base},
                                               {densenet_record, densenet121},
                                               {efficientnet_record, &efficientnet_b0},
                                               {efficientnet_record, &efficientnet_b1},
                                               {vit_record, &vit_small}};

static const lensnet_architecture backbones[] = {
    {"resnet18", backbone_record, &backbone_kinds[0]},
    {"resnet34", backbone_record, &backbone_kinds[1]},
    {"resnet50", backbone_record, &backbone_kinds[2]},
    {"convnext_atto", backbone_record, &backbone_kinds[3]},
    {"convnext_femto", backbone_record, &backbone_kinds[4]},
    {"convnext_pico", backbone_record, &backbone_kinds[5]},
    {"convnext_nano", backbone_record, &backbone_kinds[6]},
    {"convnext_tiny", backbone_record, &backbone_kinds[7]},
    {"convnext_small", backbone_record, &backbone_kinds[8]},
    {"convnext_base", backbone_record, &backbone_kinds[9]},
    {"densenet121", backbone_record, &backbone_kinds[10]},
    {"efficientnet_b0", backbone_record, &backbone_kinds[11]},
    {"efficientnet_b1", backbone_record, &backbone_kinds[12]},
    {"vit_small_patch16_224", backbone_record, &backbone_kinds[13]},
    {"deit_small_patch16_224", backbone_record, &backbone_kinds[13]}};

enum { BACKBONES = sizeof backbones / sizeof *backbones };

/* ---- for programs ---------------------------------------------------------------------------------- */

/* Makes the description one of ConvNeXt V2's variants or of these networks. */
BACKBONE_API lensnet_result backbone_variant(lensnet_model_desc *desc, const char *name,
                                             lensnet_error *error)
{
    size_t i, used;
    desc->architecture = NULL;
    for (i = 0; i < BACKBONES; i++)
        if (!strcmp(backbones[i].name, name)) desc->architecture = &backbones[i];
    if (desc->architecture || !lensnet_model_variant(desc, name, error)) return LENSNET_OK;
    for (i = 0; error && i < BACKBONES; i++) {
        used = strlen(error->text);
        snprintf(error->text + used, sizeof error->text - used, "%s %s", i ? "," : "; or",
                 backbones[i].name);
    }
    return LENSNET_ERROR_ARGUMENT;
}

BACKBONE_API lensnet_load_options backbone_load_defaults(void)
{
    lensnet_load_options options = lensnet_load_defaults();
    options.architectures = backbones;
    options.architecture_count = BACKBONES;
    return options;
}

BACKBONE_API lensnet_classifier_options backbone_classifier_defaults(void)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    options.architectures = backbones;
    options.architecture_count = BACKBONES;
    return options;
}

#endif
