"""Stage `train.dpo`: a checkpoint aligned with preference pairs against itself as the reference."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from core.config import RUNTIME, InputPath
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from training import metrics
from training.batch import Batch
from training.examples import PackedExamples, preference_pairs
from training.feedback import Feedback
from training.launch import launch
from training.model import count_parameters
from training.optimizer import OptimizerConfig
from training.order import samples
from training.precision import Precision
from training.preference import Preference, PreferenceConfig, sequence_log_probabilities
from training.report import curves, left_out, training_report
from training.trainer import Trainer
from training.tuning import TuneConfig, Tuned, check
from training.validation import evaluate
from training.world import World


class DpoConfig(TuneConfig):
    """Direct preference optimisation."""

    preferences: InputPath = Field(description="Parquet with the columns prompt, chosen and rejected: training pairs")
    heldout: InputPath = Field(description="the same for held-out pairs")
    preference: PreferenceConfig = Field(PreferenceConfig(), description="the loss")
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
        return self


class _Pairs(PackedExamples):
    """Preference pairs whose batches carry the reference's log-probabilities."""

    reference: torch.Tensor | None = None
    """(pairs, 2): chosen and rejected answer of each training pair."""

    def batches(self, chosen: Sequence[int], rank: int = 0, size: int = 1) -> Iterator[tuple[list[int], Batch]]:
        for pairs, batch in super().batches(chosen, rank, size):
            known = None if self.reference is None else self.reference[pairs].flatten()
            yield pairs, replace(batch, reference=known)


class _WithAdapterOff(Preference):
    """The reference is the model itself without its adapter, asked at every step."""

    def __init__(self, config: PreferenceConfig, tuned: Tuned) -> None:
        super().__init__(config)
        self.tuned = tuned

    def reference(self, batch: Batch, precision: Precision) -> torch.Tensor:
        with torch.no_grad(), self.tuned.before_tuning() as base:
            training = base.training
            base.eval()  # a reference with dropout would be another one at every step
            found = sequence_log_probabilities(base, batch, precision, self.config.length_normalized)
            base.train(training)
            return found


@torch.no_grad()
def reference_log_probabilities(
    model: nn.Module,
    pairs: PackedExamples,
    asked: Sequence[int],
    length_normalized: bool,
    world: World,
    precision: Precision,
    feedback: Feedback,
) -> torch.Tensor:
    """log p(answer | prompt) of the pairs `asked` under `model`: (pairs, 2), chosen first, 0 elsewhere. Collective."""
    model.eval()
    known = torch.zeros(len(pairs.units), 2, dtype=torch.float64)
    done = 0
    for numbers, batch in pairs.batches(asked, world.rank, world.size):
        found = sequence_log_probabilities(model, batch.to(world.device), precision, length_normalized)
        known[numbers] = found.cpu().double().view(-1, 2)
        done += len(numbers)
        feedback.update("reference", done * world.size, len(asked), "pairs")
    return world.sum_(known.to(world.device)).float().cpu()


def work(config: DpoConfig, directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    tuned = Tuned(config, world)
    padding = tuned.encoder.padding
    train = preference_pairs(config.preferences, tuned.encoder, config.max_length)
    held_out = preference_pairs(config.heldout, tuned.encoder, config.max_length)
    pairs, held_out_pairs = (
        _Pairs(found.units, config.seed, config.micro_batch, 2 * config.max_length, padding)
        for found in (train, held_out)
    )
    objective: Preference = Preference(config.preference)
    if config.reference == "adapter_off":
        objective = _WithAdapterOff(config.preference, tuned)

    def validate() -> dict[str, float]:
        found = evaluate(tuned.model, objective, held_out_batches, world, trainer.precision)
        return {"validation_loss": found["loss"], **{f"validation_{name}": found[name] for name in objective.metrics}}

    trainer = Trainer(
        config,
        directory,
        world,
        tuned.model,
        objective,
        pairs,
        length=2 * config.max_length,
        steps=config.steps_for(len(train.units)),
        evaluate=validate,
        evaluate_every=config.evaluate_every,
    )
    normalized = config.preference.length_normalized
    asking: dict[_Pairs, Sequence[int]] = {held_out_pairs: range(len(held_out.units))}
    if config.reference == "precomputed":  # the pairs that the run will come to
        wanted = min(trainer.steps * config.batch_size, len(train.units))
        asking[pairs] = sorted(samples(len(train.units), config.seed, 0, wanted))
    with tuned.before_tuning() as base:
        for each, asked in asking.items():
            each.reference = reference_log_probabilities(
                base, each, asked, normalized, world, trainer.precision, trainer.feedback
            )
    held_out_batches = [batch for _, batch in held_out_pairs.batches(range(len(held_out.units)))]
    assert held_out_pairs.reference is not None
    before = float((held_out_pairs.reference[:, 0] > held_out_pairs.reference[:, 1]).double().mean())
    last = trainer.run()
    parameters, trainable = count_parameters(tuned.model)
    if world.is_main:
        tuned.save(directory)
    world.barrier()
    return {
        "last": last,
        "examples": {"train": len(train.units), "heldout": len(held_out.units)},
        "skipped": {"train": train.skipped, "heldout": held_out.skipped},
        "accuracy_before": before,
        "parameters": parameters,
        "trainable": trainable,
        "precision": trainer.precision.name,
    }


def standard_error(share: float, number: int) -> float:
    """Of a share of `number` independent cases: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / number)


def dpo(config: DpoConfig, run: Run) -> Manifest:
    """Preference pairs to an adapter and a checkpoint."""
    encoder = check(config)
    for path in (config.preferences, config.heldout):
        found = preference_pairs(path, encoder, config.max_length)
        skipped = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in found.skipped.items())
        run.log.info("%s: %s pairs%s", path, f"{len(found.units):,}", f"; left out: {skipped}" if skipped else "")
    result = launch(config, run, __name__)
    last, number = result["last"], result["examples"]["heldout"]
    accuracies = {
        "preference_accuracy_before": result["accuracy_before"],
        "preference_accuracy": last["validation_preference_accuracy"],
        "reward_accuracy": last["validation_reward_accuracy"],
    }
    found_metrics = {
        **accuracies,
        **{f"{name}_standard_error": standard_error(share, number) for name, share in accuracies.items()},
        "validation_loss": last["validation_loss"],
        "validation_margin": last["validation_margin"],
        "training_loss": last["loss"],
        "trainable_parameters": result["trainable"],
        "precision": result["precision"],
    }
    before, after, reward = (f"{share:.3f} ± {standard_error(share, number):.3f}" for share in accuracies.values())
    headline = [
        f"held-out preference accuracy on {number:,} pairs: {before} before, {after} after (± standard error); "
        f"reward accuracy {reward}"
    ]
    for line in headline:
        run.log.info("%s", line)
    counts = {
        "steps": last["step"],
        "tokens": last["tokens"],
        "skipped_steps": last["skipped"],
        "examples": result["examples"],
        "skipped_examples": result["skipped"],
    }
    report = _report(run, result, found_metrics)
    return run.commit(counts=counts, metrics=found_metrics | {"headline": headline}, report=report)


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
    report.table("Pairs left out", ["split", "reason", "count"], left_out(result["skipped"]))
    return report


STAGE = Stage(name="train.dpo", version=1, config=DpoConfig, run=dpo)
