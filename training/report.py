"""Reports of training stages: headline facts, loss, learning rate, gradient norm, speed."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.report import Report, bar_chart, line_chart

_SMOOTHING = "The strong line is a running mean over the steps; the pale one has each step."


def _line(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def training_report(
    title: str,
    summary: str,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    levels: Mapping[str, float] | None = None,
    loss_unit: str = "nats per token",
) -> Report:
    """The part that all training stages share.

    facts: named as in the manifest; rows: those of `metrics.jsonl`; levels: losses to compare with.
    """
    report = Report(title, summary)
    report.facts("Result", _readable(facts), f"Losses are in {loss_unit}.")
    losses = {"training": _line(rows, "loss")}
    if any(row.get("validation_loss") is not None for row in rows):
        losses["validation"] = _line(rows, "validation_loss")
    report.figure("Loss", line_chart(losses, "step", loss_unit, levels=levels, smooth=True), _SMOOTHING)
    report.figure("Learning rate", line_chart({"learning rate": _line(rows, "lr")}, "step", "learning rate"))
    norm = {"gradient norm": _line(rows, "grad_norm")}
    report.figure("Gradient norm", line_chart(norm, "step", "norm before clipping", smooth=True))
    speed = {"tokens per second": _line(rows, "tokens_per_second")}
    report.figure("Speed", line_chart(speed, "step", "tokens per second, all workers", smooth=True))
    return report


def _readable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Names without underscores; a value and its standard error as one."""
    shown: dict[str, Any] = {}
    for name, value in facts.items():
        error = facts.get(f"{name}_standard_error")
        if not name.endswith("_standard_error"):
            shown[name.replace("_", " ")] = value if error is None else f"{value:.3f} ± {error:.3f}"
    return shown


def left_out(skipped: Mapping[str, Mapping[str, int]]) -> list[list[Any]]:
    """Rows of (split, reason, count) of what no step saw."""
    return [
        ["held out" if split == "heldout" else split, reason.replace("_", " "), count]
        for split, counts in skipped.items()
        for reason, count in counts.items()
    ]


def curves(
    report: Report, title: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], y: str, note: str = ""
) -> None:
    """A figure of several columns of the log; `names` maps a column to its label. Nothing when no row has one."""
    lines = {label: _line(rows, name) for name, label in names.items()}
    lines = {label: line for label, line in lines.items() if line[0]}
    if lines:
        report.figure(title, line_chart(lines, "step", y, smooth=True), note)


def mixture_section(
    report: Report, accounts: Sequence[Mapping[str, Any]], validation: Mapping[str, Mapping[str, float]]
) -> None:
    """What each source had, was to give and gave, and how well the model knows it. accounts: fields of `Account`."""
    columns = ["source", "tokens", "tokens_wanted", "tokens_got", "tokens_new", "tokens_repeated", "tokens_left_over"]
    report.table(
        "Mixture, tokens",
        [*(name.replace("tokens_", "") for name in columns), "epochs"],
        [[*(account[name] for name in columns), account["epochs"]] for account in accounts],
        "Got is new and repeated together; tokens are new and left over together; wanted is by weight alone, before "
        "max_epochs. The stage checks the sums.",
    )
    columns = ["source", "documents", "documents_got", "documents_repeated", "documents_left_over"]
    report.table(
        "Mixture, documents",
        [name.replace("documents_", "") for name in columns],
        [[account[name] for name in columns] for account in accounts],
        "A document counts as got when any part of it was; as repeated when any part came again.",
    )
    budget = max(1, sum(account["tokens_got"] for account in accounts))
    shares = {account["source"]: account["tokens_got"] / budget for account in accounts}
    report.figure("Shares of the training tokens", bar_chart(shares, "share"))
    report.table(
        "Validation by source",
        ["source", "loss", "bits per byte", "tokens"],
        [[name, row["loss"], row["bits_per_byte"], int(row["tokens"])] for name, row in validation.items()],
        "Held-out documents of each source, used in training or not.",
    )
