"""Stage `train.dpo`: a checkpoint aligned with preference pairs against itself as the reference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from core.config import RUNTIME, InputPath
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from core.statistics import proportion
from training import kto, metrics, replay
from training.batch import Batch
from training.examples import Examples, PackedExamples, conversations, preference_pairs
from training.launch import launch
from training.optimizer import OptimizerConfig
from training.outcome import counts, outcome
from training.precision import Precision
from training.preference import Preference, PreferenceConfig, answer_log_probabilities
from training.reference import log_probabilities, reference
from training.replay import ReplayConfig
from training.report import curves, left_out, training_report
from training.trainer import Trainer
from training.tuning import TuneConfig, Tuned, check
from training.world import World


class DpoConfig(TuneConfig):
    """Direct preference optimisation."""

    preferences: InputPath = Field(
        description="training pairs: prompt, chosen and rejected, or two conversations that begin alike; for loss kto "
        "also prompt, response (or completion) and label"
    )
    heldout: InputPath = Field(description="the same, held out; rows with one document_id vary together")
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="columns of other tables, as {prompt: ask, chosen: good, rejected: bad}, or {prompt: ask, "
        "response: reply, label: liked}; maybe system",
    )
    preference: PreferenceConfig = Field(PreferenceConfig(), description="the loss")
    replay: ReplayConfig | None = Field(None, description="conversations in each batch against forgetting; none: off")
    reference: Literal["precomputed", "adapter_off"] = Field(
        "precomputed",
        description="log-probabilities under the reference: once before training, or at each step without the adapter",
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(learning_rate=5e-5, weight_decay=0.0), description="AdamW")
    evaluate_every: Annotated[int, RUNTIME] = Field(0, ge=0, description="steps between held-out losses; 0: at the end")

    @model_validator(mode="after")
    def _has_reference(self) -> "DpoConfig":
        if self.reference == "adapter_off" and self.method != "lora":
            raise ValueError("reference: adapter_off needs method: lora; a full fine-tune has no adapter to switch off")
        if self.preference.loss == "kto" and (self.reference == "adapter_off" or self.replay):
            raise ValueError("loss kto takes a precomputed reference and no replay; leave the two settings out")
        return self


class _Pairs(PackedExamples):
    """Preference pairs whose batches carry the reference's log-probabilities."""

    reference: torch.Tensor | None = None
    """(pairs, 2): chosen and rejected answer of each pair."""

    def batches(self, chosen: Sequence[int], rank: int = 0, size: int = 1) -> Iterator[tuple[list[int], Batch]]:
        for pairs, batch in super().batches(chosen, rank, size):
            yield pairs, replace(batch, reference=None if self.reference is None else self.reference[pairs])


class _WithAdapterOff(Preference):
    """The reference is the model itself without its adapter, asked at every step."""

    def __init__(self, config: DpoConfig, tuned: Tuned) -> None:
        super().__init__(config.preference, config.replay)
        self.tuned = tuned

    def reference(self, batch: Batch, precision: Precision) -> torch.Tensor:
        with torch.no_grad(), self.tuned.before_tuning() as base:
            training = base.training
            base.eval()  # a reference with dropout would be another one at every step
            found, _ = answer_log_probabilities(base, batch, precision)
            base.train(training)
            return found.view(-1, self.segments)[:, :2]


