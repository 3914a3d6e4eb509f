"""An exponential moving average of the weights: smoother than the last ones, measured and exported in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.sharding import local


class Average:
    """a <- d a + (1 - d) w after each step (Polyak and Juditsky 1992), with min(d, (1 + t) / (10 + t)) for d.

    The warmup of d is that of Tensorflow's ExponentialMovingAverage: without it, a short run would average its random
    beginning.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.state: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.weights.items()}
        """Name -> average; of a sharded model, shards."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [local(average) for average in self.state.values()]
        torch._foreach_lerp_(averages, [local(p.detach()) for p in self.weights.values()], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the average for its weights, within this context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and average."""
        for name, parameter in self.weights.items():
            weight, average = local(parameter.detach()), local(self.state[name])
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
