"""Which document of a cluster stays, and which of the others are near enough to it to go."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from data_engine.rows import REMOVAL, is_earlier

Preference = Literal["longest", "best_quality", "oldest"]
Similarities = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The Jaccard similarities of pairs of documents, (n,) float64, by their refs, (n,) uint64 each."""


def order(table: np.ndarray, preference: Preference, *groups: np.ndarray) -> np.ndarray:
    """Positions of narrow rows by `groups` (the first one decides first), in each group the preferred document first.

    table: (n,) rows.DOCUMENT. Documents of earlier artifacts come before all others; ids decide ties, then refs: the
    order depends on the documents alone, not on where they stand.
    """
    preferred = {
        "longest": -table["characters"],
        "best_quality": -table["quality"],
        "oldest": table["date"],
    }[preference]
    earlier = is_earlier(table["ref"])
    return np.lexsort((table["ref"], table["id_lo"], table["id_hi"], preferred, ~earlier, *reversed(groups)))


def resolve(
    members: np.ndarray, component: np.ndarray, preference: Preference, threshold: float, similarities: Similarities
) -> np.ndarray:
    """The removals of connected components.

    In each, the preferred member stays; those that reach the threshold against it go. The rest, tied to it only through
    others (a chain of pairs at 0.85 has 0.61 between its ends), is a cluster of its own, until none is left.
    members: (n,) rows.DOCUMENT; component: (n,) numbers. All components take their turns together, so that the pairs
    of a turn are compared in one call. Returns (m,) rows.REMOVAL, sorted by ref.
    """
    places = order(members, preference, component)
    left, component = members[places], component[places]
    removals = [np.zeros(0, REMOVAL)]
    while left.size:
        first = np.concatenate([[True], component[1:] != component[:-1]])
        cluster = np.cumsum(first) - 1
        survivor = left[first][cluster]
        compared = np.flatnonzero(~first & ~is_earlier(left["ref"]))
        similarity = similarities(survivor["ref"][compared], left["ref"][compared])
        gone = compared[similarity >= threshold]
        if gone.size:
            part = np.zeros(gone.size, REMOVAL)
            part["ref"] = left["ref"][gone]
            part["survivor"] = survivor["ref"][gone]
            part["survivor_hi"], part["survivor_lo"] = survivor["id_hi"][gone], survivor["id_lo"][gone]
            smallest = _smallest_ids(left, cluster, np.concatenate([np.flatnonzero(first), gone]))
            part["cluster_hi"], part["cluster_lo"] = smallest["id_hi"][cluster[gone]], smallest["id_lo"][cluster[gone]]
            part["jaccard"] = similarity[similarity >= threshold]
            part["near"] = 1
            removals.append(part)
        stays = ~first
        stays[gone] = False
        left, component = left[stays], component[stays]
    removed = np.concatenate(removals)
    return removed[np.argsort(removed["ref"])]


def _smallest_ids(left: np.ndarray, cluster: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Of the chosen rows, the one with the smallest id in each cluster. Every cluster has a chosen row."""
    ranked = chosen[np.lexsort((left["id_lo"][chosen], left["id_hi"][chosen], cluster[chosen]))]
    first = np.concatenate([[True], cluster[ranked][1:] != cluster[ranked][:-1]])
    return left[ranked[first]]
