"""The report of `serve up`: what runs, what it answered, how fast."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.report import ACCENT, SECOND, Report, new_figure
from serving.ask import Answer, Drafts


def build(endpoint: Mapping[str, Any], answers: Sequence[Answer], drafts: Drafts, started_s: float) -> Report:
    """One page: facts, a line for each question, latency, the full texts."""
    report = Report("Endpoint", f"{', '.join(endpoint['models'])} at {endpoint['url']}")
    facts: dict[str, Any] = {
        "seconds to the first token of a fresh engine": round(started_s, 1),
        "number format": endpoint["quantization"],
        "speculative decoding": endpoint["speculative"]["method"],
    }
    if drafts.acceptance is not None:
        facts["drafted tokens"] = drafts.drafted
        facts["accepted"] = f"{drafts.acceptance:.1%}"
    report.facts("Endpoint", facts)
    columns = ["question", "prompt tokens", "tokens", "seconds", "tokens/s", "first token, s", "ended by"]
    rows = [
        [
            answer.question,
            answer.prompt_tokens,
            answer.completion_tokens,
            round(answer.seconds, 3),
            round(answer.tokens_per_second, 1),
            "" if answer.first_token_s is None else round(answer.first_token_s, 3),
            answer.finish_reason,
        ]
        for answer in answers
    ]
    report.table(
        "Questions", columns, rows, note="Asked one after the other through the openai client, as a user would."
    )
    if answers:
        report.figure("Latency", _latency(answers))
    report.samples("Answers", [(answer.question, answer.text) for answer in answers])
    return report


def _latency(answers: Sequence[Answer]) -> Any:
    """Horizontal bars: the time to the first token where it was streamed, then the rest."""
    figure = new_figure(height=max(1.2, 0.4 * len(answers) + 0.8))
    axes = figure.subplots()
    names = [f"{number}. {answer.question[:40]}" for number, answer in enumerate(answers, 1)]
    first = [answer.first_token_s or 0.0 for answer in answers]
    rest = [answer.seconds - wait for answer, wait in zip(answers, first, strict=True)]
    axes.barh(names, first, color=SECOND, label="to the first token (streamed answers)")
    axes.barh(names, rest, left=first, color=ACCENT, label="to the end")
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    axes.legend(frameon=False)
    return figure
