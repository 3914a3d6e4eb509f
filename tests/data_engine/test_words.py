"""Counting words: scripts with and without spaces."""

import time

import pytest

from data_engine.words import count_words


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
    assert count_words(text) == words


def test_long_lines_without_words_take_linear_time():
    began = time.monotonic()
    assert count_words("-" * 2_000_000 + "x" * 2_000_000) == 1
    assert time.monotonic() - began < 5
