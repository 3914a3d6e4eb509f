"""Candidate pairs: documents that share a band of their signatures."""

from collections.abc import Iterator

import numpy as np

from data_engine.rows import PAIR, is_earlier

_PAIRS_AT_ONCE = 1 << 19
"""About 100 bytes each while duplicates among them are removed."""


def find_pairs(
    bands: np.ndarray, all_pairs_up_to: int, anchors: int, at_once: int = _PAIRS_AT_ONCE
) -> tuple[Iterator[np.ndarray], int]:
    """The pairs of documents that share a bucket, in batches, and how many pairs of large buckets were left out.

    bands: (n,) rows.BAND, every row of some range of keys. A bucket of at most `all_pairs_up_to` documents gives all
    its pairs; a larger one pairs each document with the `anchors` first, so that its pairs grow with its size, not
    with its square. First are documents of earlier artifacts, then those with the smallest ids. Two earlier documents
    are no pair. Each batch is (m,) rows.PAIR, m at most twice `at_once` (or `anchors`): the one that comes first is
    `one`, unless it is an earlier document; sorted, no pair twice. A pair may be in several batches.
    """
    ranked = _buckets(bands)
    starts = np.flatnonzero(np.concatenate([[True], ranked["key"][1:] != ranked["key"][:-1]])[: ranked.size])
    sizes = np.diff(np.concatenate([starts, [ranked.size]]))
    first = np.where(sizes > all_pairs_up_to, np.minimum(anchors, sizes), sizes)
    ref = np.array(ranked["ref"])
    held = np.add.reduceat(is_earlier(ref).astype(np.int64), starts) if starts.size else sizes
    every, considered = (_among(n, sizes) - _among(np.minimum(n, held), held) for n in (sizes, first))
    return _batches(_pairs(ref, starts, sizes, first, at_once), at_once), int((every - considered).sum())


def _among(first: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Of the pairs of `of` documents, how many have one of the `first` ones."""
    return first * (of - 1) - first * (first - 1) // 2


def _pairs(
    ref: np.ndarray, starts: np.ndarray, sizes: np.ndarray, first: np.ndarray, at_once: int
) -> Iterator[np.ndarray]:
    """The pairs of buckets, some at a time. first: (buckets,) each document is paired with so many first ones."""
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        limit = first[alike[0]]
        # documents that share one bucket share others: side by side, what they give twice is soon removed
        buckets = starts[alike][np.argsort(ref[starts[alike]], kind="stable")]
        width = max(1, at_once // limit)
        for begin in range(1, size, width):
            others = np.arange(begin, min(begin + width, size))
            one, other = np.nonzero(np.arange(limit)[:, None] < others)
            together = max(1, at_once // one.size)
            for some in range(0, buckets.size, together):
                places = buckets[some : some + together, None]
                pairs = np.empty(places.size * one.size, PAIR)
                pairs["one"], pairs["other"] = ref[places + one].ravel(), ref[places + others[other]].ravel()
                pairs = pairs[~is_earlier(pairs["one"]) | ~is_earlier(pairs["other"])]
                turned = is_earlier(pairs["one"])
                pairs["one"][turned], pairs["other"][turned] = pairs["other"][turned], pairs["one"][turned]
                yield pairs


def _batches(parts: Iterator[np.ndarray], at_once: int) -> Iterator[np.ndarray]:
    """Distinct pairs of as many parts as fit."""
    held = np.zeros(0, PAIR)
    waiting: list[np.ndarray] = []
    for part in parts:
        waiting.append(part)
        if held.size + sum(one.size for one in waiting) > at_once:
            held = distinct(np.concatenate([held, *waiting]))
            waiting = []
            if 2 * held.size > at_once:
                yield held
                held = np.zeros(0, PAIR)
    yield distinct(np.concatenate([held, *waiting]))


def distinct(pairs: np.ndarray) -> np.ndarray:
    """Each pair once, sorted. pairs, result: (n,) rows.PAIR."""
    ranked = pairs[np.lexsort((pairs["other"], pairs["one"]))]
    if not ranked.size:
        return ranked
    return ranked[np.concatenate([[True], ranked[1:] != ranked[:-1]])]


def _buckets(bands: np.ndarray) -> np.ndarray:
    """The rows whose key occurs twice or more, by key; within a bucket by id, then ref."""
    ranked = bands[np.argsort(bands["key"], kind="stable")]
    same = ranked["key"][1:] == ranked["key"][:-1]
    ranked = ranked[np.concatenate([same, [False]]) | np.concatenate([[False], same])] if ranked.size else ranked
    return ranked[np.lexsort((ranked["ref"], ranked["id"], ranked["key"]))]
