"""Candidate pairs: documents that share a band of their signatures."""

import numpy as np

from data_engine.rows import PAIR


def find_pairs(bands: np.ndarray, all_pairs_up_to: int, anchors: int) -> tuple[np.ndarray, int]:
    """The distinct pairs of documents that share a bucket, and how many pairs of large buckets were left out.

    bands: (n,) rows.BAND, every row of some range of keys. A bucket of at most `all_pairs_up_to` documents gives all
    its pairs; a larger one pairs each document with the `anchors` smallest ids, so that its pairs grow with its size,
    not with its square. Returns (m,) rows.PAIR, the smaller id first, sorted.
    """
    ranked = bands[np.lexsort((bands["ref"], bands["id_lo"], bands["id_hi"], bands["key"]))]
    if ranked.size < 2:
        return np.zeros(0, PAIR), 0
    starts = np.flatnonzero(np.concatenate([[True], ranked["key"][1:] != ranked["key"][:-1]]))
    sizes = np.diff(np.concatenate([starts, [ranked.size]]))
    ref = ranked["ref"]
    ones, others, skipped = [], [], 0
    for size in np.unique(sizes[sizes > 1]):
        # all buckets of one size at a time: (buckets, size) refs, ids ascending
        members = ref[starts[sizes == size][:, None] + np.arange(size)]
        if size > all_pairs_up_to:
            one = np.repeat(np.arange(anchors), size)
            other = np.tile(np.arange(size), anchors)
            one, other = one[other > one], other[other > one]
            skipped += (int(size) * (int(size) - 1) // 2 - one.size) * members.shape[0]
        else:
            one, other = np.triu_indices(size, 1)
        ones.append(members[:, one].ravel())
        others.append(members[:, other].ravel())
    pairs = np.zeros(sum(part.size for part in ones), PAIR)
    if pairs.size:
        pairs["one"], pairs["other"] = np.concatenate(ones), np.concatenate(others)
    return np.unique(pairs), skipped
