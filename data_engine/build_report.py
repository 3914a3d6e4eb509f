"""The report of a build: where documents went, in which languages, which copies, which texts each rule rejected."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from core.report import ACCENT, Report, bar_chart, new_figure, plain_ticks, show
from data_engine.balance import Balance

if TYPE_CHECKING:
    from data_engine.build import BuildConfig

_LANGUAGES = 20
_CLUSTERS = 15
_LARGEST = 20
_SAMPLES_PER_RULE = 3
_RULES_SAMPLED = 25
_SAMPLE_CHARACTERS = 1500


def render(
    config: "BuildConfig",
    balance: Balance,
    dedup: Mapping[str, int],
    directory: Path,
    answered: str | None,
    worked: Sequence[Mapping[str, Any]],
    timings: Mapping[str, float],
) -> Report:
    """The page. worked: what the first map's tasks of this run told (none when all was resumed)."""
    report = Report("Data build", f"{balance.read:,} documents read, {balance.kept:,} kept")
    facts: dict[str, Any] = {
        "read": balance.read,
        "kept": balance.kept,
        "rejected by rules": sum(n for reason, n in balance.rejected.items() if not reason.startswith("dedup:")),
        "duplicates": sum(n for reason, n in balance.rejected.items() if reason.startswith("dedup:")),
        "quarantined": balance.quarantined,
    }
    if answered is not None:
        facts["answer key"] = answered
    report.facts(
        "Documents", facts, "Read is kept, rejected, duplicates and quarantined together; the stage checks it."
    )
    funnel = _funnel(balance)
    report.figure(
        "Funnel of documents", bar_chart(funnel, "documents left after each step", _with_losses(list(funnel.values())))
    )
    report.table(
        "Rejected, by rule",
        ["rule", "documents", "% of those read"],
        [[reason, count, 100 * count / balance.read] for reason, count in balance.rejected.most_common()],
        "A document leaves at the first rule that it breaks; rejects/ holds its id, the value and the threshold.",
    )

    kept = ds.dataset(_files(directory / "documents")).to_table(columns=["language", "source"])
    languages = _tally(kept["language"])
    if languages:
        shown = dict(languages.most_common(_LANGUAGES))
        if len(languages) > _LANGUAGES:
            shown[f"{len(languages) - _LANGUAGES} others"] = languages.total() - sum(shown.values())
        report.figure(
            "Languages of the documents kept",
            bar_chart(shown, "documents, logarithmic axis", log=True),
            "ISO 639 codes, as fastText identified them.",
        )
    if len(config.sources) > 1:
        report.table("Sources", ["source", "kept"], [[s, n] for s, n in _tally(kept["source"]).most_common()])
    _copies(report, dedup, directory)
    if balance.pii:
        report.table("Personal data replaced", ["kind", "found"], [[k, n] for k, n in balance.pii.most_common()])
    report.table(
        "Records without a document",
        ["kind", "records"],
        [[kind, n] for kind, n in balance.skipped.most_common()],
        "Requests, metadata and the like: they are no documents and count nowhere above.",
    )
    _throughput(report, worked, timings)
    report.samples(
        "Rejected texts",
        _samples(directory),
        "A few of each rule, with the value measured and the threshold.",
    )
    return report


def _funnel(balance: Balance) -> dict[str, float]:
    """Documents left after each step, steps in the order in which they judge."""
    by_step: Counter[str] = Counter()
    for reason, count in balance.rejected.items():
        by_step[reason if reason.startswith("dedup:") else reason.partition(":")[0]] += count
    order = ["extract", "language", "toxicity", "gopher_repetition", "gopher_quality", "c4", "fineweb"]
    order += ["dedup:exact", "dedup:near", "repeated_text", "decontaminate"]
    left = balance.read
    funnel: dict[str, float] = {"read": left}
    left -= balance.quarantined
    funnel["readable"] = left
    for step in order:
        if by_step[step]:
            left -= by_step[step]
            funnel[step.replace("_", " ").replace("dedup:", "duplicates, ")] = left
    return funnel


def _with_losses(left: Sequence[float]) -> list[str]:
    """The label of each bar of a funnel: what is left, and what this step took."""
    return [show(left[0]), *(f"{show(after)}  (-{show(before - after)})" for before, after in pairwise(left))]


