"""The whole pipeline on one core: extracted text to packed tokens, and WARC to packed tokens, stage by stage.

`python benchmarks/pipeline.py`. Text: docs/docs.parquet, WARC: crawl/articles.warc.gz. Every stage is the command's own
code on one shard, in this process and one thread, after a first run that compiles the kernels. Processor time, that of
child processes included. A stage's rate counts the documents that it was given; the whole is the rate of a document
that goes through all stages, 1 / sum(1 / rate): rejected ones leave early and would only make it look faster. Drawing
the HTML reports takes the same time for any number of documents: it is left out, and stands beside the figure.
"""

import tempfile

from harness import one_thread, spent_in, test_data, write

one_thread()

import resource  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pyarrow.dataset as ds  # noqa: E402
import torch  # noqa: E402

from core.token_set import TokenSet  # noqa: E402
from data_engine import build, build_report, tokenize  # noqa: E402
from training.packing import PackedDocuments  # noqa: E402

RUNS = 3
LENGTH = 1024
STAGES = ("build", "tokenize", "pack")


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds without the report, seconds of the report, and the result."""
    began = processor_seconds()
    with spent_in(build_report, "render") as built, spent_in(tokenize, "_report") as tokenized:
        result = work()
    report = sum(built) + sum(tokenized)
    return processor_seconds() - began - report, report, result


def pack(directory: Path) -> int:
    """Read one epoch as packed sequences, eight at a time, as the trainer does. Returns the documents in it."""
    documents = PackedDocuments(TokenSet(directory), "train", LENGTH, 0)
    count = -(-documents.total // LENGTH)
    for first in range(0, count, 8):
        documents.sequences(first, min(8, count - first))
    return len(documents.rows)


def once(source: Path, folder: Path, tokenizer: Path | None) -> dict[str, dict[str, float]]:
    """One pass. Returns documents, megabytes of text given to each stage, and its seconds."""
    sources = [{"name": "bench", "paths": [str(source)]}]
    shards = {"shard_bytes": 1 << 30, "rows_per_shard": 1_000_000}  # one shard: nothing is handed to other processes
    config = build.BuildConfig.model_validate({"output": str(folder / "build"), "sources": sources, **shards})
    seconds, report, (built, _) = timed(lambda: build.STAGE.execute(config))
    read = size(folder / "build" / "measured")
    rows = {"build": {"documents": built.counts["read"], "megabytes": read, "seconds": seconds, "report": report}}
    settings = {"documents": str(folder / "build"), "tokenizer": str(tokenizer) if tokenizer else None}
    settings |= {"output": str(folder / "tokens"), "vocab_size": 4096, "validation_fraction": 0.0}
    encode = tokenize.TokenizeConfig.model_validate(settings)
    seconds, report, (tokens, _) = timed(lambda: tokenize.STAGE.execute(encode))
    kept = {"documents": tokens.counts["documents"], "megabytes": tokens.counts["bytes"] / 1e6}
    rows["tokenize"] = {**kept, "seconds": seconds, "report": report}
    seconds, _, packed = timed(lambda: pack(folder / "tokens"))
    assert packed == kept["documents"], "a document is missing from the packed sequences"
    rows["pack"] = {**kept, "seconds": seconds, "report": 0.0}
    return rows


def size(folder: Path) -> float:
    texts = ds.dataset([str(path) for path in folder.glob("*.parquet")]).to_table(columns=["text"])["text"]
    return sum(len(text.encode()) for text in texts.to_pylist()) / 1e6


def per_second(rows: dict[str, dict[str, float]], what: str) -> dict[str, float]:
    rates = {stage: row[what] / row["seconds"] for stage, row in rows.items()}
    return {**rates, "all": 1 / sum(1 / rate for rate in rates.values())}


def measure(name: str, runs: int, scratch: Path, tokenizer: Path) -> dict[str, Any]:
    """Rates of each stage in each run, and their medians."""
    passes = [once(test_data(name), scratch / f"{Path(name).stem}-{number}", tokenizer) for number in range(runs)]
    found: dict[str, Any] = {"input": name, "documents": {stage: passes[0][stage]["documents"] for stage in STAGES}}
    for what in ("documents", "megabytes"):
        rates = [per_second(rows, what) for rows in passes]
        found[f"{what}_per_second"] = {key: round(statistics.median(r[key] for r in rates), 2) for key in rates[0]}
        found[f"{what}_runs"] = [round(r["all"], 2) for r in rates]
    found["report_seconds"] = {
        stage: round(statistics.median(r[stage]["report"] for r in passes), 2) for stage in STAGES
    }
    found["largest_stage"] = min(STAGES, key=lambda stage: found["documents_per_second"][stage])
    return found


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        once(test_data("docs/docs.parquet"), scratch / "warm", None)  # compiles, and trains the tokenizer of the others
        tokenizer = scratch / "warm" / "tokens" / "tokenizer"
        text = measure("docs/docs.parquet", RUNS, scratch, tokenizer)
        warc = measure("crawl/articles.warc.gz", 1, scratch, tokenizer)
    for found in (text, warc):
        print(found["input"], found["documents_per_second"], found["megabytes_per_second"], found["largest_stage"])
    value = text["documents_per_second"]["all"]
    write("data.pipeline_docs_per_core", value, value, None, text["documents_runs"], text=text, warc=warc)


if __name__ == "__main__":
    main()
