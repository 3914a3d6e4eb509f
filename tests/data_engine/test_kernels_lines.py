"""Line and paragraph shares against a reading with str methods."""

import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given

from data_engine.kernels import lines
from data_engine.kernels.unicode import SENTENCE_TERMINALS
from tests.data_engine.texts import ADVERSARIAL, arrays, random_texts, wordy_texts

SHORT = 5


def measure(texts):
    utf8, offsets, classes, _ = arrays(texts)
    out = np.empty((len(texts), len(lines.COLUMNS)))
    lines.line_statistics(utf8, offsets, classes, SHORT, out)
    return out


def duplicates(items, length=len):
    counts = Counter(items)
    total = sum(map(length, items))
    many = [item for item in items if counts[item] > 1]
    repeated = sum((count - 1) * length(item) for item, count in counts.items())
    return len(many) / len(items), sum(map(length, many)) / total, repeated / total


def reference(text):
    stripped = [line.strip() for line in text.split("\n")]
    found = [line for line in stripped if line]
    if not found:
        return [0, 0, 0, 0, 0, text.count("\n"), 0, 0, 0, 0, 0]
    paragraphs = [tuple(p.split("\n")) for p in re.split(r"\n\n+", "\n".join(stripped).strip("\n"))]
    share = lambda test: sum(map(bool, map(test, found))) / len(found)  # noqa: E731
    line_shares = duplicates(found)
    return [
        len(found),
        share(lambda line: line[0] in "•-*"),
        share(lambda line: line.endswith(("...", "…"))),
        share(lambda line: line[-1] in SENTENCE_TERMINALS),
        share(lambda line: len(line) <= SHORT),
        text.count("\n"),
        *line_shares,
        *duplicates(paragraphs, lambda paragraph: sum(map(len, paragraph)))[:2],
    ]


@pytest.mark.parametrize("text", ADVERSARIAL)
def test_line_statistics_equal_the_reference(text):
    np.testing.assert_allclose(measure([text])[0], reference(text))


@given(random_texts)
def test_line_statistics_equal_the_reference_on_random_text(texts):
    np.testing.assert_allclose(measure(texts), [reference(text) for text in texts])


@given(wordy_texts)
def test_repeated_lines_equal_the_reference_on_random_text(texts):
    np.testing.assert_allclose(measure(texts), [reference(text) for text in texts])


# the fractions that DCLM / datamap-rs give for duplicate lines
def test_published_vectors():
    texts = ["I am your father.\n" * 4, "alpha line one\nbeta line two\nalpha line one\ngamma line three"]
    assert measure(texts)[:, lines.COLUMNS.index("duplicate_line_fraction")].tolist() == [1.0, 0.5]


def test_sentence_terminals_are_punctuation_of_unicode():
    assert all(unicodedata.category(character) in ("Po", "Cn") for character in SENTENCE_TERMINALS)
