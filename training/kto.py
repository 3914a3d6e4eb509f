"""KTO (Ethayarajh et al. 2024, arXiv:2402.01306): answers that are labelled desirable or not, without pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core.manifest import Manifest
from core.run import Run
from training import metrics
from training.batch import Batch
from training.chat import ChatEncoder
from training.examples import Examples, PackedExamples, labelled_answers
from training.objectives import Sums
from training.order import samples
from training.outcome import counts, outcome
from training.precision import Precision
from training.preference import PreferenceConfig, answer_log_probabilities
from training.reference import log_probabilities, reference
from training.report import curves, left_out, training_report
from training.trainer import Trainer
from training.tuning import Tuned
from training.world import World

if TYPE_CHECKING:
    from core.report import Report
    from training.dpo import DpoConfig

_BALANCE = (1.0, 4 / 3)
"""lambda_D n_D / (lambda_U n_U) as the paper advises (section 4.2)."""


def kto_loss(ratio_A: Tensor, desirable_A: Tensor, z0: Tensor | float, config: PreferenceConfig) -> Tensor:
    """lambda_y - v(x, y) (eq. 8): lambda_D (1 - sigmoid(beta (r - z0))), lambda_U (1 - sigmoid(beta (z0 - r))).

    ratio_A: r = log pi(y|x) - log pi_ref(y|x); desirable_A: 1 or 0; both (answers,). z0: the KL estimate, no gradient.
    """
    sign_A = 2 * desirable_A - 1
    weight_A = torch.where(desirable_A > 0, config.desirable_weight, config.undesirable_weight)
    return weight_A * torch.sigmoid(-config.beta * sign_A * (ratio_A - z0))


class Answers(PackedExamples):
    """Labelled answers whose batches carry (answers, 3): reference log-probability, desirable, and the step's z0.

    z0 is max(0, mean of log pi(y'|x) / pi_ref(y'|x)) over the step's mismatched answers y', of all ranks. The paper
    takes those of a micro-batch; over the step, the loss does not depend on how a batch is cut or on the workers.
    """

    def __init__(self, table: Examples, tuned: Tuned, world: World) -> None:
        config = tuned.config
        packing = (config.seed, config.micro_batch, config.max_length, tuned.encoder.padding)
        super().__init__([unit[:1] for unit in table.units], *packing)
        self.mismatched = PackedExamples([unit[1:] for unit in table.units], *packing)
        self.desirable_A = torch.tensor([float(row["desirable"]) for row in table.rows])
        self.model, self.world = tuned.model, world
        self.precision: Precision | None = None
        self.reference_A2: Tensor | None = None
        self.z0 = 0.0

    def divergence(self, chosen: Sequence[int]) -> float:
        """z0 of these answers under the current weights. Collective."""
        assert self.precision is not None
        assert self.reference_A2 is not None
        log_p_A1 = log_probabilities(self.model, self.mismatched, chosen, self.world, self.precision)
        return max(0.0, float((log_p_A1[chosen, 0] - self.reference_A2[chosen, 1]).double().mean()))

    def micro_batches(self, consumed: int, count: int, rank: int, size: int) -> Iterator[tuple[int, Batch]]:
        """As in `PackedExamples`; z0 is estimated before the first."""
        self.z0 = self.divergence(samples(len(self.units), self.seed, consumed, count))
        yield from super().micro_batches(consumed, count, rank, size)

    def batches(self, chosen: Sequence[int], rank: int = 0, size: int = 1) -> Iterator[tuple[list[int], Batch]]:
        """As in `PackedExamples`, with what the loss needs to know of each answer."""
        assert self.reference_A2 is not None
        for numbers, batch in super().batches(chosen, rank, size):
            reference_A, desirable_A = self.reference_A2[numbers, 0], self.desirable_A[numbers]
            known_A3 = torch.stack([reference_A, desirable_A, torch.full_like(reference_A, self.z0)], 1)
            yield numbers, replace(batch, reference=known_A3)


class Kto:
    """The objective: answers, each desirable or not."""

    unit = "answers"
    metrics: tuple[str, ...] = ("kl", "signed_reward", "reward_accuracy")

    def __init__(self, config: PreferenceConfig) -> None:
        self.config = config

    def scores(self, log_p_A: Tensor, known_A3: Tensor) -> dict[str, Tensor]:
        """`loss` and what is logged of each answer: (answers,) each, only the loss differentiable.

        signed_reward: beta r, its sign turned for undesirable answers; reward_accuracy: r is on its side of z0.
        """
        reference_A, desirable_A, z0_A = known_A3.unbind(1)
        ratio_A = log_p_A - reference_A
        sign_A = 2 * desirable_A - 1
        values = (z0_A, self.config.beta * sign_A * ratio_A, (sign_A * (ratio_A - z0_A) > 0).float())
        found = {name: value.detach() for name, value in zip(self.metrics, values, strict=True)}
        return {"loss": kto_loss(ratio_A, desirable_A, z0_A, self.config)} | found

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """Sums over the batch's answers."""
        assert batch.reference is not None
        log_p_A, _ = answer_log_probabilities(model, batch, precision)
        found = self.scores(log_p_A, batch.reference)
        loss = found.pop("loss").sum()
        return Sums(loss, float(len(log_p_A)), {name: float(value.sum()) for name, value in found.items()})


