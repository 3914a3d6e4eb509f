"""Low-rank adapters through PEFT: attached, saved, merged into the base, and the merge checked before it is written."""

from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from transformers import PreTrainedModel

from core.config import Config
from core.errors import RaymillError
from training import export
from training.model import bare

ADAPTER = "adapter"
_MERGE_TOLERANCE = 1e-5
"""Largest difference of logits between adapter and merged FP32 weights, in units of the largest logit; PEFT's own
merge was measured at 3e-7."""


class LoraSettings(Config):
    """LoRA (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(16, gt=0, description="rank r of the update B A")
    alpha: int = Field(32, gt=0, description="scale: the update is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="layers that get an adapter: all-linear (all but the output head) or their names"
    )


def attach(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PeftModel:
    """Wrap `model` with a fresh adapter; B is zero, so the outputs are the base's. Only the adapter is trainable."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)
    return wrapped


def save(model: PeftModel, directory: Path, base: str) -> Path:
    """Write `adapter/`, naming the base checkpoint it belongs to."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(directory / ADAPTER))
    (directory / ADAPTER / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    return directory / ADAPTER


def merge(model: PeftModel) -> PreTrainedModel:
    """The base with the adapter added to its weights: W + (alpha / r) B A, in the base's FP32; uses up `model`.

    Raises RaymillError when the merged model's logits are not those of base and adapter.
    """
    model.eval()
    with_adapter = export.probe_logits(bare(model))
    merged = model.merge_and_unload()
    difference = float((export.probe_logits(merged) - with_adapter).abs().max())
    scale = float(with_adapter.abs().max())
    if not difference <= _MERGE_TOLERANCE * max(1.0, scale):
        raise RaymillError(f"merging changed the logits by {difference:.2e} (largest logit {scale:.2e}); not written")
    tied = merged.config.tie_word_embeddings
    shared = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    if tied and not shared:
        raise RaymillError("merging untied the output head from the embedding, though the configuration ties them")
    return merged
