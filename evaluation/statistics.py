"""Uncertainty of ratios, and paired tests of a difference. NumPy and SciPy; no I/O."""

import numpy as np
from scipy import stats

from core.statistics import CONFIDENCE, Estimate

_RESAMPLES = 2000


def ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> Estimate:
    """sum(numerators) / sum(denominators), as bits over bytes, with a percentile bootstrap interval (Efron 1979).

    Both (n,). Samples are drawn with replacement 2,000 times.
    """
    n = len(numerators)
    value = float(numerators.sum() / denominators.sum())
    values = resampled_ratios(numerators, denominators, seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value, float(values.std(ddof=1)), float(low), float(high), n)


def resampled_ratios(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> np.ndarray:
    """The ratio under 2,000 bootstrap resamples, the same resamples for the same n and seed: (2000,)."""
    n = len(numerators)
    generator = np.random.default_rng(seed)
    # Counts of each sample in a resample of size n: a multinomial draw, without an index array of 2000 x n integers.
    counts = generator.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return (counts @ numerators) / (counts @ denominators)


def mcnemar(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """One-sided exact McNemar test (McNemar 1947): chance of so many losses if a loss were as likely as a gain.

    baseline, candidate: (n,) of 0/1 on the same samples. Only samples on which the two differ count.
    """
    losses = int(((baseline == 1) & (candidate == 0)).sum())
    gains = int(((baseline == 0) & (candidate == 1)).sum())
    if losses + gains == 0:
        return 1.0
    return float(stats.binomtest(losses, losses + gains, 0.5, alternative="greater").pvalue)


def paired_bootstrap(
    baseline: np.ndarray, candidate: np.ndarray, weights: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[float, float]:
    """One-sided paired bootstrap: is sum(candidate) / sum(weights) larger than sum(baseline) / sum(weights)?

    All (n,), the same samples in the same order; groups of samples are drawn together. Returns the share of resampled
    differences at or below zero (one added to both counts, so never 0), and the standard error of the difference.
    """
    _, members = np.unique(groups, return_inverse=True)
    differences = np.bincount(members, weights=candidate - baseline)
    values = resampled_ratios(differences, np.bincount(members, weights=weights), seed)
    return float((1 + (values <= 0).sum()) / (1 + len(values))), float(values.std(ddof=1))
