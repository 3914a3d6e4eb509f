"""Exact duplicates: documents with the same text, found by digest range."""

import numpy as np

from data_engine.rows import REMOVAL, is_earlier
from data_engine.survivors import Preference, order


def find_exact(table: np.ndarray, preference: Preference) -> np.ndarray:
    """The removals among narrow rows that hold every document of some range of text digests.

    table: (n,) rows.DOCUMENT in any order; those of earlier artifacts come first and stay. Returns (m,) rows.REMOVAL,
    sorted by ref; jaccard is 1.
    """
    alike = table[_repeated(table["text_hi"])]
    if not alike.size:
        return np.zeros(0, REMOVAL)
    ranked = alike[order(alike, preference, alike["text_hi"], alike["text_lo"])]
    starts = np.ones(ranked.size, bool)
    starts[1:] = (ranked["text_hi"][1:] != ranked["text_hi"][:-1]) | (ranked["text_lo"][1:] != ranked["text_lo"][:-1])
    first = np.flatnonzero(starts)
    group = np.cumsum(starts) - 1
    by_id = np.lexsort((ranked["id_lo"], ranked["id_hi"], group))
    smallest = ranked[by_id[first]]  # groups are as long in either order
    removed = np.flatnonzero(~starts & ~is_earlier(ranked["ref"]))
    removals = np.zeros(removed.size, REMOVAL)
    removals["ref"] = ranked["ref"][removed]
    survivor, cluster = ranked[first][group[removed]], smallest[group[removed]]
    removals["survivor"] = survivor["ref"]
    removals["survivor_hi"], removals["survivor_lo"] = survivor["id_hi"], survivor["id_lo"]
    removals["cluster_hi"], removals["cluster_lo"] = cluster["id_hi"], cluster["id_lo"]
    removals["jaccard"] = 1.0
    return removals[np.argsort(removals["ref"])]


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Positions of the keys that occur twice or more: few, so that little is left to sort by several fields."""
    by_key = np.argsort(keys)
    ranked = keys[by_key]
    same = ranked[1:] == ranked[:-1]
    repeated = np.zeros(keys.size, bool)
    repeated[1:] |= same
    repeated[:-1] |= same
    return by_key[repeated]
