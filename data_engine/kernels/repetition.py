"""How much of a document is repetition of itself: word n-grams, as the Gopher rules count them."""

import numba
import numpy as np

from data_engine.kernels.hashing import find_or_insert, finish, table_size
from data_engine.kernels.words import CHARACTERS_PER_UNSPACED_WORD, split_words

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
COLUMNS = (*(f"top_{n}_gram" for n in TOP), *(f"duplicate_{n}_gram" for n in DUPLICATE))
"""Columns of `repetition`, all shares of the document's characters outside white space.

top_n_gram: count times length of the n-gram that covers most among those that are most frequent; 0 when each occurs
once. duplicate_n_gram: characters in any n-gram that occurs more than once, overlaps counted once. This is the
reading of Rae et al. 2021 (arXiv:2112.11446, appendix A) that DCLM and RedPajama share. n counts words; in a document
mostly of an unspaced script it counts pairs of characters.
"""


@numba.njit(nogil=True, cache=True)
def repetition(
    utf8: np.ndarray, offsets: np.ndarray, classes: np.ndarray, unspaced: np.ndarray, out: np.ndarray
) -> None:
    """unspaced: (n,) share of letters of unspaced scripts; out: (n, len(COLUMNS)) float64."""
    longest = 0
    for document in range(offsets.size - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    hashes = np.empty(longest + 1, np.uint64)
    lengths = np.empty(longest + 1, np.int32)
    upto = np.empty(longest + 2, np.int64)
    grams = np.empty(longest + 1, np.uint64)
    places = np.empty(longest + 1, np.int32)
    keys = np.empty(longest + 1, np.uint64)
    counts = np.empty(longest + 1, np.int32)
    first_of = np.empty(longest + 1, np.int32)
    slots = np.empty(table_size(longest + 1), np.int32)
    for document in range(offsets.size - 1):
        row = out[document]
        row[:] = 0.0
        words = split_words(utf8, offsets[document], offsets[document + 1], classes, hashes, lengths)
        upto[0] = 0
        for word in range(words):
            upto[word + 1] = upto[word] + lengths[word]
            grams[word] = hashes[word]
            places[word] = word
        characters = upto[words]
        if not characters:
            continue
        factor = CHARACTERS_PER_UNSPACED_WORD if unspaced[document] > 0.5 else 1
        width = 1
        left = words
        for n in range(TOP[0], DUPLICATE[-1] + 1):
            # grams[i] is the hash of the words from places[i] on, grown by one word for each width
            while width < n * factor:
                width += 1
                while left and places[left - 1] + width > words:
                    left -= 1
                for gram in range(left):
                    grams[gram] = finish(grams[gram] * np.uint64(3) + hashes[places[gram] + width - 1])
            size = table_size(left)
            slots[:size] = -1
            for gram in range(left):
                first = find_or_insert(slots, keys, size - 1, grams[gram], gram)
                first_of[gram] = first
                if first == gram:
                    counts[gram] = 1
                else:
                    counts[first] += 1
            if n <= TOP[-1]:
                row[n - TOP[0]] = _top(left, width, places, upto, counts, first_of) / characters
            else:
                row[n - TOP[0]] = _covered(left, width, places, upto, counts, first_of) / characters
            # a longer n-gram that occurs twice holds two that do: the one at its place and the one at the next
            again = 0
            for gram in range(left - 1):
                if (
                    counts[first_of[gram]] > 1
                    and counts[first_of[gram + 1]] > 1
                    and places[gram + 1] == places[gram] + 1
                ):
                    grams[again], places[again] = grams[gram], places[gram]
                    again += 1
            left = again
            if not left:
                break


@numba.njit(nogil=True, cache=True)
def _top(grams: int, width: int, places: np.ndarray, upto: np.ndarray, counts: np.ndarray, first_of: np.ndarray) -> int:
    most = covered = 0
    for gram in range(grams):
        if first_of[gram] == gram and counts[gram] > 1:
            share = counts[gram] * (upto[places[gram] + width] - upto[places[gram]])
            if counts[gram] > most or (counts[gram] == most and share > covered):
                most, covered = counts[gram], share
    return covered


@numba.njit(nogil=True, cache=True)
def _covered(
    grams: int, width: int, places: np.ndarray, upto: np.ndarray, counts: np.ndarray, first_of: np.ndarray
) -> int:
    covered = until = 0
    for gram in range(grams):
        if counts[first_of[gram]] > 1:
            end = places[gram] + width
            covered += upto[end] - upto[max(until, places[gram])]
            until = end
    return covered
