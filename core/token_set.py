"""Reading a token artifact: `tokens/*.bin`, `index.parquet`, `tokenizer/`, as `data tokenize` writes them."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import UserError

INDEX = "index.parquet"
TOKENS = "tokens"
TOKENIZER = "tokenizer"

INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("words", pa.int64(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("language", pa.string()),
        pa.field("split", pa.string(), nullable=False),
    ]
)
"""One row per document. `offset` and `tokens` count tokens, the closing separator among them; `bytes` and `words` count
the text alone; `shard` is a file name below tokens/; `split` is `train` or `validation`."""


def dtype_for(vocabulary: int) -> np.dtype[Any]:
    """The narrowest little-endian type that holds ids below `vocabulary`: uint16 up to 65,536 ids, else uint32."""
    return np.dtype("<u2") if vocabulary <= 1 << 16 else np.dtype("<u4")


class TokenSet:
    """A token artifact, opened for reading; tokens are memory-mapped.

    `directory` is the run directory of `data tokenize`. Raises UserError when it holds no token artifact.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        path = self.directory / INDEX
        if not path.is_file():
            raise UserError(f"{self.directory}: not a token artifact ({INDEX} is missing); run 'raymill data tokenize'")
        try:
            self.index = pq.read_table(path)
            metadata = self.index.schema.metadata or {}
            self.dtype = np.dtype(metadata[b"dtype"].decode())
            self.separator = int(metadata[b"separator"])
        except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not readable as the index of a token artifact: {error}") from None
        self._maps: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.index.num_rows)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's Hugging Face directory."""
        return self.directory / TOKENIZER

    @cached_property
    def _columns(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        offsets, tokens = (self.index.column(name).to_numpy() for name in ("offset", "tokens"))
        return self.index.column("shard").to_pylist(), offsets, tokens

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of the documents of `train` or `validation`, in index order: (n,) int64."""
        return np.flatnonzero(self.index.column("split").to_numpy(zero_copy_only=False) == split)

    def tokens(self, row: int) -> np.ndarray:
        """The tokens of one document, its closing separator last: (tokens,) uint16 or uint32, read-only."""
        shards, offsets, lengths = self._columns
        begin = int(offsets[row])
        return self._map(shards[row])[begin : begin + int(lengths[row])]

    def _map(self, shard: str) -> np.ndarray:
        if shard not in self._maps:
            path = self.directory / TOKENS / shard
            if not path.is_file():
                raise UserError(f"{path}: missing, though {INDEX} names it; run 'raymill data tokenize' again")
            empty = path.stat().st_size == 0
            self._maps[shard] = np.zeros(0, self.dtype) if empty else np.memmap(path, dtype=self.dtype, mode="r")
        return self._maps[shard]
