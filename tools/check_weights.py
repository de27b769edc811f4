#!/usr/bin/env python3
"""Weights there and back: the newest transformers and timm, their image processors, and lensnet.

usage:  python3 tools/check_weights.py CLASSIFY CONVERT [IMAGES [WEIGHTS [FOLDER]]]

CLASSIFY and CONVERT are the built programs, IMAGES how many images (300), WEIGHTS a file of a ConvNeXt V2 that
knows no, sphere and vort (weights/lensnet-atto.safetensors), FOLDER one with .npy images inside, of 150 pixels
(none: rings). Needs numpy, torch, transformers, timm and safetensors. The first case is the file as it is,
calibration included. Each other makes a network from the weights, with the classes in another order and the head turned with them, writes it as its library does, classifies the images
there and with lensnet, and prints the largest difference of a probability and how many classes differ.
Ends with 1 if a difference is above 1e-3 or a class differs.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

import numpy
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models import convnext
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForImageClassification

SHIPPED = os.path.abspath(sys.argv[4]) if len(sys.argv) > 4 else os.path.join(
    os.path.dirname(os.path.abspath(__file__)), '../weights/lensnet-atto.safetensors')
FOLDER = sys.argv[5] if len(sys.argv) > 5 else None
ORDER = [2, 0, 1]
NAMES = ['vort', 'no', 'sphere']


def own_images(count):
    """Evenly from all of FOLDER."""
    paths = sorted(glob.glob(FOLDER + '/**/*.npy', recursive=True))
    for i in range(count):
        yield numpy.load(paths[i * len(paths) // count]).squeeze().astype('float64')


def rings(count, side):
    """With clumps, on noise."""
    generator = numpy.random.default_rng(side)
    y, x = numpy.mgrid[-1:1:side * 1j, -1:1:side * 1j]
    for _ in range(count):
        radius, width, angle = generator.uniform([0.3, 0.05, 0], [0.6, 0.15, 6.3])
        r = numpy.hypot(x * generator.uniform(0.8, 1.2), y)
        ring = numpy.exp(-((r - radius) / width) ** 2) * (1 + numpy.cos(numpy.arctan2(y, x) - angle))
        yield ring + generator.normal(0, generator.uniform(0.02, 0.3), ring.shape)


def images(count, side, low, high):
    """Pixels from `low` to `high`."""
    for image in own_images(count) if FOLDER else rings(count, side):
        image = (image - image.min()) / (image.max() - image.min())
        yield (low + (high - low) * image).astype('float32')


def save_images(folder, count, side, low=0.0, high=1.0):
    os.makedirs(folder)
    made = list(images(count, side, low, high))
    for i, image in enumerate(made):
        numpy.save('%s/%05d.npy' % (folder, i), image)
    return made


def lensnet(classify, weights, folder, *options):
    """Probabilities in the order of NAMES."""
    run = subprocess.run([classify, '--json', *options, weights, folder], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit('classify %s: %s' % (weights, run.stderr))
    rows = json.loads(run.stdout)
    rows = rows['images'] if isinstance(rows, dict) else rows
    return numpy.array([[row['probabilities'][name] for name in NAMES] for row in rows])


def shipped():
    """Without what lensnet alone knows of (calibration, foreign images): no model there takes it."""
    return {name: tensor.float() for name, tensor in load_file(SHIPPED).items() if not name.startswith('lensnet.')}


def turned():
    """The shipped weights with the classes in the order of NAMES."""
    weights = shipped()
    for name in ('classifier.weight', 'classifier.bias'):
        weights[name] = weights[name][ORDER]
    return weights


def sizes():
    """Blocks and widths of the four stages."""
    names = [name for name in shipped() if name.endswith('.dwconv.bias')]
    stages = [[shipped()[name] for name in names if '.stages.%d.' % stage in name] for stage in range(4)]
    return [len(stage) for stage in stages], [len(stage[0]) for stage in stages]


def hf_model(size):
    depths, widths = sizes()
    config = transformers.ConvNextV2Config(depths=depths, hidden_sizes=widths, image_size=size,
                                           id2label=dict(enumerate(NAMES)),
                                           label2id={name: i for i, name in enumerate(NAMES)},
                                           layer_norm_eps=1e-6)
    model = transformers.ConvNextV2ForImageClassification(config)
    model.load_state_dict(turned())
    return model.eval()


def timm_names(weights):
    """transformers' names as timm's, by timm's own filter of the authors' names."""
    changes = [('convnextv2.', ''), ('embeddings.patch_embeddings', 'stem.0'),
               ('embeddings.layernorm', 'stem.1'), ('encoder.', ''),
               ('downsampling_layer', 'downsample'), ('.layers.', '.blocks.'),
               ('.dwconv.', '.conv_dw.'), ('.pwconv1.', '.mlp.fc1.'), ('.pwconv2.', '.mlp.fc2.'),
               ('.grn.', '.mlp.grn.'), ('classifier.', 'head.fc.')]
    named = {}
    for name, tensor in weights.items():
        new = name
        for old, to in changes:
            new = new.replace(old, to)
        if new.startswith('layernorm.'):
            new = 'head.norm.' + new[len('layernorm.'):]
        if '.blocks.' in new:
            new = new.replace('.layernorm.', '.norm.')
        named[new] = tensor.flatten() if '.grn.' in new else tensor
    return named


def timm_model():
    depths, widths = sizes()
    model = convnext.ConvNeXt(depths=depths, dims=widths, num_classes=3, use_grn=True, ls_init_value=None, norm_eps=1e-6)
    model.load_state_dict(timm_names(turned()))
    return model.eval()


def run(model, inputs):
    with torch.no_grad():
        out = torch.cat([model(batch) if not hasattr(model, 'config') else model(batch).logits
                         for batch in inputs.split(32)])
    return out.softmax(-1).numpy()


# ---- cases: each yields (what, there, here) ----

def as_it_is(classify, convert, place, count):
    """The file with its calibration, as a folder: the folder's own processor, the file's own answers."""
    pictures, folder = save_images(place + '/file', count, 150), place + '/folder'
    subprocess.run([convert, SHIPPED, folder, '--folder'], check=True, capture_output=True)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    there = run(model, processor(pictures, return_tensors='pt')['pixel_values'])
    there = there[:, [model.config.label2id[name] for name in NAMES]]
    yield 'to transformers: the calibrated file', there, lensnet(classify, SHIPPED, place + '/file')
    yield 'to transformers: its folder', there, lensnet(classify, folder, place + '/file')


def out_to_transformers(classify, convert, place, count):
    """A lensnet file, told a size, a crop and a normalisation, as a folder: the folder's own processor."""
    cases = [('znorm, 128', []), ('minmax, 96, crop 100', ['--normalise', 'minmax', '--size', '96',
                                                           '--crop', '100']),
             ('crop larger than the image', ['--crop', '160', '--size', '64']),
             ('mean and deviation', ['--mean', '0.1,0.2,0.15', '--deviation', '0.2,0.25,0.3'])]
    save_file(turned(), place + '/turned.safetensors', {'format': 'pt'})
    pictures = save_images(place + '/out', count, 150)
    for number, (what, told) in enumerate(cases):
        folder = '%s/hf%d' % (place, number)
        os.makedirs(folder)
        size = [] if '--size' in told else ['--size', '128']
        subprocess.run([convert, place + '/turned.safetensors', folder, '--folder', '--labels',
                        ','.join(NAMES), *size, *told], check=True, capture_output=True)
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
        assert [model.config.id2label[i] for i in range(3)] == NAMES
        there = run(model, processor(pictures, return_tensors='pt')['pixel_values'])
        for path in (folder, folder + '/model.safetensors'):
            yield 'to transformers: ' + what, there, lensnet(classify, path, place + '/out')
        again = '%s/again%d' % (place, number)  # transformers writes it once more, and we read that
        model.save_pretrained(again)
        processor.save_pretrained(again)
        yield 'and saved again by transformers', there, lensnet(classify, again, place + '/out')
        model.save_pretrained(again + 's', max_shard_size='3MB')
        processor.save_pretrained(again + 's')
        assert os.path.exists(again + 's/model.safetensors.index.json')
        yield 'in shards', there, lensnet(classify, again + 's', place + '/out')


