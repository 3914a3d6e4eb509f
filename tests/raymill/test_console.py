"""What is printed can be copied and piped: ids are never cut off."""

import io
import subprocess
import sys

from rich.console import Console

from raymill import console

JOB = "train-pretrain-0123abcd-12"
ROWS = [[JOB, "succeeded", "2026-01-02 03:04:05", "a long command with many words " * 6]]
COLUMNS = ["job", "status", "started", "command"]


def test_a_table_in_a_pipe_has_one_line_for_each_row():
    code = f"from raymill import console; console.table({COLUMNS!r}, {ROWS!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split("  ") == [JOB, *(cell.strip() for cell in ROWS[0][1:3]), ROWS[0][3]]


def test_on_a_narrow_terminal_the_name_of_a_row_stays_whole(monkeypatch):
    monkeypatch.setattr(console, "_out", Console(file=io.StringIO(), width=60))
    console.table(COLUMNS, ROWS)
    printed = console._out.file.getvalue().splitlines()
    assert all(len(line) <= 60 for line in printed)
    assert printed[1].startswith(f"{JOB} ")
