"""Which document of a cluster stays, and which of the others are near enough to it to go."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from data_engine.kernels.shingles import jaccard
from data_engine.rows import REMOVAL

Preference = Literal["longest", "best_quality", "oldest"]


def order(table: np.ndarray, preference: Preference, by_text: bool = False) -> np.ndarray:
    """Positions of narrow rows, the preferred first; ids decide ties, then refs. With by_text, within each text digest.

    table: (n,) rows.DOCUMENT. The order depends on the documents alone, not on where they stand.
    """
    preferred = {
        "longest": -table["characters"],
        "best_quality": -table["quality"],
        "oldest": table["date"],
    }[preference]
    keys = [table["ref"], table["id_lo"], table["id_hi"], preferred]
    if by_text:
        keys += [table["text_lo"], table["text_hi"]]
    return np.lexsort(keys)


def resolve(
    members: np.ndarray, preference: Preference, threshold: float, shingles_of: Callable[[int], np.ndarray]
) -> np.ndarray:
    """The removals of one connected component.

    The preferred member stays; those that reach the threshold against it go. The rest, tied to it only through
    others (a chain of pairs at 0.85 has 0.61 between its ends), is a cluster of its own, until none is left.
    members: (n,) rows.DOCUMENT; shingles_of: the ascending uint64 set of a ref. Returns (m,) rows.REMOVAL.
    """
    left = members[order(members, preference)]
    removals = []
    while left.size > 1:
        survivor = left[0]
        own = shingles_of(int(survivor["ref"]))
        similarity = np.array([jaccard(own, shingles_of(int(ref))) for ref in left["ref"][1:]])
        near = similarity >= threshold
        gone = left[1:][near]
        if gone.size:
            cluster = left[[True, *near]]
            smallest = cluster[np.lexsort((cluster["id_lo"], cluster["id_hi"]))[0]]
            part = np.zeros(gone.size, REMOVAL)
            part["ref"] = gone["ref"]
            part["cluster_hi"], part["cluster_lo"] = smallest["id_hi"], smallest["id_lo"]
            part["survivor_hi"], part["survivor_lo"] = survivor["id_hi"], survivor["id_lo"]
            part["jaccard"] = similarity[near]
            part["near"] = 1
            removals.append(part)
        left = left[1:][~near]
    return np.concatenate([*removals, np.zeros(0, REMOVAL)])
