"""Pairs of short texts with nearly the same words, found exactly by prefix filtering."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import ceil

_WORD = re.compile(r"\w+")


def word_set(text: str) -> frozenset[str]:
    """Lower-case words of a text."""
    return frozenset(_WORD.findall(text.lower()))


def near_identical(texts: Sequence[str], others: Sequence[str], threshold: float) -> list[bool]:
    """For each text: does any of `others` share words with Jaccard similarity >= threshold?

    Prefix filtering (Bayardo et al. 2007, "Scaling up all pairs similarity search"): with words sorted from rare to
    frequent, sets A and B of that similarity share a word among the first |A| - ceil(threshold |A|) + 1 of A and
    likewise of B. So only few pairs are compared and none is missed. Texts without words are never alike.
    """
    sets, other_sets = [word_set(text) for text in texts], [word_set(text) for text in others]
    frequency = Counter(word for words in (*sets, *other_sets) for word in words)

    def prefix(words: frozenset[str]) -> list[str]:
        ranked = sorted(words, key=lambda word: (frequency[word], word))
        return ranked[: len(ranked) - ceil(threshold * len(ranked)) + 1]

    holders: dict[str, list[int]] = defaultdict(list)
    for number, words in enumerate(other_sets):
        for word in prefix(words):
            holders[word].append(number)
    result = []
    for words in sets:
        candidates = {number for word in prefix(words) for number in holders[word]}
        result.append(any(_jaccard(words, other_sets[number]) >= threshold for number in candidates))
    return result


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    union = len(a | b)
    return len(a & b) / union if union else 0.0
