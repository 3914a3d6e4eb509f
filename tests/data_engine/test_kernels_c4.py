"""C4's line rules against a reading with regular expressions."""

import re

import numpy as np
import pytest
from hypothesis import given

from data_engine.kernels import c4
from data_engine.kernels.unicode import SENTENCE_TERMINALS
from tests.data_engine.test_kernels_words import letterlike, unspaced
from tests.data_engine.texts import ADVERSARIAL, arrays, random_texts

CITATIONS = re.compile(r"(\[\d*\]|\[edit\]|\[citation needed\])+$")
QUOTES = "\"'”’»」』"
CLOSING = "\"'”’»)］】」』）"
TERMINAL = re.escape(SENTENCE_TERMINALS)


def measure(texts, min_words=3, longest=1000, terminal=True):
    utf8, offsets, classes, _ = arrays(texts)
    out = np.empty((len(texts), len(c4.COLUMNS)))
    phrases = c4.PHRASE_BYTES, c4.PHRASE_STARTS, c4.PHRASE_KINDS, c4.PHRASE_FIRST
    c4.c4_statistics(utf8, offsets, classes, min_words, longest, terminal, *phrases, out)
    return out


def words_of(line):
    spaced = "".join(f" {c} " if unspaced(c) else c for c in line)
    return spaced.split()


def sentences_of(line):
    count, content, after, single = 0, False, False, False
    for character in line:
        if character in SENTENCE_TERMINALS:
            after = True
            continue
        if after and content and (character.isspace() or character in CLOSING or single):
            count, content = count + 1, False
        after = False
        if letterlike(character) and re.match(r"\w", character) is not None:
            content, single = True, unspaced(character)
    return count + content


def reference(text):
    lines = [line.rstrip(" \t\r\x0b\x0c\x1c\x1d\x1e\x1f") for line in text.split("\n")]
    lines = [line for line in lines if words_of(CITATIONS.sub("", line))]
    sentences = lorem = curly = kept = policy = 0
    for line in lines:
        low = line.lower()
        banned = any(p in low for p in ("terms of use", "privacy policy", "cookie policy", "uses cookies"))
        banned = banned or "use of cookies" in low or "use cookies" in low
        script = "javascript" in low
        policy += banned or script
        cut = CITATIONS.sub("", line)
        end = "".join(cut.split())
        ends = end[-1] in SENTENCE_TERMINALS + QUOTES and not end.endswith("...")
        if max(map(len, words_of(cut))) > 1000 or not ends or len(words_of(cut)) < 3:
            continue
        lorem += "lorem ipsum" in low
        if script:
            continue
        curly += line.count("{")
        if banned:
            continue
        kept += 1
        sentences += sentences_of(cut)
    return [sentences, lorem, curly, kept / len(lines) if lines else 0, policy / len(lines) if lines else 0]


@pytest.mark.parametrize("text", ADVERSARIAL)
def test_c4_statistics_equal_the_reference(text):
    np.testing.assert_allclose(measure([text])[0], reference(text))


@given(random_texts)
def test_c4_statistics_equal_the_reference_on_random_text(texts):
    np.testing.assert_allclose(measure(texts), [reference(text) for text in texts])


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("Version 3.14 came out. It works.", 2),
        ('She said "yes." Then she left.', 2),
        ("No end at all here", 0),
        ("It trails off in three words...", 0),
        ("A claim with a source.[12]", 1),
        ("第一句。第二句！", 2),
        ("मैं घर जाता हूँ। वह आता है।", 2),
        ("We use cookies on this site.", 0),
    ],
)
def test_sentences_of_kept_lines(line, sentences):
    assert measure([line])[0][0] == sentences


def test_a_word_longer_than_the_limit_drops_its_line():
    line = "This line has one " + "x" * 1001 + " word."
    assert measure([line])[0][0] == 0
    assert measure([line], longest=2000)[0][0] == 1
    assert measure(["A line that does not end in a stop"], terminal=False)[0][0] == 1
