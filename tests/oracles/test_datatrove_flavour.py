"""The `datatrove` flavour must decide as datatrove does, word for word and reason for reason.

Words are held against spaCy's own tokenizer on text of every script and on text made to be hard for it; decisions
against datatrove's four filter classes. benchmarks/heuristics.py compares all documents; here it is a part of them.
"""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import datatrove_flavour, english
from data_engine.kernels import english as kernel
from tests.data_engine.test_kernels_adversarial import BLOCK, FLAVOUR, HARD, text_of
from tests.data_engine.texts import ADVERSARIAL

spacy = pytest.importorskip("spacy")
parity = pytest.importorskip("tests.oracles.datatrove_parity")

ATOMS = [
    *("don't", "cannot", "U.S.", "e.g.", "C++", "x86", "10km"),
    *("5$", "$5", "US$5", "a.m", "10a.m.", "Mr.", "O'Neil's"),
    *("http://a.example.com/x?y=1", "user@example.org", "8.8.8.8:80"),
    *("192.168.0.1", "www.site.co.uk", "a.b", "Ab.Cd"),
    *(
        ":)",
        ":-(",
        "(o_o)",
        "...",
        "..",
        "…",
        "……",
        "--",
        "—",
        "-",
        "+",
        "'",
        '"',
        "’s",
        "'S",
        "''",
        "``",
        "#",
        "@",
        "/",
    ),
    *(
        "word",
        "Word",
        "WORD",
        "1",
        "2.5",
        "3,000",
        "1-2",
        "a-b",
        "a--b",
        "a/b",
        "a:b",
        "a=b",
        "<b>",
        "[1]",
        "{x}",
        "°C.",
    ),
    *(
        "слово",
        "слово.",
        "日本語",
        "。",
        "가나",
        "שלום",
        "é",
        "ß",
        "👍",
        "😀",
        "½",
        "²",
        "€",
        "café",
        "naïve",
        "x_y",
        "~",
    ),
    *(" ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u2028", "\r\n", "\x85", ".", ",", "!", "?", "? ", ". ", "! "),
]
# from U+20000 on, tables have one entry for all characters
BELOW_EXTENSION_B = st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs"])
TEXTS = st.lists(st.sampled_from(ATOMS), max_size=14).map("".join) | st.text(BELOW_EXTENSION_B, max_size=40)


@pytest.fixture(scope="module")
def spacy_words():
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    return load_word_tokenizer("en")


def ours(text):
    """Words and number of sentences."""
    utf8 = np.frombuffer(text.encode() + b" ", np.uint8)
    rules = english.rules()
    points, kinds = np.empty(utf8.size, np.int32), np.empty(utf8.size, np.uint32)
    starts, ends = np.empty(utf8.size, np.int64), np.empty(utf8.size, np.int64)
    size = kernel.code_points_of(utf8, 0, utf8.size - 1, rules.classes, points, kinds)
    words = kernel.words_of(points, kinds, 0, size, rules, starts, ends)
    sentences = kernel.sentences_in(points, kinds, 0, size, starts, ends, words)
    return [text[starts[word] : ends[word]] for word in range(words)], sentences


def real_texts(real_data):
    yield from pq.read_table(real_data / "docs" / "docs.parquet")["text"].to_pylist()[::40]
    for path, field in (("multilingual/sentences.jsonl", "text"), ("crawl/articles.truth.jsonl", "articleBody")):
        lines = (real_data / path).read_text(encoding="utf-8").split("\n")
        yield from [json.loads(line)[field] for line in lines if line][::4]


@pytest.mark.slow
def test_words_and_sentences_of_real_text_are_spacys(real_data, spacy_words):
    for text in real_texts(real_data):
        words, sentences = ours(text)
        assert words == spacy_words.word_tokenize(text)
        assert sentences == max(1, len(spacy_words.span_tokenize(text)))


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_words_and_sentences_of_hard_text_are_spacys(spacy_words, text):
    words, sentences = ours(text)
    assert words == spacy_words.word_tokenize(text)
    if text:
        assert sentences == max(1, len(spacy_words.span_tokenize(text)))


@pytest.mark.parametrize("text", ADVERSARIAL)
def test_adversarial_text_is_cut_as_spacy_cuts_it(text, spacy_words):
    assert ours(text)[0] == spacy_words.word_tokenize(text)


