"""Rows of a data file that a task reads: Parquet or JSON lines, checked for the columns the task needs."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core import storage
from core.errors import UserError


def read_rows(path: str, columns: Sequence[str], limit: int | None = None) -> list[dict[str, Any]]:
    """Rows of every Parquet or JSON-lines file that `path` names, in order.

    Raises UserError when nothing is there, a file is of another kind, a column is missing, or there is no row.
    """
    files = [name for name in storage.list_files(path) if name.endswith((".parquet", ".jsonl"))]
    if not files:
        raise UserError(f"{path}: holds no .parquet and no .jsonl file")
    rows: list[dict[str, Any]] = []
    for name in files:
        found = _parquet(name) if name.endswith(".parquet") else _json_lines(name)
        missing = [column for column in columns if found and column not in found[0]]
        if missing:
            raise UserError(f"{name}: has no column {missing[0]}; this task needs {', '.join(columns)}")
        rows += found
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        raise UserError(f"{path}: holds no rows, so there is nothing to evaluate on")
    return rows[:limit]


def _parquet(path: str) -> list[dict[str, Any]]:
    try:
        with storage.open_read(path) as file:
            return list(pq.read_table(file).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from None


def _json_lines(path: str) -> list[dict[str, Any]]:
    rows = []
    with storage.open_read(path) as file:
        # Lines end at \n alone: str.splitlines would also cut at U+2028 inside a string.
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}: line {number} is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number} is no JSON object")
            rows.append(row)
    return rows
