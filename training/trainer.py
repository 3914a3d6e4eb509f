"""The trainer: micro-batches, one all-reduce, clip, step, checkpoint. Plain torch.distributed, any objective."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import nn

from core.config import RUNTIME, StageConfig
from core.errors import RaymillError
from training import optimizer as optimizers
from training import precision as precisions
from training import saved_steps, state
from training.batch import Batch
from training.early_stopping import EarlyStopping
from training.feedback import Feedback
from training.metrics import MetricsLog, peak_flops, peak_memory_gib
from training.model import flops_per_token
from training.objectives import Objective
from training.optimizer import FlatGradient, OptimizerConfig
from training.schedule import ScheduleConfig, factor
from training.world import World


class TrainConfig(StageConfig):
    """What every training stage has."""

    batch_size: int = Field(32, gt=0, description="samples (sequences, conversations or pairs) per optimizer step")
    micro_batch: int = Field(8, gt=0, description="rows of packed samples that go through the model at once")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="warmup, stable, cosine decay")
    clip_norm: float = Field(1.0, gt=0, description="largest global gradient norm; larger ones are scaled to it")
    precision: precisions.Name = Field("bf16", description="compute in BF16 with FP32 master weights, or all in FP32")
    bf16_path: precisions.Path = Field("auto", description="BF16 units, emulation in FP32, or what there is")
    max_skipped: int = Field(10, ge=0, description="steps skipped for a non-finite loss or gradient, at most")

    checkpoint_every: Annotated[int, RUNTIME] = Field(50, gt=0, description="steps between trainer checkpoints")
    keep_checkpoints: Annotated[int, RUNTIME] = Field(2, gt=0, description="trainer checkpoints kept, the newest ones")
    launcher: Annotated[Literal["ray", "torchrun", "inline"], RUNTIME] = Field(
        "ray", description="who starts the workers: Ray Train, torch's own elastic agent, or nobody (in this process)"
    )
    workers: Annotated[int, RUNTIME] = Field(2, ge=0, description="training processes; 0 trains in this process")
    threads: Annotated[int, RUNTIME] = Field(0, ge=0, description="threads per worker; 0 shares the cores evenly")
    max_failures: Annotated[int, RUNTIME] = Field(3, ge=0, description="lost workers that a run survives")


class Samples(Protocol):
    """Training data: any step's micro-batches from the number of samples consumed before it."""

    def micro_batches(self, consumed: int, count: int, rank: int, size: int) -> Iterator[tuple[int, Batch]]:
        """This rank's share of the step's micro-batches, each with its number in the step."""
        ...


Evaluate = Callable[[], dict[str, float]]

_OWN_SUMS = ("loss", "weight", "tokens", "data_seconds")


