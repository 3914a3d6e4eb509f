"""Counting words of any language, for figures such as tokens per word."""

import sys
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa

from data_engine.kernels import word_count
from data_engine.kernels.unicode import buffers

_UNSPACED = (
    *((0x0E01, 0x0E2E), (0x0E81, 0x0EAE), (0x1000, 0x102A), (0x1780, 0x17A2)),  # Thai, Lao, Burmese, Khmer letters
    *((0x3041, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),  # kana, Han
)
_LAST_MARK = 0x20000


def count_words(texts: pa.Array) -> np.ndarray:
    """Maximal runs of letters, digits and underscores; letters of scripts without spaces count one by one.

    texts: n strings. Returns (n,) int64.
    """
    utf8, offsets = buffers(texts)
    counts = np.empty(len(texts), np.int64)
    word_count.count_words(utf8, offsets, _classes(), counts)
    return counts


@cache
def _classes() -> np.ndarray:
    """(0x110000,) uint8, made once in a process (about 0.3 s)."""
    classes = np.zeros(sys.maxunicode + 1, np.uint8)
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        if character.isalnum() or character == "_":
            classes[point] = word_count.LETTER
        # Vowel signs and accents follow a letter: without them a Hindi word would be cut in three.
        elif 0x300 <= point < _LAST_MARK and unicodedata.category(character) in ("Mn", "Mc"):
            classes[point] = word_count.MARK
    for first, last in _UNSPACED:
        classes[first : last + 1] = word_count.ALONE
    return classes
