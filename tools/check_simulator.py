#!/usr/bin/env python3
"""Compares tools/simulate.c with lenstronomy, image by image, and with an independent program, set by
set.

    cc -O2 -fopenmp tools/simulate.c -o simulate -lm
    pip install lenstronomy scipy
    python3 tools/check_simulator.py ./simulate [images|statistics|speed|thin FOLDER] ...

images      noiseless images of both presets, all classes (also ellipses, 3 x 3 rays, truncated NFW
            subhalos), from the drawn parameters in truth.csv: largest relative difference to
            lenstronomy below 1e-10; deflection maps, distances and Einstein radii likewise
statistics  450 images per class and preset against images that the numpy code below draws by the same
            recipe with its own random numbers: two-sample Kolmogorov-Smirnov tests of 19 statistics;
            of m p-values the smallest must be at least 0.05 / m. Seeds are fixed here.
speed       the time lenstronomy takes for the same image
thin        makes tests/fixtures/simulator from a folder of full reference images: keeps rows and
            columns 1, 5, 9 ...

Without a word: images, statistics and speed. Exit status 1 when a limit is passed."""
import csv, glob, math, os, subprocess, sys, tempfile, time
import numpy as np

CLASSES = ['no', 'sphere', 'vort']
PRESETS = ['testI', 'model1']
PER_CLASS, REFERENCE = 450, 1000
SIMULATE_SEED, NUMPY_SEED = 31415926, 27182818
ARCSEC_ROUNDED = 206265.0
C, G, SUN, MPC = 299792458.0, 6.6743e-11, 1.988409870698051e30, 3.0856775814913673e22


# ---- running the program ------------------------------------------------------------------------------

def run(program, folder, *options):
    subprocess.run([program, folder] + [str(o) for o in options], check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(folder, 'truth.csv')) as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for key, value in row.items():
            if key not in ('file', 'split', 'class', 'subhalo_mass_x_y'): row[key] = float(value)
        row['subhalos'] = [tuple(map(float, s.split())) for s in row['subhalo_mass_x_y'].split(';') if s]
    return rows


# ---- the physics in numpy: independent of the C code, used for statistics and as lenstronomy's frame ------

def comoving(z):
    from numpy.polynomial.legendre import leggauss
    x, w = leggauss(40)
    x = (x + 1) / 2 * z
    return 299792.458 / 70 * np.sum(w / np.sqrt(0.3 * (1 + x) ** 3 + 0.7)) * z / 2


def einstein(mass, z_lens, z_source):
    lens, source = comoving(z_lens) * (1 + z_lens), comoving(z_source) * (1 + z_source)
    return math.sqrt(4 * G * mass * SUN / C ** 2 / MPC * (source - lens) / (lens * source)) * ARCSEC_ROUNDED


def grid(n, y_up):
    axis = (np.arange(n) - (n - 1) / 2) * 0.05
    return np.meshgrid(axis, -axis if y_up else axis)


def ellipse(q, degrees):
    e = (1 - q) / (1 + q)
    return e * math.cos(2 * math.radians(degrees)), e * math.sin(2 * math.radians(degrees))


def gaussian(radius, sigma):
    w = np.exp(-np.arange(-radius, radius + 1) ** 2 / (2 * sigma ** 2))
    return w / w.sum()


def blur_valid(frame, weights):
    from scipy.ndimage import correlate1d
    r = len(weights) // 2
    out = correlate1d(correlate1d(frame, weights, axis=0, mode='constant'), weights, axis=1, mode='constant')
    return out[r:-r, r:-r]


