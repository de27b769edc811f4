"""examples/lensnet.py: what it answers is what the C program answers.

usage: python3 tests/test_lensnet.py CLASSIFY      (the built program; run from the repository's root)
       python3 tests/test_lensnet.py --overhead    what a call of Tiny costs beyond the same call from C
"""
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy

sys.path.insert(0, 'examples')
import lensnet

WEIGHTS, IMAGES = 'weights/lensnet-atto.safetensors', 'examples/images'
passed = failed = 0


def check(good, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    if not good:
        print('FAILED ' + what)


def refused(call, words):
    try:
        call()
    except lensnet.Error as error:
        return words in str(error)
    return False


def test_classifier(classify):
    names = sorted(name for name in os.listdir(IMAGES) if name.endswith('.npy'))[:3]
    images = [numpy.load(os.path.join(IMAGES, name)).squeeze() for name in names]
    classifier = lensnet.Classifier(WEIGHTS)
    run = subprocess.run([classify, '--json', WEIGHTS, *(os.path.join(IMAGES, n) for n in names)],
                         capture_output=True, text=True, check=True)
    rows = json.loads(run.stdout)
    for image, row in zip(images, rows['images'] if isinstance(rows, dict) else rows):
        p = classifier(image)
        check(p.shape == (3,) and abs(p.sum() - 1) < 1e-6, 'probabilities')
        wanted = [row['probabilities'][label] for label in classifier.labels]
        check(numpy.abs(p - wanted).max() < 1e-7, 'the answer of classify')
        answer = classifier.predict(image)
        check(answer.label == row['class'] == answer.set[0] and not answer.unknown, 'class and set')
        check(abs(answer.foreign - row['foreign']) < 1e-6, 'how foreign')
    together = classifier(numpy.stack(images))
    check((together == numpy.stack([classifier(image) for image in images])).all(), 'a batch')
    noise = numpy.random.default_rng(1).normal(size=(2, 150, 150))
    check([p.label for p in classifier.predict(noise)] == ['unknown'] * 2, 'noise is unknown')
    check(classifier.pooled(noise).shape == (2, 320), 'the means that tell it')
    check(classifier.features(images[0]).shape == (1, classifier.width), 'features')
    check(classifier.labels == ['no', 'sphere', 'vort'] and classifier.notes == [], 'labels and notes')
    check(refused(lambda: classifier(numpy.zeros((2, 2, 2, 2))), 'shape'), 'a wrong shape')
    check(refused(lambda: classifier(numpy.full((64, 64), numpy.nan)), 'nan'), 'not a number')
    check(refused(lambda: lensnet.Classifier('none.safetensors'), 'none.safetensors'), 'no file')


def test_model():
    generator = numpy.random.default_rng(1)
    labels = numpy.arange(4) % 2
    images = generator.normal(0, 1, (4, 40, 40)) + 3 * numpy.eye(40) * labels[:, None, None]
    model = lensnet.Model('atto', labels=['plain', 'line'], size=32, batch=4)
    losses = [model.step(images, labels, 1e-3) for _ in range(6)]
    check(0.1 < losses[0] < 3 and losses[-1] < losses[0] / 2, 'the loss falls: %s' % losses)
    check(refused(lambda: model.step(images, labels[:3], 1e-3), '3 labels'), 'too few labels')
    check(refused(lambda: model.step(images[[0] * 5], [0] * 5, 1e-3), '4 images'), 'too many images')
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder + '/weights.safetensors')
        classifier = lensnet.Classifier(folder + '/weights.safetensors')
        check(classifier.labels == ['plain', 'line'], 'labels are saved')
        check(lensnet.Model(folder + '/weights.safetensors', batch=4).labels == ['plain', 'line'],
              'weights to go on from')


TIMER = r'''
#include <stddef.h>
#include <time.h>
double timed(int (*run)(void *, float *, float *, const float *, size_t, size_t, size_t, char *), void *face,
             float *probabilities, const float *pixels, size_t side, char *text)
{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (run(face, probabilities, NULL, pixels, 1, side, side, text)) return -1;
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}'''


def overhead(pairs=30, side=224):
    """Pairs of one call from C and one from Python in turns, on one thread: the median of their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + '/timer.c', 'w') as file:
            file.write(TIMER)
        subprocess.run(['cc', '-O2', '-shared', '-fPIC', folder + '/timer.c', '-o', folder + '/timer.so'], check=True)
        timer = ctypes.CDLL(folder + '/timer.so').timed
        lensnet.Model('tiny', size=side, batch=1).save(folder + '/tiny.safetensors')
        classifier = lensnet.Classifier(folder + '/tiny.safetensors', threads=1, batch=1)
    timer.restype = ctypes.c_double
    image = numpy.random.default_rng(0).normal(size=(side, side)).astype('float32')
    pointer, text, answer = ctypes.c_void_p, ctypes.create_string_buffer(512), numpy.empty(3, 'float32')
    run = ctypes.cast(lensnet.library().face_run, pointer)

    def from_c():
        return timer(run, classifier._face, pointer(answer.ctypes.data), pointer(image.ctypes.data),
                     ctypes.c_size_t(side), text)

    def from_python():
        start = time.perf_counter()
        classifier(image)
        return time.perf_counter() - start

    times = [[call() for call in (from_c, from_python)[::1 if i % 2 else -1]][::1 if i % 2 else -1]
             for i in range(pairs + 2)][2:]
    times = numpy.array(times)
    print('C %.2f ms, Python %.2f ms; median of %d ratios %.4f (quartiles %.4f ... %.4f)' % (
        *(1e3 * numpy.median(times, axis=0)), pairs, *numpy.percentile(times[:, 1] / times[:, 0], [50, 25, 75])))


if sys.argv[1] == '--overhead':
    overhead()
    sys.exit()
test_classifier(sys.argv[1])
test_model()
print('%d passed, %d failed' % (passed, failed))
sys.exit(failed != 0)
