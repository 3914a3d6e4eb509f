"""Lines and paragraphs as datatrove 0.10 cuts, judges and edits them."""

from typing import Any, NamedTuple

import numba
import numpy as np

from data_engine.kernels.c4 import JAVASCRIPT, LOREM, POLICY, phrases_in
from data_engine.kernels.english import English, sentences_in, words_of
from data_engine.kernels.english_classes import DIGIT, LINE_BREAK, SPACE, TERMINAL
from data_engine.kernels.hashing import PRIME, SEED, find_or_insert, finish, step, table_size

LINE_COLUMNS = (
    "bullet_lines",
    "ellipsis_lines",
    "duplicate_paragraph_fraction",
    "duplicate_paragraph_characters",
    "duplicate_line_fraction",
    "duplicate_line_characters",
    "lines",
    "newlines",
)
"""Gopher. Bullets and ellipses: share of the lines of str.splitlines, empty ones among them. Duplicates: paragraphs
between two or more '\\n', lines between one or more, second and later occurrences; characters of the whole document.
No class of datatrove reads the last two: lines that are not blank, and '\\n'."""

C4_COLUMNS = ("c4_sentences", "c4_lorem_ipsum", "c4_curly_bracket", "c4_kept_lines", "c4_policy_lines")
"""Sentences in the lines that C4 keeps; whether it meets 'lorem ipsum' or '{', the first of which ends its work. Of the
lines so far that are not blank, which no class of datatrove asks: the share that it keeps, and the share with a phrase
of cookie or privacy notices or the word javascript."""

FINEWEB_COLUMNS = ("terminal_lines", "short_lines", "repeated_line_characters", "newlines_per_word")
"""Shares of lines that are not blank; characters of second and later occurrences; '\\n' per word of any kind."""

_NEWLINE, _BULLET, _ELLIPSIS, _DOT, _BRACKET, _CURLY = 0x0A, 0x2022, 0x2026, 0x2E, 0x5B, 0x7B


class Space(NamedTuple):
    """Scratch arrays as long as the longest document: hashes, keys uint64; lengths, counts int64; the others int32."""

    hashes: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray
    counts: np.ndarray
    slots: np.ndarray
    firsts: np.ndarray
    places: np.ndarray


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
    slots, keys, hashes, lengths = space.slots, space.keys, space.hashes, space.lengths
    slots[: mask + 1] = -1
    repeated = characters = 0
    for item in range(items):
        if find_or_insert(slots, keys, mask, hashes[item], item) != item:
            repeated += 1
            characters += lengths[item]
    return repeated, characters


@numba.njit(nogil=True, cache=True)
def _hash(points: np.ndarray, start: int, end: int) -> Any:
    """The hash of a long string. Two halves that do not wait for each other take three characters at a time."""
    one, other = np.uint64(SEED ^ np.uint64(end - start)), SEED
    at = start
    while at + 6 <= end:
        one = (one ^ _three(points, at)) * PRIME
        other = (other ^ _three(points, at + 3)) * PRIME
        one ^= one >> np.uint64(32)
        other ^= other >> np.uint64(32)
        at += 6
    while at < end:
        one = step(one, points[at])
        at += 1
    return finish(one ^ finish(other))


@numba.njit(inline="always")
def _three(points: np.ndarray, at: int) -> Any:
    """Three code points, of 21 bits each, in one number."""
    low = np.uint64(points[at]) | (np.uint64(points[at + 1]) << np.uint64(21))
    return low | (np.uint64(points[at + 2]) << np.uint64(42))


@numba.njit(nogil=True, cache=True)
def _split(points: np.ndarray, start: int, end: int, newlines: int, space: Space) -> int:
    """Hash the parts between runs of at least so many '\\n'; returns how many parts."""
    hashes, lengths = space.hashes, space.lengths
    parts = 0
    begin = at = start
    while at < end:
        if points[at] != _NEWLINE:
            at += 1
            continue
        stop = at
        while at < end and points[at] == _NEWLINE:
            at += 1
        if at - stop >= newlines:
            hashes[parts] = _hash(points, begin, stop)
            lengths[parts] = stop - begin
            parts += 1
            begin = at
    if parts:  # what stands alone is like nothing
        hashes[parts] = _hash(points, begin, end)
    lengths[parts] = end - begin
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
    lines = bullets = ellipses = filled = newlines = 0
    at = 0
    while at < characters:
        stop, following = _line_end(points, kinds, at, characters)
        low, high = stripped(kinds, at, stop)
        lines += 1
        filled += low < high
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
    for at in range(characters):
        newlines += points[at] == _NEWLINE
    row[6], row[7] = filled, newlines


@numba.njit(nogil=True, cache=True)
def _citation(points: np.ndarray, kinds: np.ndarray, at: int, end: int) -> int:
    r"""Length of what `\[\d*]|\[edit]|\[citation needed]` matches at `at`, or 0."""
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
    longest, least = rules.max_word_length, rules.min_words
    words = length = 0
    short = end - start <= longest
    for at in range(start, end):
        if kinds[at] & SPACE:
            length = 0
            continue
        words += length == 0
        length += 1
        if short and words >= least:
            break
        if length > longest:
            return False, False
    return True, words >= least