def blur_repeat(frame, weights):
    return blur_valid(np.pad(frame, len(weights) // 2, mode='edge'), weights)


def points(row, vortex_points):
    """(mass, x, y) of all point masses of a row of truth.csv"""
    if row['class'] == 'sphere': return row['subhalos']
    if row['class'] == 'no': return []
    along = np.linspace(-0.5, 0.5, vortex_points) * row['vortex_length']
    angle = math.radians(row['vortex_angle'])
    return [(row['vortex_mass'] / vortex_points, row['vortex_x'] + a * math.cos(angle),
             row['vortex_y'] + a * math.sin(angle)) for a in along]


def b_series(n):
    return (2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n ** 2) + 131 / (1148175 * n ** 3)
            - 2194697 / (30690717750 * n ** 4))


# ---- images by lenstronomy --------------------------------------------------------------------------------

def lenstronomy_lens(row, vortex_points, tnfw):
    """models and keywords"""
    theta = einstein(row['halo_mass'], row['z_lens'], row['z_source'])
    e1, e2 = ellipse(row['halo_q'], row['halo_angle'])
    shear = 2 * math.radians(row['shear_angle'])
    models = ['SIS' if row['halo_q'] == 1 else 'SIE', 'SHEAR']
    keywords = [dict(theta_E=theta, center_x=0, center_y=0),
                dict(gamma1=row['shear'] * math.cos(shear), gamma2=row['shear'] * math.sin(shear))]
    if row['halo_q'] != 1: keywords[0].update(e1=e1, e2=e2)
    for mass, x, y in points(row, vortex_points):
        part = einstein(mass, row['z_lens'], row['z_source'])
        if tnfw and row['class'] == 'sphere':
            scale, t = tnfw
            rs = scale * (mass / 1e8) ** (1 / 3)
            total = t ** 2 / (t ** 2 + 1) ** 2 * ((t ** 2 - 1) * math.log(t) + t * math.pi - (t ** 2 + 1))
            models.append('TNFW')
            keywords.append(dict(Rs=rs, alpha_Rs=part ** 2 / total * (1 - math.log(2)) / rs, r_trunc=t * rs,
                                 center_x=x, center_y=y))
        else:
            models.append('POINT_MASS')
            keywords.append(dict(theta_E=part, center_x=x, center_y=y))
    return models, keywords


class Lenstronomy:
    def __init__(self):
        from lenstronomy.LensModel.lens_model import LensModel
        from lenstronomy.LightModel.light_model import LightModel
        self.lens_model, self.light = LensModel, LightModel(['SERSIC_ELLIPSE'])

    def frame(self, row, n, preset, vortex_points, rays, tnfw):
        """light per pixel and unit of exposure on n x n pixels, and the deflection"""
        models, keywords = lenstronomy_lens(row, vortex_points, tnfw)
        lens = self.lens_model(models)
        x, y = grid(n, preset == 'testI')
        e1, e2 = ellipse(row['source_q'], row['source_angle'])
        amplitude, radius = row['source_brightness'], row['source_radius']
        if preset == 'testI':  # lenstronomy's b_n is another: the same profile has another R_e and amplitude
            b, other, n_s = b_series(row['source_index']), 1.9992 * row['source_index'] - 0.3271, row['source_index']
            amplitude *= math.exp(b - other)
            radius *= (other / b) ** n_s
        light = [dict(amp=amplitude, R_sersic=radius, n_sersic=row['source_index'], e1=e1, e2=e2,
                      center_x=row['source_x'], center_y=row['source_y'])]
        total = 0
        for i in range(rays):
            for j in range(rays):
                dx, dy = ((j + 0.5) / rays - 0.5) * 0.05, ((i + 0.5) / rays - 0.5) * 0.05
                beta = lens.ray_shooting((x + dx).ravel(), (y + (-dy if preset == 'testI' else dy)).ravel(), keywords)
                total = total + self.light.surface_brightness(*beta, light).reshape(n, n)
        deflection = np.array(lens.alpha(x.ravel(), y.ravel(), keywords)).reshape(2, n, n)
        return total / rays ** 2, deflection

    def image(self, row, preset, vortex_points, rays, tnfw):
        if preset == 'testI':
            frame = self.frame(row, 160, preset, vortex_points, rays, tnfw)
            light = blur_valid(frame[0], gaussian(5, 1.74))
            return (light + row['sky']) * row['exposure'], frame[1][:, 5:-5, 5:-5]
        frame = self.frame(row, 150, preset, vortex_points, rays, tnfw)
        light = blur_repeat(frame[0], gaussian(3, 0.087 / 2.3548200450309493 / 0.05))
        return (light + row['sky']) * row['exposure'], frame[1]


def check_images(program):
    from astropy.cosmology import FlatLambdaCDM
    reference, good = Lenstronomy(), True
    cosmology = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    cases = [('testI', [], dict()), ('model1', [], dict()),
             ('testI', ['--rays', 3, '--halo-q', '0.5:0.9', '--halo-angle', '0:180'], dict(rays=3)),
             ('model1', ['--halo-q', 1, '--exposure', 1, '--vortex-points', 7], dict(vortex_points=7)),
             ('testI', ['--subhalo-profile', 'tnfw'], dict(tnfw=(0.05, 5)))]
    for preset, options, extra in cases:
        kind = dict(vortex_points=25 if preset == 'testI' else 100, rays=1, tnfw=None)
        kind.update(extra)
        worst = dict.fromkeys(CLASSES, 0.0)
        maps = distance = 0.0
        with tempfile.TemporaryDirectory() as folder:
            rows = run(program, folder + '/set', '--preset', preset, '--train', 4, '--noiseless', '--output', 'counts',
                       '--maps', '--seed', 77, *options)
            for row in rows:
                mine = np.load(folder + '/set/' + row['file'])[0]
                expected, deflection = reference.image(row, preset, **kind)
                worst[row['class']] = max(worst[row['class']], np.abs(mine / expected - 1).max())
                my_map = np.load(folder + '/set/maps/' + row['file'].replace('.npy', '-deflection.npy'))
                maps = max(maps, np.abs(my_map - deflection).max())
                lens, source = (cosmology.luminosity_distance(row[z]).value for z in ('z_lens', 'z_source'))
                theta = math.sqrt(4 * G * row['halo_mass'] * SUN / C ** 2 / MPC * (source - lens) / lens / source)
                distance = max(distance, abs(row['theta_e'] / (theta * ARCSEC_ROUNDED) - 1))
        passed = max(worst.values()) < 1e-10 and maps < 1e-9 and distance < 1e-8
        good &= passed
        print('%-6s %-52s %s  deflection %.1e  theta_E %.1e  %s' % (
            preset, ' '.join(map(str, options)), '  '.join('%s %.1e' % item for item in worst.items()), maps, distance,
            'ok' if passed else 'FAILED'))
    return good


# ---- images by numpy, with numpy's random numbers -------------------------------------------------------------

def numpy_light(x, y, theta, q, phi, g1, g2, masses, source, kind):
    """source: amplitude, R_e, n, b, x, y, q, angle (radians)"""
    if kind == 'sis':
        r = np.hypot(x, y)
        ax, ay = theta * x / r, theta * y / r
    else:
        f, s = math.sqrt(1 - q * q), 1e-10 / math.sqrt(q)
        u, v = math.cos(phi) * x + math.sin(phi) * y, -math.sin(phi) * x + math.cos(phi) * y
        psi = np.sqrt(q * q * (s * s + u * u) + v * v)
        au = theta * math.sqrt(q) / f * np.arctan(f * u / (psi + s))
        av = theta * math.sqrt(q) / f * np.arctanh(f * v / (psi + q * q * s))
        ax, ay = math.cos(phi) * au - math.sin(phi) * av, math.sin(phi) * au + math.cos(phi) * av
    ax, ay = ax + g1 * x + g2 * y, ay + g2 * x - g1 * y
    for strength, px, py in masses:
        dx, dy = x - px, y - py
        factor = strength / np.maximum(dx * dx + dy * dy, 1e-50)
        ax, ay = ax + factor * dx, ay + factor * dy
    amplitude, radius, n, b, sx, sy, q, angle = source
    dx, dy = x - ax - sx, y - ay - sy
    u, v = math.cos(angle) * dx + math.sin(angle) * dy, -math.sin(angle) * dx + math.cos(angle) * dy
    return amplitude * np.exp(-b * ((np.sqrt(q * u * u + v * v / q) / radius) ** (1 / n) - 1))


def draw_points(rng, label, unit, nearest, vortex):
    if label == 'sphere':
        low, high = 1e6 ** 0.1, 1e10 ** 0.1
        mass = (low + (high - low) * rng.random(25)) ** 10
        radius, angle = nearest + (2 - nearest) * rng.random(25), 2 * math.pi * rng.random(25)
        return list(zip(unit * mass, radius * np.cos(angle), radius * np.sin(angle)))
    if label == 'vort':
        mass, length, count, sigma = vortex
        cx, cy = sigma * rng.standard_normal(2)
        angle = 2 * math.pi * rng.random()
        return [(unit * mass / count, cx + a * math.cos(angle), cy + a * math.sin(angle))
                for a in np.linspace(-length / 2, length / 2, count)]
    return []


def numpy_test_i(rng, label, x, y):
    z_lens, z_source = rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.2)
    theta = einstein(1e12, z_lens, z_source)
    shear, angle = rng.uniform(0, 0.3), math.radians(rng.uniform(0, 2 * math.pi))
    radius, direction = rng.uniform(0, 0.5), rng.uniform(0, 2 * math.pi)
    vortex = (rng.uniform(0.03, 0.06) * 1e12, 0.96 * rng.uniform(1, 4), 25, 0.5)
    masses = draw_points(rng, label, theta ** 2 / 1e12, 0, vortex)
    source = (100, 0.5, 1.5, b_series(1.5), radius * math.cos(direction), radius * math.sin(direction),
              rng.uniform(0.4, 1), math.radians(rng.uniform(0, 2 * math.pi)))
    light = numpy_light(x, y, theta, 1, 0, shear * math.cos(2 * angle), shear * math.sin(2 * angle), masses, source, 'sis')
    return rng.poisson(blur_valid(light, gaussian(5, 1.74)) + 10)


