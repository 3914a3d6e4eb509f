import re

from core.report import Report, bar_chart, line_chart


def page():
    report = Report("Title <b>", "summary")
    report.facts("Facts", {"documents": 12345, "loss": 1.23456})
    report.table("Table", ["name", "count"], [["<script>alert(1)</script>", 7]])
    report.table("Empty", ["name"], [])
    report.figure("Bars", bar_chart({"kept": 3, "rejected": 1}, "documents"))
    report.figure("Lines", line_chart({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, "step", "loss"))
    report.samples("Samples", [("label", "text & more")])
    return report.render()


def test_page_needs_no_network():
    assert not re.search(r'(src|href)="(?!#)', page().replace('xlink:href="#', 'href="#'))
    assert "@import" not in page()


def test_text_from_documents_is_escaped():
    assert "<script>alert" not in page()
    assert "text &amp; more" in page()


def test_ids_of_two_figures_do_not_collide():
    ids = re.findall(r'\bid="([^"]+)"', page())
    assert len(ids) == len(set(ids))


def test_same_content_gives_the_same_bytes():
    assert page() == page()
