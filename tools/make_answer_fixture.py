#!/usr/bin/env python3
"""Writes tests/fixtures/answer.txt: what examples/calibrate.h and examples/png.h must give.

usage:  python3 tools/make_answer_fixture.py        from the repository's top folder

Needs numpy, scipy, scikit-learn and Pillow. The numbers that are calibrated come from tests/lngen.h's
generator, written again here in Python's integers.
"""
import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image
from scipy import optimize, spatial, special
from sklearn import covariance, metrics

MASK = (1 << 64) - 1
lines = []


def put(name, values):
    values = np.atleast_1d(values).ravel()
    lines.append('%s %d %s' % (name, len(values), ' '.join(repr(float(v)) for v in values)))


def generate(name, count):
    base = 0xcbf29ce484222325
    for byte in name.encode():
        base = (base ^ byte) * 0x100000001b3 & MASK
    base ^= 0x9E3779B97F4A7C15
    out = np.empty(count)
    for i in range(count):
        z = (base + (i + 1) * 0x9E3779B97F4A7C15) & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        z ^= z >> 31
        out[i] = ((z >> 40) - (1 << 23)) / 8388608
    return out


# ---- foreign: 240 images of 5 features that hang together --------------------------------------------

N, C = 240, 5
raw = generate('features', N * C).reshape(N, C)
features = np.float32(raw + 0.75 * np.roll(raw, 1, axis=1) + np.arange(C)).astype(float)


def gaussian(rows):
    deviation = rows.std(axis=0)
    correlation = covariance.shrunk_covariance(np.corrcoef(rows.T), shrinkage=0.1)
    return rows.mean(axis=0), np.linalg.inv(correlation * np.outer(deviation, deviation))


def distances(of, rows):
    mean, inverse = gaussian(rows)
    return [spatial.distance.mahalanobis(x, mean, inverse) / np.sqrt(C) for x in of]


half = np.arange(N) >> 3 & 1
crossed = np.concatenate([distances(features[half != which], features[half == which]) for which in (0, 1)])
put('foreign/mean', features.mean(axis=0))
put('foreign/distances', distances(features, features))
put('foreign/threshold', np.sort(crossed)[int(np.ceil((N + 1) * 0.99)) - 1])

# ---- temperature and sets: 180 images of 3 classes, labels drawn with T = 1.5 -------------------------

N, K = 180, 3
logits = 4 * generate('logits', N * K).reshape(N, K)
chances = special.softmax(logits / 1.5, axis=1).cumsum(axis=1)
labels = (chances < (generate('labels', N)[:, None] + 1) / 2).sum(axis=1)
put('labels', labels)


def loss(temperature):
    return metrics.log_loss(labels, special.softmax(logits / temperature, axis=1))


found = optimize.minimize_scalar(loss, bounds=(0.05, 20), method='bounded', options={'xatol': 1e-10})
put('temperature', found.x)
put('loss', [loss(1), loss(found.x)])
probabilities = special.softmax(logits / found.x, axis=1)
for k in range(K):
    own, levels = probabilities[labels == k, k], []
    for percent in range(1, 100):
        wanted = -(-(len(own) + 1) * percent // 100)  # of as many images the class must be in the set
        levels.append(np.sort(own)[-wanted] if wanted <= len(own) else 0)
    put('sets/%d' % k, levels)

# ---- temperature and power: 300 images whose labels are drawn with T = 1.5, P = 2 ---------------------

N = 300
logits = 5 * generate('curve', N * K).reshape(N, K)
below = logits.max(axis=1, keepdims=True) - logits
chances = special.softmax(-(below / 1.5) ** 2, axis=1).cumsum(axis=1)
labels = (chances < (generate('curve/labels', N)[:, None] + 1) / 2).sum(axis=1)


def curve_loss(logarithms):
    return metrics.log_loss(labels, special.softmax(-(below / np.exp(logarithms[0])) ** np.exp(logarithms[1]), axis=1))


curve = optimize.minimize(curve_loss, (0, 0), method='Nelder-Mead', options={'xatol': 1e-9, 'fatol': 1e-15})
put('curve/labels', labels)
put('curve', np.exp(curve.x))
put('curve/loss', curve.fun)

# ---- a picture ----------------------------------------------------------------------------------------

WIDTH, HEIGHT = 37, 5
palette = bytes((7 * i + 3 * c) % 256 for i in range(256) for c in range(3))
pixels = bytes((11 * x + 5 * y) % 256 for y in range(HEIGHT) for x in range(WIDTH))


def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


rows = [b'\0' + pixels[y * WIDTH:(y + 1) * WIDTH] for y in range(HEIGHT)]
stream = b'\x78\x01'
for y, row in enumerate(rows):
    stream += struct.pack('<BHH', y + 1 == HEIGHT, len(row), len(row) ^ 0xffff) + row
stream += struct.pack('>I', zlib.adler32(b''.join(rows)))
assert zlib.decompress(stream) == b''.join(rows)
png = (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', WIDTH, HEIGHT, 8, 3, 0, 0, 0)) +
       chunk(b'PLTE', palette) + chunk(b'IDAT', stream) + chunk(b'IEND', b''))
image = Image.open(io.BytesIO(png))
assert image.size == (WIDTH, HEIGHT) and image.tobytes() == pixels and bytes(image.getpalette()) == palette
lines.append('png data:image/png;base64,' + base64.b64encode(png).decode())

with open('tests/fixtures/answer.txt', 'w', newline='\n') as file:
    file.write('\n'.join(lines) + '\n')
