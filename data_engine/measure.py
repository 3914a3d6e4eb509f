"""The first map: read a shard, extract, tell languages, measure signals, sketch; write what was measured."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from core import storage
from core.config import Config
from data_engine import minhash, rows, signals, sketch, url_filter
from data_engine.charset import decode, tidy
from data_engine.extract import ExtractionConfig, ExtractionError, Extractor
from data_engine.language import UNKNOWN, LanguageConfig, identify, model_path
from data_engine.policies import Policies
from data_engine.records import Damage, Record, Skips
from data_engine.sources import Shard, Source, read
from data_engine.tables import TableWriter
from data_engine.url_filter import UrlConfig, UrlFilter

BATCH = 512
"""Documents measured together; also the row group of measured/."""


def schema(policies: Policies) -> pa.Schema:
    """The columns of `measured` and `documents`."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("url", pa.string()),
            ("text", pa.large_string()),
            ("source", pa.string()),
            ("date", pa.string()),
            ("language", pa.string()),
            ("language_score", pa.float64()),
            ("signals", signals.struct_type(policies)),
            ("licence", pa.string()),
        ]
    )


class MeasureConfig(Config):
    """Everything that decides what is measured; thresholds are not among it, but for those that shape a signal."""

    sources: list[Source] = Field(description="where documents come from")
    extraction: ExtractionConfig = Field(description="HTML to text")
    url: UrlConfig = Field(description="what is rejected by its address has no text")
    language: LanguageConfig = Field(description="language identification")
    policies: Policies = Field(description="line lengths and the like shape signals")
    dedup: minhash.DedupConfig = Field(description="shingles and signatures")
    max_document_bytes: int = Field(description="longest payload")
    rules: bool = Field(description="without rules there is no language and no signal")
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

    def sketch(self, shard: str) -> Path:
        """The narrow row of each row of `measured`: rows.DOCUMENT."""
        return self.directory / "sketches" / f"{shard}.npy"

    def signatures(self, shard: str) -> Path:
        """The MinHash signature of each row of `measured`, (n, permutations) uint32."""
        return self.directory / "signatures" / f"{shard}.npy"

    def index(self, name: str) -> Path:
        """Part of the index that later builds deduplicate against."""
        return self.directory / "index" / f"{name}.parquet"

    def edits(self, shard: str) -> Path:
        """Documents that repeated text was cut out of."""
        return self.directory / "edits" / f"{shard}.parquet"

    def contamination(self, shard: str) -> Path:
        """Benchmark items that documents hold."""
        return self.directory / "contamination" / f"{shard}.parquet"

    def clear(self) -> None:
        """Remove what only a running stage needs, and what tasks that died left half-written."""
        shutil.rmtree(self.work, ignore_errors=True)
        for left in self.directory.rglob(".*.tmp"):
            left.unlink(missing_ok=True)

    def scratch(self, step: str, name: str, ending: str = "npy") -> Path:
        """A file of a step between the first map and the last."""
        return self.work / step / f"{name}.{ending}"


def measure_shard(shard: Shard, config: MeasureConfig, folders: Folders) -> dict[str, Any]:
    """Work on one shard and write its files, `measured/` last. Returns counts and seconds, which nothing depends on."""
    source = config.sources[shard.source]
    model = model_path(config.language)
    skips = Skips()
    seconds = {"read_extract": 0.0, "language": 0.0, "signals": 0.0, "sketch": 0.0, "write": 0.0}
    quarantined: list[Damage] = []
    sketches: list[sketch.Sketch] = []
    documents = 0

    def measured_part(step: str, began: float) -> float:
        now = time.monotonic()
        seconds[step] += now - began
        return now

    with (
        Extractor(config.extraction) as extractor,
        TableWriter(folders.measured(shard.name), schema(config.policies)) as writer,
    ):
        records = read(shard, source, config.max_document_bytes, skips)
        found = _extracted(records, url_filter.load(config.url), extractor, quarantined)
        clock = time.monotonic()
        while batch := list(islice(found, BATCH)):
            clock = measured_part("read_extract", clock)
            texts = pa.array([text for _, text in batch], pa.large_string())
            labels, scores = _languages(batch, texts, model if config.rules else None)
            measured = None
            if config.rules:
                clock = measured_part("language", clock)
                measured = signals.measure(texts, labels, config.policies)
                clock = measured_part("signals", clock)
            ids = [record.id(source.name) for record, _ in batch]
            dates = [record.date for record, _ in batch]
            sketches.append(sketch.sketch(ids, dates, texts, config.dedup, config.seed))
            if measured is not None:
                sketches[-1][0]["quality"] = measured["quality"]
            clock = measured_part("sketch", clock)
            columns = {
                "id": [identity.hex() for identity in ids],
                "url": [tidy(record.url) for record, _ in batch],
                "text": texts,
                "source": [source.name] * len(batch),
                "date": dates,
                "language": labels,
                "language_score": pa.array(scores, from_pandas=True),
                "signals": signals.to_arrow(measured) if measured is not None else [None] * len(batch),
                "licence": [tidy(record.licence) or None for record, _ in batch],
            }
            writer.write(pa.table(columns, writer.schema))
            documents += len(batch)
            clock = measured_part("write", clock)
        table, signatures = sketch.joined(sketches, config.dedup)
        rows.save(folders.sketch(shard.name), table)
        rows.save(folders.signatures(shard.name), signatures)
        folders.quarantine(shard.name).unlink(missing_ok=True)
        lines = "".join(tidy(json.dumps(damage.entry(), ensure_ascii=False)) + "\n" for damage in quarantined)
        if lines:
            folders.quarantine(shard.name).parent.mkdir(parents=True, exist_ok=True)
            storage.write_atomic(folders.quarantine(shard.name), lines)
        writer.metadata["raymill"] = json.dumps(
            {"documents": documents, "quarantined": len(quarantined), "skipped": dict(sorted(skips.counts.items()))}
        )
        measured_part("write", clock)
    return {"documents": documents, "seconds": seconds}


def _extracted(
    found: Iterator[Record | Damage], unwanted: UrlFilter, extractor: Extractor, quarantined: list[Damage]
) -> Iterator[tuple[Record, str]]:
    for record in found:
        if isinstance(record, Damage):
            quarantined.append(record)
            continue
        if unwanted(record.url):
            yield record, ""  # decide_shard finds the same again and says why
            continue
        if record.media == "text":
            yield record, tidy(decode(record.payload, record.charset, html=False)).strip()
            continue
        try:
            text, licence = extractor.extract(record.payload, record.charset, record.media)
            yield replace(record, licence=record.licence or licence), text.strip()
        except ExtractionError as error:
            quarantined.append(Damage(record.file, record.offset, str(error), record.url))


def _languages(batch: list[tuple[Record, str]], texts: pa.Array, model: str | None) -> tuple[list[str], np.ndarray]:
    """Labels and scores of a batch, undetermined without a model. What a source says (of source code) is certain."""
    labels, scores = [UNKNOWN] * len(batch), np.full(len(batch), np.nan)
    if model is not None:
        labels, scores = identify(texts, model)
    for place, (record, _) in enumerate(batch):
        if record.language:
            labels[place], scores[place] = record.language, 1.0
    return labels, scores
