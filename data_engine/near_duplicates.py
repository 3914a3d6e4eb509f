"""Near-duplicate removal over all shards: bands -> candidate pairs -> verified pairs -> components -> survivors.

Each step reads narrow files and writes narrow files; text takes no part. Steps that merge read all shards' sorted files
by key range, so that the number of parts, not the number of documents, bounds the memory of a task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.run import Run
from data_engine import rows
from data_engine.candidates import find_pairs
from data_engine.connected_components import components, spanning_forest
from data_engine.exact import find_exact
from data_engine.kernels.shingles import band_keys, jaccard
from data_engine.measure import Folders
from data_engine.minhash import DedupConfig
from data_engine.shard_map import Task, map_tasks
from data_engine.survivors import resolve

_ROWS_OF_PART = 2_000_000
"""Band rows or digests merged by one task: 64 MB, three times that while they are sorted."""
_PAIRS_OF_PART = 20_000
_MEMBERS_OF_PART = 5_000
_OPEN_SHARDS = 64


@dataclass(frozen=True)
class Removals:
    """Files of rows.REMOVAL sorted by ref, and what was counted on the way."""

    files: list[Path]
    counts: dict[str, int]


class ShingleSets:
    """The shingle sets of documents by ref, read from the shards' files as they are asked for."""

    def __init__(self, names: Sequence[str], folders: Folders) -> None:
        self._names = names
        self._folders = folders
        self._open: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _shard(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if number not in self._open:
            if len(self._open) >= _OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            name = self._names[number]
            self._open[number] = (
                rows.load(self._folders.scratch("rows", name)),
                rows.load(self._folders.scratch("shingles", name)),
            )
        return self._open[number]

    def of(self, ref: int) -> np.ndarray:
        """The ascending set of a document, uint64."""
        table, sets = self._shard(ref >> 32)
        row = ref & 0xFFFFFFFF
        start = int(table["shingles"][row - 1]) if row else 0
        return np.array(sets[start : int(table["shingles"][row])])

    def document(self, ref: int) -> np.ndarray:
        """The narrow row of a document, as an array of one rows.DOCUMENT."""
        row = ref & 0xFFFFFFFF
        return np.array(self._shard(ref >> 32)[0][row : row + 1])


def remove_exact(run: Run, names: Sequence[str], staying: int, config: DedupConfig, folders: Folders) -> Removals:
    """Remove documents with the same text among those that the policies let stay."""
    parts = max(1, -(-staying // _ROWS_OF_PART))
    files = [folders.scratch("exact", str(part)) for part in range(parts)]
    tasks = [{"part": part, "parts": parts} for part in range(parts) if not files[part].exists()]
    map_tasks(run, "exact duplicates", tasks, partial(_exact_part, names, config, folders))
    return Removals(files, {"exact": sum(len(rows.load(file)) for file in files)})


def _exact_part(names: Sequence[str], config: DedupConfig, folders: Folders, task: Task) -> dict[str, Any]:
    staying = [folders.scratch("staying", name) for name in names]
    table = rows.read_range(staying, "text_hi", task["part"], task["parts"])
    rows.save(folders.scratch("exact", str(task["part"])), find_exact(table, config.survivor))
    return {}


def remove_near(run: Run, names: Sequence[str], exact: Removals, config: DedupConfig, folders: Folders) -> Removals:
    """Remove near duplicates among what stays after exact removal. `names` in the order of the shard numbers."""
    bands, band_rows = config.shape()
    tasks = [
        {"shard": number, "name": name}
        for number, name in enumerate(names)
        if not folders.scratch("bands", name).exists()
    ]
    map_tasks(run, "signature bands", tasks, partial(_bands_of_shard, exact.files, bands, band_rows, folders))

    total = sum(len(rows.load(folders.scratch("bands", name))) for name in names)
    parts = max(1, -(-total // _ROWS_OF_PART))
    tasks = [
        {"part": part, "parts": parts}
        for part in range(parts)
        if not folders.scratch("pairs_skipped", str(part)).exists()
    ]
    map_tasks(run, "candidate pairs", tasks, partial(_pairs_of_range, names, config, folders))
    pairs = np.unique(np.concatenate([rows.load(folders.scratch("pairs", str(part))) for part in range(parts)]))
    skipped = sum(int(rows.load(folders.scratch("pairs_skipped", str(part)))[0]) for part in range(parts))

    tasks = []
    for part, start in enumerate(range(0, pairs.size, _PAIRS_OF_PART)):
        if not folders.scratch("edges_verified", str(part)).exists():
            rows.save(folders.scratch("to_verify", str(part)), pairs[start : start + _PAIRS_OF_PART])
            tasks.append({"part": part})
    map_tasks(run, "verified pairs", tasks, partial(_verify_pairs, names, config, folders))
    verifications = range(-(-pairs.size // _PAIRS_OF_PART))
    forests = [rows.load(folders.scratch("edges", str(part))) for part in verifications]
    verified = sum(int(rows.load(folders.scratch("edges_verified", str(part)))[0]) for part in verifications)

    nodes, labels = components(np.concatenate([*forests, np.zeros(0, rows.PAIR)]))
    by_component = np.lexsort((nodes, labels))
    tasks = []
    files = []
    for part, (start, end) in enumerate(_whole_components(labels[by_component])):
        files.append(folders.scratch("near", str(part)))
        if not files[-1].exists():
            members = np.zeros(end - start, [("ref", "<u8"), ("component", "<i4")])
            members["ref"], members["component"] = nodes[by_component[start:end]], labels[by_component[start:end]]
            rows.save(folders.scratch("to_resolve", str(part)), members)
            tasks.append({"part": part})
    map_tasks(run, "near duplicates", tasks, partial(_resolve_components, names, config, folders))
    counts = {
        "near": sum(len(rows.load(file)) for file in files),
        "candidate_pairs": int(pairs.size),
        "verified_pairs": verified,
        "skipped_pairs": skipped,
        "components": int(labels.max()) + 1 if labels.size else 0,
    }
    return Removals(files, counts)


def _bands_of_shard(exact: Sequence[Path], bands: int, band_rows: int, folders: Folders, task: Task) -> dict[str, Any]:
    """Band rows of the documents of a shard that are still there, sorted by key."""
    staying = rows.load(folders.scratch("staying", task["name"]))
    gone = rows.read_refs(exact, task["shard"])["ref"] if exact else np.zeros(0, np.uint64)
    left = staying[~np.isin(staying["ref"], gone)]
    table = rows.load(folders.scratch("rows", task["name"]))
    places = rows.row_of(left["ref"])
    # a document without a word has no shingle: it resembles nothing
    ends = np.concatenate([[0], table["shingles"]])
    filled = ends[places + 1] > ends[places]
    left, places = left[filled], places[filled]
    signatures = np.ascontiguousarray(rows.load(folders.scratch("signatures", task["name"]))[places])
    keys = np.empty((left.size, bands), np.uint64)
    band_keys(signatures, bands, band_rows, keys)
    out = np.zeros(keys.size, rows.BAND)
    out["key"] = keys.ravel()
    for field in ("id_hi", "id_lo", "ref"):
        out[field] = np.repeat(left[field], bands)
    rows.save(folders.scratch("bands", task["name"]), np.sort(out, order=["key", "id_hi", "id_lo"]))
    return {}


def _pairs_of_range(names: Sequence[str], config: DedupConfig, folders: Folders, task: Task) -> dict[str, Any]:
    files = [folders.scratch("bands", name) for name in names]
    table = rows.read_range(files, "key", task["part"], task["parts"])
    pairs, skipped = find_pairs(table, config.bucket_pairs, config.bucket_anchors)
    rows.save(folders.scratch("pairs", str(task["part"])), pairs)
    rows.save(folders.scratch("pairs_skipped", str(task["part"])), np.array([skipped], np.int64))
    return {}


def _verify_pairs(names: Sequence[str], config: DedupConfig, folders: Folders, task: Task) -> dict[str, Any]:
    """Keep the pairs whose real Jaccard similarity reaches the threshold, down to a spanning forest."""
    sets = ShingleSets(names, folders)
    pairs = rows.load(folders.scratch("to_verify", str(task["part"])))
    similar = np.zeros(pairs.size, bool)
    one, own = -1, np.zeros(0, np.uint64)
    for number, pair in enumerate(pairs):
        if int(pair["one"]) != one:  # pairs are sorted: the first of them is read once
            one = int(pair["one"])
            own = sets.of(one)
        similar[number] = jaccard(own, sets.of(int(pair["other"]))) >= config.threshold
    rows.save(folders.scratch("edges", str(task["part"])), spanning_forest(np.array(pairs[similar])))
    rows.save(folders.scratch("edges_verified", str(task["part"])), np.array([similar.sum()], np.int64))
    return {}


def _resolve_components(names: Sequence[str], config: DedupConfig, folders: Folders, task: Task) -> dict[str, Any]:
    sets = ShingleSets(names, folders)
    listed = rows.load(folders.scratch("to_resolve", str(task["part"])))
    starts = np.flatnonzero(np.concatenate([[True], listed["component"][1:] != listed["component"][:-1]]))
    removals = []
    for refs in np.split(listed["ref"], starts[1:]):
        members = np.concatenate([sets.document(int(ref)) for ref in refs])
        removals.append(resolve(members, config.survivor, config.threshold, sets.of))
    rows.save(folders.scratch("near", str(task["part"])), np.sort(np.concatenate(removals), order="ref"))
    return {}


def _whole_components(labels: np.ndarray) -> list[tuple[int, int]]:
    """Cut ascending labels into parts of about _MEMBERS_OF_PART that split no component."""
    parts: list[tuple[int, int]] = []
    start = 0
    while start < labels.size:
        end = min(start + _MEMBERS_OF_PART, labels.size)
        end = int(np.searchsorted(labels, labels[end - 1], "right"))
        parts.append((start, end))
        start = end
    return parts
