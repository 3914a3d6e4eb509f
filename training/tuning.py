"""What fine-tuning methods share: the base checkpoint, its adapter or all its weights, and what they leave behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from core import checkpoint
from core.config import InputPath
from core.errors import UserError
from training import export, lora
from training.chat import ChatEncoder
from training.lora import LoraSettings
from training.model import bare
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
        base: Any = checkpoint.load_model(config.checkpoint)
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
        """Write `adapter/` (LoRA) and the whole `checkpoint/`. Called on one rank, last: it uses up the model."""
        self.model.cpu()
        whole = self.model
        if self.config.method == "lora":
            lora.save(self.model, directory, self.config.checkpoint)
            whole = lora.merge(self.model)
        tokenizer = self.encoder.tokenizer
        export.save(whole, tokenizer, directory, [self.encoder.stop_token, tokenizer.eos_token_id])


def check(config: TuneConfig) -> ChatEncoder:
    """Everything about the checkpoint that would fail later. Raises UserError."""
    content = checkpoint.check(config.checkpoint)
    encoder = ChatEncoder(checkpoint.load_tokenizer(config.checkpoint))
    if len(encoder.tokenizer) > content.get("vocab_size", 0):
        raise UserError(
            f"{config.checkpoint}: its tokenizer has {len(encoder.tokenizer)} tokens, its model "
            f"{content.get('vocab_size')}; they belong to different checkpoints"
        )
    longest = content.get("max_position_embeddings")
    if longest is not None and config.max_length > longest:
        raise UserError(f"max_length: {config.max_length} is longer than the model's context of {longest}")
    return encoder
