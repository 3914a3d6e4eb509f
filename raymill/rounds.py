"""`raymill train rounds`: DPO in rounds, each on pairs of the model that the round before left.

A round collects pairs (answers of the model at hand, judged; or results of people's comparisons), trains on them with
that model as the reference, and evaluates what it made. Iterative DPO: Xu et al. 2023 (arXiv:2312.16682), Yuan et al.
2024 (arXiv:2401.10020).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from core import config as core_config
from core.config import RUNTIME, InputPath, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.report import Report, line_chart
from core.run import Run
from core.stage import Stage
from evaluation import run as evaluation
from evaluation.run import EvalConfig
from training import collect, dpo
from training.collect import PAIRS, CollectConfig, CollectSettings
from training.dpo import DpoConfig
from training.rewards import RewardConfig

_START = "start"


class RoundsConfig(StageConfig):
    """Settings of `raymill train rounds`."""

    checkpoint: InputPath = Field(description="checkpoint to start from")
    rounds: int = Field(2, gt=0, description="how many")
    heldout: InputPath = Field(description="held-out pairs, the same for every round")
    preferences: InputPath | None = Field(
        None, description="pairs of the first round; null: collected as in the others"
    )
    prompts: InputPath | None = Field(None, description="prompts that the model answers; for a judge")
    fields: dict[str, str] = Field(default_factory=dict, description="columns of other tables of prompts")
    judge: list[RewardConfig] = Field(
        default_factory=list, description="what makes an answer good: a reward model, a right answer, ..."
    )
    collect: CollectSettings = Field(CollectSettings(), description="how judged answers become pairs")
    arena: str | None = Field(
        None, description="pairs of people's comparisons instead of a judge, as results/round-{round}.parquet"
    )
    train: dict[str, Any] = Field(default_factory=dict, description="settings of train.dpo for each round")
    evaluate: dict[str, Any] | None = Field(
        None, description="settings of eval.run after each round, its tasks among them; null: no evaluation"
    )
    folder: Annotated[str | None, RUNTIME] = Field(
        None, description="folder of the rounds' run directories, reused by other runs; null: OUTPUT-rounds"
    )

    @property
    def reusable(self) -> bool:
        """Files of comparisons are no input that could be known beforehand; each round is reused all the same."""
        return self.arena is None

    @model_validator(mode="after")
    def _knows_where_pairs_come_from(self) -> "RoundsConfig":
        if bool(self.judge) == bool(self.arena):
            raise ValueError("pairs come from a judge or from arena; set one of the two")
        if self.judge and self.prompts is None:
            raise ValueError("a judge needs prompts; set them")
        if self.arena and "{round}" not in self.arena:
            raise ValueError("arena names a file for each round; write {round} where its number belongs")
        for name, ours in (
            ("train", {"output", "checkpoint", "preferences", "heldout"}),
            ("evaluate", {"output", "models"}),
        ):
            taken = ours & set(getattr(self, name) or {})
            if taken:
                raise ValueError(f"{name}.{min(taken)} is set by the rounds themselves; leave it out")
        return self


@dataclass
class _Round:
    """What a round left; `reused`: every part of it was up to date."""

    number: int
    checkpoint: str
    pairs: int
    trained: Manifest
    collected: Manifest | None
    scores: dict[str, float]
    reused: bool


def rounds(config: RoundsConfig, run: Run) -> Manifest:
    """Collect, train and evaluate, round after round; what is up to date is reused."""
    folder = Path(config.folder or f"{config.output.rstrip('/')}-rounds")
    _settings(config, folder, 1, config.checkpoint, config.preferences or config.heldout)  # mistakes before any work
    before = _evaluated(config, folder / _START, _START, config.checkpoint)
    done: list[_Round] = []
    current = config.checkpoint
    for number in range(1, config.rounds + 1):
        run.log.info("round %d of %d, from %s", number, config.rounds, current)
        done.append(_one(config, run, folder / f"round-{number}", number, current))
        current = done[-1].checkpoint
    return _commit(run, done, before)


def _one(config: RoundsConfig, run: Run, folder: Path, number: int, start: str) -> _Round:
    collected, path, reused = _pairs(config, folder, number, start)
    training = _settings(config, folder, number, start, path)
    trained, kept = dpo.STAGE.execute(training)
    reached = str(folder / "dpo" / "checkpoint")
    scores = _evaluated(config, folder, f"round {number}", reached)
    for line in [*(collected.metrics["headline"] if collected else []), *trained.metrics["headline"]]:
        run.log.info("round %d: %s", number, line)
    pairs = trained.counts["examples"]["train"]
    return _Round(number, reached, pairs, trained, collected, scores, reused and kept)


def _settings(config: RoundsConfig, folder: Path, number: int, start: str, pairs: str) -> DpoConfig:
    own = {"output": str(folder / "dpo"), "checkpoint": start, "preferences": pairs, "heldout": config.heldout}
    given = {"seed": config.seed + number - 1, **config.train}
    return core_config.parse(DpoConfig, {**given, **own}, "train")


def _pairs(config: RoundsConfig, folder: Path, number: int, start: str) -> tuple[Manifest | None, str, bool]:
    """(the collection, its pairs, whether it was reused); given pairs are no collection."""
    if number == 1 and config.preferences is not None:
        return None, config.preferences, True
    if config.arena is not None:
        path = config.arena.replace("{round}", str(number))
        if not Path(path).is_file():
            raise UserError(
                f"arena: round {number} waits for {path}; compare answers of {start} there, then start the same "
                "command again"
            )
        return None, path, True
    judged = number - 1 if config.preferences is not None else number
    settings = CollectConfig(
        output=str(folder / "pairs"),
        seed=config.seed,
        checkpoint=start,
        prompts=str(config.prompts),
        fields=config.fields,
        rewards=config.judge,
        first=(judged - 1) * (config.collect.prompts or 0),
        settings=config.collect,
    )
    found, reused = collect.STAGE.execute(settings)
    return found, str(folder / "pairs" / PAIRS), reused


def _evaluated(config: RoundsConfig, folder: Path, name: str, path: str) -> dict[str, float]:
    """Scores of one checkpoint by task and metric."""
    if config.evaluate is None:
        return {}
    given = {"seed": config.seed, **config.evaluate, "output": str(folder / "eval"), "models": {name: path}}
    found, _ = evaluation.STAGE.execute(core_config.parse(EvalConfig, given, "evaluate"))
    return {metric: next(iter(values.values())) for metric, values in found.metrics["scores"].items()}


def _commit(run: Run, done: list[_Round], before: dict[str, float]) -> Manifest:
    rows: list[dict[str, Any]] = []
    for each in done:
        found = each.trained.metrics
        rows.append(
            {
                "round": each.number,
                "checkpoint": each.checkpoint,
                "pairs": each.pairs,
                "reward": each.collected.metrics["reward"] if each.collected else None,
                **{name: found.get(name) for name in ("preference_accuracy", "reward_accuracy", "validation_loss")},
                "scores": each.scores,
            }
        )
    headline = [
        f"round {row['round']}: {row['pairs']:,} pairs, held-out preference accuracy {row['preference_accuracy']:.3f}"
        + (f", mean reward before it {row['reward']:.3f}" if row["reward"] is not None else "")
        + "".join(f", {name} {value:.3f}" for name, value in row["scores"].items())
        for row in rows
        if row["preference_accuracy"] is not None
    ]
    if before:
        headline.insert(0, _START + ": " + ", ".join(f"{name} {value:.3f}" for name, value in before.items()))
    report = Report("Rounds of preference optimisation", f"{len(done)} rounds, each from what the one before left")
    columns = ["round", "pairs", "reward", "preference_accuracy", "reward_accuracy", "validation_loss"]
    report.table(
        "Rounds",
        [name.replace("_", " ") for name in columns],
        [[row[name] for name in columns] for row in rows],
        "The reward is the judge's mean of the answers that the round's pairs came from, before training on them; "
        "accuracies are of the held-out pairs after it.",
    )
    numbers = [row["round"] for row in rows]
    for name, value in before.items():
        line = [value, *(row["scores"][name] for row in rows)]
        report.figure(name, line_chart({name: ([0, *numbers], line)}, "round", name), "Round 0 is the start.")
    reports = [Path(row["checkpoint"]).parent / "report.html" for row in rows]
    links: list[tuple[str, str, list[str]]] = [
        (f"round {n}", os.path.relpath(path, run.directory), []) for n, path in zip(numbers, reports, strict=True)
    ]
    report.links("Their reports", links)
    counts = {"rounds": len(done), "reused": sum(each.reused for each in done), "pairs": sum(r["pairs"] for r in rows)}
    metrics: dict[str, Any] = {"rounds": rows, "start": before, "headline": headline}
    return run.commit(counts=counts, metrics=metrics, report=report)


STAGE = Stage(name="train.rounds", version=1, config=RoundsConfig, run=rounds)
