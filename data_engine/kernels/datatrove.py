"""Every signal as datatrove 0.10's four filter classes compute it, in one pass over each document.

Definitions: gopher_repetition_filter.py, gopher_quality_filter.py, c4_filters.py, fineweb_quality_filter.py. Words are
those of kernels.english. C4 edits a document (lines and citations go) before FineWeb judges it, so the lines that C4
keeps are written to a second buffer, which is then measured. Words are cut once: a line that C4 leaves as it was has
those of the document.
"""

from typing import Any

import numba
import numpy as np

from data_engine.kernels import datatrove_lines as lines
from data_engine.kernels.english import English, code_points_of, words_of
from data_engine.kernels.english_classes import ALPHABETIC, SYMBOL
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
STOP_WORDS_PACKED = np.array(
    [sum(ord(letter) << (16 * place) for place, letter in enumerate(reversed(word))) for word in STOP_WORDS], np.uint64
)
"""Four letters in 64 bits, the last one lowest."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_HASH, _DOT, _ELLIPSIS = 0x23, 0x2E, 0x2026
_LONGEST_STOP_WORD = 4
_HEAD = 16
"""Characters by which an n-gram is told to be unlike all others, before any hash of the whole."""


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
    """utf8: (bytes,) uint8; offsets: (n + 1,) int64; stop_words: as STOP_WORDS_PACKED; short_line: characters;
    out: (n, len(COLUMNS)) float64."""
    longest = 0
    for document in range(offsets.size - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    size = longest + 2
    points, edited = np.empty(size, np.int32), np.empty(size, np.int32)
    kinds, edited_kinds = np.empty(size, np.uint32), np.empty(size, np.uint32)
    starts, ends = np.empty(size, np.int64), np.empty(size, np.int64)
    own_starts, own_ends = np.empty(size, np.int64), np.empty(size, np.int64)
    space = lines.Space(
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(table_size(size), np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
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
        filled, kept_words = lines.c4(
            *(points, kinds, characters, starts[:words], ends[:words], english, c4),
            *(edited, edited_kinds, own_starts, own_ends, row[_C4_AT:]),
        )
        fineweb_row = row[_FINEWEB_AT:]
        if c4.edits:
            begin, end = lines.stripped(edited_kinds, 0, filled)
            lines.fineweb(edited, edited_kinds, begin, end, kept_words, short_line, space, fineweb_row)
        else:
            lines.fineweb(points, kinds, 0, characters, words, short_line, space, fineweb_row)


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
    plain = plain_length = alphabetic = 0
    hashes, ellipses = _count_marks(points, characters)
    found = np.uint64(0)
    for word in range(words):
        start, end = starts[word], ends[word]
        kind = kinds[start]
        any_alphabetic, any_plain = kind & ALPHABETIC != 0, not kind & SYMBOL
        at = start + 1
        while at < end and not (any_alphabetic and any_plain):
            any_alphabetic = any_alphabetic or kinds[at] & ALPHABETIC != 0
            any_plain = any_plain or not kinds[at] & SYMBOL
            at += 1
        alphabetic += any_alphabetic
        if any_plain:
            plain += 1
            plain_length += end - start
        if end - start <= _LONGEST_STOP_WORD and 97 <= points[start] <= 122:
            key = np.uint64(0)
            for at in range(start, end):
                key = (key << np.uint64(16)) | np.uint64(min(points[at], 0xFFFF))
            for number in range(stop_words.size):
                found |= np.uint64(key == stop_words[number]) << np.uint64(number)
    listed = 0
    while found:
        found &= found - np.uint64(1)
        listed += 1
    row[0] = plain
    row[1] = plain_length / plain if plain else 0.0
    row[2] = hashes / words if words else 0.0
    row[3] = ellipses / words if words else 0.0
    row[4] = alphabetic / words if words else 0.0
    row[5] = listed


@numba.njit(nogil=True, cache=True)
def _count_marks(points: np.ndarray, characters: int) -> tuple[int, int]:
    """How many '#', and how many ellipses of either kind: '...' without overlap, and '…'."""
    hashes = ellipses = 0
    pairs = False
    for at in range(characters - 1):  # compiled to comparisons of several at once
        pairs |= (points[at] == _DOT) & (points[at + 1] == _DOT)
    if lines.holds(points, 0, characters, _HASH):
        for at in range(characters):
            hashes += points[at] == _HASH
    if pairs or lines.holds(points, 0, characters, _ELLIPSIS):
        dots = 0
        for at in range(characters):
            ellipses += points[at] == _ELLIPSIS
            dots = dots + 1 if points[at] == _DOT else 0
            if dots == 3:
                ellipses += 1
                dots = 0
    return hashes, ellipses


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
    keys, counts, slots, firsts, places = space.keys, space.counts, space.slots, space.firsts, space.places
    left = max(words - 1, 0)
    grams = space.hashes
    for word in range(left):
        grams[word] = finish(hashes[word] * np.uint64(3) + hashes[word + 1])
        places[word] = word
    for width in range(TOP[0], TOP[-1] + 1):
        if words < width:
            return
        # grams[i] is the hash of the words from places[i] on; what is not among them occurs once
        mask = table_size(left) - 1
        slots[: mask + 1] = -1
        best, most = -1, 1
        for gram in range(left):
            first = find_or_insert(slots, keys, mask, grams[gram], gram)
            firsts[gram] = first
            counts[gram] = 0
            counts[first] += 1
            most = max(most, counts[first])
        for gram in range(left):
            if most > 1 and counts[gram] == most:
                best = places[gram]
                break
        best = max(best, 0)
        row[width - TOP[0]] = (squeezed[best + width] - squeezed[best] + width - 1) * most / characters
        # a longer n-gram that occurs twice holds two that do: the one at its place and the one at the next
        again = 0
        for gram in range(left - 1):
            twice = counts[firsts[gram]] > 1 and counts[firsts[gram + 1]] > 1
            if twice and places[gram + 1] == places[gram] + 1:
                grams[again] = finish(grams[gram] * np.uint64(3) + hashes[places[gram] + width])
                places[again] = places[gram]
                again += 1
        left = again


@numba.njit(nogil=True, cache=True)
def _heads(prefixes: np.ndarray, powers: np.ndarray, squeezed: np.ndarray, words: int, space: lines.Space) -> None:
    """space.places[w]: 1 where the _HEAD characters from word w on, or fewer at the end, stand at no other word.

    They are told by a few bits of a hash: some that stand alone are not found to.
    """
    seen, places = space.slots, space.places
    size = min(table_size(4 * words), seen.size)
    seen[:size] = 0
    for word in range(words):
        begin = squeezed[word]
        end = min(begin + _HEAD, squeezed[words])
        place = np.int64(_mix(prefixes[end] - prefixes[begin] * powers[end - begin]) & np.uint64(size - 1))
        places[word] = place
        seen[place] += 1
    for word in range(words):
        places[word] = seen[places[word]] == 1


@numba.njit(inline="always")
def _mix(state: Any) -> Any:
    """Fewer steps than `finish`, for what need not be exact."""
    mixed = np.uint64(state) * _BASE
    return mixed ^ (mixed >> np.uint64(32))


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
    _heads(prefixes, powers, squeezed, words, space)
    keys, slots, places = space.keys, space.slots, space.places
    candidates = 0
    for word in range(words - DUPLICATE[0] + 1):
        alone = places[word] != 0 and squeezed[word + DUPLICATE[0]] - squeezed[word] >= _HEAD
        places[candidates] = word
        candidates += not alone
    mask = table_size(candidates) - 1
    for width in range(DUPLICATE[0], DUPLICATE[-1] + 1):
        slots[: mask + 1] = -1
        repeated = until = 0
        for candidate in range(candidates):
            gram = places[candidate]
            if gram < until or gram + width > words:
                continue
            begin, end = squeezed[gram], squeezed[gram + width]
            key = finish(prefixes[end] - prefixes[begin] * powers[end - begin])
            if find_or_insert(slots, keys, mask, key, gram) != gram:
                repeated += end - begin
                until = gram + width
        row[width - DUPLICATE[0]] = repeated / characters
