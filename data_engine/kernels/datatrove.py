"""Every signal as datatrove 0.10's four filter classes compute it, in one pass over each document.

Definitions: gopher_repetition_filter.py, gopher_quality_filter.py, c4_filters.py, fineweb_quality_filter.py. Words are
those of kernels.english. C4 edits a document (lines and citations go) before FineWeb judges it, so the lines that C4
keeps are written to a second buffer, which is then measured.
"""

import numba
import numpy as np

from data_engine.kernels import datatrove_lines as lines
from data_engine.kernels.english import (
    ALPHABETIC,
    SYMBOL,
    English,
    code_points_of,
    hash_of,
    words_of,
)
from data_engine.kernels.hashing import find_or_insert, finish, table_size

TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)
_WORDS = (
    "words",
    "mean_word_length",
    "hash_per_word",
    "ellipsis_per_word",
    "alphabetic_words",
    "stop_words",
    *(f"top_{n}_gram" for n in TOP),
    *(f"duplicate_{n}_gram" for n in DUPLICATE),
)
COLUMNS = (*_WORDS, *lines.LINE_COLUMNS, *lines.C4_COLUMNS, *lines.FINEWEB_COLUMNS)
"""Columns of `datatrove_statistics`; the rules that read them bear the same names in both flavours.

words, mean_word_length: words that are not all on datatrove's list of punctuation. Other ratios are per word of any
kind, n-grams per character of the document; stop_words: how many of the list's words occur."""

