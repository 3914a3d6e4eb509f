"""A small trainer on real inputs, as the stages build one: what tests of the loop and of resuming start from."""

from pathlib import Path
from typing import Any

import torch

from core import checkpoint
from core.token_set import TokenSet
from tests.training.fixtures import TINY, VOCABULARY
from training.chat import ChatEncoder
from training.examples import PackedExamples, conversations
from training.model import initialize
from training.objectives import NextToken
from training.packing import PackedDocuments
from training.pretrain import _Sequences
from training.trainer import TrainConfig, Trainer
from training.world import World


def config(directory: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"batch_size": 8, "micro_batch": 4, "precision": "fp32"}
    settings |= {"checkpoint_every": 1, "keep_checkpoints": 100}
    return TrainConfig(output=str(directory), workers=0, **settings | changes)


def model(dropout: float = 0.0, seed: int = 0) -> Any:
    shape = TINY.model_copy(update={"attention_dropout": dropout})
    return initialize(shape.to_transformers(VOCABULARY), seed)


def documents(tokens: Path, settings: TrainConfig, length: int = 32) -> _Sequences:
    return _Sequences(PackedDocuments(TokenSet(tokens), "train", length, settings.seed), settings.micro_batch)


def chats(folder: Path, base: Path, settings: TrainConfig, length: int = 48) -> PackedExamples:
    """Conversations of unequal length with loss on a few tokens only: micro-batches of unequal weight."""
    encoder = ChatEncoder(checkpoint.load_tokenizer(base))
    units = conversations(str(folder / "train.parquet"), encoder, length, "skip").units
    return PackedExamples(units, settings.seed, settings.micro_batch, length, encoder.padding)


def trainer(
    directory: Path, settings: TrainConfig, samples: Any, network: Any, world: World | None = None, **more: Any
) -> Trainer:
    more = {"objective": NextToken(), "steps": 6} | more
    directory.mkdir(parents=True, exist_ok=True)
    return Trainer(settings, directory, world or World(), network, more.pop("objective"), samples, length=32, **more)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
