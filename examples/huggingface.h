/* huggingface.h - writes a model as a folder that transformers' from_pretrained(folder) loads, or, where it is a
 * network of backbones.h, timm's create_model('local-dir:folder').
 *
 *   huggingface_save(model, 1.0, "folder", &error);    the folder exists
 *
 * transformers and timm know no temperature: where probabilities are softmax(logits / temperature), the last layer is
 * divided by it, so that theirs are the same.
 *
 * leaves in it
 *   model.safetensors            the weights, complete with lensnet's metadata
 *   config.json                  ConvNextV2Config: sizes, labels; for timm the architecture's name
 *   preprocessor_config.json     how an image becomes the network's input, and
 *   image_processing_lensnet.py  the image processor that does so. Normalising each image by itself
 *                                cannot be said to transformers' own processors, so the folder brings
 *                                its own: AutoImageProcessor.from_pretrained(folder,
 *                                trust_remote_code=True), and transformers refuses without the word
 *   README.md                    the model card, with the lines of Python that use it
 *
 * Include lensnet.h first. */
#ifndef HUGGINGFACE_H
#define HUGGINGFACE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sheet.h"
#include "system.h"

#if defined(__GNUC__)
#define HUGGINGFACE_API __attribute__((unused)) static
#else
#define HUGGINGFACE_API static
#endif

/* --- JSON ------------------------------------------------------------------------------------- */

/* The shortest decimal that reads back as the same float32; with a point or an exponent, whatever the
 * program's locale writes for a point. */
static void huggingface_number(sheet *s, float number)
{
    char digits[48], *mark;
    int precision = 1;
    do {
        snprintf(digits, sizeof digits, "%.*g", precision++, (double)number);
    } while (precision <= 9 && strtof(digits, NULL) != number);
    mark = digits + strspn(digits, "-0123456789");
    if (*mark && *mark != 'e') *mark = '.';
    sheet_add(s, *mark ? "%s" : "%s.0", digits);
}

/* {"0": "no", ...} or, `inverse`, {"no": 0, ...} */
static void huggingface_labels(sheet *s, const lensnet_model_desc *desc, int inverse)
{
    size_t i;
    sheet_add(s, "{");
    for (i = 0; i < desc->classes; i++) {
        sheet_add(s, i ? ",\n    " : "\n    ");
        if (inverse) {
            sheet_quote(s, desc->labels[i], TEXT_JSON);
            sheet_add(s, ": %d", (int)i);
        } else {
            sheet_add(s, "\"%d\": ", (int)i);
            sheet_quote(s, desc->labels[i], TEXT_JSON);
        }
    }
    sheet_add(s, "\n  }");
}

static void huggingface_four(sheet *s, const char *key, const size_t *four)
{
    sheet_add(s, "  \"%s\": [%d, %d, %d, %d],\n", key, (int)four[0], (int)four[1], (int)four[2],
              (int)four[3]);
}

/* The fields of transformers' ConvNextV2Config. */
static void huggingface_config(sheet *s, const lensnet_model_desc *desc, lensnet_dtype dtype)
{
    sheet_add(s, "{\n  \"architectures\": [\"ConvNextV2ForImageClassification\"],\n");
    huggingface_four(s, "depths", desc->depths);
    sheet_add(s, "  \"drop_path_rate\": ");
    huggingface_number(s, desc->drop_path_rate);
    sheet_add(s, ",\n  \"hidden_act\": \"gelu\",\n");
    huggingface_four(s, "hidden_sizes", desc->widths);
    sheet_add(s, "  \"id2label\": ");
    huggingface_labels(s, desc, 0);
    sheet_add(s, ",\n  \"image_size\": %d,\n  \"initializer_range\": 0.02,\n",
              desc->preprocess.image_size);
    sheet_add(s, "  \"label2id\": ");
    huggingface_labels(s, desc, 1);
    sheet_add(s, ",\n  \"layer_norm_eps\": ");
    huggingface_number(s, desc->final_norm_epsilon);
    sheet_add(s,
              ",\n  \"model_type\": \"convnextv2\",\n  \"num_channels\": %d,\n"
              "  \"num_stages\": 4,\n  \"patch_size\": 4,\n  \"torch_dtype\": \"%s\"\n}\n",
              desc->preprocess.channels,
              dtype == LENSNET_DTYPE_F16    ? "float16"
              : dtype == LENSNET_DTYPE_BF16 ? "bfloat16"
                                            : "float32");
}

