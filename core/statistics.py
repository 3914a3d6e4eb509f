"""Uncertainty of a share of samples that may come in clusters. NumPy and SciPy; no I/O."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_Z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and its 95 % interval over `n` samples."""

    value: float
    standard_error: float
    low: float
    high: float
    n: int


def proportion(hits: np.ndarray, groups: np.ndarray | None = None) -> Estimate:
    """Mean of 0/1 values with Wilson's score interval (Wilson 1927).

    hits, groups: (n,). Samples of one group (several pairs about one fact) vary together: the standard error is then
    that of cluster means (Miller 2024, arXiv:2411.00640, section 2.2), and Wilson's interval takes the effective number
    of samples, value (1 - value) / standard error^2, if that is smaller than n.
    """
    n = len(hits)
    value = float(hits.mean())
    plain = sqrt(value * (1 - value) / n)
    error = plain
    if groups is not None:
        _, members = np.unique(groups, return_inverse=True)
        sums = np.bincount(members, weights=hits - value)
        error = max(plain, float(np.sqrt((sums**2).sum())) / n)
    effective = n if error <= plain else value * (1 - value) / error**2
    centre = (value + _Z**2 / (2 * effective)) / (1 + _Z**2 / effective)
    half = _Z / (1 + _Z**2 / effective) * sqrt(value * (1 - value) / effective + _Z**2 / (4 * effective**2))
    return Estimate(value, error, max(0.0, centre - half), min(1.0, centre + half), n)