_LINES_AT = len(_WORDS)
_C4_AT = _LINES_AT + len(lines.LINE_COLUMNS)
_FINEWEB_AT = _C4_AT + len(lines.C4_COLUMNS)

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BASE = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(nogil=True, cache=True)
def datatrove_statistics(
    utf8: np.ndarray,
    offsets: np.ndarray,
    english: English,
    stop_words: np.ndarray,
    c4: lines.C4Rules,
    short_line: int,
    out: np.ndarray,
) -> None:
    """utf8: (bytes,) uint8; offsets: (n + 1,) int64; stop_words: hashes, uint64; short_line: characters;
    out: (n, len(COLUMNS)) float64."""
    longest = 0
    for document in range(offsets.size - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    size = longest + 2
    points, edited = np.empty(size, np.int32), np.empty(size, np.int32)
    kinds, edited_kinds = np.empty(size, np.uint32), np.empty(size, np.uint32)
    starts, ends = np.empty(size, np.int64), np.empty(size, np.int64)
    space = lines.Space(
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(table_size(size), np.int32),
    )
    hashes, squeezed = np.empty(size, np.uint64), np.empty(size, np.int64)
    powers, prefixes = np.empty(size, np.uint64), np.empty(size, np.uint64)
    powers[0] = np.uint64(1)
    for at in range(1, size):
        powers[at] = powers[at - 1] * _BASE
    for document in range(offsets.size - 1):
        row = out[document]
        row[:] = 0.0
        characters = code_points_of(utf8, offsets[document], offsets[document + 1], english.classes, points, kinds)
        if not characters:
            continue
        words = words_of(points, kinds, 0, characters, english, starts, ends)
        _count_words(points, kinds, characters, starts, ends, words, stop_words, row)
        _hash_words(points, starts, ends, words, powers, prefixes, hashes, squeezed)
        _top(hashes, squeezed, words, characters, space, row[len(_WORDS) - len(TOP) - len(DUPLICATE) :])
        _duplicates(prefixes, powers, squeezed, words, characters, space, row[len(_WORDS) - len(DUPLICATE) :])
        lines.gopher(points, kinds, characters, space, row[_LINES_AT:])
        filled = lines.c4(points, kinds, characters, english, c4, edited, edited_kinds, starts, ends, row[_C4_AT:])
        fineweb_row = row[_FINEWEB_AT:]
        if c4.edits:
            begin, end = lines.stripped(edited_kinds, 0, filled)
            lines.fineweb(edited, edited_kinds, begin, end, short_line, english, starts, ends, space, fineweb_row)
        else:
            lines.fineweb(points, kinds, 0, characters, short_line, english, starts, ends, space, fineweb_row)


@numba.njit(nogil=True, cache=True)
def _count_words(
    points: np.ndarray,
    kinds: np.ndarray,
    characters: int,
    starts: np.ndarray,
    ends: np.ndarray,
    words: int,
    stop_words: np.ndarray,
    row: np.ndarray,
) -> None:
    plain = plain_length = alphabetic = hashes = ellipses = dots = 0
    for at in range(characters):
        point = points[at]
        hashes += point == 0x23
        ellipses += point == 0x2026
        dots = dots + 1 if point == 0x2E else 0
        if dots == 3:
            ellipses += 1
            dots = 0
    found = np.zeros(stop_words.size, np.bool_)
    for word in range(words):
        start, end = starts[word], ends[word]
        any_alphabetic = any_plain = False
        for at in range(start, end):
            any_alphabetic = any_alphabetic or kinds[at] & ALPHABETIC != 0
            any_plain = any_plain or not kinds[at] & SYMBOL
        alphabetic += any_alphabetic
        if any_plain:
            plain += 1
            plain_length += end - start
        if end - start <= 4 and 97 <= points[start] <= 122:
            key = hash_of(points, start, end)
            for number in range(stop_words.size):
                if key == stop_words[number]:
                    found[number] = True
    row[0] = plain
    row[1] = plain_length / plain if plain else 0.0
    row[2] = hashes / words if words else 0.0
    row[3] = ellipses / words if words else 0.0
    row[4] = alphabetic / words if words else 0.0
    row[5] = found.sum()


@numba.njit(nogil=True, cache=True)
def _hash_words(
    points: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    words: int,
    powers: np.ndarray,
    prefixes: np.ndarray,
    hashes: np.ndarray,
    squeezed: np.ndarray,
) -> None:
    """prefixes[i]: polynomial hash of the first i characters of all words end to end; squeezed[w]: where word w begins
    there; hashes[w]: of the word alone."""
    filled = 0
    prefixes[0] = np.uint64(0)
    for word in range(words):
        squeezed[word] = filled
        for at in range(starts[word], ends[word]):
            prefixes[filled + 1] = prefixes[filled] * _BASE + np.uint64(points[at] + 1)
            filled += 1
        begin = squeezed[word]
        hashes[word] = finish(prefixes[filled] - prefixes[begin] * powers[filled - begin])
    squeezed[words] = filled


@numba.njit(nogil=True, cache=True)
def _top(
    hashes: np.ndarray, squeezed: np.ndarray, words: int, characters: int, space: lines.Space, row: np.ndarray
) -> None:
    """find_top_duplicate: count times length of the n-gram, blanks included, that is most frequent and then first."""
    mask = table_size(words) - 1
    for word in range(words):
        space.hashes[word] = hashes[word]
    for width in range(2, 5):
        grams = words - width + 1
        if grams < 1:
            return
        space.slots[: mask + 1] = -1
        for gram in range(grams):
            space.hashes[gram] = finish(space.hashes[gram] * np.uint64(3) + hashes[gram + width - 1])
            first = find_or_insert(space.slots, space.keys, mask, space.hashes[gram], gram)
            if first == gram:
                space.counts[gram] = 1
            else:
                space.counts[gram] = 0
                space.counts[first] += 1
        best = np.argmax(space.counts[:grams])
        length = squeezed[best + width] - squeezed[best] + width - 1
        row[width - 2] = length * space.counts[best] / characters


@numba.njit(nogil=True, cache=True)
def _duplicates(
    prefixes: np.ndarray,
    powers: np.ndarray,
    squeezed: np.ndarray,
    words: int,
    characters: int,
    space: lines.Space,
    row: np.ndarray,
) -> None:
    """find_all_duplicate: left to right, an n-gram seen before (its words end to end) counts and is jumped over."""
    mask = table_size(words) - 1
    for width in range(5, 11):
        space.slots[: mask + 1] = -1
        repeated = 0
        gram = 0
        while gram < words - width + 1:
            begin, end = squeezed[gram], squeezed[gram + width]
            key = finish(prefixes[end] - prefixes[begin] * powers[end - begin])
            if find_or_insert(space.slots, space.keys, mask, key, gram) != gram:
                repeated += end - begin
                gram += width
            else:
                gram += 1
        row[width - 5] = repeated / characters
