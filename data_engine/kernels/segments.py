"""Lines, paragraphs and sentences of a document, and hashes of their words: what repeats across a corpus."""

import numba
import numpy as np

from data_engine.kernels.hashing import finish
from data_engine.kernels.ngrams import BASE, OTHER_BASE
from data_engine.kernels.unicode import LETTERLIKE, SPACE, TERMINAL, UNSPACED, decode, entry
from data_engine.kernels.words import split_tokens

LINE, PARAGRAPH, SENTENCE = 0, 1, 2
"""Kinds of segments. A line ends at '\\n'. A paragraph is a run of lines without an empty line between them. A sentence
ends at the end of its line, and after a sentence terminal (with the marks that close it) before white space or, in
unspaced scripts, before anything. None begins or ends with white space."""


@numba.njit(nogil=True, cache=True)
def split_segments(
    utf8: np.ndarray, start: int, end: int, classes: np.ndarray, kind: int, begins: np.ndarray, ends: np.ndarray
) -> int:
    """Fill the bytes of the segments in start..end; returns how many. begins, ends: int64, as long as end - start."""
    count = 0
    first = last = -1
    newlines = 0
    terminal = False
    at = start
    while at < end:
        begin = at
        point, at = decode(utf8, at, end)
        bits = classes[entry(point)]
        if bits & SPACE:
            newlines += point == 10
            if first >= 0 and (newlines > (kind == PARAGRAPH) or (kind == SENTENCE and terminal)):
                begins[count], ends[count] = first, last
                count += 1
                first = -1
            continue
        if first >= 0 and kind == SENTENCE and terminal and bits & UNSPACED:
            begins[count], ends[count] = first, last
            count += 1
            first = -1
        if first < 0:
            first = begin
            terminal = False
        if bits & TERMINAL:
            terminal = True
        elif bits & LETTERLIKE:
            terminal = False
        newlines = 0
        last = at
    if first >= 0:
        begins[count], ends[count] = first, last
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def segment_keys(
    utf8: np.ndarray,
    start: int,
    end: int,
    classes: np.ndarray,
    lower: np.ndarray,
    kind: int,
    span: int,
    least: int,
    keys: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
) -> int:
    """Every run of `span` segments that has at least `least` words (words.split_tokens); returns how many.

    keys: (m, 2) uint64, two hashes of the words; begins, ends: (m,) int64 bytes; m is at least end - start.
    """
    own_begins, own_ends = np.empty(end - start + 1, np.int64), np.empty(end - start + 1, np.int64)
    segments = split_segments(utf8, start, end, classes, kind, own_begins, own_ends)
    tokens = np.empty(end - start + 1, np.uint64)
    bounds = np.empty(segments + 1, np.int64)
    bounds[0] = 0
    for segment in range(segments):
        filled = bounds[segment]
        bounds[segment + 1] = filled + split_tokens(
            utf8, own_begins[segment], own_ends[segment], classes, lower, tokens[filled:]
        )
    count = 0
    for segment in range(segments - span + 1):
        words = bounds[segment + span] - bounds[segment]
        if words < max(least, 1):
            continue
        one, other = np.uint64(words), np.uint64(words)
        for token in range(bounds[segment], bounds[segment + span]):
            one = one * BASE + tokens[token]
            other = other * OTHER_BASE + tokens[token]
        keys[count, 0], keys[count, 1] = finish(one), finish(other)
        begins[count], ends[count] = own_begins[segment], own_ends[segment + span - 1]
        count += 1
    return count
