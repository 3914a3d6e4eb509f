"""Stage `train.reward`: preference pairs to a reward model, the first half of the classic RLHF path."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field, model_validator

from core import checkpoint
from core.config import RUNTIME, InputPath
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.report import Report
from core.run import Run
from core.stage import Stage
from core.statistics import proportion
from training import metrics, reward_model
from training.batch import collate
from training.chat import ChatEncoder
from training.examples import Examples, PackedExamples, preference_pairs
from training.launch import launch
from training.model import bare
from training.optimizer import OptimizerConfig
from training.outcome import counts, outcome
from training.precision import Precision
from training.report import curves, left_out, training_report
from training.reward_model import BradleyTerry, RewardModel, scored_segment
from training.rewards import Answer
from training.trainer import Trainer
from training.tuning import TuneConfig, check
from training.world import World

FOLDER = "reward_model"
_TOLERANCE = 1e-4
"""Largest difference between scores in training and those of the written model, in units of the largest score."""
_PROBED = 16


class RewardTrainConfig(TuneConfig):
    """A Bradley-Terry reward model."""

    preferences: InputPath = Field(
        description="training pairs: prompt, chosen and rejected, or two conversations that begin alike"
    )
    heldout: InputPath = Field(description="the same, held out; rows with one document_id vary together")
    fields: dict[str, str] = Field(
        default_factory=dict, description="columns of other tables, as {prompt: ask, chosen: good, rejected: bad}"
    )
    centre: float = Field(
        0.0, ge=0, description="weight of (r_chosen + r_rejected)^2, which holds the scores around zero; 0.01 is usual"
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(learning_rate=1e-4, weight_decay=0.0), description="AdamW")
    evaluate_every: Annotated[int, RUNTIME] = Field(0, ge=0, description="steps between held-out losses; 0: at the end")

    @model_validator(mode="after")
    def _whole_base(self) -> "RewardTrainConfig":
        if self.method == "lora" and self.lora.base != "full":
            raise ValueError("lora.base: a reward model is trained on a full base; leave it out")
        return self


def read_pairs(path: str, encoder: ChatEncoder, config: RewardTrainConfig) -> Examples:
    """Pairs as two whole conversations each, of at most `max_length` tokens."""
    found = preference_pairs(path, encoder, config.max_length - 1, config.fields)
    for number, row in enumerate(found.rows):
        found.units[number] = [
            scored_segment(encoder.encode([*row["prompt"], *_as_messages(row[name])])[0], encoder.padding)
            for name in ("chosen", "rejected")
        ]
    return found


def _as_messages(answer: Any) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)


def work(config: RewardTrainConfig, directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    encoder = ChatEncoder(checkpoint.load_tokenizer(config.checkpoint))
    model: Any = reward_model.load(config.checkpoint, encoder.padding, config.seed, world.device)
    if config.method == "lora":
        model = _with_adapter(model, config)
    train, held_out = (read_pairs(path, encoder, config) for path in (config.preferences, config.heldout))
    packing = (config.seed, config.micro_batch, 2 * config.max_length, encoder.padding)
    held_out_pairs = PackedExamples(held_out.units, *packing)
    objective = BradleyTerry(config.centre)

    @torch.no_grad()
    def held_out_scores() -> torch.Tensor:
        """(pairs, 2). Collective."""
        training = model.training
        model.eval()
        known = torch.zeros(len(held_out.units), 2, dtype=torch.float64)
        for numbers, batch in held_out_pairs.batches(range(len(held_out.units)), world.rank, world.size):
            found = reward_model.scores(model, batch.to(world.device), trainer.precision)
            known[numbers] = found.cpu().double().view(-1, 2)
        model.train(training)
        return world.sum_(known.to(world.device)).float().cpu()

    def figures(score_P2: torch.Tensor) -> dict[str, float]:
        hits = (score_P2[:, 0] > score_P2[:, 1]).double()
        return {
            "validation_loss": float(objective.losses(score_P2).mean()),
            "validation_accuracy": float(hits.mean()),
            "validation_margin": float((score_P2[:, 0] - score_P2[:, 1]).mean()),
        }

    trainer = Trainer(
        config,
        directory,
        world,
        model,
        objective,
        PackedExamples(train.units, *packing),
        length=2 * config.max_length,
        steps=config.steps_for(len(train.units)),
        evaluate=lambda: figures(held_out_scores()),
        evaluate_every=config.evaluate_every,
    )
    last = trainer.run()
    score_P2 = held_out_scores()  # of the weights that are exported
    groups = np.array([str(row.get("document_id") or number) for number, row in enumerate(held_out.rows)])
    accuracy = proportion((score_P2[:, 0] > score_P2[:, 1]).double().numpy(), groups)
    found = outcome(trainer, model, last, {"train": train, "heldout": held_out})
    if world.is_main:
        _export(model, encoder, directory, _probes(held_out))
    world.barrier()
    return found | {
        "validation": figures(score_P2),
        "accuracy": asdict(accuracy),
        "mean": float(score_P2.mean()),
        "deviation": float(score_P2.std()),
    }


def _with_adapter(model: Any, config: RewardTrainConfig) -> PeftModel:
    """Low-rank adapters on the linear layers; the score is trained whole."""
    settings = LoraConfig(
        task_type="SEQ_CLS",
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.targets,
        use_dora=config.lora.dora,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            wrapped = get_peft_model(model, settings)
        except ValueError as error:
            raise UserError(f"lora.targets: {str(error).splitlines()[0]}") from None
    assert isinstance(wrapped, PeftModel)
    return wrapped


def _probes(held_out: Examples) -> list[Answer]:
    """Some held-out answers, as a reward model is asked for them; those of several turns are no single text."""
    rows = [row for row in held_out.rows if all(len(_as_messages(row[name])) == 1 for name in ("chosen", "rejected"))]
    return [
        Answer(row["prompt"], _as_messages(row[name])[0]["content"], row)
        for row in rows[:_PROBED]
        for name in ("chosen", "rejected")
    ]


@torch.no_grad()
def _export(model: Any, encoder: ChatEncoder, directory: Path, probes: Sequence[Answer]) -> None:
    """Write `reward_model/`, adapters merged, whole or absent.

    Raises RaymillError unless the written model, loaded and applied as a reward, scores as the trained one does.
    """
    model.cpu().eval()
    bare(model).set_attn_implementation("sdpa")  # what the trainer chose is not for others
    expected = [_score(model, encoder, answer) for answer in probes]  # merging uses the adapter up
    whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
    temporary, folder = directory / f".{FOLDER}", directory / FOLDER
    shutil.rmtree(temporary, ignore_errors=True)
    whole.save_pretrained(temporary)
    encoder.tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    found = np.array(RewardModel(str(folder))(probes))
    difference = np.abs(found - expected).max(initial=0.0)
    if not difference <= _TOLERANCE * max(1.0, np.abs(found).max(initial=0.0)):
        raise RaymillError(f"{folder}: scores of the written model differ by {difference:.2e} from those in training")


def _score(model: Any, encoder: ChatEncoder, answer: Answer) -> float:
    ids, _ = encoder.encode([*answer.prompt, {"role": "assistant", "content": answer.text}])
    segment = scored_segment(ids, encoder.padding)
    return float(reward_model.scores(model, collate([[segment]], encoder.padding), Precision("fp32", "a check")))


def reward(config: RewardTrainConfig, run: Run) -> Manifest:
    """Preference pairs to a reward model."""
    encoder = check(config)
    if config.parallel == "fsdp":
        raise UserError("parallel: fsdp is not for reward models; set ddp")
    for path in (config.preferences, config.heldout):
        run.log.info("%s", read_pairs(path, encoder, config).told(path, "pairs"))
    result = launch(config, run, __name__)
    accuracy = result["accuracy"]
    found = {
        "accuracy": accuracy["value"],
        "accuracy_standard_error": accuracy["standard_error"],
        "validation_loss": result["validation"]["validation_loss"],
        "exported_step": result["exported_step"],
        "training_loss": result["last"]["loss"],
        "mean_score": result["mean"],
        "score_deviation": result["deviation"],
        "trainable_parameters": result["trainable"],
        "precision": result["precision"],
    }
    headline = [
        f"held-out accuracy on {result['examples']['heldout']:,} pairs: {accuracy['value']:.3f} "
        f"± {accuracy['standard_error']:.3f} (± standard error)"
    ]
    run.log.info("%s", headline[0])
    report = _report(run, result, found)
    return run.commit(counts=counts(result), metrics=found | {"headline": headline}, report=report)


def _report(run: Run, result: Mapping[str, Any], facts: Mapping[str, Any]) -> Report:
    rows = metrics.read(run.directory)
    summary = f"{result['last']['step']:,} steps over {result['examples']['train']:,} pairs"
    report = training_report("Reward model", summary, facts, rows, loss_unit="nats per pair")
    names = {"accuracy": "training", "validation_accuracy": "held out"}
    curves(report, "Accuracy", rows, names, "share of pairs", "The chosen answer scores higher than the rejected one.")
    curves(report, "Margin", rows, {"margin": "training", "validation_margin": "held out"}, "difference of scores")
    curves(report, "Scores", rows, {"chosen_reward": "chosen", "rejected_reward": "rejected"}, "score")
    report.table("Pairs left out", ["split", "reason", "count"], left_out(result["skipped"]))
    return report


STAGE = Stage(name="train.reward", version=1, config=RewardTrainConfig, run=reward)
