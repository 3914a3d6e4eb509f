"""The report of `serve bench`: one line for each load, and the curves that they make."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.report import Report, line_chart
from serving.load_statistics import Level, Objectives

_TIMES = {
    "ttft_ms": "time to first token",
    "tpot_ms": "time per output token",
    "itl_ms": "inter-token latency",
    "latency_ms": "end to end",
}
_LOADS = {"concurrency": "clients at a time", "rate": "requests sent per second"}
_DEFINITIONS = (
    "Milliseconds, of answers that came whole, as vllm bench serve defines them: the first token is the first event "
    "with a choice; time per output token is (end to end - first) / (tokens - 1) of each answer; inter-token latency "
    "lies between two events. Throughput is over the time from the first request to the end of the last answer."
)


def build(url: str, levels: Sequence[Level], objectives: Objectives, messages: Mapping[str, str]) -> Report:
    """One page: throughput, latencies, errors, curves."""
    report = Report("Load test", url)
    best = max(levels, key=lambda level: level.output_tokens_per_second)
    facts: dict[str, Any] = {
        "most output tokens per second": best.output_tokens_per_second,
        "at": name(best),
        "requests": sum(level.requests for level in levels),
        "answered whole": sum(level.answered for level in levels),
    }
    facts |= {f"good: {key} at most": value for key, value in objectives.model_dump().items() if value is not None}
    report.facts("In short", facts)
    columns = ["load", "requests", "answered", "seconds", "requests/s", "output tokens/s", "good requests/s"]
    report.table("Throughput", columns, [_throughput(level) for level in levels])
    rows = [
        [name(level), label, *(found[key] for key in ("p50", "p90", "p99", "mean"))]
        for level in levels
        for field, label in _TIMES.items()
        if (found := getattr(level, field)) is not None
    ]
    report.table("Latency", ["load", "time", "p50", "p90", "p99", "mean"], rows, _DEFINITIONS)
    failed = [
        [name(level), kind, count, messages.get(kind, "")] for level in levels for kind, count in level.errors.items()
    ]
    report.table("Errors", ["load", "kind", "requests", "what the first one said"], failed)
    for mode, axis in _LOADS.items():
        _curves(report, [level for level in levels if level.mode == mode], axis)
    late = [[name(level), level.late_ms["p50"], level.late_ms["p99"]] for level in levels if level.late_ms is not None]
    if late:
        note = "How long after its time a request was sent, ms. Large values say that this client was too slow."
        report.table("The client itself", ["load", "p50", "p99"], late, note)
    return report


def lines(levels: Sequence[Level]) -> list[str]:
    """One line for each load, to print."""
    return [line for level in levels for line in _lines(level)]


def name(level: Level) -> str:
    """A load in words."""
    return f"concurrency {level.load:g}" if level.mode == "concurrency" else f"{level.load:g} requests/s"


def _lines(level: Level) -> list[str]:
    good = "" if level.goodput is None else f", good {level.goodput:.2f}"
    errors = "".join(f", {count} {kind}" for kind, count in level.errors.items())
    times = ", ".join(
        f"{label} {found['p50']:.1f} / {found['p90']:.1f} / {found['p99']:.1f}"
        for field, label in {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "latency_ms": "end to end"}.items()
        if (found := getattr(level, field)) is not None
    )
    first = (
        f"{name(level)}: {level.output_tokens_per_second:.1f} output tokens/s, {level.requests_per_second:.2f} "
        f"requests/s{good}; {level.answered} of {level.requests} answered{errors}"
    )
    return [first, f"   ms p50 / p90 / p99: {times}"] if times else [first]


def _throughput(level: Level) -> list[Any]:
    return [
        name(level),
        level.requests,
        level.answered,
        level.seconds,
        level.requests_per_second,
        level.output_tokens_per_second,
        level.goodput,
    ]


def _curves(report: Report, levels: Sequence[Level], axis: str) -> None:
    """Nothing of a single load: a point is no curve."""
    if len({level.load for level in levels}) < 2:
        return
    levels = sorted(levels, key=lambda level: level.load)
    for field, label in _TIMES.items():
        found = [(level.load, getattr(level, field)) for level in levels if getattr(level, field) is not None]
        if field == "itl_ms" or not found:
            continue
        curves = {p: ([x for x, _ in found], [times[p] for _, times in found]) for p in ("p50", "p90", "p99")}
        report.figure(f"{label[0].upper()}{label[1:]} by load", line_chart(curves, axis, "milliseconds"))
    loads = [level.load for level in levels]
    tokens = {"output tokens/s": (loads, [level.output_tokens_per_second for level in levels])}
    report.figure("Throughput by load", line_chart(tokens, axis, "output tokens per second"))
    answered = {"answered": (loads, [level.requests_per_second for level in levels])}
    if all(level.goodput is not None for level in levels):
        answered["good"] = (loads, [level.goodput or 0.0 for level in levels])
    report.figure("Requests by load", line_chart(answered, axis, "requests per second"))
