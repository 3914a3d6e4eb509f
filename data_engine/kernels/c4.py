"""Line by line as C4 judges: which lines it would keep, and the sentences in them."""

from typing import Any

import numba
import numpy as np

from data_engine.kernels.unicode import ALPHA, ASCII_WORD, DIGIT, SPACE, TERMINAL, UNSPACED, decode, entry, line_end

COLUMNS = ("c4_sentences", "c4_lorem_ipsum", "c4_curly_bracket", "c4_kept_lines", "c4_policy_lines")
"""Columns of `c4_statistics`. Sentences, 'lorem ipsum' and '{' are counted in the lines that C4 keeps;
c4_kept_lines: share of lines that it keeps; c4_policy_lines: share of all lines with a phrase of cookie or privacy
notices or the word javascript."""

LOREM, JAVASCRIPT, POLICY = 1, 2, 4
_PHRASES = {
    "lorem ipsum": LOREM,
    "javascript": JAVASCRIPT,
    "terms of use": POLICY,
    "privacy policy": POLICY,
    "cookie policy": POLICY,
    "uses cookies": POLICY,
    "use of cookies": POLICY,
    "use cookies": POLICY,
}
"""Substrings of Raffel et al. 2020 and of tensorflow_datasets' c4_utils.py, matched without regard to ASCII case."""

_text = "".join(_PHRASES).encode()
PHRASE_BYTES = np.frombuffer(_text, np.uint8)
PHRASE_STARTS = np.cumsum([0, *(len(phrase) for phrase in _PHRASES)]).astype(np.int64)
PHRASE_KINDS = np.array(list(_PHRASES.values()), np.int64)
_STRIDE, _PHRASES_AT_MOST = 4, 8
PHRASE_FIRST = np.zeros((3, 256), np.uint32)
"""Bit 8 * offset + phrase: that a phrase has this letter (of either case) at `offset`, or one, or two behind it. Every
phrase is longer than _STRIDE + 2, so that to look at each fourth place of a text is enough."""
for _number, _phrase in enumerate(_PHRASES):
    for _offset in range(_STRIDE):
        for _place, _letter in enumerate(_phrase[_offset : _offset + 3]):
            for _case in {_letter, _letter.upper()}:
                PHRASE_FIRST[_place, ord(_case)] |= 1 << (_PHRASES_AT_MOST * _offset + _number)

_CLOSING = np.array([ord(c) for c in "\"'”’»)］】」』）"], np.int64)
_QUOTES = np.array([ord(c) for c in "\"'”’»」』"], np.int64)


@numba.njit(nogil=True, cache=True)
def _is_in(point: int, characters: np.ndarray) -> bool:
    for character in characters:
        if character == point:
            return True
    return False


