"""What fine-tuning methods share: the base checkpoint, its adapter or all its weights, and what they leave behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from core import checkpoint
from core.config import InputPath
from core.errors import UserError
from training import export, lora, precision
from training.chat import ChatEncoder
from training.lora import LoraSettings
from training.model import bare
from training.rope import context
from training.trainer import TrainConfig
from training.world import World


class TuneConfig(TrainConfig):
    """What every method that starts from a checkpoint has."""

    checkpoint: InputPath = Field(description="checkpoint to start from (a folder with config.json and *.safetensors)")
    method: Literal["lora", "full"] = Field("lora", description="train an adapter, or all weights")
    lora: LoraSettings = Field(LoraSettings(), description="the adapter, for method lora")
    epochs: float = Field(1.0, gt=0, description="passes over the training examples")
    steps: int | None = Field(None, gt=0, description="optimizer steps; left out: as many as the epochs need")
    max_length: int = Field(512, gt=1, description="tokens of an example at most, prompt and answer together")

    def steps_for(self, examples: int) -> int:
        """Optimizer steps of the run."""
        return self.steps or max(1, round(self.epochs * examples / self.batch_size))


class Tuned:
    """A model under tuning, with its tokenizer."""

    def __init__(self, config: TuneConfig, world: World) -> None:
        self.config = config
        self.encoder = ChatEncoder(checkpoint.load_tokenizer(config.checkpoint))
        self.quantized = config.method == "lora" and config.lora.base == "nf4"
        if self.quantized:
            products = precision.resolve(config.precision, config.bf16_path).name
            compute = torch.bfloat16 if products == "bf16 native" else torch.float32
            base: Any = lora.load_nf4(config.checkpoint, compute, world.device)
        else:
            base = checkpoint.load_model(config.checkpoint)
            base.to(world.device)
        self.model: Any = lora.attach(base, config.lora, config.seed) if config.method == "lora" else base

    @property
    def transformer(self) -> PreTrainedModel:
        """The `transformers` model, adapter in its layers."""
        found: PreTrainedModel = bare(self.model)
        return found

    @contextmanager
    def before_tuning(self) -> Iterator[nn.Module]:
        """The model as it was: the adapter switched off, or the checkpoint loaded again."""
        if self.config.method == "lora":
            with self.model.disable_adapter():
                yield self.model
        else:
            original: Any = checkpoint.load_model(self.config.checkpoint)
            yield original.to(self.transformer.device)

    def save(self, directory: Path) -> None:
        """Write `adapter/` (LoRA) and the whole `checkpoint/`. Called on one rank, last: it uses up the model.

        An adapter trained on a 4-bit base is merged into the checkpoint as it was: rounded to 4 bits again, most of
        the update would be gone.
        """
        self.model.cpu()
        whole = self.model
        if self.config.method == "lora":
            adapter = lora.save(self.model, directory, self.config.checkpoint)
            if self.quantized:
                base = checkpoint.load_model(self.config.checkpoint)
                self.model = lora.load(base, adapter, self.config.checkpoint)
            whole = lora.merge(self.model)
        export.save(whole, self.encoder.tokenizer, directory, self.encoder.stop_tokens)


def check(config: TuneConfig) -> ChatEncoder:
    """Everything about the checkpoint that would fail later. Raises UserError."""
    content = checkpoint.check(config.checkpoint)
    encoder = ChatEncoder(checkpoint.load_tokenizer(config.checkpoint))
    if len(encoder.tokenizer) > content.get("vocab_size", 0):
        raise UserError(
            f"{config.checkpoint}: its tokenizer has {len(encoder.tokenizer)} tokens, its model "
            f"{content.get('vocab_size')}; they belong to different checkpoints"
        )
    longest = context(checkpoint.load_config(config.checkpoint))
    if longest is not None and config.max_length > longest:
        raise UserError(f"max_length: {config.max_length} is longer than the model's context of {longest}")
    return encoder