def numpy_model_1(rng, label, x, y):
    theta = einstein(1e12, 0.5, 1.0)
    axion = 10 ** rng.uniform(-24, -22)
    vortex = (3e10, 2 * 0.03e-22 / axion, 100, 0)
    masses = draw_points(rng, label, theta ** 2 / 1e12, 0.25, vortex)
    e = math.hypot(0.1, 0.1)
    source = (20 * 0.0025, 0.25, 1, 1.9992 - 0.3271, rng.uniform(-0.35, 0.35), rng.uniform(-0.35, 0.35),
              (1 - e) / (1 + e), math.atan2(0.1, -0.1) / 2)
    light = numpy_light(x, y, theta, 0.9 / 1.1, 0, 0.05, 0, masses, source, 'sie')
    mean = blur_repeat(light, gaussian(3, 0.087 / 2.3548200450309493 / 0.05))
    t = 10 ** rng.uniform(3, 3.5)
    noisy = mean + rng.standard_normal(mean.shape) * np.sqrt(np.abs(mean) / t) + 0.01 * rng.standard_normal(mean.shape)
    return rng.poisson(np.maximum(0, noisy * t))


# ---- statistics -------------------------------------------------------------------------------------------

ROW, COLUMN = np.mgrid[0:150, 0:150] - 74.5
RADIUS = np.hypot(ROW, COLUMN)
FAR = RADIUS > 95
BINS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
NAMES = (['mean', 'standard deviation', 'median', 'far-field mean', 'far-field noise', 'flux radius',
          'radius of the brightest ring', 'pixels > 0.5', 'stretch along x', 'counts, largest - smallest']
         + ['pixels < 0.01'] + ['%g to %g' % (a, b) for a, b in zip(BINS, BINS[1:])] + ['pixels > 0.8'])


