"""What a code point is, as tables that compiled loops can read, and UTF-8 decoding for them."""

import unicodedata
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa

SPACE, ALPHA, DIGIT, MARK, UNSPACED, TERMINAL, SYMBOL = (1 << bit for bit in range(7))
"""Bits of a class: white space, letter, number, combining mark, script written without spaces, sentence end,
punctuation or symbol or control character."""

LETTERLIKE = ALPHA | DIGIT | MARK

_LAST = 0x20000
"""Code points from here on share one entry: Han extensions are nearly all of them."""

_UNSPACED_RANGES = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
)

# Sentence_Terminal of Unicode 15 (PropList.txt) below _LAST: full stop, question and exclamation marks of all scripts.
# The list of Thai, Lao and Tibetan is empty or ambiguous there; languages.py says which rules that switches off.
SENTENCE_TERMINALS = "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"


ASCII_WORD = np.array([ord(chr(b).lower()) if b < 0x80 and chr(b).isalnum() else 0 for b in range(256)], np.uint8)
"""By byte: the lower case of an ASCII letter or digit, 0 for all others. Most text is runs of these: loops pass over
them without decoding."""


class CodePoints(NamedTuple):
    """`classes` (131073,) uint8 bits; `lower` (131073,) int32 simple lower case, the code point itself where none."""

    classes: np.ndarray
    lower: np.ndarray


@cache
def code_points() -> CodePoints:
    """The tables, made once in a process (about 0.1 s)."""
    classes = np.zeros(_LAST + 1, np.uint8)
    lower = np.arange(_LAST + 1, dtype=np.int32)
    for point in range(_LAST):
        character = chr(point)
        category = unicodedata.category(character)
        if character.isspace():
            classes[point] = SPACE
            continue
        if category[0] == "L":
            classes[point] = ALPHA
            lowered = character.lower()
            if len(lowered) == 1:
                lower[point] = ord(lowered)
        elif category[0] == "N":
            classes[point] = DIGIT
        elif category[0] == "M":
            classes[point] = MARK
        elif category[0] in "PSC":
            classes[point] = SYMBOL
    for first, last in _UNSPACED_RANGES:
        letters = classes[first : last + 1] & (ALPHA | MARK) != 0
        classes[first : last + 1][letters] |= UNSPACED
    for character in SENTENCE_TERMINALS:
        classes[ord(character)] |= TERMINAL
    classes[_LAST] = ALPHA | UNSPACED
    return CodePoints(classes, lower)


@numba.njit(inline="always")
def entry(point: int) -> int:
    """Row of the tables for a code point."""
    return min(point, _LAST)


@numba.njit(inline="always")
def is_letter(byte: int) -> bool:
    """Whether a byte is an ASCII letter."""
    return ord("a") <= (byte | 0x20) <= ord("z")


@numba.njit(inline="always")
def is_printed(byte: int) -> bool:
    """Whether a byte is an ASCII letter, digit, punctuation mark or symbol."""
    return 0x20 < byte < 0x7F


@numba.njit(nogil=True, cache=True)
def line_end(utf8: np.ndarray, at: int, end: int) -> tuple[int, bool]:
    """Where the line that begins at byte `at` ends, and whether all of it is ASCII."""
    every_bit = np.uint8(0)
    while at + 16 <= end:
        newline = np.uint8(0)
        bits = np.uint8(0)
        for place in range(at, at + 16):  # compiled to one comparison of 16 bytes
            newline |= np.uint8(utf8[place] == 10)
            bits |= utf8[place]
        if newline:
            break
        every_bit |= bits
        at += 16
    while at < end and utf8[at] != 10:
        every_bit |= utf8[at]
        at += 1
    return at, bool(every_bit < 0x80)


@numba.njit(nogil=True, cache=True)
def decode(utf8: np.ndarray, at: int, end: int) -> tuple[int, int]:
    """The code point that starts at byte `at`, and where the next one starts.

    A byte that starts no complete sequence before `end` counts as U+FFFD and is one byte long, so that any bytes
    are safe to read.
    """
    first = int(utf8[at])
    if first < 0x80:
        return first, at + 1
    if first < 0xC2:
        return 0xFFFD, at + 1
    if first < 0xE0:
        length, point = 2, first & 0x1F
    elif first < 0xF0:
        length, point = 3, first & 0x0F
    elif first < 0xF5:
        length, point = 4, first & 0x07
    else:
        return 0xFFFD, at + 1
    if at + length > end:
        return 0xFFFD, at + 1
    for offset in range(1, length):
        following = int(utf8[at + offset])
        if following & 0xC0 != 0x80:
            return 0xFFFD, at + 1
        point = (point << 6) | (following & 0x3F)
    return point, at + length


def buffers(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    """The bytes and offsets of Arrow strings, without a copy.

    texts: a string or large_string array (or chunked array). Returns utf8 (bytes,) uint8 and offsets (n + 1,) int64.
    Nulls count as empty.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if not pa.types.is_large_string(texts.type):
        texts = texts.cast(pa.large_string())
    if texts.null_count:
        texts = texts.fill_null("")
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if not len(texts):
        offsets = np.zeros(1, np.int64)
    utf8 = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return utf8, offsets
