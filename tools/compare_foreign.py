#!/usr/bin/env python3
"""Which number tells best that an image shows no lens of the known kind?

usage:  python3 tools/compare_foreign.py SIMULATE WEIGHTS [IMAGES [SEED [PHOTOGRAPH ...]]]

SIMULATE is the built program, WEIGHTS a file of ConvNeXt V2 in the names of Hugging Face, with a head;
IMAGES how many of each kind (100), SEED another draw (2), PHOTOGRAPHs as tools/check_foreign.py takes them,
whose kinds these are. Needs numpy, scipy and scikit-image, and builds examples/lensnet.py's library once.

Every score is fitted on the same lenses of the simulator, six times IMAGES of them, each turned to one of its
eight views, and has the threshold that 1 in 100 of them exceed: those of either half by what was fitted on
the other, as examples/calibrate.h does it. Prints the share of each kind beyond it. No foreign image is
used to fit anything.

  second      Mahalanobis distance of the mean over the second stage's map, one Gaussian: what evaluate --calibrate
              writes
  last        the same of the pooled features before the last layer
  by class    the smallest of the distances to each class's mean (Lee et al. 2018), of the same features
  nearest     Euclidean distance to the nearest class's mean, of the same features
  energy      minus the logarithm of the summed exponentials of the logits (Liu et al. 2020)
  greatest    1 minus the greatest probability (Hendrycks & Gimpel 2017)
  views       the mean divergence of the eight views' probabilities from their mean
"""
import json
import os
import sys
import tempfile

import numpy

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), part) for part in ('../examples', '.')]
import check_foreign
import lensnet

SHRINKAGE, FALSE_ALARM = 0.1, 0.01  # as examples/calibrate.h
SCORES = 'second', 'last', 'by class', 'nearest', 'energy', 'greatest', 'views'


def head(path):
    """Weights (K, C) and biases (K) of the last layer."""
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        entries = json.loads(file.read(length))
        made = []
        for name in ('classifier.weight', 'classifier.bias'):
            kind = {'F16': '<f2', 'F32': '<f4'}[entries[name]['dtype']]
            first, end = entries[name]['data_offsets']
            file.seek(8 + length + first)
            made.append(numpy.frombuffer(file.read(end - first), kind).reshape(entries[name]['shape']))
    return [m.astype(float) for m in made]


def turned(images, view):
    """As the network's views: quarter turns, then mirrored."""
    images = numpy.rot90(images, view & 3, axes=(-2, -1))
    return numpy.ascontiguousarray(images[..., ::-1] if view & 4 else images)


class Seen:
    """What a network says of some images."""

    def __init__(self, classifier, last, images):
        weights, bias = last
        every = [classifier.features(turned(images, view)) for view in range(8)]
        logits = numpy.array([f @ weights.T + bias for f in every])
        logits -= logits.max(axis=2, keepdims=True)
        self.second, self.last = classifier.pooled(images).astype(float), every[0].astype(float)
        raw = self.last @ weights.T + bias
        top = raw.max(axis=1)
        self.energy = -(top + numpy.log(numpy.exp(raw - top[:, None]).sum(axis=1)))
        p = numpy.exp(logits) / numpy.exp(logits).sum(axis=2, keepdims=True)
        mean = p.mean(axis=0)
        self.greatest = 1 - p[0].max(axis=1)
        self.views = (p * numpy.log((p + 1e-30) / (mean + 1e-30))).sum(axis=2).mean(axis=0)


def whiten(rows):
    """Deviations and the root of the inverse of the shrunk correlations."""
    deviation = rows.std(axis=0)
    deviation = numpy.maximum(deviation, 1e-3 * deviation.mean())
    correlation = (rows - rows.mean(axis=0)) / deviation
    correlation = correlation.T @ correlation / len(rows) * (1 - SHRINKAGE)
    return numpy.linalg.inv(numpy.linalg.cholesky(correlation + SHRINKAGE * numpy.eye(len(deviation)))) / deviation


def mahalanobis(rows, means, root):
    return numpy.min([numpy.linalg.norm((rows - mean) @ root.T, axis=1) for mean in means], axis=0)


def fitted(seen, labels, chosen):
    """A function from Seen to a dictionary of scores, fitted on the chosen images."""
    classes = [seen.last[chosen & (labels == k)].mean(axis=0) for k in range(labels.max() + 1)]
    second, last = seen.second[chosen], seen.last[chosen]
    within = last - numpy.array(classes)[labels[chosen]]
    roots = whiten(second), whiten(last), whiten(within)
    means = [second.mean(axis=0)], [last.mean(axis=0)]

    def scores(of):
        return {'second': mahalanobis(of.second, means[0], roots[0]),
                'last': mahalanobis(of.last, means[1], roots[1]),
                'by class': mahalanobis(of.last, classes, roots[2]),
                'nearest': mahalanobis(of.last, classes, numpy.eye(last.shape[1])),
                'energy': of.energy, 'greatest': of.greatest, 'views': of.views}
    return scores


def thresholds(seen, labels):
    half = numpy.arange(len(labels)) // 24 % 2 == 0
    crossed = [fitted(seen, labels, chosen)(seen) for chosen in (half, ~half)]
    rank = int(numpy.ceil((len(labels) + 1) * (1 - FALSE_ALARM))) - 1
    return {name: numpy.sort(numpy.where(half, crossed[1][name], crossed[0][name]))[rank] for name in SCORES}


def main(words):
    simulate, weights = words[:2]
    count = int(words[2]) if len(words) > 2 else 100
    seed = int(words[3]) if len(words) > 3 else 2
    classifier, last = lensnet.Classifier(weights, threads=1, calibrated=False), head(weights)
    with tempfile.TemporaryDirectory() as folder:
        known = check_foreign.simulated(simulate, folder + '/known', 6 * count, 2 * 10 ** 6 + seed, 'testI')
        labels = numpy.arange(6 * count) % 3
        known = numpy.concatenate([turned(image[None], i // 3 % 8) for i, image in enumerate(known)])
        seen = Seen(classifier, last, known)
        limit, scores = thresholds(seen, labels), fitted(seen, labels, labels >= 0)
        print('%-24s' % 'kind' + ''.join('%10s' % name for name in SCORES))
        for name, images in check_foreign.make(simulate, folder, count, seed, words[4:]):
            found = scores(Seen(classifier, last, images))
            print('%-24s' % name + ''.join('%9.0f%%' % (100 * (found[s] > limit[s]).mean()) for s in SCORES),
                  flush=True)


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1:])
