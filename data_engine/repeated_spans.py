"""Spans of words that occur twice in the corpus, as ExactSubstr of Lee et al. 2021 finds them, by hashes on storage.

A span of `n` words repeats where its words stand at an earlier place: in a document of a smaller id, or before in the
same one. Lee et al. sort all suffixes of the corpus in memory; here hashes are merged by range, in two passes:

1. Of each document the n-grams of k = n / 2 words are winnowed, so that two equal spans of n words share at least one
   of those chosen: 2 / (n - k + 2) of all, 20 bytes each (1.5 bytes a word for n = 50). The ones that occur twice are
   sent back to their documents.
2. Only where such a one stands, the n-grams of n words are hashed: 44 bytes for each word of a repeated region. Equal
   hashes name the earliest place; the words of both places are then compared, and only equal words are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from core.config import Config
from core.run import Run
from data_engine import rows
from data_engine.kernels import ngrams
from data_engine.kernels.unicode import code_points
from data_engine.kernels.winnow import winnow
from data_engine.measure import Folders
from data_engine.remaining import remaining
from data_engine.shard_map import Task, map_tasks

SAMPLE = np.dtype([("key", "<u8"), ("ref", "<u8"), ("word", "<u4")])
PLACE = np.dtype([("ref", "<u8"), ("word", "<u4")])
WINDOW = np.dtype(
    [("key", "<u8"), ("check", "<u8"), ("id_hi", "<u8"), ("id_lo", "<u8"), ("ref", "<u8"), ("word", "<u4")]
)
REPEAT = np.dtype(
    [("ref", "<u8"), ("word", "<u4"), ("first", "<u8"), ("first_word", "<u4"), ("id_hi", "<u8"), ("id_lo", "<u8")]
)
"""n words from `word` on in document `ref` stand before from `first_word` on in document `first`, of this id."""
SPAN = np.dtype([("ref", "<u8"), ("begin", "<i8"), ("end", "<i8"), ("id_hi", "<u8"), ("id_lo", "<u8")])
"""Bytes begin..end of a document, the same words in a document of this id, which keeps them."""

_OPEN_SHARDS = 64


class RepeatedSpansConfig(Config):
    """Removal of long spans of words that occur twice, but for the first place (the smallest id decides)."""

    enabled: bool = Field(False, description="cut spans that occur before, in another document or the same")
    words: int = Field(50, ge=4, description="least length of a span; Lee et al. 2021: 50 tokens")


@dataclass(frozen=True)
class Words:
    """The words of a text: hashes, and the bytes begins..ends of each, all (w,)."""

    utf8: np.ndarray
    hashes: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, text: bytes) -> "Words":
        """Tokenise as shingles are: case and punctuation make no difference."""
        utf8 = np.frombuffer(text or b"\0", np.uint8)
        classes, lower = code_points()
        hashes, begins, ends = (
            np.empty(utf8.size, np.uint64),
            np.empty(utf8.size, np.int64),
            np.empty(utf8.size, np.int64),
        )
        count = ngrams.locate_tokens(utf8, 0, len(text), classes, lower, hashes, begins, ends)
        return cls(utf8, hashes[:count].copy(), begins[:count].copy(), ends[:count].copy())

    def windows(self, length: int, base: np.uint64) -> np.ndarray:
        """Hashes of all runs of `length` words."""
        out = np.empty(self.hashes.size, np.uint64)
        return out[: ngrams.roll(self.hashes, self.hashes.size, length, base, out)]


def sample(words: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Winnowed runs of n / 2 words of a text: their hashes and their first words."""
    k = n // 2
    hashes = words.windows(k, ngrams.BASE)
    places = np.empty(hashes.size, np.int64)
    places = places[: winnow(hashes, hashes.size, n - k + 1, places)]
    return hashes[places], places


def find_twice(table: np.ndarray) -> np.ndarray:
    """The places of samples that are not the only ones of their hash, (m,) PLACE sorted. table: (n,) SAMPLE."""
    ranked = table[np.argsort(table["key"], kind="stable")]
    same = ranked["key"][1:] == ranked["key"][:-1]
    twice = np.concatenate([same, [False]]) | np.concatenate([[False], same]) if ranked.size else np.zeros(0, bool)
    places = np.zeros(int(twice.sum()), PLACE)
    places["ref"], places["word"] = ranked["ref"][twice], ranked["word"][twice]
    return np.sort(places, order=["ref", "word"])


