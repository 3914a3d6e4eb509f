"""The page of `data stats`: what there is, in which languages, what each rule rejected and what it nearly did."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.report import ACCENT, INK, SECOND, Report, bar_chart, new_figure, plain_ticks
from data_engine.census import Census, Placeholders, Text, by_reason, draw
from data_engine.policies import Policies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from data_engine.stats import StatsConfig

_SHOWN = 20
"""Rows of a table or bars of a chart; the rest is summed up."""
_BINS = 40
_NEARLY = 2
"""Kept documents shown of each rule, the nearest to its threshold."""
_DIFFERENCE_LINES = 60
_LOGARITHMIC = (
    "characters",
    "words",
    "tokens",
    "lines",
    "newlines",
    "c4_sentences",
    "c4_kept_lines",
    "c4_policy_lines",
)
"""Signals that span magnitudes."""


@dataclass
class Found:
    """What was counted: see data_engine/stats.py. sample: rows without text; rejected: (rows,) bool; policies: those
    that decided, or the defaults."""

    kept: int
    measured: int
    quarantined: int
    languages: Counter[str]
    sources: Counter[str]
    reasons: Counter[str]
    sample: pa.Table
    rejected: np.ndarray
    personal: Mapping[str, Placeholders]
    policies: Policies


def render(config: "StatsConfig", census: Census, found: Found) -> Report:
    """The whole page."""
    report = Report("Documents", f"{found.kept:,} documents in {config.documents}", contents=True)
    copies = sum(count for reason, count in found.reasons.items() if reason.startswith("dedup:"))
    characters = _values(found.sample, "characters")[~found.rejected]
    facts = {
        "kept": found.kept,
        "measured": found.measured,
        "rejected by rules": found.reasons.total() - copies,
        "copies": copies,
        "quarantined": found.quarantined,
        "languages": len(found.languages),
        "sources": len(found.sources),
        "median length, characters": int(np.median(characters)) if characters.size else 0,
    }
    report.facts("Overview", facts, "Measured is kept, rejected and copies together; the stage checks it.")
    if found.reasons:
        report.figure("Why documents went", bar_chart(_largest(found.reasons), "documents"))
    if found.languages:
        report.table("Languages", ["language", "kept", "share", "rejected"], _by(found, "language", found.languages))
    if found.sources:
        report.table("Sources", ["source", "kept", "share", "rejected"], _by(found, "source", found.sources))
    report.figure("Length", _histogram(found, "characters"), _plotted(found))
    if "language_score" in found.sample.column_names:
        report.figure("Language score", _histogram(found, "language_score"))
    _signals(report, found)
    _kept(report, config, census, found)
    _rules(report, config, census, found)
    _clusters(report, config, census)
    _personal(report, found)
    return report


def _values(sample: pa.Table, column: str) -> np.ndarray:
    return sample[column].cast(pa.float64()).to_numpy()


def _largest(counts: Counter[str]) -> dict[str, float]:
    shown: dict[str, float] = dict(counts.most_common(_SHOWN))
    if len(counts) > _SHOWN:
        shown[f"{len(counts) - _SHOWN} others"] = counts.total() - sum(shown.values())
    return shown


def _by(found: Found, column: str, kept: Counter[str]) -> list[list[Any]]:
    """Rows of a table by language or source; what was rejected is estimated where the sample is one."""
    lost = Counter(name or "unknown" for name in found.sample.filter(pa.array(found.rejected))[column].to_pylist())
    scale = found.measured / max(1, found.sample.num_rows)
    names = Counter({name: kept[name] + lost[name] * scale for name in {*kept, *lost}})
    rows = [
        [name, kept[name], f"{kept[name] / max(1, found.kept):.1%}", round(lost[name] * scale)]
        for name, _ in sorted(names.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    ]
    rest = [name for name in names if name not in {row[0] for row in rows}]
    if rest:
        held = sum(kept[name] for name in rest)
        gone = round(sum(lost[name] for name in rest) * scale)
        rows.append([f"{len(rest)} others", held, f"{held / max(1, found.kept):.1%}", gone])
    return rows


def _plotted(found: Found) -> str:
    if found.sample.num_rows == found.measured:
        return ""
    return (
        f"Histograms and what is rejected by language or source: from {found.sample.num_rows:,} documents, every k-th."
    )


# --- histograms ---------------------------------------------------------------------------------------------------


def _histogram(found: Found, column: str, by_rule: Sequence[str] = (), threshold: float | None = None) -> "Figure":
    """All rejected documents, or with a threshold those of one rule, whose ids are `by_rule`: mostly a few of many."""
    figure = new_figure(height=2.6 if threshold is None else 1.9)
    axes = figure.subplots()
    groups = {"kept": ~found.rejected, "rejected": found.rejected}
    if threshold is not None:
        groups["rejected"] = pc.is_in(found.sample["id"], pa.array(by_rule, pa.string())).to_numpy()
        axes.set_yscale("symlog")
    _draw(axes, found, column, groups, [threshold] if threshold is not None else [])
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.set_xlabel(column.replace("_", " "))
    axes.set_ylabel("documents")
    if found.rejected.any():
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def _draw(
    axes: "Axes", found: Found, column: str, groups: Mapping[str, np.ndarray], thresholds: Sequence[float]
) -> None:
    """Groups of documents, one on the other; what lies beyond the middle 99 % goes into the outer bins."""
    values = _values(found.sample, column)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return
    low, high = np.quantile(finite, [0.005, 0.995])
    low, high = min([low, *thresholds]), max([high, *thresholds])
    if column in _LOGARITHMIC:
        low, high = max(1.0, low), max(10.0, high)
        edges = np.geomspace(low, high, _BINS + 1)
        axes.set_xscale("log")
    else:
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    clipped = [np.clip(values[group & np.isfinite(values)], edges[0], edges[-1]) for group in groups.values()]
    axes.hist(clipped, bins=edges.tolist(), stacked=True, color=[ACCENT, SECOND], label=list(groups))
    for threshold in thresholds:
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.0)


def _signals(report: Report, found: Found) -> None:
    """Small multiples: every signal that a rule bounds, with its thresholds."""
    thresholds: dict[str, list[float]] = {}
    for rule in (rule for policy in found.policies.enabled() for rule in policy.rules()):
        if rule.signal in found.sample.column_names:
            bounds = [bound for bound in (rule.at_least, rule.at_most) if bound is not None]
            thresholds.setdefault(rule.signal, []).extend(bounds)
    names = [name for name in thresholds if len(np.unique(_values(found.sample, name))) > 1]
    if not names:
        return
    columns = 4
    height = 1.55 * -(-len(names) // columns)
    figure = new_figure(width=10.5, height=height)
    grid = figure.subplots(-(-len(names) // columns), columns, squeeze=False).flatten()
    for axes, name in zip(grid, names, strict=False):
        _draw(axes, found, name, {"kept": ~found.rejected, "rejected": found.rejected}, thresholds[name])
        axes.set_title(name.replace("_", " "), fontsize=8)
        axes.set_yscale("symlog")
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        axes.tick_params(labelsize=6)
        axes.minorticks_off()
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    note = "Documents on a logarithmic scale, kept below and rejected above; dashed: the threshold of a rule."
    report.figure("Signals", figure, note)


# --- samples ------------------------------------------------------------------------------------------------------


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]} ... ({len(text):,} characters)"


def _kept(report: Report, config: "StatsConfig", census: Census, found: Found) -> None:
    kept = found.sample.filter(pa.array(~found.rejected))
    languages: list[str | None] = [name for name, _ in found.languages.most_common(8)]
    chosen = []
    for language in languages or [None]:
        rows = kept.filter(pc.equal(kept["language"], language)) if language is not None else kept
        chosen += [(language, name) for name in draw(rows["id"].to_pylist(), config.kept_samples, config.seed, "kept")]
    texts = census.texts(name for _, name in chosen)
    shown = [
        (f"{f'{language}: ' if language else ''}{texts[name].url}", _cut(texts[name].text, config.sample_characters))
        for language, name in chosen
    ]
    report.samples("Kept texts", shown, "Drawn by a hash of their ids.")


def _rules(report: Report, config: "StatsConfig", census: Census, found: Found) -> None:
    """One section for each reason: how its signal is spread, what it rejected, and what it nearly rejected."""
    groups = {reason: rows for reason, rows in by_reason(census.rejects).items() if not reason.startswith("dedup:")}
    drawn = {}
    for reason, rows in groups.items():
        names = draw([row["id"] for row in rows], config.samples_per_rule, config.seed, reason)
        drawn[reason] = [next(row for row in rows if row["id"] == name) for name in names]
    near = {reason: _nearly(found, reason, rows) for reason, rows in groups.items()}
    wanted = [row["id"] for rows in drawn.values() for row in rows] + [
        name for rows in near.values() for name, _ in rows
    ]
    texts = census.texts(wanted)
    for reason, rows in groups.items():
        signal, threshold = _signal(found, reason), rows[0]["threshold"]
        share = f"{len(rows):,} documents, {len(rows) / max(1, found.measured):.2%} of those measured"
        title = reason
        if signal in found.sample.column_names and threshold is not None:
            figure = _histogram(found, signal, [row["id"] for row in rows], threshold)
            report.figure(title, figure, f"{share}; threshold {threshold:g}.")
            title = ""
        shown = [
            (f"rejected, {_measured(row)}{texts[row['id']].url}", _cut(texts[row["id"]].text, config.sample_characters))
            for row in drawn[reason]
        ]
        shown += [
            (f"nearly, kept at {value:.4g}: {texts[name].url}", _cut(texts[name].text, config.sample_characters))
            for name, value in near[reason]
        ]
        report.samples(title, shown, "" if not title else f"{share}.")


def _measured(row: Mapping[str, Any]) -> str:
    return "" if row["value"] is None else f"{row['value']:.4g}: "


def _signal(found: Found, reason: str) -> str:
    policy, _, name = reason.partition(":")
    if reason == "language:low_score":
        return "language_score"
    rules = (rule for entry in found.policies.enabled() if entry.name == policy for rule in entry.rules())
    return next((rule.signal for rule in rules if rule.name == name), "")


def _nearly(found: Found, reason: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Kept documents whose signal is nearest to the threshold that the rule applied."""
    signal, threshold = _signal(found, reason), rows[0]["threshold"]
    if signal not in found.sample.column_names or threshold is None:
        return []
    values = _values(found.sample, signal)
    distance = np.where(found.rejected | ~np.isfinite(values), np.inf, np.abs(values - threshold))
    places = np.argsort(distance, kind="stable")[:_NEARLY]
    ids = found.sample["id"]
    return [(ids[int(place)].as_py(), float(values[place])) for place in places if np.isfinite(distance[place])]


