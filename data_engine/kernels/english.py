"""English words and sentences as spaCy's blank pipeline cuts them, compiled: what datatrove's filters count.

The algorithm is `Tokenizer._tokenize_affixes` of spaCy 3.8: cut at white space; from each piece strip prefixes and
suffixes until an exception or nothing is found; leave addresses whole; cut the rest at infixes; join what together
spells an exception. The rules are data (data_engine.english): classes of characters, and exceptions by hash.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from data_engine.kernels.addresses import is_address
from data_engine.kernels.english_classes import (
    AFTER_DOT,
    ASCII_DIGIT,
    BEFORE_DOT,
    DOT_SUFFIX,
    INFIX,
    LETTER,
    PREFIX,
    PUNCTUATION,
    RULED,
    SENTENCE_END,
    SPACE,
    SUFFIX,
    UPPER,
)
from data_engine.kernels.hashing import SEED, finish, step
from data_engine.kernels.unicode import decode, entry

LONGEST = 12
"""Characters of the longest exception."""
_MOST_JOINED = 11
_DOT, _HYPHEN, _ELLIPSIS, _EM_DASH, _EN_DASH = 0x2E, 0x2D, 0x2026, 0x2014, 0x2013


_MARKS, _SLOTS = 3, 3 + 3 * 256


@numba.njit(nogil=True, cache=True)
def pack(marks: np.ndarray, slots: np.ndarray, keys: np.ndarray, starts: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Exceptions, which are strings by hash, in one array: a tuple of five, handed from loop to loop, costs more in
    references counted than all that is looked up in it.

    slots: (2^k,) int32 to an entry or -1; keys: (m,) uint64; starts: (m + 1,); the pieces of entry i are
    pieces[starts[i]:starts[i + 1]], lengths in code points; marks: (3, 256), bit n of the first, second and last
    character of each entry of n characters (255: all from there on), by which most strings are dismissed. Returns
    (size,) int64: 2^k - 1, where the keys begin, where the starts begin, then all of these.
    """
    out = np.empty(_SLOTS + slots.size + keys.size + starts.size + pieces.size, np.int64)
    out[0] = slots.size - 1
    out[1] = _SLOTS + slots.size
    out[2] = out[1] + keys.size
    out[_MARKS:_SLOTS] = marks.ravel()
    out[_SLOTS : out[1]] = slots
    for entry_ in range(keys.size):
        out[out[1] + entry_] = np.int64(keys[entry_])
    for entry_ in range(starts.size):
        out[out[2] + entry_] = out[2] + starts.size + starts[entry_]
    out[out[2] + starts.size :] = pieces
    return out


class English(NamedTuple):
    """`classes` (131073,) uint32 bits by code point. `whole`: exceptions; `apart`: the same, those that the affix rules
    alone would cut, with the pieces these leave; `units`: what is a suffix after a digit."""

    classes: np.ndarray
    whole: np.ndarray
    apart: np.ndarray
    units: np.ndarray


@numba.njit(nogil=True, cache=True)
def code_points_of(
    utf8: np.ndarray, start: int, end: int, classes: np.ndarray, points: np.ndarray, kinds: np.ndarray
) -> int:
    """Decode bytes start..end into points (int32) and kinds (uint32); returns how many."""
    count = 0
    at = start
    while at < end:
        point, at = decode(utf8, at, end)
        points[count] = point
        kinds[count] = classes[entry(point)]
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def hash_of(points: np.ndarray, start: int, end: int) -> Any:
    """The hash of a string of code points."""
    state = SEED
    for at in range(start, end):
        state = step(state, points[at])
    return finish(state)


@numba.njit(nogil=True, cache=True)
def _may_be(exceptions: np.ndarray, points: np.ndarray, start: int, end: int) -> bool:
    """Whether points start..end have the length, and the first, second and last character, of some entry."""
    size = end - start
    if size > LONGEST or size < 1:
        return False
    first, second, last = points[start], points[min(start + 1, end - 1)], points[end - 1]
    found = exceptions[_MARKS + min(first, 255)]
    found &= exceptions[_MARKS + 256 + min(second, 255)] & exceptions[_MARKS + 512 + min(last, 255)]
    return (found >> size) & 1 != 0


