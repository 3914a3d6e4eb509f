"""Extraction in bounded time: what hangs or dies costs one page."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from data_engine.extract import ExtractionConfig, ExtractionError, Extractor
from tests.data_engine import corpora

BODY = (
    "The harbour wakes before the town does, and the gulls wait on the roofs for what falls from the crates of ice. "
    * 3
)
PAGE = corpora.page(BODY, "Harbour").encode()
# a parser that lxml and trafilatura keep busy for seconds
SLOW = b"<html><body>" + b"<p>word <b>word</b> <a href='x'>y</a></p>" * 100_000


def test_main_text_without_navigation_and_footer():
    with Extractor(ExtractionConfig()) as extractor:
        text = extractor.extract(PAGE)
    assert text.startswith("Harbour\nThe harbour wakes")
    assert "Home" not in text
    assert "All rights" not in text


def test_a_page_does_not_depend_on_the_pages_before_it():
    with Extractor(ExtractionConfig()) as extractor:
        first = extractor.extract(PAGE)
        assert [extractor.extract(PAGE) for _ in range(5)] == [first] * 5


def test_a_page_over_its_time_costs_itself():
    with Extractor(ExtractionConfig(timeout_seconds=0.2)) as extractor:
        assert extractor.extract(PAGE)
        began = time.monotonic()
        with pytest.raises(ExtractionError, match=r"longer than 0.2 s"):
            extractor.extract(SLOW)
        assert time.monotonic() - began < 5
        assert extractor.extract(PAGE)


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


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"<", b"<html>", b"plain words", "<p>Ünï</p>".encode("utf-16"), b"\xff" * 1000]
)
def test_odd_pages_are_text_or_an_error_never_more(payload):
    with Extractor(ExtractionConfig()) as extractor:
        with contextlib.suppress(ExtractionError):
            assert isinstance(extractor.extract(payload), str)
        assert extractor.extract(PAGE)


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
