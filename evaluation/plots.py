"""Scores drawn: a panel for each task and metric, a point with its interval for each model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.report import ACCENT, MUTED, new_figure, plain_ticks
from evaluation.metrics import METRICS, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3


def score_chart(scores: Sequence[Score], guesses: Mapping[str, float]) -> "Figure":
    """Small panels side by side, each with its own scale: bits and shares do not mix."""
    panels: dict[str, list[Score]] = {}
    for score in scores:
        panels.setdefault(f"{score.task}.{score.metric}", []).append(score)
    lines = -(-len(panels) // _COLUMNS)
    figure = new_figure(height=0.6 + 1.8 * lines)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.08)
    axes_of = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes, (name, found) in zip(axes_of, panels.items(), strict=False):
        values = [score.estimate.value for score in found]
        below = [max(0.0, score.estimate.value - score.estimate.low) for score in found]
        above = [max(0.0, score.estimate.high - score.estimate.value) for score in found]
        places = range(len(found))
        axes.errorbar(values, places, xerr=[below, above], fmt="o", color=ACCENT, capsize=3, markersize=4)
        if name in guesses:
            axes.axvline(guesses[name], color=MUTED, linestyle=":")
        axes.set_yticks(list(places), [score.model for score in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_title(found[0].task, fontsize=9)
        axes.set_xlabel(METRICS[found[0].metric].label, fontsize=8)
        axes.tick_params(labelsize=8)
        plain_ticks(axes.xaxis)
    for axes in axes_of[len(panels) :]:
        axes.set_visible(False)
    return figure