def step_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of the dropout masks of one micro-batch: the same on whichever rank it runs, before and after a resume."""
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Trainer:
    """Runs `steps` optimizer steps of an objective, resuming from the run directory's newest trainer checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        world: World,
        model: nn.Module,
        objective: Objective,
        samples: Samples,
        *,
        length: int,
        steps: int,
        evaluate: Evaluate | None = None,
        evaluate_every: int = 0,
        stopping: EarlyStopping | None = None,
    ) -> None:
        self.config, self.directory, self.world = config, directory, world
        self.model, self.objective, self.samples = model, objective, samples
        self.steps = steps
        self.evaluate, self.evaluate_every, self.stopping = evaluate, evaluate_every, stopping
        self.precision = precisions.resolve(config.precision, config.bf16_path)
        self.optimizer = optimizers.build(model, config.optimizer)
        self.gradient = FlatGradient(p for group in self.optimizer.param_groups for p in group["params"])
        self.flops_per_token = flops_per_token(model, length)
        self.peak_flops = peak_flops(world.device)
        self.feedback = Feedback(directory, world.is_main)

    def run(self) -> dict[str, Any]:
        """Train to the end. Returns the last row of the log (on the main rank)."""
        if self.world.is_main:
            saved_steps.clean(self.directory)
        # Not before the main rank is alone here (launch.py): an older one, dying, may still rename a checkpoint into
        # place, and ranks that start from different steps never meet again.
        self.world.barrier()
        cursor = state.restore(self.directory, self.model, self.optimizer)
        metrics = MetricsLog(self.directory, cursor.step) if self.world.is_main else None
        self.feedback.say(f"precision: {self.precision.name} ({self.precision.reason})")
        if cursor.step:
            self.feedback.say(f"resumed at step {cursor.step:,} of {self.steps:,}")
        row = metrics.last if metrics is not None else {}
        stopped = self.stopping is not None and self.stopping.stops(cursor.step)
        while cursor.step < self.steps and not stopped:
            cursor, row = self._step(cursor)
            last = cursor.step == self.steps
            if self.evaluate is not None and (last or (self.evaluate_every and cursor.step % self.evaluate_every == 0)):
                row |= self._evaluated()
                if self.stopping is not None:
                    self.stopping.saw(cursor.step, row["validation_loss"])
                    stopped = self.stopping.stops(cursor.step)
            if metrics is not None:
                metrics.write(row)
            self._show(row)
            if last or stopped or cursor.step % self.config.checkpoint_every == 0:
                self._checkpoint(cursor, row)
        if metrics is not None:
            metrics.close()
        return row

    # --- one step -------------------------------------------------------------------------------------------------

    def _step(self, cursor: state.Cursor) -> tuple[state.Cursor, dict[str, Any]]:
        """One optimizer step.

        The loss of a step is the sum of the losses of all tokens (or pairs) in all micro-batches of all ranks divided
        by their number: L = sum_i l_i / N. Its gradient is sum_i dl_i / N, so every micro-batch adds the gradient of
        its plain sum, the ranks add theirs, and one division by the global N follows. Averaging micro-batch means
        instead would weigh a token by 1 / (tokens of its micro-batch), which is wrong whenever they differ
        (transformers#35203, trl#4719).
        """
        began = time.perf_counter()
        self.model.train()
        self.gradient.zero()
        sums = dict.fromkeys([*_OWN_SUMS, *self.objective.metrics], 0.0)
        batches = self.samples.micro_batches(cursor.samples, self.config.batch_size, self.world.rank, self.world.size)
        while (item := self._next(batches, sums)) is not None:
            number, batch = item
            torch.manual_seed(step_seed(self.config.seed, cursor.step, number))
            part = self.objective(self.model, batch.to(self.world.device), self.precision)
            part.loss.backward()
            sums["loss"] += float(part.loss.detach())
            sums["weight"] += part.weight
            sums["tokens"] += float((batch.segments > 0).sum())
            for name, value in part.metrics.items():
                sums[name] += value
        sums = self._exchange(sums)
        loss, norm, applied = self._update(cursor.step, sums)
        cursor = state.Cursor(
            step=cursor.step + 1,
            samples=cursor.samples + self.config.batch_size,
            tokens=cursor.tokens + int(sums["tokens"]),
            skipped=cursor.skipped + (not applied),
        )
        if cursor.skipped > self.config.max_skipped:
            raise RaymillError(
                f"{cursor.skipped} steps had a loss or gradient that is not finite (max_skipped: "
                f"{self.config.max_skipped}), the last one step {cursor.step}; lower optimizer.learning_rate"
            )
        return cursor, self._row(cursor, sums, loss, norm, time.perf_counter() - began)

    @staticmethod
    def _next(batches: Iterator[tuple[int, Batch]], sums: dict[str, float]) -> tuple[int, Batch] | None:
        began = time.perf_counter()
        item = next(batches, None)
        sums["data_seconds"] += time.perf_counter() - began
        return item

    def _exchange(self, sums: dict[str, float]) -> dict[str, float]:
        """Add up gradients and sums over all ranks. A rank without a micro-batch in this step brings zeros."""
        if self.world.size == 1:
            return sums
        self.world.sum_(self.gradient.vector)
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.world.device)
        return dict(zip(sums, self.world.sum_(values).tolist(), strict=True))

    def _update(self, step: int, sums: dict[str, float]) -> tuple[float, float, bool]:
        """Normalise, clip, step. Returns (loss, gradient norm before clipping, whether the step was taken)."""
        weight = max(sums["weight"], 1.0)
        loss = sums["loss"] / weight
        norm = float(self.gradient.norm()) / weight
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return loss, norm, False
        self.gradient.scale(min(1.0, self.config.clip_norm / (norm + 1e-6)) / weight)
        rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss, norm, True

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.config.optimizer.learning_rate * factor(step, self.steps, self.config.schedule)

    # --- around it ------------------------------------------------------------------------------------------------

    def _row(
        self, cursor: state.Cursor, sums: dict[str, float], loss: float, norm: float, seconds: float
    ) -> dict[str, Any]:
        speed = sums["tokens"] / seconds
        flops = speed * self.flops_per_token / self.world.size
        return {
            "step": cursor.step,
            "total_steps": self.steps,
            "samples": cursor.samples,
            "tokens": cursor.tokens,
            "loss": loss if math.isfinite(loss) else None,
            "lr": self.rate(cursor.step - 1),
            "grad_norm": norm if math.isfinite(norm) else None,
            "step_seconds": round(seconds, 4),
            "data_seconds": round(sums["data_seconds"] / self.world.size, 5),
            "tokens_per_second": round(speed, 1),
            "mfu": round(flops / self.peak_flops, 4) if self.peak_flops else None,
            "memory_gib": peak_memory_gib(self.world.device),
            "skipped": cursor.skipped,
            "validation_loss": None,
            **{name: value / max(sums["weight"], 1.0) for name, value in sums.items() if name not in _OWN_SUMS},
        }

    def _evaluated(self) -> dict[str, float]:
        assert self.evaluate is not None
        began = time.perf_counter()
        self.model.eval()
        found = self.evaluate()
        return {**found, "validation_seconds": round(time.perf_counter() - began, 3)}

    def _show(self, row: dict[str, Any]) -> None:
        facts = {"loss": row["loss"], "lr": row["lr"], "tokens/s": round(row["tokens_per_second"])}
        if row["validation_loss"] is not None:
            facts["validation loss"] = row["validation_loss"]
        self.feedback.update("train", row["step"], self.steps, "steps", **facts)

    def _checkpoint(self, cursor: state.Cursor, row: dict[str, Any]) -> None:
        if self.world.is_main:
            state.save(self.directory, cursor, self.model, self.optimizer, self.config.keep_checkpoints)
        self.world.barrier()
        self.world.checkpointed(cursor.step, {"step": cursor.step, "loss": row["loss"] or math.nan})
