#!/usr/bin/env python3
"""Runs the networks of examples/backbones.h beside timm's and torchvision's, from the same weights.

usage:  pip install torch torchvision timm safetensors numpy
        python3 tools/check_backbones.py [NAME ...]        (default: all; some minutes)

Builds tools/check_backbones.c with $CC (default cc), or takes $CHECK_BACKBONES, and checks for each: logits
within 3e-5 of their largest, or of 1; running statistics after the first step within 1e-5; losses of ten
steps of AdamW within 1e-4; gradients. Prints one line per check.

Among a million values before a ReLU some lie so near to 0 that float32 takes them for positive or negative by
chance; then every gradient below differs, in PyTorch's float32 against its float64 as much as in lensnet's (ResNet-50:
0.26 of the largest, both). So gradients are compared with every ReLU made a SiLU on both sides, and with
float64: lensnet's may be as far from it as 2e-5 of the tensor's largest (or of a thousandth of the network's
largest), or as PyTorch's float32 is. What is left for ResNet-34 and 50: each of lensnet's products is one chain of
fused multiply-adds over its whole length, so that the bits are the same everywhere, and PyTorch adds in blocks. Of
random numbers and 3 x 3 filters on 64, 256, 512 channels the chain rounds by 4.0e-7, 7.6e-7, 1.2e-6 of the
results' deviation, PyTorch's convolution by 2.1e-7, 2.2e-7, 2.3e-7.
"""
import copy
import os
import subprocess
import sys
import tempfile
import unittest.mock

import numpy
import safetensors.torch
import timm
import torch
import torchvision

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
ALL = ['resnet18', 'resnet34', 'resnet50', 'convnext_atto', 'convnext_femto', 'convnext_pico', 'convnext_nano',
       'convnext_tiny', 'convnext_small', 'convnext_base', 'densenet121', 'efficientnet_b0', 'efficientnet_b1',
       'vit_small_patch16_224', 'deit_small_patch16_224']
COUNT, SIDE, CLASSES, STEPS, RATE = 8, 64, 5, 10, 1e-4
GRADIENT_TOLERANCE = 2e-5
failed = 0


def check(what, difference, tolerance):
    global failed
    good = difference <= tolerance  # False for NaN
    failed += not good
    print('%-60s %.2g of %.2g  %s' % (what, difference, tolerance, 'ok' if good else 'FAILED'), flush=True)


def create(name):
    """Random weights, none zero; running statistics as a trained network might have them."""
    if name.startswith(('resnet', 'densenet')):
        model = getattr(torchvision.models, name)(num_classes=CLASSES)
        theirs = timm.create_model(name, num_classes=CLASSES).state_dict()
        assert list(theirs) == list(model.state_dict()), 'timm and torchvision name %s differently' % name
    else:
        sizes = {'img_size': SIDE} if '_patch16' in name else {}
        model = timm.create_model(name, num_classes=CLASSES, **sizes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator) + (key.endswith('weight')))
                if key.endswith('gamma'):
                    p.add_(0.2)
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * (1.5 / p[0].numel()) ** 0.5)
        for key, buffer in model.named_buffers():
            if key.endswith('running_mean'):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
            if key.endswith('running_var'):
                buffer.copy_(0.7 + torch.rand(buffer.shape, generator=generator))
    return model


def run_theirs(model, x, steps=STEPS):
    model, labels = copy.deepcopy(model).to(x.dtype), torch.arange(COUNT) % CLASSES
    with torch.no_grad():
        logits = model.eval()(x)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses, first = [], {}
    for step in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        if step == 0:
            first = {key: p.grad.clone() for key, p in model.named_parameters()}
            first.update({key: b.clone() for key, b in model.named_buffers() if 'running' in key})
        optimiser.step()
        losses.append(loss.item())
    return logits, first, losses


