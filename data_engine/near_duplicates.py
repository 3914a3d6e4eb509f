"""Removal of copies over all shards: exact ones by text digest; near ones by bands -> candidate pairs -> shingle sets
-> verified pairs -> components -> survivors.

Each step reads narrow files and writes narrow files; only the sets of suspects are made from text. Steps that merge
read all shards' sorted files by key range, so that the number of parts, not the number of documents, bounds the memory
of a task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.run import Run
from data_engine import rows
from data_engine.candidates import distinct, find_pairs
from data_engine.connected_components import components, spanning_forest
from data_engine.dedup_index import Earlier
from data_engine.exact import find_exact
from data_engine.holdings import Holdings
from data_engine.measure import Folders
from data_engine.minhash import DedupConfig
from data_engine.shard_map import Task, map_tasks
from data_engine.shingle_sets import ShingleSets, write_sets
from data_engine.survivors import resolve

_PAIRS_OF_PART = 200_000
_MEMBERS_OF_PART = 20_000
_PAIRS_PER_SAMPLE = 256
_SUSPECTS_OF_PART = 20_000


@dataclass(frozen=True)
class Removals:
    """Files of rows.REMOVAL sorted by ref, and what was counted on the way."""

    files: list[Path]
    counts: dict[str, int]


@dataclass(frozen=True)
class Corpus:
    """What copies are looked for in: the shards of this run by number, and what earlier artifacts hold."""

    names: Sequence[str]
    holdings: Holdings
    earlier: Earlier
    config: DedupConfig
    folders: Folders

    def files(self, step: str) -> list[Path]:
        """The scratch files of a step that writes one a shard."""
        return [self.folders.scratch(step, name) for name in self.names]

    def sets(self) -> ShingleSets:
        """The sets of suspects."""
        shards = self.holdings.shards()
        listed = {shard: self.folders.scratch("suspects_of", str(shard)) for shard in shards}
        return ShingleSets(listed, {shard: self.folders.scratch("sets", str(shard)) for shard in shards})


def remove_exact(run: Run, corpus: Corpus) -> Removals:
    """Remove documents with the same text among those that the policies let stay."""
    parts = rows.parts(sum(len(rows.load(file)) for file in corpus.files("staying")) + corpus.earlier.documents)
    files = [corpus.folders.scratch("exact", str(part)) for part in range(parts)]
    tasks = [{"part": part, "parts": parts} for part in range(parts) if not files[part].exists()]
    map_tasks(run, "exact duplicates", tasks, partial(_exact_part, corpus))
    removed = [rows.load(file) for file in files]
    return Removals(files, _counts(removed, "exact"))


def _exact_part(corpus: Corpus, task: Task) -> dict[str, Any]:
    first, last = rows.key_range(task["part"], task["parts"])
    staying = rows.read_range(corpus.files("staying"), "text_hi", first, last)
    table = np.concatenate([staying, corpus.earlier.texts(first, last)])
    rows.save(corpus.folders.scratch("exact", str(task["part"])), find_exact(table, corpus.config.survivor))
    return {}


def remove_near(run: Run, corpus: Corpus, exact: Removals) -> Removals:
    """Remove near duplicates among what stays after exact removal."""
    config, folders = corpus.config, corpus.folders
    bands, _ = config.shape()
    total = sum(len(rows.load(file)) for file in corpus.files("bands")) + corpus.earlier.documents * bands
    parts = rows.parts(total)
    tasks = [
        {"part": part, "parts": parts}
        for part in range(parts)
        if not folders.scratch("pairs_skipped", str(part)).exists()
    ]
    map_tasks(run, "candidate pairs", tasks, partial(_pairs_of_range, corpus, exact.files))
    found = np.array([rows.load(folders.scratch("pairs_skipped", str(part))) for part in range(parts)])
    skipped = int(found[:, 0].sum())
    pairs = [_pairs_file(folders, part, batch) for part in range(parts) for batch in range(found[part, 1])]
    suspects = [folders.scratch("suspects", str(part)) for part in range(parts)]

    shards = [s for s in corpus.holdings.shards() if not folders.scratch("suspects_of", str(s)).exists()]
    together = 1 + sum(len(rows.load(file)) for file in suspects) // _SUSPECTS_OF_PART
    tasks = [{"shards": part.tolist()} for part in np.array_split(shards, together) if part.size]
    map_tasks(run, "shingle sets", tasks, partial(_sets_of_shards, corpus, suspects))

    ranges = _ranges(pairs)
    tasks = [
        {"part": part, "first": first, "last": last}
        for part, (first, last) in enumerate(ranges)
        if not folders.scratch("verified", str(part)).exists()
    ]
    map_tasks(run, "verified pairs", tasks, partial(_verify_pairs, corpus, pairs))
    counted = [rows.load(folders.scratch("verified", str(part))) for part in range(len(ranges))]
    candidates, verified = np.sum(counted, axis=0).tolist()

    forests = [rows.load(folders.scratch("edges", str(part))) for part in range(len(ranges))]
    nodes, labels = components(np.concatenate(forests))
    by_component = np.argsort(labels, kind="stable")
    tasks = []
    files = []
    for part, (start, end) in enumerate(_whole_components(labels[by_component])):
        files.append(folders.scratch("near", str(part)))
        if not files[-1].exists():
            members = np.zeros(end - start, [("ref", "<u8"), ("component", "<i4")])
            members["ref"], members["component"] = nodes[by_component[start:end]], labels[by_component[start:end]]
            rows.save(folders.scratch("to_resolve", str(part)), members)
            tasks.append({"part": part})
    map_tasks(run, "near duplicates", tasks, partial(_resolve_components, corpus))
    counts = {
        "candidate_pairs": candidates,
        "verified_pairs": verified,
        "skipped_pairs": skipped,
        "components": int(labels.max()) + 1 if labels.size else 0,
    }
    return Removals(files, _counts([rows.load(file) for file in files], "near") | counts)


def _counts(removed: Sequence[np.ndarray], kind: str) -> dict[str, int]:
    earlier = sum(int(rows.is_earlier(part["survivor"]).sum()) for part in removed)
    return {kind: sum(len(part) for part in removed)} | ({f"{kind}_of_earlier": earlier} if earlier else {})


def _pairs_of_range(corpus: Corpus, exact: Sequence[Path], task: Task) -> dict[str, Any]:
    first, last = rows.key_range(task["part"], task["parts"])
    own = rows.read_range(corpus.files("bands"), "key", first, last)
    gone = np.concatenate([np.zeros(0, np.uint64), *(rows.load(file)["ref"] for file in exact)])
    bands = np.concatenate([own[~np.isin(own["ref"], gone)], corpus.earlier.bands(first, last)])
    batches, skipped = find_pairs(bands, corpus.config.bucket_pairs, corpus.config.bucket_anchors)
    suspects = []
    for batch, pairs in enumerate(batches):
        rows.save(_pairs_file(corpus.folders, task["part"], batch), pairs)
        suspects.append(np.unique(np.concatenate([pairs["one"], pairs["other"]])))
    name = str(task["part"])
    together = np.unique(np.concatenate(suspects))
    rows.save(corpus.folders.scratch("suspects", name), together.view([("ref", "<u8")]))
    rows.save(corpus.folders.scratch("pairs_skipped", name), np.array([skipped, len(suspects)], np.int64))
    return {}


def _pairs_file(folders: Folders, part: int, batch: int) -> Path:
    return folders.scratch("pairs", f"{part}-{batch}")


def _sets_of_shards(corpus: Corpus, suspects: Sequence[Path], task: Task) -> dict[str, Any]:
    for shard in task["shards"]:
        refs = np.unique(rows.read_refs(suspects, shard)["ref"])
        listed, sets = (corpus.folders.scratch(step, str(shard)) for step in ("suspects_of", "sets"))
        write_sets(corpus.holdings.of(shard).text, refs, corpus.config.shingle, listed, sets)
    return {}


def _ranges(pairs: Sequence[Path]) -> list[tuple[int, int]]:
    """Cut refs into ranges, first and last, in which about _PAIRS_OF_PART pairs have their first document."""
    sampled = np.sort(np.concatenate([rows.load(file)["one"][::_PAIRS_PER_SAMPLE] for file in pairs]))
    step = _PAIRS_OF_PART // _PAIRS_PER_SAMPLE
    starts = [0, *np.unique(sampled[step::step]).tolist()]
    return list(zip(starts, [start - 1 for start in starts[1:]] + [(1 << 64) - 1], strict=True))


def _verify_pairs(corpus: Corpus, files: Sequence[Path], task: Task) -> dict[str, Any]:
    """Keep the pairs whose real Jaccard similarity reaches the threshold, down to a spanning forest."""
    pairs = distinct(rows.read_range(files, "one", task["first"], task["last"]))
    with corpus.sets() as sets:
        similar = sets.similarities(pairs["one"], pairs["other"]) >= corpus.config.threshold
    name = str(task["part"])
    rows.save(corpus.folders.scratch("edges", name), spanning_forest(pairs[similar]))
    rows.save(corpus.folders.scratch("verified", name), np.array([pairs.size, similar.sum()], np.int64))
    return {}


def _resolve_components(corpus: Corpus, task: Task) -> dict[str, Any]:
    listed = rows.load(corpus.folders.scratch("to_resolve", str(task["part"])))
    members = corpus.holdings.documents(np.array(listed["ref"]))
    with corpus.sets() as sets:
        removals = resolve(
            members, listed["component"], corpus.config.survivor, corpus.config.threshold, sets.similarities
        )
    rows.save(corpus.folders.scratch("near", str(task["part"])), removals)
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
