"""Stage `train.pretrain`: a language model from tokens, fresh or from a checkpoint."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from core import checkpoint
from core.config import RUNTIME, InputPath
from core.errors import UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from core.token_set import TokenSet
from training import export, metrics
from training.batch import Batch
from training.launch import launch
from training.mixed_documents import Account, MixedDocuments, streams_by
from training.mixture import MixtureConfig
from training.model import ModelConfig, count_parameters, initialize, parameters_of
from training.objectives import NextToken
from training.packing import PackedDocuments, unigram_counts, unigram_entropy
from training.prefetch import Ahead
from training.report import mixture_section, training_report
from training.rope import RopeScaling, context
from training.trainer import TrainConfig, Trainer
from training.validation import evaluate
from training.world import World


class PretrainConfig(TrainConfig):
    """Pretraining on a token artifact, from scratch or from a checkpoint."""

    tokens: InputPath = Field(description="run directory of 'data tokenize'")
    mixture: MixtureConfig | None = Field(
        None, description="shares of the sources; null: every document once an epoch, in one order of all"
    )
    model: ModelConfig = Field(
        ModelConfig(), description="architecture and shape; beside checkpoint, what the checkpoint must be like"
    )
    checkpoint: InputPath | None = Field(
        None, description="checkpoint to go on from, whose vocabulary the tokens have; null: fresh weights"
    )
    rope_scaling: RopeScaling | None = Field(None, description="stretch the checkpoint's positions to a longer context")
    steps: int | None = Field(
        None, gt=0, description="optimizer steps; left out: as many as tokens_per_parameter needs"
    )
    tokens_per_parameter: float = Field(
        20.0, gt=0, description="training tokens per parameter; 20 is compute-optimal (Hoffmann et al. 2022)"
    )
    sequence_length: int = Field(256, gt=1, description="tokens per packed sequence; documents do not see each other")
    validate_every: Annotated[int, RUNTIME] = Field(
        0, ge=0, description="steps between validations; 0: only at the end"
    )
    validation_tokens: int = Field(65_536, gt=0, description="at most this many tokens of the validation split")

    @model_validator(mode="after")
    def _scaling_needs_a_checkpoint(self) -> "PretrainConfig":
        if self.rope_scaling is not None and self.checkpoint is None:
            raise ValueError("rope_scaling stretches a checkpoint's positions; for a fresh model set model.max_length")
        return self


class _Sequences:
    """A step's share of packed sequences, micro-batch by micro-batch, each made while the one before is trained on."""

    def __init__(self, documents: PackedDocuments | MixedDocuments, micro_batch: int) -> None:
        self.documents = documents
        self.micro_batch = micro_batch
        self._ahead = Ahead(documents.sequences)

    def micro_batches(self, consumed: int, count: int, rank: int, size: int) -> Iterator[tuple[int, Batch]]:
        """Micro-batches rank, rank + size, ... of sequences consumed .. consumed + count - 1."""
        starts = range(0, count, self.micro_batch)
        numbers = range(rank, len(starts), size)
        places = [(consumed + starts[n], min(self.micro_batch, count - starts[n])) for n in numbers]
        for number, place, following in zip(numbers, places, [*places[1:], *places[:1]], strict=True):
            step = count if following <= place else 0  # the first one of the next step
            yield number, self._ahead.get(place, (following[0] + step, following[1]))