def work(config: DpoConfig, directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    if config.preference.loss == "kto":
        return kto.work(config, directory, world)
    tuned = Tuned(config, world)
    tables = _read(config, tuned)
    train, held_out = tables["train"], tables["heldout"]
    objective: Preference = Preference(config.preference, config.replay)
    if config.reference == "adapter_off":
        objective = _WithAdapterOff(config, tuned)
    packing = (config.seed, config.micro_batch)
    units = train.units
    if config.replay is not None:
        units = replay.beside(units, tables["replay"].units, config.replay.per_pair, config.seed)
    pairs = _Pairs(units, *packing, objective.segments * config.max_length, tuned.encoder.padding)
    held_out_pairs = PackedExamples(held_out.units, *packing, 2 * config.max_length, tuned.encoder.padding)
    scores: dict[str, torch.Tensor] = {}
    """Loss and metrics of each held-out pair, as last measured."""

    def validate() -> dict[str, float]:
        everything = range(len(held_out.units))
        log_p_P2 = log_probabilities(tuned.model, held_out_pairs, everything, world, trainer.precision)
        scores.update(Preference(config.preference).scores(log_p_P2, tokens_P2, reference_P2))
        return {f"validation_{name}": float(values.double().mean()) for name, values in scores.items()}

    trainer = Trainer(
        config,
        directory,
        world,
        tuned.model,
        objective,
        pairs,
        length=pairs.row_length,
        steps=config.steps_for(len(units)),
        evaluate=validate,
        evaluate_every=config.evaluate_every,
    )
    pairs.reference, reference_P2 = reference(
        tuned, train, held_out, trainer, world, training=config.reference == "precomputed"
    )
    tokens_P2 = torch.tensor([[segment.learned for segment in unit] for unit in held_out.units])
    last = trainer.run()
    measured = validate()  # the weights that are exported may not be those of the last step
    hits = {
        "preference_accuracy_before": reference_P2[:, 0] > reference_P2[:, 1],
        "preference_accuracy": scores["preference_accuracy"],
        "reward_accuracy": scores["reward_accuracy"],
    }
    groups = np.array([str(row.get("document_id") or number) for number, row in enumerate(held_out.rows)])
    found = outcome(trainer, tuned.model, last, tables)
    if world.is_main:
        tuned.save(directory)
    world.barrier()
    accuracies = {name: asdict(proportion(each.double().numpy(), groups)) for name, each in hits.items()}
    return found | {"validation": measured, "accuracies": accuracies}


def _read(config: DpoConfig, tuned: Tuned) -> dict[str, Examples]:
    """Training pairs, held-out pairs and, where some are replayed, conversations."""
    paths = {"train": config.preferences, "heldout": config.heldout}
    tables = {
        name: preference_pairs(path, tuned.encoder, config.max_length, config.fields) for name, path in paths.items()
    }
    if config.replay is not None:
        tables["replay"] = conversations(config.replay.conversations, tuned.encoder, config.max_length, "skip")
    return tables


def dpo(config: DpoConfig, run: Run) -> Manifest:
    """Preference pairs, or labelled answers, to an adapter and a checkpoint."""
    encoder = check(config)
    if config.preference.loss == "kto":
        kto.announce(config, run, encoder)
        return kto.commit(run, launch(config, run, __name__))
    for path in (config.preferences, config.heldout):
        found = preference_pairs(path, encoder, config.max_length, config.fields)
        run.log.info("%s", found.told(path, "pairs"))
    if config.replay is not None:
        path = config.replay.conversations
        run.log.info(
            "%s", conversations(path, encoder, config.max_length, "skip").told(path, "conversations to replay")
        )
    result = launch(config, run, __name__)
    accuracies = result["accuracies"]
    found_metrics = {
        **{name: found["value"] for name, found in accuracies.items()},
        **{f"{name}_standard_error": found["standard_error"] for name, found in accuracies.items()},
        "validation_loss": result["validation"]["validation_loss"],
        "validation_margin": result["validation"]["validation_margin"],
        "exported_step": result["exported_step"],
        "training_loss": result["last"]["loss"],
        "trainable_parameters": result["trainable"],
        "precision": result["precision"],
    }
    before, after, reward = (f"{found['value']:.3f} ± {found['standard_error']:.3f}" for found in accuracies.values())
    headline = [
        f"held-out preference accuracy on {result['examples']['heldout']:,} pairs: {before} before, {after} after "
        f"(± standard error); reward accuracy {reward}"
    ]
    for line in headline:
        run.log.info("%s", line)
    report = _report(run, result, found_metrics)
    return run.commit(counts=counts(result), metrics=found_metrics | {"headline": headline}, report=report)


def _report(run: Run, result: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    last = result["last"]
    rows = metrics.read(run.directory)
    summary = f"{last['step']:,} steps over {result['examples']['train']:,} pairs"
    report = training_report("Preference optimisation", summary, facts, rows, loss_unit="nats per pair")
    names = {"margin": "training", "validation_margin": "held out"}
    note = "Reward of the chosen answer less that of the rejected one, against the reference model."
    curves(report, "Margin", rows, names, "reward margin", note)
    names = {"reward_accuracy": "training, reward", "validation_reward_accuracy": "held out, reward"}
    names |= {"preference_accuracy": "training, likelihood", "validation_preference_accuracy": "held out, likelihood"}
    note = "Reward: the margin is above zero. Likelihood: the model finds the chosen answer more likely."
    curves(report, "Accuracy", rows, names, "share of pairs", note)
    names = {"chosen_log_probability": "chosen", "rejected_log_probability": "rejected"}
    curves(report, "Log-probability of the answers", rows, names, "nats per answer")
    names = {"sft_loss": "chosen answers"} | ({"replay_loss": "replayed answers"} if "replay_loss" in last else {})
    curves(report, "Loss of the answers", rows, names, "nats per token")
    report.table("Examples left out", ["split", "reason", "count"], left_out(result["skipped"]))
    return report


STAGE = Stage(name="train.dpo", version=2, config=DpoConfig, run=dpo)
