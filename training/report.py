"""Reports of training stages: headline facts, loss, learning rate, gradient norm, speed."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.report import Report, line_chart


def _line(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def training_report(title: str, summary: str, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Report:
    """The part that all training stages share; `rows` are those of `metrics.jsonl`."""
    report = Report(title, summary)
    report.facts("Result", facts)
    losses = {"training": _line(rows, "loss")}
    if any(row.get("validation_loss") is not None for row in rows):
        losses["validation"] = _line(rows, "validation_loss")
    report.figure("Loss", line_chart(losses, "step", "loss"))
    report.figure("Learning rate", line_chart({"learning rate": _line(rows, "lr")}, "step", "learning rate"))
    report.figure(
        "Gradient norm", line_chart({"gradient norm": _line(rows, "grad_norm")}, "step", "norm before clipping")
    )
    report.figure("Speed", line_chart({"tokens per second": _line(rows, "tokens_per_second")}, "step", "tokens/s"))
    return report


def curves(report: Report, title: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], y: str) -> None:
    """A figure of several columns of the log; `names` maps a column to its label. Nothing when no row has one."""
    lines = {label: _line(rows, name) for name, label in names.items()}
    lines = {label: line for label, line in lines.items() if line[0]}
    if lines:
        report.figure(title, line_chart(lines, "step", y))