def work(config: PretrainConfig, directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    tokens = TokenSet(config.tokens)
    tokenizer = checkpoint.load_tokenizer(config.checkpoint or tokens.tokenizer)
    shape = architecture(config, tokens)
    if config.checkpoint is None:
        model: Any = initialize(shape, config.seed)
    else:
        model = checkpoint.load_model(config.checkpoint, config=shape)
    parameters = count_parameters(model)[0]
    stop_tokens = _stop_tokens(model, tokens.separator)
    if config.parallel == "ddp" or world.size == 1:  # sharding moves each layer's shard
        model.to(world.device)
    objective = NextToken()
    documents = training_documents(config, tokens)
    held_out = PackedDocuments(tokens, "validation", config.sequence_length, config.seed)
    batches = held_out.prefix(config.validation_tokens, config.micro_batch)
    bits_per_byte = 1 / (math.log(2) * held_out.bytes_per_token())

    def validate() -> dict[str, float]:
        loss = evaluate(model, objective, batches, world, trainer.precision)["loss"]
        return {"validation_loss": loss, "validation_bits_per_byte": loss * bits_per_byte}

    trainer = Trainer(
        config,
        directory,
        world,
        model,
        objective,
        _Sequences(documents, config.micro_batch),
        length=config.sequence_length,
        steps=steps_of(config, tokens),
        evaluate=validate,
        evaluate_every=config.validate_every,
    )
    last = trainer.run()
    by_source: dict[str, dict[str, float]] = {}
    if config.mixture is not None:
        streams = streams_by(tokens, "validation", config.mixture.by, config.sequence_length, config.seed)
        for name, stream in streams.items():
            parts = stream.prefix(config.validation_tokens, config.micro_batch)
            measured = evaluate(model, objective, parts, world, trainer.precision)
            bits = measured["loss"] / (math.log(2) * stream.bytes_per_token())
            by_source[name] = {"loss": measured["loss"], "bits_per_byte": bits, "tokens": measured["weight"]}
    if world.is_main:
        export.save(model.cpu(), tokenizer, directory, stop_tokens)
    world.barrier()
    return {
        "last": last,
        "exported_step": trainer.exported_step,
        "parameters": parameters,
        "precision": trainer.precision.name,
        "by_source": by_source,
    }


def architecture(config: PretrainConfig, tokens: TokenSet) -> PreTrainedConfig:
    """The `transformers` configuration that is trained. Raises UserError for one that cannot be had."""
    if config.checkpoint is None:
        tokenizer = checkpoint.load_tokenizer(tokens.tokenizer)
        return config.model.to_transformers(len(tokenizer), **_special(tokenizer))
    found: PreTrainedConfig = checkpoint.load_config(config.checkpoint)
    if config.rope_scaling is not None:
        config.rope_scaling.apply(found, config.checkpoint)
    return found


def steps_of(config: PretrainConfig, tokens: TokenSet) -> int:
    """Optimizer steps of the run: given, or by tokens per parameter."""
    if config.steps is not None:
        return config.steps
    budget = config.tokens_per_parameter * parameters_of(architecture(config, tokens))
    return max(1, round(budget / (config.batch_size * config.sequence_length)))


def _stop_tokens(model: Any, separator: int) -> list[int]:
    """What ends an answer: the end of a document, and what ended one before training."""
    known = model.generation_config.eos_token_id if model.generation_config is not None else None
    before = known if isinstance(known, list) else [known]
    return [separator, *(token for token in before if token is not None)]


def training_documents(config: PretrainConfig, tokens: TokenSet) -> PackedDocuments | MixedDocuments:
    """What the run trains on. Raises UserError for a mixture that the tokens cannot give."""
    if config.mixture is None:
        return PackedDocuments(tokens, "train", config.sequence_length, config.seed)
    count = steps_of(config, tokens) * config.batch_size
    return MixedDocuments(tokens, config.mixture, config.sequence_length, config.seed, count)


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def pretrain(config: PretrainConfig, run: Run) -> Manifest:
    """Tokens to a checkpoint."""
    tokens = TokenSet(config.tokens)
    _check(config, tokens)
    steps = steps_of(config, tokens)
    vocabulary = len(checkpoint.load_tokenizer(tokens.tokenizer))
    train, validation = (unigram_counts(tokens, split, vocabulary) for split in ("train", "validation"))
    cross_entropy, entropy = unigram_entropy(train, validation)
    epochs = steps * config.batch_size * config.sequence_length / int(train.sum())
    run.log.info(
        "%s training tokens, %.2f epochs; %s validation tokens", f"{train.sum():,}", epochs, f"{validation.sum():,}"
    )
    documents = training_documents(config, tokens)
    accounts = documents.accounts() if isinstance(documents, MixedDocuments) else []
    result = launch(config, run, __name__)
    last = result["last"]
    rows = metrics.read(run.directory)
    exported = next(row for row in reversed(rows) if row["step"] == result["exported_step"])
    found: dict[str, Any] = {
        "validation_loss": exported["validation_loss"],
        "validation_bits_per_byte": exported["validation_bits_per_byte"],
        "exported_step": exported["step"],
        "unigram_cross_entropy": cross_entropy,
        "unigram_entropy": entropy,
        "training_loss": last["loss"],
        "parameters": result["parameters"],
        "precision": result["precision"],
        "tokens_per_second": _median_speed(run.directory),
        "epochs": epochs,
    }
    found["headline"] = [
        f"{result['parameters']:,} parameters, {last['tokens']:,} tokens ({epochs:.2f} epochs), {result['precision']}, "
        f"{found['tokens_per_second']:,.0f} tokens/s",
        f"validation loss {_rounded(exported['validation_loss'], 4)} nats per token "
        f"({_rounded(exported['validation_bits_per_byte'], 4)} bits per byte); unigram entropy of the same split "
        f"{entropy:.4f}",
        f"training loss of the last step {_rounded(last['loss'], 6)}",
    ]
    if accounts:
        found["validation_by_source"] = result["by_source"]
        found["headline"].append(_mixture_line(accounts))
    for line in found["headline"]:
        run.log.info("%s", line)
    counts: dict[str, Any] = {"steps": last["step"], "tokens": last["tokens"], "skipped_steps": last["skipped"]}
    summary = f"{result['parameters']:,} parameters, {last['tokens']:,} tokens, {result['precision']}"
    facts = {name: value for name, value in found.items() if name not in ("headline", "validation_by_source")} | counts
    levels = {"unigram entropy of the validation tokens": entropy}
    report = training_report("Pretraining", summary, facts, rows, levels)
    if accounts:
        counts["mixture"] = {account.source: _without_name(account) for account in accounts}
        mixture_section(report, [asdict(account) for account in accounts], result["by_source"])
    return run.commit(counts=counts, metrics=found, report=report)


def _rounded(loss: float | None, digits: int) -> str:
    """As the log has it: null where it was not finite."""
    return "not finite" if loss is None else f"{loss:.{digits}f}"


def _without_name(account: Account) -> dict[str, Any]:
    return {name: value for name, value in asdict(account).items() if name != "source"}


def _mixture_line(accounts: list[Account]) -> str:
    budget = sum(account.tokens_got for account in accounts)
    used = [
        f"{account.source} {account.tokens_got / budget:.1%} ({account.epochs:.2f} epochs)"
        for account in sorted(accounts, key=lambda account: -account.tokens_got)
        if account.tokens_got
    ]
    return f"mixture: {', '.join(used)}"


def _median_speed(directory: Path) -> float:
    speeds = sorted(row["tokens_per_second"] for row in metrics.read(directory))
    return speeds[len(speeds) // 2]


def _check(config: PretrainConfig, tokens: TokenSet) -> None:
    """Everything that would fail hours later. Raises UserError."""
    tokenizer = checkpoint.load_tokenizer(tokens.tokenizer)
    if tokenizer.eos_token_id != tokens.separator:
        raise UserError(
            f"{tokens.directory}: documents end with token {tokens.separator}, the tokenizer's end token is "
            f"{tokenizer.eos_token_id}; tokens and tokenizer belong to different runs"
        )
    shape = architecture(config, tokens)
    if config.checkpoint is not None:
        config.model.require(shape, config.checkpoint)
        _check_vocabulary(config.checkpoint, tokens, shape)
    longest = context(shape)
    if longest is not None and config.sequence_length > longest:
        raise UserError(
            f"sequence_length: {config.sequence_length} is longer than model.max_length {longest}"
            if config.checkpoint is None
            else f"sequence_length: {config.sequence_length} is longer than the context of {config.checkpoint}, "
            f"{longest}; set rope_scaling to stretch it"
        )
    for split in ("train", "validation"):
        rows = tokens.rows(split)
        if len(rows) == 0:
            raise UserError(f"{tokens.directory}: holds no {split} documents; tokenize more text")
        largest = max(int(tokens.tokens(int(row)).max(initial=0)) for row in rows)
        if largest >= len(tokenizer):
            raise UserError(
                f"{tokens.directory}: holds token {largest}, its tokenizer knows {len(tokenizer)}; "
                "tokens and tokenizer belong to different runs"
            )


def _check_vocabulary(path: str, tokens: TokenSet, shape: PreTrainedConfig) -> None:
    """The tokens' ids must mean to the checkpoint what they meant when they were made. Raises UserError."""
    ours = checkpoint.load_tokenizer(tokens.tokenizer).get_vocab()
    its = checkpoint.load_tokenizer(path).get_vocab()
    if ours != its:
        differ = sum(its.get(word) != number for word, number in ours.items())
        raise UserError(
            f"{tokens.directory}: its vocabulary ({len(ours):,}) is not that of {path} ({len(its):,}), {differ:,} "
            f"tokens differ; run 'raymill data tokenize' with tokenizer: {path}"
        )
    if len(its) > shape.vocab_size:
        raise UserError(
            f"{path}: its tokenizer has {len(its)} tokens, its model {shape.vocab_size}; they belong to different "
            "checkpoints"
        )


STAGE = Stage(name="train.pretrain", version=1, config=PretrainConfig, run=pretrain)
