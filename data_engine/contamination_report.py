"""The part of a build's report that says which benchmark items were found in which documents."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds

from core.report import Report
from data_engine.decontaminate import DecontaminationConfig

_SAMPLES = 20


def add(
    report: Report,
    benchmarks: Mapping[str, Mapping[str, int]],
    config: DecontaminationConfig,
    common: int,
    directory: Path,
) -> dict[str, dict[str, int]]:
    """Add the section, when benchmarks were searched for. benchmarks: what `decontaminate.prepare` told; common: how
    many n-grams were passed over.

    Returns by benchmark: items, searched, items_found (in documents that were removed or cut), documents (removed for
    it), and with `action: cut` documents_cut.
    """
    if not benchmarks:
        return {}
    files = sorted((directory / "contamination").glob("*.parquet"))
    found = ds.dataset([str(file) for file in files]).to_table(filter=pc.field("removed") | pc.field("cut"))
    told: dict[str, dict[str, int]] = {}
    for name, counts in benchmarks.items():
        own = found.filter(pc.equal(found["benchmark"], name))
        told[name] = {
            **counts,
            "items_found": len(own["item"].unique()),
            "documents": len(own.filter(own["removed"])["id"].unique()),
        }
        if config.action == "cut":
            told[name]["documents_cut"] = len(own.filter(own["cut"])["id"].unique())
    passed = f" N-grams passed over, as more than {config.max_documents} documents hold them: {common:,}."
    report.table(
        "Benchmark items found",
        ["benchmark", "items", "searched", "found", "documents removed", "documents cut"][
            : 6 if config.action == "cut" else 5
        ],
        [[name, *counts.values()] for name, counts in told.items()],
        "Searched: items long enough for an n-gram. A document that holds items of several benchmarks counts for each, "
        "and is rejected for the item that it overlaps most." + (passed if config.max_documents is not None else ""),
    )
    most = found.sort_by([("overlap", "descending"), ("id", "ascending"), ("start", "ascending")]).slice(0, _SAMPLES)
    report.samples(
        "What was found",
        [
            (
                f"{row['benchmark']} {row['item']}, {row['part']}, overlap {row['overlap']:.2f}: {row['url']}",
                row["text"],
            )
            for row in most.to_pylist()
        ],
        "The runs of shared words with the largest overlaps; all of them are in contamination/.",
    )
    return told
