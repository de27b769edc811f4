#!/usr/bin/env python3
"""lensnet.h from Python: NumPy arrays in and out, nothing else needed but a C compiler, once.

    import lensnet
    classifier = lensnet.Classifier('weights/lensnet-atto.safetensors')
    print(classifier.labels, classifier(numpy.load('image.npy')))
    print(classifier.predict(numpy.load('image.npy')))        # and whether to believe it

beside PyTorch's
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad(): print(model(**processor(image, return_tensors='pt')).logits.softmax(-1))

Training is a loop, as there:

    model = lensnet.Model('tiny', labels=['no', 'sphere', 'vort'], size=224)   # or a weights file
    for images, labels in batches:
        loss = model.step(images, labels, rate=1e-4)       # forward, backward, AdamW
    model.save('best.safetensors')

From a shell: python3 lensnet.py WEIGHTS IMAGE.npy ...

The shared library is built from lensnet.h on first use and kept in ~/.cache/lensnet, by the content
of the header; LENSNET_H says where the header is (beside this file, or one folder up), LENSNET_LIBRARY
names a library that `python3 lensnet.py --build FILE` made. Calls release Python's lock.
"""
import collections
import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile

import numpy

# What Python calls: pointers and plain numbers only, so that no structure is described twice.
SOURCE = r'''
#define LENSNET_STATIC
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#ifdef _WIN32
#define FACE __declspec(dllexport)
#else
#define FACE __attribute__((visibility("default")))
#endif

typedef struct face {
    lensnet_classifier *classifier;
    lensnet_session *session;
} face;

static int face_text(char *text, const lensnet_error *error)
{
    snprintf(text, 508, "%s", error->text);
    return 1;
}

FACE void face_close(face *f)
{
    if (f) lensnet_session_destroy(f->session);
    if (f) lensnet_classifier_destroy(f->classifier);
    free(f);
}

FACE int face_open(face **out, const char *path, int threads, int views, int calibrated, size_t batch,
                   char *text)
{
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_host host = lensnet_host_defaults();
    lensnet_error error;
    face *f = (face *)calloc(1, sizeof *f);
    *out = f;
    if (!f) return snprintf(text, 508, "out of memory"), 1;
    host.threads = threads;
    options.host = &host;
    options.bands = 0; /* _images sees to it */
    options.views = views;
    options.calibrated = calibrated;
    if (!lensnet_classifier_load(&f->classifier, path, &options, &error) &&
        !lensnet_session_create(&f->session, f->classifier, batch, &error))
        return 0;
    face_close(f);
    *out = NULL;
    return face_text(text, &error);
}

FACE size_t face_classes(const face *f) { return lensnet_classifier_classes(f->classifier); }
FACE size_t face_features(const face *f) { return lensnet_classifier_features(f->classifier); }
FACE const char *face_notes(const face *f) { return lensnet_classifier_notes(f->classifier); }
FACE const char *face_label(const face *f, size_t k)
{
    return lensnet_classifier_label(f->classifier, k);
}
FACE size_t face_bands(const face *f)
{
    return (size_t)lensnet_classifier_preprocess(f->classifier)->bands;
}

FACE int face_run(face *f, float *probabilities, float *features, const float *pixels, size_t count,
                  size_t height, size_t width, char *text)
{
    lensnet_error error;
    return lensnet_session_classify(f->session, probabilities, features, pixels, count, height, width,
                                    &error)
               ? face_text(text, &error)
               : 0;
}

FACE size_t face_pooled(const face *f) { return lensnet_classifier_pooled(f->classifier); }

/* Of `count` images. `pooled` may be NULL, and so may all that comes before it. */
FACE int face_predict(face *f, int *indices, float *probabilities, int *unknown, float *foreign,
                      int *sizes, uint64_t *sets, float *pooled, const float *pixels, size_t count,
                      size_t height, size_t width, char *text)
{
    lensnet_prediction *p = (lensnet_prediction *)calloc(count + 1, sizeof *p);
    lensnet_error error;
    lensnet_result result;
    size_t i;
    if (!p) return snprintf(text, 508, "out of memory"), 1;
    result = lensnet_session_predict(f->session, p, NULL, pooled, pixels, count, height, width, &error);
    for (i = 0; !result && indices && i < count; i++) {
        indices[i] = p[i].index;
        probabilities[i] = p[i].probability;
        unknown[i] = p[i].unknown;
        foreign[i] = p[i].foreign;
        sizes[i] = p[i].set_size;
        sets[i] = p[i].set;
    }
    free(p);
    return result ? face_text(text, &error) : 0;
}

typedef struct learner {
    lensnet_model *model;
    lensnet_graph *graph;
    lensnet_adamw *adamw;
    lensnet_preprocess preprocess;
    float *images;
    size_t batch, floats;
    uint64_t steps;
} learner;

FACE void learner_close(learner *l)
{
    if (!l) return;
    lensnet_adamw_destroy(l->adamw);
    lensnet_graph_destroy(l->graph);
    lensnet_model_destroy(l->model);
    free(l->images);
    free(l);
}

static lensnet_result learner_model(learner *l, const char *from, size_t classes,
                                    const char *const *labels, int size, uint64_t seed,
                                    const lensnet_host *host, lensnet_error *error)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_load_options load = lensnet_load_defaults();
    char number[16];
    lensnet_archive_pair told = {"lensnet.image_size", number};
    desc.classes = classes ? classes : 3;
    desc.labels = labels;
    desc.seed = load.seed = seed;
    desc.host = load.host = host;
    if (size) desc.preprocess.image_size = size;
    if (!lensnet_model_variant(&desc, from, NULL)) return lensnet_model_create(&l->model, &desc, error);
    snprintf(number, sizeof number, "%d", size);
    load.classes = classes;
    load.labels = labels;
    load.told = &told;
    load.told_count = size != 0;
    return lensnet_model_load(&l->model, from, &load, NULL, error);
}

static lensnet_result learner_graph(learner *l, double weight_decay, lensnet_error *error)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_adamw_desc desc = lensnet_adamw_defaults();
    lensnet_result result;
    l->preprocess = lensnet_model_description(l->model)->preprocess;
    options.height = options.width = (size_t)l->preprocess.image_size;
    options.batch = l->batch;
    options.training = 1;
    desc.weight_decay = weight_decay;
    result = lensnet_model_graph(&l->graph, l->model, &options, NULL, error);
    if (!result) result = lensnet_graph_plan(l->graph, NULL, error);
    if (!result) result = lensnet_graph_allocate(l->graph, error);
    return result ? result
                  : lensnet_adamw_create(&l->adamw, lensnet_model_parameters(l->model), &desc, error);
}

FACE int learner_open(learner **out, const char *from, size_t classes, const char *const *labels,
                      int size, uint64_t seed, size_t batch, double weight_decay, int threads,
                      char *text)
{
    lensnet_host host = lensnet_host_defaults();
    lensnet_error error;
    learner *l = (learner *)calloc(1, sizeof *l);
    *out = l;
    if (!l) return snprintf(text, 508, "out of memory"), 1;
    host.threads = threads;
    l->batch = batch;
    if (!learner_model(l, from, classes, labels, size, seed, &host, &error) &&
        !learner_graph(l, weight_decay, &error)) {
        l->floats = (size_t)l->preprocess.image_size * (size_t)l->preprocess.image_size *
                    (size_t)l->preprocess.channels;
        l->images = (float *)malloc(batch * l->floats * sizeof *l->images);
        if (l->images) return 0;
        snprintf(error.text, sizeof error.text, "out of memory for a batch");
    }
    learner_close(l);
    *out = NULL;
    return face_text(text, &error);
}

FACE size_t learner_classes(const learner *l)
{
    return lensnet_model_description(l->model)->classes;
}
FACE const char *learner_label(const learner *l, size_t k)
{
    return lensnet_model_description(l->model)->labels[k];
}
FACE size_t learner_bands(const learner *l) { return (size_t)l->preprocess.bands; }

FACE int learner_step(learner *l, double *loss, const float *pixels, const int *labels, size_t count,
                      size_t height, size_t width, double rate, char *text)
{
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_error error;
    lensnet_result result = LENSNET_OK;
    size_t i, bytes = lensnet_preprocess_scratch_bytes(&l->preprocess, height, width);
    void *scratch = malloc(bytes ? bytes : 1);
    if (!scratch || !bytes || count > l->batch)
        return free(scratch), snprintf(text, 508, "no memory, an impossible size, or more than %d images",
                                       (int)l->batch), 1;
    for (i = 0; !result && i < count; i++)
        result = lensnet_preprocess_image(l->images + i * l->floats,
                                          pixels + i * (size_t)l->preprocess.bands * height * width,
                                          height, width, &l->preprocess, scratch, &error);
    free(scratch);
    memset(&outputs, 0, sizeof outputs);
    batch.images = l->images;
    batch.channels = (size_t)l->preprocess.channels;
    batch.count = count;
    batch.labels = labels;
    batch.step = l->steps;
    if (!result) result = lensnet_forward_backward(l->graph, &batch, &outputs, &error);
    if (!result) result = lensnet_adamw_step(l->adamw, rate, NULL, &error);
    if (result) return face_text(text, &error);
    l->steps++;
    *loss = outputs.loss;
    return 0;
}

FACE int learner_save(const learner *l, const char *path, char *text)
{
    lensnet_error error;
    return lensnet_model_save(l->model, path, LENSNET_DTYPE_F32, &error) ? face_text(text, &error) : 0;
}
'''


