#!/usr/bin/env python3
"""Condenses the golden data into tests/fixtures: forward passes, gradients, AdamW.

usage:  python3 tools/make_fixtures.py GOLDENS [FIXTURES]

GOLDENS is the folder of reference data computed with PyTorch in float64 (a_forward, b_grad, c_adamw
and the scripts that made them). FIXTURES defaults to tests/fixtures beside this script. Only
Python's standard library is needed. Weights and images are not stored: tests/lngen.h makes them again,
bit for bit, from their names.

Output, under FIXTURES:
  forward/*.txt            logits and, per activation, sums, extrema and samples (read by test_model.c)
  gradients/*.safetensors  every gradient of the small network, rounded to float32 (test_train.c)
  gradients/*.txt          loss and statistics of the gradients of further cases (test_train.c)
  adamw/*.safetensors      weights after three steps, rounded to float32 (test_train.c)

One line of statistics is
  NAME rank shape... sum abssum l2 min max cosdot count (index value)...
over the row-major tensor in the golden data's own layout; cosdot is the sum of a[i] cos(0.001 i).
"""
import array
import json
import os
import struct
import sys


def number(value):
    return repr(float(value))


def statistics_line(name, s):
    fields = [name, len(s['shape']), *s['shape']]
    fields += [number(s[key]) for key in ('sum', 'abssum', 'l2', 'min', 'max', 'cosdot')]
    fields.append(len(s['samples']))
    for index, value in sorted(s['samples'].items(), key=lambda item: int(item[0])):
        fields += [index, number(value)]
    return ' '.join(str(field) for field in fields)


def write_lines(path, lines):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', newline='\n') as file:
        file.write('\n'.join(lines) + '\n')


def logits_lines(logits):
    return ['logits %d %d' % (len(logits), len(logits[0]))] + \
           [' '.join(number(value) for value in row) for row in logits]


# ---- forward -----------------------------------------------------------------------------------------

# The 1000-class networks share the trunk of the 3-class ones: only their logits are kept.
FORWARD = [('atto_c3_n2_224x224', True), ('atto_c3_n2_150x150', True), ('atto_c3_n3_64x64', True),
           ('atto_c3_n1_96x160', True), ('tiny_c3_n2_224x224', True),
           ('atto_c1000_n2_224x224', False), ('tiny_c1000_n1_224x224', False)]


def make_forward(goldens, fixtures):
    for name, with_activations in FORWARD:
        golden = json.load(open(os.path.join(goldens, 'a_forward', 'a_forward_%s.json' % name)))
        count, channels, height, width = golden['input']['shape']
        lines = ['%s %d %d %d %d %d' % (golden['variant'], golden['num_classes'], count, height, width,
                                        golden['params'])]
        lines += logits_lines(golden['logits_float64'])
        activations = golden['acts_float64'] if with_activations else {}
        lines.append('tensors %d' % len(activations))
        lines += [statistics_line(key, value) for key, value in activations.items()]
        write_lines(os.path.join(fixtures, 'forward', name + '.txt'), lines)


# ---- safetensors -------------------------------------------------------------------------------------

def read_doubles(path):
    """{name: (shape, array of double)} of a safetensors file that holds F64 or F32."""
    with open(path, 'rb') as file:
        table = json.loads(file.read(struct.unpack('<Q', file.read(8))[0]))
        data = file.read()
    tensors = {}
    for name, entry in table.items():
        if name == '__metadata__':
            continue
        begin, end = entry['data_offsets']
        values = array.array({'F64': 'd', 'F32': 'f'}[entry['dtype']], data[begin:end])
        tensors[name] = (entry['shape'], array.array('d', values))
    return tensors


def write_floats(path, tensors):
    """The same as F32, rounded to nearest by struct's C conversion."""
    table, blobs, offset = {}, [], 0
    for name, (shape, values) in sorted(tensors.items()):
        blob = array.array('f', values).tobytes()
        table[name] = {'dtype': 'F32', 'shape': shape, 'data_offsets': [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    header = json.dumps(table, separators=(',', ':')).encode()
    header += b' ' * (-len(header) % 8)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(header)) + header + b''.join(blobs))


# ---- gradients ---------------------------------------------------------------------------------------

GRADIENT_STATISTICS = {'64': 'small_64', '32': 'small_32',
                       '64_label_smoothing_0.1': 'small_64_smoothing',
                       '64_class_weights_1_2_0.5': 'small_64_weights',
                       'atto_64_n2': 'atto_64', 'atto_150_n2': 'atto_150', 'tiny_96_n2': 'tiny_96'}


def make_gradients(goldens, fixtures):
    index = json.load(open(os.path.join(goldens, 'b_grad', 'index.json')))
    for key, name in GRADIENT_STATISTICS.items():
        case = index['cases'][key]
        lines = ['loss ' + number(case['loss_f64'])]
        statistics = dict(case['grad_stats_f64'], d_input=case['d_input_stats_f64'])
        lines.append('tensors %d' % len(statistics))
        lines += [statistics_line(tensor, s) for tensor, s in statistics.items()]
        write_lines(os.path.join(fixtures, 'gradients', name + '.txt'), lines)
    drop = index['cases']['64_droppath']
    write_lines(os.path.join(fixtures, 'gradients', 'small_64_droppath.txt'),
                ['loss ' + number(drop['loss_f64']),
                 'rates ' + ' '.join(number(rate) for rate in drop['rates'])] +
                ['kept ' + ' '.join(str(kept) for kept in mask) for mask in drop['keep_masks_per_block']])
    for source, name in (('grads_64_f64', 'small_64'), ('grads_32_f64', 'small_32'),
                         ('grads_64_droppath_f64', 'small_64_droppath')):
        tensors = read_doubles(os.path.join(goldens, 'b_grad', source + '.safetensors'))
        if name != 'small_32':
            del tensors['d_input']  # its statistics are enough
        write_floats(os.path.join(fixtures, 'gradients', name + '.safetensors'), tensors)


# ---- AdamW -------------------------------------------------------------------------------------------

ADAMW = {'default_lr5e-5_wd0.01': 'default', 'lr1e-3_wd0.05_b0.98_eps1e-6_clip1': 'clipped',
         'lr1e-3_wd0.05_fbgroups': 'groups'}


def make_adamw(goldens, fixtures):
    index = json.load(open(os.path.join(goldens, 'c_adamw', 'index.json')))
    for key, name in ADAMW.items():
        tensors = read_doubles(os.path.join(goldens, 'c_adamw', key + '_step3_f64.safetensors'))
        write_floats(os.path.join(fixtures, 'adamw', name + '.safetensors'), tensors)
        trace = index[key]['trace_f64']
        write_lines(os.path.join(fixtures, 'adamw', name + '.txt'),
                    ['%s %s' % (number(step['loss_before']), number(step['grad_norm_before_clip']))
                     for step in trace[:-1]] + [number(trace[-1]['loss_after'])])
    toy = index['scalar_toy_lr0.1_wd0.1_p0=1']
    write_lines(os.path.join(fixtures, 'adamw', 'toy.txt'),
                ['%s %s' % (number(step['g']), number(step['p'])) for step in toy])


def main():
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    goldens = sys.argv[1]
    here = os.path.dirname(os.path.abspath(__file__))
    fixtures = sys.argv[2] if len(sys.argv) == 3 else os.path.join(here, '..', 'tests', 'fixtures')
    make_forward(goldens, fixtures)
    make_gradients(goldens, fixtures)
    make_adamw(goldens, fixtures)


main()
