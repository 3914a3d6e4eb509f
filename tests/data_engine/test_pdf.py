"""Papers: pages in order, cut words whole; what cannot be read says why."""

import re

import pytest

from data_engine import pdf
from tests.data_engine import books

PAGES = [
    ["The effect of yeast (baker's) on", "rising dough was exam-", "ined in 1990-", "1995 by Ünal."],
    ["Second page."],
]


def test_pages_in_order_with_cut_words_put_together():
    text = pdf.read(books.pdf(PAGES))
    first, second = text.split("\n\n")
    assert (
        re.sub(r"\s+", " ", first)
        == "The effect of yeast (baker's) on rising dough was examined in 1990- 1995 by Ünal."
    )
    assert second == "Second page."


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ("exam-\nine", "examine"),
        ("3-\nfold", "3-\nfold"),
        ("Anglo-\nSaxon", "Anglo-\nSaxon"),
        ("e\ufb03cient \ufb01t", "efficient fit"),
    ],
)
def test_hyphens_and_ligatures(cut, whole):
    assert pdf.joined([cut]) == whole


def test_a_page_without_text_is_no_text():
    assert pdf.read(books.pdf([[]])) == ""


def test_passwords_empty_and_not():
    assert "Second page." in pdf.read(books.pdf(PAGES, password=""))
    with pytest.raises(pdf.PaperError, match="encrypted with a password"):
        pdf.read(books.pdf(PAGES, password="hidden"))


@pytest.mark.parametrize("payload", [b"", b"%PDF-1.4\n", b"%PDF-1.4\nnothing here\n%%EOF", books.pdf(PAGES)[:300]])
def test_what_is_no_paper_says_why(payload):
    with pytest.raises(pdf.PaperError, match="not readable as PDF"):
        pdf.read(payload)
