"""Removal of copies against datatrove 0.10.1, and at a million documents: time, memory, precision, recall.

    python benchmarks/dedup.py compare                     10,000 documents, one core each, Ray warm
    python benchmarks/dedup.py scale --documents 1000000   against 100,000, all cores
    python benchmarks/dedup.py index                       100,000 documents: bytes of an index, a crawl against it

Ours is `data build` with `rules: false`, from Parquet with text to survivors, rejects and duplicates written.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import psutil
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from harness import processor_seconds
from planted import PAIR, Plan, true_similarities

import cluster  # noqa: F401  # before Ray: it sets what `import ray` reads
from core import config
from core.manifest import Manifest
from data_engine import build_report
from data_engine import index as index_stage
from data_engine.build import STAGE
from data_engine.minhash import DedupConfig, collision_probability

NO_PII = dict.fromkeys(("email", "ip", "phone", "card", "iban"), False)
SMALL, LARGE = 10_000, 100_000
NINETY_NINE = 2.576


def corpus(folder: Path, documents: int, seed: int) -> tuple[Plan, Path]:
    """The planted corpus of a size, written once."""
    plan, place = Plan(documents, seed), folder / f"planted-{documents}-{seed}"
    if not place.exists():
        shutil.rmtree(place.with_suffix(".part"), ignore_errors=True)
        plan.write(place.with_suffix(".part"))
        place.with_suffix(".part").rename(place)
    return plan, place


def build(place: Path, output: Path, rows_per_shard: int = 10_000, **dedup: Any) -> Manifest:
    """Remove the copies of a corpus."""
    shutil.rmtree(output, ignore_errors=True)
    settings = {
        "output": str(output),
        "sources": [{"name": "planted", "paths": [str(place)]}],
        "rules": False,
        "pii": NO_PII,
        "rows_per_shard": rows_per_shard,
        "dedup": dedup,
    }
    return STAGE.execute(config.parse(STAGE.config, settings, "benchmark"))[0]


def documents_of(manifest: Manifest) -> dict[str, Any]:
    """What is worth keeping of a manifest."""
    return {"counts": manifest.counts, "dedup": manifest.metrics["dedup"], "timings": manifest.timings}


class PeakMemory:
    """The largest PSS of this process and all below it, in GiB, sampled once a second: shared pages count once."""

    def __enter__(self) -> "PeakMemory":
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(1.0):  # a sample takes 40 ms of a core
            total = sum(map(self._pss, [own, *own.children(recursive=True)]))
            self.peak = max(self.peak, total / 2**20)

    @staticmethod
    def _pss(process: psutil.Process) -> int:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


# --- against datatrove --------------------------------------------------------------------------------------------


def datatrove(place: Path, work: Path) -> int:
    """Its four steps with its defaults (5-grams, 14 buckets of 8, xxhash). Returns the documents that it keeps."""
    import xxhash
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from loguru import logger

    logger.remove()
    if "encode" not in xxhash.xxh64_intdigest.__name__:
        digest = xxhash.xxh64_intdigest

        def encoded(text: str) -> int:
            """xxhash 4 refuses str, which datatrove 0.10.1 hands to it."""
            return int(digest(text.encode()))

        encoded.__name__ = "encoded"
        xxhash.xxh64_intdigest = encoded
    shutil.rmtree(work, ignore_errors=True)
    shape = MinhashConfig()

    def step(name: str, pipeline: list[Any], tasks: int = 1) -> None:
        executor = LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / "logs" / name))
        executor.run()
        logger.remove()

    def reader() -> ParquetReader:
        return ParquetReader(str(place), text_key="text", id_key="url")

    signatures, buckets, removals, kept = (str(work / name) for name in ("signatures", "buckets", "remove", "kept"))
    step("signatures", [reader(), MinhashDedupSignature(signatures, shape)])
    step("buckets", [MinhashDedupBuckets(signatures, buckets, config=shape)], tasks=shape.num_buckets)
    step("cluster", [MinhashDedupCluster(buckets, removals, config=shape)])
    step("filter", [reader(), MinhashDedupFilter(removals), ParquetWriter(kept)])
    return sum(pq.read_metadata(file).num_rows for file in Path(kept).rglob("*.parquet"))


def compare(folder: Path, runs: int) -> None:
    """`data.dedup_vs_datatrove`: one core each; ours without the HTML report, which theirs does not write.

    The value is of processor time, all of Ray's processes counted: on a shared machine the clock measures the others.
    The ratio by the clock stands beside it.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # Ray's processes inherit it
    harness.one_thread()
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    _, place = corpus(folder, SMALL, 0)
    build(place, folder / "ours", SMALL // 2)  # compiles, starts the worker, imports
    pairs, clocks, found = [], [], []
    for _ in range(runs):
        manifests, taken = [], []
        for _ in range(3):
            before = processor_seconds()
            with harness.spent_in(build_report, "render") as reports:
                manifests.append(build(place, folder / "ours", SMALL // 2))
            taken.append(processor_seconds() - before - sum(reports))
        clock = statistics.median(m.timings["total"] - m.timings["report"] for m in manifests)
        before, began = processor_seconds(), time.perf_counter()
        kept = datatrove(place, folder / "theirs")
        pairs.append((statistics.median(taken), processor_seconds() - before))
        clocks.append((clock, time.perf_counter() - began))
        found.append({"ours": documents_of(manifests[-1]), "theirs_kept": kept})
        print(pairs[-1], clocks[-1], flush=True)
    ratios = [theirs / ours for ours, theirs in pairs]
    harness.write(
        "data.dedup_vs_datatrove",
        statistics.median(ratios),
        {"documents_per_core_second": SMALL / statistics.median(ours for ours, _ in pairs)},
        {"documents_per_core_second": SMALL / statistics.median(theirs for _, theirs in pairs)},
        ratios,
        processor_seconds=pairs,
        clock_seconds=clocks,
        clock_ratio=statistics.median(theirs / ours for ours, theirs in clocks),
        documents=SMALL,
        found=found[-1],
    )


# --- at a million -------------------------------------------------------------------------------------------------


def numbers_of(urls: Any) -> np.ndarray:
    """The numbers of planted documents from their urls."""
    return np.array([int(url.rpartition("/")[2]) for url in urls.to_pylist()], np.int64)


def quality(plan: Plan, run: Path) -> dict[str, Any]:
    """Precision of every removal and recall of planted pairs, by the true similarities of what was planted."""
    threshold = DedupConfig().threshold
    bands, rows = DedupConfig().shape()
    measured = ds.dataset(sorted((run / "measured").glob("*.parquet"))).to_table(columns=["id", "url"])
    number_of = dict(zip(measured["id"].to_pylist(), numbers_of(measured["url"]).tolist(), strict=True))
    table = ds.dataset(sorted((run / "duplicates").glob("*.parquet"))).to_table()
    removed, survivors = (
        np.array([number_of[identity] for identity in table[name].to_pylist()], np.int64)
        for name in ("id", "survivor_id")
    )
    true = true_similarities(plan, removed, survivors)
    pairs = np.flatnonzero(plan.kind == PAIR)
    pairs = pairs[np.argsort(plan.origin[pairs], kind="stable")].reshape(-1, 2)
    similarity = true_similarities(plan, pairs[:, 0], pairs[:, 1])
    gone = np.isin(pairs, removed).any(axis=1)
    alike = similarity >= threshold
    expected = np.array([collision_probability(s, bands, rows) for s in similarity[alike]])
    spread = NINETY_NINE * np.sqrt((expected * (1 - expected)).sum()) / alike.sum()
    return {
        "removed": int(removed.size),
        "precision": float((true >= threshold).mean()),
        "largest_error_of_jaccard": float(np.abs(table["jaccard"].to_numpy() - true).max()),
        "planted_pairs": len(pairs),
        "pairs_at_or_above_threshold": int(alike.sum()),
        "recall": float(gone[alike].mean()),
        "recall_expected_99": [float(expected.mean() - spread), float(expected.mean() + spread)],
        "removed_below_threshold": int(gone[~alike].sum()),
    }


def scale(folder: Path, documents: int, runs: int) -> None:
    """`data.dedup_scaling` by processor time (the clock stands beside it), peak memory, precision and recall."""
    from cluster import runtime

    runtime.connect("local")
    build(corpus(folder, SMALL, 0)[1], folder / "run", SMALL // 2)
    plans = {size: corpus(folder, size, 1) for size in (LARGE, documents)}
    processor: dict[int, list[float]] = {}
    clock: dict[int, list[float]] = {}
    found: dict[int, dict[str, Any]] = {}
    for size, times in ((LARGE, runs), (documents, 1)):
        for _ in range(times):
            before = processor_seconds()
            with PeakMemory() as memory:
                manifest = build(plans[size][1], folder / "run")
            processor.setdefault(size, []).append(1e6 * (processor_seconds() - before) / size)
            clock.setdefault(size, []).append(1e6 * manifest.timings["total"] / size)
            found[size] = documents_of(manifest) | {"peak_pss_gib": memory.peak}
            print(size, processor[size][-1], clock[size][-1], found[size], flush=True)
    small, large = statistics.median(processor[LARGE]), processor[documents][0]
    harness.write(
        "data.dedup_scaling",
        large / small,
        large,
        small,
        [large / one for one in processor[LARGE]],
        unit="processor microseconds a document, all processes",
        processor_microseconds_per_document=processor,
        clock_microseconds_per_document=clock,
        clock_ratio=clock[documents][0] / statistics.median(clock[LARGE]),
        documents=documents,
        found=found,
    )
    memory_gib = found[documents]["peak_pss_gib"]
    harness.write("data.dedup_peak_pss_gib", memory_gib, memory_gib, None, [memory_gib], documents=documents)
    measured = quality(plans[documents][0], folder / "run")
    value = measured["precision"]
    harness.write("data.dedup_precision", value, value, None, [value], documents=documents, quality=measured)


# --- the index ----------------------------------------------------------------------------------------------------


def index(folder: Path) -> None:
    """Print what an index takes and what a second crawl against it costs; half of that crawl is in the index."""
    from cluster import runtime

    runtime.connect("local")
    (_, first), (_, small) = corpus(folder, LARGE, 1), corpus(folder, SMALL, 0)
    build(small, folder / "run", SMALL // 2)
    made = build(first, folder / "indexed", index=True)
    size = sum(file.stat().st_size for file in (folder / "indexed" / "index").iterdir())
    print(f"index: {size / made.counts['kept']:.0f} bytes a document, {made.timings['index']} s to write", flush=True)
    settings = {"output": str(folder / "index"), "documents": str(folder / "indexed")}
    alone = index_stage.STAGE.execute(config.parse(index_stage.STAGE.config, settings, "benchmark"))[0]
    print(f"data index: {alone.counts['documents'] / alone.timings['total']:.0f} documents/s", flush=True)
    mixed = folder / "mixed"
    mixed.mkdir(exist_ok=True)
    pq.write_table(pq.read_table(sorted(first.iterdir())[0]), mixed / "known.parquet", row_group_size=5_000)
    pq.write_table(pq.read_table(corpus(folder, LARGE // 2, 2)[1]), mixed / "new.parquet", row_group_size=5_000)
    plain = build(mixed, folder / "run")
    against = build(mixed, folder / "run", against=[str(folder / "indexed")])
    for name, found in (("alone", plain), ("against", against)):
        print(f"{name}: {LARGE / found.timings['total']:.0f} documents/s", found.metrics["dedup"], found.timings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compare", "scale", "index"])
    parser.add_argument("--documents", type=int, default=1_000_000, help="of 'scale'")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; kept. Default: a temporary one, removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.what == "compare":
            compare(folder, arguments.runs)
        elif arguments.what == "index":
            index(folder)
        else:
            scale(folder, arguments.documents, arguments.runs)


if __name__ == "__main__":
    main()
