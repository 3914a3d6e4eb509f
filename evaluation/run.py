"""`raymill eval run`: checkpoints to scores with their uncertainty, and every sample behind them."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, field_validator

from core import checkpoint, storage
from core.config import RUNTIME, InputPath, StageConfig
from core.manifest import Manifest
from core.report import Report
from core.run import Run
from core.stage import Stage
from evaluation.bits_per_byte import BitsPerByte
from evaluation.exact_match import ExactMatch
from evaluation.metrics import METRICS, Score, summarise
from evaluation.multiple_choice import MultipleChoice
from evaluation.plots import score_chart
from evaluation.preference import Preference
from evaluation.task import Rows, Sample, Subject, Task

SCORES_FILE, SAMPLES_FILE = "scores.json", "samples.parquet"
SAMPLES = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("values", pa.map_(pa.string(), pa.float64())),
        ("weight", pa.float64()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("output", pa.string()),
    ]
)
AnyTask = Annotated[BitsPerByte | MultipleChoice | ExactMatch | Preference, Field(discriminator="type")]


class EvalConfig(StageConfig):
    """Settings of `raymill eval run`."""

    models: dict[str, InputPath] = Field(min_length=1, description="name in the scores -> checkpoint directory")
    tasks: list[AnyTask] = Field(min_length=1, description="what to score, each with its type and its settings")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="number type of the weights during evaluation")
    device: Annotated[str, RUNTIME] = Field("auto", description="auto takes a GPU when there is one; or cpu, cuda:1")
    batch_tokens: Annotated[int, RUNTIME] = Field(8192, ge=1, description="padded tokens of one forward pass at most")
    threads: Annotated[int | None, RUNTIME] = Field(None, ge=1, description="CPU threads; none uses every core")

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: list[Task]) -> list[Task]:
        names = [task.key for task in tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two tasks are called {name!r}; give one of them another name")
        return tasks


def evaluate(config: EvalConfig, run: Run) -> Manifest:
    """Every model on every task. All inputs are read and checked before the first model loads."""
    for path in config.models.values():
        checkpoint.check(path)
    rows = {task.key: task.read() for task in config.tasks}
    for name, found in rows.items():
        for reason, count in found.skipped.items():
            run.log.warning("%s: %s rows left out: %s", name, count, reason)
    samples: dict[str, list[Sample]] = {}
    with run.progress("eval", len(config.models) * sum(found.size for found in rows.values()), "requests") as progress:
        for name, path in config.models.items():
            with run.timing(name):
                samples[name] = _evaluate_model(config, name, path, rows, progress)
    scores = [score for name, found in samples.items() for score in summarise(name, found, config.seed)]
    guesses = {key: value for task in config.tasks for key, value in task.guess(rows[task.key]).items()}
    _write(run, samples, scores, guesses)
    counts = {
        "models": len(config.models),
        "rows": {name: len(found.rows) for name, found in rows.items()},
        "skipped": {name: found.skipped for name, found in rows.items() if found.skipped},
        "samples": sum(len(found) for found in samples.values()),
    }
    metrics: dict[str, Any] = {"headline": headline(scores, guesses), "guess": guesses}
    for score in scores:
        metrics.setdefault("scores", {}).setdefault(f"{score.task}.{score.metric}", {})[score.model] = round(
            score.estimate.value, 6
        )
    return run.commit(counts=counts, metrics=metrics, report=_report(config, scores, guesses, samples))


def _evaluate_model(config: EvalConfig, name: str, path: str, rows: Mapping[str, Rows], progress: Any) -> list[Sample]:
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    try:
        model = checkpoint.load_model(path, getattr(torch, config.dtype)).to(device)  # type: ignore[arg-type]
        subject = Subject(
            name, model, checkpoint.load_tokenizer(path), config.batch_tokens, lambda n: progress.advance(n, model=name)
        )
        return [sample for task in config.tasks for sample in task.evaluate(rows[task.key], subject)]
    finally:
        torch.set_num_threads(before)


def _write(
    run: Run, samples: Mapping[str, Sequence[Sample]], scores: Sequence[Score], guesses: Mapping[str, float]
) -> None:
    content = {"scores": [score.row() for score in scores], "guess": dict(guesses)}
    storage.write_atomic(run.path(SCORES_FILE), json.dumps(content, indent=2) + "\n")
    rows = [
        {**vars(sample), "model": model, "values": list(sample.values.items())}
        for model, found in samples.items()
        for sample in found
    ]
    pq.write_table(pa.Table.from_pylist(rows, SAMPLES), run.path(SAMPLES_FILE), compression="zstd")


def headline(scores: Sequence[Score], guesses: Mapping[str, float]) -> list[str]:
    """One line per task and metric: each model's score with its standard error, and what guessing scores."""
    lines: dict[str, list[str]] = {}
    for score in scores:
        found = score.estimate
        text = f"{score.model} {found.value:.3f} ± {found.standard_error:.3f}"
        lines.setdefault(f"{score.task}.{score.metric}", []).append(text)
    return [
        f"{name}: {', '.join(texts)}" + (f" (guessing: {guesses[name]:.3f})" if name in guesses else "")
        for name, texts in lines.items()
    ]


def _report(
    config: EvalConfig, scores: Sequence[Score], guesses: Mapping[str, float], samples: Mapping[str, Sequence[Sample]]
) -> Report:
    report = Report("Evaluation", f"{', '.join(config.models)} on {len(config.tasks)} tasks")
    by_row: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        by_row.setdefault((score.task, score.metric), {})[score.model] = score
    rows = []
    for (task, metric), found in sorted(by_row.items()):
        estimates = [found[model].estimate for model in config.models]
        values = [f"{one.value:.3f} ± {one.standard_error:.3f}" for one in estimates]
        cases = max(one.n for one in estimates)
        better = "higher" if METRICS[metric].higher_is_better else "lower"
        rows.append([task, METRICS[metric].label, *values, guesses.get(f"{task}.{metric}"), better, cases])
    report.table(
        "Scores",
        ["task", "metric", *config.models, "guessing", "better", "cases"],
        rows,
        "A score and its standard error; cases about one fact count as one cluster. Guessing is chance, or the best "
        "constant answer. scores.json has the 95 % intervals: Wilson's for shares, bootstrapped over documents for "
        "bits per byte.",
    )
    report.figure("Scores by model", score_chart(scores, guesses), "Bars: 95 % intervals. Dotted: guessing.")
    for task in dict.fromkeys(sample.task for found in samples.values() for sample in found):
        shown = _side_by_side(task, samples)
        if shown:
            report.samples(f"Samples of {task}", shown)
    return report


def _side_by_side(task: str, samples: Mapping[str, Sequence[Sample]], count: int = 8) -> list[tuple[str, str]]:
    """The first samples of a task with what each model answered."""
    by_model = {model: [sample for sample in found if sample.task == task] for model, found in samples.items()}
    firsts = next(iter(by_model.values()))[:count]
    shown = []
    for number, first in enumerate(firsts):
        if not first.prompt:
            continue
        answers = [f"{model}: {found[number].output}" for model, found in by_model.items()]
        shown.append((first.prompt, "\n".join([f"reference: {first.target}", *answers])))
    return shown


STAGE = Stage(name="eval.run", version=1, config=EvalConfig, run=evaluate)
