"""Self-contained HTML reports: facts, tables and plots in one file that opens without a network."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT, SECOND, MUTED = "#1f2933", "#1f6f8b", "#c8553d", "#9aa5b1"


@dataclass(frozen=True)
class Section:
    """One block of a report; `kind` chooses its markup in report.html.j2."""

    kind: str
    title: str
    body: Any
    note: str = ""


class Report:
    """Collects sections in order; `render()` gives the page."""

    def __init__(self, title: str, summary: str = "") -> None:
        self.title = title
        self.summary = summary
        self.sections: list[Section] = []
        self._figures = count()

    def facts(self, title: str, facts: Mapping[str, Any], note: str = "") -> None:
        """Names and values, the headline numbers first."""
        self.sections.append(Section("facts", title, {name: show(value) for name, value in facts.items()}, note))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
        """Numbers are aligned right; an empty table says so."""
        numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
        body = {"columns": list(columns), "rows": [[show(cell) for cell in row] for row in rows], "numeric": numeric}
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

    def links(self, title: str, links: Sequence[tuple[str, str]], note: str = "") -> None:
        """Pairs of a text and a relative address."""
        self.sections.append(Section("links", title, list(links), note))

    def render(self) -> str:
        """The whole page; every text is escaped."""
        environment = Environment(
            loader=PackageLoader("core", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        return environment.get_template("report.html.j2").render(
            title=self.title, summary=self.summary, sections=self.sections
        )


def new_figure(width: float = 7.0, height: float = 3.0) -> "Figure":
    """A figure in the reports' look, drawn without a display."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "raymill",
            "font.family": "sans-serif",
            "font.size": 10,
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


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, log_y: bool = False
) -> "Figure":
    """Named lines of (x values, y values)."""
    figure = new_figure()
    axes = figure.subplots()
    for color, (name, (xs, ys)) in zip([ACCENT, SECOND, INK, MUTED] * 3, lines.items(), strict=False):
        axes.plot(xs, ys, color=color, label=name, linewidth=1.4, marker="o" if len(xs) < 12 else None, markersize=3)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log_y:
        axes.set_yscale("log")
    if len(lines) > 1:
        axes.legend(frameon=False)
    return figure


def bar_chart(values: Mapping[str, float], label: str) -> "Figure":
    """Horizontal bars, first on top, each with its value."""
    figure = new_figure(height=max(1.2, 0.32 * len(values) + 0.7))
    axes = figure.subplots()
    names = list(values)
    bars = axes.barh(names, list(values.values()), color=ACCENT)
    axes.bar_label(bars, labels=[show(value) for value in values.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    return figure


def show(value: Any) -> str:
    """A value as people read it: 12,345 and 0.01234, the rest as it is."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)
