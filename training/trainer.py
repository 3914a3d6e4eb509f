"""The trainer: micro-batches, one exchange of gradients, clip, step, checkpoint. Plain torch.distributed."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from core.config import RUNTIME, StageConfig
from core.errors import RaymillError, UserError
from training import attention as attentions
from training import optimizer as optimizers
from training import precision as precisions
from training import saved_steps, state
from training.batch import Batch
from training.ema import Average
from training.feedback import Feedback
from training.layers import Checkpointing, Prepared
from training.logs import Log, Logs
from training.metrics import MetricsLog, peak_flops, peak_memory_gib
from training.model import bare, flops_per_token
from training.objectives import Objective
from training.optimizer import FlatGradient, Gradients, OptimizerConfig
from training.schedule import ScheduleConfig, factor
from training.sharding import Sharded, ShardedGradient
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
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, which is then validated and exported"
    )
    export: Literal["last", "best"] = Field("last", description="weights exported: of the last step or the best one")

    parallel: Annotated[Literal["ddp", "fsdp"], RUNTIME] = Field(
        "ddp", description="ddp: every worker holds the model; fsdp: a shard of weights, gradients and moments (FSDP2)"
    )
    activation_checkpointing: Annotated[Checkpointing, RUNTIME] = Field(
        "none", description="compute layers again in the backward pass: all of them (full), or all but their products"
    )
    compile: Annotated[bool, RUNTIME] = Field(False, description="let torch compile each layer; the first step waits")
    attention: Annotated[attentions.Kind, RUNTIME] = Field(
        "auto", description="how segments are kept apart: one by one (varlen), block mask (flex), dense mask (sdpa)"
    )
    checkpoint_every: Annotated[int, RUNTIME] = Field(50, gt=0, description="steps between trainer checkpoints")
    keep_checkpoints: Annotated[int, RUNTIME] = Field(
        2, gt=0, description="trainer checkpoints kept: the newest ones, and the best by validation loss"
    )
    logs: Annotated[list[Log], RUNTIME] = Field(
        ["tensorboard"], description="written beside metrics.jsonl: tensorboard, wandb; each where it is installed"
    )
    launcher: Annotated[Literal["ray", "torchrun", "inline"], RUNTIME] = Field(
        "ray", description="who starts the workers: Ray Train, torch's own elastic agent, or nobody (in this process)"
    )
    workers: Annotated[int, RUNTIME] = Field(2, ge=0, description="training processes; 0 trains in this process")
    threads: Annotated[int, RUNTIME] = Field(0, ge=0, description="threads per worker; 0 shares the cores evenly")
    min_workers: Annotated[int | None, RUNTIME] = Field(
        None, gt=0, description="go on with as few when workers are lost and not replaced (ray); null: with all or none"
    )
    max_failures: Annotated[int, RUNTIME] = Field(3, ge=0, description="lost workers that a run survives")

    @model_validator(mode="after")
    def _fewer_workers(self) -> "TrainConfig":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        return self


class Samples(Protocol):
    """Training data: any step's micro-batches from the number of samples consumed before it."""

    def micro_batches(self, consumed: int, count: int, rank: int, size: int) -> Iterator[tuple[int, Batch]]:
        """This rank's share of the step's micro-batches, each with its number in the step."""
        ...


Evaluate = Callable[[], dict[str, float]]


class Stopping(Protocol):
    """Ends a run before its last step. All ranks must say the same."""

    def saw(self, step: int, loss: float) -> None:
        """Take note of a held-out loss; the model has the weights that it was measured with."""
        ...

    def stops(self, step: int) -> bool:
        """Whether training ends at this step."""
        ...


_OWN_SUMS = ("loss", "weight", "tokens", "data_seconds")


