"""English words and sentences as spaCy's blank pipeline cuts them, compiled: what datatrove's filters count.

The algorithm is `Tokenizer._tokenize_affixes` of spaCy 3.8: cut at white space; from each piece strip prefixes and
suffixes until an exception or nothing is found; leave addresses whole; cut the rest at infixes; join what together
spells an exception. The rules are data (data_engine.english): classes of characters, and exceptions by hash.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from data_engine.kernels.hashing import SEED, finish, step
from data_engine.kernels.unicode import decode, entry

(
    SPACE, PREFIX, SUFFIX, INFIX, LETTER, BEFORE_DOT, AFTER_DOT, UPPER, DOT_SUFFIX, LOWER, ASCII_DIGIT, DIGIT,
    ALPHABETIC, PUNCTUATION, SYMBOL, SENTENCE_END, TERMINAL, LINE_BREAK, HOST, SCHEME, RULED,
) = (1 << bit for bit in range(21))  # fmt: skip
"""Bits of a class. PREFIX, SUFFIX, INFIX: such a character alone. BEFORE_DOT, AFTER_DOT: between these a full stop is
an infix. DOT_SUFFIX: after these it is a suffix. PUNCTUATION: Unicode's P; SYMBOL: on datatrove's list of punctuation;
TERMINAL: on its list of terminal punctuation; LINE_BREAK: where str.splitlines cuts; HOST, SCHEME: of an address.
RULED: some rule looks at it; a piece without such a character is one word or an exception."""

LONGEST = 12
"""Characters of the longest exception."""
_MOST_JOINED = 11
_DOT, _HYPHEN, _ELLIPSIS, _EM_DASH, _EN_DASH = 0x2E, 0x2D, 0x2026, 0x2014, 0x2013


class Exceptions(NamedTuple):
    """Strings by hash: `slots` (2^k,) int32 to an entry or -1; `keys` (m,) uint64; the pieces of entry i are
    `pieces[starts[i]:starts[i + 1]]`, lengths in code points."""

    slots: np.ndarray
    keys: np.ndarray
    starts: np.ndarray
    pieces: np.ndarray


class English(NamedTuple):
    """`classes` (131073,) uint32 bits by code point. `whole`: exceptions; `apart`: the same, those that the affix rules
    alone would cut, with the pieces these leave; `units`: what is a suffix after a digit."""

    classes: np.ndarray
    whole: Exceptions
    apart: Exceptions
    units: Exceptions


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
def _find(exceptions: Exceptions, points: np.ndarray, start: int, end: int) -> int:
    """The entry that points start..end spell, or -1."""
    if end - start > LONGEST:
        return -1
    key = hash_of(points, start, end)
    mask = exceptions.slots.size - 1
    position = np.int64(key & np.uint64(mask))
    while True:
        held = exceptions.slots[position]
        if held < 0 or exceptions.keys[held] == key:
            return held
        position = (position + 1) & mask


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
def _suffix(points: np.ndarray, kinds: np.ndarray, start: int, end: int, units: Exceptions) -> int:
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
def _is_address(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    """spaCy's URL_MATCH: [scheme://] [user@] host [:port] [/?# anything]."""
    dotted = False
    for at in range(start + 1, end - 1):
        dotted = dotted or points[at] == _DOT
    if not dotted:
        return False
    if _is_host(points, kinds, start, end):
        return True
    scheme = start
    while scheme < end and kinds[scheme] & SCHEME:
        scheme += 1
    slashes = scheme + 3 < end and points[scheme] == 0x3A and points[scheme + 1] == points[scheme + 2] == 0x2F
    if slashes and scheme - start > 1 and _is_host(points, kinds, scheme + 3, end):
        return True
    for at in range(start + 1, end - 1):
        if points[at] == 0x40 and _is_host(points, kinds, at + 1, end):
            return True
    return False


