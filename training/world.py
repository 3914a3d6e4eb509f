"""The processes that train together: one of them, or several that exchange tensors through torch.distributed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _nothing(step: int, facts: dict[str, float]) -> None:
    """No launcher wants to hear of checkpoints."""


@dataclass(frozen=True)
class World:
    """This process among `size`; every method is collective but the properties."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    checkpointed: Callable[[int, dict[str, float]], None] = _nothing
    """Called on every rank after a checkpoint was written."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by the sum over all ranks; the order of summation is fixed by ranks, not by arrival."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()
