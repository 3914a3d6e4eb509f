"""The folders `state/step-N` of a run: which there are, told without loading any of them."""

import shutil
from pathlib import Path

FOLDER = "state"


def steps(directory: Path) -> list[Path]:
    """The trainer checkpoints of a run, oldest first."""
    return sorted((directory / FOLDER).glob("step-*"))


def clean(directory: Path) -> None:
    """Remove what an interrupted save left."""
    for left in (directory / FOLDER).glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
