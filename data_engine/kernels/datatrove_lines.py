"""Lines and paragraphs as datatrove 0.10 cuts, judges and edits them."""

from typing import NamedTuple

import numba
import numpy as np

from data_engine.kernels.c4 import JAVASCRIPT, LOREM, POLICY, phrases_in
from data_engine.kernels.english import (
    DIGIT,
    LINE_BREAK,
    SPACE,
    TERMINAL,
    English,
    hash_of,
    sentences_in,
    words_of,
)
from data_engine.kernels.hashing import find_or_insert, table_size

LINE_COLUMNS = (
    "bullet_lines",
    "ellipsis_lines",
    "duplicate_paragraph_fraction",
    "duplicate_paragraph_characters",
    "duplicate_line_fraction",
    "duplicate_line_characters",
)
"""Gopher. Bullets and ellipses: share of the lines of str.splitlines, empty ones among them. Duplicates: paragraphs
between two or more '\\n', lines between one or more, second and later occurrences; characters of the whole document."""

C4_COLUMNS = ("c4_sentences", "c4_lorem_ipsum", "c4_curly_bracket")
"""Sentences in the lines that C4 keeps; whether it meets 'lorem ipsum' or '{', the first of which ends its work."""

FINEWEB_COLUMNS = ("terminal_lines", "short_lines", "repeated_line_characters", "newlines_per_word")
"""Shares of lines that are not blank; characters of second and later occurrences; '\\n' per word of any kind."""

_NEWLINE, _BULLET, _ELLIPSIS, _DOT = 0x0A, 0x2022, 0x2026, 0x2E


class Space(NamedTuple):
    """Scratch arrays as long as the longest document: hashes, keys uint64; lengths, counts int64; slots int32."""

    hashes: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray
    counts: np.ndarray
    slots: np.ndarray


class C4Rules(NamedTuple):
    """Settings of C4: `edits`: FineWeb judges what C4 leaves; lorem and curly: such a document is dropped at once;
    the phrases are those of kernels.c4."""

    edits: bool
    lorem: bool
    curly: bool
    terminal_needed: bool
    min_words: int
    max_word_length: int
    phrases: np.ndarray
    phrase_starts: np.ndarray
    phrase_kinds: np.ndarray
    phrase_first: np.ndarray


@numba.njit(nogil=True, cache=True)
def _repeated(items: int, space: Space) -> tuple[int, int]:
    """find_duplicates: how many of the first `items` hashes occurred before, and how long these are together."""
    mask = table_size(items) - 1
    space.slots[: mask + 1] = -1
    repeated = characters = 0
    for item in range(items):
        if find_or_insert(space.slots, space.keys, mask, space.hashes[item], item) != item:
            repeated += 1
            characters += space.lengths[item]
    return repeated, characters


@numba.njit(nogil=True, cache=True)
def _split(points: np.ndarray, start: int, end: int, newlines: int, space: Space) -> int:
    """Hash the parts between runs of at least so many '\\n'; returns how many parts."""
    parts = 0
    begin = at = start
    while at < end:
        stop = at
        while at < end and points[at] == _NEWLINE:
            at += 1
        if at - stop >= newlines:
            space.hashes[parts] = hash_of(points, begin, stop)
            space.lengths[parts] = stop - begin
            parts += 1
            begin = at
        elif at == stop:
            at += 1
    space.hashes[parts] = hash_of(points, begin, end)
    space.lengths[parts] = end - begin
    return parts + 1