def step_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of the dropout masks of one micro-batch: the same on whichever rank it runs, before and after a resume.

    Pretraining cuts a step into the same micro-batches on any number of ranks, so the masks are the same, too. Packed
    examples and rollouts are cut for the ranks at hand: there another number of them draws other masks.
    """
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
        stopping: Stopping | None = None,
    ) -> None:
        """Prepares `model` in place: its attention, its layers, and with `parallel: fsdp` its sharding."""
        self.config, self.directory, self.world = config, directory, world
        self.model, self.objective, self.samples = model, objective, samples
        self.steps = steps
        self.evaluate, self.evaluate_every, self.stopping = evaluate, evaluate_every, stopping
        self.feedback = Feedback(directory, world.is_main)
        self.precision = precisions.resolve(config.precision, config.bf16_path)
        self.flops_per_token = flops_per_token(model, length)
        self.peak_flops = peak_flops(world.device)
        self.attention = attentions.choose(bare(model), config.attention, world.device, self.precision)
        attentions.install(bare(model), self.attention[0], length)
        # One process has nothing to share out.
        self.sharded = Sharded(model) if config.parallel == "fsdp" and world.size > 1 else None
        if self.sharded is not None and not getattr(objective, "shards", False):
            raise UserError("parallel: fsdp is for pretraining and supervised fine-tuning; set parallel: ddp")
        self.prepared = Prepared(bare(model), config.activation_checkpointing, config.compile, self.precision)
        if self.sharded is not None:
            self.sharded.shard(world, self.precision)
        self.optimizer = optimizers.build(model, config.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.gradient: Gradients = ShardedGradient(trained) if self.sharded is not None else FlatGradient(trained)
        self.average = Average(model, config.ema_decay) if config.ema_decay is not None else None
        self.checkpoints = state.Checkpoints(
            directory, world, model, self.optimizer, self.average, config.keep_checkpoints
        )
        self.exported_step = 0
        """After `run`: the step whose weights the model has."""

    def run(self) -> dict[str, Any]:
        """Train to the end. Returns the last row of the log (on the main rank).

        The model is then a plain one on every rank, with the weights that the configuration exports: the last or the
        best ones, or their average.
        """
        if self.world.is_main:
            saved_steps.clean(self.directory)
        # Not before the main rank is alone here (launch.py): an older one, dying, may still rename a checkpoint into
        # place, and ranks that start from different steps never meet again.
        self.world.barrier()
        cursor = self.checkpoints.restore()
        self._say_how(cursor)
        metrics = MetricsLog(self.directory, cursor.step) if self.world.is_main else None
        row = metrics.last if metrics is not None else {}
        try:
            with Logs(self.config.logs if metrics else [], self.directory, cursor.step, self.feedback.say) as logs:
                while not self._is_over(cursor.step):
                    self.checkpoints.check()
                    cursor, row = self._step(cursor)
                    cursor, improved = self._validate(cursor, row)
                    if metrics is not None:
                        metrics.write(row)
                        logs.write(row)
                    self._show(row)
                    if improved or self._is_over(cursor.step) or cursor.step % self.config.checkpoint_every == 0:
                        self.checkpoints.save(cursor, {"step": cursor.step, "loss": row["loss"] or math.nan})
            self.checkpoints.finish()
        except BaseException:
            self.checkpoints.abandon()
            raise
        finally:
            if metrics is not None:
                metrics.close()
        self.world.barrier()
        self._finish(cursor)
        return row

    def _is_over(self, step: int) -> bool:
        return step >= self.steps or (self.stopping is not None and self.stopping.stops(step))

    def _say_how(self, cursor: state.Cursor) -> None:
        self.feedback.say(f"precision: {self.precision.name} ({self.precision.reason})")
        self.feedback.say(f"attention: {self.attention[0]} ({self.attention[1]})")
        if self.sharded is not None:
            self.feedback.say(f"sharded over {self.world.size} workers")
        if cursor.step:
            self.feedback.say(f"resumed at step {cursor.step:,} of {self.steps:,}")

    def _finish(self, cursor: state.Cursor) -> None:
        """Leave the weights to export in a plain model."""
        self.exported_step = cursor.step
        if self.config.export == "best" and cursor.best_step not in (0, cursor.step):
            best = self.checkpoints.load_best()
            if best is None:
                raise RaymillError(f"{self.directory}: the best checkpoint, step {cursor.best_step}, is gone")
            self.exported_step = best.step
        if self.average is not None:
            self.average.swap()
        self.prepared.undo()
        if self.sharded is not None:
            self.sharded.gather()

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
        losses = []
        batches = self._micro_batches(cursor)
        while (item := self._next(batches, sums)) is not None:
            number, batch, counts = item
            torch.manual_seed(step_seed(self.config.seed, cursor.step, number))
            part = self.objective(self.model, batch.to(self.world.device), self.precision)
            (part.loss if counts else part.loss * 0.0).backward()
            if not counts:
                continue
            losses.append(part.loss.detach())  # not yet a number: a GPU would have to be waited for
            sums["weight"] += part.weight
            sums["tokens"] += float((batch.segments > 0).sum())
            for name, value in part.metrics.items():
                sums[name] += value
        sums["loss"] = sum(float(loss) for loss in losses)
        sums = self._exchange(sums)
        loss, norm, applied = self._update(cursor.step, sums)
        cursor = replace(
            cursor,
            step=cursor.step + 1,
            samples=cursor.samples + self.config.batch_size,
            tokens=cursor.tokens + int(sums["tokens"]),
            skipped=cursor.skipped + (not applied),
        )
        if applied and self.average is not None:
            self.average.update(cursor.step)
        if cursor.skipped > self.config.max_skipped:
            raise RaymillError(
                f"{cursor.skipped} steps had a loss or gradient that is not finite (max_skipped: "
                f"{self.config.max_skipped}), the last one step {cursor.step}; lower optimizer.learning_rate"
            )
        return cursor, self._row(cursor, sums, loss, norm, time.perf_counter() - began)

    def _micro_batches(self, cursor: state.Cursor) -> Iterator[tuple[int, Batch, bool]]:
        """This rank's micro-batches of a step, each with its number and whether it counts.

        A sharded model is computed by all ranks together: those with fewer micro-batches than others repeat one, with
        a gradient of zero.
        """
        world, size = self.world, self.config.batch_size
        mine = self.samples.micro_batches(cursor.samples, size, world.rank, world.size)
        if self.sharded is None:
            yield from ((number, batch, True) for number, batch in mine)
            return
        batches = list(mine)
        most = max(world.gather(len(batches)))
        yield from ((number, batch, True) for number, batch in batches)
        if len(batches) < most:
            number, batch = (batches or [next(iter(self.samples.micro_batches(cursor.samples, size, 0, 1)))])[0]
            yield from itertools.repeat((number, batch, False), most - len(batches))

    @staticmethod
    def _next(batches: Iterator[tuple[int, Batch, bool]], sums: dict[str, float]) -> tuple[int, Batch, bool] | None:
        began = time.perf_counter()
        item = next(batches, None)
        sums["data_seconds"] += time.perf_counter() - began
        return item

    def _exchange(self, sums: dict[str, float]) -> dict[str, float]:
        """Add up gradients and sums over all ranks. A rank without a micro-batch in this step brings zeros."""
        if self.world.size == 1:
            return sums
        self.gradient.exchange(self.world)
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

    def _validate(self, cursor: state.Cursor, row: dict[str, Any]) -> tuple[state.Cursor, bool]:
        """Evaluate when it is time, into the row. Returns the cursor and whether no loss before was as low."""
        due = cursor.step == self.steps or (self.evaluate_every and cursor.step % self.evaluate_every == 0)
        if self.evaluate is None or not due:
            return cursor, False
        began = time.perf_counter()
        self.model.eval()
        with self.average.in_place() if self.average is not None else nullcontext():
            row |= self.evaluate()
            loss = row["validation_loss"]
            if self.sharded is not None:
                self.sharded.reshard()
            if self.stopping is not None and loss is not None:
                self.stopping.saw(cursor.step, loss)
        row["validation_seconds"] = round(time.perf_counter() - began, 3)
        if loss is None or not math.isfinite(loss) or (cursor.best_loss is not None and loss >= cursor.best_loss):
            return cursor, False
        return replace(cursor, best_step=cursor.step, best_loss=loss), True

    def _show(self, row: dict[str, Any]) -> None:
        facts = {"loss": row["loss"], "lr": row["lr"], "grad norm": row["grad_norm"]}
        facts["tokens/s"] = round(row["tokens_per_second"])
        if row["mfu"] is not None:
            facts["MFU"] = f"{row['mfu']:.1%}"
        if row["validation_loss"] is not None:
            facts["validation loss"] = row["validation_loss"]
        self.feedback.update("train", row["step"], self.steps, "steps", **facts)