/* What timm reads of another network: create_model('local-dir:FOLDER'). */
static void huggingface_timm_config(sheet *s, const lensnet_model_desc *desc)
{
    size_t i;
    sheet_add(s, "{\n  \"architecture\": ");
    sheet_quote(s, desc->architecture->name, TEXT_JSON);
    sheet_add(s, ",\n  \"label_names\": [");
    for (i = 0; i < desc->classes; i++) {
        if (i) sheet_add(s, ", ");
        sheet_quote(s, desc->labels[i], TEXT_JSON);
    }
    sheet_add(s, "],\n  \"num_classes\": %d,\n  \"pretrained_cfg\": {\n", (int)desc->classes);
    sheet_add(s, "    \"input_size\": [%d, %d, %d],\n    \"num_classes\": %d\n  }\n}\n",
              desc->preprocess.channels, desc->preprocess.image_size, desc->preprocess.image_size,
              (int)desc->classes);
}

static void huggingface_channels(sheet *s, const char *key, const float *values, int count)
{
    int c;
    sheet_add(s, "  \"%s\": [", key);
    for (c = 0; c < count; c++) {
        if (c) sheet_add(s, ", ");
        huggingface_number(s, values[c]);
    }
    sheet_add(s, "],\n");
}

/* What image_processing_lensnet.py reads, and lensnet.h. */
static void huggingface_preprocessor(sheet *s, const lensnet_preprocess *p)
{
    sheet_add(s,
              "{\n  \"auto_map\": {\n    \"AutoImageProcessor\": "
              "\"image_processing_lensnet.LensnetImageProcessor\"\n  },\n"
              "  \"bands\": %d,\n  \"channels\": %d,\n  \"crop\": %d,\n",
              p->bands, p->channels, p->crop);
    if (p->normalisation == LENSNET_NORMALISATION_DATASET) {
        huggingface_channels(s, "deviation", p->deviation, p->channels);
        huggingface_channels(s, "mean", p->mean, p->channels);
    }
    sheet_add(s,
              "  \"image_processor_type\": \"LensnetImageProcessor\",\n"
              "  \"normalisation\": \"%s\",\n  \"resize\": \"%s\",\n  \"resized\": %d,\n"
              "  \"size\": {\"height\": %d, \"width\": %d},\n  \"stretch\": \"%s\"\n}\n",
              lensnet_normalisation_text(p->normalisation), lensnet_resize_text(p->resize),
              p->resized, p->image_size, p->image_size, lensnet_stretch_text(p->stretch));
}

/* --- the texts -------------------------------------------------------------------------------- */

