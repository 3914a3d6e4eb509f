"""The first map: read a shard, extract, tell languages, measure signals, sketch; write what was measured."""

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from core import storage
from core.config import Config
from data_engine import minhash, rows, signals
from data_engine.charset import decode, tidy
from data_engine.extract import ExtractionConfig, ExtractionError, Extractor
from data_engine.kernels import shingles
from data_engine.kernels.unicode import buffers, code_points
from data_engine.language import LanguageConfig, identify, model_path
from data_engine.policies import Policies
from data_engine.records import Damage, Record, Skips
from data_engine.sources import Shard, Source, read
from data_engine.tables import TableWriter

BATCH = 512
"""Documents measured together; also the row group of measured/."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("date", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float64()),
        ("signals", signals.TYPE),
    ]
)


class MeasureConfig(Config):
    """Everything that decides what is measured; thresholds are not among it, but for those that shape a signal."""

    sources: list[Source] = Field(description="where documents come from")
    extraction: ExtractionConfig = Field(description="HTML to text")
    language: LanguageConfig = Field(description="language identification")
    policies: Policies = Field(description="line lengths and the like shape signals")
    dedup: minhash.DedupConfig = Field(description="shingles and signatures")
    max_document_bytes: int = Field(description="longest payload")
    seed: int = Field(description="of the permutations")


class Folders:
    """Where the steps of a build lay their files, below the run directory. Those with a leading dot are scratch."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.work = self.directory / ".work"

    def measured(self, shard: str) -> Path:
        """Every extracted document of a shard."""
        return self.directory / "measured" / f"{shard}.parquet"

    def quarantine(self, shard: str) -> Path:
        """What could not be read or extracted."""
        return self.directory / "quarantine" / f"{shard}.jsonl"

    def documents(self, shard: str) -> Path:
        """What stays."""
        return self.directory / "documents" / f"{shard}.parquet"

    def rejects(self, shard: str) -> Path:
        """What does not, and why."""
        return self.directory / "rejects" / f"{shard}.parquet"

    def duplicates(self, shard: str) -> Path:
        """Copies, with their survivors."""
        return self.directory / "duplicates" / f"{shard}.parquet"

    def scratch(self, step: str, name: str, ending: str = "npy") -> Path:
        """A file of a step between the first map and the last."""
        return self.work / step / f"{name}.{ending}"


def measure_shard(shard: Shard, number: int, config: MeasureConfig, folders: Folders) -> dict[str, Any]:
    """Work on one shard and write its files, `measured/` last. Returns counts and seconds, which nothing depends on."""
    source = config.sources[shard.source]
    model = model_path(config.language)
    skips = Skips()
    seconds = {"read_extract": 0.0, "language": 0.0, "signals": 0.0, "sketch": 0.0, "write": 0.0}
    quarantined: list[Damage] = []
    sketches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    documents = 0

    def measured_part(step: str, began: float) -> float:
        now = time.monotonic()
        seconds[step] += now - began
        return now

    with Extractor(config.extraction) as extractor, TableWriter(folders.measured(shard.name), SCHEMA) as writer:
        found = _extracted(read(shard, source, config.max_document_bytes, skips), extractor, quarantined)
        clock = time.monotonic()
        while batch := list(islice(found, BATCH)):
            clock = measured_part("read_extract", clock)
            texts = pa.array([text for _, text in batch], pa.large_string())
            labels, scores = identify([text for _, text in batch], model)
            clock = measured_part("language", clock)
            measured = signals.measure(texts, labels, config.policies)
            clock = measured_part("signals", clock)
            ids = [record.id(source.name) for record, _ in batch]
            sketches.append(_sketch(batch, ids, texts, measured["quality"], config))
            clock = measured_part("sketch", clock)
            columns = {
                "id": [identity.hex() for identity in ids],
                "url": [tidy(record.url) for record, _ in batch],
                "text": texts,
                "source": [source.name] * len(batch),
                "date": [record.date for record, _ in batch],
                "language": labels,
                "language_score": scores,
                "signals": signals.to_arrow(measured),
            }
            writer.write(pa.table(columns, SCHEMA))
            documents += len(batch)
            clock = measured_part("write", clock)
        _save_sketches(sketches, number, shard.name, config, folders)
        lines = "".join(json.dumps(damage.entry(), ensure_ascii=False) + "\n" for damage in quarantined)
        if lines:
            folders.quarantine(shard.name).parent.mkdir(parents=True, exist_ok=True)
            storage.write_atomic(folders.quarantine(shard.name), lines)
        writer.metadata["raymill"] = json.dumps(
            {"documents": documents, "quarantined": len(quarantined), "skipped": dict(sorted(skips.counts.items()))}
        )
        measured_part("write", clock)
    return {"documents": documents, "seconds": seconds}


def _extracted(
    found: Iterator[Record | Damage], extractor: Extractor, quarantined: list[Damage]
) -> Iterator[tuple[Record, str]]:
    for record in found:
        if isinstance(record, Damage):
            quarantined.append(record)
            continue
        if not record.html:
            yield record, tidy(decode(record.payload, record.charset)).strip()
            continue
        try:
            yield record, extractor.extract(record.payload, record.charset).strip()
        except ExtractionError as error:
            quarantined.append(Damage(record.file, record.offset, str(error), record.url))


def _sketch(
    batch: list[tuple[Record, str]], ids: list[bytes], texts: pa.Array, quality: np.ndarray, config: MeasureConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Narrow rows, shingles and signatures of a batch."""
    table = np.zeros(len(batch), rows.DOCUMENT)
    table["id_hi"], table["id_lo"] = rows.halves(ids)
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for _, text in batch]
    table["text_hi"], table["text_lo"] = rows.halves(digests)
    table["characters"] = [len(text) for _, text in batch]
    table["date"] = [_seconds(record.date) for record, _ in batch]
    table["quality"] = quality
    if not config.dedup.near:
        return table, np.zeros(0, np.uint64), np.zeros((len(batch), 0), np.uint32)
    utf8, offsets = buffers(texts)
    classes, lower = code_points()
    sets = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint64)
    ends = np.empty(len(batch), np.int64)
    shingles.shingle_sets(utf8, offsets, classes, lower, config.dedup.shingle, sets, ends)
    a, b = minhash.permutations(config.dedup.permutations, config.seed)
    signatures = np.empty((len(batch), config.dedup.permutations), np.uint32)
    shingles.minhash(sets, ends, a, b, signatures)
    table["shingles"] = ends
    return table, sets[: ends[-1]].copy(), signatures


def _save_sketches(
    sketches: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    number: int,
    name: str,
    config: MeasureConfig,
    folders: Folders,
) -> None:
    filled = 0
    for table, sets, _ in sketches:
        table["shingles"] += filled
        filled += sets.size
    empty = np.zeros(0, rows.DOCUMENT), np.zeros(0, np.uint64), np.zeros((0, config.dedup.permutations), np.uint32)
    parts = list(zip(*sketches, strict=True)) or [[part] for part in empty]
    table = np.concatenate(parts[0])
    table["ref"] = rows.refs(number, table.size)
    rows.save(folders.scratch("rows", name), table)
    if config.dedup.near:
        rows.save(folders.scratch("shingles", name), np.concatenate(parts[1]))
        rows.save(folders.scratch("signatures", name), np.concatenate(parts[2]))


def _seconds(date: str) -> int:
    return int(datetime.fromisoformat(date).timestamp()) if date else int(rows.NO_DATE)
