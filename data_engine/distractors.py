"""Plausible wrong descriptions: of another object, from elsewhere, of about the same length."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_engine.facts import Fact
from data_engine.near_identical import word_set
from data_engine.questions import draw

_TRIES = 300
# Functions and methods are described alike, in the imperative.
_MANNER = {"method": "function"}


class Distractors:
    """Draws wrong descriptions for facts out of a pool.

    A wrong one belongs to another top-level module, its length differs by at most `length_ratio`, and it shares few
    words with the right one (Jaccard below 0.5). The relation is symmetric, so each description is drawn as wrong about
    as often as it stands as right: which of two descriptions is right cannot be told from the descriptions alone.
    """

    def __init__(self, pool: Iterable[Fact], seed: int, length_ratio: float) -> None:
        self.seed = seed
        self.length_ratio = length_ratio
        self.facts = sorted(pool, key=lambda fact: fact.document_id)
        self.pools: dict[str, list[Fact]] = defaultdict(list)
        for fact in self.facts:
            self.pools[fact.kind].append(fact)

    def draw(self, fact: Fact, count: int, purpose: str) -> list[str]:
        """Up to `count` different descriptions of objects of the same kind; fewer when the pool has no more."""
        found: list[str] = []
        for other in self._shuffled(self.pools[fact.kind], fact, purpose):
            if other.description not in found and self._plausible(fact, other):
                found.append(other.description)
                if len(found) == count:
                    break
        return found

    def partners(self, fact: Fact, purpose: str) -> Iterator[Fact]:
        """Facts of another kind whose descriptions could stand for each other's, in an order drawn for `fact`.

        A class is described in other ways than a function, so a small model can learn which description a question
        asks for; within a kind it would have to know the library. Used in both directions, a pair of facts tells
        nothing by its descriptions alone.
        """
        for other in self._shuffled(self.facts, fact, purpose):
            if _manner(other) != _manner(fact) and self._plausible(fact, other):
                yield other

    def _shuffled(self, pool: Sequence[Fact], fact: Fact, purpose: str) -> Iterator[Fact]:
        order = np.random.default_rng(draw(self.seed, purpose, fact.document_id)).permutation(len(pool))[:_TRIES]
        return (pool[int(number)] for number in order)

    def _plausible(self, fact: Fact, other: Fact) -> bool:
        short, long = sorted((len(fact.description), len(other.description)))
        if long > self.length_ratio * short or _top(fact) == _top(other):
            return False
        words, other_words = word_set(fact.description), word_set(other.description)
        return 2 * len(words & other_words) < len(words | other_words)


def _manner(fact: Fact) -> str:
    return _MANNER.get(fact.kind, fact.kind)


def _top(fact: Fact) -> str:
    return fact.module.partition(".")[0]
