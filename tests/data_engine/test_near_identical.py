"""Near-identical texts: prefix filtering finds exactly what comparing all pairs finds."""

import random

import pytest

from data_engine.near_identical import near_identical, word_set

WORDS = [f"w{number}" for number in range(30)]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_equals_comparing_all_pairs(threshold):
    generator = random.Random(5)
    texts = [" ".join(generator.sample(WORDS, generator.randint(0, 9))) for _ in range(150)]
    others = [" ".join(generator.sample(WORDS, generator.randint(0, 9))) for _ in range(150)]

    def alike(a, b):
        union = word_set(a) | word_set(b)
        return bool(union) and len(word_set(a) & word_set(b)) / len(union) >= threshold

    expected = [any(alike(text, other) for other in others) for text in texts]
    assert near_identical(texts, others, threshold) == expected
    assert any(expected)


def test_case_and_punctuation_do_not_hide_a_copy():
    assert near_identical(["Return the SUM, always!"], ["return the sum always"], 1.0) == [True]
