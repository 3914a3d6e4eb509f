"""n-gram repetition against sets and Counters, and against the values that DCLM and RedPajama give."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given

from data_engine.kernels import repetition, words
from tests.data_engine.test_kernels_words import pieces
from tests.data_engine.texts import ADVERSARIAL, arrays, wordy_texts


def measure(texts):
    utf8, offsets, classes, _ = arrays(texts)
    statistics = np.empty((len(texts), len(words.COLUMNS)))
    words.word_statistics(utf8, offsets, classes, statistics)
    out = np.empty((len(texts), len(repetition.COLUMNS)))
    unspaced = statistics[:, words.COLUMNS.index("unspaced")].copy()
    repetition.repetition(utf8, offsets, classes, unspaced, out)
    return out, unspaced


def reference(text, unspaced):
    stream = [word for word, _, _ in pieces(text)]
    total = sum(map(len, stream))
    factor = 2 if unspaced > 0.5 else 1
    row = []
    for n in (*repetition.TOP, *repetition.DUPLICATE):
        width = n * factor
        grams = [tuple(stream[i : i + width]) for i in range(len(stream) - width + 1)]
        counts = Counter(grams)
        most = max(counts.values(), default=0)
        if most < 2:
            row.append(0.0)
        elif n in repetition.TOP:
            row.append(max(most * sum(map(len, gram)) for gram, count in counts.items() if count == most) / total)
        else:
            covered = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(width)}
            row.append(sum(len(stream[i]) for i in covered) / total)
    return row


# sections V1 to V4 of the comparison of public implementations: the values of DCLM / datamap-rs (and RedPajama)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am Frank, I am Frank, I am Frank", {2: 0.3462, 3: 0.6923, 4: 0.8462, 5: 0.8077, 8: 0}),
        (
            "the quick brown fox jumps over the lazy dog the quick brown fox jumps over the lazy cat",
            {2: 0.2857, 3: 0.3714, 4: 0.5143, 5: 0.9143, 8: 0.9143},
        ),
        ("one two three four five six seven eight nine ten eleven twelve", {2: 0, 3: 0, 4: 0, 5: 0, 8: 0}),
        ("a b c d e a b c d e a b c d e", {2: 0.4, 3: 0.6, 4: 0.8, 5: 1, 8: 1}),
    ],
)
def test_published_vectors(text, expected):
    row = measure([text])[0][0]
    assert {n: round(row[n - 2], 4) for n in expected} == expected


def test_repetition_equals_the_reference_on_adversarial_text():
    found, unspaced = measure(ADVERSARIAL)
    for text, row, share in zip(ADVERSARIAL, found, unspaced, strict=True):
        np.testing.assert_allclose(row, reference(text, share), err_msg=text[:40])


@given(wordy_texts)
def test_repetition_equals_the_reference_on_random_text(texts):
    found, unspaced = measure(texts)
    np.testing.assert_allclose(found, [reference(text, share) for text, share in zip(texts, unspaced, strict=True)])
