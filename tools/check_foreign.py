#!/usr/bin/env python3
"""How many images that show no lens of the known kind does a network call unknown?

usage:  python3 tools/check_foreign.py CLASSIFY SIMULATE WEIGHTS [IMAGES [SEED [PHOTOGRAPH ...]]]

CLASSIFY and SIMULATE are the built programs, WEIGHTS a calibrated file, IMAGES how many of each kind
(300), SEED another draw (1), PHOTOGRAPHs files to take in place of scikit-image's and scipy's. Needs
numpy, scipy and scikit-image (and Pillow, which that brings). Prints for each kind the share that is called
unknown, or is refused because all its pixels are the same, and for lenses of the simulator the share of false
alarms, as they are and as another camera might have taken them. Ends with 1 if a kind stays below 90 %, or if
more than 2 % of the lenses as they are, or 6 % of those that are changed, are called unknown. Of the last
lines, lenses that were stored, taken or made in another way, nothing is asked: they say what a network counts
as another kind.

No image of here is used by `evaluate --calibrate`, which sees lenses alone.
"""
import glob
import io
import json
import os
import subprocess
import sys
import tempfile

import numpy
import skimage
from PIL import Image
from scipy import datasets, ndimage
from skimage import color, transform
from skimage.io import imread

SIDE, SKY, BLUR = 150, 10.0, 1.74  # pixels, counts, sigma of the PSF in pixels: preset testI
FLOOR, ALARMS, ALARMS_CHANGED = 0.9, 0.02, 0.06


def normalised(image):
    """As the simulator writes it: the darkest pixel 0, the brightest 1."""
    low, high = image.min(), image.max()
    return ((image - low) / (high - low) if high > low else image * 0).astype('float32')


def observed(generator, light):
    """Blurred, on the sky, with photons counted."""
    return normalised(generator.poisson(ndimage.gaussian_filter(light, BLUR) + SKY).astype(float))


# ---- kinds: each gives one image of SIDE x SIDE pixels ----

def pictures(files):
    """Photographs in grey: those named, or scikit-image's own and what scipy.datasets can reach."""
    own = sorted(glob.glob(os.path.join(os.path.dirname(skimage.__file__), 'data', '*.*g')))
    found = [numpy.load(path) if path.endswith('.npy') else imread(path) for path in files or own]
    for name in () if files else ('face', 'ascent'):
        try:
            found.append(getattr(datasets, name)())
        except (OSError, ImportError) as error:
            print('without scipy.datasets.%s: %.60s' % (name, error), file=sys.stderr)
    grey = [color.rgb2gray(p[..., :3]) if p.ndim == 3 else p.astype(float) for p in found]
    return [g for g in grey if min(g.shape) >= SIDE]


def photograph(generator, photographs):
    """One of them, whole or a part of it, at a scale of its own."""
    p = photographs[generator.integers(len(photographs))]
    side = int(SIDE * (min(p.shape) / SIDE) ** generator.uniform())
    y, x = (generator.integers(n - side + 1) for n in p.shape)
    part = p[y:y + side, x:x + side]
    return normalised(transform.resize(part, (SIDE, SIDE), anti_aliasing=side > SIDE))


def white_noise(generator):
    draw = [lambda: generator.normal(size=(SIDE, SIDE)), lambda: generator.uniform(size=(SIDE, SIDE)),
            lambda: generator.exponential(size=(SIDE, SIDE)),
            lambda: generator.poisson(10 ** generator.uniform(-1, 4), (SIDE, SIDE)).astype(float)]
    return normalised(draw[generator.integers(len(draw))]())


def correlated_noise(generator):
    """Gaussian, with a power law of its scales or smoothed, on a part of white noise or on none."""
    white = generator.normal(size=(SIDE, SIDE))
    if generator.uniform() < 0.5:
        noise = ndimage.gaussian_filter(white, 10 ** generator.uniform(-0.1, 1.5), mode='wrap')
    else:
        k = numpy.hypot(*numpy.meshgrid(*2 * [numpy.fft.fftfreq(SIDE)]))
        k[0, 0] = numpy.inf
        noise = numpy.fft.ifft2(numpy.fft.fft2(white) * k ** -generator.uniform(0.3, 2.5)).real
    noise /= noise.std()
    return normalised(noise + generator.choice([0, 0, 0.1, 0.5]) * generator.normal(size=noise.shape))


def blank(generator):
    """One value, a slope, or an empty sky."""
    which = generator.integers(3)
    if which == 0:
        return numpy.full((SIDE, SIDE), generator.uniform(), 'float32')
    if which == 1:
        y, x = numpy.mgrid[:SIDE, :SIDE]
        angle = generator.uniform(0, 2 * numpy.pi)
        return normalised(x * numpy.cos(angle) + y * numpy.sin(angle))
    return normalised(generator.poisson(SKY, (SIDE, SIDE)).astype(float))


