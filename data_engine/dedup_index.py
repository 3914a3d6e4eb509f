"""The index of a documents artifact: by which keys its documents are found, and where their sketches and texts lie.

    index/shards.parquet     one row a shard: its sketch and its text, paths as seen from the artifact
    index/texts-N.parquet    text digest, id and ref of each document that stays, by digest range
    index/bands-N.parquet    band key and ref, `bands` rows a document, by key range

A later build finds suspects by key and compares them for real: their shingle sets are made from the text, so that the
index holds no sets (8 bytes a word) and no pair is removed on suspicion.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from core import manifest
from core.errors import UserError
from core.run import Run
from data_engine import rows
from data_engine.holdings import Holding
from data_engine.measure import Folders
from data_engine.minhash import FAMILY, DedupConfig
from data_engine.shard_map import Task, map_tasks
from data_engine.tables import TableWriter

_SHARDS = pa.schema([("sketch", pa.string()), ("text", pa.string())])
_TEXTS = pa.schema([(name, pa.uint64()) for name in ("text_hi", "text_lo", "id_hi", "id_lo", "ref")])
_BANDS = pa.schema([("key", pa.uint64()), ("ref", pa.uint64())])
_ENCODING = {
    # sorted 64-bit keys lie 2^40 apart in a million documents: their differences take five bytes
    "texts": {"text_hi": "DELTA_BINARY_PACKED", "ref": "BYTE_STREAM_SPLIT"},
    "bands": {"key": "DELTA_BINARY_PACKED", "ref": "BYTE_STREAM_SPLIT"},
}
_ROWS_OF_GROUP = 1 << 16
_VERSION = 1
"""Of the files above and of how texts are cut into shingles: goes up when an older index would find other copies."""


# --- writing ------------------------------------------------------------------------------------------------------


def settings(config: DedupConfig, seed: int) -> dict[str, int | str]:
    """What two signatures must have in common to be compared."""
    bands, band_rows = config.shape()
    return {
        "version": _VERSION,
        "family": FAMILY,
        "shingle": config.shingle,
        "permutations": config.permutations,
        "bands": bands,
        "rows": band_rows,
        "seed": seed,
    }


def write(
    run: Run,
    holdings: Sequence[Holding],
    texts: Sequence[Path],
    bands: Sequence[Path],
    removals: Sequence[Path],
    config: DedupConfig,
    folders: Folders,
) -> None:
    """Write the index of a run's documents. holdings: its shards; texts: files of rows.DOCUMENT sorted by text_hi and
    bands: of rows.BAND sorted by key, one a shard; removals: what of these is gone."""
    for kind, files in (("texts", texts), ("bands", bands)):
        count = rows.parts(sum(len(rows.load(file)) for file in files))
        tasks = [
            {"kind": kind, "part": part, "parts": count}
            for part in range(count)
            if not folders.index(f"{kind}-{part:05d}").exists()
        ]
        map_tasks(run, "index", tasks, partial(_write_part, files, removals, folders))
    with TableWriter(folders.index("shards"), _SHARDS) as writer:
        writer.metadata["raymill"] = json.dumps(settings(config, run.config.seed))
        places = [
            [os.path.relpath(path, folders.directory) for path in paths]
            for paths in ([holding.sketch for holding in holdings], [holding.text for holding in holdings])
        ]
        writer.write(pa.table(places, _SHARDS))


def _write_part(files: Sequence[Path], removals: Sequence[Path], folders: Folders, task: Task) -> dict[str, Any]:
    kind, schema = task["kind"], _TEXTS if task["kind"] == "texts" else _BANDS
    table = rows.read_range(files, schema.names[0], *rows.key_range(task["part"], task["parts"]))
    gone = np.concatenate([np.zeros(0, np.uint64), *(rows.load(file)["ref"] for file in removals)])
    table = table[~np.isin(table["ref"], gone)]
    table = table[np.lexsort((table["ref"], table[schema.names[0]]))]
    with TableWriter(folders.index(f"{kind}-{task['part']:05d}"), schema, _ENCODING[kind]) as writer:
        for start in range(0, table.size, _ROWS_OF_GROUP):
            some = table[start : start + _ROWS_OF_GROUP]
            writer.write(pa.table([np.ascontiguousarray(some[name]) for name in schema.names], schema))
    return {}


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Earlier:
    """The documents of earlier artifacts, in the order in which the configuration names these."""

    artifacts: Sequence[str]
    holdings: Sequence[Holding]
    first_shards: Sequence[int]
    documents: int

    def texts(self, first: int, last: int) -> np.ndarray:
        """The documents whose text digest lies in a range: rows.DOCUMENT with ids, digests and refs."""
        return self._read("texts", _TEXTS, rows.DOCUMENT, first, last)

    def bands(self, first: int, last: int) -> np.ndarray:
        """The band rows whose key lies in a range, rows.BAND."""
        return self._read("bands", _BANDS, rows.BAND, first, last)

    def artifact_of(self, refs: np.ndarray) -> list[str]:
        """The artifact in which each document lies; `.` is this one."""
        shard = rows.shard_of(refs & ~rows.EARLIER)
        number = np.searchsorted(self.first_shards, shard, "right") - 1
        earlier = rows.is_earlier(refs)
        return [self.artifacts[n] if e else "." for n, e in zip(number.tolist(), earlier.tolist(), strict=True)]

    def _read(self, kind: str, schema: pa.Schema, kept: np.dtype, first: int, last: int) -> np.ndarray:
        parts = [np.zeros(0, kept)]
        key = ds.field(schema.names[0])
        for artifact, first_shard in zip(self.artifacts, self.first_shards, strict=True):
            files = sorted(Path(artifact, "index").glob(f"{kind}-*.parquet"))
            wanted = (key >= pa.scalar(first, pa.uint64())) & (key <= pa.scalar(last, pa.uint64()))
            found = ds.dataset(files, schema=schema).to_table(filter=wanted, use_threads=False)
            part = np.zeros(found.num_rows, kept)
            for name in schema.names:
                part[name] = found[name].to_numpy()
            part["ref"] += rows.EARLIER + np.uint64(first_shard << 32)
            parts.append(part)
        return np.concatenate(parts)


def open_earlier(config: DedupConfig, seed: int) -> Earlier:
    """The indexes of `dedup.against`. Raises UserError for an artifact without one, or one made with other settings."""
    holdings: list[Holding] = []
    first_shards = []
    documents = 0
    for path in config.against:
        manifest.require(path)
        shards = Path(path, "index", "shards.parquet")
        if not shards.is_file():
            raise UserError(
                f"dedup.against: {path} holds no index; build it with dedup.index: true, or run 'raymill data index'"
            )
        table, theirs = _read_shards(shards)
        ours = settings(config, seed)
        if theirs.get("version") != _VERSION or table.schema.names != _SHARDS.names:
            raise UserError(
                f"dedup.against: the index of {path} was written by another version of Raymill (index version "
                f"{theirs.get('version', 'unknown')}, here {_VERSION}); make it again with 'raymill data index'"
            )
        differing = [name for name in ours if theirs.get(name) != ours[name]]
        if differing:
            listed = ", ".join(f"{name} {theirs.get(name)} and not {ours[name]}" for name in differing)
            raise UserError(f"dedup.against: the index of {path} was made with {listed}; use the same here")
        first_shards.append(len(holdings))
        for row in table.to_pylist():
            held = Holding(*(Path(os.path.normpath(os.path.join(path, row[name]))) for name in ("sketch", "text")))
            missing = next((file for file in (held.sketch, held.text) if not file.is_file()), None)
            if missing is not None:
                raise UserError(f"dedup.against: {path} is incomplete: {missing} is gone; build its index again")
            holdings.append(held)
        documents += sum(pq.read_metadata(file).num_rows for file in shards.parent.glob("texts-*.parquet"))
    return Earlier(config.against, holdings, first_shards, documents)


def _read_shards(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The table of an index's shards, and the settings it was made with; those are empty when it states none."""
    try:
        table = pq.read_table(path)
        settings = json.loads((pq.read_metadata(path).metadata or {}).get(b"raymill", b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"dedup.against: {path}: not readable: {' '.join(str(error).split())[:200]}") from None
    return table, settings if isinstance(settings, dict) else {}