def _copies(report: Report, dedup: Mapping[str, int], directory: Path) -> None:
    duplicates = ds.dataset(_files(directory / "duplicates")).to_table(filter=ds.field("kind") != "substring")
    if not duplicates.num_rows:
        return
    facts = {name.replace("_", " "): dedup[name] for name in dedup}
    report.facts(
        "Copies",
        facts,
        "Exact and near: documents removed. Candidate pairs share a band of their MinHash signatures; verified ones "
        "reach the threshold of Jaccard similarity; skipped ones were left out of buckets too full to compare all "
        "with all. Components are groups joined by verified pairs.",
    )
    clusters = Counter(duplicates["cluster_id"].to_pylist())
    sizes = Counter(min(count + 1, _LARGEST) for count in clusters.values())
    figure = new_figure()
    axes = figure.subplots()
    bars = axes.bar(sorted(sizes), [sizes[size] for size in sorted(sizes)], color=ACCENT)
    axes.bar_label(bars, padding=2, fontsize=9)
    axes.set_xticks(sorted(sizes), [f"{size}" if size < _LARGEST else f"{size}+" for size in sorted(sizes)])
    axes.set_xlabel("documents in a cluster, the survivor among them")
    axes.set_ylabel("clusters, logarithmic axis")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)  # a bar of one is a bar
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    plain_ticks(axes.yaxis)
    report.figure("Duplicate clusters", figure)
    largest = clusters.most_common(_CLUSTERS)
    survivors = {
        row["cluster_id"]: row["survivor_id"]
        for row in duplicates.filter(pc.is_in(duplicates["cluster_id"], pa.array([c for c, _ in largest]))).to_pylist()
    }
    urls = _of_ids(directory, list(survivors.values()), "url")
    report.table(
        "Largest clusters",
        ["documents", "survivor"],
        [[count + 1, urls.get(survivors[cluster], survivors[cluster])] for cluster, count in largest],
        "Documents that say the same, and the one of them that stays.",
    )


def _of_ids(directory: Path, ids: Sequence[str], column: str) -> dict[str, str]:
    """A column of the documents with these ids. Only row groups that hold one are read: they are few of many."""
    wanted = pa.array(ids, pa.string())
    found: dict[str, str] = {}
    for path in _files(directory / "measured"):
        with pq.ParquetFile(path) as file:
            held = pc.is_in(file.read(columns=["id"])["id"], wanted).to_numpy()
            starts = np.cumsum([0, *(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups))])
            groups = np.unique(np.searchsorted(starts, np.flatnonzero(held), "right") - 1)
            if groups.size:
                table = file.read_row_groups(groups.tolist(), columns=["id", column])
                table = table.filter(pc.is_in(table["id"], wanted))
                found.update(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))
    return found


def _tally(column: pa.ChunkedArray) -> Counter[str]:
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()})


def _throughput(report: Report, worked: Sequence[Mapping[str, Any]], timings: Mapping[str, float]) -> None:
    documents = sum(result["documents"] for result in worked)
    if not documents:
        return
    seconds: Counter[str] = Counter()
    for result in worked:
        seconds.update(result["seconds"])
    rows = [
        [step.replace("_", " and "), documents, spent, documents / spent]
        for step, spent in seconds.items()
        if spent > 0
    ]
    report.table(
        "Throughput of the measuring tasks",
        ["step", "documents", "core seconds", "documents per second and core"],
        rows,
        "Clock time inside the tasks, compilation of kernels on a first run included.",
    )
    report.table(
        "Time by step", ["step", "seconds"], [[step.replace("_", " "), spent] for step, spent in timings.items()]
    )


def _samples(directory: Path) -> list[tuple[str, str]]:
    """Texts of the first rejected ids of each rule: the same ones on every run."""
    rejects = ds.dataset(_files(directory / "rejects")).to_table()
    rules = Counter(rejects["reason"].to_pylist()).most_common(_RULES_SAMPLED)
    chosen: dict[str, dict[str, Any]] = {}
    for reason, _ in rules:
        if reason.startswith(("extract:", "dedup:exact")):
            continue
        rows = rejects.filter(pc.equal(rejects["reason"], reason)).sort_by("id").slice(0, _SAMPLES_PER_RULE)
        chosen.update({row["id"]: row for row in rows.to_pylist()})
    by_id = _of_ids(directory, list(chosen), "text")
    return [(_label(row), by_id[identity][:_SAMPLE_CHARACTERS]) for identity, row in chosen.items()]


def _label(row: Mapping[str, Any]) -> str:
    value = "" if row["value"] is None else f" {row['value']:.4g}"
    limit = "" if row["threshold"] is None else f" (threshold {row['threshold']:.4g})"
    return f"{row['reason']}{value}{limit}: {row['url']}"


def _files(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.parquet"))]
