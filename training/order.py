"""The order of samples: an endless stream of epochs, each its own permutation, a pure function of (count, seed)."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` samples in epoch `epoch`: (count,) int64, read-only. Philox, keyed by seed and epoch."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    order.flags.writeable = False
    return order


def samples(count: int, seed: int, first: int, number: int) -> list[int]:
    """Samples first .. first + number - 1 of the stream: indices below `count`."""
    return [int(permutation(count, seed, k // count)[k % count]) for k in range(first, first + number)]
