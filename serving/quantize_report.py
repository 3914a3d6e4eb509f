"""The report of `serve quantize`: size, memory and quality of each scheme beside the original."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.report import ACCENT, SECOND, Report, line_chart, new_figure, plain_ticks

if TYPE_CHECKING:
    from serving.quantize import Outcome

_MIB, _DRAWN = 1 << 20, 5
_COLUMNS = (
    *("", "on disk, MiB", "in memory, MiB", "share", "perplexity", "times", "bits per token", "KL, nats per token"),
    *("top-1 agreement", "runs on this machine"),
)


def build(checkpoint: str, outcomes: Sequence["Outcome"], before: Mapping[str, int], limit: float) -> Report:
    """One page: facts, the table, a plot of size against quality, perplexity by sequence."""
    made = [outcome for outcome in outcomes if outcome.problem is None]
    best = min(made, key=lambda outcome: outcome.found.kl if outcome.found else math.inf)
    report = Report("Quantization", f"{checkpoint} to {', '.join(outcome.variant.name for outcome in made)}")
    report.facts("Result", _facts(best, before, limit, len(outcomes)))
    report.table(
        "Size, memory and quality",
        _COLUMNS,
        [_original(best, before), *(_row(outcome, before) for outcome in outcomes)],
        note="In memory: the weights as an engine holds them, with 16 bits for what is not quantized. The embedding, "
        "the output layer and the norms keep their precision, so a small model shrinks by less. KL divergence and "
        "agreement compare each prediction with the original's.",
    )
    left_out = [outcome for outcome in outcomes if outcome.problem is not None]
    if left_out:
        report.table(
            "Without a checkpoint", ["scheme", "why"], [[outcome.variant.name, outcome.problem] for outcome in left_out]
        )
    if len(outcomes) > 1:
        report.figure("Size against distance from the original", _scatter(outcomes, before))
    report.figure("Perplexity of each held-out sequence", _by_sequence(best, made))
    return report


def _facts(best: "Outcome", before: Mapping[str, int], limit: float, tried: int) -> dict[str, Any]:
    found = best.found
    assert found is not None and best.disk_bytes is not None
    facts: dict[str, Any] = {"schemes tried": tried, "nearest to the original": best.variant.name} if tried > 1 else {}
    return facts | {
        "perplexity after / before": round(found.increase, 4),
        "allowed": limit,
        "top-1 agreement": f"{found.agreement:.2%}",
        "KL divergence, nats per token": found.kl,
        "size after / before": round(best.disk_bytes / before["bytes_before"], 3),
        "group size": best.group_size or "a scale for each channel",
        "layers left as they were": best.kept,
        "held-out tokens": found.tokens,
    }


def _original(best: "Outcome", before: Mapping[str, int]) -> list[Any]:
    assert best.found is not None
    perplexity = best.found.perplexity_before
    sizes = [before["bytes_before"] / _MIB, before["memory_before"] / _MIB, 1.0]
    return ["original", *sizes, perplexity, 1.0, math.log2(perplexity), 0.0, 1.0, "yes"]


def _row(outcome: "Outcome", before: Mapping[str, int]) -> list[Any]:
    found = outcome.found
    if found is None or outcome.disk_bytes is None or outcome.memory_bytes is None or outcome.runs is None:
        return [outcome.variant.name, *[None] * 8, "not made"]
    here = "yes" if outcome.runs.ok else "no"
    sizes = [outcome.disk_bytes / _MIB, outcome.memory_bytes / _MIB, outcome.memory_bytes / before["memory_before"]]
    perplexity = [found.perplexity_after, found.increase, math.log2(found.perplexity_after)]
    return [outcome.variant.name, *sizes, *perplexity, found.kl, found.agreement, f"{here}: {outcome.runs.reason}"]


def _scatter(outcomes: Sequence["Outcome"], before: Mapping[str, int]) -> Any:
    """KL divergence over size in memory; what is down and left is better."""
    figure = new_figure(height=4.0)
    axes = figure.subplots()
    axes.set_yscale("log")
    for color, label, here in ((ACCENT, "runs on this machine", True), (SECOND, "does not", False)):
        chosen = [o for o in outcomes if o.found and o.memory_bytes and o.runs and o.runs.ok is here]
        if not chosen:
            continue
        xs = [(o.memory_bytes or 0) / before["memory_before"] for o in chosen]
        ys = [max(o.found.kl, 1e-9) if o.found else 0.0 for o in chosen]
        axes.scatter(xs, ys, color=color, label=label, s=36)
        for x, y, outcome in zip(xs, ys, chosen, strict=True):
            axes.annotate(
                outcome.variant.name, (x, y), xytext=(6, 0), textcoords="offset points", fontsize=8, va="center"
            )
    axes.set_xlabel("weights in memory, share of the original's")
    axes.set_ylabel("KL divergence, nats per token")
    axes.margins(x=0.2)
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def _by_sequence(best: "Outcome", made: Sequence["Outcome"]) -> Any:
    assert best.found is not None
    first = best.found.before_by_sequence
    order = sorted(range(len(first)), key=first.__getitem__)
    places = list(range(1, len(order) + 1))
    lines = {"original": (places, [first[i] for i in order])}
    for outcome in sorted(made, key=lambda outcome: outcome.found.kl if outcome.found else math.inf)[:_DRAWN]:
        if outcome.found is not None:
            lines[outcome.variant.name] = (places, [outcome.found.after_by_sequence[i] for i in order])
    return line_chart(lines, "sequence, easiest for the original first", "perplexity", log_y=True)