def statistics(counts):
    span = float(counts.max() - counts.min())
    a = (counts - counts.min()) / span
    far = a[FAR]
    flux = np.where(a - far.mean() > 3 * far.std(), a - far.mean(), 0)
    ring = np.bincount(RADIUS.ravel().astype(int), a.ravel()) / np.bincount(RADIUS.ravel().astype(int))
    moment = (flux * (COLUMN ** 2 - ROW ** 2)).sum() / (flux * RADIUS ** 2).sum()
    histogram = np.histogram(a, [-1] + BINS + [2])[0] / a.size
    return np.concatenate([[a.mean(), a.std(), np.median(a), far.mean(), far.std(), (flux * RADIUS).sum() / flux.sum(),
                            ring[3:70].argmax() + 3, (a > 0.5).mean(), moment, span], histogram])


def check_statistics(program):
    from scipy.stats import ks_2samp
    good = True
    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as folder:
            rows = run(program, folder + '/set', '--preset', preset, '--train', PER_CLASS, '--output', 'counts', '--seed',
                       SIMULATE_SEED)
            mine = {c: np.array([statistics(np.load(folder + '/set/' + r['file'])[0]) for r in rows if r['class'] == c])
                    for c in CLASSES}
        x, y = grid(160, True) if preset == 'testI' else grid(150, False)
        draw = numpy_test_i if preset == 'testI' else numpy_model_1
        for k, label in enumerate(CLASSES):
            rng = np.random.default_rng([NUMPY_SEED, k])
            theirs = np.array([statistics(draw(rng, label, x, y)) for _ in range(REFERENCE)])
            p = np.array([ks_2samp(a, b).pvalue for a, b in zip(mine[label].T, theirs.T)])
            passed = p.min() >= 0.05 / len(p)
            good &= passed
            print('%-6s %-6s smallest of %d p-values %.4f (%s), limit %.4f  %s' % (
                preset, label, len(p), p.min(), NAMES[p.argmin()], 0.05 / len(p), 'ok' if passed else 'FAILED'))
            if preset == 'testI' and label == 'no':
                print('       statistic                         simulate.c             numpy                 p')
                for name, a, b, value in zip(NAMES, mine[label].T, theirs.T, p):
                    print('       %-30s %9.5f +- %-9.5f %9.5f +- %-9.5f %.3f' % (name, a.mean(), a.std(), b.mean(), b.std(), value))
    return good