/* clang-format off */
static const char *const huggingface_processor[] = {
    "\"\"\"From an image of a lens to the input of the network, as lensnet.h does it.\"\"\"\n",
    "import math\n",
    "\n",
    "import numpy\n",
    "import torch\n",
    "from torch.nn import functional\n",
    "from transformers.image_processing_utils import BaseImageProcessor, BatchFeature\n",
    "\n",
    "IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}\n",
    "\n",
    "\n",
    "def centre(x, side):\n",
    "    \"\"\"The middle side x side pixels, zeros where the image ends.\"\"\"\n",
    "    for axis in (-2, -1):\n",
    "        size = x.shape[axis]\n",
    "        if size >= side:\n",
    "            x = x.narrow(axis, (size - side) // 2, side)\n",
    "        else:\n",
    "            before = (side - size + 1) // 2\n",
    "            pad = (before, side - size - before)\n",
    "            x = functional.pad(x, pad if axis == -1 else (0, 0) + pad)\n",
    "    return x\n",
    "\n",
    "\n",
    "class LensnetImageProcessor(BaseImageProcessor):\n",
    "    \"\"\"Images are arrays (H, W), or (bands, H, W), of any finite numbers; nothing is rescaled.\"\"\"\n",
    "    model_input_names = ['pixel_values']\n",
    "\n",
    "    def __init__(self, size=None, channels=3, bands=1, crop=0, resized=0, stretch='none',\n",
    "                 normalisation='znorm', resize='bilinear', mean=None, deviation=None, **kwargs):\n",
    "        super().__init__(**kwargs)\n",
    "        self.size = dict(size or {'height': 224, 'width': 224})\n",
    "        self.channels, self.bands, self.crop, self.resized = channels, bands, crop, resized\n",
    "        self.stretch, self.normalisation, self.resize = stretch, normalisation, resize\n",
    "        self.mean, self.deviation = mean, deviation\n",
    "\n",
    "    def stretched(self, x):\n",
    "        low, high = x.min(), x.max()\n",
    "        if self.stretch == 'none' or low == high:\n",
    "            return x if self.stretch == 'none' else torch.zeros_like(x)\n",
    "        t = (x - low) / (high - low)\n",
    "        if self.stretch == 'asinh':\n",
    "            return torch.asinh(10 * t) / math.asinh(10)\n",
    "        return torch.log(1 + 1000 * t) / math.log(1001) if self.stretch == 'log' else t.sqrt()\n",
    "\n",
    "    def normalised(self, x):\n",
    "        low, high = x.min(), x.max()\n",
    "        if self.normalisation in ('none', 'imagenet', 'dataset'):\n",
    "            return x\n",
    "        if low == high:\n",
    "            return torch.zeros_like(x)\n",
    "        if self.normalisation == 'znorm':\n",
    "            return (x - x.mean()) / x.std(unbiased=False)\n",
    "        return (x - low) / (high - low)\n",
    "\n",
    "    def scaled(self, x):\n",
    "        side = self.resized or self.size['height']\n",
    "        mode = self.resize.replace('-plain', '')\n",
    "        if mode == 'nearest':\n",
    "            x = functional.interpolate(x[None], (side, side), mode=mode)[0]\n",
    "        else:\n",
    "            x = functional.interpolate(x[None], (side, side), mode=mode, align_corners=False,\n",
    "                                       antialias=not self.resize.endswith('-plain'))[0]\n",
    "        return centre(x, self.size['height'])\n",
    "\n",
    "    def one(self, image):\n",
    "        x = torch.as_tensor(numpy.asarray(image, dtype='float64'))\n",
    "        x = x if x.ndim == 3 else x[None]\n",
    "        if x.ndim != 3 or x.shape[0] != self.bands:\n",
    "            raise ValueError('expected an image of %d band(s), found the shape %s'\n",
    "                             % (self.bands, tuple(numpy.asarray(image).shape)))\n",
    "        x = centre(x, self.crop) if self.crop else x\n",
    "        x = self.scaled(self.normalised(self.stretched(x)).float())\n",
    "        x = x.repeat(self.channels if self.bands == 1 else 1, 1, 1)\n",
    "        mean, deviation = self.mean, self.deviation\n",
    "        if self.normalisation.endswith('imagenet'):\n",
    "            mean, deviation = IMAGENET[self.channels]\n",
    "        elif self.normalisation != 'dataset':\n",
    "            return x\n",
    "        return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]\n",
    "\n",
    "    def preprocess(self, images, return_tensors='pt', **kwargs):\n",
    "        if not isinstance(images, (list, tuple)) and numpy.asarray(images).ndim in (2, 3):\n",
    "            images = [images]\n",
    "        values = torch.stack([self.one(image) for image in images])\n",
    "        return BatchFeature({'pixel_values': values}, tensor_type=return_tensors)\n",
    NULL};

