"""A law of data mixing: the loss of an untried mixture from those of mixtures that were tried."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

_FLOORS = 400
"""Values of the floor that a fit tries, from 0 to just below the lowest loss."""
_INSIDE = 1e-3
"""Distance in shares up to which a mixture counts as one between those that were tried."""


@dataclass(frozen=True)
class MixingLaw:
    """L(r) = c + exp(t . r) (Ye et al. 2024, arXiv:2403.16952, eq. 3, with log k in t: the shares r sum to 1).

    floor: c; slopes: (sources,), t.
    """

    floor: float
    slopes: np.ndarray

    def predict(self, shares_NS: np.ndarray) -> np.ndarray:
        """Losses of mixtures, (N,)."""
        return self.floor + np.exp(shares_NS @ self.slopes)


def mixtures_needed(sources: int) -> int:
    """How many tried mixtures a fit takes that leaves one out: as many as unknowns without a floor, and one more."""
    return sources + 1


def fit(shares_NS: np.ndarray, losses_N: np.ndarray) -> MixingLaw:
    """The law with the least squared error. For a given c, log(L - c) is linear in r; c is searched.

    With fewer than sources + 3 mixtures there is no room for a floor besides the slopes, and c is 0: plain log-linear.
    """
    mixtures, sources = shares_NS.shape
    assert losses_N.shape == (mixtures,) and losses_N.min() > 0
    floors = np.linspace(0, losses_N.min(), _FLOORS, endpoint=False) if mixtures >= sources + 3 else [0.0]
    laws = []
    for floor in floors:
        slopes, *_ = np.linalg.lstsq(shares_NS, np.log(losses_N - floor), rcond=None)
        laws.append(MixingLaw(float(floor), slopes))
    return min(laws, key=lambda law: float(((law.predict(shares_NS) - losses_N) ** 2).sum()))


def leave_one_out(shares_NS: np.ndarray, losses_N: np.ndarray) -> np.ndarray:
    """Each mixture's loss as a law fitted to all others predicts it: (N,)."""
    predicted = np.empty_like(losses_N)
    for left_out in range(len(losses_N)):
        others = np.arange(len(losses_N)) != left_out
        law = fit(shares_NS[others], losses_N[others])
        predicted[left_out] = law.predict(shares_NS[left_out : left_out + 1])[0]
    return predicted


def distance_to_tried(shares_NS: np.ndarray, shares_S: np.ndarray) -> float:
    """How far a mixture lies from those between the tried ones: the distance to their convex hull, in shares.

    The hull's nearest point is sum_n w_n r_n with w >= 0 and sum w = 1, which the last, heavy row asks for.
    """
    heavy = 1e3
    matrix = np.vstack([shares_NS.T, heavy * np.ones(len(shares_NS))])
    weights, _ = nnls(matrix, np.append(shares_S, heavy))
    return float(np.linalg.norm(shares_NS.T @ weights - shares_S))


def is_between(shares_NS: np.ndarray, shares_S: np.ndarray) -> bool:
    """Whether a mixture is one between those that were tried, so that predicting it is no extrapolation."""
    return distance_to_tried(shares_NS, shares_S) <= _INSIDE


def between_the_others(shares_NS: np.ndarray) -> np.ndarray:
    """Which mixtures lie between the other ones: (N,) bool."""
    rows = np.arange(len(shares_NS))
    return np.array([is_between(shares_NS[rows != row], shares_NS[row]) for row in rows])


def between(shares_NS: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Mixtures between the tried ones, spread over their convex hull, the tried ones first: (N + number, sources)."""
    weights = np.random.default_rng(seed).dirichlet(np.full(len(shares_NS), 0.5), number)
    return np.vstack([shares_NS, weights @ shares_NS])
