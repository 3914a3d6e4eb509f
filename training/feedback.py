"""From the workers to the driver: which phase they are in, how far it is, and lines for the log.

Workers may run in other processes or on other machines; a scratch file in the run directory is all they share.
"""

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from core.progress import Progress
from core.run import Run

_FILE = ".feedback.jsonl"
_POLL_SECONDS = 0.5


class Feedback:
    """The workers' end. Only the main rank writes."""

    def __init__(self, directory: Path, active: bool) -> None:
        self._path = directory / _FILE
        self._active = active
        self._began: dict[str, tuple[float, float]] = {}

    def update(self, phase: str, done: float, total: float, unit: str = "", **facts: Any) -> None:
        """Say how far `phase` is."""
        now = time.monotonic()
        began, first = self._began.setdefault(phase, (now, done))
        if done > first:
            facts["ETA"] = duration((now - began) / (done - first) * (total - done))
        self._write({"phase": phase, "done": done, "total": total, "unit": unit, "facts": facts})

    def say(self, line: str) -> None:
        """A line for the driver's log."""
        self._write({"say": line})

    def _write(self, message: dict[str, Any]) -> None:
        if self._active:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(message) + "\n")


def duration(seconds: float) -> str:
    """As minutes and seconds, 75 s as 1:15; from an hour on with hours, as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Follower:
    """The driver's end: a thread that shows what the workers write, for as long as the context is open."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._path = run.path(_FILE)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Follower":
        self._path.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _follow(self) -> None:
        shown = _Shown(self._run)
        offset = 0
        while True:
            last = self._stop.is_set()
            offset = self._read(offset, shown)
            if last:
                break
            self._stop.wait(_POLL_SECONDS)
        shown.close()

    def _read(self, offset: int, shown: "_Shown") -> int:
        if not self._path.exists():
            return offset
        with self._path.open("rb") as file:
            file.seek(offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        for line in whole.splitlines():
            shown.take(json.loads(line))
        return offset + len(whole) + len(newline)


class _Shown:
    """One progress display at a time; a new phase ends the one before."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._phase = ""
        self._stack = ExitStack()
        self._progress: Progress | None = None

    def take(self, message: dict[str, Any]) -> None:
        if "say" in message:
            self._run.log.info("%s", message["say"])
            return
        if message["phase"] != self._phase:
            self.close()
            self._phase = message["phase"]
            progress = self._run.progress(self._phase, message["total"], message["unit"])
            self._progress = self._stack.enter_context(progress)
        assert self._progress is not None
        self._progress.update(message["done"], **message["facts"])

    def close(self) -> None:
        self._stack.close()
        self._phase = ""
