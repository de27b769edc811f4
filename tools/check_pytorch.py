#!/usr/bin/env python3
"""Runs lensnet beside PyTorch, transformers and timm as they are today, and compares numbers.

usage:  pip install torch transformers timm safetensors numpy     (a virtual environment is a good place)
        python3 tools/check_pytorch.py

Builds tools/check_pytorch.c with $CC (default cc) and checks, for atto and tiny:
  1. transformers loads a folder that lensnet saved, without a missing or foreign tensor, and gives
     lensnet's logits (within 3e-5);
  2. lensnet loads a folder that transformers saved, and gives its logits (within 3e-5);
  3. lensnet loads a file with timm's names (timm's own class made it), and gives its logits (3e-5);
  4. ten training steps with AdamW beside PyTorch's, from the same weights: losses within 1e-4, and the
     weights afterwards;
  5. squared error and binary cross-entropy, values and gradients.
Prints one line per check and closes with "N passed, N failed".
"""
import os
import subprocess
import sys
import tempfile

import numpy
import safetensors.torch
import timm
import torch
import transformers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
LOGITS_TOLERANCE = 3e-5
LOSS_TOLERANCE = 1e-4
passed = failed = 0


def check(what, difference, tolerance):
    global passed, failed
    good = difference <= tolerance  # False for NaN
    passed, failed = passed + good, failed + (not good)
    print('%-72s %.2g of %.0g  %s' % (what, difference, tolerance, 'ok' if good else 'FAILED'), flush=True)


def build(folder):
    program = os.path.join(folder, 'check_pytorch')
    subprocess.run([os.environ.get('CC', 'cc'), '-O2', '-fopenmp', '-I.', 'tools/check_pytorch.c', '-o', program,
                    '-lm'], cwd=ROOT, check=True)
    return program


def images(folder, count, height, width):
    """Images in PyTorch's layout, and the path of the same as raw channels-last floats."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn((count, 3, 8, 8), generator=generator)
    x = torch.nn.functional.interpolate(coarse, (height, width), mode='bilinear')
    x = x + 0.3 * torch.randn(x.shape, generator=generator)
    path = os.path.join(folder, 'images.bin')
    x.permute(0, 2, 3, 1).contiguous().numpy().tofile(path)
    return x, path


def our_logits(program, weights, path, x):
    out = path + '.logits'
    count, _, height, width = x.shape
    subprocess.run([program, 'logits', weights, path, str(count), str(height), str(width), out], check=True)
    return torch.from_numpy(numpy.fromfile(out, dtype=numpy.float32)).reshape(count, -1)


def largest_difference(a, b):
    return float((a - b).abs().max())


def set_all(model, seed):
    """No parameter zero: a fresh GRN would hide a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            vector = p.numel() == max(p.shape)
            fan_in = 1 if vector else p[0].numel()
            p.copy_(torch.randn(p.shape, generator=generator) * (0.2 if vector else fan_in ** -0.5))
            if vector and 'norm' in name and name.endswith('weight'):
                p.add_(1)
    return model.eval()


def their_config(variant, classes):
    depths, widths = {'atto': ([2, 2, 6, 2], [40, 80, 160, 320]), 'tiny': ([3, 3, 9, 3], [96, 192, 384, 768])}[variant]
    return transformers.ConvNextV2Config(depths=depths, hidden_sizes=widths, num_labels=classes)


