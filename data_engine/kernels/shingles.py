"""Shingles: the set of word sequences of a document, as 64-bit hashes, and MinHash signatures of that set."""

from typing import Any

import numba
import numpy as np

from data_engine.kernels.hashing import find_or_insert, hash_sequence, hash_window, table_size
from data_engine.kernels.words import split_tokens


@numba.njit(nogil=True, cache=True)
def shingle_hashes(
    utf8: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    lower: np.ndarray,
    width: int,
    shingles: np.ndarray,
    ends: np.ndarray,
) -> None:
    """The distinct shingles of documents, one document after the other, in the order in which they appear.

    A shingle is `width` tokens in a row (words.split_tokens: case and punctuation make no difference); a document
    with fewer tokens is one shingle, an empty one has none. shingles: uint64, as long as the bytes of all documents;
    ends: (n,) int64, where each document's part ends.
    """
    longest = 0
    for document in range(offsets.size - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    tokens = np.empty(longest + 1, np.uint64)
    slots = np.empty(table_size(longest + 1), np.int32)
    filled = 0
    for document in range(offsets.size - 1):
        count = split_tokens(utf8, offsets[document], offsets[document + 1], classes, lower, tokens)
        size = min(width, count)
        if size:
            part = shingles[filled:]
            mask = table_size(count - size + 1) - 1
            slots[: mask + 1] = -1
            distinct = 0
            for at in range(count - size + 1):
                distinct += find_or_insert(slots, part, mask, hash_window(tokens, at, size), distinct) == distinct
            filled += distinct
        ends[document] = filled


def shingle_sets(
    utf8: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    lower: np.ndarray,
    width: int,
    shingles: np.ndarray,
    ends: np.ndarray,
) -> None:
    """The same with each document's shingles in ascending order, as `jaccard` takes them.

    NumPy sorts 400 hashes in a third of the time that compiled code of Numba takes: it has vector instructions.
    """
    shingle_hashes(utf8, offsets, classes, lower, width, shingles, ends)
    start = 0
    for end in ends.tolist():
        shingles[start:end].sort()
        start = end


@numba.njit(inline="always")
def _fmix32(shingle: int) -> Any:
    h = np.uint32(shingle)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@numba.njit(nogil=True, cache=True)
def minhash(shingles: np.ndarray, ends: np.ndarray, a: np.ndarray, b: np.ndarray, signatures: np.ndarray) -> None:
    """MinHash signatures in datasketch 2.0's family affine32: min over h of a * fmix32(h) + b mod 2^32.

    h is the low half of each 64-bit hash. shingles, ends: as from `shingle_hashes`, in any order; a, b:
    (permutations,) uint32, a odd; signatures: (n, permutations) uint32, 2^32 - 1 throughout for an empty set.
    """
    start = 0
    for document in range(ends.size):
        row = signatures[document]
        row[:] = np.uint32(0xFFFFFFFF)
        end = ends[document]
        # four at a time: a, b and the row are loaded a quarter as often
        while start + 4 <= end:
            h0, h1 = _fmix32(shingles[start]), _fmix32(shingles[start + 1])
            h2, h3 = _fmix32(shingles[start + 2]), _fmix32(shingles[start + 3])
            for k in range(a.size):
                one = min(np.uint32(np.uint32(a[k] * h0) + b[k]), np.uint32(np.uint32(a[k] * h1) + b[k]))
                other = min(np.uint32(np.uint32(a[k] * h2) + b[k]), np.uint32(np.uint32(a[k] * h3) + b[k]))
                row[k] = min(row[k], one, other)
            start += 4
        for position in range(start, end):
            h = _fmix32(shingles[position])
            for k in range(a.size):
                row[k] = min(row[k], np.uint32(np.uint32(a[k] * h) + b[k]))
        start = end


@numba.njit(nogil=True, cache=True)
def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Jaccard similarity |A & B| / |A | B| of two ascending sets of distinct uint64; 0 when both are empty."""
    at = beside = common = 0
    while at < one.size and beside < other.size:
        # without a branch: which of the two is smaller cannot be foretold
        a, b = one[at], other[beside]
        common += a == b
        at += a <= b
        beside += b <= a
    union = one.size + other.size - common
    return common / union if union else 0.0


@numba.njit(nogil=True, cache=True)
def similarities(sets: np.ndarray, ends: np.ndarray, one: np.ndarray, other: np.ndarray, out: np.ndarray) -> None:
    """Jaccard similarities of pairs. sets: ascending sets end to end, uint64; ends: (sets,) int64; one, other: (n,)
    numbers of sets; out: (n,) float64."""
    for pair in range(one.size):
        a, b = one[pair], other[pair]
        out[pair] = jaccard(
            sets[(ends[a - 1] if a else 0) : ends[a]],
            sets[(ends[b - 1] if b else 0) : ends[b]],
        )


@numba.njit(nogil=True, cache=True)
def band_keys(signatures: np.ndarray, bands: int, rows: int, keys: np.ndarray) -> None:
    """One key for each band of each signature; the band's number is part of the key.

    signatures: (n, permutations) uint32 with permutations >= bands * rows; keys: (n, bands) uint64.
    """
    values = np.empty(rows + 1, np.uint64)
    for document in range(signatures.shape[0]):
        for band in range(bands):
            values[0] = np.uint64(band)
            for row in range(rows):
                values[row + 1] = np.uint64(signatures[document, band * rows + row])
            keys[document, band] = hash_sequence(values, 0, rows + 1)