# ---- speed and fixtures -----------------------------------------------------------------------------------

def check_speed(program):
    reference = Lenstronomy()
    text = subprocess.run([program, '--benchmark', '--threads', '1'], capture_output=True, text=True, check=True).stdout
    print(text, end='')
    cost = {line.split()[0]: float(line.split()[4]) for line in text.splitlines() if line.startswith('  ')}
    with tempfile.TemporaryDirectory() as folder:
        rows = run(program, folder + '/set', '--train', 2, '--seed', 3)
    for label in CLASSES:
        row = [r for r in rows if r['class'] == label][0]
        reference.image(row, 'testI', 25, 1, None)
        times = []
        for _ in range(15):
            start = time.process_time()
            models, keywords = lenstronomy_lens(row, 25, None)
            lens = reference.lens_model(models)
            x, y = grid(160, True)
            beta = lens.ray_shooting(x.ravel(), y.ravel(), keywords)
            e1, e2 = ellipse(row['source_q'], row['source_angle'])
            light = reference.light.surface_brightness(*beta, [dict(
                amp=100, R_sersic=0.5, n_sersic=1.5, e1=e1, e2=e2, center_x=row['source_x'], center_y=row['source_y'])])
            np.random.poisson(blur_valid(light.reshape(160, 160), gaussian(5, 1.74)) + 10)
            times.append(time.process_time() - start)
        best = min(times)
        print('  %-7s lenstronomy: %.1f ms of a core per image, %.0f times as long as simulate.c' % (
            label, 1000 * best, 1000 * best / cost[label]))
    return True


def thin(source):
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'fixtures', 'simulator')
    for path in sorted(glob.glob(os.path.join(source, '*.npy'))):
        a = np.load(path)
        np.save(os.path.join(target, os.path.basename(path)), np.ascontiguousarray(a[0, 1::4, 1::4]) if a.ndim == 3 else a)
    return True


def main():
    if len(sys.argv) < 2: sys.exit(__doc__)
    program, words, good = os.path.abspath(sys.argv[1]), sys.argv[2:] or ['images', 'statistics', 'speed'], True
    if words[0] == 'thin': sys.exit(not thin(words[1]))
    for word in words:
        good &= {'images': check_images, 'statistics': check_statistics, 'speed': check_speed}[word](program)
    sys.exit(not good)


main()