class Error(Exception):
    """What lensnet.h says is wrong."""


def _header():
    here = os.path.dirname(os.path.abspath(__file__))
    for path in (os.environ.get('LENSNET_H'), here + '/lensnet.h', here + '/../lensnet.h'):
        if path and os.path.isfile(path):
            return os.path.abspath(path)
    raise Error('lensnet.h is neither beside lensnet.py nor one folder up; LENSNET_H may say where it is')


def build(library):
    """Builds the shared library `library`, with OpenMP where the compiler has it."""
    compiler = os.environ.get('CC', 'cc')
    with tempfile.TemporaryDirectory() as place:
        source, made = os.path.join(place, 'face.c'), os.path.join(place, 'face.so')
        with open(source, 'w') as file:
            file.write(SOURCE)
        command = [compiler, *os.environ.get('CFLAGS', '-O2').split(), '-fPIC', '-shared', '-fvisibility=hidden', '-I',
                   os.path.dirname(_header()), source, '-o', made, '-lm']
        for extra in (['-fopenmp'], []):
            run = subprocess.run(command + extra, capture_output=True, text=True)
            if run.returncode == 0:
                break
        else:
            raise Error('%s cannot build lensnet.h (CC names another compiler):\n%s'
                        % (compiler, run.stderr[-2000:]))
        with open(made, 'rb') as file:
            content = file.read()
    os.makedirs(os.path.dirname(os.path.abspath(library)), exist_ok=True)
    part = '%s.%d' % (library, os.getpid())
    with open(part, 'wb') as file:
        file.write(content)
    os.replace(part, library)  # two that build at once: either is whole


