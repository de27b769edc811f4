#!/usr/bin/env python3
"""Writes tests/fixtures/metrics/statistics.txt: what examples/statistics.h must give.

usage:  python3 tools/make_statistics_fixture.py        from the repository's top folder

Needs numpy, scipy and scikit-learn. The samples are tests/fixtures/metrics/scores.npy and labels.npy; the
second classifier is 0.75 of the first and 0.25 of its rows moved down by one. DeLong's covariances come
from the kernel of every pair, not from ranks; the bootstrap's draws from lensnet.h's generator, written
again here in Python's integers.
"""
import numpy as np
from scipy import stats
from sklearn import metrics

FOLDER = 'tests/fixtures/metrics/'
scores = np.load(FOLDER + 'scores.npy')
labels = np.load(FOLDER + 'labels.npy').astype(int)
N, K = scores.shape
other = 0.75 * scores + 0.25 * np.roll(scores, 1, axis=0)
DRAWS = 200
MASK = (1 << 64) - 1
lines = []


def put(name, values):
    values = np.atleast_1d(values)
    lines.append('%s %d %s' % (name, len(values), ' '.join(repr(float(v)) for v in values)))


# ---- lensnet.h's generator ---------------------------------------------------------------------------

def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def uniform(seed, stream, counter):
    key = mix(mix((seed + 0x9E3779B97F4A7C15) & MASK) ^ stream)
    bits = mix((key + 0x9E3779B97F4A7C15 * (counter + 1)) & MASK)
    return (bits >> 11) / 9007199254740992


def stream(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def draw(seed, number):
    weights = np.zeros(N, int)
    at = 0
    for k in range(K):
        members = np.flatnonzero(labels == k)
        for _ in members:
            u = uniform(seed, (stream('bootstrap') + number) & MASK, at)
            weights[members[int(u * len(members))]] += 1
            at += 1
    return weights


# ---- figures of a weighted sample --------------------------------------------------------------------

def ece(p, w):
    confidence, right = p.max(1), p.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * 15) - 1, 0, 14)
    return sum(abs((w * (right - confidence))[bins == b].sum()) for b in range(15)) / w.sum()


def one_versus_one(p, w):
    pairs = [(a, np.isin(labels, (a, b))) for a in range(K) for b in range(K) if a != b]
    return np.mean([metrics.roc_auc_score(labels[of] == a, p[of, a], sample_weight=w[of]) for a, of in pairs])


def figures(p, w):
    said = p.argmax(1)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, said, sample_weight=w, labels=range(K), zero_division=0)
    one_hot = np.eye(K)[labels]
    aucs = [metrics.roc_auc_score(labels == k, p[:, k], sample_weight=w) for k in range(K)]
    aps = [metrics.average_precision_score(labels == k, p[:, k], sample_weight=w) for k in range(K)]
    q = p / p.sum(1, keepdims=True)
    values = [np.average(said == labels, weights=w), recall.mean(), f1.mean(), np.mean(aucs),
              metrics.roc_auc_score(one_hot.ravel(), p.ravel(), sample_weight=np.repeat(w, K)), one_versus_one(p, w),
              np.mean(aps),
              np.average(-np.log(q[np.arange(N), labels]), weights=w),
              np.average(((p - one_hot) ** 2).sum(1), weights=w), ece(p, w),
              metrics.matthews_corrcoef(labels, said, sample_weight=w),
              metrics.cohen_kappa_score(labels, said, sample_weight=w)]
    for k in range(K):
        values += [aucs[k], aps[k], precision[k], recall[k], f1[k]]
    return np.array(values)


put('figures', figures(scores, np.ones(N)))
all_figures = []
for d in range(DRAWS):
    w = draw(7, d)
    if d < 2:
        put('draw/%d/weights' % d, w)
        put('draw/%d/figures' % d, figures(scores, w))
    all_figures.append((figures(scores, w), figures(other, w)))
first = np.array([f for f, _ in all_figures])
second = np.array([f for _, f in all_figures])
for name, values in (('bootstrap', first), ('paired', first - second)):
    put(name + '/low', np.quantile(values, 0.025, axis=0))
    put(name + '/high', np.quantile(values, 0.975, axis=0))

# ---- DeLong ------------------------------------------------------------------------------------------


def kernel(p, k):
    positive, negative = p[labels == k, k], p[labels != k, k]
    return np.heaviside(positive[:, None] - negative[None, :], 0.5)


influence = np.zeros(N)
for k in range(K):
    a, b = kernel(scores, k), kernel(other, k)
    m, n = a.shape
    v10 = np.cov(np.array([a.mean(1), b.mean(1)]))
    v01 = np.cov(np.array([a.mean(0), b.mean(0)]))
    covariance = v10 / m + v01 / n
    difference = a.mean() - b.mean()
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    low, high = stats.norm.interval(0.95, difference, error)
    put('delong/%d' % k, [a.mean(), b.mean(), difference, low, high, difference / error,
                          2 * stats.norm.sf(abs(difference / error))])
    influence[labels == k] += (a.mean(1) - a.mean() - b.mean(1) + b.mean()) / m / K
    influence[labels != k] += (a.mean(0) - a.mean() - b.mean(0) + b.mean()) / n / K
variance = sum((labels == k).sum() * np.var(influence[labels == k], ddof=1) for k in range(K))
difference = np.mean([kernel(scores, k).mean() - kernel(other, k).mean() for k in range(K)])
put('delong/macro', [difference, np.sqrt(variance), 2 * stats.norm.sf(abs(difference) / np.sqrt(variance))])

# ---- McNemar -----------------------------------------------------------------------------------------

right, also = scores.argmax(1) == labels, other.argmax(1) == labels
b, c = int((right & ~also).sum()), int((~right & also).sum())
chi2 = (abs(b - c) - 1) ** 2 / (b + c)
error = np.sqrt(b + c - (b - c) ** 2 / N) / N
put('mcnemar', [b, c, stats.binomtest(min(b, c), b + c).pvalue, chi2, stats.chi2.sf(chi2, 1), (b - c) / N,
                *stats.norm.interval(0.95, (b - c) / N, error)])

# ---- curves, sets, shares, distributions -------------------------------------------------------------

for k in range(K):
    precision, recall, threshold = metrics.precision_recall_curve(labels == k, scores[:, k])
    put('curve/%d/precision' % k, precision[::-1])
    put('curve/%d/recall' % k, recall[::-1])
    put('curve/%d/threshold' % k, threshold[::-1])
    own = scores[labels == k, k]
    levels = []
    for percent in range(1, 100):
        place = np.ceil((len(own) + 1) * percent / 100) / len(own)
        levels.append(0 if place > 1 else 1 - np.quantile(1 - own, place, method='inverted_cdf'))
    put('conformal/%d' % k, levels)
put('wilson', [v for part, whole in ((0, 9), (4, 9), (9, 9), (9000, 10000))
               for v in stats.binomtest(part, whole).proportion_ci(method='wilson')])
a, b = scores[labels == 0, 0], scores[labels != 0, 0]
for name, left, right in (('far', a, b), ('near', a, scores[labels == 0, 1] * 1.4), ('same', a, a)):
    distance = stats.ks_2samp(left, right).statistic
    scale = np.sqrt(len(left) * len(right) / (len(left) + len(right)))
    put('shift/' + name, [distance, stats.kstwobign.sf(distance * scale)])

with open(FOLDER + 'statistics.txt', 'w', newline='\n') as file:
    file.write('\n'.join(lines) + '\n')
