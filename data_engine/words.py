"""Counting words of any language, for figures such as tokens per word."""

import re
import unicodedata

# Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    "\u0e01-\u0e2e\u0e81-\u0eae\u1000-\u102a\u1780-\u17a2\u3041-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Vowel signs and accents that follow a letter: `\w` leaves them out and would cut a Hindi word in three.
_MARKS = "".join(chr(point) for point in range(0x300, 0x20000) if unicodedata.category(chr(point)) in ("Mn", "Mc"))
_LETTER = f"[^\\W{_UNSPACED}]"
_WORD = re.compile(f"[{_UNSPACED}]|{_LETTER}+(?:[{_MARKS}]+{_LETTER}*)*")


def count_words(text: str) -> int:
    """Maximal runs of letters, digits and underscores; letters of scripts without spaces count one by one."""
    return sum(1 for _ in _WORD.finditer(text))
