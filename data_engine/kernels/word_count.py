"""Counting words of any language, for figures such as tokens per word."""

import numba
import numpy as np

from data_engine.kernels.unicode import decode

LETTER, MARK, ALONE = 1, 2, 3
"""Classes: a letter, digit or underscore; a sign that continues a word; a letter that is a word by itself."""


@numba.njit(nogil=True, cache=True)
def count_words(utf8: np.ndarray, offsets: np.ndarray, classes: np.ndarray, out: np.ndarray) -> None:
    """Words of each document: letters standing alone, and letters with the letters and marks that follow them.

    utf8: (bytes,) uint8; offsets: (n + 1,) int64; classes: (m,) uint8 by code point, 0 for the rest; out: (n,) int64.
    """
    for document in range(offsets.size - 1):
        at, end = offsets[document], offsets[document + 1]
        words = 0
        inside = False
        while at < end:
            point, at = decode(utf8, at, end)
            kind = classes[point] if point < classes.size else 0
            if kind == ALONE:
                words += 1
                inside = False
            elif kind == LETTER:
                words += not inside
                inside = True
            elif kind != MARK:
                inside = False
        out[document] = words
