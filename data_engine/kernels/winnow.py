"""Winnowing: a sample of the n-grams of a document such that equal stretches of text sample equal n-grams."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def winnow(hashes: np.ndarray, count: int, window: int, places: np.ndarray) -> int:
    """Fill the places of the hashes that are smallest among `window` in a row, the last of equals; returns how many.

    Two texts that share `window` hashes in a row both choose the same one of them; of random hashes, 2 / (window + 1)
    are chosen (Schleimer, Wilkerson and Aiken 2003, "Winnowing"). hashes: uint64, `count` of them; places: int64, as
    long; ascending. Fewer than `window` hashes choose none.
    """
    if count < window:
        return 0
    # a queue of places whose hashes ascend: its head is the minimum of the window
    queue = np.empty(count, np.int64)
    head = tail = filled = 0
    for at in range(count):
        while tail > head and hashes[queue[tail - 1]] >= hashes[at]:
            tail -= 1
        queue[tail] = at
        tail += 1
        if queue[head] <= at - window:
            head += 1
        if at >= window - 1 and (not filled or places[filled - 1] != queue[head]):
            places[filled] = queue[head]
            filled += 1
    return filled
