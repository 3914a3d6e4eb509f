"""`serve quantize`: a checkpoint in fewer bits, checked against the original before it becomes an artifact."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from transformers import PreTrainedModel

from core import checkpoint, storage
from core.config import InputPath, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from serving import compress, footprint, preflight, quality, quantize_report, schemes, texts
from serving.quality import Quality
from serving.schemes import MethodName, SchemeName, Variant

_SCRATCH = ".checkpoint"
_MIB = 1 << 20


class QuantizeConfig(StageConfig):
    """What is quantized, how, on which text, and how much worse it may become."""

    checkpoint: InputPath = Field(description="Hugging Face checkpoint directory in full precision")
    documents: InputPath = Field(description="documents or conversations to calibrate on: an artifact, or Parquet")
    held_out: InputPath | None = Field(
        None,
        description="documents or conversations (of which the assistant's tokens count) to measure on; None: a fifth "
        "of `documents`, by hash of the id",
    )
    scheme: SchemeName = Field(
        "int8_w8a8", description="number format of weights and activations; what runs where: docs/formats.md"
    )
    method: MethodName | None = Field(
        None,
        description="how weights are rounded; None: gptq for integers, rtn (to the nearest, no calibration) for "
        "floats; smoothquant goes before gptq",
    )
    schemes: Literal["all"] | list[str] | None = Field(
        None,
        description="several in one run, compared: a list such as [int8_w8a8, int4_w4a16-awq], or all (also as --all); "
        "each is written to checkpoints/",
    )
    kv_cache: Literal["auto", "fp8"] = Field(
        "auto", description="fp8: calibrated scales, so that engines keep keys and values in 8 bits; auto: 16 bits"
    )
    narrow_weights: bool = Field(
        True,
        description="keep INT8 weights in 7 of the 8 bits: a CPU without VNNI adds products in 16 bits, which overflow "
        "from the full range; false is a little more exact where every server has VNNI or a GPU",
    )
    samples: int = Field(128, ge=1, description="calibration sequences; 128 to 512 are usual")
    sequence_length: int = Field(512, ge=8, description="tokens of a sequence, for calibration and measurement")
    held_out_samples: int = Field(32, ge=1, description="held-out sequences")
    max_perplexity_increase: float = Field(
        1.05,
        gt=0,
        description="largest perplexity after over before on held-out text; above it the stage fails, or of several "
        "schemes the one is left out",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "QuantizeConfig":
        schemes.variant(self.scheme, self.method)
        return self

    @field_validator("schemes")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not value:
                raise ValueError("names no scheme")
            schemes.parse(value)
        return value

    @property
    def variants(self) -> list[Variant]:
        """What is made, in order."""
        if self.schemes is None:
            return [schemes.variant(self.scheme, self.method)]
        return schemes.every() if self.schemes == "all" else schemes.parse(self.schemes)


@dataclass(frozen=True)
class Outcome:
    """One variant: what it became, or `problem`, why there is no checkpoint of it. `kept` layers are as they were."""

    variant: Variant
    group_size: int | None = None
    kept: int = 0
    found: Quality | None = None
    disk_bytes: int | None = None
    memory_bytes: int | None = None
    runs: preflight.Verdict | None = None
    problem: str | None = None

    def row(self) -> dict[str, Any]:
        """As the manifest and comparison.json have it; sizes in bytes."""
        row: dict[str, Any] = {"scheme": self.variant.scheme, "method": self.variant.method}
        row |= {"group_size": self.group_size, "layers_kept": self.kept, "problem": self.problem}
        row |= {"bytes_after": self.disk_bytes, "memory_after": self.memory_bytes}
        if self.found is not None:
            row |= {"perplexity_after": self.found.perplexity_after, "perplexity_increase": self.found.increase}
            row |= {"kl_divergence": self.found.kl, "top1_agreement": self.found.agreement}
        if self.runs is not None:
            row |= {"runs_here": self.runs.ok, "runs_here_reason": self.runs.reason}
        return row


def quantize(config: QuantizeConfig, run: Run) -> Manifest:
    """Calibrate and round, write, load what was written, compare it with the original, pass the gate."""
    content = _check(config)
    torch.manual_seed(config.seed)
    with run.timing("texts"):
        tokenizer = checkpoint.load_tokenizer(config.checkpoint)
        calibration, held_out = texts.choose(
            *(config.documents, config.held_out, tokenizer, config.seed),
            *(config.samples, config.held_out_samples, config.sequence_length),
        )
        run.log.info("%d calibration and %d held-out sequences", len(calibration), len(held_out))
    original = checkpoint.load_model(config.checkpoint)
    layers = compress.quantizable(original)
    outcomes = []
    for variant in config.variants:
        try:
            outcomes.append(_make(variant, config, content, original, calibration, held_out, run))
        except RaymillError as error:  # of several the others are made all the same
            if config.schemes is None:
                raise
            shutil.rmtree(run.path(_SCRATCH), ignore_errors=True)
            outcomes.append(Outcome(variant, problem=str(error)))
        if outcomes[-1].problem is not None:
            if config.schemes is None:
                raise RaymillError(f"quantization to {outcomes[-1].problem}")
            run.log.warning("%s: no checkpoint: %s", variant.name, outcomes[-1].problem)
    made = [outcome for outcome in outcomes if outcome.problem is None]
    if not made:
        raise RaymillError(f"none of {len(outcomes)} schemes became a checkpoint; the first: {outcomes[0].problem}")
    before = {
        "bytes_before": footprint.disk_bytes(config.checkpoint),
        "memory_before": footprint.memory_bytes(config.checkpoint, content),
    }
    assert made[0].found is not None
    lines = _headline(made, before, config.schemes is not None)
    for line in lines:
        run.log.info("%s", line)
    metrics = {"perplexity_before": made[0].found.perplexity_before, **before, "headline": lines}
    if config.schemes is None:
        metrics |= made[0].row()
    else:
        rows = {outcome.variant.name: outcome.row() for outcome in outcomes}
        metrics["schemes"] = rows
        storage.write_atomic(run.path("comparison.json"), json.dumps(before | {"schemes": rows}, indent=2) + "\n")
    return run.commit(
        counts={
            "layers": len(layers),
            "checkpoints": len(made),
            "calibration_tokens": calibration.tokens_ST.numel(),
            "held_out_tokens": made[0].found.tokens,
        },
        metrics=metrics,
        report=quantize_report.build(config.checkpoint, outcomes, before, config.max_perplexity_increase),
    )


def _check(config: QuantizeConfig) -> dict[str, Any]:
    """The checkpoint's configuration. Raises UserError for what can be known before any work."""
    content = checkpoint.check(config.checkpoint)
    if content.get("quantization_config"):
        raise UserError(f"{config.checkpoint}: is quantized already; name the checkpoint in full precision")
    longest = content.get("max_position_embeddings")
    if longest is not None and config.sequence_length > int(longest):
        raise UserError(f"sequence_length: {config.sequence_length} is more than the model's context of {longest}")
    return content


