"""Main text of both engines against what a person marked, with the measure of the benchmark of that set."""

import importlib.util
import json
import sys

import pytest

from data_engine import read_warc
from data_engine.records import Skips
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def extraction():
    folder = ROOT / "benchmarks"
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("extraction", folder / "extraction.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    return module


def test_the_measure_by_hand(extraction):
    # a b c d e: abcd bcde; a b c d x: abcd bcdx: one gram in common, one only here, one only there
    assert extraction.page_counts("a b c d e", "a, b c d x!") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert extraction.page_counts("a b", "a b") == (1, 0, 0)
    assert extraction.page_counts("a b c d", "") == (0, 0, 1)
    assert extraction.page_counts("", "") == (0, 0, 0)
    assert extraction.page_counts("x x x x x x", "x x x x") == pytest.approx((1 / 3, 0, 2 / 3))
    found = extraction.quality([(0.5, 0.5, 0), (1, 0, 0), (0, 0, 1)])
    assert (found["precision"], found["recall"]) == pytest.approx((0.75, 2 / 3))
    assert found["f1"] == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "least"), [("trafilatura", 0.95), ("resiliparse", 0.91)])
def test_engines_find_the_articles(extraction, real_data, engine, least):
    lines = (real_data / "crawl" / "articles.truth.jsonl").read_bytes().split(b"\n")
    truth = {row["url"]: row["articleBody"] for row in map(json.loads, filter(None, lines))}
    path = str(real_data / "crawl" / "articles.warc.gz")
    records = list(read_warc.read(path, 0, 1 << 62, True, 10_000_000, Skips()))
    assert len(records) == 181
    assert extraction.measure(records, truth, {"engine": engine}, 1)["f1"] >= least
