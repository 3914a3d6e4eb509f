"""Our rules beside datatrove's filters on real documents: where definitions agree, and how far they differ elsewhere.

Differences that are meant, with what they do to 600 documents of software manuals (the test takes every third of them):
* datatrove counts words as spaCy cuts them (punctuation marks and line breaks are words), we as white space does. So it
  finds 590 of the 600 to have too few alphabetic words, where we find 121; and 27 too long words, where we find 102.
* A bullet is '•' or '-' there, '*' too here (Dolma); shares of lines count empty lines there, not here.
* Lines are cut at every Unicode line separator there and not stripped; here at '\n', without white space at their ends.
* C4's sentence ends are those of every script here.
* Repetition counts every occurrence here (the paper, DCLM, RedPajama), second and later ones there.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine import signals
from data_engine.policies import Policies

datatrove = pytest.importorskip("datatrove.pipeline.filters")
pytest.importorskip("spacy")

pytestmark = pytest.mark.slow  # spaCy cuts each document anew for each rule

NO_QUALITY = dict.fromkeys(
    [
        *("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio"),
        *("max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words"),
    ]
)
NO_C4 = {"filter_lorem_ipsum": False, "filter_curly_bracket": False, "min_num_sentences": -1}
NO_FINEWEB = {"line_punct_thr": -1, "short_line_thr": 2, "char_duplicates_ratio": 2, "new_line_ratio": 1e9}
NO_REPETITION = {
    **dict.fromkeys(["dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"]),
    **dict.fromkeys(["top_n_grams", "dup_n_grams"], ()),
}

# rule: datatrove's filter with this rule alone, and the least share of equal decisions
RULES = {
    "gopher_quality:short_doc": ("GopherQualityFilter", NO_QUALITY | {"min_doc_words": 50}, 0.975),
    "gopher_quality:short_words": ("GopherQualityFilter", NO_QUALITY | {"min_avg_word_length": 3}, 0.975),
    "gopher_quality:bullet_lines": ("GopherQualityFilter", NO_QUALITY | {"max_bullet_lines_ratio": 0.9}, 0.975),
    "gopher_quality:ellipsis_lines": ("GopherQualityFilter", NO_QUALITY | {"max_ellipsis_lines_ratio": 0.3}, 0.99),
    "gopher_quality:stop_words": ("GopherQualityFilter", NO_QUALITY | {"min_stop_words": 2}, 0.99),
    "c4:lorem_ipsum": ("C4QualityFilter", NO_C4 | {"filter_lorem_ipsum": True}, 1.0),
    "c4:curly_bracket": ("C4QualityFilter", NO_C4 | {"filter_curly_bracket": True}, 1.0),
    "c4:few_sentences": ("C4QualityFilter", NO_C4 | {"min_num_sentences": 5}, 0.96),
    "fineweb:terminal_lines": ("FineWebQualityFilter", NO_FINEWEB | {"line_punct_thr": 0.12}, 0.99),
    "fineweb:short_lines": ("FineWebQualityFilter", NO_FINEWEB | {"short_line_thr": 0.67}, 0.97),
    "fineweb:repeated_lines": ("FineWebQualityFilter", NO_FINEWEB | {"char_duplicates_ratio": 0.01}, 0.97),
    "fineweb:newlines_per_word": ("FineWebQualityFilter", NO_FINEWEB | {"new_line_ratio": 0.3}, 0.98),
}


@pytest.fixture(scope="module")
def texts(real_data):
    found = pq.read_table(real_data / "docs" / "docs.parquet")["text"].to_pylist()[::30]
    return [text for text in found if text.strip()]


@pytest.fixture(scope="module")
def ours(texts):
    measured = signals.measure(pa.array(texts), ["en"] * len(texts), Policies())
    rules = {f"{p.name}:{rule.name}": rule for p in Policies().enabled() for rule in p.rules()}
    return {name: rule.broken(measured[rule.signal]) for name, rule in rules.items()}


def theirs(name, settings, texts):
    from datatrove.data import Document

    judge = getattr(datatrove, name)(**settings)
    return np.array([judge.filter(Document(text=text, id="x")) is not True for text in texts])


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_decides_as_datatrove_does(rule, texts, ours):
    name, settings, least = RULES[rule]
    equal = theirs(name, settings, texts) == ours[rule]
    assert equal.mean() >= least


@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        ("duplicate_line_fraction", {"dup_line_frac": 0.3}),
        ("duplicate_line_characters", {"dup_line_char_frac": 0.2}),
        ("duplicate_paragraph_fraction", {"dup_para_frac": 0.3}),
        ("duplicate_paragraph_characters", {"dup_para_char_frac": 0.2}),
    ],
)
def test_counting_every_occurrence_rejects_all_that_datatrove_rejects(rule, setting, texts, ours):
    rejected = theirs("GopherRepetitionFilter", NO_REPETITION | setting, texts)
    assert not (rejected & ~ours[f"gopher_repetition:{rule}"]).any()


@pytest.mark.parametrize("n", range(5, 11))
def test_repeated_ngrams_agree_with_datatrove_on_most_documents(n, texts, ours):
    threshold = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}[n]
    rejected = theirs("GopherRepetitionFilter", NO_REPETITION | {"dup_n_grams": ((n, threshold),)}, texts)
    assert (rejected == ours[f"gopher_repetition:duplicate_{n}_gram"]).mean() >= 0.92
