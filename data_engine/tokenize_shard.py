"""One shard of documents to one file of tokens: reads, encodes, commits. Knows no Ray."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import storage
from core.token_set import INDEX_SCHEMA
from data_engine import encoder
from data_engine.corpus import read_batches
from data_engine.split import split_of
from data_engine.words import count_words

PARTS = ".parts"
"""Scratch folder of the run: the index rows of each finished shard. A shard is done when its part is there."""

_READ_COLUMNS = ("id", "text", "source", "language")


def tokens_name(ordinal: int, digest: str) -> str:
    """File name of a shard's tokens: its place in the list of shards, then what its content is."""
    return f"{ordinal:05d}-{digest[:16]}.bin"


def tokenize_shard(
    shard: dict[str, Any],
    *,
    tokenizer_file: str,
    tokens_folder: str,
    parts_folder: str,
    separator: int,
    dtype: str,
    validation_fraction: float,
) -> dict[str, Any]:
    """Encode the documents of `shard` (`path`, `name`, `source` or None) and append `separator` to each.

    Writes `tokens_folder/name`, then its index rows to `parts_folder`; the second makes the shard done. Returns the
    counts of documents and tokens.
    Raises UserError for a damaged shard.
    """
    encode = _encoder(tokenizer_file).encode
    name = shard["name"]
    parts = []
    offset = 0
    temporary = Path(tokens_folder) / f".{name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            for batch in read_batches(shard["path"], _READ_COLUMNS):
                texts = batch["text"].combine_chunks()
                ids, lengths = encode(texts, separator, np.dtype(dtype))
                file.write(ids.tobytes())
                ends = offset + np.cumsum(lengths)
                columns = {
                    "id": batch["id"],
                    "shard": pa.repeat(name, len(texts)),
                    "offset": ends - lengths,
                    "tokens": lengths,
                    "bytes": pc.cast(pc.binary_length(texts), pa.int64()),
                    "words": count_words(texts),
                    "source": pa.repeat(shard["source"], len(texts)) if shard["source"] else batch["source"],
                    "language": batch["language"],
                    "split": [split_of(identifier, validation_fraction) for identifier in batch["id"].to_pylist()],
                }
                parts.append(pa.table(columns, INDEX_SCHEMA))
                offset += int(lengths.sum())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(Path(tokens_folder) / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    rows = pa.concat_tables(parts) if parts else INDEX_SCHEMA.empty_table()
    part = pa.BufferOutputStream()
    pq.write_table(rows, part)
    storage.write_atomic(part_path(parts_folder, name), part.getvalue().to_pybytes())
    return {"documents": rows.num_rows, "tokens": offset}


def part_path(parts_folder: str | Path, name: str) -> Path:
    """Where the index rows of the shard with this tokens file wait for the end of the run."""
    return Path(parts_folder) / f"{Path(name).stem}.parquet"


@lru_cache(maxsize=2)
def _encoder(path: str) -> encoder.Encoder:
    return encoder.load(path)
