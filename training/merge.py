"""Stage `train.merge`: an adapter added to its full-precision base, and the result checked before it is written."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from core import checkpoint
from core.config import InputPath, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.report import Report
from core.run import Run
from core.stage import Stage
from training import export, lora
from training.chat import ChatEncoder
from training.model import bare

_LARGEST_KL = 1e-2
"""Nats per token between the merged weights in FP32 and rounded to BF16; a step of rounding is 2^-9 of a weight."""
_LEAST_AGREEMENT = 0.95
"""Share of probed places where both find the same token most likely; near ties may fall either way."""


class MergeConfig(StageConfig):
    """An adapter into its base."""

    adapter: InputPath = Field(description="PEFT folder of a LoRA or DoRA adapter, also of one trained on a 4-bit base")
    checkpoint: InputPath | None = Field(
        None, description="the full-precision base; null: the one that the adapter names"
    )
    dtype: Literal["base", "float32", "bfloat16"] = Field("base", description="type of the weights that are written")


def merge(config: MergeConfig, run: Run) -> Manifest:
    """Base and adapter to a checkpoint."""
    adapter = Path(config.adapter)
    base = config.checkpoint or lora.base_of(adapter)
    if not base:
        raise UserError(f"{adapter}: names no base checkpoint; set checkpoint")
    stored = _stored_type(base)
    written = {"base": stored, "float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    tokenizer = checkpoint.load_tokenizer(adapter if (adapter / "tokenizer.json").is_file() else base)
    with run.timing("merge"):
        model = lora.load(checkpoint.load_model(base), adapter, base)
        tied = bool(model.config.tie_word_embeddings)
        before = export.probe_logits(bare(model))
        stop = _stop_tokens(model, tokenizer)
        merged = lora.merge(model)
        difference = float((export.probe_logits(merged) - before).abs().max())
    facts: dict[str, Any] = {
        "base": base,
        "largest_logit_difference": difference,
        "dtype": str(written).removeprefix("torch."),
        "tied_embeddings": bool(merged.config.tie_word_embeddings),
    }
    if written != torch.float32:
        merged.to(dtype=written)  # type: ignore[call-arg]
        facts |= compare(before, export.probe_logits(merged).float())
        _check_rounding(facts)
    export.save(merged, tokenizer, run.directory, stop)
    headline = f"{adapter} merged into {base}; largest difference of logits in FP32 {difference:.1e}"
    if "kl" in facts:
        headline += f", after rounding to {facts['dtype']} {facts['kl']:.1e} nats and {facts['agreement']:.1%} agree"
    if tied and not facts["tied_embeddings"]:
        headline += "; embedding and head are two matrices now, as the adapter changed one of them"
    run.log.info("%s", headline)
    report = Report("Merged adapter", "Base and adapter as one checkpoint.")
    report.facts("Result", {name.replace("_", " "): value for name, value in facts.items()})
    return run.commit(metrics=facts | {"headline": [headline]}, report=report)


def compare(expected: Tensor, found: Tensor) -> dict[str, float]:
    """Of two sets of logits, (..., vocabulary): mean KL(expected, found) in nats, share of equal best tokens."""
    log_p, log_q = expected.log_softmax(-1), found.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    return {"kl": float(kl), "agreement": float((expected.argmax(-1) == found.argmax(-1)).double().mean())}


def _check_rounding(facts: dict[str, Any]) -> None:
    if not (facts["kl"] <= _LARGEST_KL and facts["agreement"] >= _LEAST_AGREEMENT):
        raise RaymillError(
            f"rounding the merged weights to {facts['dtype']} changes the model by {facts['kl']:.2g} nats per token "
            f"and {1 - facts['agreement']:.1%} of the best tokens; not written: set dtype: float32"
        )


def _stored_type(base: str) -> torch.dtype:
    """The type of the base's own weights; what is neither FP32 nor BF16 is written as FP32."""
    content = checkpoint.check(base)
    if "quantization_config" in content:
        raise UserError(f"{base}: is quantized; an adapter is merged into the full-precision checkpoint, name that one")
    named = content.get("dtype", content.get("torch_dtype"))
    return torch.bfloat16 if named == "bfloat16" else torch.float32


def _stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """What ends an answer: as the base's generation settings say, and as the chat template ends a turn."""
    known = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = list(known) if isinstance(known, list) else [known]
    try:
        ends = [*ChatEncoder(tokenizer).stop_tokens, *ends]
    except UserError:  # a base model's tokenizer has no template, or one that trains nothing
        ends.append(tokenizer.eos_token_id)
    return [end for end in dict.fromkeys(ends) if end is not None]


STAGE = Stage(name="train.merge", version=1, config=MergeConfig, run=merge)