_SIGNATURES = {
    'face_open': 'Pciiizt', 'face_close': 'p', 'face_classes': 'p', 'face_features': 'p',
    'face_bands': 'p', 'face_notes': 'p', 'face_label': 'pz', 'face_run': 'pppp' + 'zzzt',
    'face_pooled': 'p', 'face_predict': 'ppppppppp' + 'zzzt',
    'learner_open': 'Pczaiuzdit', 'learner_close': 'p', 'learner_classes': 'p', 'learner_bands': 'p',
    'learner_label': 'pz', 'learner_step': 'ppppzzzdt', 'learner_save': 'pct'}
_LETTERS = {'p': ctypes.c_void_p, 'P': ctypes.POINTER(ctypes.c_void_p), 'c': ctypes.c_char_p,
            'i': ctypes.c_int, 'z': ctypes.c_size_t, 'u': ctypes.c_uint64, 'd': ctypes.c_double,
            't': ctypes.c_char_p, 'a': ctypes.POINTER(ctypes.c_char_p)}
_RESULTS = {'face_classes': ctypes.c_size_t, 'face_features': ctypes.c_size_t,
            'face_bands': ctypes.c_size_t, 'face_pooled': ctypes.c_size_t, 'face_notes': ctypes.c_char_p,
            'face_label': ctypes.c_char_p, 'face_close': None, 'learner_close': None,
            'learner_classes': ctypes.c_size_t, 'learner_bands': ctypes.c_size_t,
            'learner_label': ctypes.c_char_p}
