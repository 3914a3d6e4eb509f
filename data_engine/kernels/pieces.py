"""Cutting text as GPT-2's pattern does, and a table of pieces that were seen before.

The pattern (Radford et al. 2019): 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
"""

from typing import Any

import numba
import numpy as np

from data_engine.kernels.hashing import SEED, finish, step
from data_engine.kernels.unicode import decode

OTHER, LETTER, NUMBER, SPACE = range(4)
"""Classes of the pattern: what is no letter, number or white space is OTHER."""

_APOSTROPHE, _BLANK = ord("'"), ord(" ")
_S, _T, _R, _V, _M, _L, _D, _E = (ord(letter) for letter in "strvmlde")


@numba.njit(nogil=True, cache=True)
def _class(classes: np.ndarray, point: int) -> int:
    return int(classes[point]) if point < classes.size else OTHER


@numba.njit(nogil=True, cache=True)
def _contraction(utf8: np.ndarray, at: int, end: int) -> int:
    """Bytes of the contraction that follows an apostrophe at `at`, the apostrophe among them; 0 when none does."""
    if at + 1 >= end:
        return 0
    first = utf8[at + 1]
    if first in (_S, _T, _M, _D):
        return 2
    if at + 2 < end:
        second = utf8[at + 2]
        if (second == _E and first in (_R, _V)) or (second == _L and first == _L):
            return 3
    return 0


@numba.njit(nogil=True, cache=True)
def piece_end(utf8: np.ndarray, classes: np.ndarray, at: int, end: int) -> int:
    """Where the piece that starts at byte `at` ends. utf8: (bytes,) uint8, valid; classes: (m,) uint8."""
    point, after = decode(utf8, at, end)
    if point == _APOSTROPHE:
        length = _contraction(utf8, at, end)
        if length:
            return at + length
    kind = _class(classes, point)
    if point == _BLANK and after < end:
        following, behind = decode(utf8, after, end)
        kind = _class(classes, following)
        if kind != SPACE:
            after = behind
    before_last = at
    last = at
    while after < end:
        point, behind = decode(utf8, after, end)
        if _class(classes, point) != kind:
            break
        last = after
        after = behind
    if kind == SPACE and after < end and last > before_last:
        return last  # the white space before a word belongs to what follows
    return after


@numba.njit(nogil=True, cache=True)
def look_up(
    utf8: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    slots: np.ndarray,
    starts: np.ndarray,
    arena: np.ndarray,
    entries: int,
    found: np.ndarray,
    ends: np.ndarray,
) -> int:
    """The entry of every piece of every document; pieces that are new become entries. Returns how many there are then.

    utf8: (bytes,) uint8; offsets: (n + 1,) int64; classes: as piece_end reads them. slots: (2^k,) int32, entry or -1,
    at most half full; starts: int64, where each entry's bytes begin in arena, one past the last entry its end; arena:
    uint8. Written: slots, starts, arena; found: int32, an entry per piece; ends: (n,) int64, pieces up to the end of
    each document. The caller provides room for one new entry and one piece per byte of text.
    """
    mask = slots.size - 1
    pieces = 0
    for document in range(offsets.size - 1):
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            stop = piece_end(utf8, classes, at, end)
            position = _slot(utf8, at, stop, mask)
            entry = slots[position]
            while entry >= 0 and not _same(arena, starts[entry], starts[entry + 1], utf8, at, stop):
                position = (position + 1) & mask
                entry = slots[position]
            if entry < 0:
                entry = entries
                slots[position] = entry
                begin = starts[entries]
                for place in range(at, stop):
                    arena[begin + place - at] = utf8[place]
                entries += 1
                starts[entries] = begin + stop - at
            found[pieces] = entry
            pieces += 1
            at = stop
        ends[document] = pieces
    return entries


@numba.njit(nogil=True, cache=True)
def fill(slots: np.ndarray, starts: np.ndarray, arena: np.ndarray, entries: int) -> None:
    """Put all entries into an empty table. The arrays as in look_up."""
    mask = slots.size - 1
    for entry in range(entries):
        position = _slot(arena, starts[entry], starts[entry + 1], mask)
        while slots[position] >= 0:
            position = (position + 1) & mask
        slots[position] = entry


@numba.njit(nogil=True, cache=True)
def _slot(utf8: np.ndarray, at: int, stop: int, mask: int) -> Any:
    """Where the table is first looked into for a piece."""
    state: Any = SEED
    for place in range(at, stop):
        state = step(state, utf8[place])
    return np.int64(finish(state) & np.uint64(mask))


@numba.njit(nogil=True, cache=True)
def _same(arena: np.ndarray, begin: int, finish_: int, utf8: np.ndarray, at: int, stop: int) -> bool:
    if finish_ - begin != stop - at:
        return False
    for offset in range(stop - at):
        if arena[begin + offset] != utf8[at + offset]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def lay_out(
    found: np.ndarray, ends: np.ndarray, firsts: np.ndarray, ids: np.ndarray, separator: int, out: np.ndarray
) -> None:
    """Ids of all documents end to end, `separator` after each.

    found, ends: as look_up wrote them; the ids of entry e are ids[firsts[e]:firsts[e + 1]]; out: as many as there are.
    """
    at = piece = 0
    for document in range(ends.size):
        while piece < ends[document]:
            entry = found[piece]
            for place in range(firsts[entry], firsts[entry + 1]):
                out[at] = ids[place]
                at += 1
            piece += 1
        out[at] = separator
        at += 1
