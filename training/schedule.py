"""Learning-rate schedule: linear warmup, stable, cosine decay, as one pure function of the step."""

import math

from pydantic import Field, model_validator

from core.config import Config


class ScheduleConfig(Config):
    """Warmup -> stable -> decay (WSD; Hu et al. 2024, arXiv:2404.06395), shares of the run's steps."""

    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps that raise the rate linearly from zero")
    decay: float = Field(0.2, ge=0, le=1, description="share of the steps, at the end, that lower it by half a cosine")
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

    With w warmup and d decay steps: (s + 1) / w for s < w; 1 until steps - d; then
    m + (1 - m) (1 + cos(pi u)) / 2 with u = (s - (steps - d) + 1) / (d + 1), so that no step is spent at rate zero
    when m = 0, and no step of the decay repeats the stable rate.
    """
    warmup = round(config.warmup * steps)
    decay = round(config.decay * steps)
    if step < warmup:
        return (step + 1) / warmup
    begin = steps - decay
    if step < begin:
        return 1.0
    done = min(1.0, (step - begin + 1) / (decay + 1))
    return config.minimum + (1 - config.minimum) * (1 + math.cos(math.pi * done)) / 2
