"""Extraction in bounded time: what hangs or dies costs one page."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from core import config
from core.errors import UserError
from data_engine.extract import ExtractionConfig, ExtractionError, Extractor
from tests.data_engine import books, corpora

BODY = (
    "The harbour wakes before the town does, and the gulls wait on the roofs for what falls from the crates of ice. "
    * 3
)
PAGE = corpora.page(BODY, "Harbour").encode()
# a parser that lxml and trafilatura keep busy for seconds
SLOW = b"<html><body>" + b"<p>word <b>word</b> <a href='x'>y</a></p>" * 100_000


def test_main_text_without_navigation_and_footer():
    with Extractor(ExtractionConfig()) as extractor:
        text = extractor.extract(PAGE).text
    assert text.startswith("Harbour\nThe harbour wakes")
    assert "Home" not in text
    assert "All rights" not in text


def test_a_page_does_not_depend_on_the_pages_before_it():
    with Extractor(ExtractionConfig()) as extractor:
        first = extractor.extract(PAGE)
        assert [extractor.extract(PAGE) for _ in range(5)] == [first] * 5


def test_a_page_over_its_time_costs_itself():
    with Extractor(ExtractionConfig(timeout_seconds=0.2)) as extractor:
        assert extractor.extract(PAGE).text
        began = time.monotonic()
        with pytest.raises(ExtractionError, match=r"longer than 0.2 s"):
            extractor.extract(SLOW)
        assert time.monotonic() - began < 5
        assert extractor.extract(PAGE).text


def test_a_killed_parser_is_replaced_and_the_page_is_not_lost():
    with Extractor(ExtractionConfig()) as extractor:
        expected = extractor.extract(PAGE)
        os.kill(extractor._process.pid, signal.SIGKILL)
        assert extractor.extract(PAGE) == expected


def test_a_parser_that_dies_of_every_try_gives_the_page_up(monkeypatch):
    with Extractor(ExtractionConfig()) as extractor:
        monkeypatch.setattr("data_engine.extract.sys.executable", "/bin/false")
        with pytest.raises(ExtractionError, match=r"died twice"):
            extractor.extract(PAGE)


def test_odd_pages_are_text_or_an_error_never_more():
    payloads = [b"", b"\x00", b"<", b"<html>", b"plain words", "<p>Ünï</p>".encode("utf-16"), b"\xff" * 1000]
    with Extractor(ExtractionConfig()) as extractor:
        for payload in payloads:
            with contextlib.suppress(ExtractionError):
                assert isinstance(extractor.extract(payload).text, str), payload
            assert extractor.extract(PAGE).text, payload


def test_the_parser_dies_with_its_parent(tmp_path):
    import subprocess
    import sys

    code = (
        "import os,time\nfrom data_engine.extract import *\n"
        "e=Extractor(ExtractionConfig()); e.extract(b'<p>x</p>'); print(e._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{child}")


# --- engines, books and papers ---


@pytest.mark.parametrize("engine", ["trafilatura", "resiliparse"])
def test_both_engines_find_the_article_and_keep_what_is_asked_for(engine):
    page = corpora.page(BODY).replace("</article>", "<table><tr><td>a cell</td></tr></table></article>").encode()
    with Extractor(ExtractionConfig(engine=engine)) as extractor:
        text = extractor.extract(page).text
    assert "The harbour wakes" in text
    assert "a cell" in text
    assert "All rights" not in text
    with Extractor(ExtractionConfig(engine=engine, tables=False)) as extractor:
        assert "a cell" not in extractor.extract(page).text


def test_settings_that_an_engine_does_not_have_are_refused():
    with pytest.raises(UserError, match=r"extraction: .*focus and fast are settings of trafilatura"):
        config.parse(ExtractionConfig, {"engine": "resiliparse", "focus": "precision"}, "extraction")


def test_a_page_that_states_its_licence():
    page = PAGE.replace(b"All rights", b'<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">x</a>')
    with Extractor(ExtractionConfig()) as extractor:
        assert extractor.extract(page).licence == "CC-BY-4.0"
        assert extractor.extract(PAGE).licence == ""


def test_books_and_papers_are_read_by_the_same_process():
    chapter = (books.xhtml(f"<p>{BODY}</p>"), "")
    with Extractor(ExtractionConfig()) as extractor:
        text, licence = extractor.extract(books.epub({"a.xhtml": chapter}, rights="Free."), media="epub")
        assert (text.strip(), licence) == (BODY.strip(), "Free.")
        assert extractor.extract(books.pdf([["A paper."]]), media="pdf").text == "A paper."
        with pytest.raises(ExtractionError, match="not readable as PDF"):
            extractor.extract(b"%PDF-1.4", media="pdf")
        with pytest.raises(ExtractionError, match="not readable as EPUB"):
            extractor.extract(b"PK\x03\x04", media="epub")
        assert extractor.extract(PAGE).text


def test_a_paper_that_keeps_the_parser_busy_costs_itself():
    # 20,000 pages that are one and the same object: a file of a few kilobytes, work for minutes
    slow = books.pdf([["word " * 200] * 50])
    kids = b" ".join([b"4 0 R"] * 20_000)
    slow = slow.replace(b"/Kids [4 0 R] /Count 1", b"/Kids [" + kids + b"] /Count 20000")
    with Extractor(ExtractionConfig(book_timeout_seconds=1.5)) as extractor:
        assert extractor.extract(PAGE).text
        began = time.monotonic()
        with pytest.raises(ExtractionError, match=r"longer than 1.5 s"):
            extractor.extract(slow, media="pdf")
        assert time.monotonic() - began < 20
        assert extractor.extract(books.pdf([["A paper."]]), media="pdf").text == "A paper."


def test_a_book_that_needs_too_much_memory_costs_itself():
    bomb = books.epub({f"{n}.xhtml": (books.xhtml("<p>" + "a" * 30_000_000 + "</p>"), "") for n in range(5)})
    with Extractor(ExtractionConfig(memory_mib=600)) as extractor:
        with pytest.raises(ExtractionError, match=r"out of memory|died twice"):
            extractor.extract(bomb, media="epub")
        assert extractor.extract(PAGE).text
