"""Trainer checkpoints `state/step-N/`: all that an exact resume needs, complete or absent."""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.optimizer import Optimizer
from training.saved_steps import FOLDER, steps

_MODEL, _OPTIMIZER, _CURSOR = "model.safetensors", "optimizer.safetensors", "cursor.json"
log = logging.getLogger("raymill.train")


@dataclass(frozen=True)
class Cursor:
    """Where a run is. Randomness needs no state: dropout is seeded by (seed, step, micro-batch)."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    skipped: int = 0


def save(directory: Path, cursor: Cursor, model: nn.Module, optimizer: Optimizer, keep: int) -> Path:
    """Write `state/step-N` and remove all but the newest `keep`. Called on one rank, all of which hold the same.

    The folder is written under a hidden name, flushed to disk and renamed: a reader finds a whole one or none.
    """
    folder = directory / FOLDER
    target = folder / f"step-{cursor.step:08d}"
    temporary = folder / f".{target.name}.{uuid4().hex}"
    temporary.mkdir(parents=True)
    trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, temporary / _MODEL)
    save_file(_moments(model, optimizer), temporary / _OPTIMIZER)
    (temporary / _CURSOR).write_text(json.dumps(asdict(cursor)) + "\n", encoding="utf-8")
    for file in temporary.iterdir():
        _flush(file)
    if target.exists():  # the same work, done before an interruption
        shutil.rmtree(target)
    temporary.rename(target)
    _flush(folder)
    for old in steps(directory)[:-keep]:
        shutil.rmtree(old)
    return target


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _moments(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}:{key}": value.detach().cpu()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore(directory: Path, model: nn.Module, optimizer: Optimizer) -> Cursor:
    """Load the newest readable checkpoint into model and optimizer; a fresh cursor when there is none."""
    for folder in reversed(steps(directory)):
        try:
            weights = load_file(folder / _MODEL)
            moments = load_file(folder / _OPTIMIZER)
            cursor = Cursor(**json.loads((folder / _CURSOR).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            log.warning("%s is not readable (%s); trying an older one", folder, error)
            continue
        _load(model, optimizer, weights, moments)
        return cursor
    return Cursor()


@torch.no_grad()
def _load(model: nn.Module, optimizer: Optimizer, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.copy_(weights[name])
        prefix = f"{name}:"
        state = {key.removeprefix(prefix): value for key, value in moments.items() if key.startswith(prefix)}
        if state:
            # The fused update wants moments and step counter where the parameter is.
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
