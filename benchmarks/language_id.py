"""Language identification inside Ray Data beside a bare fastText loop: documents per second of one core.

Ours: the map that `data build` uses, shard descriptors over a Ray of one core, warm; each task reads its rows from
Parquet and asks for the batch. Bare: a Python loop over texts already in memory, one call of the model for each.
Processor time, all of Ray's processes counted: on a shared machine the clock measures the others. The ratio by the
clock stands beside it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable

import harness

harness.one_thread()

import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402

from core.config import StageConfig  # noqa: E402
from core.run import Run  # noqa: E402
from data_engine import language  # noqa: E402
from data_engine.shard_map import Task, map_tasks  # noqa: E402

RUNS = 5
PASSES = 5
"""How often the documents are read in one run, so that it lasts."""


def work(task: Task) -> dict[str, int]:
    with pq.ParquetFile(task["path"]) as file:
        texts = file.read_row_group(task["row_group"], columns=["text"])["text"].combine_chunks()
    labels, _ = language.identify(texts, task["model"])
    return {"documents": len(labels)}


def seconds(call: Callable[[], None]) -> tuple[float, float]:
    """Of a processor, and by the clock."""
    used, began = harness.processor_seconds(), time.perf_counter()
    call()
    return harness.processor_seconds() - used, time.perf_counter() - began


def main() -> None:
    path = str(harness.test_data("docs/docs.parquet"))
    model = language.model_path(language.LanguageConfig())
    groups = pq.ParquetFile(path).metadata.num_row_groups
    texts = pq.read_table(path)["text"].to_pylist() * PASSES
    tasks = [{"path": path, "row_group": group, "model": model} for group in list(range(groups)) * PASSES]

    def bare() -> None:
        predict = language.load(model).f.predict
        for text in texts:
            predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder, Run("data.benchmark", 1, StageConfig(output=folder)) as run:

        def inside() -> None:
            results = map_tasks(run, "identified", tasks, work, counted="documents")
            assert sum(result["documents"] for result in results) == len(texts)

        inside()
        own, other = [], []
        for _ in range(RUNS):
            own.append(seconds(inside))
            other.append(seconds(bare))
    ratios, clock = ([two[by] / one[by] for one, two in zip(own, other, strict=True)] for by in (0, 1))
    harness.write(
        "data.language_id_efficiency",
        statistics.median(ratios),
        len(texts) / statistics.median(used for used, _ in own),
        len(texts) / statistics.median(used for used, _ in other),
        ratios,
        unit="documents per second of one core",
        clock_ratio=statistics.median(clock),
        clock_runs=clock,
    )


if __name__ == "__main__":
    main()
