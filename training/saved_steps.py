"""The folders `state/step-N` of a run: which there are, told without loading any of them."""

import json
import shutil
from pathlib import Path

FOLDER = "state"
CURSOR = "cursor.json"


def named(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def steps(directory: Path) -> list[Path]:
    """The trainer checkpoints of a run, oldest first."""
    return sorted((directory / FOLDER).glob("step-*"))


def best_of(directory: Path) -> Path | None:
    """The checkpoint with the lowest validation loss as of the newest one; None where none is known or kept."""
    for folder in reversed(steps(directory)):
        try:
            best = directory / FOLDER / named(json.loads((folder / CURSOR).read_text(encoding="utf-8"))["best_step"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return best if best.is_dir() else None
    return None


def clean(directory: Path) -> None:
    """Remove what an interrupted save left."""
    for left in (directory / FOLDER).glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
