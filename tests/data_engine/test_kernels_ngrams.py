"""n-grams in buffers against Python lists of words; a hash that lies must not make a match."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from data_engine.kernels import hashing, ngrams
from tests.data_engine.test_kernels_words import reference_tokens, tokens
from tests.data_engine.texts import ADVERSARIAL, arrays, random_texts, wordy_texts


def located(texts):
    """utf8, hashes, begins, ends, bounds of all texts."""
    utf8, offsets, classes, lower = arrays(texts)
    hashes, begins, ends = np.empty(utf8.size, np.uint64), np.empty(utf8.size, np.int64), np.empty(utf8.size, np.int64)
    bounds = np.empty(len(texts) + 1, np.int64)
    ngrams.locate_all(utf8, offsets, classes, lower, hashes, begins, ends, bounds)
    return utf8, hashes, begins, ends, bounds


@given(random_texts)
@example(ADVERSARIAL)
def test_located_words_are_the_tokens_and_their_bytes_hold_them(texts):
    for text in texts:
        utf8, hashes, begins, ends, bounds = located(["before ", text])
        assert hashes[bounds[1] : bounds[2]].tolist() == tokens(text)
        words = [bytes(utf8[begins[at] : ends[at]]).decode() for at in range(bounds[1], bounds[2])]
        assert [reference_tokens(word) for word in words] == [[word] for word in reference_tokens(text)]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.integers(1, 12))
def test_rolled_hashes_equal_the_sum_they_stand_for(words, length):
    out = np.zeros(len(words) + 1, np.uint64)
    base = int(ngrams.BASE)
    windows = ngrams.roll(np.array(words, np.uint64), len(words), length, ngrams.BASE, out)
    expected = [
        int(hashing.finish(np.uint64(length ^ sum(w * base ** (length - 1 - i) for i, w in enumerate(window)) % 2**64)))
        for window in (words[at : at + length] for at in range(len(words) - length + 1))
    ]
    assert out[:windows].tolist() == expected


@given(st.text(st.sampled_from("aAbBßİé字. "), max_size=12), st.text(st.sampled_from("aAbBßİé字. "), max_size=12))
def test_same_words_are_equal_lists_of_words(one, other):
    a, b = located([one]), located([other])
    if a[4][1] == b[4][1]:
        _, lower = arrays([""])[2:]
        size = a[4][1]
        same = ngrams.same_words(a[0], a[2][:size], a[3][:size], b[0], b[2][:size], b[3][:size], lower)
        assert same == (reference_tokens(one) == reference_tokens(other))


def search(texts, listed, keys=None):
    """Hits of the n-grams `listed` (tuples of words) as (text, n-gram, first word, the bytes there)."""
    own_utf8, hashes, begins, ends, bounds = located([" ".join(ngram) for ngram in listed])
    lengths = np.diff(bounds)
    if keys is None:
        keys = np.empty(len(listed), np.uint64)
        for number, length in enumerate(lengths):
            ngrams.roll(hashes[bounds[number] :], length, length, ngrams.BASE, keys[number : number + 1])
    slots = np.full(hashing.table_size(len(listed)), -1, np.int32)
    ngrams.fill_table(slots, keys)
    utf8, offsets, classes, lower = arrays(texts)
    hits = np.empty((10_000, 5), np.int64)
    found = ngrams.find_ngrams(
        *(utf8, offsets, classes, lower, np.unique(lengths), slots, keys, lengths.astype(np.int32), bounds[:-1]),
        *(own_utf8, begins, ends, hits),
    )
    return [
        (int(d), int(n), int(w), bytes(utf8[offsets[d] + begin : offsets[d] + end]).decode())
        for d, n, w, begin, end in hits[:found]
    ], keys


def reference_search(texts, listed):
    return {
        (number, ngram, at)
        for number, text in enumerate(texts)
        for ngram, words in enumerate(listed)
        for at in range(len(reference_tokens(text)) - len(words) + 1)
        if reference_tokens(text)[at : at + len(words)] == list(words)
    }


@given(
    wordy_texts,
    st.sets(
        st.lists(st.sampled_from(["a", "bb", "cc", "字", "d", "e"]), min_size=2, max_size=4).map(tuple),
        min_size=1,
        max_size=6,
    ),
)
def test_found_ngrams_equal_brute_force(texts, listed):
    listed = sorted(listed)
    hits, _ = search(texts, listed)
    assert {hit[:3] for hit in hits} == reference_search(texts, listed)
    assert len(hits) == len({hit[:3] for hit in hits})
    for _, ngram, _, text in hits:
        assert reference_tokens(text) == list(listed[ngram])


def test_adversarial_texts_hold_their_own_ngrams():
    texts = [text for text in ADVERSARIAL if 3 <= len(reference_tokens(text)) < 500]
    listed = sorted({tuple(reference_tokens(text)[:3]) for text in texts})
    hits, _ = search(texts, listed)
    assert {hit[:3] for hit in hits} == reference_search(texts, listed)


def test_equal_hashes_of_other_words_are_no_match():
    text = ["one two three", "four five six"]
    listed = [("one", "two", "three"), ("four", "five", "six"), ("seven", "eight", "nine")]
    _, keys = search(text, listed)
    lying = np.array([keys[0], keys[0], keys[0]])  # all hash like the first: only its own words may match
    assert [hit[:2] for hit in search(text, listed, lying)[0]] == [(0, 0)]
    rotated = lying[[0]].repeat(3)
    reversed_list = listed[::-1]  # the right one is behind two others in the same chain
    assert [hit[:2] for hit in search(text, reversed_list, rotated)[0]] == [(0, 2)]


def test_hits_beyond_the_capacity_are_counted():
    own_utf8, hashes, begins, ends, _ = located(["a b"])
    keys = np.empty(1, np.uint64)
    ngrams.roll(hashes, 2, 2, ngrams.BASE, keys)
    slots = np.full(16, -1, np.int32)
    ngrams.fill_table(slots, keys)
    utf8, offsets, classes, lower = arrays(["a b " * 10])
    hits = np.empty((3, 5), np.int64)
    arguments = (utf8, offsets, classes, lower, np.array([2]), slots, keys, np.array([2], np.int32), np.array([0]))
    assert ngrams.find_ngrams(*arguments, own_utf8, begins, ends, hits) == 10
    assert hits[:, 2].tolist() == [0, 2, 4]