@numba.njit(nogil=True, cache=True)
def _find(exceptions: np.ndarray, points: np.ndarray, start: int, end: int) -> int:
    """The entry that points start..end spell, or -1."""
    if not _may_be(exceptions, points, start, end):
        return -1
    key = np.int64(hash_of(points, start, end))
    mask, keys = exceptions[0], exceptions[1]
    position = key & mask
    while True:
        held = exceptions[_SLOTS + position]
        if held < 0 or exceptions[keys + held] == key:
            return held
        position = (position + 1) & mask


@numba.njit(nogil=True, cache=True)
def _pieces(exceptions: np.ndarray, held: int) -> tuple[int, int]:
    """Where the lengths of an entry's pieces begin and end."""
    at = exceptions[2] + held
    return exceptions[at], exceptions[at + 1]


@numba.njit(nogil=True, cache=True)
def _prefix(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> int:
    point = points[start]
    if point == _DOT:
        at = start + 1
        while at < end and points[at] == _DOT:
            at += 1
        return at - start if at - start > 1 else 0
    if point == 0x2B:  # '+', but not of a number
        return 0 if start + 1 < end and kinds[start + 1] & ASCII_DIGIT else 1
    if kinds[start] & PREFIX:
        return 1
    if end - start > 1 and points[start + 1] == 0x24 and (point == 0x43 or point == 0x41):  # C$ A$
        return 2
    if end - start > 2 and point == 0x55 and points[start + 1] == 0x53 and points[start + 2] == 0x24:  # US$
        return 3
    return 0


@numba.njit(nogil=True, cache=True)
def _suffix(points: np.ndarray, kinds: np.ndarray, start: int, end: int, units: np.ndarray) -> int:
    """The longest suffix, which is what a search from the left finds."""
    if start >= end:
        return 0
    last = points[end - 1]
    if last == _DOT:
        at = end - 1
        while at > start and points[at - 1] == _DOT:
            at -= 1
        if end - at > 1:
            return end - at
        if at == start:
            return 0
        if kinds[at - 1] & DOT_SUFFIX:
            return 1
        if at - start > 1 and kinds[at - 1] & UPPER and kinds[at - 2] & UPPER:
            return 1
        temperature = points[at - 1] in (0x46, 0x66, 0x43, 0x63, 0x4B, 0x6B)  # F f C c K k
        return 1 if at - start > 1 and temperature and points[at - 2] == 0xB0 else 0
    if units[_MARKS + 512 + min(last, 255)]:
        for size in range(5, 0, -1):
            at = end - size
            if at > start and kinds[at - 1] & ASCII_DIGIT and _find(units, points, at, end) >= 0:
                return size
    if (last == 0x73 or last == 0x53) and end - start > 1 and (points[end - 2] == 0x27 or points[end - 2] == 0x2019):
        return 2
    if last == _ELLIPSIS and end - start > 1 and points[end - 2] == _ELLIPSIS:
        return 2
    if last == 0x2B:
        return 1 if end - start > 1 and kinds[end - 2] & ASCII_DIGIT else 0
    return 1 if kinds[end - 1] & SUFFIX else 0


@numba.njit(nogil=True, cache=True)
def _infix(points: np.ndarray, kinds: np.ndarray, start: int, at: int, end: int) -> int:
    """Length of the infix at `at` of the string start..end; 0 where there is none."""
    point = points[at]
    if point == _DOT and at + 1 < end and points[at + 1] == _DOT:
        stop = at + 2
        while stop < end and points[stop] == _DOT:
            stop += 1
        return stop - at
    if kinds[at] & INFIX:
        return 1
    if at == start or at + 1 >= end:
        return 0
    before, after = kinds[at - 1], kinds[at + 1]
    if point == _DOT:
        return 1 if before & BEFORE_DOT and after & AFTER_DOT else 0
    if point == 0x2C:
        return 1 if before & LETTER and after & LETTER else 0
    arithmetic = point == 0x2B or point == _HYPHEN or point == 0x2A or point == 0x5E  # + - * ^
    if arithmetic and before & ASCII_DIGIT and (after & ASCII_DIGIT or points[at + 1] == _HYPHEN):
        return 1
    if not before & (LETTER | ASCII_DIGIT):
        return 0
    if point in (_HYPHEN, _EN_DASH, _EM_DASH, 0x7E):
        if after & LETTER:
            return 1
        most = 3 if point == _HYPHEN else 2 if point == _EM_DASH else 1
        for size in range(2, most + 1):
            if at + size >= end or points[at + size - 1] != point:
                return 0
            if kinds[at + size] & LETTER:
                return size
        return 0
    if point == 0x3A or point == 0x3C or point == 0x3E or point == 0x3D or point == 0x2F:  # : < > = /
        return 1 if after & LETTER else 0
    return 0


@numba.njit(nogil=True, cache=True)
def _cut(
    points: np.ndarray,
    kinds: np.ndarray,
    start: int,
    end: int,
    whole: np.ndarray,
    units: np.ndarray,
    stripped: np.ndarray,
    ends: np.ndarray,
    count: int,
) -> int:
    """Write where the words of the piece start..end end, from ends[count] on; returns the new count.

    stripped: room for as many suffixes as there are characters, from stripped[count] on.
    """
    low, high = start, end
    first_suffix = suffix = count
    last = 0
    held = -1
    while low < high and high - low != last:
        held = _find(whole, points, low, high)
        if held >= 0:
            break
        last = high - low
        before = _prefix(points, kinds, low, high)
        if before and low + before < high and _find(whole, points, low + before, high) >= 0:
            low += before
            ends[count] = low
            count += 1
            break
        after = _suffix(points, kinds, low + before, high, units)
        if after:
            stripped[suffix] = high
            suffix += 1
            if high - after > low and _find(whole, points, low, high - after) >= 0:
                high -= after
                break
        if before:
            low += before
            ends[count] = low
            count += 1
        high -= after
    if low < high:
        held = _find(whole, points, low, high)
        if held >= 0:
            at = low
            first, behind = _pieces(whole, held)
            for piece in range(first, behind):
                at += whole[piece]
                ends[count] = at
                count += 1
        elif _is_plain(kinds, low, high) or is_address(points, kinds, low, high):
            ends[count] = high
            count += 1
        else:
            count = _cut_at_infixes(points, kinds, low, high, ends, count)
    while suffix > first_suffix:
        suffix -= 1
        ends[count] = stripped[suffix]
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _is_plain(kinds: np.ndarray, start: int, end: int) -> bool:
    """Whether no rule looks at any character of start..end."""
    ruled = np.uint32(0)
    for at in range(start, end):
        ruled |= kinds[at]
    return not ruled & RULED


@numba.njit(nogil=True, cache=True)
def _cut_at_infixes(points: np.ndarray, kinds: np.ndarray, start: int, end: int, ends: np.ndarray, count: int) -> int:
    at = word = start
    while at < end:
        size = _infix(points, kinds, start, at, end) if kinds[at] & RULED else 0
        if not size:
            at += 1
            continue
        if at > start:
            if at > word:
                ends[count] = at
                count += 1
            ends[count] = word = at + size
            count += 1
        at += size
    if word < end:
        ends[count] = end
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _spells(
    points: np.ndarray, start: int, apart: np.ndarray, ends: np.ndarray, first: int, word: int, length: int
) -> bool:
    """Whether so many words from `word` on spell an exception cut as the affix rules would."""
    begin = start if word == first else ends[word - 1]
    held = _find(apart, points, begin, ends[word + length - 1])
    if held < 0:
        return False
    piece, behind = _pieces(apart, held)
    if behind - piece != length:
        return False
    at = begin
    for offset in range(length):
        at += apart[piece + offset]
        if at != ends[word + offset]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _can_join(points: np.ndarray, start: int, apart: np.ndarray, ends: np.ndarray, first: int, count: int) -> bool:
    """Whether any row of words may be put together."""
    for word in range(first, count - 1):
        begin = start if word == first else ends[word - 1]
        last = word + 1
        while last < count and ends[last] - begin <= LONGEST:
            if _may_be(apart, points, begin, ends[last]):
                return True
            last += 1
    return False


@numba.njit(nogil=True, cache=True)
def _join(
    points: np.ndarray, start: int, whole: np.ndarray, apart: np.ndarray, ends: np.ndarray, first: int, count: int
) -> int:
    """Put words together that in a row spell an exception cut as the affix rules would: the longest row first."""
    taken = np.zeros(count - first, np.bool_)
    rows = np.full(count - first, -1, np.int64)
    joined = False
    for length in range(min(count - first, _MOST_JOINED), 1, -1):
        for word in range(first, count - length + 1):
            if not _spells(points, start, apart, ends, first, word, length):
                continue
            joined = True
            if not taken[word - first] and not taken[word + length - 1 - first]:
                rows[word - first] = length
            taken[word - first : word + length - first] = True
    if not joined:
        return count
    old = ends[first:count].copy()
    filled = first
    word = 0
    while word < old.size:
        if rows[word] < 0:
            ends[filled] = old[word]
            filled += 1
            word += 1
            continue
        begin = start if word == 0 else old[word - 1]
        held = _find(whole, points, begin, old[word + rows[word] - 1])
        at = begin
        piece, behind = _pieces(whole, held)
        for place in range(piece, behind):
            at += whole[place]
            ends[filled] = at
            filled += 1
        word += rows[word]
    return filled


@numba.njit(nogil=True, cache=True)
def _is_word_and_mark(points: np.ndarray, kinds: np.ndarray, start: int, end: int, inner: int) -> bool:
    """Whether, exceptions apart, the piece start..end is a word and one mark after it, which is what most pieces with a
    mark are. inner: the classes of all its characters but the last."""
    if end - start < 2 or inner & RULED:
        return False
    last = points[end - 1]
    if last == _DOT:
        return kinds[end - 2] & DOT_SUFFIX != 0
    return last != 0x2B and kinds[end - 1] & SUFFIX != 0


@numba.njit(nogil=True, cache=True)
def words_of(
    points: np.ndarray,
    kinds: np.ndarray,
    start: int,
    end: int,
    english: English,
    starts: np.ndarray,
    ends: np.ndarray,
) -> int:
    """Where the words in start..end begin and end; returns how many there are. White space is no word.

    points: code points; kinds: their classes; starts, ends: int64, both at least end - start long.
    """
    whole, apart, units = english.whole, english.apart, english.units
    count = 0
    at = start
    while at < end:
        kind = kinds[at]
        if kind & SPACE:
            at += 1
            continue
        begin = at
        inner = ruled = np.uint32(0)
        while not kind & SPACE:
            inner = ruled
            ruled |= kind
            at += 1
            if at == end:
                break
            kind = kinds[at]
        if at - begin == 1 or (not ruled & RULED and _find(whole, points, begin, at) < 0):
            starts[count], ends[count] = begin, at
            count += 1
            continue
        if (
            _is_word_and_mark(points, kinds, begin, at, inner)
            and not _may_be(whole, points, begin, at)
            and not _may_be(apart, points, begin, at)
            and _find(whole, points, begin, at - 1) < 0
        ):
            starts[count], ends[count] = begin, at - 1
            starts[count + 1], ends[count + 1] = at - 1, at
            count += 2
            continue
        first = count
        count = _cut(points, kinds, begin, at, whole, units, starts, ends, count)
        if count - first > 1 and ruled & RULED and _can_join(points, begin, apart, ends, first, count):
            count = _join(points, begin, whole, apart, ends, first, count)
        starts[first] = begin
        for word in range(first + 1, count):
            starts[word] = ends[word - 1]
    return count


@numba.njit(nogil=True, cache=True)
def sentences_in(
    points: np.ndarray,
    kinds: np.ndarray,
    start: int,
    end: int,
    starts: np.ndarray,
    ends: np.ndarray,
    words: int,
) -> int:
    """How many sentences spaCy's sentencizer finds in start..end, given its words; never less than one.

    A sentence begins with the first word after an end mark that is no punctuation. White space beyond one blank is
    such a word to spaCy.
    """
    sentences = 1
    ended = False
    before = start
    for word in range(words + 1):
        begin = starts[word] if word < words else end
        if begin - before > 1 or (begin > before and (points[before] != 0x20 or before == start)):
            sentences += ended
            ended = False
        if word == words:
            break
        before = ends[word]
        mark = before - begin == 1 and kinds[begin] & SENTENCE_END != 0
        if mark:
            ended = True
        elif ended:
            punctuation = True
            for at in range(begin, before):
                punctuation = punctuation and kinds[at] & PUNCTUATION != 0
            if not punctuation:
                sentences += 1
                ended = False
    return sentences