LINE = BLOCK * (100_000 // len(BLOCK.encode()))


@pytest.mark.parametrize("text", [*map(text_of, HARD.values()), LINE], ids=[*HARD, "long line"])
def test_hard_text_is_cut_as_spacy_cuts_it(text, spacy_words):
    words, sentences = ours(text)
    assert words == spacy_words.word_tokenize(text)
    assert sentences == max(1, len(spacy_words.span_tokenize(text)))


@pytest.mark.parametrize("utf8", [*HARD.values(), LINE.encode()], ids=[*HARD, "long line"])
def test_repetition_of_hard_text_is_datatroves_to_the_last_digit(utf8, spacy_words):
    from datatrove.pipeline.filters import gopher_repetition_filter as theirs
    from datatrove.utils.text import PUNCTUATION_SET

    text = text_of(utf8)
    bounds = np.array([0, len(utf8)], np.int64)
    found = datatrove_flavour.measure(np.frombuffer(utf8 + b"\xbf", np.uint8), bounds, FLAVOUR)
    if not text:
        return
    words = spacy_words.word_tokenize(text)
    plain = [word for word in words if any(character not in PUNCTUATION_SET for character in word)]
    expected = {"words": len(plain), "mean_word_length": np.mean(list(map(len, plain))) if plain else 0}
    for kind, parts in (("paragraph", re.split(r"\n{2,}", text.strip())), ("line", re.split("\n+", text))):
        items, characters = theirs.find_duplicates(parts)
        expected[f"duplicate_{kind}_fraction"] = items / len(parts)
        expected[f"duplicate_{kind}_characters"] = characters / len(text)
    for n in (2, 3, 4):
        grams = theirs.get_n_grams(words, n)
        expected[f"top_{n}_gram"] = theirs.find_top_duplicate(grams) / len(text) if grams else 0
    for n in range(5, 11):
        expected[f"duplicate_{n}_gram"] = theirs.find_all_duplicate(words, n) / len(text)
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "after_c4"),
    # FineWeb's recipe: Gopher's rules judge the text as it was, FineWeb's what C4 leaves of it
    [*((name, False) for name in parity.CLASSES), ("fineweb", True)],
)
def test_a_class_decides_as_datatrove_does_for_the_same_reason(name, after_c4, real_data):
    texts = [text for text in real_texts(real_data) if text.strip()]
    expected, found = parity.theirs(name, texts, after_c4), parity.ours(name, texts, after_c4)
    pairs = [pair for pair in zip(expected, found, strict=True) if pair[0] != "-"]
    assert len({reason for reason, _ in pairs}) > 2
    assert [one for one, _ in pairs] == [two for _, two in pairs]


LINES = st.lists(
    st.sampled_from(
        [
            *(
                "Short line",
                "This is a sentence that ends here.",
                "A line! With two sentences?",
                "- bullet",
                "• bullet",
            ),
            *(
                "dots...",
                "ends…",
                "lorem ipsum dolor.",
                "if (x) { y }.",
                "we use cookies.",
                "Javascript is on.",
                "[1] x.",
            ),
            *(
                "Fact one [12] and [edit] it is.",
                "the of and that have with be to",
                "# # #",
                "",
                "",
                "   ",
                "a b c d e",
            ),
            *(
                "the cat sat on the mat near the cat",
                "12 34 56 78",
                "Quoted 'line'",
                'Say "so"',
                "x\u2028y.",
                "word " * 60,
            ),
        ]
    ),
    min_size=1,
    max_size=30,
).map("\n".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(LINES.filter(str.strip), min_size=1, max_size=4))
def test_made_up_documents_are_judged_as_datatrove_judges_them(texts):
    for name in parity.CLASSES:
        assert parity.ours(name, texts) == parity.theirs(name, texts)
    expected = parity.theirs("fineweb", texts, after_c4=True)
    found = parity.ours("fineweb", texts, after_c4=True)
    assert [(one, two) for one, two in zip(expected, found, strict=True) if one not in ("-", two)] == []


@pytest.mark.slow
def test_the_rules_are_those_of_the_installed_spacy():
    from tests.oracles import english_rules

    assert english_rules.render(english_rules.rules()) == english_rules.PATH.read_text(encoding="utf-8")
