"""Narrow rows on storage: what deduplication knows of a document, without its text.

Arrays lie in the scratch folder of the run, one file a shard, fixed-width. A document is named by its `ref`: number of
the shard in the upper 32 bits, row in the lower. Sorted files are read by key range, so that a second map can merge
range by range.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np

DOCUMENT = np.dtype(
    [
        ("id_hi", "<u8"),
        ("id_lo", "<u8"),
        ("text_hi", "<u8"),
        ("text_lo", "<u8"),
        ("characters", "<i8"),
        ("date", "<i8"),
        ("quality", "<f8"),
        ("shingles", "<i8"),
        ("ref", "<u8"),
    ]
)
"""id and digest of the text as two halves of 16 bytes; date in seconds since 1970 (far future when unknown); shingles:
where the document's part of the shard's shingle file ends."""

BAND = np.dtype([("key", "<u8"), ("id_hi", "<u8"), ("id_lo", "<u8"), ("ref", "<u8")])
PAIR = np.dtype([("one", "<u8"), ("other", "<u8")])
REMOVAL = np.dtype(
    [
        ("ref", "<u8"),
        ("cluster_hi", "<u8"),
        ("cluster_lo", "<u8"),
        ("survivor_hi", "<u8"),
        ("survivor_lo", "<u8"),
        ("jaccard", "<f8"),
        ("near", "<i1"),
    ]
)

NO_DATE = np.int64(1) << 62
_ROW_BITS = 32


def refs(shard: int, count: int) -> np.ndarray:
    """The refs of a shard's rows, (count,) uint64."""
    return (np.uint64(shard) << np.uint64(_ROW_BITS)) + np.arange(count, dtype=np.uint64)


def shard_of(ref: np.ndarray) -> np.ndarray:
    """Shard numbers of refs."""
    return (ref >> np.uint64(_ROW_BITS)).astype(np.int64)


def row_of(ref: np.ndarray) -> np.ndarray:
    """Row numbers of refs."""
    return (ref & np.uint64((1 << _ROW_BITS) - 1)).astype(np.int64)


def halves(digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """16-byte digests as two (n,) uint64 whose order is that of the bytes."""
    pairs = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype("<u8")
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def hexadecimal(high: int, low: int) -> str:
    """The 32 hex characters of two halves."""
    return f"{int(high):016x}{int(low):016x}"


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> np.ndarray:
    """Map an array; pages are read as they are touched."""
    array: np.ndarray = np.load(path, mmap_mode="r") if path.stat().st_size else np.load(path)
    return array


def key_range(part: int, parts: int) -> tuple[int, int]:
    """First and last key (inclusive) of part `part` of the 64-bit keys."""
    return (part << 64) // parts, ((part + 1 << 64) // parts) - 1


def read_range(paths: Sequence[Path], field: str, part: int, parts: int) -> np.ndarray:
    """The rows of all files whose key lies in a part. The files are sorted by `field`, a uniform uint64."""
    first, last = key_range(part, parts)
    return _concatenated([_between(load(path), field, first, last) for path in paths])


def read_refs(paths: Sequence[Path], shard: int) -> np.ndarray:
    """The rows of all files, sorted by `ref`, that speak of one shard's documents."""
    first = shard << _ROW_BITS
    return _concatenated([_between(load(path), "ref", first, first + (1 << _ROW_BITS) - 1) for path in paths])


def _between(array: np.ndarray, field: str, first: int, last: int) -> np.ndarray:
    keys = array[field]
    begin = np.searchsorted(keys, np.uint64(first), "left")
    end = np.searchsorted(keys, np.uint64(last), "right")
    return np.array(array[begin:end])


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Raises ValueError when there is no part: the caller names at least one file."""
    return np.concatenate(parts)
