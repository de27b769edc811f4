#!/usr/bin/env python3
"""Fills tests/fixtures/files and tests/fixtures/torch, which test_files.c and test_convert.c read.

usage:  pip install numpy safetensors
        python3 tools/make_file_fixtures.py GOLDENS [FIXTURES]

GOLDENS is the folder of reference data whose g_files were written by PyTorch 1.13 and by hand: good
files, and bad ones that a reader must refuse. FIXTURES defaults to tests/fixtures beside this script.

  files/*.safetensors                     copied; small_hf_f16 is a whole small network
  files/ok_reference_writer.safetensors   every usual type, written here by the safetensors package
  files/names_small.txt                   the small network's names in three libraries, and shapes
  torch/*.pt, *.pth                       copied
  torch/state_dict.txt                    what torch says is in state_dict*.pt (flatten_fixtures.py)
"""
import glob
import json
import os
import shutil
import subprocess
import sys

import numpy
import safetensors.numpy


def copy(source, folder, patterns):
    os.makedirs(folder, exist_ok=True)
    for pattern in patterns:
        for path in glob.glob(os.path.join(source, pattern)):
            shutil.copyfile(path, os.path.join(folder, os.path.basename(path)))


def write_names(source, path):
    with open(os.path.join(source, 'names_small.json')) as file:
        names = json.load(file)
    with open(path, 'w') as file:
        file.write('# authors, transformers, timm, shape: one ConvNeXt V2 of depths 1 1 1 1, '
                   'widths 8 16 32 64, 3 classes\n')
        for author, hugging_face in names['fb_to_hf'].items():
            shape = ','.join(map(str, names['shapes_fb'][author]))
            file.write('%s %s %s %s\n' % (author, hugging_face, names['fb_to_timm'][author], shape))


def write_reference(path):
    array = numpy.array
    tensors = {
        'b.f32': numpy.arange(6, dtype=numpy.float32).reshape(1, 2, 3) * 0.5 - 1,
        'a.f32': array([1.5, -2], numpy.float32),
        'half': array([1.5, -2, 0.1], numpy.float16),
        'z.u8': array([0, 255, 7], numpy.uint8),
        'i64': array(-7, numpy.int64),
        'f64': array([0.1, -1e300]),
        'flag': array([True, False, True]),
        'i16': array([-3, 4], numpy.int16),
        'i8': array([-3, 4], numpy.int8),
        'i32': array([-5], numpy.int32),
        'u16': array([65535], numpy.uint16),
        'u32': array([4294967295], numpy.uint32),
        'u64': array([2**63], numpy.uint64),
        'empty': numpy.zeros((0, 3), numpy.float32),
        'tab\t"q"\\\u00e9\x01': array([2], numpy.float32)}
    with open(path, 'wb') as file:
        file.write(safetensors.numpy.save(tensors, {'format': 'pt'}))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    source = os.path.join(sys.argv[1], 'g_files')
    fixtures = sys.argv[2] if len(sys.argv) == 3 else os.path.join(here, '..', 'tests', 'fixtures')
    files, torch = os.path.join(fixtures, 'files'), os.path.join(fixtures, 'torch')
    copy(source, files, ['ok_*.safetensors', 'bad_*.safetensors', 'small_hf_f16.safetensors'])
    copy(source, torch, ['*.pt', 'small_fb_with_args_namespace.pth'])
    write_names(source, os.path.join(files, 'names_small.txt'))
    write_reference(os.path.join(files, 'ok_reference_writer.safetensors'))
    subprocess.check_call([sys.executable, os.path.join(here, 'flatten_fixtures.py'), 'json',
                           os.path.join(source, 'state_dict_expected.json'),
                           os.path.join(torch, 'state_dict.txt')])


main()
