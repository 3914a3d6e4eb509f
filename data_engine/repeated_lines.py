"""Lines, paragraphs or spans of sentences that many documents share: hashes by range, then what each document loses.

Each shard writes a narrow row for each different segment of a document, sorted by hash; a second map merges each range
of hashes and tells the documents that lose a segment. Text stays where it is. Two hashes of 64 bits name a segment.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from core.config import Config
from core.run import Run
from data_engine import rows
from data_engine.kernels import segments
from data_engine.kernels.unicode import buffers, code_points
from data_engine.measure import Folders
from data_engine.remaining import remaining
from data_engine.shard_map import Task, map_tasks

SEGMENT = np.dtype([("key", "<u8"), ("check", "<u8"), ("id_hi", "<u8"), ("id_lo", "<u8"), ("ref", "<u8")])
LOSS = np.dtype([("ref", "<u8"), ("key", "<u8"), ("check", "<u8")])

_KINDS = {"line": segments.LINE, "paragraph": segments.PARAGRAPH, "sentence": segments.SENTENCE}


class RepeatedLinesConfig(Config):
    """Removal of segments that occur in several documents. Case and punctuation make no difference.

    CCNet and Dolma: paragraphs, and a corpus keeps the first. C4: spans of three sentences (`unit: sentence, span: 3`).
    """

    enabled: bool = Field(False, description="remove segments that several documents share")
    unit: Literal["line", "paragraph", "sentence"] = Field("line", description="what a segment is")
    span: int = Field(1, ge=1, description="segments in a row that are compared and removed together; C4: 3 sentences")
    min_documents: int = Field(2, ge=2, description="documents that must share a segment")
    min_words: int = Field(3, ge=1, description="a segment (or span) of fewer words is never removed, as '}' or 'Yes.'")
    keep: Literal["first", "none"] = Field(
        "first", description="the document of the smallest id keeps the segment, or none does (boilerplate)"
    )


def find(table: np.ndarray, min_documents: int, keep_first: bool) -> np.ndarray:
    """The documents that lose a segment, (m,) LOSS sorted by ref.

    table: (n,) SEGMENT in any order, each segment of a document once, and all documents of the segments in it.
    """
    ranked = table[np.lexsort((table["ref"], table["id_lo"], table["id_hi"], table["check"], table["key"]))]
    if not ranked.size:
        return np.zeros(0, LOSS)
    first = np.ones(ranked.size, bool)
    first[1:] = (ranked["key"][1:] != ranked["key"][:-1]) | (ranked["check"][1:] != ranked["check"][:-1])
    group = np.cumsum(first) - 1
    lost = np.bincount(group)[group] >= min_documents
    if keep_first:
        lost &= ~first
    losses = np.zeros(int(lost.sum()), LOSS)
    for field in ("ref", "key", "check"):
        losses[field] = ranked[field][lost]
    return np.sort(losses, order=["ref", "key", "check"])


def segments_of(texts: pa.Array, config: RepeatedLinesConfig) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each text: keys (m, 2) uint64 of its segments, and the bytes of it where they begin and end, (m,) int64."""
    utf8, offsets = buffers(texts)
    classes, lower = code_points()
    size = int(np.diff(offsets).max(initial=0)) + 1
    keys, begins, ends = np.empty((size, 2), np.uint64), np.empty(size, np.int64), np.empty(size, np.int64)
    for start, end in pairwise(offsets):
        kind = _KINDS[config.unit]
        count = segments.segment_keys(
            utf8, start, end, classes, lower, kind, config.span, config.min_words, keys, begins, ends
        )
        yield keys[:count].copy(), begins[:count] - start, ends[:count] - start


def lost_ranges(text: pa.Array, losses: np.ndarray, config: RepeatedLinesConfig) -> list[tuple[int, int]]:
    """The bytes that one document loses, in order. text: it alone; losses: its part of LOSS."""
    wanted = set(zip(losses["key"].tolist(), losses["check"].tolist(), strict=True))
    ((keys, begins, ends),) = segments_of(text, config)
    found = zip(keys.tolist(), begins.tolist(), ends.tolist(), strict=True)
    return [(begin, end) for (key, check), begin, end in found if (key, check) in wanted]


def remove(
    run: Run, names: Sequence[str], removals: Sequence[Path], config: RepeatedLinesConfig, folders: Folders
) -> list[Path]:
    """Files of LOSS, sorted by ref, among the documents that are left. names: of shards in order of their numbers."""
    files = [folders.scratch("segments", name) for name in names]
    tasks = [{"shard": number, "name": name} for number, name in enumerate(names) if not files[number].exists()]
    map_tasks(run, "segments", tasks, partial(_segments_of_shard, removals, config, folders))
    parts = rows.parts(sum(len(rows.load(file)) for file in files))
    losses = [folders.scratch("lost_segments", str(part)) for part in range(parts)]
    tasks = [{"part": part, "parts": parts} for part in range(parts) if not losses[part].exists()]
    map_tasks(run, "repeated segments", tasks, partial(_losses_of_range, files, config, folders))
    return losses


def _segments_of_shard(
    removals: Sequence[Path], config: RepeatedLinesConfig, folders: Folders, task: Task
) -> dict[str, Any]:
    places, documents = remaining(task["name"], task["shard"], removals, folders)
    if not documents.num_rows:
        rows.save(folders.scratch("segments", task["name"]), np.zeros(0, SEGMENT))
        return {}
    id_hi, id_lo = rows.halves([bytes.fromhex(identity) for identity in documents["id"].to_pylist()])
    refs = rows.refs(task["shard"], 1)[0] + places.astype(np.uint64)
    tables = [np.zeros(0, SEGMENT)]
    for document, (keys, _, _) in enumerate(segments_of(documents["text"], config)):
        table = np.zeros(keys.shape[0], SEGMENT)
        table["key"], table["check"] = keys.T
        table["id_hi"], table["id_lo"], table["ref"] = id_hi[document], id_lo[document], refs[document]
        tables.append(np.unique(table))
    rows.save(folders.scratch("segments", task["name"]), np.sort(np.concatenate(tables), order=["key", "check", "ref"]))
    return {}


def _losses_of_range(
    files: Sequence[Path], config: RepeatedLinesConfig, folders: Folders, task: Task
) -> dict[str, Any]:
    table = rows.read_range(files, "key", *rows.key_range(task["part"], task["parts"]))
    losses = find(table, config.min_documents, config.keep == "first")
    rows.save(folders.scratch("lost_segments", str(task["part"])), losses)
    return {}
