"""make_picture_fixtures.py - writes tests/fixtures/pictures: small images in the files that people have.

    python3 tools/make_picture_fixtures.py        (numpy, astropy)

Every image has 12 rows and 13 columns; the pixel in row y, column x, band b, image k of a stack is
13 y + x + 200 b + 1000 k, unless its name says otherwise. tests/test_picture.c reads them.
"""
import io
import os
import pickle
import zipfile

import numpy as np
from astropy.io import fits

os.makedirs('tests/fixtures/pictures', exist_ok=True)
os.chdir('tests/fixtures/pictures')
image = np.arange(156.0).reshape(12, 13)
cube = image + 1000 * np.arange(11)[:, None, None]
bands = image + 200 * np.arange(3)[:, None, None]


def objects(*items):
    a = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        a[i] = item
    return a


def save_objects(name, a, protocol):
    with open(name, 'wb') as f:
        np.lib.format.write_array_header_1_0(f, {'descr': '|O', 'fortran_order': False, 'shape': a.shape})
        pickle.dump(a, f, protocol=protocol)


class Evil:
    def __reduce__(self):
        return os.system, ('touch evil',)


for protocol in (2, 3, 4, 5):
    save_objects(f'pair_{protocol}.npy', objects(image, 3.2e-23), protocol)
save_objects('pair_f4_big.npy', objects(np.asfortranarray(image.astype('>f4')), np.float64(3.2e-23)), 4)
save_objects('pair_rows.npy', objects(image.tolist(), 3.2e-23), 4)
save_objects('several.npy', objects(image, image + 1000), 4)
save_objects('evil.npy', objects(Evil(), 5), 4)
save_objects('evil_pair.npy', objects(Evil(), image), 4)
with open('cut_pair.npy', 'wb') as f:
    f.write(open('pair_4.npy', 'rb').read()[:-200])

np.savez('stored.npz', image)
np.savez_compressed('deflated.npz', image=image, mass=np.float64(5))
np.savez('two.npz', a=image, b=image)
buffer = io.BytesIO()
np.save(buffer, image)
packed = bytearray(open('deflated.npz', 'rb').read())
packed[120] ^= 1
open('bad_deflated.npz', 'wb').write(packed)
with zipfile.ZipFile('bzip2.npz', 'w', zipfile.ZIP_BZIP2) as z:
    z.writestr('arr_0.npy', buffer.getvalue())


def write_fits(name, *units):
    fits.HDUList(list(units)).writeto(name, overwrite=True)


scaled = fits.PrimaryHDU(image.astype('i2'))
scaled.header['BLANK'] = 7
write_fits('i2.fits', scaled)
with fits.open('i2.fits', mode='update', do_not_scale_image_data=True) as f:  # pixel = 0.5 number - 20
    f[0].header['BSCALE'] = 0.5
    f[0].header['BZERO'] = -20.0
write_fits('u2.fits', fits.PrimaryHDU(image.astype('u2')))  # by BZERO
write_fits('u1.fits', fits.PrimaryHDU(image.astype('u1')))
write_fits('i8.fits', fits.PrimaryHDU(image.astype('i8')))
write_fits('f4.fits', fits.PrimaryHDU(image.astype('f4')))
odd = image.copy()
odd[3, 4] = np.nan
main = fits.PrimaryHDU()
main.header['OBJECT'] = "it's \"lens\" 7"
main.header['RA'], main.header['DEC'] = '01:30:00.0', '-00:30:36'
second = fits.ImageHDU(odd + 1000)
second.header['CTYPE1'], second.header['CTYPE2'] = 'RA---TAN', 'DEC--TAN'
second.header['CRVAL1'], second.header['CRVAL2'] = 10.0, 20.0
second.header['CRPIX1'], second.header['CRPIX2'] = 7.0, 6.5
second.header['CDELT1'], second.header['CDELT2'] = -1e-4, 1e-4
write_fits('f8_extensions.fits', main, fits.ImageHDU(odd), second)
write_fits('cube.fits', fits.PrimaryHDU(cube.astype('f4')))
write_fits('bands.fits', fits.PrimaryHDU(bands.astype('f4')))
write_fits('compressed.fits', fits.PrimaryHDU(), fits.CompImageHDU(image.astype('i4')))
write_fits('table.fits', fits.PrimaryHDU(),
           fits.BinTableHDU.from_columns([fits.Column('x', 'D', array=np.arange(4.0))]))
open('cut.fits', 'wb').write(open('f4.fits', 'rb').read()[:3000])
