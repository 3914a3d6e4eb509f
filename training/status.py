"""Where a training run is, read from its directory alone: while it runs in another shell, and afterwards."""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from core import manifest
from core.errors import UserError
from core.run import LOCK, STATE
from training import metrics, saved_steps
from training.feedback import duration

_RECENT = 20
"""Steps whose median speed stands for the speed of now: one slow step says little."""


def status(run: Path) -> list[tuple[str, str]]:
    """Rows (name, value) about a run directory of any training stage; what is not known has no row.

    Raises UserError when `run` is no run directory of a training stage.
    """
    stage, life = _stage(run), _life(run)
    found = [("state", life), ("stage", stage)]
    if stage == "train.rounds":
        number, run = _newest_round(run)
        found.append(("round", f"{number:,}" if number else "none yet"))
    return [*found, *_progress(metrics.read(run), life == "running"), *_newest_checkpoint(run)]


def _newest_round(run: Path) -> tuple[int, Path]:
    """Its number, 0 before the first, and the run directory of its training; both as raymill/rounds.py names them.

    A `folder` of the rounds' own is not known here until they are complete.
    """
    made, run = manifest.read(run), run.resolve()
    folder = Path((made and made.config["folder"]) or f"{run}-rounds")
    number = max((int(path.name.removeprefix("round-")) for path in folder.glob("round-[0-9]*")), default=0)
    return number, folder / f"round-{number}" / "dpo"


def _stage(run: Path) -> str:
    try:
        stage = json.loads((run / STATE).read_text(encoding="utf-8"))["stage"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{run}: not a run directory; name the output of a 'raymill train' stage") from None
    if not str(stage).startswith("train."):
        raise UserError(f"{run}: this run directory belongs to {stage}; name the output of a 'raymill train' stage")
    return str(stage)


def _life(run: Path) -> str:
    """A run holds the lock of its directory for as long as it lives; its manifest is the last thing it writes."""
    if _held(run / LOCK):
        return "running"
    return "complete" if manifest.read(run) is not None else "interrupted; the same command goes on from here"


def _held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _progress(rows: Sequence[Mapping[str, Any]], running: bool) -> Iterator[tuple[str, str]]:
    if not rows:
        yield "step", "none yet"
        return
    last, recent = rows[-1], rows[-_RECENT:]
    total = last["total_steps"]
    yield "step", f"{last['step']:,} of {total:,} ({last['step'] / total:.0%})"
    if last["skipped"]:
        yield "skipped steps", f"{last['skipped']:,}"
    yield "loss", "not finite" if last["loss"] is None else f"{last['loss']:.4f}"
    validated = next((row for row in reversed(rows) if row["validation_loss"] is not None), None)
    if validated is not None:
        yield "validation loss", f"{validated['validation_loss']:.4f} at step {validated['step']:,}"
    yield "learning rate", f"{last['lr']:.3g}"
    if last["grad_norm"] is not None:
        yield "gradient norm", f"{last['grad_norm']:.3g}"
    yield "tokens", f"{last['tokens']:,}"
    yield "tokens/s", f"{median(row['tokens_per_second'] for row in recent):,.0f}"
    if last["mfu"] is not None:
        yield "MFU", f"{median(row['mfu'] for row in recent):.1%}"
    if running and last["step"] < total:
        yield "ETA", duration((total - last["step"]) * median(row["step_seconds"] for row in recent))


def _newest_checkpoint(run: Path) -> Iterator[tuple[str, str]]:
    saved = saved_steps.steps(run)
    if saved:
        yield "trainer checkpoint", str(saved[-1])
    best = saved_steps.best_of(run)
    if best is not None and best != saved[-1]:
        yield "best checkpoint", str(best)
