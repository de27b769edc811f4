#!/usr/bin/env python3
"""Turns reference data (JSON and .npy, made with PyTorch and scikit-learn) into the small flat
files that the C tests read.  Needs nothing but Python.

  flatten_fixtures.py json IN.json OUT.txt      one line per list of numbers or single value:
                                                "path/to/key COUNT value value ..."; null and "nan"
                                                become nan, a string becomes COUNT 0 and the string
  flatten_fixtures.py thin IN.npy OUT.npy STEP  every STEP-th value of the row-major array
"""
import ast, json, sys


def number(x):
    if x is None or x == 'nan': return 'nan'
    if x == 'inf': return 'inf'
    if isinstance(x, bool): return str(int(x))
    return repr(x) if isinstance(x, (int, float)) else None


def flatten(x, path, lines):
    if isinstance(x, dict):
        for key, value in x.items(): flatten(value, path + [key.replace(' ', '_')], lines)
    elif isinstance(x, list):
        values = [number(v) for v in x]
        if None not in values: lines.append(' '.join(['/'.join(path), str(len(x))] + values))
        else:
            for i, value in enumerate(x): flatten(value, path + [str(i)], lines)
    elif number(x) is not None: lines.append('%s 1 %s' % ('/'.join(path), number(x)))
    else: lines.append('%s 0 %s' % ('/'.join(path), x))


def thin(source, target, step):
    data = open(source, 'rb').read()
    start = 10 + int.from_bytes(data[8:10], 'little')
    header = ast.literal_eval(data[10:start].decode())
    assert data[:8] == b'\x93NUMPY\x01\x00' and not header['fortran_order']
    size = int(header['descr'][2:])
    values = [data[i:i + size] for i in range(start, len(data), size)][::step]
    text = str({'descr': header['descr'], 'fortran_order': False, 'shape': (len(values),)})
    text += ' ' * (-(len(text) + 11) % 64) + '\n'
    head = data[:8] + len(text).to_bytes(2, 'little') + text.encode()
    open(target, 'wb').write(head + b''.join(values))


if sys.argv[1:2] == ['json'] and len(sys.argv) == 4:
    lines = []
    flatten(json.load(open(sys.argv[2])), [], lines)
    open(sys.argv[3], 'w').write('\n'.join(lines) + '\n')
elif sys.argv[1:2] == ['thin'] and len(sys.argv) == 5:
    thin(sys.argv[2], sys.argv[3], int(sys.argv[4]))
else: sys.exit(__doc__)
