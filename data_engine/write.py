"""The last map: of each shard, write the documents that stay and what became of the others."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import decontaminate, measure, repeated_text, rows
from data_engine.decontaminate import DecontaminationConfig
from data_engine.dedup_index import Earlier
from data_engine.measure import Folders
from data_engine.pii import PiiConfig, scrub
from data_engine.repeated_text import RepeatedTextConfig, Repeats
from data_engine.sources import Shard
from data_engine.tables import TableWriter, write_table

REJECTS = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
    ]
)
DUPLICATES = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("cluster_id", pa.string()),
        ("survivor_id", pa.string()),
        ("survivor_artifact", pa.string()),
        ("jaccard", pa.float64()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)
"""start, end: of kind substring, the characters of the measured text that were cut; the survivor holds those words."""

EXACT, NEAR = "dedup:exact", "dedup:near"
"""Reasons of duplicates in rejects/: value is the Jaccard similarity to the survivor."""


def write_shard(
    shard: Shard,
    number: int,
    removals: Sequence[Path],
    earlier: Earlier,
    threshold: float,
    repeated: RepeatedTextConfig,
    repeats: Repeats,
    decontamination: DecontaminationConfig,
    pii: PiiConfig,
    folders: Folders,
) -> dict[str, Any]:
    """Write what became of a shard's documents, `documents/` last."""
    measured = pq.read_table(folders.measured(shard.name)).replace_schema_metadata(None)
    decided = pq.read_table(folders.scratch("decided", shard.name, "parquet"))
    removed = rows.read_refs(removals, number) if removals else np.zeros(0, rows.REMOVAL)
    removed = removed[np.argsort(removed["ref"])]
    places = rows.row_of(removed["ref"])
    ids = measured["id"].to_pylist()

    duplicates = _duplicates(removed, [ids[place] for place in places], earlier)
    reasons = decided["reason"].to_pylist()
    values = decided["value"].to_numpy().copy()
    thresholds = decided["threshold"].to_numpy().copy()
    for place, removal in zip(places, removed, strict=True):
        assert reasons[place] is None, "a document was rejected and removed as a duplicate"
        reasons[place] = NEAR if removal["near"] else EXACT
        values[place] = removal["jaccard"]
        thresholds[place] = threshold if removal["near"] else 1.0
    if repeated.enabled:
        there = np.flatnonzero([reason is None for reason in reasons])
        edited = repeated_text.edit_shard(measured.take(there), there, (shard.name, number), repeats, repeated, folders)
        measured = _with_texts(measured, dict(zip(there.tolist(), edited.texts, strict=True)))
        for place, words in zip(there[edited.short >= 0], edited.short[edited.short >= 0], strict=True):
            reasons[place], values[place], thresholds[place] = repeated_text.TOO_SHORT, words, repeated.min_words
        duplicates = pa.concat_tables([duplicates, pa.Table.from_pylist(edited.spans, DUPLICATES)])
    write_table(folders.duplicates(shard.name), duplicates)
    if decontamination.benchmarks:
        left = [place for place, reason in enumerate(reasons) if reason is None]
        held = decontaminate.judge_shard(measured.take(left), decontamination, shard.name, folders)
        for place, benchmark, overlap in zip(left, held.benchmark, held.overlap, strict=True):
            if benchmark >= 0:
                reasons[place] = f"decontaminate:{decontamination.benchmarks[benchmark].name}"
                values[place], thresholds[place] = overlap, decontamination.min_overlap
        measured = _with_texts(measured, {left[document]: text for document, text in held.texts.items()})
    stays = np.array([reason is None for reason in reasons], bool)
    gone = ~stays
    with TableWriter(folders.rejects(shard.name), REJECTS) as writer:
        rejected = measured.select(["id", "url"]).filter(pa.array(gone))
        writer.metadata["raymill"] = json.dumps(dict(sorted(Counter(r for r in reasons if r).items())))
        columns = [
            rejected["id"],
            rejected["url"],
            [reason for reason in reasons if reason],
            pa.array(values[gone], from_pandas=True),
            pa.array(thresholds[gone], from_pandas=True),
        ]
        writer.write(pa.table(columns, REJECTS))

    found: Counter[str] = Counter()
    with TableWriter(folders.documents(shard.name), measured.schema) as writer:
        kept = measured.filter(pa.array(stays))
        for start in range(0, kept.num_rows, measure.BATCH):
            part = kept.slice(start, measure.BATCH)
            writer.write(_scrubbed(part, pii, found) if pii.kinds() else part)
        writer.metadata["raymill"] = json.dumps({"documents": kept.num_rows, "pii": dict(sorted(found.items()))})
    return {"documents": kept.num_rows}


def _with_texts(table: pa.Table, texts: Mapping[int, str]) -> pa.Table:
    """The same rows with other texts in some of them. texts: by row."""
    if not texts:
        return table
    whole = table["text"].to_pylist()
    for place, text in texts.items():
        whole[place] = text
    column = table.schema.get_field_index("text")
    return table.set_column(column, table.schema.field("text"), pa.array(whole, pa.large_string()))


def _scrubbed(part: pa.Table, pii: PiiConfig, found: Counter[str]) -> pa.Table:
    """Documents without personal data; what was found is added up."""
    texts = []
    for text in part["text"].to_pylist():
        scrubbed, counts = scrub(text, pii.kinds())
        texts.append(scrubbed)
        found.update(counts)
    column = part.schema.get_field_index("text")
    return part.set_column(column, part.schema.field("text"), pa.array(texts, pa.large_string()))


def _duplicates(removed: np.ndarray, ids: list[str], earlier: Earlier) -> pa.Table:
    columns = [
        ids,
        ["near" if near else "exact" for near in removed["near"]],
        [rows.hexadecimal(row["cluster_hi"], row["cluster_lo"]) for row in removed],
        [rows.hexadecimal(row["survivor_hi"], row["survivor_lo"]) for row in removed],
        earlier.artifact_of(removed["survivor"]),
        removed["jaccard"],
        *([None] * len(ids), [None] * len(ids)),
    ]
    return pa.table(columns, DUPLICATES)
