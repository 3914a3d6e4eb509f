"""The report of `serve up`: what runs, what it answered, how fast."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.report import ACCENT, SECOND, Report, new_figure, plain_ticks
from serving.ask import Answer, Drafts

_SHOWN, _LABEL = 400, 50


def build(endpoint: Mapping[str, Any], answers: Sequence[Answer], drafts: Drafts, started_s: float) -> Report:
    """One page: facts, a line for each question, latency, the full texts."""
    report = Report("Endpoint", f"{', '.join(endpoint['models'])} at {endpoint['url']}")
    facts: dict[str, Any] = {
        "seconds until ready": round(started_s, 1),
        "number format": endpoint["quantization"],
        "speculative decoding": endpoint["speculative"]["method"],
    }
    if drafts.acceptance is not None:
        facts["drafted tokens"] = drafts.drafted
        facts["accepted"] = f"{drafts.acceptance:.1%}"
    report.facts(
        "In short",
        facts,
        "Ready: from the start of the engine to its first token. Drafted tokens are those that speculative decoding "
        "proposed; an accepted one saves a step of the model.",
    )
    report.table(
        "Questions and answers",
        ["question", "answer", "ended by"],
        [[answer.question, _short(answer.text, _SHOWN), answer.finish_reason] for answer in answers],
    )
    columns = ["question", "prompt tokens", "tokens", "ms", "ms to the first token", "tokens per second"]
    rows = [
        [
            number,
            answer.prompt_tokens,
            answer.completion_tokens,
            round(1000 * answer.seconds),
            None if answer.first_token_s is None else round(1000 * answer.first_token_s),
            answer.tokens_per_second,
        ]
        for number, answer in enumerate(answers, 1)
    ]
    report.table(
        "Latency",
        columns,
        rows,
        note="Asked one after the other through the openai client, as a user would. The time to the first token is "
        "known of streamed answers only.",
    )
    if answers:
        report.figure("Latency of each answer", _latency(answers))
    report.samples("Answers in full", [(answer.question, answer.text) for answer in answers])
    return report


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _latency(answers: Sequence[Answer]) -> Any:
    """Horizontal bars: the time to the first token where it was streamed, then the rest."""
    figure = new_figure(height=max(1.2, 0.4 * len(answers) + 0.8))
    axes = figure.subplots()
    names = [f"{number}. {_short(answer.question, _LABEL)}" for number, answer in enumerate(answers, 1)]
    first = [1000 * (answer.first_token_s or 0.0) for answer in answers]
    rest = [1000 * answer.seconds - wait for answer, wait in zip(answers, first, strict=True)]
    axes.barh(names, first, color=SECOND, label="to the first token (streamed answers)")
    axes.barh(names, rest, left=first, color=ACCENT, label="to the end")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.grid(axis="y", visible=False)
    plain_ticks(axes.xaxis)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure
