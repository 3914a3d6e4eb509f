"""Stage `train.sft`: a checkpoint fine-tuned on conversations, loss on the assistant's tokens only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from core.config import RUNTIME, InputPath
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from training import metrics
from training.chat import TooLong
from training.early_stopping import EarlyStopping, EarlyStoppingConfig
from training.exact_match import constant_guess, exact_match, questions
from training.examples import PackedExamples, conversations
from training.launch import launch
from training.model import bare
from training.neftune import NoisyNextToken
from training.objectives import NextToken
from training.optimizer import OptimizerConfig
from training.order import permutation
from training.outcome import counts, outcome
from training.report import left_out, training_report
from training.trainer import Trainer
from training.tuning import TuneConfig, Tuned, check
from training.validation import evaluate
from training.world import World

_SHOWN_ANSWERS = 12
_GUESS = "Share of held-out prompts answered exactly. The best constant guess is the one answer that fits most of them."


class SftConfig(TuneConfig):
    """Supervised fine-tuning."""

    conversations: InputPath = Field(
        description="what to learn: Parquet, JSON lines or a JSON list of OpenAI messages, ShareGPT, Alpaca, "
        "question and answer, or prompt and completion"
    )
    heldout: InputPath = Field(description="the same for held-out conversations")
    fields: dict[str, str] = Field(
        default_factory=dict, description="columns of other tables, as {prompt: ask, response: reply}; maybe system"
    )
    too_long: TooLong = Field(
        "skip", description="conversations over max_length: skip them, cut their end off, or split them; counted"
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(learning_rate=2e-4, weight_decay=0.0), description="AdamW")
    evaluate_every: Annotated[int, RUNTIME] = Field(0, ge=0, description="steps between held-out losses; 0: at the end")
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="end when held-out loss no longer falls, and keep the best weights; null: train to the end"
    )
    neftune_alpha: float = Field(
        0.0, ge=0, description="noise on the embeddings in training, 5 to 15 (NEFTune, arXiv:2310.05914); 0: none"
    )
    exact_match_prompts: int = Field(400, ge=0, description="held-out prompts that are answered at the end, at most")
    max_new_tokens: int = Field(48, gt=0, description="longest answer to a held-out prompt")


def work(config: SftConfig, directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    tuned = Tuned(config, world)
    encoder, padding = tuned.encoder, tuned.encoder.padding
    train = conversations(config.conversations, encoder, config.max_length, config.too_long, config.fields)
    held_out = conversations(config.heldout, encoder, config.max_length, config.too_long, config.fields)
    objective = NoisyNextToken(tuned.model, config.neftune_alpha) if config.neftune_alpha else NextToken()
    fixed = PackedExamples(held_out.units, config.seed, config.micro_batch, config.max_length, padding)
    held_out_batches = [batch for _, batch in fixed.batches(range(len(held_out.units)))]
    early = config.early_stopping
    stopping = EarlyStopping(early.patience, directory) if early else None
    if early:
        config = config.model_copy(update={"export": "best"})

    def validate() -> dict[str, float]:
        return {"validation_loss": evaluate(tuned.model, objective, held_out_batches, world, trainer.precision)["loss"]}

    trainer = Trainer(
        config,
        directory,
        world,
        tuned.model,
        objective,
        PackedExamples(train.units, config.seed, config.micro_batch, config.max_length, padding),
        length=config.max_length,
        steps=config.steps_for(len(train.units)),
        evaluate=validate,
        evaluate_every=early.every if early else config.evaluate_every,
        stopping=stopping,
    )
    last = trainer.run()
    chosen = permutation(len(held_out.rows), config.seed, 0)[: config.exact_match_prompts]
    asked = questions([held_out.rows[int(i)] for i in sorted(chosen)], encoder)
    after, answers = exact_match(
        tuned.transformer, asked, encoder, config.max_new_tokens, world, trainer.feedback, "answer, tuned"
    )
    with tuned.before_tuning() as base:
        before, _ = exact_match(
            bare(base),
            asked,
            encoder,
            config.max_new_tokens,
            world,
            trainer.feedback,
            "answer, base",
        )
    found = outcome(trainer, tuned.model, last, {"train": train, "heldout": held_out})
    if world.is_main:
        tuned.save(directory)
    world.barrier()
    return found | {
        "stopped_early": last.get("step", 0) < trainer.steps,
        "too_long": {"train": train.too_long, "heldout": held_out.too_long},
        "exact_match": {"base": before, "tuned": after, "constant": constant_guess(train.rows, asked)},
        "answers": [
            [question.task, question.text, question.answer, answer]
            for question, answer in list(zip(asked, answers, strict=True))[:_SHOWN_ANSWERS]
        ],
    }


def sft(config: SftConfig, run: Run) -> Manifest:
    """Conversations to an adapter and a checkpoint."""
    encoder = check(config)
    for path in (config.conversations, config.heldout):
        found = conversations(path, encoder, config.max_length, config.too_long, config.fields)
        cut = {"skip": "cut", "truncate": "cut", "split": "split"}[config.too_long]
        run.log.info("%s", found.told(path, f"conversations, {found.too_long:,} of them {cut}"))
    result = launch(config, run, __name__)
    last, exported = result["last"], result["exported_step"]
    losses = {row["step"]: row["validation_loss"] for row in metrics.read(run.directory)}
    if exported < last["step"] or result["stopped_early"]:
        run.log.info("stopped at step %s; the weights are those of step %s", f"{last['step']:,}", f"{exported:,}")
    match: Mapping[str, Mapping[str, float]] = result["exact_match"]
    headline = [
        f"exact match on held-out prompts, {task}: base {match['base'].get(task, 0.0):.3f}, tuned {share:.3f}, "
        f"best constant guess {match['constant'].get(task, 0.0):.3f}"
        for task, share in match["tuned"].items()
    ]
    for line in headline:
        run.log.info("%s", line)
    too_long = {"split_examples" if config.too_long == "split" else "truncated_examples": result["too_long"]}
    found_metrics = {
        "validation_loss": losses[exported],
        "exported_step": exported,
        "stopped_early": result["stopped_early"],
        "training_loss": last["loss"],
        "exact_match": match["tuned"],
        "exact_match_base": match["base"],
        "exact_match_constant": match["constant"],
        "trainable_parameters": result["trainable"],
        "precision": result["precision"],
        "headline": headline,
    }
    report = _report(run, result, losses[exported])
    return run.commit(counts=counts(result) | too_long, metrics=found_metrics, report=report)


def _report(run: Run, result: Mapping[str, Any], held_out_loss: float) -> Any:
    last, match = result["last"], result["exact_match"]
    facts = {
        "exact match, held out": match["tuned"]["all"],
        "the same, base model": match["base"]["all"],
        "best constant guess": match["constant"]["all"],
        "held-out loss": held_out_loss,
        "training loss": last["loss"],
        "conversations": result["examples"]["train"],
        "trainable parameters": result["trainable"],
        "precision": result["precision"],
    }
    summary = f"{last['step']:,} steps, {last['tokens']:,} tokens, loss on the assistant's tokens"
    if result["exported_step"] < last["step"]:
        summary += f"; the weights are those of step {result['exported_step']:,}, whose held-out loss was lowest"
    report = training_report("Supervised fine-tuning", summary, facts, metrics.read(run.directory))
    rows = [[task, *(match[name].get(task, 0.0) for name in ("base", "tuned", "constant"))] for task in match["tuned"]]
    report.table("Exact match by task", ["task", "base", "tuned", "best constant guess"], rows, _GUESS)
    report.samples(
        "Answers to held-out prompts",
        [
            (f"{'right' if right == given else 'wrong'}: {prompt}", f"task:  {task}\nright: {right}\ngiven: {given}")
            for task, prompt, right, given in result["answers"]
        ],
    )
    report.table("Conversations left out", ["split", "reason", "count"], left_out(result["skipped"]))
    return report


STAGE = Stage(name="train.sft", version=1, config=SftConfig, run=sft)