@numba.njit(nogil=True, cache=True)
def stripped(kinds: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Where start..end begins and ends without the white space at its ends."""
    while start < end and kinds[start] & SPACE:
        start += 1
    while end > start and kinds[end - 1] & SPACE:
        end -= 1
    return start, end


@numba.njit(nogil=True, cache=True)
def _line_end(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Where the line of str.splitlines that begins at `start` ends, and where the next one begins."""
    at = start
    while at < end and not kinds[at] & LINE_BREAK:
        at += 1
    following = at + 1
    if following < end and points[at] == 0x0D and points[following] == _NEWLINE:
        following += 1
    return at, following


@numba.njit(nogil=True, cache=True)
def _ends_with_ellipsis(points: np.ndarray, start: int, end: int) -> bool:
    if end > start and points[end - 1] == _ELLIPSIS:
        return True
    return end - start >= 3 and points[end - 1] == _DOT and points[end - 2] == _DOT and points[end - 3] == _DOT


@numba.njit(nogil=True, cache=True)
def gopher(points: np.ndarray, kinds: np.ndarray, characters: int, space: Space, row: np.ndarray) -> None:
    """Fill LINE_COLUMNS of one document."""
    lines = bullets = ellipses = 0
    at = 0
    while at < characters:
        stop, following = _line_end(points, kinds, at, characters)
        low, high = stripped(kinds, at, stop)
        lines += 1
        bullets += low < high and (points[low] == _BULLET or points[low] == 0x2D)
        ellipses += _ends_with_ellipsis(points, low, high)
        at = following
    row[0] = bullets / lines if lines else 0.0
    row[1] = ellipses / lines if lines else 0.0
    low, high = stripped(kinds, 0, characters)
    parts = _split(points, low, high, 2, space)
    repeated, length = _repeated(parts, space)
    row[2], row[3] = repeated / parts, length / characters
    parts = _split(points, 0, characters, 1, space)
    repeated, length = _repeated(parts, space)
    row[4], row[5] = repeated / parts, length / characters


@numba.njit(nogil=True, cache=True)
def _citation(points: np.ndarray, kinds: np.ndarray, at: int, end: int) -> int:
    r"""Length of what `\[\d*]|\[edit]|\[citation needed]` matches at `at`, or 0."""
    if points[at] != 0x5B:
        return 0
    stop = at + 1
    while stop < end and kinds[stop] & DIGIT:
        stop += 1
    if stop < end and points[stop] == 0x5D:
        return stop + 1 - at
    for words in ("edit]", "citation needed]"):
        if at + len(words) < end:
            same = True
            for place in range(len(words)):
                same = same and points[at + 1 + place] == ord(words[place])
            if same:
                return len(words) + 1
    return 0


@numba.njit(nogil=True, cache=True)
def _has_enough_words(kinds: np.ndarray, start: int, end: int, rules: C4Rules) -> tuple[bool, bool]:
    """Whether no word is too long, and whether there are enough of them; words lie between white space."""
    words = length = 0
    for at in range(start, end):
        if kinds[at] & SPACE:
            length = 0
            continue
        words += length == 0
        length += 1
        if length > rules.max_word_length:
            return False, False
    return True, words >= rules.min_words


@numba.njit(nogil=True, cache=True)
def c4(
    points: np.ndarray,
    kinds: np.ndarray,
    characters: int,
    english: English,
    rules: C4Rules,
    edited: np.ndarray,
    edited_kinds: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    row: np.ndarray,
) -> int:
    """Fill C4_COLUMNS and write what C4 leaves of the document to `edited`; returns its length, ends not stripped."""
    filled = 0
    at = 0
    kept = False
    while at < characters:
        stop, following = _line_end(points, kinds, at, characters)
        low, high = stripped(kinds, at, stop)
        at = following
        short_words, enough = _has_enough_words(kinds, low, high, rules)
        if not short_words:
            continue
        begin = end = filled + kept  # a line break before all lines but the first
        while low < high:
            length = _citation(points, kinds, low, high)
            if length:
                low += length
                continue
            edited[end], edited_kinds[end] = points[low], kinds[low]
            end += 1
            low += 1
        if rules.terminal_needed and not _is_terminated(edited, begin, end):
            continue
        if not enough:
            continue
        found = phrases_in(
            edited, begin, end, rules.phrases, rules.phrase_starts, rules.phrase_kinds, rules.phrase_first
        )
        if rules.lorem and found & LOREM:
            row[1] = 1
            break
        if found & JAVASCRIPT:
            continue
        if rules.curly and _holds_curly(edited, begin, end):
            row[2] = 1
            break
        if found & POLICY:
            continue
        words = words_of(edited, edited_kinds, begin, end, english, starts, ends)
        row[0] += sentences_in(edited, edited_kinds, begin, end, starts, ends, words)
        if kept:
            edited[begin - 1], edited_kinds[begin - 1] = _NEWLINE, english.classes[_NEWLINE]
        kept = True
        filled = end
    return filled


@numba.njit(nogil=True, cache=True)
def _is_terminated(points: np.ndarray, start: int, end: int) -> bool:
    if end == start:
        return False
    last = points[end - 1]
    if last == _DOT:
        return not _ends_with_ellipsis(points, start, end)
    return last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27  # ? ! " '


@numba.njit(nogil=True, cache=True)
def _holds_curly(points: np.ndarray, start: int, end: int) -> bool:
    for at in range(start, end):
        if points[at] == 0x7B:
            return True
    return False


@numba.njit(nogil=True, cache=True)
def fineweb(
    points: np.ndarray,
    kinds: np.ndarray,
    start: int,
    end: int,
    short_line: int,
    english: English,
    starts: np.ndarray,
    ends: np.ndarray,
    space: Space,
    row: np.ndarray,
) -> None:
    """Fill FINEWEB_COLUMNS of the document start..end."""
    at = start
    words = words_of(points, kinds, start, end, english, starts, ends)
    lines = terminals = short = newlines = length = 0
    while at < end:
        stop = at
        while stop < end and points[stop] != _NEWLINE:
            stop += 1
        low, high = stripped(kinds, at, stop)
        newlines += stop < end
        length += stop - at
        if low < high:
            space.hashes[lines] = hash_of(points, at, stop)
            space.lengths[lines] = stop - at
            lines += 1
            terminals += kinds[stop - 1] & TERMINAL != 0
            short += stop - at <= short_line
        at = stop + 1
    if not lines:
        row[:4] = 0.0
        return
    _, repeated = _repeated(lines, space)
    row[0] = terminals / lines
    row[1] = short / lines
    row[2] = repeated / length
    row[3] = newlines / words