def ours_to_transformers(program, folder, variant, classes):
    saved = os.path.join(folder, 'ours_' + variant)
    os.mkdir(saved)
    subprocess.run([program, 'save', saved, variant, str(classes)], check=True)
    model, info = transformers.ConvNextV2ForImageClassification.from_pretrained(saved, output_loading_info=True)
    problems = sum(len(info[key]) for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    check('transformers loads our %s: tensors that do not fit' % variant, problems, 0)
    processor = transformers.AutoImageProcessor.from_pretrained(saved, trust_remote_code=True)
    grey = numpy.arange(150 * 150, dtype=numpy.float32).reshape(150, 150)
    pixels = processor(images=grey, return_tensors='pt')['pixel_values']
    check('its image processor: difference in size', max(abs(side - 224) for side in pixels.shape[2:]), 0)
    x, path = images(folder, 2, 224, 224)
    with torch.no_grad():
        theirs = model.eval()(x).logits
    ours = our_logits(program, os.path.join(saved, 'model.safetensors'), path, x)
    check('logits of our %s, transformers and we' % variant, largest_difference(ours, theirs), LOGITS_TOLERANCE)


def transformers_to_ours(program, folder, variant, classes):
    saved = os.path.join(folder, 'theirs_' + variant)
    model = set_all(transformers.ConvNextV2ForImageClassification(their_config(variant, classes)), 11)
    model.save_pretrained(saved)
    x, path = images(folder, 2, 160, 192)
    with torch.no_grad():
        theirs = model(x).logits
    ours = our_logits(program, os.path.join(saved, 'model.safetensors'), path, x)
    check('logits of %s that transformers saved (sizes up to %.2g)' % (variant, theirs.abs().max()),
          largest_difference(ours, theirs), LOGITS_TOLERANCE)


def timm_to_ours(program, folder, variant, classes):
    model = set_all(timm.create_model('convnextv2_' + variant, num_classes=classes), 12)
    weights = os.path.join(folder, 'timm_%s.safetensors' % variant)
    safetensors.torch.save_file(model.state_dict(), weights)
    x, path = images(folder, 2, 160, 160)
    with torch.no_grad():
        theirs = model(x)
    ours = our_logits(program, weights, path, x)
    check('logits of %s that timm made' % variant, largest_difference(ours, theirs), LOGITS_TOLERANCE)


def beside_pytorch(program, folder, variant, side, rate, steps=10, classes=3, count=4):
    saved = os.path.join(folder, 'begin_' + variant)
    model = set_all(transformers.ConvNextV2ForImageClassification(their_config(variant, classes)), 13)
    model.save_pretrained(saved)
    model.train()
    x, path = images(folder, count, side, side)
    labels = torch.arange(count) % classes
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    theirs = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x).logits, labels)
        loss.backward()
        optimiser.step()
        theirs.append(loss.item())
    end = os.path.join(folder, 'end.safetensors')
    answer = subprocess.run([program, 'train', os.path.join(saved, 'model.safetensors'), path, str(count), str(side),
                             str(side), str(rate), str(steps), end], check=True, capture_output=True, text=True)
    ours = [float(line) for line in answer.stdout.split()]
    print('    losses: ' + ' '.join('%.5f' % loss for loss in ours))
    check('ten steps of %s at %d: losses' % (variant, side), max(abs(a - b) for a, b in zip(ours, theirs)),
          LOSS_TOLERANCE)
    weights = safetensors.torch.load_file(end)
    difference = max(largest_difference(weights[name], p.detach()) for name, p in model.named_parameters())
    check('ten steps of %s at %d: weights (rate %g)' % (variant, side, rate), difference, steps * rate)


def losses(program, folder):
    x, path = images(folder, 3, 20, 24)
    x = (3 * x).requires_grad_()
    targets = torch.rand(x.shape, generator=torch.Generator().manual_seed(8))
    for name, tensor in (('x', x), ('t', targets)):
        tensor.detach().permute(0, 2, 3, 1).contiguous().numpy().tofile(os.path.join(folder, name))
    theirs = (torch.nn.functional.mse_loss(x, targets),
              torch.nn.functional.binary_cross_entropy_with_logits(x, targets))
    (0.5 * theirs[0] + 2 * theirs[1]).backward()
    out = os.path.join(folder, 'dx')
    answer = subprocess.run([program, 'losses', os.path.join(folder, 'x'), os.path.join(folder, 't'), '3', '20', '24',
                             out], check=True, capture_output=True, text=True)
    for what, ours, their in zip(('squared error', 'binary cross-entropy'), answer.stdout.split(), theirs):
        check(what, abs(float(ours) - their.item()), 2e-6)
    ours = torch.from_numpy(numpy.fromfile(out, dtype=numpy.float32)).reshape(3, 20, 24, 3).permute(0, 3, 1, 2)
    check('their gradient, of the largest', largest_difference(ours, x.grad) / float(x.grad.abs().max()), 1e-6)


def main():
    print('torch %s, transformers %s, timm %s' % (torch.__version__, transformers.__version__, timm.__version__))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        losses(program, folder)
        for variant in ('atto', 'tiny'):
            ours_to_transformers(program, folder, variant, 3)
            transformers_to_ours(program, folder, variant, 5)
            timm_to_ours(program, folder, variant, 3)
        beside_pytorch(program, folder, 'atto', 96, 5e-5)
        beside_pytorch(program, folder, 'tiny', 64, 5e-5)
    print('%d passed, %d failed' % (passed, failed))
    sys.exit(failed != 0)


main()
