"""Exact duplicates: documents with the same text, found by digest range."""

import numpy as np

from data_engine.rows import REMOVAL
from data_engine.survivors import Preference, order


def find_exact(table: np.ndarray, preference: Preference) -> np.ndarray:
    """The removals among narrow rows that hold every document of some range of text digests.

    table: (n,) rows.DOCUMENT in any order. Returns (m,) rows.REMOVAL, sorted by ref; jaccard is 1.
    """
    ranked = table[order(table, preference, by_text=True)]
    if not ranked.size:
        return np.zeros(0, REMOVAL)
    starts = np.ones(ranked.size, bool)
    starts[1:] = (ranked["text_hi"][1:] != ranked["text_hi"][:-1]) | (ranked["text_lo"][1:] != ranked["text_lo"][:-1])
    first = np.flatnonzero(starts)
    group = np.cumsum(starts) - 1
    by_id = np.lexsort((ranked["id_lo"], ranked["id_hi"], group))
    smallest = ranked[by_id[first]]  # groups are as long in either order
    removed = np.flatnonzero(~starts)
    removals = np.zeros(removed.size, REMOVAL)
    removals["ref"] = ranked["ref"][removed]
    survivor, cluster = ranked[first][group[removed]], smallest[group[removed]]
    removals["survivor_hi"], removals["survivor_lo"] = survivor["id_hi"], survivor["id_lo"]
    removals["cluster_hi"], removals["cluster_lo"] = cluster["id_hi"], cluster["id_lo"]
    removals["jaccard"] = 1.0
    return np.sort(removals, order="ref")