static const char *const huggingface_card[] = {
    "It answers for images of strong gravitational lenses, taken as arrays of any finite numbers. Each is\n",
    "prepared as `preprocessor_config.json` says, by the `image_processing_lensnet.py` beside it:\n",
    "transformers' own processors cannot normalise an image by itself, and with them the answers are wrong.\n",
    "\n",
    "```python\n",
    "import numpy, torch\n",
    "from transformers import AutoImageProcessor, AutoModelForImageClassification\n",
    "\n",
    "folder = '.'\n",
    "model = AutoModelForImageClassification.from_pretrained(folder).eval()\n",
    "processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)\n",
    "with torch.no_grad():\n",
    "    inputs = processor(numpy.load('image.npy'), return_tensors='pt')\n",
    "    probabilities = model(**inputs).logits.softmax(-1)[0]\n",
    "print(model.config.id2label[int(probabilities.argmax())], float(probabilities.max()))\n",
    "```\n",
    "\n",
    "`model.safetensors` alone is enough for lensnet.h: `./classify model.safetensors image.npy`.\n",
    NULL};
/* clang-format on */

/* clang-format off */
static const char *const huggingface_timm_card[] = {
    "It answers for images of strong gravitational lenses, taken as arrays of any finite numbers. Each is\n",
    "prepared as `preprocessor_config.json` says, by the `image_processing_lensnet.py` beside it: timm's own\n",
    "transforms cannot normalise an image by itself, and with them the answers are wrong.\n",
    "\n",
    "```python\n",
    "import numpy, timm, torch\n",
    "from transformers import AutoImageProcessor\n",
    "\n",
    "folder = '.'\n",
    "model = timm.create_model('local-dir:' + folder, pretrained=True).eval()\n",
    "processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)\n",
    "with torch.no_grad():\n",
    "    inputs = processor(numpy.load('image.npy'), return_tensors='pt')\n",
    "    probabilities = model(inputs['pixel_values']).softmax(-1)[0]\n",
    "```\n",
    "\n",
    "`model.safetensors` alone is enough for lensnet.h: `./classify model.safetensors image.npy`.\n",
    NULL};
/* clang-format on */

static void huggingface_lines(sheet *s, const char *const *lines)
{
    for (; *lines; lines++) sheet_add(s, "%s", *lines);
}

static void huggingface_readme(sheet *s, const lensnet_model_desc *desc)
{
    const int timm = desc->architecture != NULL;
    size_t i;
    sheet_add(s,
              "---\nlibrary_name: %s\npipeline_tag: image-classification\n"
              "tags:\n- %s\n- gravitational-lensing\n---\n\n",
              timm ? "timm" : "transformers", timm ? "timm" : "convnextv2");
    sheet_add(s,
              timm ? "# %s for gravitational lenses\n\n"
                   : "# ConvNeXt V2 (%s) for gravitational lenses\n\n",
              lensnet_model_variant_name(desc));
    sheet_add(s, "Written by lensnet.h %d.%d.%d. Input %d x %d pixels, %d channel%s, ",
              LENSNET_VERSION_MAJOR, LENSNET_VERSION_MINOR, LENSNET_VERSION_PATCH,
              desc->preprocess.image_size, desc->preprocess.image_size, desc->preprocess.channels,
              desc->preprocess.channels == 1 ? "" : "s");
    sheet_add(s, "normalisation %s. Classes, in the order of the outputs:\n\n",
              lensnet_normalisation_text(desc->preprocess.normalisation));
    for (i = 0; i < desc->classes; i++) {
        sheet_add(s, "%d. ", (int)i);
        sheet_quote(s, desc->labels[i], TEXT_JSON);
        sheet_add(s, "\n");
    }
    sheet_add(s, "\n");
    huggingface_lines(s, timm ? huggingface_timm_card : huggingface_card);
}

