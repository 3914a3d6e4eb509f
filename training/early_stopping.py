"""Early stopping: training ends when held-out loss no longer falls."""

import math
from pathlib import Path

from pydantic import Field

from core.config import Config
from training import metrics


class EarlyStoppingConfig(Config):
    """When training ends before its last step."""

    every: int = Field(gt=0, description="steps between held-out losses")
    patience: int = Field(3, gt=0, description="of them without a lower one after which training ends")


class EarlyStopping:
    """Holds what the evaluations of a run said. All ranks hold the same.

    After a resume the history comes from the log; an evaluation that is done again replaces what it said before. The
    best weights are those of the trainer's best checkpoint (`export: best`).
    """

    def __init__(self, patience: int, directory: Path) -> None:
        """patience: evaluations without a lower held-out loss after which training ends."""
        self.patience = patience
        self.losses: dict[int, float] = {
            row["step"]: math.inf if row["validation_loss"] is None else row["validation_loss"]
            for row in metrics.read(directory)
            if "validation_seconds" in row  # a loss that was not finite is null there
        }

    def best(self, step: int) -> int:
        """The step of the lowest loss up to `step`, the first of equal ones; 0 when there was none."""
        seen = {at: loss for at, loss in self.losses.items() if at <= step}
        return min(seen, key=lambda at: (seen[at], at), default=0)

    def saw(self, step: int, loss: float) -> None:
        """Take note of an evaluation."""
        loss = loss if math.isfinite(loss) else math.inf
        self.losses = {at: known for at, known in self.losses.items() if at < step} | {step: loss}

    def stops(self, step: int) -> bool:
        """Whether training ends at `step`: the last `patience` evaluations up to it were no better than one before."""
        best = self.best(step)
        return best > 0 and sum(best < at <= step for at in self.losses) >= self.patience
