"""check_pictures.py - examples/picture.h against NumPy and astropy, on files that these write.

    cc -O2 tools/check_pictures.c -o check_pictures -lm
    python3 tools/check_pictures.py ./check_pictures        (numpy, astropy; ml_dtypes if it is there)

Every FITS type with and without scaling, BLANK and NaN, primary and extension images, cubes, coordinate
systems, compressed images; object arrays of every pickle protocol; .npz stored and deflated; layouts.
Closes with "N passed, N failed".
"""
import json
import os
import pickle
import subprocess
import sys
import tempfile

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

program = os.path.abspath(sys.argv[1])
os.chdir(tempfile.mkdtemp())
rng = np.random.default_rng(5)
cases = []  # name on the command line, expected planes or a word of the refusal, expected extras


def expect(name, planes, **extras):
    cases.append((name, planes, extras))


def planes_of(a):
    """float32 planes as picture.h gives them: bands first."""
    a = np.asarray(a, np.float64)
    return a[None] if a.ndim == 2 else a


# ---- FITS ----
shape = (13, 17)
whole = {'uint8': 255, 'int16': 30000, 'int32': 2**31 - 1, 'int64': 2**40, 'uint16': 65535, 'uint32': 2**32 - 1,
         'int8': 127}
for kind, top in whole.items():
    a = rng.integers(0 if kind[0] == 'u' else -top, top, shape).astype(kind)
    fits.PrimaryHDU(a).writeto(f'{kind}.fits')
    expect(f'{kind}.fits', planes_of(a))
for kind in ('float32', 'float64'):
    a = rng.normal(size=shape).astype(kind)
    a[3, 4] = np.nan
    a[5, 6] = np.inf
    fits.PrimaryHDU(a).writeto(f'{kind}.fits')
    expect(f'{kind}.fits', planes_of(a))
for kind in ('int16', 'int32', 'float32'):
    a = rng.integers(-1000, 1000, shape).astype(kind)
    hdu = fits.PrimaryHDU(a)
    if kind != 'float32':
        hdu.header['BLANK'] = -999
        a[2, 2] = -999
        hdu.data = a
    hdu.header['BSCALE'] = 0.012345
    hdu.header['BZERO'] = 17.25
    raw = f'scaled-{kind}.fits'
    hdu.writeto(raw)
    with fits.open(raw, do_not_scale_image_data=True) as f:  # astropy may have scaled the numbers while writing
        head, numbers = f[0].header, f[0].data.astype(np.float64)
    wanted = numbers * head.get('BSCALE', 1) + head.get('BZERO', 0)
    if kind != 'float32':
        wanted[numbers == head['BLANK']] = np.nan
    expect(raw, planes_of(wanted))
a = rng.normal(size=shape).astype('float32')
fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(a, name='SCI'), fits.ImageHDU(a + 1, name='ERR')]).writeto('ext.fits')
expect('ext.fits', planes_of(a))
expect('ext.fits[2]', planes_of(a + 1))
expect('ext.fits[0]', 'no image')
expect('ext.fits[7]', 'no unit 7')
table = fits.BinTableHDU.from_columns([fits.Column('x', 'D', array=np.arange(4.0))])
fits.HDUList([fits.PrimaryHDU(), table]).writeto('table.fits')
expect('table.fits', 'without an image')
expect('table.fits[1]', 'table')
fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(a)]).writeto('table-then-image.fits')
expect('table-then-image.fits', planes_of(a))
fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(a)]).writeto('compressed.fits')
expect('compressed.fits', 'tile-compressed')
for kind in ('GZIP_1', 'RICE_1', 'HCOMPRESS_1'):
    name = f'compressed-{kind}.fits'
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(a, compression_type=kind)]).writeto(name)
    expect(name, 'tile-compressed')
for name in ('UPPER.FIT', 'UPPER.FITS', 'lower.fts'):
    fits.PrimaryHDU(a).writeto('ending.fits', overwrite=True)
    os.rename('ending.fits', name)
    expect(name, planes_of(a))
raw = rng.integers(0, 99, shape).astype('int16')
fits.PrimaryHDU(raw).writeto('negative.fits')
with open('negative.fits', 'r+b') as f:  # a negative scale, which astropy would not write back as it was
    block = f.read(2880)
    end = block.index(b'END' + b' ' * 77)
    cards = b'%-80s%-80s%-80s' % (b'BSCALE  =                 -2.5', b'BZERO   =                  7.0', b'END')
    f.seek(0)
    f.write((block[:end] + cards).ljust(2880))
