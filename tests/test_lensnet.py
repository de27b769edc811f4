"""examples/lensnet.py: what it answers is what the C program answers.

usage: python3 tests/test_lensnet.py CLASSIFY      (the built program; run from the repository's root)
"""
import json
import os
import subprocess
import sys
import tempfile

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
    together = classifier(numpy.stack(images))
    check((together == numpy.stack([classifier(image) for image in images])).all(), 'a batch')
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


test_classifier(sys.argv[1])
test_model()
print('%d passed, %d failed' % (passed, failed))
sys.exit(failed != 0)
