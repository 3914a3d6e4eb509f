import re

import numpy as np
import pytest

from core.report import Report, bar_chart, line_chart, running_mean, show_column
from tests.browser import chromium


def page():
    report = Report("Title <b>", "summary")
    report.facts("Facts", {"documents": 12345, "loss": 1.23456})
    report.table("Table", ["name", "count"], [["<script>alert(1)</script>", 7]])
    report.table("Empty", ["name"], [])
    report.figure("Bars", bar_chart({"kept": 3, "rejected": 1}, "documents"))
    report.figure("Lines", line_chart({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, "step", "loss"))
    report.figure("Counts", bar_chart({"en": 4009, "what costs $5 or $\\frac{6}$?": 1}, "documents", log=True))
    report.samples("Samples", [("label", "text & more")])
    report.links("Stages", [("build", "build/report.html", ["4,812 read"])])
    return report.render()


def test_page_needs_no_network():
    found = page().replace('<a href="build/report.html"', "<a")  # followed by the reader, not by the browser
    assert not re.search(r'(src|href)="(?!#)', found.replace('xlink:href="#', 'href="#'))
    assert "@import" not in page()


def test_text_from_documents_is_escaped():
    assert "<script>alert" not in page()
    assert "text &amp; more" in page()


def test_ids_of_two_figures_do_not_collide():
    ids = re.findall(r'\bid="([^"]+)"', page())
    assert len(ids) == len(set(ids))


def test_same_content_gives_the_same_bytes():
    assert page() == page()


def test_numbers_of_a_column_share_their_decimals():
    assert show_column([2.61, 2.0051, 9.1573, 1]) == ["2.610", "2.005", "9.157", "1.000"]
    assert show_column([0.48, 0.8854, None]) == ["0.480", "0.885", ""]
    assert show_column([1234.5, 0.25]) == ["1,234", "0"]
    assert show_column([0.00025]) == ["0.0002500"]
    assert show_column([0.0, 0.0]) == ["0.000", "0.000"]
    assert show_column([7, 12345]) == ["7", "12,345"]
    assert show_column([1.5, "none", None]) == ["1.5", "none", ""]


def test_running_mean_is_the_mean_of_the_neighbours():
    values = np.random.default_rng(1).normal(size=37)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(len(values))]
    np.testing.assert_allclose(running_mean(values, 7), expected)


def test_a_long_line_is_drawn_with_its_running_mean_when_asked():
    line = {"loss": (list(range(200)), list(range(200)))}
    assert len(line_chart(line, "step", "loss").axes[0].lines) == 1
    assert len(line_chart(line, "step", "loss", smooth=True, levels={"entropy": 3.0}).axes[0].lines) == 3


@pytest.mark.slow
def test_a_browser_opens_it_without_an_error_or_a_request(tmp_path):
    (tmp_path / "good.html").write_text(page())
    bad = '<img src="http://127.0.0.1:9/x.png"><script>console.error("no")</script><p style="width: 999px">wide</p>'
    (tmp_path / "bad.html").write_text(bad)
    with chromium(tmp_path / "profile") as browser:
        for width in (1280, 400):
            seen = browser.open(tmp_path / "good.html", width)
            assert (seen.requests, seen.errors, seen.overflow, seen.flat) == ([], [], 0, 0)
        control = browser.open(tmp_path / "bad.html", 400)
        assert control.requests == ["http://127.0.0.1:9/x.png"]
        assert control.errors
        assert control.overflow > 500
