"""Word counts and hashes against a reading with unicodedata and str methods."""

import re
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given

from data_engine.kernels import vocabulary, words
from data_engine.kernels.unicode import buffers, code_points
from tests.data_engine.texts import ADVERSARIAL, arrays, random_texts

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO ", "MYANMAR", "KHMER", "HALFWIDTH KATAKANA", "IDEOGRAPHIC")


@cache
def unspaced(character):
    name = unicodedata.name(character, "")
    return (unicodedata.category(character)[0] in "LM" and name.startswith(UNSPACED)) or ord(character) >= 0x20000


@cache
def letterlike(character):
    return unicodedata.category(character)[0] in "LNM"


def pieces(text):
    """Spaced words and single unspaced characters, each with whether it touches an unspaced character."""
    out, word, before = [], "", False
    for character in text + " ":
        alone = unspaced(character)
        if alone or character.isspace():
            if word:
                out.append((word, False, before or alone))
            word = ""
            before = alone
            if alone:
                out.append((character, True, True))
        else:
            word += character
    return out


def shape(word):
    return "".join("L" if letterlike(character) else "P" for character in word)


def reference_statistics(text):
    parts = pieces(text)
    single = sum(alone for _, alone, _ in parts)
    spaced = [w for w, alone, glued in parts if not alone and (any(map(letterlike, w)) or not glued)]
    plain = [w for w in spaced if any(map(letterlike, w))]
    letters = sum(unicodedata.category(c)[0] == "L" and not unspaced(c) for c in text) + single
    every = max(len(spaced) + single / 2, 1)
    alphabetic = sum(any(unicodedata.category(c)[0] == "L" for c in w) for w in spaced) + single / 2
    mean = sum(map(len, plain)) / len(plain) if plain and 2 * single <= letters else np.nan
    return [
        len(text),
        len(plain) + single / 2,
        mean,
        text.count("#") / every,
        (text.count("...") + text.count("…")) / every,
        alphabetic / every,
        single / letters if letters else 0,
        sum(len(re.findall("L+|P+", shape(w))) for w, alone, _ in parts if not alone) + single / 2,
    ]


def statistics(texts):
    utf8, offsets, classes, _ = arrays(texts)
    out = np.empty((len(texts), len(words.COLUMNS)))
    words.word_statistics(utf8, offsets, classes, out)
    return out


@pytest.mark.parametrize("text", ADVERSARIAL)
def test_word_statistics_equal_the_reference(text):
    np.testing.assert_allclose(statistics([text])[0], reference_statistics(text))


@given(random_texts)
def test_word_statistics_equal_the_reference_on_random_text(texts):
    np.testing.assert_allclose(statistics(texts), [reference_statistics(text) for text in texts])


def stream(text):
    utf8, offsets, classes, _ = arrays([text])
    hashes, lengths = np.empty(len(utf8) + 1, np.uint64), np.empty(len(utf8) + 1, np.int32)
    count = words.split_words(utf8, offsets[0], offsets[1], classes, hashes, lengths)
    return hashes[:count].tolist(), lengths[:count].tolist()


def tokens(text):
    utf8, offsets, classes, lower = arrays([text])
    hashes = np.empty(len(utf8) + 1, np.uint64)
    return hashes[: words.split_tokens(utf8, offsets[0], offsets[1], classes, lower, hashes)].tolist()


def same_partition(hashes, values):
    """Equal hashes exactly where values are equal."""
    return len(set(zip(hashes, values, strict=True))) == len(set(hashes)) == len(set(values))


@given(random_texts)
@example(ADVERSARIAL)
def test_equal_words_have_equal_hashes_and_others_do_not(texts):
    for text in texts:
        expected = [word for word, _, _ in pieces(text)]
        hashes, lengths = stream(text)
        assert lengths == [len(word) for word in expected]
        assert same_partition(hashes, expected)


def reference_tokens(text):
    out, word = [], ""
    for character in text + " ":
        if unspaced(character) or not letterlike(character):
            out += [word] if word else []
            word = ""
            out += [character] if unspaced(character) else []
        else:
            word += character.lower() if len(character.lower()) == 1 else character
    return out


@given(random_texts)
@example(ADVERSARIAL)
def test_tokens_ignore_case_and_punctuation(texts):
    for text in texts:
        expected = reference_tokens(text)
        found = tokens(text)
        assert len(found) == len(expected)
        assert same_partition(found, expected)
    assert tokens("Hello, WORLD") == tokens("hello world!")


def test_python_and_compiled_hashes_of_a_word_agree():
    for word in ("the", "für", "и", "नहीं", "ß9"):
        assert tokens(word) == [int(vocabulary.hash_word(word))]


@pytest.mark.parametrize("at", range(6))
def test_invalid_utf8_is_read_within_bounds(at):
    broken = "aé字😀".encode()
    broken = np.frombuffer(broken[:at] + b"\xff" + broken[at + 1 :], np.uint8)
    for end in range(len(broken) + 1):
        out = np.empty((1, len(words.COLUMNS)))
        words.word_statistics(broken, np.array([0, end]), code_points().classes, out)
        assert 0 <= out[0, 0] <= end


def test_sliced_and_chunked_arrays_keep_their_documents():
    texts = pa.chunked_array([["zero", "one two"], ["three"], [None]])
    for start in range(4):
        utf8, offsets = buffers(texts.slice(start))
        found = [bytes(utf8[offsets[i] : offsets[i + 1]]).decode() for i in range(offsets.size - 1)]
        assert found == [text or "" for text in texts.slice(start).to_pylist()]
