"""Shingle sets against Python sets; signatures against datasketch."""

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given

from data_engine import minhash
from data_engine.kernels import shingles
from tests.data_engine.test_kernels_words import reference_tokens, tokens
from tests.data_engine.texts import ADVERSARIAL, arrays, wordy_texts

WIDTH = 3


def sets(texts, width=WIDTH):
    utf8, offsets, classes, lower = arrays(texts)
    out, ends = np.empty(len(utf8) + 1, np.uint64), np.empty(len(texts), np.int64)
    shingles.shingle_sets(utf8, offsets, classes, lower, width, out, ends)
    return out, ends


def split(out, ends):
    return [out[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def reference(text, width=WIDTH):
    words = reference_tokens(text)
    size = min(width, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if size else set()


def check(texts):
    parts = split(*sets(texts))
    expected = [reference(text) for text in texts]
    for part, own in zip(parts, expected, strict=True):
        assert len(part) == len(own)
        assert (part[1:] > part[:-1]).all()
    for one, a in zip(parts, expected, strict=True):
        for other, b in zip(parts, expected, strict=True):
            union = len(a | b)
            assert shingles.jaccard(one, other) == pytest.approx(len(a & b) / union if union else 0)


def test_shingle_sets_equal_the_reference_on_adversarial_text():
    check(ADVERSARIAL)


@given(wordy_texts)
def test_shingle_sets_equal_the_reference_on_random_text(texts):
    check(texts)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_signatures_are_those_of_datasketch(seed):
    texts = [f"document {n} says " + " ".join(f"w{(n * i) % 50}" for i in range(200)) for n in range(5)]
    out, ends = sets([*texts, ""])
    a, b = minhash.permutations(112, seed)
    signatures = np.empty((6, 112), np.uint32)
    shingles.minhash(out, ends, a, b, signatures)
    for part, signature in zip(split(out, ends), signatures, strict=True):
        theirs = MinHash(num_perm=112, seed=seed, hashfunc=lambda h: h)
        for h in part:
            theirs.update(int(h) & 0xFFFFFFFF)
        np.testing.assert_array_equal(signature, theirs.hashvalues)


def test_estimates_stay_within_three_sigma_of_true_similarity():
    rng = np.random.default_rng(0)
    a, b = minhash.permutations(112, 0)
    errors = []
    for _ in range(300):
        size, shared = 400, rng.integers(50, 390)
        pool = rng.integers(0, 1 << 63, 2 * size - shared, dtype=np.uint64)
        pair = [np.sort(pool[:size]), np.sort(pool[size - shared :])]
        true = shingles.jaccard(*pair)
        signatures = np.empty((2, 112), np.uint32)
        shingles.minhash(np.concatenate(pair), np.array([size, 2 * size]), a, b, signatures)
        sigma = np.sqrt(true * (1 - true) / 112)
        errors.append(((signatures[0] == signatures[1]).mean() - true) / sigma)
    assert np.abs(errors).max() < 4.5
    assert np.mean(np.abs(errors) < 3) > 0.98
    assert abs(np.mean(errors)) < 0.25


def test_band_keys_differ_between_bands_and_agree_within():
    signatures = np.zeros((2, 16), np.uint32)
    signatures[1, 8:] = 1
    keys = np.empty((2, 2), np.uint64)
    shingles.band_keys(signatures, 2, 8, keys)
    assert keys[0, 0] == keys[1, 0]
    assert keys[0, 1] != keys[1, 1]
    assert keys[0, 0] != keys[0, 1]  # equal rows in another band are no match


def test_case_and_punctuation_make_no_difference():
    one, two = split(*sets(["The quick, brown fox!", "the QUICK brown fox"]))
    assert one.tolist() == two.tolist()
    assert len(tokens("The quick, brown fox!")) == 4