def _make(
    variant: Variant,
    config: QuantizeConfig,
    content: dict[str, Any],
    original: PreTrainedModel,
    calibration: texts.Sequences,
    held_out: texts.Sequences,
    run: Run,
) -> Outcome:
    """One variant from the original to its folder; above the limit it leaves no folder but a problem."""
    scratch = run.path(_SCRATCH)
    with run.timing(f"quantize {variant.name}"):
        model = checkpoint.load_model(config.checkpoint)
        layers = len(compress.quantizable(model))
        with run.progress(f"quantizing to {variant.name}", total=layers, unit="layers") as progress:
            group_size, kept = compress.quantize(
                *(model, variant, calibration.tokens_ST, config.narrow_weights, config.kv_cache), progress.advance
            )
        if kept:
            named = ", ".join(kept[:3]) + (", ..." if kept[3:] else "")
            words = f"groups of {group_size} do not divide the inputs of {len(kept)} of {layers} layers, which stay"
            run.log.warning("%s: %s as they are: %s", variant.name, words, named)
        dtype = getattr(torch, str(content.get("dtype") or content.get("torch_dtype") or "float32"))
        compress.save(model, dtype, config.checkpoint, scratch)
        del model
    with run.timing(f"compare {variant.name}"):
        found = _compare(variant, original, scratch, held_out, run)
    written = checkpoint.check(scratch)
    outcome = Outcome(
        *(variant, group_size, len(kept), found),
        *(footprint.disk_bytes(scratch), footprint.memory_bytes(scratch, written)),
        preflight.serves(written),
        _too_far(variant, found, config.max_perplexity_increase),
    )
    if outcome.problem is not None:
        shutil.rmtree(scratch)
        return outcome
    place = run.path("checkpoint") if config.schemes is None else run.folder("checkpoints") / variant.name
    shutil.rmtree(place, ignore_errors=True)
    scratch.rename(place)
    return outcome


def _compare(
    variant: Variant, original: PreTrainedModel, written: Path, held_out: texts.Sequences, run: Run
) -> Quality:
    """The original and what lies on disk, on held-out text. Raises RaymillError where this machine cannot do it."""
    with run.progress(f"comparing {variant.name}", total=len(held_out), unit="sequences") as progress:
        try:
            quantized = compress.load(written)
            with compress.quiet():
                return quality.compare(original, quantized, held_out.tokens_ST, held_out.counted_ST, progress.advance)
        except (UserError, RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RaymillError(
                f"{variant.name}: what was written cannot be compared with the original on this machine: {reason}"
            ) from error


def _too_far(variant: Variant, found: Quality, limit: float) -> str | None:
    if found.increase <= limit:  # nan is too far as well
        return None
    return (
        f"{variant.name} raises held-out perplexity from {found.perplexity_before:.3f} to "
        f"{found.perplexity_after:.3f} ({found.increase:.4f}x), above max_perplexity_increase {limit:g}; "
        "calibrate on more text, or raise the limit"
    )


def _headline(made: Sequence[Outcome], before: dict[str, int], several: bool) -> list[str]:
    lines = []
    for outcome in made:
        found, size = outcome.found, outcome.disk_bytes
        assert found is not None and size is not None and outcome.runs is not None
        share = f"weights {before['bytes_before'] / _MIB:.1f} MiB -> {size / _MIB:.1f} MiB"
        group = f", groups of {outcome.group_size}" if outcome.group_size else ""
        group += f", {outcome.kept} layers kept" if outcome.kept else ""
        if several:
            here = "runs here" if outcome.runs.ok else "does not run here"
            lines.append(
                f"{outcome.variant.name}{group}: perplexity {found.increase:.4f}x, top-1 agreement "
                f"{found.agreement:.2%}, {share} ({size / before['bytes_before']:.2f}x), {here}"
            )
            continue
        lines = [
            f"{outcome.variant.name}{group}: perplexity {found.perplexity_before:.3f} -> {found.perplexity_after:.3f} "
            f"({found.increase:.4f}x) on {found.tokens:,} held-out tokens",
            f"top-1 agreement {found.agreement:.2%}, KL divergence {found.kl:.5f} nats/token",
            f"{share} ({size / before['bytes_before']:.2f}x)",
        ]
        if not outcome.runs.ok:
            lines.append(f"this machine cannot serve it: {outcome.runs.reason}")
    return lines


STAGE = Stage(name="serve.quantize", version=5, config=QuantizeConfig, run=quantize)
