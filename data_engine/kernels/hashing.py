"""64-bit hashes of words and word sequences, and the open-addressing table that counts them.

States and keys are uint64 (np.uint64 when compiled); Python integers would not wrap around.
"""

from typing import Any

import numba
import numpy as np

SEED = np.uint64(0xCBF29CE484222325)
PRIME = np.uint64(0x100000001B3)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_EMPTY = np.int64(-1)


@numba.njit(inline="always")
def step(state: Any, unit: Any) -> Any:
    """One step of FNV-1a over units of up to 32 bits."""
    return (np.uint64(state) ^ np.uint64(unit)) * PRIME


@numba.njit(inline="always")
def step_or_begin(state: Any, unit: Any, inside: bool) -> Any:
    """A step where `inside`, else the state before any unit. Without a branch: where a word ends cannot be foretold."""
    every_bit = np.uint64(0) - np.uint64(inside)
    return (step(state, unit) & every_bit) | (SEED & ~every_bit)


@numba.njit(nogil=True, cache=True)
def finish(state: Any) -> Any:
    """The MurmurHash3 finaliser: every bit of the result depends on every bit of the state."""
    h = np.uint64(state)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    return h


@numba.njit(nogil=True, cache=True)
def hash_sequence(hashes: np.ndarray, start: int, length: int) -> Any:
    """Hash of `length` hashes in their order. hashes: (n,) uint64."""
    state = SEED
    for position in range(start, start + length):
        state = finish(state ^ hashes[position]) * PRIME
    return finish(state)


@numba.njit(nogil=True, cache=True)
def hash_window(hashes: np.ndarray, start: int, length: int) -> Any:
    """Hash of `length` well-mixed hashes in their order: the sum of h_i * odd^(length - i), mixed once.

    One multiplication for each, where `hash_sequence` takes three. hashes: (n,) uint64.
    """
    total = np.uint64(0)
    for position in range(start, start + length):
        total = total * _ODD + hashes[position]
    return finish(total)


@numba.njit(nogil=True, cache=True)
def table_size(items: int) -> int:
    """A power of two that leaves the table at most half full."""
    size = 16
    while size < 2 * items:
        size *= 2
    return size


@numba.njit(nogil=True, cache=True)
def find_or_insert(slots: np.ndarray, keys: np.ndarray, mask: int, key: Any, index: int) -> Any:
    """The index first stored for `key`, which is `index` itself when the key is new.

    slots: (2^k,) int32, -1 where free; keys: (m,) uint64, the key of each stored index; mask: 2^k - 1.
    """
    position = np.int64(key & np.uint64(mask))
    while True:
        held = slots[position]
        if held < 0:
            slots[position] = index
            keys[index] = key
            return index
        if keys[held] == key:
            return np.int64(held)
        position = (position + 1) & mask


@numba.njit(nogil=True, cache=True)
def contains(sorted_keys: np.ndarray, start: int, end: int, key: Any) -> bool:
    """Whether `key` is among the ascending keys start..end. sorted_keys: (n,) uint64."""
    low, high = start, end
    while low < high:
        middle = (low + high) >> 1
        if sorted_keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low < end and sorted_keys[low] == key