def galaxy(generator, low, high):
    """Sersic light with an axis ratio of low ... high, near the middle, at the simulator's sky."""
    index, radius = generator.uniform(0.5, 5), 20 * generator.uniform(0.2, 1)
    q, angle = generator.uniform(low, high), generator.uniform(0, numpy.pi)
    centre = SIDE / 2 - 0.5 + generator.normal(0, 4, 2)
    y, x = numpy.mgrid[:3 * SIDE, :3 * SIDE] / 3 - 1 / 3  # 3 x 3 points of a pixel
    x, y = x - centre[0], y - centre[1]
    u, v = x * numpy.cos(angle) + y * numpy.sin(angle), y * numpy.cos(angle) - x * numpy.sin(angle)
    r = numpy.sqrt(u * u * q + v * v / q) / radius
    b = 2 * index - 1 / 3 + 0.009876 / index
    light = numpy.exp(-b * (r ** (1 / index) - 1)) * 10 ** generator.uniform(1.3, 2.7)
    return observed(generator, light.reshape(SIDE, 3, SIDE, 3).mean(axis=(1, 3)))


def round_galaxy(generator):
    return galaxy(generator, 0.8, 1)


def edge_on_galaxy(generator):
    return galaxy(generator, 0.08, 0.25)


def stars(generator):
    """From one in the middle to a field of a hundred."""
    light = numpy.zeros((SIDE, SIDE))
    count = int(10 ** generator.uniform(0, 2))
    places = generator.uniform(0, SIDE, (count, 2))
    places[0] = SIDE / 2 + generator.uniform(-3, 3, 2)
    for y, x in places.astype(int):
        light[y, x] += 10 ** generator.uniform(2.5, 5)
    return observed(generator, light)


