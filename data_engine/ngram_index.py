"""The n-grams of benchmark items as arrays that every task maps: a hash table, the words behind it, the holders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_engine import rows
from data_engine.benchmark_items import Item
from data_engine.kernels import ngrams
from data_engine.kernels.hashing import table_size
from data_engine.kernels.unicode import buffers, code_points

QUESTION, ANSWER, JOINT = "question", "answer", "joint"
"""Where an n-gram of an item lies: in the question, in an answer, or across the end of the question and an answer."""


@dataclass(frozen=True)
class NgramIndex:
    """Arrays. A sequence is a question, or an answer after the last n - 1 words of its question (its `tail`).

    lengths: the lengths of n-grams, in words. slots, keys, words, first_words: see `ngrams.find_ngrams`, m n-grams.
    utf8, begins, ends: (w,) the words of all sequences one after the other. holders: (m + 1,) where each n-gram's part
    of holder_sequence and holder_place ends; these say in which sequences it stands, from which word on.
    sequence_item, sequence_answer (-1 for a question), sequence_tail, sequence_words: (s,). item_benchmark,
    item_number, item_question (words of the question): (i,). searched: (i,) whether any n-gram stands for the item.
    """

    lengths: np.ndarray
    slots: np.ndarray
    keys: np.ndarray
    words: np.ndarray
    first_words: np.ndarray
    utf8: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    holders: np.ndarray
    holder_sequence: np.ndarray
    holder_place: np.ndarray
    sequence_item: np.ndarray
    sequence_answer: np.ndarray
    sequence_tail: np.ndarray
    sequence_words: np.ndarray
    item_benchmark: np.ndarray
    item_number: np.ndarray
    item_question: np.ndarray
    searched: np.ndarray

    def save(self, path_of: Callable[[str], Path]) -> None:
        """One .npy for each array."""
        for field in fields(self):
            rows.save(path_of(field.name), getattr(self, field.name))

    @classmethod
    def load(cls, path_of: Callable[[str], Path]) -> "NgramIndex":
        """Map what `save` wrote."""
        return cls(**{field.name: rows.load(path_of(field.name)) for field in fields(cls)})

    def find(self, texts: pa.Array) -> np.ndarray:
        """(hits, 5) int64: text, n-gram, first word of it there, and the bytes of the text that it takes."""
        utf8, offsets = buffers(texts)
        classes, lower = code_points()
        hits = np.empty((1024, 5), np.int64)
        while True:
            found = ngrams.find_ngrams(
                *(utf8, offsets, classes, lower, self.lengths, self.slots, self.keys, self.words, self.first_words),
                *(self.utf8, self.begins, self.ends, hits),
            )
            if found <= hits.shape[0]:
                return hits[:found]
            hits = np.empty((found, 5), np.int64)


@dataclass
class _Sequences:
    """What `build` collects: sequences as runs of word numbers, and the windows of words that are listed."""

    item: list[int]
    answer: list[int]
    tail: list[int]
    runs: list[np.ndarray]
    windows: list[np.ndarray]
    """(w, 3) int64 each: sequence, place, words"""


def build(benchmarks: Sequence[Sequence[Item]], n: int, parts: Sequence[str], least: int) -> NgramIndex:
    """List the n-grams of the items of several benchmarks.

    parts: which of question, answer and joint n-grams are listed. A question of fewer than n words is listed as one
    n-gram of its own length when it has at least `least` words; shorter parts have no n-gram of their own.
    """
    texts: list[str] = []
    for items in benchmarks:
        for item in items:
            texts += [item.question, *item.answers]
    utf8, begins, ends, hashes, bounds = _words(texts)
    listed = _Sequences([], [], [], [], [])
    item_rows: list[tuple[int, int, int]] = []
    text = 0
    for number, items in enumerate(benchmarks):
        for item in items:
            question = np.arange(bounds[text], bounds[text + 1])
            item_rows.append((number, item.number, question.size))
            _list(listed, len(item_rows) - 1, -1, question[:0], question, n, parts, least)
            text += 1
            for answer in range(len(item.answers)):
                own = np.arange(bounds[text], bounds[text + 1])
                tail = question[max(question.size - n + 1, 0) :]
                _list(listed, len(item_rows) - 1, answer, tail, own, n, parts, least)
                text += 1
    return _index(listed, item_rows, utf8, begins, ends, hashes)


def _words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """utf8 of all texts; bytes and hashes of their words; where those of each text begin, and the end of the last."""
    utf8, offsets = buffers(pa.array(texts, pa.large_string()))
    classes, lower = code_points()
    hashes, begins, ends = np.empty(utf8.size, np.uint64), np.empty(utf8.size, np.int64), np.empty(utf8.size, np.int64)
    bounds = np.empty(offsets.size, np.int64)
    ngrams.locate_all(utf8, offsets, classes, lower, hashes, begins, ends, bounds)
    filled = bounds[-1]
    return np.array(utf8), begins[:filled].copy(), ends[:filled].copy(), hashes[:filled].copy(), bounds


def _list(
    listed: _Sequences,
    item: int,
    answer: int,
    tail: np.ndarray,
    own: np.ndarray,
    n: int,
    parts: Sequence[str],
    least: int,
) -> None:
    sequence = len(listed.runs)
    listed.item.append(item)
    listed.answer.append(answer)
    listed.tail.append(tail.size)
    listed.runs.append(np.concatenate([tail, own]))
    windows = max(tail.size + own.size - n + 1, 0)
    crossing = min(tail.size, windows)  # those that begin in the tail end in the answer
    if answer < 0:
        first, last, words = 0, windows if QUESTION in parts else 0, n
        if QUESTION in parts and least <= own.size < n:
            last, words = 1, own.size
    else:
        first = 0 if JOINT in parts else crossing
        last, words = (windows if ANSWER in parts else crossing), n
    if last > first:
        places = np.arange(first, last)
        listed.windows.append(np.stack([np.full_like(places, sequence), places, np.full_like(places, words)], axis=1))


def _index(
    listed: _Sequences,
    item_rows: list[tuple[int, int, int]],
    utf8: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    hashes: np.ndarray,
) -> NgramIndex:
    sizes = np.array([run.size for run in listed.runs], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    run = np.concatenate(listed.runs).astype(np.int64)
    windows = np.concatenate([np.zeros((0, 3), np.int64), *listed.windows])
    sequence, place, length = windows[:, 0], windows[:, 1], windows[:, 2]
    first = starts[sequence] + place
    key, check = (_window_hashes(hashes[run], first, length, base) for base in (ngrams.BASE, ngrams.OTHER_BASE))
    order = np.lexsort((check, key))  # stable: sequences ascend, and places within each
    same = np.zeros(order.size, bool)
    same[1:] = True
    for column in (key, check):
        same[1:] &= column[order][1:] == column[order][:-1]
    leaders = order[~same]
    slots = np.full(table_size(leaders.size), -1, np.int32)
    ngrams.fill_table(slots, key[leaders])
    searched = np.zeros(len(item_rows), bool)
    searched[np.array(listed.item, np.int64)[sequence]] = True
    items = np.array(item_rows, np.int64).reshape(-1, 3)
    return NgramIndex(
        lengths=np.unique(length),
        slots=slots,
        keys=key[leaders],
        words=length[leaders].astype(np.int32),
        first_words=first[leaders],
        utf8=utf8,
        begins=begins[run],
        ends=ends[run],
        holders=np.concatenate([np.flatnonzero(~same), [order.size]]).astype(np.int64),
        holder_sequence=sequence[order].astype(np.int32),
        holder_place=place[order].astype(np.int32),
        sequence_item=np.array(listed.item, np.int32),
        sequence_answer=np.array(listed.answer, np.int32),
        sequence_tail=np.array(listed.tail, np.int32),
        sequence_words=sizes.astype(np.int32),
        item_benchmark=items[:, 0],
        item_number=items[:, 1],
        item_question=items[:, 2],
        searched=searched,
    )


def _window_hashes(hashes: np.ndarray, first: np.ndarray, length: np.ndarray, base: np.uint64) -> np.ndarray:
    """Hash of each window. Rolling over everything end to end gives those that cross sequences too; nobody asks."""
    out = np.zeros(first.size, np.uint64)
    rolled = np.empty(hashes.size, np.uint64)
    for size in np.unique(length):
        ngrams.roll(hashes, hashes.size, size, base, rolled)
        out[length == size] = rolled[first[length == size]]
    return out
