"""How spaCy's blank English cuts words, as data for kernels.english.

`rules.json` is rendered from spaCy (tests/oracles/english_rules.py); nothing here needs spaCy.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from data_engine.kernels import english_classes as kernel
from data_engine.kernels.english import English, hash_of, pack
from data_engine.kernels.hashing import find_or_insert, table_size

_RULES = Path(__file__).parent / "rules.json"
_LAST = 0x20000
_BITS = {
    "prefix": kernel.PREFIX,
    "suffix": kernel.SUFFIX,
    "infix": kernel.INFIX,
    "letter": kernel.LETTER,
    "before_dot": kernel.BEFORE_DOT,
    "after_dot": kernel.AFTER_DOT,
    "upper": kernel.UPPER,
    "dot_suffix": kernel.DOT_SUFFIX,
    "lower": kernel.LOWER,
    "sentence_end": kernel.SENTENCE_END,
}
_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

# datatrove.utils.text.PUNCTUATION and TERMINAL_PUNCTUATION: what its filters call a symbol
_CONTROLS = [*range(9), *range(11, 13), *range(13, 32), *range(127, 160)]
_MARKS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
SYMBOLS = _MARKS + "".join(map(chr, _CONTROLS))


@cache
def rules() -> English:
    """The tables, made once in a process (about 0.2 s)."""
    found = json.loads(_RULES.read_text(encoding="utf-8"))
    classes = np.zeros(_LAST + 1, np.uint32)
    for name, pairs in found["classes"].items():
        for first, last in pairs:
            classes[first : min(last, _LAST) + 1] |= _BITS[name]
    terminals = found["terminals"]
    tests: dict[int, Callable[[str], bool]] = {
        kernel.SPACE: str.isspace,
        kernel.ASCII_DIGIT: "0123456789".__contains__,
        kernel.DIGIT: str.isdecimal,
        kernel.ALPHABETIC: str.isalpha,
        kernel.PUNCTUATION: lambda character: unicodedata.category(character)[0] == "P",
        kernel.SYMBOL: (SYMBOLS + terminals).__contains__,
        kernel.TERMINAL: terminals.__contains__,
        kernel.LINE_BREAK: _LINE_BREAKS.__contains__,
        kernel.HOST: lambda c: (c.isascii() and c.isalnum()) or "\u00a1" <= c <= "\uffff",
        kernel.SCHEME: lambda c: c.isalnum() or c in "_+-.",
    }
    for point in range(_LAST):
        character = chr(point)
        for bit, holds in tests.items():
            if holds(character):
                classes[point] |= bit
    classes[_LAST] |= kernel.ALPHABETIC | kernel.LETTER
    plain = (classes & (kernel.ALPHABETIC | kernel.LETTER)) != 0
    marks = kernel.PREFIX | kernel.SUFFIX | kernel.INFIX
    classes[~plain | ((classes & marks) != 0)] |= kernel.RULED
    return English(
        classes,
        _exceptions(found["exceptions"]),
        _exceptions(found["joined"]),
        _exceptions({text: [len(text)] for text in found["after_digits"]}),
    )


def _exceptions(pieces: Mapping[str, Sequence[int]]) -> np.ndarray:
    slots = np.full(table_size(2 * len(pieces)), -1, np.int32)
    keys = np.zeros(len(pieces), np.uint64)
    for number, text in enumerate(pieces):
        points = np.array([ord(character) for character in text], np.int32)
        key = np.uint64(hash_of(points, 0, points.size))
        find_or_insert(slots, keys, slots.size - 1, key, number)
    marks = np.zeros((3, 256), np.uint16)
    for text in pieces:
        for place, character in enumerate((text[0], text[min(1, len(text) - 1)], text[-1])):
            marks[place, min(ord(character), 255)] |= 1 << len(text)
    lengths = [len(parts) for parts in pieces.values()]
    flat = [part for parts in pieces.values() for part in parts]
    return pack(marks, slots, keys, np.cumsum([0, *lengths]).astype(np.int64), np.array(flat, np.int64))