def half_saturated(generator, lenses):
    """A lens of which one half of the frame, or the brighter half of the pixels, is full."""
    image = lenses[generator.integers(len(lenses))].copy()
    if generator.uniform() < 0.5:
        return normalised(numpy.minimum(image, numpy.median(image)))
    image[:SIDE // 2] = image.max()
    return numpy.ascontiguousarray(numpy.rot90(image, generator.integers(4)))


def changed(generator, lenses):
    """The same lenses on 8 bits, less sharp, noisier, off the middle, larger."""
    noise = numpy.array([(i - ndimage.median_filter(i, 3))[:20, :20].std() for i in lenses])
    rough = noise[:, None, None] * generator.normal(size=lenses.shape)
    yield '8 bits', numpy.round(lenses * 255)
    yield 'blurred, sigma 1', ndimage.gaussian_filter(lenses, (0, 1, 1))
    yield 'noise x 1.5', lenses + 1.25 ** 0.5 * rough
    yield 'moved 3 pixels', numpy.roll(lenses, (2, 3), axis=(1, 2))
    yield 'larger by 5 %', numpy.stack([ndimage.zoom(i, 1.05, order=1)[4:SIDE + 4, 4:SIDE + 4] for i in lenses])


# What simulate is told for lenses of another telescope or universe.
MADE = {'PSF 10 % narrower': '--psf-sigma 0.078', 'PSF 10 % wider': '--psf-sigma 0.096',
        'exposure x 0.7': '--exposure 0.7', 'exposure x 1.4': '--exposure 1.4',
        'sky x 0.7': '--sky 7', 'sky x 1.4': '--sky 14',
        'source 10 % smaller': '--source-radius 0.45', 'source 10 % larger': '--source-radius 0.55',
        'Sersic index 1': '--source-index 1', 'Sersic index 2.5': '--source-index 2.5',
        'halo of axis ratio 0.8': '--halo-q 0.8 --halo-angle 0:360', 'nearer lenses': '--z-lens 0.3:0.5',
        'sheared all ways': '--shear-angle 0:360 --source-angle 0:360', 'Poisson subhalos': '--subhalo-law poisson'}


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(numpy.round(image * 255).astype('uint8')).save(file, 'JPEG', quality=75)
    return numpy.asarray(Image.open(file)).astype(float)


def stored(generator, lenses):
    """The same lenses, as they may come out of somebody's pipeline."""
    hot = lenses.copy()
    for image in hot:
        image[tuple(generator.integers(20, SIDE - 20, (2, 5)))] = 1
    yield 'JPEG, quality 75', numpy.stack([jpeg(i) for i in lenses])
    yield 'brightest 0.5 % cut', numpy.stack([numpy.minimum(i, numpy.quantile(i, 0.995)) for i in lenses])
    yield '5 hot pixels', hot
    yield 'turned by 45 degrees', ndimage.rotate(lenses, 45, axes=(1, 2), reshape=False, order=1, mode='reflect')
    yield 'square root', numpy.sqrt(lenses)
    yield 'asinh stretch', numpy.arcsinh(lenses / 0.1)
    for side in 64, 224:
        yield '%d x %d pixels' % (side, side), numpy.stack([transform.resize(i, (side, side), anti_aliasing=side < SIDE)
                                                            for i in lenses])


# ---- lensnet ----

def simulated(simulate, folder, count, seed, preset, options=()):
    """`count` lenses of a preset, in turn of each class."""
    subprocess.run([simulate, folder, '--preset', preset, '--test', str((count + 2) // 3), '--seed',
                    str(seed), '--float32', *options], check=True, capture_output=True)
    paths = sorted(glob.glob(folder + '/test/*/*.npy'), key=os.path.basename)
    return numpy.stack([numpy.load(path).squeeze() for path in paths[:count]])


def unknown(classify, weights, path):
    """How many images of a stack are called unknown, and how many are refused as blank."""
    run = subprocess.run([classify, '--json', '--stack', weights, path], capture_output=True, text=True)
    try:
        rows = json.loads(run.stdout)
    except ValueError:
        raise SystemExit('classify: ' + run.stderr)
    rows = rows['images'] if isinstance(rows, dict) else rows
    if rows and 'foreign' not in rows[0]:
        raise SystemExit(weights + ': it does not know what is foreign to it; evaluate --calibrate')
    blanks = run.stderr.count('there is nothing to classify')
    return sum(row['class'] == 'unknown' for row in rows), blanks


def make(simulate, folder, count, seed, files):
    """Pairs of a kind's name and its images."""
    kinds = [white_noise, correlated_noise, blank, round_galaxy, edge_on_galaxy, stars]
    lenses = simulated(simulate, folder + '/testI', count, 10 ** 6 + seed, 'testI')
    yield 'lenses (testI)', lenses
    for name, images in changed(numpy.random.default_rng([seed, 99]), lenses):
        yield 'lenses, ' + name, numpy.stack([normalised(i) for i in images])
    photographs = pictures(files)
    generator = numpy.random.default_rng([seed, 0])
    yield ('photographs (%d)' % len(photographs),
           numpy.stack([photograph(generator, photographs) for _ in range(count)]))
    for i, kind in enumerate(kinds):
        generator = numpy.random.default_rng([seed, 1 + i])
        yield kind.__name__.replace('_', ' '), numpy.stack([kind(generator) for _ in range(count)])
    yield 'model1', simulated(simulate, folder + '/model1', count, 10 ** 6 + seed, 'model1')
    generator = numpy.random.default_rng([seed, 1 + len(kinds)])
    yield 'half-saturated', numpy.stack([half_saturated(generator, lenses) for _ in range(count)])


def others(simulate, folder, count, seed):
    """The same of lenses in which something differs from those that the networks were trained on."""
    lenses = simulated(simulate, folder + '/others', count, 10 ** 6 + seed, 'testI')
    for name, images in stored(numpy.random.default_rng([seed, 98]), lenses):
        yield name, numpy.stack([normalised(i) for i in images])
    for i, (name, options) in enumerate(MADE.items()):
        yield name, simulated(simulate, '%s/made-%d' % (folder, i), count, 10 ** 6 + seed, 'testI', options.split())


def share_of(classify, weights, folder, name, images):
    """Prints the line of a kind; the share that is not taken for a lens of the known kind."""
    path = folder + '/kind.npy'
    numpy.save(path, images)
    flagged, blanks = unknown(classify, weights, path)
    share = (flagged + blanks) / len(images)
    print('%-28s %7d %8d %8d %6.1f %%' % (name, len(images), flagged, blanks, 100 * share), end='')
    return share


def main(words):
    classify, simulate, weights = words[:3]
    count = int(words[3]) if len(words) > 3 else 300
    seed = int(words[4]) if len(words) > 4 else 1
    good = True
    print('%-28s %7s %8s %8s %7s' % ('kind', 'images', 'unknown', 'refused', 'share'))
    with tempfile.TemporaryDirectory() as folder:
        for name, images in make(simulate, folder, count, seed, words[5:]):
            share = share_of(classify, weights, folder, name, images)
            if name.startswith('lenses'):
                fine = share <= (ALARMS_CHANGED if ',' in name else ALARMS)
            else:
                fine = share >= FLOOR
            good = good and fine
            print('' if fine else '  <-', flush=True)
        print('lenses, but')
        for name, images in others(simulate, folder, count, seed):
            share_of(classify, weights, folder, '  ' + name, images)
            print(flush=True)
    return 0 if good else 1


if __name__ == '__main__':
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