def ranked_right(desirable: Tensor, undesirable: Tensor) -> float:
    """Share of (desirable, undesirable) that the scores rank so, ties half: the area under the ROC curve."""
    difference = desirable[:, None] - undesirable[None]
    return float((difference > 0).double().mean() + (difference == 0).double().mean() / 2)


def _tables(config: "DpoConfig", encoder: ChatEncoder) -> dict[str, Examples]:
    paths = {"train": config.preferences, "heldout": config.heldout}
    return {
        name: labelled_answers(path, encoder, config.max_length, config.seed, config.fields)
        for name, path in paths.items()
    }


def work(config: "DpoConfig", directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    tuned = Tuned(config, world)
    tables = _tables(config, tuned.encoder)
    train, held_out = (Answers(table, tuned, world) for table in tables.values())
    objective = Kto(config.preference)
    good_A = held_out.desirable_A > 0

    def validate() -> dict[str, float]:
        everything = range(len(held_out.units))
        assert held_out.reference_A2 is not None
        log_p_A = log_probabilities(tuned.model, held_out, everything, world, trainer.precision)[:, 0]
        z0_A = torch.full_like(log_p_A, held_out.divergence(everything))
        reference_A = held_out.reference_A2[:, 0]
        scores = objective.scores(log_p_A, torch.stack([reference_A, held_out.desirable_A, z0_A], 1))
        reward_A = config.preference.beta * (log_p_A - reference_A)
        found = {name: float(values.double().mean()) for name, values in scores.items()}
        if good_A.any() and not good_A.all():
            found |= {"desirable_reward": float(reward_A[good_A].mean())}
            found |= {"undesirable_reward": float(reward_A[~good_A].mean())}
            found |= {"ranked_right": ranked_right(reward_A[good_A], reward_A[~good_A])}
        return {f"validation_{name}": value for name, value in found.items()}

    trainer = Trainer(
        config,
        directory,
        world,
        tuned.model,
        objective,
        train,
        length=config.max_length,
        steps=config.steps_for(len(train.units)),
        evaluate=validate,
        evaluate_every=config.evaluate_every,
    )
    train.precision = held_out.precision = trainer.precision
    train.reference_A2, held_out.reference_A2 = reference(tuned, tables["train"], tables["heldout"], trainer, world)
    last = trainer.run()
    # The weights that are exported may not be those of the last step.
    found = outcome(trainer, tuned.model, last, tables) | {"validation": validate()}
    if world.is_main:
        tuned.save(directory)
    world.barrier()
    desirable = {name: sum(bool(row["desirable"]) for row in table.rows) for name, table in tables.items()}
    return found | {"desirable": desirable}


def announce(config: "DpoConfig", run: Run, encoder: ChatEncoder) -> None:
    """Say what there is to learn from, and how the two kinds are balanced."""
    for path, table in zip((config.preferences, config.heldout), _tables(config, encoder).values(), strict=True):
        good = sum(bool(row["desirable"]) for row in table.rows)
        run.log.info("%s", table.told(path, f"answers, {good:,} of them desirable"))
        bad = len(table.rows) - good
        weights = config.preference
        share = weights.desirable_weight * good / (weights.undesirable_weight * bad) if bad else float("inf")
        if path == config.preferences and not _BALANCE[0] <= share <= _BALANCE[1]:
            run.log.info(
                "weighted desirable answers are %.2f of the undesirable ones; the paper advises 1 to 1.33: set "
                "preference.desirable_weight or undesirable_weight",
                share,
            )


def commit(run: Run, result: dict[str, Any]) -> Manifest:
    """The manifest and the report of a finished run."""
    measured = result["validation"]
    found = {name.removeprefix("validation_"): value for name, value in measured.items() if name != "validation_loss"}
    found |= {"validation_loss": measured["validation_loss"], "exported_step": result["exported_step"]}
    found |= {"training_loss": result["last"]["loss"]}
    found |= {"trainable_parameters": result["trainable"], "precision": result["precision"]}
    headline = (
        f"{result['examples']['heldout']:,} held-out answers: {found['reward_accuracy']:.3f} on their side of z0 "
        f"({found['kl']:.3f} nats)"
    )
    if "ranked_right" in found:
        headline += f"; a desirable one is ranked above an undesirable one in {found['ranked_right']:.3f} (0.5 before)"
    run.log.info("%s", headline)
    return run.commit(
        counts=counts(result) | {"desirable_examples": result["desirable"]},
        metrics=found | {"headline": [headline]},
        report=_report(run, result, found),
    )


def _report(run: Run, result: dict[str, Any], facts: dict[str, Any]) -> "Report":
    rows = metrics.read(run.directory)
    summary = f"{result['last']['step']:,} steps over {result['examples']['train']:,} labelled answers"
    report = training_report("Preference optimisation (KTO)", summary, facts, rows, loss_unit="loss per answer")
    names = {"validation_desirable_reward": "desirable", "validation_undesirable_reward": "undesirable"}
    curves(report, "Reward of held-out answers", rows, names, "nats, times beta", "Against the reference model.")
    names = {"kl": "training", "validation_kl": "held out"}
    curves(report, "Divergence from the reference (z0)", rows, names, "nats per answer")
    names = {"reward_accuracy": "training", "validation_reward_accuracy": "held out"}
    curves(report, "Answers on their side of z0", rows, names, "share")
    report.table("Examples left out", ["split", "reason", "count"], left_out(result["skipped"]))
    return report