# --- copies and personal data -------------------------------------------------------------------------------------


def _clusters(report: Report, config: "StatsConfig", census: Census) -> None:
    if not census.duplicates.num_rows:
        return
    sizes = Counter(census.duplicates["cluster_id"].to_pylist())
    spread = Counter(count + 1 for count in sizes.values())
    figure = new_figure(height=2.6)
    left, right = figure.subplots(1, 2)
    left.bar(range(len(spread)), [spread[size] for size in sorted(spread)], color=ACCENT)
    left.set_xticks(range(len(spread)), [str(size) for size in sorted(spread)], fontsize=7)
    left.set_xlabel("documents in a cluster, the survivor among them")
    left.set_ylabel("clusters")
    near = census.duplicates.filter(pc.equal(census.duplicates["kind"], "near"))
    right.hist(near["jaccard"].to_numpy(), bins=_BINS, color=ACCENT)
    right.set_xlabel("Jaccard similarity of a near copy to its survivor")
    right.set_ylabel("near copies")
    report.figure("Clusters of copies", figure)
    report.samples(
        "Largest clusters, and how their copies differ",
        list(_examples(config, census, [cluster for cluster, _ in sizes.most_common(config.clusters)])),
        "The survivor against its least similar copy: - is the survivor, + the copy.",
    )


