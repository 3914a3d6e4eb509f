"""Words between spaces: their number, lengths and kinds, and the word hashes that repetition is measured on."""

from typing import Any

import numba
import numpy as np

from data_engine.kernels.hashing import SEED, finish, step, step_or_begin
from data_engine.kernels.unicode import (
    ALPHA,
    ASCII_WORD,
    LETTERLIKE,
    SPACE,
    UNSPACED,
    decode,
    entry,
    is_letter,
    is_printed,
)

COLUMNS = (
    "characters",
    "words",
    "mean_word_length",
    "hash_per_word",
    "ellipsis_per_word",
    "alphabetic_words",
    "unspaced",
    "tokens",
)
"""Columns of `word_statistics`.

characters: code points. words: words with a letter, digit or mark, that is, words that are not pure punctuation.
mean_word_length: code points per such word, NaN where most letters are of an unspaced script. hash_per_word and
ellipsis_per_word: '#', and '...' or '…', per word of any kind. alphabetic_words: share of all words that hold a
letter. unspaced: share of letters that belong to scripts written without spaces. tokens: runs of letters and digits,
and runs of other marks, as tokenisers cut them: 'f(x).' is four, where it is one word.
"""

CHARACTERS_PER_UNSPACED_WORD = 2
"""Thai, Lao, Khmer, Burmese, Chinese and Japanese put no spaces between words: there, one character is one token of
the stream and counts as half a word (the mean word of running Chinese and Japanese text has about two characters)."""

_ELLIPSIS = 0x2026


@numba.njit(nogil=True, cache=True)
def split_words(
    utf8: np.ndarray, start: int, end: int, classes: np.ndarray, hashes: np.ndarray, lengths: np.ndarray
) -> int:
    """Fill hashes and lengths (code points) of the words in bytes start..end; returns how many there are.

    A word is a maximal run without white space; each character of an unspaced script is a word of its own.
    hashes: uint64, lengths: int32, both at least end - start long.
    """
    count = 0
    state = SEED
    length = 0
    at = start
    while at < end:
        begin = at
        while at < end and is_printed(utf8[at]):
            state = step(state, utf8[at])
            at += 1
        length += at - begin
        if at == end:
            break
        point, following = decode(utf8, at, end)
        kind = classes[entry(point)]
        alone = kind & UNSPACED != 0
        if length and (alone or kind & SPACE):
            hashes[count] = finish(state)
            lengths[count] = length
            count += 1
            state = SEED
            length = 0
        if alone:
            hashes[count] = finish(step(SEED, point))
            lengths[count] = 1
            count += 1
        elif not kind & SPACE:
            state = step(state, point)
            length += 1
        at = following
    if length:
        hashes[count] = finish(state)
        lengths[count] = length
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def word_statistics(utf8: np.ndarray, offsets: np.ndarray, classes: np.ndarray, out: np.ndarray) -> None:
    """One pass over each document. utf8: (bytes,) uint8; offsets: (n + 1,) int64; out: (n, len(COLUMNS)) float64."""
    for document in range(offsets.size - 1):
        end = offsets[document + 1]
        characters = letters = unspaced = spaced_words = plain = plain_length = alphabetic = hashes = ellipses = 0
        dots = 0
        length = 0
        tokens = before = 0
        has_letter = has_letterlike = glued = False
        at = offsets[document]
        while True:
            begin = at
            while at < end and is_letter(utf8[at]):
                at += 1
            if at > begin:
                characters += at - begin
                letters += at - begin
                length += at - begin
                has_letter = has_letterlike = True
                tokens += before != 1
                before = 1
                dots = 0
            if at < end:
                point, at = decode(utf8, at, end)
                kind = np.int64(classes[entry(point)])
                characters += 1
                ends_word = kind & (SPACE | UNSPACED) != 0
            else:
                point, kind, ends_word = 0, np.int64(0), True
            dots = dots + 1 if point == ord(".") else 0
            if dots == 3:
                ellipses += 1
                dots = 0
            if point == _ELLIPSIS:
                ellipses += 1
            elif point == ord("#"):
                hashes += 1
            run = 0 if ends_word else 1 if kind & LETTERLIKE else 2
            tokens += run != 0 and run != before
            before = run
            if ends_word:
                # punctuation between characters of an unspaced script stands for no word
                if length and (has_letterlike or not (glued or kind & UNSPACED)):
                    spaced_words += 1
                    alphabetic += has_letter
                    if has_letterlike:
                        plain += 1
                        plain_length += length
                length = 0
                has_letter = has_letterlike = False
                glued = kind & UNSPACED != 0
                if kind & UNSPACED:
                    unspaced += 1
                    letters += 1
            else:
                length += 1
                if kind & ALPHA:
                    letters += 1
                    has_letter = True
                if kind & LETTERLIKE:
                    has_letterlike = True
            if point == 0 and kind == 0 and at >= end:
                break
        unspaced_words = unspaced / CHARACTERS_PER_UNSPACED_WORD
        all_words = max(spaced_words + unspaced_words, 1.0)
        row = out[document]
        row[0] = characters
        row[1] = plain + unspaced_words
        row[2] = plain_length / plain if plain and 2 * unspaced <= letters else np.nan
        row[3] = hashes / all_words
        row[4] = ellipses / all_words
        row[5] = (alphabetic + unspaced_words) / all_words
        row[6] = unspaced / letters if letters else 0.0
        row[7] = tokens + unspaced_words


@numba.njit(nogil=True, cache=True)
def split_tokens(
    utf8: np.ndarray, start: int, end: int, classes: np.ndarray, lower: np.ndarray, hashes: np.ndarray
) -> int:
    """Fill the hashes of the lower-cased tokens in bytes start..end; returns how many there are.

    A token is a maximal run of letters, digits and combining marks: punctuation and case make no difference. Each
    character of an unspaced script is a token of its own. hashes: uint64, at least end - start long.
    """
    count: Any = 0
    state = SEED
    inside = False
    at = start
    while at < end:
        byte = utf8[at]
        if byte < 0x80:
            # what is written counts only when the token ends
            unit = ASCII_WORD[byte]
            hashes[count] = state
            count += np.int64(inside) & np.int64(unit == 0)
            inside = unit != 0
            state = step_or_begin(state, unit, inside)
            at += 1
            continue
        point, at = decode(utf8, at, end)
        row = entry(point)
        kind = classes[row]
        alone = kind & UNSPACED != 0
        if inside and (alone or not kind & LETTERLIKE):
            hashes[count] = state
            count += 1
            state = SEED
            inside = False
        if alone:
            hashes[count] = step(SEED, point)
            count += 1
        elif kind & LETTERLIKE:
            state = step(state, lower[row] if point == row else point)
            inside = True
    if inside:
        hashes[count] = state
        count += 1
    for token in range(count):
        hashes[token] = finish(hashes[token])
    return count
