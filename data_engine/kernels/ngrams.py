"""Word n-grams of a document: where its words lie, a rolling hash over them, and word-by-word comparison of two texts.

A hash only ever suggests that two n-grams are the same; `same_words` compares the words themselves.
"""

from typing import Any

import numba
import numpy as np

from data_engine.kernels.hashing import SEED, finish, step
from data_engine.kernels.unicode import LETTERLIKE, UNSPACED, decode, entry

BASE, OTHER_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
"""Odd bases of two rolling hashes."""


@numba.njit(nogil=True, cache=True)
def locate_tokens(
    utf8: np.ndarray,
    start: int,
    end: int,
    classes: np.ndarray,
    lower: np.ndarray,
    hashes: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
) -> int:
    """The tokens of words.split_tokens in bytes start..end, and the bytes begins..ends of each; returns how many.

    hashes: uint64, begins and ends: int64, each at least end - start long.
    """
    count = 0
    state = SEED
    inside = False
    at = start
    while at < end:
        point, following = decode(utf8, at, end)
        row = entry(point)
        kind = classes[row]
        alone = kind & UNSPACED != 0
        if inside and (alone or not kind & LETTERLIKE):
            hashes[count] = finish(state)
            ends[count] = at
            count += 1
            state = SEED
            inside = False
        if alone:
            hashes[count] = finish(step(SEED, point))
            begins[count], ends[count] = at, following
            count += 1
        elif kind & LETTERLIKE:
            if not inside:
                begins[count] = at
            state = step(state, lower[row] if point == row else point)
            inside = True
        at = following
    if inside:
        hashes[count] = finish(state)
        ends[count] = end
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def locate_all(
    utf8: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    lower: np.ndarray,
    hashes: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    bounds: np.ndarray,
) -> None:
    """The tokens of n documents one after the other; bounds: (n + 1,) int64, where those of each begin and end.

    hashes, begins, ends: as for `locate_tokens`, as long as the bytes of all documents; bytes count from utf8's start.
    """
    bounds[0] = 0
    for document in range(offsets.size - 1):
        filled = bounds[document]
        bounds[document + 1] = filled + locate_tokens(
            *(utf8, offsets[document], offsets[document + 1], classes, lower),
            *(hashes[filled:], begins[filled:], ends[filled:]),
        )


@numba.njit(nogil=True, cache=True)
def roll(hashes: np.ndarray, count: int, length: int, base: Any, out: np.ndarray) -> int:
    """Hashes of all windows of `length` among the first `count` word hashes; returns how many windows there are.

    The hash of words h_0..h_(n-1) is finish(n xor sum of h_i * base^(n-1-i)) modulo 2^64: leaving and entering words
    cost one multiplication each (Karp and Rabin 1987). hashes: uint64; base: odd uint64; out: uint64, `count` long.
    """
    if length < 1 or count < length:
        return 0
    leaving = np.uint64(1)
    for _ in range(length):
        leaving *= base
    state = np.uint64(0)
    for position in range(length):
        state = state * base + hashes[position]
    out[0] = finish(state ^ np.uint64(length))
    for position in range(length, count):
        state = state * base + hashes[position] - leaving * hashes[position - length]
        out[position - length + 1] = finish(state ^ np.uint64(length))
    return count - length + 1


@numba.njit(nogil=True, cache=True)
def same_words(
    utf8: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    other_utf8: np.ndarray,
    other_begins: np.ndarray,
    other_ends: np.ndarray,
    lower: np.ndarray,
) -> bool:
    """Whether two runs of words are the same words, case apart. begins, ends: (n,) int64 bytes of each word."""
    for word in range(begins.size):
        at, end = begins[word], ends[word]
        beside, other_end = other_begins[word], other_ends[word]
        while at < end and beside < other_end:
            point, at = decode(utf8, at, end)
            other, beside = decode(other_utf8, beside, other_end)
            if point != other:
                row, other_row = entry(point), entry(other)
                point = lower[row] if point == row else point
                other = lower[other_row] if other == other_row else other
                if point != other:
                    return False
        if at < end or beside < other_end:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def fill_table(slots: np.ndarray, keys: np.ndarray) -> None:
    """Put the numbers of keys into an open-addressing table, equal keys too. slots: (2^k,) int32, all -1."""
    mask = np.uint64(slots.size - 1)
    for number in range(keys.size):
        position = keys[number] & mask
        while slots[position] >= 0:
            position = (position + np.uint64(1)) & mask
        slots[position] = number


@numba.njit(nogil=True, cache=True)
def find_ngrams(
    utf8: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    lower: np.ndarray,
    lengths: np.ndarray,
    slots: np.ndarray,
    keys: np.ndarray,
    words: np.ndarray,
    first_words: np.ndarray,
    own_utf8: np.ndarray,
    own_begins: np.ndarray,
    own_ends: np.ndarray,
    hits: np.ndarray,
) -> int:
    """Every place in documents where a listed n-gram stands; returns how many. As many as hits has rows are told.

    utf8, offsets: n documents; lengths: the different lengths among the n-grams, in words; slots: (2^k,) int32, an
    open-addressing table of n-gram numbers, -1 where free; keys: (m,) uint64 hash (`roll` with BASE), words: (m,) int32
    length, and first_words: (m,) int64 first word of each n-gram among own_begins, own_ends, (w,) int64 bytes of words
    in own_utf8. hits: (capacity, 5) int64: document, n-gram, its first word there, and the bytes from that to its last.
    Each match of a hash is confirmed by the words themselves; several n-grams may share a hash.
    """
    longest = 0
    for document in range(offsets.size - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    hashes, windows = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    begins, ends = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    mask = np.uint64(slots.size - 1)
    found = 0
    for document in range(offsets.size - 1):
        count = locate_tokens(utf8, offsets[document], offsets[document + 1], classes, lower, hashes, begins, ends)
        for length in lengths:
            for place in range(roll(hashes, count, length, BASE, windows)):
                key = windows[place]
                position = key & mask
                held = slots[position]
                while held >= 0:
                    own = first_words[held]
                    if (
                        keys[held] == key
                        and words[held] == length
                        and same_words(
                            utf8,
                            begins[place : place + length],
                            ends[place : place + length],
                            own_utf8,
                            own_begins[own : own + length],
                            own_ends[own : own + length],
                            lower,
                        )
                    ):
                        if found < hits.shape[0]:
                            hits[found, 0], hits[found, 1] = document, held
                            hits[found, 2] = place
                            hits[found, 3] = begins[place] - offsets[document]
                            hits[found, 4] = ends[place + length - 1] - offsets[document]
                        found += 1
                        break
                    position = (position + np.uint64(1)) & mask
                    held = slots[position]
    return found
