"""Counting words against a regular expression: scripts with and without spaces."""

import re
import time
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.words import count_words
from tests.data_engine.texts import ADVERSARIAL

UNSPACED = (
    "\u0e01-\u0e2e\u0e81-\u0eae\u1000-\u102a\u1780-\u17a2\u3041-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
MARKS = "".join(chr(point) for point in range(0x300, 0x20000) if unicodedata.category(chr(point)) in ("Mn", "Mc"))
LETTER = f"[^\\W{UNSPACED}]"
WORD = re.compile(f"[{UNSPACED}]|{LETTER}+(?:[{MARKS}]+{LETTER}*)*")


def reference(text):
    return sum(1 for _ in WORD.finditer(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("one", 1),
        ("It's two-part, isn't it?", 7),
        ("snake_case 3.14 --- ...", 3),
        ("हिन्दी में लिखा", 3),  # vowel signs do not cut a word
        ("naïve cafe\u0301", 2),  # a combining accent neither
        ("Привет, мир!", 2),
        ("漢字と仮名", 5),
        ("Python は言語", 4),
        ("ภาษาไทย", 6),  # consonants; the sign over them does not count
        ("שלום עולם", 2),
        ("🎉 🎉", 0),
    ],
)
def test_words(text, words):
    assert reference(text) == words
    assert count_words(pa.array([text])).tolist() == [words]


@given(st.lists(st.text(st.sampled_from("ab_1 -'字กั\u0301\u093fहあ🎉\U00020001½²")) | st.text(), max_size=5))
def test_kernel_counts_what_the_expression_finds(texts):
    texts = [*texts, *ADVERSARIAL[:3]]
    assert count_words(pa.array(texts, pa.large_string())).tolist() == list(map(reference, texts))


def test_adversarial_texts():
    assert count_words(pa.array(ADVERSARIAL)).tolist() == list(map(reference, ADVERSARIAL))


def test_long_lines_without_words_take_linear_time():
    count_words(pa.array([""]))
    began = time.monotonic()
    assert count_words(pa.array(["-" * 2_000_000 + "x" * 2_000_000])).tolist() == [1]
    assert time.monotonic() - began < 5
