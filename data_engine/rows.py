"""Narrow rows on storage: what deduplication knows of a document, without its text.

Arrays lie in fixed-width files, one a shard. A document is named by its `ref`: number of the shard in the upper 32
bits, row in the lower; the topmost bit says that it lies in an earlier artifact. Sorted files are read by key range, so
that a second map can merge range by range.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
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
how many different ones; ref: 0 on storage, filled in by the run that numbers the shards."""

BAND = np.dtype([("key", "<u8"), ("id", "<u8"), ("ref", "<u8")])
"""id: the upper half, which orders the documents of a bucket; 0 in earlier artifacts, so that they come first."""
PAIR = np.dtype([("one", "<u8"), ("other", "<u8")])
REMOVAL = np.dtype(
    [
        ("ref", "<u8"),
        ("cluster_hi", "<u8"),
        ("cluster_lo", "<u8"),
        ("survivor_hi", "<u8"),
        ("survivor_lo", "<u8"),
        ("survivor", "<u8"),
        ("jaccard", "<f8"),
        ("near", "<i1"),
    ]
)
"""survivor: the ref."""

NO_DATE = np.int64(1) << 62
EARLIER = np.uint64(1) << np.uint64(63)
_ROW_BITS = 32
_ROWS_OF_PART = 2_000_000
"""Band rows or digests merged by one task: 48 MB, three times that while they are sorted."""


def refs(shard: int, count: int) -> np.ndarray:
    """The refs of a shard's rows, (count,) uint64."""
    return (np.uint64(shard) << np.uint64(_ROW_BITS)) + np.arange(count, dtype=np.uint64)


def shard_of(ref: np.ndarray) -> np.ndarray:
    """Shard numbers of refs, the topmost bit among them."""
    return (ref >> np.uint64(_ROW_BITS)).astype(np.int64)


def row_of(ref: np.ndarray) -> np.ndarray:
    """Row numbers of refs."""
    return (ref & np.uint64((1 << _ROW_BITS) - 1)).astype(np.int64)


def is_earlier(ref: np.ndarray) -> np.ndarray:
    """Whether documents lie in an earlier artifact: they are never removed."""
    return ref >= EARLIER


def by_shard(ref: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Cut ascending refs into shards: the number of each, and where its refs stand."""
    shards, starts = np.unique(shard_of(ref), return_index=True)
    ends = [*starts[1:].tolist(), ref.size]
    for shard, start, end in zip(shards.tolist(), starts.tolist(), ends, strict=False):
        yield shard, slice(start, end)


def halves(digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """16-byte digests as two (n,) uint64 whose order is that of the bytes."""
    pairs = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype("<u8")
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def hexadecimal(high: int, low: int) -> str:
    """The 32 hex characters of two halves."""
    return f"{int(high):016x}{int(low):016x}"


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy so that it is there whole or not at all."""
    array = np.ascontiguousarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            # np.save of a file that has no room says how much it wrote, not why it stopped
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | Path) -> np.ndarray:
    """Map an array; pages are read as they are touched."""
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


def parts(total: int) -> int:
    """Into how many key ranges so many rows are cut."""
    return max(1, -(-total // _ROWS_OF_PART))


def key_range(part: int, parts: int) -> tuple[int, int]:
    """First and last key (inclusive) of part `part` of the 64-bit keys."""
    return (part << 64) // parts, ((part + 1 << 64) // parts) - 1


def read_range(paths: Sequence[Path], field: str, first: int, last: int) -> np.ndarray:
    """The rows of all files with first <= field <= last. The files are sorted by `field`; there is at least one."""
    return np.concatenate([_between(load(path), field, first, last) for path in paths])


def read_refs(paths: Sequence[Path], shard: int) -> np.ndarray:
    """The rows of all files, sorted by `ref`, that speak of one shard's documents."""
    first = shard << _ROW_BITS
    return read_range(paths, "ref", first, first + (1 << _ROW_BITS) - 1)


def _between(array: np.ndarray, field: str, first: int, last: int) -> np.ndarray:
    # bisection by hand: searchsorted would copy the whole column of a file to look at twenty of its rows
    key = lambda row: int(array[row][field])  # noqa: E731
    begin = bisect_left(range(array.size), first, key=key)
    end = bisect_right(range(array.size), last, lo=begin, key=key)
    return np.array(array[begin:end])