expect('negative.fits', planes_of(fits.getdata('negative.fits')))
cube = rng.normal(size=(12, 11, 14)).astype('float32')
fits.PrimaryHDU(cube).writeto('cube.fits')
expect('cube.fits', 'a stack of 12 images')
expect('cube.fits[0][7]', planes_of(cube[7]))
expect('cube.fits[0][12]', 'it holds 12 images')
bands = rng.normal(size=(3, 11, 14)).astype('float32')
fits.PrimaryHDU(bands).writeto('bands.fits')
expect('bands.fits', bands)
fits.PrimaryHDU(a[None, None]).writeto('radio.fits')
expect('radio.fits', planes_of(a))
long_header = fits.PrimaryHDU(a)
for i in range(200):
    long_header.header[f'KEY{i}'] = (i, 'a comment')
long_header.header['HISTORY'] = 'END     of nothing'
long_header.writeto('long-header.fits')
expect('long-header.fits', planes_of(a))

for name, cd, ctype in (('cd', True, 'TAN'), ('cdelt', False, 'TAN'), ('sin', True, 'SIN')):
    hdu = fits.PrimaryHDU(a)
    h = hdu.header
    h['CTYPE1'], h['CTYPE2'] = f'RA---{ctype}', f'DEC--{ctype}'
    h['CRVAL1'], h['CRVAL2'] = 149.7345678, -32.25
    h['CRPIX1'], h['CRPIX2'] = 2000.5, -312.0  # a cut-out of a large frame
    if cd:
        h['CD1_1'], h['CD1_2'], h['CD2_1'], h['CD2_2'] = -1.2e-5, 7.3e-5, 7.3e-5, 1.3e-5
    else:
        h['CDELT1'], h['CDELT2'] = -7.3e-5, 7.3e-5
        h['PC1_1'], h['PC1_2'], h['PC2_1'], h['PC2_2'] = 0.8, -0.6, 0.6, 0.8
    h['OBJECT'] = "it's \"lens\" 7"
    hdu.writeto(f'wcs-{name}.fits')
    w = WCS(h)
    centre = w.wcs_pix2world([[(shape[1] + 1) / 2, (shape[0] + 1) / 2]], 1)[0]
    scale = 3600 * np.sqrt(abs(np.linalg.det(w.pixel_scale_matrix)))
    expect(f'wcs-{name}.fits', planes_of(a), sky=centre if ctype == 'TAN' else None, scale=scale,
           object="it's \"lens\" 7")
for name, ra, dec, sky in (('degrees', 12.5, -3.25, (12.5, -3.25)),
                           ('hours', '01:30:00.0', '-00:30:36', (22.5, -0.51))):
    hdu = fits.PrimaryHDU()
    hdu.header['RA'], hdu.header['DEC'], hdu.header['PIXSCALE'] = ra, dec, 0.262
    fits.HDUList([hdu, fits.ImageHDU(a)]).writeto(f'radec-{name}.fits')
    expect(f'radec-{name}.fits', planes_of(a), sky=sky, scale=0.262)

# ---- .npy and layouts ----
big = 1e8 + rng.random((20, 20))
np.save('offset.npy', big)
expect('offset.npy', planes_of(big), pedestal=True)
np.save('huge.npy', rng.random((20, 20)) * 1e300)
expect('huge.npy', 'beyond what 32-bit')
for kind in ('f2', 'f4', 'f8', 'i1', 'i4', 'i8', 'u1', 'u2', 'u8', '>f4', '>i2'):
    a = (rng.random((14, 15)) * 100).astype(kind)
    np.save(f'type-{kind}.npy', a)
    expect(f'type-{kind}.npy', planes_of(a))
rgb = rng.random((14, 15, 3))
np.save('last.npy', rgb)
expect('last.npy', np.moveaxis(rgb, -1, 0))
np.save('first.npy', np.moveaxis(rgb, -1, 0).copy())
expect('first.npy', np.moveaxis(rgb, -1, 0))
np.save('fortran.npy', np.asfortranarray(rgb))
expect('fortran.npy', np.moveaxis(rgb, -1, 0))
for order in 'CF':
    stack = np.array(rng.random((20, 14, 15)), order=order)
    np.save(f'stack-{order}.npy', stack)
    expect(f'stack-{order}.npy[19]', planes_of(stack[19]))
    expect(f'stack-{order}.npy', 'a stack of 20')
    four = np.array(rng.random((20, 14, 15, 3)), order=order)
    np.save(f'four-{order}.npy', four)
    expect(f'four-{order}.npy[3]', np.moveaxis(four[3], -1, 0))
