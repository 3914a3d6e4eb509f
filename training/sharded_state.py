"""Sharded trainer checkpoints through torch.distributed.checkpoint: each rank writes and reads its own shards."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

ERRORS = (CheckpointException,)
"""What reading a damaged checkpoint raises, beside OSError and ValueError."""


def group() -> Any:
    """A process group of its own for the threads that write, so that they do not meet the training's collectives."""
    return dist.new_group(backend="gloo")


def flat(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One level of names, kind/name."""
    return {f"{kind}/{name}": tensor for kind, found in tensors.items() for name, tensor in found.items()}


def save(tensors: Mapping[str, Tensor], folder: Path, process_group: Any) -> Callable[[], None]:
    """Copy this rank's shards and begin to write them; what is returned waits for all ranks. Collective."""
    # What lies on the CPU is taken by torch as it is, and would change while it is being written.
    staged = {name: t.clone() if t.device.type == "cpu" else t for name, t in tensors.items()}
    writer = FileSystemWriter(folder, sync_files=True)
    future: Any = state_dict_saver.async_save(staged, storage_writer=writer, process_group=process_group)

    def wait() -> None:
        future.result()

    return wait


def load(
    folder: Path, parameters: Mapping[str, Tensor], averages: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Kind -> name -> tensor, sharded as `parameters` are. Collective where processes train together."""
    known = FileSystemReader(folder).read_metadata().state_dict_metadata
    wanted: dict[str, Tensor] = {}
    for key, entry in known.items():
        kind, _, name = key.partition("/")
        like = {"model": parameters, "average": averages}.get(kind, {}).get(name)
        if kind == "optimizer":
            like = parameters.get(name.rpartition(":")[0])
        if like is None or not isinstance(entry, TensorStorageMetadata):
            continue
        if like.shape == entry.size:
            wanted[key] = torch.zeros_like(like, dtype=entry.properties.dtype)
        else:  # a step counter
            wanted[key] = torch.zeros(entry.size, dtype=entry.properties.dtype)
    together = dist.is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to")
        state_dict_loader.load(wanted, checkpoint_id=folder, no_dist=not together)
    found: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
    for key, tensor in wanted.items():
        kind, _, name = key.partition("/")
        found[kind][name] = tensor
    return found