@numba.njit(nogil=True, cache=True)
def _lower(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte


@numba.njit(nogil=True, cache=True)
def phrases_in(
    units: np.ndarray, start: int, end: int, text: np.ndarray, starts: np.ndarray, kinds: np.ndarray, first: np.ndarray
) -> int:
    """The kinds of all phrases that occur in start..end of UTF-8 bytes or code points."""
    found = 0
    for at in range(start, end - 2, _STRIDE):
        maybe = first[0, min(units[at], 255)] & first[1, min(units[at + 1], 255)] & first[2, min(units[at + 2], 255)]
        bit = 0
        while maybe >> np.uint32(bit):
            if (maybe >> np.uint32(bit)) & np.uint32(1):
                phrase, begin = bit % _PHRASES_AT_MOST, at - bit // _PHRASES_AT_MOST
                if begin >= start and _stands(units, begin, end, text, starts[phrase], starts[phrase + 1]):
                    found |= kinds[phrase]
            bit += 1
    return found


@numba.njit(nogil=True, cache=True)
def _stands(units: np.ndarray, at: int, end: int, text: np.ndarray, first: int, behind: int) -> bool:
    if at + behind - first > end:
        return False
    for place in range(first, behind):
        if _lower(units[at + place - first]) != text[place]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _without_citations(utf8: np.ndarray, start: int, end: int) -> int:
    """Where the line ends when '[12]', '[]', '[edit]' and '[citation needed]' at its end are taken off."""
    while end > start and utf8[end - 1] == 93:
        opening = end - 2
        while opening >= start and utf8[opening] != 91 and end - opening < 20:
            opening -= 1
        if opening < start or utf8[opening] != 91:
            return end
        inside = end - opening - 2
        digits = True
        for at in range(opening + 1, end - 1):
            digits = digits and 48 <= utf8[at] <= 57
        # the two words are told by their lengths and first letters
        word = (inside == 4 and utf8[opening + 1] == 101) or (inside == 15 and utf8[opening + 1] == 99)
        if not digits and not word:
            return end
        end = opening
    return end


@numba.njit(nogil=True, cache=True)
def c4_statistics(
    utf8: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    min_words: int,
    max_word_length: int,
    terminal_needed: bool,
    text: np.ndarray,
    starts: np.ndarray,
    kinds: np.ndarray,
    first: np.ndarray,
    out: np.ndarray,
) -> None:
    """utf8: (bytes,) uint8; offsets: (n + 1,) int64; the phrases as above; out: (n, len(COLUMNS)) float64.

    A line is kept when no word is longer than max_word_length, it ends with a sentence terminal or quotation mark and
    not with '...' (unless terminal_needed is off), has min_words words, and holds neither javascript nor a policy
    phrase. A character of an unspaced script counts as a word.
    """
    for document in range(offsets.size - 1):
        at, end = offsets[document], offsets[document + 1]
        sentences = lorem = curly = lines = kept = policy = 0
        while at < end:
            begin = at
            stop, _ = line_end(utf8, at, end)
            at = stop + 1
            words, longest, terminal, line_sentences = _line(utf8, begin, stop, classes)
            if not words:
                continue
            lines += 1
            found = phrases_in(utf8, begin, stop, text, starts, kinds, first)
            policy += found & (POLICY | JAVASCRIPT) != 0
            if longest > max_word_length or (terminal_needed and not terminal) or words < min_words:
                continue
            if found & LOREM:
                lorem += 1
            if found & JAVASCRIPT:
                continue
            for place in range(begin, stop):
                if utf8[place] == 123:
                    curly += 1
            if found & POLICY:
                continue
            sentences += line_sentences
            kept += 1
        row = out[document]
        row[0] = sentences
        row[1] = lorem
        row[2] = curly
        row[3] = kept / lines if lines else 0.0
        row[4] = policy / lines if lines else 0.0


@numba.njit(nogil=True, cache=True)
def _line(utf8: np.ndarray, begin: int, end: int, classes: np.ndarray) -> tuple[int, int, bool, int]:
    """Words, length of the longest word, whether it ends as a sentence does, and sentences of bytes begin..end.

    A sentence ends at a run of terminals that is followed by white space, a closing mark or the end of the line; in
    unspaced scripts by anything. What is left after the last one is a sentence when it holds a letter or digit.
    """
    while end > begin and classes[entry(np.int64(utf8[end - 1]))] & SPACE and utf8[end - 1] < 128:
        end -= 1
    end = _without_citations(utf8, begin, end)
    words = longest = length = sentences = dots = 0
    open_sentence = after_terminal = unspaced = False
    last: Any = 0
    last_kind = np.uint8(0)
    at = begin
    while at < end:
        run = at
        while at < end and ASCII_WORD[utf8[at]]:
            at += 1
        if at > run:
            sentences += after_terminal and open_sentence and unspaced
            after_terminal = unspaced = False
            open_sentence = True
            words += length == 0
            length += at - run
            longest = max(longest, length)
            dots = 0
            last, last_kind = np.int64(utf8[at - 1]), classes[utf8[at - 1]]
            if at == end:
                break
        if utf8[at] == 32:
            sentences += after_terminal and open_sentence
            open_sentence = open_sentence and not after_terminal
            after_terminal = False
            length = 0
            at += 1
            continue
        point, at = decode(utf8, at, end)
        kind = classes[entry(point)]
        if kind & TERMINAL:
            after_terminal = True
        else:
            if after_terminal and open_sentence and (kind & SPACE or _is_in(point, _CLOSING) or unspaced):
                sentences += 1
                open_sentence = False
            after_terminal = False
        if kind & (ALPHA | DIGIT):
            open_sentence = True
            unspaced = kind & UNSPACED != 0
        if kind & SPACE:
            length = 0
        elif kind & UNSPACED:
            words += 1
            length = 0
        else:
            words += length == 0
            length += 1
            longest = max(longest, length)
        if not kind & SPACE:
            dots = dots + 1 if point == 46 else 0
            last, last_kind = point, kind
    sentences += open_sentence
    terminal = (last_kind & TERMINAL != 0 or _is_in(last, _QUOTES)) and dots < 3
    return words, longest, terminal, sentences
