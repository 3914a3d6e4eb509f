"""Candidate pairs: documents that share a band of their signatures."""

import numpy as np

from data_engine.rows import PAIR, is_earlier


def find_pairs(bands: np.ndarray, all_pairs_up_to: int, anchors: int) -> tuple[np.ndarray, int]:
    """The distinct pairs of documents that share a bucket, and how many pairs of large buckets were left out.

    bands: (n,) rows.BAND, every row of some range of keys. A bucket of at most `all_pairs_up_to` documents gives all
    its pairs; a larger one pairs each document with the `anchors` first, so that its pairs grow with its size, not
    with its square. First are documents of earlier artifacts, then those with the smallest ids. Two earlier documents
    are no pair. Returns (m,) rows.PAIR: the one that comes first is `one`, unless it is an earlier document; sorted.
    """
    ranked = _buckets(bands)
    if not ranked.size:
        return np.zeros(0, PAIR), 0
    starts = np.flatnonzero(np.concatenate([[True], ranked["key"][1:] != ranked["key"][:-1]]))
    sizes = np.diff(np.concatenate([starts, [ranked.size]]))
    ref = ranked["ref"]
    ones, others, skipped = [], [], 0
    for size in np.unique(sizes):
        # all buckets of one size at a time: (buckets, size) refs
        members = ref[starts[sizes == size][:, None] + np.arange(size)]
        if size > all_pairs_up_to:
            one = np.repeat(np.arange(anchors), size)
            other = np.tile(np.arange(size), anchors)
            one, other = one[other > one], other[other > one]
            held = is_earlier(members).sum(axis=1)
            among = np.minimum(held, anchors)
            considered = one.size - (among * (held - 1) - among * (among - 1) // 2)
            skipped += int((size * (size - 1) // 2 - held * (held - 1) // 2 - considered).sum())
        else:
            one, other = np.triu_indices(size, 1)
        ones.append(members[:, one].ravel())
        others.append(members[:, other].ravel())
    pairs = np.zeros(sum(part.size for part in ones), PAIR)
    pairs["one"], pairs["other"] = np.concatenate(ones), np.concatenate(others)
    pairs = pairs[~is_earlier(pairs["one"]) | ~is_earlier(pairs["other"])]
    turned = is_earlier(pairs["one"])
    pairs["one"][turned], pairs["other"][turned] = pairs["other"][turned], pairs["one"][turned]
    return distinct(pairs), skipped


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