@numba.njit(nogil=True, cache=True)
def _is_host(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    stop = start
    while stop < end and points[stop] not in (0x3A, 0x2F, 0x3F, 0x23):  # : / ? #
        stop += 1
    if stop < end and points[stop] == 0x3A:
        digits = 0
        while stop + digits + 1 < end and kinds[stop + digits + 1] & DIGIT:
            digits += 1
        after = stop + digits + 1
        if digits < 2 or digits > 5 or (after < end and points[after] not in (0x2F, 0x3F, 0x23)):
            return False
    return _is_domain(points, kinds, start, stop) or _is_ip(points, kinds, start, stop)


@numba.njit(nogil=True, cache=True)
def _is_domain(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    labels = 0
    label = start
    for at in range(start, end):
        if points[at] == _DOT:
            size = at - label
            if size < 1 or size > 64 or not kinds[label] & HOST or not kinds[at - 1] & HOST:
                return False
            labels += 1
            label = at + 1
        elif not kinds[at] & HOST and points[at] != 0x5F and points[at] != _HYPHEN:
            return False
    if not labels or end - label < 2 or end - label > 63:
        return False
    for at in range(label, end):
        if not kinds[at] & LOWER:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _is_ip(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    """A public IPv4 address, as the expression has it: first byte 1 to 223, last 1 to 254."""
    values = np.zeros(4, np.int64)
    fields = 0
    at = start
    while at < end:
        size = 0
        value = 0
        first = points[at]
        while at < end and kinds[at] & ASCII_DIGIT:
            value = value * 10 + points[at] - 48
            size += 1
            at += 1
        padded = first == 48 and (size > 1 and (fields in (0, 3) or size > 2))
        if fields > 3 or size < 1 or size > 3 or value > 255 or padded:
            return False
        values[fields] = value
        fields += 1
        if at < end:
            if points[at] != _DOT:
                return False
            at += 1
            if at == end:
                return False
    if fields != 4 or not 1 <= values[0] <= 223 or not 1 <= values[3] <= 254:
        return False
    private = values[0] == 10 or values[0] == 127 or (values[0] == 172 and 16 <= values[1] <= 31)
    return not (private or (values[0] == 169 and values[1] == 254) or (values[0] == 192 and values[1] == 168))


@numba.njit(nogil=True, cache=True)
def _cut(
    points: np.ndarray, kinds: np.ndarray, start: int, end: int, english: English, ends: np.ndarray, count: int
) -> int:
    """Write where the words of the piece start..end end, from ends[count] on; returns the new count."""
    low, high = start, end
    suffixes = np.empty(0, np.int64)
    stripped = 0
    last = 0
    held = -1
    while low < high and high - low != last:
        held = _find(english.whole, points, low, high)
        if held >= 0:
            break
        last = high - low
        before = _prefix(points, kinds, low, high)
        if before and low + before < high and _find(english.whole, points, low + before, high) >= 0:
            low += before
            ends[count] = low
            count += 1
            break
        after = _suffix(points, kinds, low + before, high, english.units)
        if after:
            if not suffixes.size:
                suffixes = np.empty(end - start, np.int64)
            suffixes[stripped] = high
            stripped += 1
            if high - after > low and _find(english.whole, points, low, high - after) >= 0:
                high -= after
                break
        if before:
            low += before
            ends[count] = low
            count += 1
        high -= after
    if low < high:
        held = _find(english.whole, points, low, high)
        if held >= 0:
            at = low
            for piece in range(english.whole.starts[held], english.whole.starts[held + 1]):
                at += english.whole.pieces[piece]
                ends[count] = at
                count += 1
        elif _is_address(points, kinds, low, high):
            ends[count] = high
            count += 1
        else:
            count = _cut_at_infixes(points, kinds, low, high, ends, count)
    for number in range(stripped - 1, -1, -1):
        ends[count] = suffixes[number]
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _cut_at_infixes(points: np.ndarray, kinds: np.ndarray, start: int, end: int, ends: np.ndarray, count: int) -> int:
    at = word = start
    while at < end:
        size = _infix(points, kinds, start, at, end)
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
def _join(points: np.ndarray, start: int, english: English, ends: np.ndarray, first: int, count: int) -> int:
    """Put words together that in a row spell an exception cut as the affix rules would: the longest row first."""
    taken = np.zeros(0, np.bool_)
    most = min(count - first, _MOST_JOINED)
    joined = False
    rows = np.empty(0, np.int64)
    for length in range(most, 1, -1):
        for word in range(first, count - length + 1):
            begin = start if word == first else ends[word - 1]
            held = _find(english.apart, points, begin, ends[word + length - 1])
            if held < 0 or english.apart.starts[held + 1] - english.apart.starts[held] != length:
                continue
            at = begin
            same = True
            for offset in range(length):
                at += english.apart.pieces[english.apart.starts[held] + offset]
                same = same and at == ends[word + offset]
            if not same:
                continue
            if not joined:
                taken = np.zeros(count - first, np.bool_)
                rows = np.full(count - first, -1, np.int64)
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
        held = _find(english.whole, points, begin, old[word + rows[word] - 1])
        at = begin
        for piece in range(english.whole.starts[held], english.whole.starts[held + 1]):
            at += english.whole.pieces[piece]
            ends[filled] = at
            filled += 1
        word += rows[word]
    return filled


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
    count = 0
    at = start
    while at < end:
        while at < end and kinds[at] & SPACE:
            at += 1
        begin = at
        ruled = np.uint32(0)
        while at < end and not kinds[at] & SPACE:
            ruled |= kinds[at]
            at += 1
        if at == begin:
            break
        first = count
        if ruled & RULED or at - begin <= LONGEST:
            count = _cut(points, kinds, begin, at, english, ends, count)
            if count - first > 1 and ruled & RULED:
                count = _join(points, begin, english, ends, first, count)
        else:
            ends[count] = at
            count += 1
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