_library = None


def library():
    """The loaded library; built if need be."""
    global _library
    if _library is None:
        path = os.environ.get('LENSNET_LIBRARY')
        if not path:
            with open(_header(), 'rb') as file:
                key = hashlib.sha256(file.read() + SOURCE.encode()).hexdigest()[:16]
            cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
            path = os.path.join(cache, 'lensnet', 'lensnet-%s.so' % key)
            if not os.path.exists(path):
                build(path)
        made = ctypes.CDLL(os.path.abspath(path))
        for name, letters in _SIGNATURES.items():
            function = getattr(made, name)
            function.argtypes = [_LETTERS[letter] for letter in letters]
            function.restype = _RESULTS.get(name, ctypes.c_int)
        _library = made
    return _library


def _call(name, *arguments):
    text = ctypes.create_string_buffer(512)
    if getattr(library(), name)(*arguments, text):
        raise Error(text.value.decode(errors='replace'))


def _path(path):
    return os.fsencode(os.fspath(path))


def _images(images, bands):
    """(N, H, W) or, with several bands, (N, bands, H, W), float32; one image may stand alone."""
    images = numpy.ascontiguousarray(images, dtype='float32')
    rank = 3 if bands == 1 else 4
    if images.ndim == rank - 1:
        images = images[None]
    if images.ndim != rank or (bands > 1 and images.shape[1] != bands):
        raise Error('expected images %s, found the shape %s'
                    % ('(N, H, W)' if bands == 1 else '(N, %d, H, W)' % bands, images.shape))
    return images


Prediction = collections.namedtuple('Prediction', 'label probability unknown foreign set')
Prediction.__doc__ = """An answer, as lensnet_prediction in lensnet.h.

label is a class, or 'unknown' where foreign is above 1; foreign is None for a file that cannot tell, set the
conformal set of classes (coverage 90 %), or None."""


