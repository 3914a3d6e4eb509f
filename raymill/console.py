"""What the command line prints: log lines, tables, one-line errors."""

import logging
import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

_UNLIMITED = 10_000
# What is no terminal has no width: a table in a pipe or a log keeps its ids and paths whole.
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _UNLIMITED)
_NOISY = ("httpx", "httpx2", "httpcore", "ray", "urllib3", "filelock", "matplotlib", "numba", "trafilatura", "openai")


class _Line(logging.Formatter):
    """`12:31:07 data.build  message`."""

    def format(self, record: logging.LogRecord) -> str:
        stage = record.name.removeprefix("raymill").removeprefix(".")
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {stage:<14} {level}{record.getMessage()}"


def start_logging(debug: bool = False) -> None:
    """Raymill's log to standard error; other libraries only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    ours = logging.getLogger("raymill")
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(logging.DEBUG if debug else logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A plain table on standard output; on a narrow terminal the first column, which names the row, stays whole."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    name, *others = columns
    shown.add_column(name, min_width=max((cell_len(row[0]) for row in rows), default=0))
    for column in others:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*row)
    _out.print(shown)


def say(text: str = "") -> None:
    """One line on standard output."""
    _out.print(text, markup=False)


def complain(text: str) -> None:
    """One line on standard error."""
    print(f"raymill: {text}", file=sys.stderr)
