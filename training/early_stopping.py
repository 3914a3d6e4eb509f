"""Early stopping: training ends when held-out loss no longer falls, and the best weights are kept."""

import math
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn

from core.config import Config
from training import metrics
from training.world import World

_BEST = ".best.safetensors"


class EarlyStoppingConfig(Config):
    """When training ends before its last step."""

    every: int = Field(gt=0, description="steps between held-out losses")
    patience: int = Field(3, gt=0, description="of them without a lower one after which training ends")


class EarlyStopping:
    """Holds what the evaluations of a run said. All ranks hold the same.

    After a resume the history comes from the log; an evaluation that is done again replaces what it said before.
    """

    def __init__(self, patience: int, directory: Path, model: nn.Module, world: World) -> None:
        """patience: evaluations without a lower held-out loss after which training ends."""
        self.patience, self.path, self.model, self.world = patience, directory / _BEST, model, world
        self.losses: dict[int, float] = {
            row["step"]: row["validation_loss"]
            for row in metrics.read(directory)
            if row.get("validation_loss") is not None
        }

    def best(self, step: int) -> int:
        """The step of the lowest loss up to `step`, the first of equal ones; 0 when there was none."""
        seen = {at: loss for at, loss in self.losses.items() if at <= step}
        return min(seen, key=lambda at: (seen[at], at), default=0)

    def saw(self, step: int, loss: float) -> None:
        """Take note of an evaluation; the main rank saves the weights when they are the best so far."""
        loss = loss if math.isfinite(loss) else math.inf
        self.losses = {at: known for at, known in self.losses.items() if at < step} | {step: loss}
        if self.best(step) == step and self.world.is_main:
            temporary = self.path.with_suffix(".part")
            save_file({name: p.detach().cpu().contiguous() for name, p in self._trained()}, temporary)
            temporary.rename(self.path)

    def stops(self, step: int) -> bool:
        """Whether training ends at `step`: the last `patience` evaluations up to it were no better than one before."""
        best = self.best(step)
        return best > 0 and sum(best < at <= step for at in self.losses) >= self.patience

    @torch.no_grad()
    def restore(self) -> tuple[int, float]:
        """Put the best weights back into the model. Returns their step and its loss. Collective, after training."""
        last = max(self.losses)
        best = self.best(last)
        self.world.barrier()
        if best < last:
            saved = load_file(self.path)
            for name, parameter in self._trained():
                parameter.copy_(saved[name])
        return best, self.losses[best]

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