def in_from_transformers(classify, _convert, place, count):
    """transformers' own processor: rescaled, resized, its middle cut, normalised."""
    pictures = save_images(place + '/in', count, 150, 0, 255)
    for crop_pct, size in ((0.875, 224), (0.75, 96), (1.0, 128)):
        folder = '%s/in%g' % (place, crop_pct)
        model = hf_model(size)
        model.save_pretrained(folder)
        processor = transformers.ConvNextImageProcessor(size={'shortest_edge': size}, crop_pct=crop_pct)
        processor.save_pretrained(folder)
        batch = [torch.tensor(image)[None].repeat(3, 1, 1) for image in pictures]
        there = run(model, processor(batch, return_tensors='pt')['pixel_values'])
        yield 'from transformers: crop_pct %g, %d' % (crop_pct, size), there, \
            lensnet(classify, folder, place + '/in')
    folder = place + '/bare'  # no processor: each image by itself, said in a note
    model = hf_model(128)
    model.save_pretrained(folder)
    there = run(model, plain_inputs(pictures, 128))
    yield 'from transformers: no processor', there, lensnet(classify, folder, place + '/in')


def plain_inputs(pictures, side):
    """z-norm, bilinear."""
    x = torch.tensor(numpy.stack(pictures)).double()
    x = (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True, unbiased=False)
    x = functional.interpolate(x[:, None].float(), (side, side), mode='bilinear', antialias=True)
    return x.repeat(1, 3, 1, 1)


