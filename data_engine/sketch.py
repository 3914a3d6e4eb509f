"""What deduplication keeps of a document: its narrow row, and the MinHash signature of its shingles."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_engine import minhash, rows
from data_engine.kernels import shingles
from data_engine.kernels.unicode import buffers, code_points

Sketch = tuple[np.ndarray, np.ndarray]
"""(n,) rows.DOCUMENT and (n, permutations) uint32; 0 permutations when near copies are not looked for."""


def sketch(
    ids: Sequence[bytes], dates: Sequence[str], texts: pa.Array, config: minhash.DedupConfig, seed: int
) -> Sketch:
    """Sketch a batch. ids: 16 bytes each; dates: ISO 8601 or empty; texts: n large_strings without null."""
    table = np.zeros(len(ids), rows.DOCUMENT)
    utf8, offsets = buffers(texts)
    if not len(ids):
        return empty(config)
    table["id_hi"], table["id_lo"] = rows.halves(ids)
    content = memoryview(utf8)  # type: ignore[arg-type]
    digests = [
        hashlib.blake2b(content[start:end], digest_size=16).digest()
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    table["text_hi"], table["text_lo"] = rows.halves(digests)
    table["characters"] = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    table["date"] = [_seconds(date) for date in dates]
    if not config.near:
        return table, np.zeros((len(ids), 0), np.uint32)
    values, ends = _shingles(texts, config.shingle, shingles.shingle_hashes)
    table["shingles"] = np.diff(ends, prepend=0)
    a, b = minhash.permutations(config.permutations, seed)
    signatures = np.empty((len(ids), config.permutations), np.uint32)
    shingles.minhash(values, ends, a, b, signatures)
    return table, signatures


def shingle_sets(texts: Any, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The ascending shingle sets of texts end to end, uint64, and where each ends, (n,) int64."""
    return _shingles(texts, width, shingles.shingle_sets)


def _shingles(texts: Any, width: int, kernel: Callable[..., None]) -> tuple[np.ndarray, np.ndarray]:
    utf8, offsets = buffers(texts)
    classes, lower = code_points()
    values = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint64)
    ends = np.empty(offsets.size - 1, np.int64)
    kernel(utf8, offsets, classes, lower, width, values, ends)
    return values[: ends[-1] if ends.size else 0], ends


def empty(config: minhash.DedupConfig) -> Sketch:
    """The sketch of no document."""
    return np.zeros(0, rows.DOCUMENT), np.zeros((0, config.permutations if config.near else 0), np.uint32)


def joined(parts: Sequence[Sketch], config: minhash.DedupConfig) -> Sketch:
    """Batches as one."""
    tables, signatures = zip(empty(config), *parts, strict=True)
    return np.concatenate(tables), np.concatenate(signatures)


def _seconds(date: str) -> int:
    return int(datetime.fromisoformat(date).timestamp()) if date else int(rows.NO_DATE)
