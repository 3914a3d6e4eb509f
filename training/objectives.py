"""Objectives: what a method minimises. Each returns sums and weights; only the trainer divides."""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from training.batch import Batch
from training.model import losses
from training.precision import Precision


@dataclass(frozen=True)
class Sums:
    """Of one micro-batch: the summed loss, what it is summed over (tokens or pairs), and further sums over the same."""

    loss: Tensor
    weight: float
    metrics: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A method: pretraining and SFT, a preference loss, later a policy gradient."""

    unit: str
    """What `weight` counts: tokens, pairs."""
    metrics: tuple[str, ...]
    """Names in `Sums.metrics`."""

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """The sums of one micro-batch; the loss is differentiable."""
        ...


class NextToken:
    """-log p(next token), summed over the tokens that carry loss: pretraining, and SFT on the assistant's tokens."""

    unit = "tokens"
    metrics: tuple[str, ...] = ()
    shards = True
    """Whether `parallel: fsdp` may train it: around training, too, all ranks call the model equally often."""

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """Sums over the batch's labelled tokens."""
        loss = losses(model, batch, precision, per_token=False)
        return Sums(loss, float(batch.labelled))