def _examples(config: "StatsConfig", census: Census, clusters: Sequence[str]) -> Iterator[tuple[str, str]]:
    rows = census.duplicates.filter(pc.is_in(census.duplicates["cluster_id"], pa.array(clusters, pa.string())))
    members: dict[str, list[Mapping[str, Any]]] = {cluster: [] for cluster in clusters}
    for row in rows.to_pylist():
        members[row["cluster_id"]].append(row)
    farthest = {cluster: min(found, key=lambda row: (row["jaccard"], row["id"])) for cluster, found in members.items()}
    texts = census.texts([name for row in farthest.values() for name in (row["id"], row["survivor_id"])])
    for cluster, row in farthest.items():
        survivor, copy = texts.get(row["survivor_id"]), texts[row["id"]]
        size = len(members[cluster]) + 1
        if survivor is None:
            yield (
                f"{size} documents; the survivor {row['survivor_id']} is in another artifact",
                _cut(copy.text, config.sample_characters),
            )
        else:
            label = f"{size} documents, {row['jaccard']:.2f} at least: {survivor.url}"
            yield label, _difference(survivor, copy)


def _difference(survivor: Text, copy: Text) -> str:
    lines = list(
        difflib.unified_diff(
            survivor.text.splitlines(), copy.text.splitlines(), survivor.url, copy.url, lineterm="", n=1
        )
    )
    if not lines:
        return f"{copy.url} has the same text."
    cut = [line if len(line) <= 400 else f"{line[:400]} ..." for line in lines[:_DIFFERENCE_LINES]]
    more = len(lines) - len(cut)
    return "\n".join([*cut, f"... {more} more lines"] if more else cut)


def _personal(report: Report, found: Found) -> None:
    if not found.personal:
        return
    rows = [[kind, held.count, held.documents] for kind, held in found.personal.items()]
    report.table("Personal data", ["kind", "placeholders", "documents"], rows, "Placeholders in the kept texts.")
    shown = [
        (f"{kind}: {example.url}", example.text) for kind, held in found.personal.items() for example in held.examples
    ]
    report.samples("Personal data in its context", shown)
