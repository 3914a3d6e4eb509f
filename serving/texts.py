"""Token sequences for calibration and for held-out measurement, chosen by a hash of each text's identity."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pyarrow import dataset as arrow_dataset
from torch import Tensor

from core import chat, storage
from core.errors import UserError

_HELD_OUT_SHARE = 0.2
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Sequences:
    """Tokens of equal length, (sequences, length) int64, and which of them a measurement counts, of the same shape.

    Of a document every token counts, of a conversation those that the assistant says: tuned models learn nothing else.
    """

    tokens_ST: Tensor
    counted_ST: Tensor

    def __len__(self) -> int:
        return len(self.tokens_ST)


def open_texts(path: str) -> arrow_dataset.Dataset:
    """Documents (`text`) or conversations (`messages`) as one Arrow dataset.

    path: an artifact, a folder of Parquet, a file or a glob; of a documents artifact only `documents/` is read.
    Raises UserError when there is no Parquet with one of the two columns.
    """
    inside = Path(path) / "documents"
    files = [name for name in storage.list_files(str(inside) if inside.is_dir() else path) if name.endswith(".parquet")]
    if not files:
        raise UserError(f"{path}: holds no Parquet of documents or conversations")
    try:
        found = arrow_dataset.dataset(files, format="parquet")
        names = set(found.schema.names)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from None
    if not {"text", "messages"} & names:
        raise UserError(f"{path}: has neither a column 'text' nor 'messages'; it has: {', '.join(sorted(names))}")
    return found


class Texts:
    """Texts in an order, and with a split into two parts, that depend on their identity and the seed alone."""

    def __init__(self, path: str, seed: int) -> None:
        self.path = path
        self.dataset = open_texts(path)
        self.column = "messages" if "messages" in self.dataset.schema.names else "text"
        self.hashes = [self._hash(identity, seed) for identity in self._identities()]

    def _identities(self) -> Iterator[str]:
        column = "id" if "id" in self.dataset.schema.names else self.column
        for batch in self.dataset.to_batches(columns=[column]):
            yield from map(str, batch.column(0).to_pylist())

    @staticmethod
    def _hash(identity: str, seed: int) -> float:
        digest = hashlib.blake2b(f"{seed}\0{identity}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / (1 << 64)

    def rows(self, low: float, high: float) -> list[int]:
        """Row numbers whose hash lies in [low, high), by hash."""
        return sorted((row for row, h in enumerate(self.hashes) if low <= h < high), key=self.hashes.__getitem__)

    def sequences(self, rows: Sequence[int], tokenizer: Any, count: int, length: int) -> Sequences:
        """Up to `count` sequences of `length` tokens: texts end to end, cut where one is full.

        The rest of a text that crosses the end of a sequence is dropped: a sequence begins where a text begins.
        """
        sequences: list[list[int]] = []
        counted: list[list[bool]] = []
        current: list[int] = []
        said: list[bool] = []
        for tokens, counts in self._tokens(rows, tokenizer):
            current += tokens
            said += counts
            if len(current) >= length:
                sequences.append(current[:length])
                counted.append(said[:length])
                current, said = [], []
                if len(sequences) == count:
                    break
        return Sequences(
            torch.tensor(sequences, dtype=torch.int64).reshape(-1, length),
            torch.tensor(counted, dtype=torch.bool).reshape(-1, length),
        )

    def _tokens(self, rows: Sequence[int], tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        for start in range(0, len(rows), _BATCH_ROWS):
            taken = self.dataset.take(pa.array(rows[start : start + _BATCH_ROWS]), columns=[self.column])
            for value in taken.column(0).to_pylist():
                if self.column == "text":
                    tokens = [*tokenizer.encode(value), *end]
                    yield tokens, [True] * len(tokens)
                else:
                    yield chat.encode(tokenizer, value)


def choose(
    documents: str, held_out: str | None, tokenizer: Any, seed: int, count: int, held_out_count: int, length: int
) -> tuple[Sequences, Sequences]:
    """(calibration, held-out) sequences, without a text in common.

    Without a source of its own, held-out text is the fifth of `documents` with the smallest hashes. Raises UserError
    when a part has not enough text for one sequence.
    """
    texts = Texts(documents, seed)
    share = _HELD_OUT_SHARE if held_out is None else 0.0
    calibration = texts.sequences(texts.rows(share, 1.0), tokenizer, count, length)
    if held_out is None:
        measured = texts.sequences(texts.rows(0.0, share), tokenizer, held_out_count, length)
    else:
        other = Texts(held_out, seed)
        measured = other.sequences(other.rows(0.0, 1.0), tokenizer, held_out_count, length)
    for name, path, found in (("documents", documents, calibration), ("held_out", held_out or documents, measured)):
        if len(found) == 0:
            raise UserError(
                f"{name}: {path}: not enough text for one sequence of {length} tokens; "
                "give more documents, or lower sequence_length"
            )
    if not measured.counted_ST[:, 1:].any():
        raise UserError(f"held_out: {held_out or documents}: no assistant says anything in it, so nothing is measured")
    return calibration, measured
