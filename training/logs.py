"""Rows of the training log for other viewers: TensorBoard, Weights & Biases."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from core.run import STATE

Log = Literal["tensorboard", "wandb"]
TENSORBOARD = "tensorboard"
_AXES = ("step", "total_steps")


class _Viewer(Protocol):
    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Logs:
    """A context in which every row also goes to the viewers named. One that is not installed is named in the log."""

    def __init__(self, names: Sequence[Log], directory: Path, resumed_step: int, say: Callable[[str], None]) -> None:
        """`resumed_step`: what a viewer has of later steps is replaced."""
        self._viewers: list[_Viewer] = []
        for name in names:
            if importlib.util.find_spec(name) is None:
                say(f"logs: {name} is not installed; only metrics.jsonl is written in its place")
            else:
                self._viewers.append(_VIEWERS[name](directory, resumed_step))

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *_: object) -> None:
        for viewer in self._viewers:
            viewer.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """One row; what is not known or not finite is left out."""
        numbers = {
            name: float(value)
            for name, value in row.items()
            if name not in _AXES and isinstance(value, int | float) and not isinstance(value, bool)
        }
        for viewer in self._viewers:
            viewer.write(row["step"], numbers)


class _TensorBoard:
    """Event files in `tensorboard/`: `tensorboard --logdir RUNS` shows all runs below a folder."""

    def __init__(self, directory: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = resumed_step + 1 if resumed_step else None
        self._writer = SummaryWriter(directory / TENSORBOARD, purge_step=purge)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of the project `raymill`, named after the run directory; `WANDB_MODE=offline` keeps it on this machine.

    A resume goes on with it; another configuration in the same directory is another run.
    """

    def __init__(self, directory: Path, resumed_step: int) -> None:
        import wandb

        from core.storage import digest_bytes

        state = directory / STATE
        work = state.read_bytes() if state.is_file() else b""
        identity = digest_bytes([str(directory.resolve()).encode(), work])[:16]
        scratch = directory / ".wandb"  # its own copies are no part of the artifact
        scratch.mkdir(exist_ok=True)
        self._run = wandb.init(project="raymill", name=directory.name, id=identity, dir=scratch, resume="allow")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


_VIEWERS: Mapping[Log, Callable[[Path, int], _Viewer]] = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases}
