"""Self-contained HTML reports: facts, tables and plots in one file that opens without a network."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, ACCENT, SECOND, MUTED = "#1f2933", "#1f6f8b", "#c8553d", "#9aa5b1"
_SMOOTHED, _WINDOWS, _MARKED = 100, 40, 12
"""Points from which a line is smoothed, windows on it, points below which each is marked."""


@dataclass(frozen=True)
class Section:
    """One block of a report; `kind` chooses its markup in report.html.j2."""

    kind: str
    title: str
    body: Any
    note: str = ""


class Report:
    """Collects sections in order; `render()` gives the page. A section without a title belongs to the one before it.

    contents: list the sections with links to them at the top, for pages of many sections.
    """

    def __init__(self, title: str, summary: str = "", contents: bool = False) -> None:
        self.title = title
        self.summary = summary
        self.contents = contents
        self.sections: list[Section] = []
        self._figures = count()

    def facts(self, title: str, facts: Mapping[str, Any], note: str = "") -> None:
        """Names and values, the headline numbers first."""
        self.sections.append(Section("facts", title, {name: show(value) for name, value in facts.items()}, note))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
        """Numbers are aligned right, with the same number of decimals down a column; an empty table says so."""
        cells = [show_column([row[i] for row in rows]) for i in range(len(columns))]
        numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
        body = {"columns": list(columns), "rows": list(zip(*cells, strict=True)), "numeric": numeric}
        self.sections.append(Section("table", title, body, note))

    def figure(self, title: str, figure: "Figure", note: str = "") -> None:
        """A matplotlib figure, embedded as SVG."""
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        # Two figures of one page must not share ids: a clip path of the first would cut the second.
        prefix = f"f{next(self._figures)}-"
        svg = re.sub(r'(id="|url\(#|href="#)', lambda match: match.group(1) + prefix, svg)
        self.sections.append(Section("figure", title, Markup(svg), note))

    def samples(self, title: str, samples: Sequence[tuple[str, str]], note: str = "") -> None:
        """Pairs of a label and a text that may be long."""
        self.sections.append(Section("samples", title, list(samples), note))

    def links(self, title: str, links: Sequence[tuple[str, str, Sequence[str]]], note: str = "") -> None:
        """A text, a relative address and the lines that say what is there."""
        self.sections.append(Section("links", title, list(links), note))

    def render(self) -> str:
        """The whole page; every text is escaped."""
        environment = Environment(
            loader=PackageLoader("core", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        return environment.get_template("report.html.j2").render(
            title=self.title, summary=self.summary, sections=self.sections, contents=self.contents
        )


def new_figure(width: float = 9.0, height: float = 3.2) -> "Figure":
    """A figure in the reports' look, drawn without a display; `plain_ticks` finishes its axes."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "raymill",
            "font.family": "sans-serif",
            "font.size": 10,
            # A question or a name that holds two dollar signs is no formula.
            "text.parse_math": False,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e7eb",
            "axes.axisbelow": True,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
        }
    )
    return Figure(figsize=(width, height), layout="constrained")


def plain_ticks(axis: "Axis") -> None:
    """Numbers of an axis as the tables have them, 1,000 and 0.001, on a linear or a logarithmic scale."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    log_y: bool = False,
    levels: Mapping[str, float] | None = None,
    smooth: bool = False,
) -> "Figure":
    """Named lines of (x values, y values). levels: values to compare with; smooth: draw running means of long lines."""
    figure = new_figure()
    axes = figure.subplots()
    if log_y:
        axes.set_yscale("log")
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    for color, (name, (xs, ys)) in zip([ACCENT, SECOND, INK, MUTED] * 3, lines.items(), strict=False):
        if smooth and len(xs) >= _SMOOTHED:
            axes.plot(xs, ys, color=color, alpha=0.25, linewidth=0.8)
        strong = running_mean(ys, len(xs) // _WINDOWS) if smooth and len(xs) >= _SMOOTHED else ys
        marker = "o" if len(xs) < _MARKED else None
        axes.plot(xs, strong, color=color, label=name, linewidth=1.6, marker=marker, markersize=5)
    for name, level in (levels or {}).items():
        axes.axhline(level, color=MUTED, linestyle="--", linewidth=1.2, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(lines) + len(levels or {}) > 1:
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def running_mean(values: Sequence[float], window: int) -> Any:
    """Mean over about `window` neighbours, fewer at the ends; same length as `values`."""
    ones = np.ones(2 * (window // 2) + 1)
    numbers = np.asarray(values, dtype=float)
    weights = np.convolve(np.ones_like(numbers), ones, mode="same")
    return np.convolve(numbers, ones, mode="same") / weights


def bar_chart(
    values: Mapping[str, float], label: str, labels: Sequence[str] | None = None, log: bool = False
) -> "Figure":
    """Horizontal bars, first on top, each with its value or its text of `labels`; log: counts of many magnitudes."""
    figure = new_figure(height=max(1.2, 0.32 * len(values) + 0.7))
    axes = figure.subplots()
    numbers = list(values.values())
    bars = axes.barh(list(values), numbers, color=ACCENT)
    axes.bar_label(bars, labels=labels or show_column(numbers), padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(left=0.5)  # a bar of one is a bar
    plain_ticks(axes.xaxis)
    return figure


def show(value: Any) -> str:
    """A value as people read it: 12,345 and 0.01234, the rest as it is."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return str(value)


def show_column(values: Sequence[Any]) -> list[str]:
    """Values one below the other: numbers share the decimals that give the largest four digits; shares have three."""
    fractions = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    if not fractions or not _is_numeric(values):
        return [show(value) for value in values]
    magnitude = math.floor(math.log10(max(fractions))) if max(fractions) > 0 else 0
    decimals = 3 if magnitude == -1 else max(0, 3 - magnitude)
    return ["" if value is None else f"{value:,.{decimals}f}" for value in values]


def _is_numeric(values: Sequence[Any]) -> bool:
    given = [value for value in values if value is not None]
    return bool(given) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