@numba.njit(nogil=True, cache=True)
def holds(points: np.ndarray, start: int, end: int, point: int) -> bool:
    """Whether a character occurs in start..end."""
    found = False
    for at in range(start, end):  # compiled to comparisons of several at once
        found |= points[at] == point
    return found


@numba.njit(nogil=True, cache=True)
def _without_citations(
    points: np.ndarray, kinds: np.ndarray, low: int, high: int, edited: np.ndarray, edited_kinds: np.ndarray, end: int
) -> int:
    """Write low..high without its citations from edited[end] on; returns where it ends there."""
    if not holds(points, low, high, _BRACKET):
        for at in range(high - low):
            edited[end + at] = points[low + at]
        for at in range(high - low):
            edited_kinds[end + at] = kinds[low + at]
        return end + high - low
    while low < high:
        length = _citation(points, kinds, low, high) if points[low] == _BRACKET else 0
        if length:
            low += length
            continue
        edited[end], edited_kinds[end] = points[low], kinds[low]
        end += 1
        low += 1
    return end


@numba.njit(nogil=True, cache=True)
def c4(
    points: np.ndarray,
    kinds: np.ndarray,
    characters: int,
    starts: np.ndarray,
    ends: np.ndarray,
    english: English,
    rules: C4Rules,
    edited: np.ndarray,
    edited_kinds: np.ndarray,
    own_starts: np.ndarray,
    own_ends: np.ndarray,
    row: np.ndarray,
) -> tuple[int, int]:
    """Fill C4_COLUMNS and write what C4 leaves of the document to `edited`; returns its length, ends not stripped, and
    how many words it has.

    starts, ends: of the document's words; own_starts, own_ends: room for those of lines that lose a citation.
    """
    phrases, phrase_starts = rules.phrases, rules.phrase_starts
    phrase_kinds, phrase_first = rules.phrase_kinds, rules.phrase_first
    filled = kept_words = last = lines = kept = policy = 0
    at = 0
    while at < characters:
        stop, following = _line_end(points, kinds, at, characters)
        low, high = stripped(kinds, at, stop)
        at = following
        found = phrases_in(points, low, high, phrases, phrase_starts, phrase_kinds, phrase_first)
        lines += low < high
        policy += found & (JAVASCRIPT | POLICY) != 0
        short_words, enough = _has_enough_words(kinds, low, high, rules)
        if not short_words:
            continue
        begin = filled + (kept > 0)  # a line break before all lines but the first
        end = _without_citations(points, kinds, low, high, edited, edited_kinds, begin)
        if rules.terminal_needed and not _is_terminated(edited, begin, end):
            continue
        if not enough:
            continue
        cut = end - begin < high - low
        if cut:
            found = phrases_in(edited, begin, end, phrases, phrase_starts, phrase_kinds, phrase_first)
        if rules.lorem and found & LOREM:
            row[1] = 1
            break
        if found & JAVASCRIPT:
            continue
        if rules.curly and holds(edited, begin, end, _CURLY):
            row[2] = 1
            break
        if found & POLICY:
            continue
        if cut:
            words = words_of(edited, edited_kinds, begin, end, english, own_starts, own_ends)
            row[0] += sentences_in(edited, edited_kinds, begin, end, own_starts, own_ends, words)
        else:
            first = last
            while first < starts.size and starts[first] < low:
                first += 1
            last = first
            while last < starts.size and starts[last] < high:
                last += 1
            words = last - first
            row[0] += sentences_in(points, kinds, low, high, starts[first:last], ends[first:last], words)
        kept_words += words
        if kept:
            edited[begin - 1], edited_kinds[begin - 1] = _NEWLINE, english.classes[_NEWLINE]
        kept += 1
        filled = end
    row[3] = kept / lines if lines else 0.0
    row[4] = policy / lines if lines else 0.0
    return filled, kept_words


@numba.njit(nogil=True, cache=True)
def _is_terminated(points: np.ndarray, start: int, end: int) -> bool:
    if end == start:
        return False
    last = points[end - 1]
    if last == _DOT:
        return not _ends_with_ellipsis(points, start, end)
    return last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27  # ? ! " '


@numba.njit(nogil=True, cache=True)
def fineweb(
    points: np.ndarray,
    kinds: np.ndarray,
    start: int,
    end: int,
    words: int,
    short_line: int,
    space: Space,
    row: np.ndarray,
) -> None:
    """Fill FINEWEB_COLUMNS of the document start..end, which has so many words."""
    hashes, lengths = space.hashes, space.lengths
    at = start
    lines = terminals = short = newlines = length = 0
    while at < end:
        stop = at
        while stop < end and points[stop] != _NEWLINE:
            stop += 1
        low, high = stripped(kinds, at, stop)
        newlines += stop < end
        length += stop - at
        if low < high:
            hashes[lines] = _hash(points, at, stop)
            lengths[lines] = stop - at
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