def in_from_timm(classify, _convert, place, count):
    pictures = save_images(place + '/timm', count, 150)
    model = timm_model()
    there = run(model, plain_inputs(pictures, 128))
    options = ('--labels', ','.join(NAMES), '--size', '128')
    weights = model.state_dict()
    for prefix in ('', 'module._orig_mod.', 'model.backbone.'):
        path = '%s/timm-%s.pth' % (place, prefix)
        torch.save({'state_dict': {prefix + name: tensor for name, tensor in weights.items()}}, path)
        yield 'from timm: .pth, prefix "%s"' % prefix, there, \
            lensnet(classify, path, place + '/timm', *options)
    folder = place + '/timm-hub'
    os.makedirs(folder)
    save_file(weights, folder + '/model.safetensors', {'format': 'pt'})
    with open(folder + '/config.json', 'w') as file:
        json.dump({'architecture': 'convnextv2_atto', 'num_classes': 3, 'label_names': NAMES,
                   'pretrained_cfg': {'input_size': [3, 96, 96], 'mean': [0.485, 0.456, 0.406],
                                      'std': [0.229, 0.224, 0.225], 'interpolation': 'bicubic',
                                      'crop_pct': 0.75}}, file)
    x = torch.tensor(numpy.stack(pictures))[:, None]
    x = functional.interpolate(x, (128, 128), mode='bicubic', antialias=True)[:, :, 16:112, 16:112]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x.repeat(1, 3, 1, 1) - mean[:, None, None]) / deviation[:, None, None]
    yield 'from timm: hub folder, crop_pct 0.75', run(model, x), \
        lensnet(classify, folder, place + '/timm')


def out_to_timm(_classify, convert, place, _count):
    """The converted file again under timm's names: the same weights."""
    path = place + '/back.safetensors'
    torch.save({'state_dict': timm_model().state_dict()}, place + '/forth.pth')
    subprocess.run([convert, place + '/forth.pth', path], check=True, capture_output=True)
    back, wanted = timm_names(load_file(path)), timm_model().state_dict()
    assert back.keys() == wanted.keys()
    yield 'to timm: weights', *(torch.cat([w[name].flatten() for name in sorted(wanted)])[:, None].numpy()
                                for w in (back, wanted))


def main():
    classify, convert = (os.path.abspath(path) for path in sys.argv[1:3])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    print('torch %s, transformers %s, timm %s, %d images' % (torch.__version__,
                                                             transformers.__version__,
                                                             timm.__version__, count))
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        for case in (as_it_is, out_to_transformers, in_from_transformers, in_from_timm, out_to_timm):
            for what, there, here in case(classify, convert, place, count):
                difference = float(numpy.abs(there - here).max())
                other = int((there.argmax(-1) != here.argmax(-1)).sum())
                good = difference <= 1e-3 and other == 0
                bad += not good
                print('%-6s %.1e  %3d classes differ  %s' % ('' if good else 'WRONG', difference,
                                                            other, what))
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