/* --- files ------------------------------------------------------------------------------------ */

/* Saves the sheet as folder/name, and empties it. */
static lensnet_result huggingface_put(sheet *s, const char *folder, const char *name,
                                      lensnet_error *error)
{
    char *path = system_path(folder, name);
    lensnet_result result;
    s->failed |= !path;
    result = sheet_save(s, path ? path : name, error);
    free(path);
    return result;
}

static lensnet_result huggingface_check_labels(const lensnet_model_desc *desc, lensnet_error *error)
{
    size_t i;
    for (i = 0; i < desc->classes; i++)
        if (!text_is_utf8(desc->labels[i]))
            return failure(error, LENSNET_ERROR_ARGUMENT, "label %d is not UTF-8", (int)i);
    return LENSNET_OK;
}

/* All but the weights. `dtype`: what the weights are stored as. Memory and files are those of desc->host. */
HUGGINGFACE_API lensnet_result huggingface_describe(const lensnet_model_desc *desc,
                                                    lensnet_dtype dtype, const char *folder,
                                                    lensnet_error *error)
{
    sheet s;
    lensnet_result result = huggingface_check_labels(desc, error);
    if (result) return result;
    memset(&s, 0, sizeof s);
    s.host = desc->host;
    if (desc->architecture)
        huggingface_timm_config(&s, desc);
    else
        huggingface_config(&s, desc, dtype);
    result = huggingface_put(&s, folder, "config.json", error);
    if (result) return result;
    huggingface_preprocessor(&s, &desc->preprocess);
    result = huggingface_put(&s, folder, "preprocessor_config.json", error);
    if (result) return result;
    huggingface_lines(&s, huggingface_processor);
    result = huggingface_put(&s, folder, "image_processing_lensnet.py", error);
    if (result) return result;
    huggingface_readme(&s, desc);
    return huggingface_put(&s, folder, "README.md", error);
}

/* Is it a name of the last layer, as transformers, timm or torchvision have it? */
HUGGINGFACE_API int huggingface_is_head(const char *name)
{
    static const char *const layers[] = {"classifier.", "head.fc.", "head.", "fc."};
    size_t i;
    for (i = 0; i < sizeof layers / sizeof *layers; i++)
        if (!strncmp(name, layers[i], strlen(layers[i])) &&
            (!strcmp(name + strlen(layers[i]), "weight") ||
             !strcmp(name + strlen(layers[i]), "bias")))
            return 1;
    return 0;
}

/* Divides the values of a tensor of the last layer by the temperature, and leaves others. */
HUGGINGFACE_API void huggingface_temper(float *values, size_t count, const char *name,
                                        double temperature)
{
    size_t i;
    if (temperature == 1.0 || !huggingface_is_head(name)) return;
    for (i = 0; i < count; i++) values[i] = (float)((double)values[i] / temperature);
}

/* The whole folder, which exists. Divides the model's last layer by `temperature`. */
HUGGINGFACE_API lensnet_result huggingface_save(lensnet_model *model, double temperature,
                                                const char *folder, lensnet_error *error)
{
    lensnet_parameters *p = lensnet_model_parameters(model);
    char *path = system_path(folder, "model.safetensors");
    lensnet_result result;
    size_t i;
    for (i = 0; i < lensnet_parameters_count(p); i++) {
        const lensnet_parameter_info info = lensnet_parameters_info(p, i);
        huggingface_temper(lensnet_parameters_values(p) + info.offset, info.size, info.name,
                           temperature);
    }
    result =
        path ? lensnet_model_save(model, path, LENSNET_DTYPE_F32, error)
             : failure(error, LENSNET_ERROR_MEMORY, "%.300s: no memory for a path in it", folder);
    free(path);
    if (result) return result;
    return huggingface_describe(lensnet_model_description(model), LENSNET_DTYPE_F32, folder, error);
}

#endif
