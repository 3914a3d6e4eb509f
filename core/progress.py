"""Progress of long work: a live bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

_LINE_EVERY_SECONDS = 10.0
_FIRST_LINE_AFTER_SECONDS = 3.0


class Progress:
    """Context manager. `advance(n, loss=1.2)` moves on and shows the facts; total None: the end is unknown."""

    def __init__(self, log: logging.Logger, description: str, total: float | None = None, unit: str = "") -> None:
        self.log = log
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.facts: dict[str, Any] = {}
        self._bar: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None
        self._began = self._last_line = 0.0

    def __enter__(self) -> "Progress":
        self._began = time.monotonic()
        self._last_line = self._began - _LINE_EVERY_SECONDS + _FIRST_LINE_AFTER_SECONDS
        if sys.stderr.isatty():
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[facts]}"),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, facts="")
        return self

    def advance(self, amount: float = 1, **facts: Any) -> None:
        """Move on by `amount`; `facts` replace those shown."""
        self.update(self.done + amount, **facts)

    def update(self, done: float, **facts: Any) -> None:
        """Set how much is done; `facts` replace those shown."""
        self.done = done
        self.facts.update(facts)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, facts=self._facts())
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self.log.info("%s", self._line())

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            self.log.info("%s, %.1f s", self._line(), time.monotonic() - self._began)

    def _line(self) -> str:
        of = f" of {self.total:,.0f}" if self.total is not None else ""
        unit = f" {self.unit}" if self.unit else ""
        facts = f", {self._facts()}" if self.facts else ""
        return f"{self.description}: {self.done:,.0f}{of}{unit}{facts}"

    def _facts(self) -> str:
        return ", ".join(f"{key.replace('_', ' ')} {_show(value)}" for key, value in self.facts.items())


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
