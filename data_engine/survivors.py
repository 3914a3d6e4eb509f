"""Which document of a cluster stays, and which of the others are near enough to it to go."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from data_engine.rows import REMOVAL, is_earlier

Preference = Literal["longest", "best_quality", "oldest"]
Similarities = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The Jaccard similarities of pairs of documents, (n,) float64, by their refs, (n,) uint64 each."""

_MOST_AHEAD = 64
_PAIRS_AT_ONCE = 1 << 20


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
    members: (n,) rows.DOCUMENT; component: (n,) numbers. All components take their turns together, and the more turns
    there are, the more of the next survivors are compared at once: that of n members none of which resembles another,
    as those around a hub, each set is loaded n / 64 times and not n times. Returns (m,) rows.REMOVAL, sorted by ref.
    """
    places = order(members, preference, component)
    left, component = members[places], component[places]
    removals = [np.zeros(0, REMOVAL)]
    ahead = 1
    while left.size:
        starts = np.flatnonzero(np.concatenate([[True], component[1:] != component[:-1]]))
        rank = np.arange(left.size) - np.repeat(starts, np.diff([*starts, left.size]))
        # each member with the first ones of its component that come before it; side by side: its set is loaded once
        first = np.where(is_earlier(left["ref"]), 0, np.minimum(rank, ahead))
        other = np.repeat(np.arange(left.size), first)
        turn = np.arange(other.size) - np.repeat(np.cumsum(first) - first, first)
        one = other - rank[other] + turn
        similarity = similarities(left["ref"][one], left["ref"][other])
        survivor = np.full(left.size, -1)
        jaccard = np.zeros(left.size)
        alike = np.flatnonzero(similarity >= threshold)
        for number in range(ahead):
            near = alike[turn[alike] == number]
            near = near[(survivor[one[near]] < 0) & (survivor[other[near]] < 0)]
            survivor[other[near]], jaccard[other[near]] = one[near], similarity[near]
        gone = survivor >= 0
        removals.append(_removals(left, gone, survivor[gone], jaccard[gone]))
        stays = ~gone & (rank >= ahead)
        left, component = left[stays], component[stays]
        ahead = max(1, min(2 * ahead, _MOST_AHEAD, _PAIRS_AT_ONCE // max(left.size, 1)))
    removed = np.concatenate(removals)
    return removed[np.argsort(removed["ref"])]


def _removals(left: np.ndarray, gone: np.ndarray, survivor: np.ndarray, jaccard: np.ndarray) -> np.ndarray:
    """rows.REMOVAL of the rows that are gone. survivor, jaccard: of each of them."""
    out = np.zeros(survivor.size, REMOVAL)
    out["ref"], out["survivor"], out["jaccard"], out["near"] = left["ref"][gone], left["ref"][survivor], jaccard, 1
    out["survivor_hi"], out["survivor_lo"] = left["id_hi"][survivor], left["id_lo"][survivor]
    # a cluster is named after the smallest id in it: that of its survivor or of one that went
    stayed, cluster = np.unique(survivor, return_inverse=True)
    rows = np.concatenate([np.flatnonzero(gone), stayed])
    of = np.concatenate([cluster, np.arange(stayed.size)])
    ranked = np.lexsort((left["id_lo"][rows], left["id_hi"][rows], of))
    smallest = left[rows[ranked[np.unique(of[ranked], return_index=True)[1]]]]
    out["cluster_hi"], out["cluster_lo"] = smallest["id_hi"][cluster], smallest["id_lo"][cluster]
    return out
