"""`serve quantize`: a checkpoint in fewer bits, checked against the original before it becomes an artifact."""

import math
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from core import checkpoint
from core.config import InputPath, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.report import Report, line_chart
from core.run import Run
from core.stage import Stage
from serving import compress, quality, texts
from serving.quality import Quality

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
    scheme: Literal["int8_w8a8"] = Field(
        "int8_w8a8", description="INT8 weights for each output channel (GPTQ), INT8 activations for each token"
    )
    narrow_weights: bool = Field(
        True,
        description="keep weights in 7 of the 8 bits: a CPU without VNNI adds products in 16 bits, which overflow from "
        "the full range; false is a little more exact where every server has VNNI or a GPU",
    )
    samples: int = Field(128, ge=1, description="calibration sequences; 128 to 512 are usual")
    sequence_length: int = Field(512, ge=8, description="tokens of a sequence, for calibration and measurement")
    held_out_samples: int = Field(32, ge=1, description="held-out sequences")
    max_perplexity_increase: float = Field(
        1.05, gt=0, description="largest perplexity after over before on held-out text; above it the stage fails"
    )


def quantize(config: QuantizeConfig, run: Run) -> Manifest:
    """Calibrate and round, write, load what was written, compare it with the original, pass the gate."""
    content = checkpoint.check(config.checkpoint)
    if content.get("quantization_config"):
        raise UserError(f"{config.checkpoint}: is quantized already; name the checkpoint in full precision")
    longest = content.get("max_position_embeddings")
    if longest is not None and config.sequence_length > int(longest):
        raise UserError(f"sequence_length: {config.sequence_length} is more than the model's context of {longest}")
    torch.manual_seed(config.seed)
    with run.timing("texts"):
        tokenizer = checkpoint.load_tokenizer(config.checkpoint)
        calibration, held_out = texts.choose(
            *(config.documents, config.held_out, tokenizer, config.seed),
            *(config.samples, config.held_out_samples, config.sequence_length),
        )
        run.log.info("%d calibration and %d held-out sequences", len(calibration), len(held_out))
    with run.timing("quantize"):
        model = checkpoint.load_model(config.checkpoint)
        layers = len(compress.quantizable(model))
        with run.progress(f"quantizing to {config.scheme}", total=layers, unit="layers") as progress:
            compress.gptq(model, config.scheme, calibration.tokens_ST, config.narrow_weights, progress.advance)
        dtype = getattr(torch, str(content.get("dtype") or content.get("torch_dtype") or "float32"))
        compress.save(model, dtype, config.checkpoint, run.path(_SCRATCH))
        del model
    with run.timing("compare"), run.progress("comparing", total=len(held_out), unit="sequences") as progress:
        original = checkpoint.load_model(config.checkpoint)
        with compress.quiet():
            written = checkpoint.load_model(run.path(_SCRATCH))
            found = quality.compare(original, written, held_out.tokens_ST, held_out.counted_ST, progress.advance)
    if not found.increase <= config.max_perplexity_increase:  # nan fails as well
        shutil.rmtree(run.path(_SCRATCH))
        raise RaymillError(_too_far(found, config))
    sizes = {"before": weight_bytes(config.checkpoint), "after": weight_bytes(run.path(_SCRATCH))}
    shutil.rmtree(run.path("checkpoint"), ignore_errors=True)
    run.path(_SCRATCH).rename(run.path("checkpoint"))
    lines = [
        f"{config.scheme}: perplexity {found.perplexity_before:.3f} -> {found.perplexity_after:.3f} "
        f"({found.increase:.4f}x) on {found.tokens:,} held-out tokens",
        f"top-1 agreement {found.agreement:.2%}, KL divergence {found.kl:.5f} nats/token",
        f"weights {sizes['before'] / _MIB:.1f} MiB -> {sizes['after'] / _MIB:.1f} MiB "
        f"({sizes['after'] / sizes['before']:.2f}x)",
    ]
    for line in lines:
        run.log.info("%s", line)
    return run.commit(
        counts={
            "layers": layers,
            "calibration_tokens": calibration.tokens_ST.numel(),
            "held_out_tokens": found.tokens,
        },
        metrics={
            "perplexity_before": found.perplexity_before,
            "perplexity_after": found.perplexity_after,
            "perplexity_increase": found.increase,
            "kl_divergence": found.kl,
            "top1_agreement": found.agreement,
            "bytes_before": sizes["before"],
            "bytes_after": sizes["after"],
            "headline": lines,
        },
        report=_report(config, found, sizes, layers),
    )


def _too_far(found: Quality, config: QuantizeConfig) -> str:
    return (
        f"quantization to {config.scheme} raises held-out perplexity from {found.perplexity_before:.3f} to "
        f"{found.perplexity_after:.3f} ({found.increase:.4f}x), above max_perplexity_increase "
        f"{config.max_perplexity_increase:g}; calibrate on more text, or raise the limit"
    )


def weight_bytes(directory: str | Path) -> int:
    """Size of a checkpoint's weights on disk."""
    return sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))


def _report(config: QuantizeConfig, found: Quality, sizes: dict[str, int], layers: int) -> Report:
    report = Report("Quantization", f"{config.checkpoint} to {config.scheme}")
    report.facts(
        "Result",
        {
            "perplexity after / before": round(found.increase, 4),
            "allowed": config.max_perplexity_increase,
            "top-1 agreement": f"{found.agreement:.2%}",
            "KL divergence, nats per token": found.kl,
            "held-out tokens": found.tokens,
            "layers quantized": layers,
        },
    )
    columns: list[str] = ["", "weights, MiB", "perplexity", "bits per token"]
    rows: list[list[Any]] = [
        ["original", sizes["before"] / _MIB, found.perplexity_before, math.log2(found.perplexity_before)],
        [config.scheme, sizes["after"] / _MIB, found.perplexity_after, math.log2(found.perplexity_after)],
    ]
    report.table(
        "Before and after",
        columns,
        rows,
        note="The embedding, the output layer and the norms keep their precision, so a small model shrinks by less.",
    )
    order = sorted(range(len(found.before_by_sequence)), key=found.before_by_sequence.__getitem__)
    places = list(range(1, len(order) + 1))
    lines = {
        "original": (places, [found.before_by_sequence[i] for i in order]),
        config.scheme: (places, [found.after_by_sequence[i] for i in order]),
    }
    report.figure(
        "Perplexity of each held-out sequence",
        line_chart(lines, "sequence, easiest for the original first", "perplexity", log_y=True),
    )
    return report


STAGE = Stage(name="serve.quantize", version=3, config=QuantizeConfig, run=quantize)
