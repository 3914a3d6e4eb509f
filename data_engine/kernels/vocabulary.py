"""Matching documents against word lists: stop words, and words that a filter counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from data_engine.kernels.hashing import SEED, contains, finish, step, step_or_begin
from data_engine.kernels.unicode import ASCII_WORD, LETTERLIKE, UNSPACED, decode, entry

_PREFIX = np.uint64(0x9E3779B97F4A7C15)
_FILTER_SIZE = 4096
_LOW = np.uint64(_FILTER_SIZE - 1)
_WORD, _START = 1, 2


def hash_word(word: str) -> np.uint64:
    """The hash that the compiled loops give a whole token. word: lower case, letters and digits only."""
    return np.uint64(_finish(_state(word)))


def hash_prefix(prefix: str) -> np.uint64:
    """The hash of a token's beginning; differs from that of the whole word."""
    return np.uint64(_finish(_state(prefix) ^ int(_PREFIX)))


def _state(word: str) -> int:
    state = int(SEED)
    for character in word:
        state = ((state ^ ord(character)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return state


def _finish(h: int) -> int:
    mask = 0xFFFFFFFFFFFFFFFF
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & mask
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & mask
    return h ^ (h >> 33)


@dataclass(frozen=True)
class WordLists:
    """Word lists of several languages, ready for the kernels.

    `languages` names them in order; the keys of language i are `keys[starts[i]:starts[i + 1]]`, ascending, uint64.
    `seen` (languages, 4096) uint8 has bit _WORD or _START at the low bits of the state that hashing the letters of an
    entry ends in: most tokens are dismissed with one look at it, before their hash is finished.
    """

    languages: tuple[str, ...]
    keys: np.ndarray
    starts: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, lists: Mapping[str, Iterable[str]]) -> "WordLists":
        """From entries that are whole words, or prefixes that end in '*'."""
        languages = tuple(sorted(lists))
        parts = [
            np.unique(
                np.array([hash_prefix(e[:-1]) if e.endswith("*") else hash_word(e) for e in lists[language]], np.uint64)
            )
            for language in languages
        ]
        keys = np.concatenate([*parts, np.zeros(0, np.uint64)])
        starts = np.concatenate([[0], np.cumsum([part.size for part in parts])]).astype(np.int64)
        seen = np.zeros((len(languages), _FILTER_SIZE), np.uint8)
        for number, language in enumerate(languages):
            for entry_ in lists[language]:
                seen[number, _state(entry_.rstrip("*")) % _FILTER_SIZE] |= _START if entry_.endswith("*") else _WORD
        return cls(languages, keys, starts, seen)

    def beside(self, other: "WordLists") -> "WordLists":
        """These lists and then the other ones, whose rows are shifted by the number of these."""
        return WordLists(
            (*self.languages, *other.languages),
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.starts, self.starts[-1] + other.starts[1:]]),
            np.concatenate([self.seen, other.seen]),
        )

    def rows(self, languages: Sequence[str]) -> np.ndarray:
        """The list of each document's language as (n,) int32, -1 where there is none."""
        number = {language: index for index, language in enumerate(self.languages)}
        return np.array([number.get(language, -1) for language in languages], np.int32)


@numba.njit(nogil=True, cache=True)
def count_matches(
    utf8: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    lower: np.ndarray,
    rows: np.ndarray,
    keys: np.ndarray,
    starts: np.ndarray,
    seen: np.ndarray,
    total: np.ndarray,
    distinct: np.ndarray,
) -> None:
    """How many tokens of each document are in each of its lists, and how many different entries they hit.

    rows: (n, lists) int32, the lists of each document, -1 for none; total, distinct: (n, lists) float64; NaN where
    there is no list. A token is as in words.split_tokens.
    """
    lists = rows.shape[1]
    found = np.zeros(keys.size, np.int32)
    hits = np.full(lists, -1, np.int64)
    known = np.empty(_FILTER_SIZE, np.uint8)
    for document in range(offsets.size - 1):
        own = rows[document]
        known[:] = 0
        for number in range(lists):
            total[document, number] = distinct[document, number] = 0.0 if own[number] >= 0 else np.nan
            if own[number] >= 0:
                known |= seen[own[number]]
        state = SEED
        inside = started = False
        at, end = offsets[document], offsets[document + 1]
        while at <= end:
            if at < end and utf8[at] < 0x80:
                # a branch only where a token ends that may be in a list
                unit = ASCII_WORD[utf8[at]]
                at += 1
                listed = np.int64(started) | np.int64(known[state & _LOW] & _WORD)
                if listed & np.int64(inside) & np.int64(unit == 0):
                    _count(own, keys, starts, seen, state, document, found, hits, total, distinct)
                    started = False
                inside = unit != 0
                state = step_or_begin(state, unit, inside)
                if np.int64(known[state & _LOW] >> 1) & np.int64(inside):
                    started |= _find(own, keys, starts, seen, state, _START, hits)
                continue
            if at < end:
                point, following = decode(utf8, at, end)
                place = entry(point)
                kind = classes[place]
            else:
                point, following, place, kind = 0, at + 1, 0, np.uint8(0)
            alone = kind & UNSPACED != 0
            if inside and (alone or not kind & LETTERLIKE):
                if started or known[state & _LOW] & _WORD:
                    _count(own, keys, starts, seen, state, document, found, hits, total, distinct)
                state = SEED
                inside = started = False
            if kind & LETTERLIKE and not alone:
                state = step(state, lower[place] if point == place else point)
                inside = True
                if known[state & _LOW] & _START:
                    started |= _find(own, keys, starts, seen, state, _START, hits)
            at = following


@numba.njit(nogil=True, cache=True)
def _find(
    rows: np.ndarray, keys: np.ndarray, starts: np.ndarray, seen: np.ndarray, state: Any, what: int, hits: np.ndarray
) -> bool:
    """Look for a whole word or a beginning in those lists that have not hit yet; returns whether one has now."""
    some = False
    key = finish(state if what == _WORD else state ^ _PREFIX)
    for number in range(rows.size):
        row = rows[number]
        if row >= 0 and hits[number] < 0 and seen[row, state & _LOW] & what:
            hits[number] = _position(keys, starts[row], starts[row + 1], key)
            some |= hits[number] >= 0
    return some


@numba.njit(nogil=True, cache=True)
def _count(
    rows: np.ndarray,
    keys: np.ndarray,
    starts: np.ndarray,
    seen: np.ndarray,
    state: Any,
    document: int,
    found: np.ndarray,
    hits: np.ndarray,
    total: np.ndarray,
    distinct: np.ndarray,
) -> None:
    """A token has ended: count what it hits, and forget it. found: the document + 1 that last hit each entry."""
    _find(rows, keys, starts, seen, state, _WORD, hits)
    for number in range(rows.size):
        hit = hits[number]
        if hit >= 0:
            total[document, number] += 1
            distinct[document, number] += found[hit] != document + 1
            found[hit] = document + 1
            hits[number] = -1


@numba.njit(nogil=True, cache=True)
def _position(keys: np.ndarray, start: int, end: int, key: Any) -> Any:
    if not contains(keys, start, end, key):
        return -1
    return start + np.searchsorted(keys[start:end], key)