def run_ours(program, folder, name, model, x, *options):
    weights, images, out = (os.path.join(folder, name + end) for end in ('.safetensors', '.bin', '.out'))
    safetensors.torch.save_file(model.state_dict(), weights)
    x.permute(0, 2, 3, 1).contiguous().numpy().tofile(images)
    answer = subprocess.run([program, name, weights, images, str(COUNT), str(SIDE), str(CLASSES), str(RATE),
                             str(STEPS), out, *options], check=True, capture_output=True, text=True)
    logits = torch.from_numpy(numpy.fromfile(out + '.logits', dtype=numpy.float32)).reshape(COUNT, CLASSES)
    first = safetensors.torch.load_file(out + '.gradients.safetensors')
    saved = safetensors.torch.load_file(out + '.safetensors')
    return logits, first, [float(line) for line in answer.stdout.split()], saved


def gradient_difference(ours, theirs):
    """The worst over all tensors."""
    assert set(ours) == set(theirs), 'tensors differ'
    gradients = [key for key in theirs if 'running' not in key]
    floor = 1e-3 * max(float(theirs[key].abs().max()) for key in gradients)
    return max(float((ours[key].reshape(-1) - theirs[key].reshape(-1)).abs().max()) /
               max(float(theirs[key].abs().max()), floor) for key in gradients)


def statistics_difference(ours, theirs):
    running = [key for key in theirs if 'running' in key]
    return max((float((ours[key] - theirs[key]).abs().max() / max(theirs[key].abs().max(), 0.1)) for key in running),
               default=0.0)


def check_gradients(program, folder, name, model, x):
    ours = run_ours(program, folder, name, model, x, 'silu')[1]
    with unittest.mock.patch('torch.nn.functional.relu', lambda x, inplace=False: torch.nn.functional.silu(x)):
        exact, rounded = run_theirs(model, x.double(), 1)[1], run_theirs(model, x, 1)[1]
    theirs = gradient_difference(rounded, exact)
    check("%s: gradients (PyTorch's float32 %.2g)" % (name, theirs), gradient_difference(ours, exact),
          max(GRADIENT_TOLERANCE, theirs))


def furthest(some, others):
    return max(abs(a - b) for a, b in zip(some, others))


def check_losses(name, model, x, ours, theirs):
    """Where they differ by more than 1e-4 the check fails; how far each is from float64 says by whose rounding."""
    text = '%s: losses of %d steps' % (name, STEPS)
    if furthest(ours, theirs) > 1e-4:
        exact = run_theirs(model, x.double())[2]
        text += ' (from float64: lensnet %.2g, PyTorch %.2g)' % (furthest(ours, exact), furthest(theirs, exact))
    check(text, furthest(ours, theirs), 1e-4)


def compare(program, folder, name):
    model = create(name)
    x = torch.randn((COUNT, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    check_gradients(program, folder, name, model, x)
    ours, theirs = run_ours(program, folder, name, model, x), run_theirs(model, x)
    scale = max(1.0, float(theirs[0].abs().max()))
    check('%s: logits (up to %.2g)' % (name, scale), float((ours[0] - theirs[0]).abs().max()) / scale, 3e-5)
    check('%s: running statistics' % name, statistics_difference(ours[1], theirs[1]), 1e-5)
    check_losses(name, model, x, ours[2], theirs[2])
    missing, foreign = model.load_state_dict(ours[3], strict=False)
    problems = [key for key in missing if not key.endswith('num_batches_tracked')] + list(foreign)
    check('%s: tensors of our file that do not fit' % name, len(problems), 0)


def main():
    with tempfile.TemporaryDirectory() as folder:
        program = os.environ.get('CHECK_BACKBONES')
        if not program:
            program = os.path.join(folder, 'check_backbones')
            subprocess.run([os.environ.get('CC', 'cc'), '-O2', '-fopenmp', '-I.', 'tools/check_backbones.c', '-o',
                            program, '-lm'], cwd=ROOT, check=True)
        for name in sys.argv[1:] or ALL:
            compare(program, folder, name)
    print('%d failed' % failed)
    return failed != 0


if __name__ == '__main__':
    sys.exit(main())