class Classifier:
    """A trained network: calling it gives probabilities (N, classes), or (classes,) for one image.

    One object, one thread at a time. `notes` is what had to be taken for granted of the file. Not `calibrated`:
    plain softmax, and nothing is unknown, whatever the file says of its network.
    """

    def __init__(self, path, threads=0, views=1, batch=32, calibrated=True):
        self._face = ctypes.c_void_p()
        _call('face_open', ctypes.byref(self._face), _path(path), threads, views, calibrated, batch)
        made = library()
        self.classes, self.width = made.face_classes(self._face), made.face_features(self._face)
        self.bands = made.face_bands(self._face)
        self.labels = [made.face_label(self._face, k).decode() for k in range(self.classes)]
        self.notes = made.face_notes(self._face).decode().splitlines()

    def _run(self, images, probabilities, features):
        images = _images(images, self.bands)
        count, (height, width) = images.shape[0], images.shape[-2:]
        made = [numpy.empty((count, size), 'float32') if wanted else None
                for size, wanted in ((self.classes, probabilities), (self.width, features))]
        _call('face_run', self._face, *(None if array is None else array.ctypes.data for array in made),
              images.ctypes.data, count, height, width)
        return made

    def __call__(self, images):
        return self._shaped(self._run(images, True, False)[0], images)

    def _shaped(self, rows, images):
        """The rows, or the only one where a single image stood alone."""
        return rows[0] if numpy.ndim(images) == (2 if self.bands == 1 else 3) else rows

    def features(self, images):
        """The pooled features (N, width) before the last layer."""
        return self._run(images, False, True)[1]

    def _predict(self, images, pooled):
        count, (height, width) = len(images), images.shape[-2:]
        made = [numpy.empty(count, kind) for kind in ('i4', 'f4', 'i4', 'f4', 'i4', 'u8')]
        _call('face_predict', self._face, *(array.ctypes.data for array in made),
              None if pooled is None else pooled.ctypes.data, images.ctypes.data, count, height, width)
        return zip(*(array.tolist() for array in made))

    def predict(self, images):
        """A Prediction for each image, or one for one image: with what the file knows of itself."""
        rows = [Prediction('unknown' if unknown else self.labels[index], probability, bool(unknown),
                           foreign or None,
                           None if size < 0 else [l for k, l in enumerate(self.labels) if chosen >> k & 1])
                for index, probability, unknown, foreign, size, chosen
                in self._predict(_images(images, self.bands), None)]
        return self._shaped(rows, images)

    def pooled(self, images):
        """The means (N, C) over a stage's map by which foreign images are told."""
        images = _images(images, self.bands)
        means = numpy.empty((len(images), library().face_pooled(self._face)), 'float32')
        self._predict(images, means)
        return means

    def __del__(self):
        if _library is not None and getattr(self, '_face', None):
            _library.face_close(self._face)
            self._face = None


class Model:
    """A network that learns. `start`: a variant ('atto' ... 'huge') or weights of any ConvNeXt V2."""

    def __init__(self, start='tiny', labels=None, size=0, seed=0, batch=32, weight_decay=0.01,
                 threads=0):
        self._learner = ctypes.c_void_p()
        names = [label.encode() for label in labels or []]
        array = (ctypes.c_char_p * max(len(names), 1))(*names)
        _call('learner_open', ctypes.byref(self._learner), _path(start), len(names),
              array if names else None, size, seed, batch, weight_decay, threads)
        made = library()
        self.bands = made.learner_bands(self._learner)
        self.labels = [made.learner_label(self._learner, k).decode()
                       for k in range(made.learner_classes(self._learner))]

    def step(self, images, labels, rate):
        """One step of AdamW on a batch; returns the loss before it. Labels are numbers of classes."""
        images = _images(images, self.bands)
        labels = numpy.ascontiguousarray(labels, dtype='int32').reshape(-1)
        if len(labels) != len(images):
            raise Error('%d images, but %d labels' % (len(images), len(labels)))
        loss = ctypes.c_double()
        _call('learner_step', self._learner, ctypes.addressof(loss), images.ctypes.data,
              labels.ctypes.data, len(images), images.shape[-2], images.shape[-1], rate)
        return loss.value

    def save(self, path):
        _call('learner_save', self._learner, _path(path))

    def __del__(self):
        if _library is not None and getattr(self, '_learner', None):
            _library.learner_close(self._learner)
            self._learner = None


def main(words):
    if len(words) == 2 and words[0] == '--build':
        build(words[1])
    elif len(words) < 2 or words[0].startswith('-'):
        print('usage: lensnet.py WEIGHTS IMAGE.npy ...\n       lensnet.py --build LIBRARY', file=sys.stderr)
        return 0 if words[:1] == ['--help'] else 2
    else:
        classifier = Classifier(words[0])
        for note in classifier.notes:
            print('note: ' + note, file=sys.stderr)
        for path in words[1:]:
            for answer in classifier.predict(_images(numpy.load(path, allow_pickle=False), classifier.bands)):
                print('%s  unknown (foreign: %.1f times the limit)' % (path, answer.foreign) if answer.unknown
                      else '%s  %s %.2f %%' % (path, answer.label, 100 * answer.probability))
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except (Error, OSError, ValueError) as problem:
        sys.exit('error: %s' % problem)
