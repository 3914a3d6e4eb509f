from serving.ask import Answer, Drafts
from serving.up_report import build

ENDPOINT = {
    "url": "http://127.0.0.1:8000/v1",
    "models": ["raymill"],
    "quantization": "int8_w8a8",
    "speculative": {"method": "ngram"},
}


def page(*answers):
    return build(ENDPOINT, answers, Drafts(4, 1), 78.2).render()


def test_latency_is_drawn_and_told_in_milliseconds():
    html = page(
        Answer("Why?", "because", "stop", True, 26, 4, 0.1094, 0.0688),
        Answer("So?", "yes", "stop", False, 23, 2, 0.07, None),
    )
    for title in ("Questions and answers", "Latency", "Latency of each answer"):
        assert f">{title}</h2>" in html
    assert html.count("<svg") == 1
    assert '<td class="number">109</td><td class="number">69</td>' in html
    assert '<td class="number">70</td><td class="number"></td>' in html
    assert "25.0%" in html


def test_a_long_question_and_one_with_dollars_are_no_obstacle():
    html = page(
        Answer("x" * 200, "y" * 2000, "length", False, 1, 1, 1.0, None),
        Answer("$5 or $\\x$?", "5", "stop", False, 1, 1, 1.0, None),
    )
    assert f"1. {'x' * 49}…" in html
    assert "2. $5 or $\\x$?" in html
    assert "y" * 2000 in html


def test_an_endpoint_that_was_asked_nothing_has_a_report():
    assert "<svg" not in page()