try:
    import ml_dtypes
    np.save('bfloat16.npy', rng.random((20, 20)).astype(ml_dtypes.bfloat16))
    expect('bfloat16.npy', 'bfloat16')
except ImportError:
    pass

# ---- object arrays ----
image = rng.random((30, 31))


def objects(*items):
    a = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        a[i] = item
    return a


def save_objects(name, a, protocol):
    with open(name, 'wb') as f:
        np.lib.format.write_array_header_1_0(f, {'descr': '|O', 'fortran_order': False, 'shape': a.shape})
        pickle.dump(a, f, protocol=protocol)


for protocol in range(2, 6):
    for kind in ('f8', 'f4', '>f8', 'i2'):
        a = (image * 100).astype(kind)
        save_objects(f'pair-{protocol}-{kind}.npy', objects(a, 3.2e-23), protocol)
        expect(f'pair-{protocol}-{kind}.npy', planes_of(a))
np.save('pair.npy', objects(image, 3.2e-23), allow_pickle=True)
expect('pair.npy', planes_of(image))
np.save('pair-scalar.npy', objects(np.asfortranarray(image), np.float64(3.2e-23)), allow_pickle=True)
expect('pair-scalar.npy', planes_of(image))
np.save('pair-rows.npy', objects(image.tolist(), 3.2e-23), allow_pickle=True)
expect('pair-rows.npy', planes_of(image))
np.save('numbers.npy', image.astype(object), allow_pickle=True)
expect('numbers.npy', planes_of(image))
np.save('several.npy', objects(image, image + 1, image + 2), allow_pickle=True)
expect('several.npy[1]', planes_of(image + 1))
expect('several.npy', 'a stack of 3')
np.save('nothing.npy', objects('text', 5), allow_pickle=True)
expect('nothing.npy', 'without an array')


class Evil:
    def __reduce__(self):
        return os.system, ('touch evil',)


np.save('evil.npy', objects(Evil(), 5), allow_pickle=True)
expect('evil.npy', 'without an array')
np.save('evil-pair.npy', objects(Evil(), image), allow_pickle=True)
expect('evil-pair.npy', planes_of(image))

np.save('bool.npy', image > 0.5)
expect('bool.npy', planes_of(image > 0.5))
np.save('complex.npy', image + 1j)
expect('complex.npy', 'complex')
np.save('records.npy', np.zeros((9, 9), [('x', 'f4')]))
expect('records.npy', 'records')
np.save('empty.npy', np.zeros((0, 9)))
expect('empty.npy', 'no pixels')
np.savez('scalars.npz', image=image, label=np.int64(2), mass=np.float64(3))
expect('scalars.npz', planes_of(image))

# ---- .npz ----
np.savez('stored.npz', image)
expect('stored.npz', planes_of(image))
np.savez_compressed('deflated.npz', image=image, mass=np.float64(5))
expect('deflated.npz', planes_of(image))
np.savez_compressed('flat.npz', np.zeros((300, 300)))
expect('flat.npz', planes_of(np.zeros((300, 300))))
np.savez('two.npz', a=image, b=image)
expect('two.npz', 'a.npy, b.npy')
np.savez_compressed('object.npz', arr_0=objects(image, 1.0))
expect('object.npz', planes_of(image))

# ---- comparing ----
lines = subprocess.run([program] + [c[0] for c in cases], capture_output=True, text=True,
                       check=True).stdout.splitlines()
passed = failed = 0
for i, ((name, planes, extras), line) in enumerate(zip(cases, lines, strict=True)):
    if isinstance(planes, str):
        good = line.startswith('error: ') and planes in line and name.split('[')[0] in line
    elif line.startswith('error'):
        good = False
    else:
        words = line.split(' ', 6)
        offset = float(words[1])
        got = np.load(f'out-{i}.npy')
        with np.errstate(over='ignore'):
            wanted = (planes - offset).astype(np.float32)
        good = got.shape == wanted.shape and np.array_equal(got, wanted, equal_nan=True)
        good = good and (offset != 0) == extras.get('pedestal', False)
        if 'scale' in extras:
            good = good and abs(float(words[2]) / extras['scale'] - 1) < 1e-12
        if extras.get('sky') is not None:
            good = good and words[3] == '1' and np.allclose([float(words[4]), float(words[5])], extras['sky'],
                                                            rtol=0, atol=1e-10)
        if 'object' in extras:
            good = good and json.loads(words[6]) == extras['object']
    passed += good
    failed += not good
    if not good:
        print('FAILED', name, line)
if os.path.exists('evil'):
    print('FAILED: something in a file was executed')
    failed += 1
print(f'{passed} passed, {failed} failed')
sys.exit(failed != 0)
