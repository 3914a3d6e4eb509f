"""The shingle sets of suspects on storage, and the similarities of pairs of them, in bounded memory.

Sets of all documents would take more room than their texts (8 bytes a word), and most documents resemble no other. So
only those that share a band with another have theirs made, from the text, after the candidate pairs are known.
"""

import os
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import rows, sketch
from data_engine.kernels.shingles import similarities

SUSPECT = np.dtype([("ref", "<u8"), ("end", "<i8")])
"""end: where the document's set ends in the shard's file of sets."""

_VALUES_AT_ONCE = 8 << 20
"""Shingles of the pairs compared at once: at most 64 MB, or one pair."""
_ROW_GROUPS_AT_ONCE = 8
_OPEN_FILES = 256


def write_sets(text: Path, refs: np.ndarray, width: int, listed: Path, sets: Path) -> None:
    """Make the sets of some documents of a shard.

    text: Parquet with `text`; refs: ascending, all of that shard; `listed` gets (n,) SUSPECT and is written last,
    `sets` gets the ascending sets end to end, uint64.
    """
    suspects = np.zeros(refs.size, SUSPECT)
    suspects["ref"] = refs
    wanted = rows.row_of(refs)
    parts = [np.zeros(0, np.uint64)]
    filled = done = 0
    if refs.size:
        with pq.ParquetFile(text) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(counts)])
            groups = np.unique(np.searchsorted(starts, wanted, "right") - 1)
            for some in np.array_split(groups, -(-groups.size // _ROW_GROUPS_AT_ONCE)):
                table = file.read_row_groups(some.tolist(), columns=["text"], use_threads=False)
                held = np.concatenate([np.arange(starts[group], starts[group + 1]) for group in some])
                here = np.flatnonzero(np.isin(held, wanted))
                texts = table["text"].combine_chunks().take(pa.array(here))
                values, ends = sketch.shingle_sets(texts, width)
                parts.append(values.copy())
                suspects["end"][done : done + here.size] = ends + filled
                filled += values.size
                done += here.size
    assert done == refs.size, "a document is missing from the file of its shard"
    rows.save(sets, np.concatenate(parts))
    rows.save(listed, suspects)


class ShingleSets:
    """The sets of suspects by ref. `listed` and `sets` name the files of each shard by its number."""

    def __init__(self, listed: dict[int, Path], sets: dict[int, Path]) -> None:
        self._listed = listed
        self._sets = sets
        self._open: OrderedDict[int, tuple[np.ndarray, int, int]] = OrderedDict()

    def similarities(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The Jaccard similarity of each pair of refs, (n,) float64. one, other: (n,) uint64."""
        out = np.zeros(one.size)
        refs, places = np.unique(np.concatenate([one, other]), return_inverse=True)
        begins, ends = self._spans(refs)
        sizes = ends - begins
        left, right = places[: one.size], places[one.size :]
        # a pair costs both sets at most: sets that pairs share are loaded once
        cost = np.cumsum(sizes[left] + sizes[right])
        start = 0
        while start < one.size:
            before = cost[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(cost, before + _VALUES_AT_ONCE, "right")))
            used, among = np.unique(np.concatenate([left[start:end], right[start:end]]), return_inverse=True)
            values = self._load(refs[used], begins[used], ends[used])
            stops = np.cumsum(sizes[used])
            similarities(values, stops, among[: end - start], among[end - start :], out[start:end])
            start = end
        return out

    def _spans(self, refs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the sets of ascending refs begin and end in their files."""
        begins, ends = np.zeros(refs.size, np.int64), np.zeros(refs.size, np.int64)
        for shard, part in rows.by_shard(refs):
            suspects = self._file(shard)[0]
            row = np.searchsorted(suspects["ref"], refs[part])
            begins[part] = np.concatenate([[0], suspects["end"]])[row]
            ends[part] = suspects["end"][row]
        return begins, ends

    def _load(self, refs: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The sets of ascending refs end to end. Read, not mapped: mapped pages would count as memory of the task."""
        parts = []
        for shard, part in rows.by_shard(refs):
            _, descriptor, offset = self._file(shard)
            read = partial(os.pread, descriptor)
            spans = zip(begins[part].tolist(), ends[part].tolist(), strict=True)
            parts += [read(8 * (end - begin), offset + 8 * begin) for begin, end in spans]
        return np.frombuffer(b"".join(parts), np.uint64)

    def _file(self, shard: int) -> tuple[np.ndarray, int, int]:
        """The list of a shard's suspects, and the descriptor and data offset of its sets."""
        if shard not in self._open:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1][1])
            mapped = np.load(self._sets[shard], mmap_mode="r")
            descriptor = os.open(self._sets[shard], os.O_RDONLY)
            self._open[shard] = np.array(rows.load(self._listed[shard])), descriptor, int(mapped.offset)  # type: ignore[attr-defined]
        self._open.move_to_end(shard)
        return self._open[shard]

    def close(self) -> None:
        """Close the files."""
        for _, descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def __enter__(self) -> "ShingleSets":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
