"""Learning-rate schedule: linear warmup, stable, decay, as one pure function of the step."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field, model_validator

from core.config import Config


class ScheduleConfig(Config):
    """Warmup -> stable -> decay (WSD; Hu et al. 2024, arXiv:2404.06395), shares of the run's steps.

    Without a stable part (warmup 0.05, decay 0.95) it is the cosine or the linear schedule, with decay 0 the constant
    one.
    """

    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps that raise the rate linearly from zero")
    decay: float = Field(0.2, ge=0, le=1, description="share of the steps, at the end, that lower it")
    decay_shape: Literal["cosine", "linear", "sqrt"] = Field(
        "cosine", description="how it falls: half a cosine, a line, or 1 - sqrt (Haegele et al. 2024, arXiv:2405.18392)"
    )
    minimum: float = Field(0.0, ge=0, le=1, description="rate at the end, as a share of the peak")

    @model_validator(mode="after")
    def _fits(self) -> "ScheduleConfig":
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup and decay are shares of one run, together at most 1, not {self.warmup + self.decay}"
            )
        return self


def factor(step: int, steps: int, config: ScheduleConfig) -> float:
    """Share of the peak rate used by step `step` (0 .. steps - 1) of a run of `steps`.

    With w warmup and d decay steps: (s + 1) / w for s < w; 1 until steps - d; then m + (1 - m) f(u) with
    u = (s - (steps - d) + 1) / (d + 1), so that no step is spent at rate zero when m = 0, and no step of the decay
    repeats the stable rate. f(u) is (1 + cos(pi u)) / 2, 1 - u or 1 - sqrt(u).
    """
    warmup = round(config.warmup * steps)
    decay = round(config.decay * steps)
    if step < warmup:
        return (step + 1) / warmup
    begin = steps - decay
    if step < begin:
        return 1.0
    done = min(1.0, (step - begin + 1) / (decay + 1))
    return config.minimum + (1 - config.minimum) * _SHAPES[config.decay_shape](done)


_SHAPES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "linear": lambda u: 1 - u,
    "sqrt": lambda u: 1 - math.sqrt(u),
}
