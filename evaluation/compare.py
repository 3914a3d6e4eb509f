"""`raymill eval compare`: has a checkpoint regressed against another? Exit code 1 when it has."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from core import manifest, storage
from core.config import Config, InputPath, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.report import ACCENT, MUTED, SECOND, Report, new_figure
from core.run import Run
from core.stage import Stage
from evaluation.metrics import METRICS
from evaluation.run import SAMPLES_FILE, SCORES_FILE
from evaluation.statistics import mcnemar, paired_bootstrap

VERDICT_FILE = "verdict.json"
OK, REGRESSED = "ok", "regressed"


class Gate(Config):
    """How much worse a candidate may be on one metric."""

    metric: str = Field(description="task.metric as the scores name it, such as multiple_choice.acc")
    max_drop: float = Field(0.0, ge=0, description="loss that is still accepted, in `unit`")
    unit: Literal["absolute", "standard_errors"] = Field(
        "absolute", description="of max_drop: the metric's own, or standard errors of the paired difference"
    )
    alpha: float = Field(
        0.01, gt=0, lt=1, description="a drop counts only when chance alone gives one like it less often than this"
    )


class CompareConfig(StageConfig):
    """Settings of `raymill eval compare`."""

    scores: InputPath | list[InputPath] = Field(description="artifact of eval run, or several of the same tasks")
    baseline: str = Field(description="model that the others are held against")
    candidates: list[str] = Field(default_factory=list, description="models to judge; empty means every other one")
    gates: list[Gate] = Field(min_length=1, description="what must not get worse")


@dataclass(frozen=True)
class Verdict:
    """One gate on one candidate. `drop` is how much worse the candidate is, negative when it is better."""

    candidate: str
    metric: str
    baseline_value: float
    candidate_value: float
    drop: float
    standard_error: float
    allowed: float
    p_value: float
    test: str
    n: int
    verdict: str


@dataclass(frozen=True)
class _Paired:
    """The samples of one task as one model answered them, by id."""

    ids: tuple[str, ...]
    groups: np.ndarray
    values: np.ndarray
    weights: np.ndarray


def compare(config: CompareConfig, run: Run) -> Manifest:
    """Paired tests on the samples, a verdict table, then the exit code. The artifact is written either way."""
    table = _read_samples([config.scores] if isinstance(config.scores, str) else config.scores)
    models = list(dict.fromkeys(table.column("model").to_pylist()))
    candidates = config.candidates or [model for model in models if model != config.baseline]
    for name in (config.baseline, *candidates):
        if name not in models:
            raise UserError(f"{name}: no such model in {config.scores}; there are: {', '.join(models)}")
    verdicts = [judge(table, gate, config.baseline, name, config.seed) for name in candidates for gate in config.gates]
    regressed = [found for found in verdicts if found.verdict == REGRESSED]
    storage.write_atomic(run.path(VERDICT_FILE), json.dumps([asdict(found) for found in verdicts], indent=2) + "\n")
    metrics: dict[str, Any] = {
        "verdict": REGRESSED if regressed else OK,
        "headline": [_line(found, config.baseline) for found in verdicts],
    }
    counts = {"gates": len(verdicts), "regressed": len(regressed)}
    return run.commit(counts=counts, metrics=metrics, report=_report(config, verdicts))


def accept(found: Manifest) -> None:
    """Raises RaymillError when the verdict in the artifact is a regression."""
    if found.metrics["verdict"] != OK:
        lines = [line for line in found.metrics["headline"] if line.endswith(REGRESSED)]
        raise RaymillError(f"regression: {'; '.join(lines)}")


def judge(table: pa.Table, gate: Gate, baseline: str, candidate: str, seed: int) -> Verdict:
    """Regressed when the drop exceeds what the gate allows and is no accident.

    The test is McNemar's where samples are independent successes and failures, else a paired bootstrap over groups.
    Raises UserError when the two did not answer the same samples.
    """
    task, _, metric = gate.metric.rpartition(".")
    before, after = (_pick(table, model, task, metric) for model in (baseline, candidate))
    if before.ids != after.ids:
        raise UserError(
            f"{gate.metric}: {baseline} and {candidate} were scored on different samples; run eval run again"
        )
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    old, new = (float(found.values.sum() / found.weights.sum()) for found in (before, after))
    drop = sign * (old - new)
    # How much worse, sample by sample: the bootstrap asks whether 'worse' is above zero.
    p_value, error = paired_bootstrap(sign * after.values, sign * before.values, before.weights, before.groups, seed)
    test = "paired bootstrap"
    if METRICS[metric].share and len(set(before.groups)) == len(before.groups):
        p_value, test = mcnemar(before.values, after.values), "McNemar"
    allowed = gate.max_drop * (error if gate.unit == "standard_errors" else 1.0)
    verdict = REGRESSED if drop > allowed and p_value < gate.alpha else OK
    return Verdict(candidate, gate.metric, old, new, drop, error, allowed, p_value, test, len(before.ids), verdict)


def _read_samples(paths: Sequence[str]) -> pa.Table:
    tables: list[pa.Table] = []
    models: set[str] = set()
    for path in paths:
        manifest.require(path, "eval.run")
        if not Path(path, SCORES_FILE).is_file() or not Path(path, SAMPLES_FILE).is_file():
            raise UserError(f"{path}: its {SAMPLES_FILE} is missing; run 'raymill eval run' again")
        table = pq.read_table(Path(path, SAMPLES_FILE))
        again = models & set(table.column("model").to_pylist())
        if again:
            raise UserError(f"{path}: the model {min(again)} has scores in another artifact too; give it another name")
        models |= set(table.column("model").to_pylist())
        tables.append(table)
    return pa.concat_tables(tables)


def _pick(table: pa.Table, model: str, task: str, metric: str) -> _Paired:
    mine = np.asarray(table.column("model").to_pylist(), dtype=object) == model
    rows = table.filter(pa.array(mine & (np.asarray(table.column("task").to_pylist(), dtype=object) == task)))
    values = [dict(pairs).get(metric) for pairs in rows.column("values").to_pylist()]
    if not values or None in values:
        known = sorted(
            {
                f"{row['task']}.{name}"
                for row in table.select(["task", "values"]).to_pylist()
                for name, _ in row["values"]
            }
        )
        raise UserError(f"gates: {task}.{metric}: {model} has no such score; there are: {', '.join(known)}")
    ids = rows.column("id").to_pylist()
    groups = [group or identifier for group, identifier in zip(rows.column("group").to_pylist(), ids, strict=True)]
    return _Paired(tuple(ids), np.asarray(groups), np.asarray(values, dtype=float), rows.column("weight").to_numpy())


def _line(found: Verdict, baseline: str) -> str:
    return (
        f"{found.candidate} against {baseline}, {found.metric}: {found.baseline_value:.3f} -> "
        f"{found.candidate_value:.3f} (p of a drop by chance {found.p_value:.2g}): {found.verdict}"
    )


def _report(config: CompareConfig, verdicts: Sequence[Verdict]) -> Report:
    bad = sum(found.verdict == REGRESSED for found in verdicts)
    report = Report("Comparison", f"against {config.baseline}: {f'{bad} regressions' if bad else 'no regression'}")
    rows = [
        [
            *(found.candidate, found.metric, found.verdict, found.baseline_value, found.candidate_value),
            *(f"{found.drop:.3f} ± {found.standard_error:.3f}", found.allowed),
            *("< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}", found.test, found.n),
        ]
        for found in verdicts
    ]
    columns = ["candidate", "metric", "verdict", "baseline", "value", "worse by", "allowed", "p", "test", "cases"]
    report.table(
        "Verdicts",
        columns,
        rows,
        "Worse by: negative when better, with the standard error of the paired difference. p: how often chance alone "
        "gives such a drop. Regressed: it is worse by more than is allowed, and p is below the gate's alpha.",
    )
    figure = new_figure(height=max(1.4, 0.35 * len(verdicts) + 0.8))
    axes = figure.subplots()
    for place, found in enumerate(verdicts):
        color = SECOND if found.verdict == REGRESSED else ACCENT
        in_errors = -found.drop / found.standard_error if found.standard_error else 0.0
        axes.errorbar([in_errors], [place], xerr=[1.96], fmt="o", color=color, capsize=3, markersize=4)
    axes.axvline(0, color=MUTED, linestyle=":")
    axes.set_yticks(range(len(verdicts)), [f"{found.candidate}: {found.metric}" for found in verdicts])
    axes.set_ylim(len(verdicts) - 0.4, -0.6)
    axes.set_xlabel("better by, in standard errors of the paired difference")
    report.figure("Differences", figure, "Right of the line: better than the baseline. Bars: 95 % intervals.")
    return report


STAGE = Stage(name="eval.compare", version=1, config=CompareConfig, run=compare, check=accept)
