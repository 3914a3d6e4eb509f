"""One shard of documents to one file of tokens: reads, encodes, commits. Knows no Ray."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from core import storage
from core.token_set import INDEX_SCHEMA
from data_engine.corpus import read_documents
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

    Writes `tokens_folder/name`, then its index rows to `parts_folder`; the second makes the shard done. Control tokens
    spelled out in a document (`<|im_end|>` in a page about chat formats) are encoded as ordinary text: nothing on the
    web can end a document or forge a turn. Returns the counts of documents and tokens.
    Raises UserError for a damaged shard.
    """
    tokenizer = _tokenizer(tokenizer_file)
    name = shard["name"]
    rows: dict[str, list[Any]] = {field.name: [] for field in INDEX_SCHEMA}
    offset = 0
    temporary = Path(tokens_folder) / f".{name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            for batch in read_documents(shard["path"], _READ_COLUMNS):
                encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
                for position, encoding in enumerate(encoded):
                    ids = np.asarray([*encoding.ids, separator], dtype=dtype)
                    file.write(ids.tobytes())
                    text = batch["text"][position]
                    rows["id"].append(batch["id"][position])
                    rows["shard"].append(name)
                    rows["offset"].append(offset)
                    rows["tokens"].append(len(ids))
                    rows["bytes"].append(len(text.encode()))
                    rows["words"].append(count_words(text))
                    rows["source"].append(shard["source"] or batch["source"][position])
                    rows["language"].append(batch["language"][position])
                    rows["split"].append(split_of(batch["id"][position], validation_fraction))
                    offset += len(ids)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(Path(tokens_folder) / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    part = pa.BufferOutputStream()
    pq.write_table(pa.table(rows, schema=INDEX_SCHEMA), part)
    storage.write_atomic(part_path(parts_folder, name), part.getvalue().to_pybytes())
    return {"documents": len(rows["id"]), "tokens": offset}


def part_path(parts_folder: str | Path, name: str) -> Path:
    """Where the index rows of the shard with this tokens file wait for the end of the run."""
    return Path(parts_folder) / f"{Path(name).stem}.parquet"


@lru_cache(maxsize=2)
def _tokenizer(path: str) -> Tokenizer:
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
