"""Trainer checkpoints `state/step-N/`: all that an exact resume needs, complete or absent, written on the side."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import RaymillError
from training import sharded_state
from training.ema import Average
from training.optimizer import Optimizer
from training.saved_steps import CURSOR, FOLDER, best_of, named, steps
from training.sharding import is_sharded, spread
from training.world import World

_MODEL, _OPTIMIZER, _AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"
log = logging.getLogger("raymill.train")

Tensors = dict[str, dict[str, Tensor]]
"""Kind (model, optimizer, average) -> name -> tensor; moments are named parameter:key."""


@dataclass(frozen=True)
class Cursor:
    """Where a run is. Randomness needs no state: dropout is seeded by (seed, step, micro-batch)."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    skipped: int = 0
    best_step: int = 0
    """Step of the lowest validation loss so far, 0 before the first one."""
    best_loss: float | None = None


class Checkpoints:
    """The trainer checkpoints of one run: `save` copies and returns, a thread writes.

    Replicated weights are written by the main rank as safetensors, sharded ones by every rank through
    torch.distributed.checkpoint. Either is read into the other, and on any number of ranks.
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        model: nn.Module,
        optimizer: Optimizer,
        average: Average | None,
        keep: int,
    ) -> None:
        self.directory, self.world, self.keep = directory, world, keep
        self.model, self.optimizer, self.average = model, optimizer, average
        self._group = sharded_state.group() if is_sharded(model) else None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._reported: tuple[int, dict[str, float]] | None = None

    # --- write --------------------------------------------------------------------------------------------------------

    def save(self, cursor: Cursor, facts: Mapping[str, float]) -> None:
        """Copy the state and write it as `state/step-N` while training goes on. Collective.

        The folder is written under a hidden name, flushed to disk and renamed: a reader finds a whole one or none. All
        but the newest `keep` and the best one are then removed. Raises RaymillError when the one before was not
        written.
        """
        self.finish()
        self._reported = (cursor.step, dict(facts))
        folder = self.directory / FOLDER
        temporary = folder / f".{named(cursor.step)}"
        if self._group is not None:
            temporary.mkdir(parents=True, exist_ok=True)
            self.world.barrier()
            write = sharded_state.save(sharded_state.flat(self._tensors()), temporary, self._group)
        elif self.world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write = _replicated(_copied(self._tensors()), temporary)
        else:
            return
        self._thread = threading.Thread(target=self._run, args=(write, temporary, cursor), daemon=True)
        self._thread.start()

    def _run(self, write: Callable[[], None], temporary: Path, cursor: Cursor) -> None:
        try:
            write()
            if self.world.is_main:
                self._publish(temporary, cursor)
        except BaseException as error:  # noqa: BLE001  # raised by the thread that trains, at its next step
            self._error = error

    def _publish(self, temporary: Path, cursor: Cursor) -> None:
        (temporary / CURSOR).write_text(json.dumps(asdict(cursor)) + "\n", encoding="utf-8")
        for file in temporary.iterdir():
            _flush(file)
        target = temporary.with_name(named(cursor.step))
        if target.exists():  # the same work, done before an interruption
            shutil.rmtree(target)
        temporary.rename(target)
        _flush(target.parent)
        for old in steps(self.directory)[: -self.keep]:
            if old.name != named(cursor.best_step):
                shutil.rmtree(old)

    def check(self) -> None:
        """Raise RaymillError when a write that was under way has failed."""
        if self._error is not None:
            error, self._error = self._error, None
            raise RaymillError(
                f"{self.directory / FOLDER}: the trainer checkpoint could not be written ({error}); make room, then "
                "the same command goes on from the newest one"
            ) from error

    def finish(self) -> None:
        """Wait until what was saved is on disk, and tell the launcher so. Raises RaymillError when it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
        if self._reported is not None:
            (step, facts), self._reported = self._reported, None
            self.world.checkpointed(step, facts)

    def abandon(self) -> None:
        """Wait for the write under way, whatever becomes of it: the run has failed already."""
        if self._thread is not None and self._group is None:
            self._thread.join()

    # --- read ---------------------------------------------------------------------------------------------------------

    def restore(self) -> Cursor:
        """Load the newest readable checkpoint; a fresh cursor when there is none. Collective."""
        for folder in reversed(steps(self.directory)):
            try:
                return self.load(folder)
            except (OSError, ValueError, TypeError, KeyError, SafetensorError, *sharded_state.ERRORS) as error:
                log.warning("%s is not readable (%s); trying an older one", folder, error)
        return Cursor()

    def load_best(self) -> Cursor | None:
        """Load the checkpoint with the lowest validation loss, if one is kept. Collective."""
        folder = best_of(self.directory)
        return None if folder is None else self.load(folder)

    @torch.no_grad()
    def load(self, folder: Path) -> Cursor:
        """Load one checkpoint into model, optimizer and average."""
        cursor = Cursor(**json.loads((folder / CURSOR).read_text(encoding="utf-8")))
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        averages = self.average.state if self.average is not None else {}
        if (folder / _MODEL).is_file():
            found = {
                "model": load_file(folder / _MODEL),
                "optimizer": load_file(folder / _OPTIMIZER),
                "average": load_file(folder / _AVERAGE) if averages else {},
            }
        else:
            found = sharded_state.load(folder, parameters, averages)
        if found["model"].keys() != parameters.keys() or found["average"].keys() != averages.keys():
            raise ValueError("it holds other parameters than this run trains")
        for name, parameter in parameters.items():
            parameter.copy_(spread(found["model"][name], parameter))
            prefix = f"{name}:"
            moments = {k.removeprefix(prefix): v for k, v in found["optimizer"].items() if k.startswith(prefix)}
            if moments:
                # The fused update wants moments and step counter where the parameter is.
                self.optimizer.state[parameter] = {k: spread(v, parameter) for k, v in moments.items()}
        for name, average in averages.items():
            average.copy_(spread(found["average"][name], average))
        return cursor

    def _tensors(self) -> Tensors:
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        moments = {
            f"{name}:{key}": value
            for name, parameter in trained.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        averages = self.average.state if self.average is not None else {}
        return {"model": {n: p.detach() for n, p in trained.items()}, "optimizer": moments, "average": averages}


def _copied(tensors: Tensors) -> Tensors:
    return {
        kind: {name: tensor.to("cpu", copy=True) for name, tensor in found.items()} for kind, found in tensors.items()
    }


def _replicated(tensors: Tensors, folder: Path) -> Callable[[], None]:
    def write() -> None:
        save_file(tensors["model"], folder / _MODEL)
        save_file(tensors["optimizer"], folder / _OPTIMIZER)
        if tensors["average"]:
            save_file(tensors["average"], folder / _AVERAGE)

    return write


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
