"""Text that repeats across the corpus is cut out of the documents that hold it; what is too short then is rejected.

What repeats is found on the measured text; signals, language and copies were judged on that text too. Only benchmark
items and personal data are looked for in what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import Field

from core.config import Config
from core.report import Report
from core.run import Run
from data_engine import repeated_lines, repeated_spans, rows
from data_engine.cut import cut, merged
from data_engine.measure import Folders
from data_engine.repeated_lines import RepeatedLinesConfig
from data_engine.repeated_spans import RepeatedSpansConfig
from data_engine.tables import write_table
from data_engine.words import count_words

TOO_SHORT = "repeated_text:too_short"
"""Reason in rejects/: value is the number of words left."""

EDITS = pa.schema(
    [
        ("id", pa.string()),
        ("lines", pa.int64()),
        ("spans", pa.int64()),
        ("characters_before", pa.int64()),
        ("characters", pa.int64()),
        ("words", pa.int64()),
        ("removed", pa.bool_()),
    ]
)
"""edits/: one row for each document that lost text. lines, spans: segments and long spans it lost;
characters, words: what is left; removed: whether that is too short."""


class RepeatedTextConfig(Config):
    """Text that occurs in several documents; removed from documents that stay."""

    lines: RepeatedLinesConfig = Field(
        default_factory=RepeatedLinesConfig, description="lines, paragraphs or spans of sentences"
    )
    substrings: RepeatedSpansConfig = Field(
        default_factory=RepeatedSpansConfig, description="long spans of words, wherever they begin"
    )
    min_words: int = Field(
        50, ge=0, description="a document that lost text and has fewer words left is rejected; Gopher's least is 50"
    )

    @property
    def enabled(self) -> bool:
        """Whether anything is looked for."""
        return self.lines.enabled or self.substrings.enabled


@dataclass(frozen=True)
class Repeats:
    """What was found: files of repeated_lines.LOSS, and of repeated_spans.SPAN by number of the shard."""

    lines: Sequence[Path] = ()
    spans: Sequence[Path] = ()


def find(
    run: Run, names: Sequence[str], removals: Sequence[Path], config: RepeatedTextConfig, folders: Folders
) -> Repeats:
    """Look for repeated text in what is left after `removals`. names: of shards in the order of their numbers."""
    lines = repeated_lines.remove(run, names, removals, config.lines, folders) if config.lines.enabled else []
    spans = repeated_spans.remove(run, names, removals, config.substrings, folders) if config.substrings.enabled else []
    return Repeats(lines, spans)


@dataclass(frozen=True)
class Edited:
    """Of n documents: their texts, and the words left, (n,) int64, -1 where nothing was cut or enough is left.

    spans: a row of duplicates/ for each long span that was cut.
    """

    texts: list[str]
    short: np.ndarray
    spans: list[dict[str, Any]]


def edit_shard(
    documents: pa.Table,
    places: np.ndarray,
    shard: tuple[str, int],
    repeats: Repeats,
    config: RepeatedTextConfig,
    folders: Folders,
) -> Edited:
    """Cut repeated text out of what would stay of a shard, and write its `edits/`.

    documents: n rows with id and text; places: (n,) int64, their rows in the shard; shard: name and number.
    """
    name, number = shard
    losses = rows.read_refs(repeats.lines, number) if repeats.lines else np.zeros(0, repeated_lines.LOSS)
    spans = np.array(rows.load(repeats.spans[number])) if repeats.spans else np.zeros(0, repeated_spans.SPAN)
    texts, ids = documents["text"].to_pylist(), documents["id"].to_pylist()
    lost_rows, span_rows = rows.row_of(losses["ref"]), rows.row_of(spans["ref"])
    edits: dict[int, dict[str, Any]] = {}
    recorded: list[dict[str, Any]] = []
    for document, place in enumerate(places.tolist()):
        own, held = _of_row(losses, lost_rows, place), _of_row(spans, span_rows, place)
        if own.size or held.size:
            before = texts[document]
            lines = repeated_lines.lost_ranges(pa.array([before], pa.large_string()), own, config.lines)
            recorded += [_duplicate(ids[document], before.encode(), span) for span in held]
            texts[document] = cut(before.encode(), merged([*lines, *held[["begin", "end"]].tolist()]))
            edits[document] = {
                "id": ids[document],
                "lines": len(lines),
                "spans": held.size,
                "characters_before": len(before),
                "characters": len(texts[document]),
            }
    short = np.full(len(texts), -1)
    words = count_words(pa.array([texts[document] for document in edits], pa.large_string()))
    for (document, edit), count in zip(edits.items(), words.tolist(), strict=True):
        removed = count < max(config.min_words, 1)
        edit |= {"words": count, "removed": removed}
        short[document] = count if removed else -1
    write_table(folders.edits(name), pa.Table.from_pylist(list(edits.values()), EDITS))
    return Edited(texts, short, recorded)


def _of_row(table: np.ndarray, places: np.ndarray, place: int) -> np.ndarray:
    """What a table says of one row of the shard. places: the rows that it speaks of, ascending."""
    return table[np.searchsorted(places, place, "left") : np.searchsorted(places, place, "right")]


def _duplicate(identity: str, text: bytes, span: np.void) -> dict[str, Any]:
    first = rows.hexadecimal(span["id_hi"], span["id_lo"])
    return {
        "id": identity,
        "kind": "substring",
        "cluster_id": first,
        "survivor_id": first,
        "survivor_artifact": ".",
        "start": len(text[: span["begin"]].decode()),
        "end": len(text[: span["end"]].decode()),
    }


def report(page: Report, config: RepeatedTextConfig, directory: Path) -> dict[str, Any]:
    """Add the section, when repeated text was looked for. Returns what was cut, for the manifest."""
    if not config.enabled:
        return {}
    edits = ds.dataset([str(file) for file in sorted((directory / "edits").glob("*.parquet"))]).to_table()
    total = {name: pc.sum(edits[name]).as_py() or 0 for name in ("lines", "spans", "characters_before", "characters")}
    told = {
        "documents": edits.num_rows,
        "too_short": pc.sum(edits["removed"]).as_py() or 0,
        "lines": total["lines"],
        "spans": total["spans"],
        "characters": total["characters_before"] - total["characters"],
    }
    page.facts(
        "Repeated text cut",
        {name.replace("_", " "): value for name, value in told.items()},
        "Documents that lost text, those too short afterwards, lines (or other segments), long spans, characters cut. "
        "edits/ says it of each document, duplicates/ where a span stays.",
    )
    return told
