"""Lines and paragraphs of a document: how they begin, end and repeat (Gopher and FineWeb rules)."""

from typing import Any

import numba
import numpy as np

from data_engine.kernels.hashing import PRIME, SEED, find_or_insert, finish, step, table_size
from data_engine.kernels.unicode import SPACE, TERMINAL, decode, entry, line_end

COLUMNS = (
    "lines",
    "bullet_lines",
    "ellipsis_lines",
    "terminal_lines",
    "short_lines",
    "newlines",
    "duplicate_line_fraction",
    "duplicate_line_characters",
    "repeated_line_characters",
    "duplicate_paragraph_fraction",
    "duplicate_paragraph_characters",
)
"""Columns of `line_statistics`. A line ends at '\\n'; lines of white space alone count nowhere but in newlines.

lines: how many. bullet_lines, ellipsis_lines, terminal_lines, short_lines: share of lines that begin with one of
'•', '-', '*'; that end with '...' or '…'; that end with a sentence terminal of any script; that have at most
`short_line` characters. newlines: '\\n' characters. duplicate_*_fraction and _characters: share of lines (paragraphs),
and of the characters in them, that occur more than once, every occurrence counted. repeated_line_characters: the same
without the first occurrence, as FineWeb counts. A paragraph is a run of lines without an empty line between them.
"""

_BULLET, _ELLIPSIS = 0x2022, 0x2026


@numba.njit(nogil=True, cache=True)
def line_statistics(
    utf8: np.ndarray, offsets: np.ndarray, classes: np.ndarray, short_line: int, out: np.ndarray
) -> None:
    """utf8: (bytes,) uint8; offsets: (n + 1,) int64; short_line: characters; out: (n, len(COLUMNS)) float64."""
    longest = 0
    for document in range(offsets.size - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    line_hashes = np.empty(longest + 1, np.uint64)
    line_lengths = np.empty(longest + 1, np.int64)
    paragraph_hashes = np.empty(longest + 1, np.uint64)
    paragraph_lengths = np.empty(longest + 1, np.int64)
    keys = np.empty(longest + 1, np.uint64)
    counts = np.empty(longest + 1, np.int64)
    slots = np.empty(table_size(longest + 1), np.int32)
    for document in range(offsets.size - 1):
        at, end = offsets[document], offsets[document + 1]
        lines = bullets = ellipses = terminals = short = newlines = paragraphs = 0
        paragraph_state, paragraph_length = SEED, 0
        while at <= end:
            begin = at
            at, ascii_only = line_end(utf8, at, end)
            if ascii_only:
                state, length, first, last, ellipsis = _ascii_line(utf8, begin, at, classes)
            else:
                state, length, first, last, ellipsis = _line(utf8, begin, at, classes)
            newlines += at < end
            at += 1
            if length:
                line_hashes[lines] = finish(state)
                line_lengths[lines] = length
                lines += 1
                bullets += first == _BULLET or first == 45 or first == 42
                ellipses += ellipsis
                terminals += classes[entry(last)] & TERMINAL != 0
                short += length <= short_line
                paragraph_state = finish(paragraph_state ^ finish(state)) * np.uint64(3)
                paragraph_length += length
            if paragraph_length and (not length or at > end):
                paragraph_hashes[paragraphs] = paragraph_state
                paragraph_lengths[paragraphs] = paragraph_length
                paragraphs += 1
                paragraph_state, paragraph_length = SEED, 0
        row = out[document]
        row[:] = 0.0
        row[0] = lines
        row[5] = newlines
        if not lines:
            continue
        row[1] = bullets / lines
        row[2] = ellipses / lines
        row[3] = terminals / lines
        row[4] = short / lines
        row[6], row[7], row[8] = _duplicates(line_hashes, line_lengths, lines, slots, keys, counts)
        row[9], row[10], _ = _duplicates(paragraph_hashes, paragraph_lengths, paragraphs, slots, keys, counts)


@numba.njit(nogil=True, cache=True)
def _line(utf8: np.ndarray, at: int, end: int, classes: np.ndarray) -> tuple[Any, int, Any, Any, bool]:
    """Of a line from its first to its last character that is no white space: hash state, characters, first and last
    character, and whether it ends with an ellipsis."""
    state = settled = SEED
    length = settled_length = dots = last_dots = first = last = 0
    while at < end:
        point, at = decode(utf8, at, end)
        kind = classes[entry(point)]
        if length or not kind & SPACE:
            state = step(state, point)
            length += 1
        if not kind & SPACE:
            dots = dots + 1 if point == 46 else 0
            if not settled_length:
                first = point
            settled, settled_length, last, last_dots = state, length, point, dots
        else:
            dots = 0
    return settled, settled_length, first, last, last == _ELLIPSIS or last_dots >= 3


@numba.njit(nogil=True, cache=True)
def _ascii_line(utf8: np.ndarray, at: int, end: int, classes: np.ndarray) -> tuple[Any, int, Any, Any, bool]:
    """The same of a line in ASCII, where bytes are characters."""
    while at < end and classes[utf8[at]] & SPACE:
        at += 1
    while at < end and classes[utf8[end - 1]] & SPACE:
        end -= 1
    if at == end:
        return SEED, 0, 0, 0, False
    state = np.uint64(SEED ^ np.uint64(end - at))
    place = at
    while place + 8 <= end:
        unit = np.uint64(0)
        for shift in range(8):
            unit |= np.uint64(utf8[place + shift]) << np.uint64(8 * shift)
        state = (state ^ unit) * PRIME
        state ^= state >> np.uint64(32)
        place += 8
    while place < end:
        state = step(state, utf8[place])
        place += 1
    dots = 0
    while dots < 3 and end - dots > at and utf8[end - 1 - dots] == 46:
        dots += 1
    return state, end - at, np.int64(utf8[at]), np.int64(utf8[end - 1]), dots == 3


@numba.njit(nogil=True, cache=True)
def _duplicates(
    hashes: np.ndarray, lengths: np.ndarray, items: int, slots: np.ndarray, keys: np.ndarray, counts: np.ndarray
) -> tuple[float, float, float]:
    """Share of items and of characters that occur more than once; share of characters after the first occurrence."""
    size = table_size(items)
    slots[:size] = -1
    characters = repeated = 0
    for item in range(items):
        characters += lengths[item]
        first = find_or_insert(slots, keys, size - 1, hashes[item], item)
        if first == item:
            counts[item] = 1
        else:
            counts[first] += 1
            repeated += lengths[item]
    duplicates = duplicate_characters = 0
    for item in range(items):
        # an item that is not first of its kind has no count of its own, but its kind has more than one
        first = find_or_insert(slots, keys, size - 1, hashes[item], item)
        if counts[first] > 1:
            duplicates += 1
            duplicate_characters += lengths[item]
    return duplicates / items, duplicate_characters / characters, repeated / characters