def candidates(places: np.ndarray, words: int, n: int) -> np.ndarray:
    """First words of the runs of n words that hold a run of n / 2 from one of `places` on, ascending."""
    starts = np.unique(places.astype(np.int64)[:, None] - np.arange(n - n // 2 + 1)[None, :])
    return starts[(starts >= 0) & (starts <= words - n)]


def find_repeats(table: np.ndarray) -> np.ndarray:
    """All but the earliest of the windows of each hash, (m,) REPEAT sorted by ref. table: (n,) WINDOW in any order."""
    keys = [table[name] for name in ("word", "ref", "id_lo", "id_hi", "check", "key")]
    ranked = table[np.lexsort(keys)]
    if not ranked.size:
        return np.zeros(0, REPEAT)
    first = np.ones(ranked.size, bool)
    first[1:] = (ranked["key"][1:] != ranked["key"][:-1]) | (ranked["check"][1:] != ranked["check"][:-1])
    leader = np.flatnonzero(first)[np.cumsum(first) - 1][~first]
    repeats = np.zeros(leader.size, REPEAT)
    repeats["ref"], repeats["word"] = ranked["ref"][~first], ranked["word"][~first]
    repeats["first"], repeats["first_word"] = ranked["ref"][leader], ranked["word"][leader]
    repeats["id_hi"], repeats["id_lo"] = ranked["id_hi"][leader], ranked["id_lo"][leader]
    return np.sort(repeats, order=["ref", "first", "word", "first_word"])


def verified(own: Words, other: Words, repeats: np.ndarray, n: int) -> list[tuple[int, int]]:
    """Runs begin..end of words of one text that are the same in another. repeats: (m,) REPEAT of these two texts.

    Windows at one distance that overlap are compared as one; where that fails, each window for itself.
    """
    _, lower = code_points()

    def same(begin: int, end: int, shift: int) -> bool:
        return bool(
            ngrams.same_words(
                *(own.utf8, own.begins[begin:end], own.ends[begin:end]),
                *(other.utf8, other.begins[begin - shift : end - shift], other.ends[begin - shift : end - shift]),
                lower,
            )
        )

    shifts = repeats["word"].astype(np.int64) - repeats["first_word"].astype(np.int64)
    spans = []
    for shift in np.unique(shifts).tolist():
        starts = np.sort(repeats["word"][shifts == shift].astype(np.int64))
        for run in np.split(starts, np.flatnonzero(np.diff(starts) > n) + 1):
            begin, end = int(run[0]), int(run[-1]) + n
            if same(begin, end, shift):
                spans.append((begin, end))
            else:
                spans += [(at, at + n) for at in run.tolist() if same(at, at + n, shift)]
    return spans


def remove(
    run: Run, names: Sequence[str], removals: Sequence[Path], config: RepeatedSpansConfig, folders: Folders
) -> list[Path]:
    """Files of SPAN, one a shard, of the documents that are left. names: of shards in order of their numbers."""
    shards: list[Task] = [{"shard": number, "name": name} for number, name in enumerate(names)]

    def missing(step: str) -> list[Task]:
        return [task for task in shards if not folders.scratch(step, task["name"]).exists()]

    def ranges(step: str, total: int) -> tuple[list[Path], list[Task]]:
        parts = rows.parts(total)
        files = [folders.scratch(step, str(part)) for part in range(parts)]
        return files, [{"part": part, "parts": parts} for part in range(parts) if not files[part].exists()]

    samples = [folders.scratch("samples", name) for name in names]
    map_tasks(run, "span samples", missing("samples"), partial(_samples_of_shard, removals, config, folders))
    twice, tasks = ranges("samples_twice", sum(len(rows.load(file)) for file in samples))
    map_tasks(run, "repeated samples", tasks, partial(_twice_of_range, samples, folders))
    windows = [folders.scratch("windows", name) for name in names]
    map_tasks(run, "span windows", missing("windows"), partial(_windows_of_shard, removals, twice, config, folders))
    repeats, tasks = ranges("repeats", sum(len(rows.load(file)) for file in windows))
    map_tasks(run, "repeated spans", tasks, partial(_repeats_of_range, windows, folders))
    map_tasks(run, "verified spans", missing("spans"), partial(_spans_of_shard, names, repeats, config, folders))
    return [folders.scratch("spans", name) for name in names]


def _samples_of_shard(
    removals: Sequence[Path], config: RepeatedSpansConfig, folders: Folders, task: Task
) -> dict[str, Any]:
    places, documents = remaining(task["name"], task["shard"], removals, folders)
    tables = [np.zeros(0, SAMPLE)]
    for ref, text in zip(rows.refs(task["shard"], 1) + places.astype(np.uint64), documents["text"], strict=True):
        keys, words = sample(Words.of(text.as_py().encode()), config.words)
        table = np.zeros(keys.size, SAMPLE)
        table["key"], table["ref"], table["word"] = keys, ref, words
        tables.append(table)
    rows.save(folders.scratch("samples", task["name"]), np.sort(np.concatenate(tables), order=["key", "ref", "word"]))
    return {}


def _twice_of_range(samples: Sequence[Path], folders: Folders, task: Task) -> dict[str, Any]:
    table = rows.read_range(samples, "key", *rows.key_range(task["part"], task["parts"]))
    rows.save(folders.scratch("samples_twice", str(task["part"])), find_twice(table))
    return {}


def _windows_of_shard(
    removals: Sequence[Path], twice: Sequence[Path], config: RepeatedSpansConfig, folders: Folders, task: Task
) -> dict[str, Any]:
    """Windows of the documents that hold a repeated sample; their texts are kept for the comparison."""
    name, number = task["name"], task["shard"]
    found = np.sort(rows.read_refs(twice, number), order=["ref", "word"])
    places, documents = remaining(name, number, removals, folders)
    refs, starts = np.unique(found["ref"], return_index=True)
    tables = [np.zeros(0, WINDOW)]
    held = documents.take(np.searchsorted(places, rows.row_of(refs)))
    texts = [text.as_py().encode() for text in held["text"]]
    for ref, identity, text, own in zip(refs, held["id"].to_pylist(), texts, np.split(found, starts[1:]), strict=False):
        words = Words.of(text)
        at = candidates(own["word"], words.hashes.size, config.words)
        table = np.zeros(at.size, WINDOW)
        table["key"] = words.windows(config.words, ngrams.BASE)[at]
        table["check"] = words.windows(config.words, ngrams.OTHER_BASE)[at]
        table["id_hi"], table["id_lo"] = int(identity[:16], 16), int(identity[16:], 16)
        table["ref"], table["word"] = ref, at
        tables.append(table)
    rows.save(folders.scratch("span_texts", name), np.frombuffer(b"".join(texts), np.uint8))
    ends = np.zeros(refs.size, [("ref", "<u8"), ("end", "<i8")])
    ends["ref"], ends["end"] = refs, np.cumsum([len(text) for text in texts])
    rows.save(folders.scratch("span_text_ends", name), ends)
    order = ["key", "check", "ref", "word"]
    rows.save(folders.scratch("windows", name), np.sort(np.concatenate(tables), order=order))
    return {}


def _repeats_of_range(windows: Sequence[Path], folders: Folders, task: Task) -> dict[str, Any]:
    table = rows.read_range(windows, "key", *rows.key_range(task["part"], task["parts"]))
    rows.save(folders.scratch("repeats", str(task["part"])), find_repeats(table))
    return {}


class _Texts:
    """Texts that hold repeated samples, by ref, from the files of the second pass."""

    def __init__(self, names: Sequence[str], folders: Folders) -> None:
        self._names, self._folders = names, folders
        self._open: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def words(self, ref: int) -> Words:
        shard = ref >> 32
        if shard not in self._open:
            if len(self._open) >= _OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            name = self._names[shard]
            self._open[shard] = (
                rows.load(self._folders.scratch("span_text_ends", name)),
                rows.load(self._folders.scratch("span_texts", name)),
            )
        ends, texts = self._open[shard]
        at = int(np.searchsorted(ends["ref"], np.uint64(ref)))
        return Words.of(texts[ends["end"][at - 1] if at else 0 : ends["end"][at]].tobytes())


def _spans_of_shard(
    names: Sequence[str], repeats: Sequence[Path], config: RepeatedSpansConfig, folders: Folders, task: Task
) -> dict[str, Any]:
    found = rows.read_refs(repeats, task["shard"])
    # by the earlier document: one that many repeat is read once
    found = found[np.lexsort((found["word"], found["ref"], found["first"]))]
    change = (found["first"][1:] != found["first"][:-1]) | (found["ref"][1:] != found["ref"][:-1])
    texts = _Texts(names, folders)
    tables = [np.zeros(0, SPAN)]
    first, earlier = -1, Words.of(b"")
    for part in np.split(found, np.flatnonzero(change) + 1) if found.size else []:
        if int(part["first"][0]) != first:
            first = int(part["first"][0])
            earlier = texts.words(first)
        own = texts.words(int(part["ref"][0]))
        spans = verified(own, earlier, part, config.words)
        table = np.zeros(len(spans), SPAN)
        for name in ("ref", "id_hi", "id_lo"):
            table[name] = part[name][0]
        table["begin"] = [own.begins[begin] for begin, _ in spans]
        table["end"] = [own.ends[end - 1] for _, end in spans]
        tables.append(table)
    order = ["ref", "begin", "end", "id_hi", "id_lo"]
    rows.save(folders.scratch("spans", task["name"]), np.sort(np.concatenate(tables), order=order))
    return {}
