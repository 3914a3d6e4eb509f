"""Rows of a data file: Parquet, JSON lines, or one JSON list; compressed ones by their ending."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from core import storage
from core.errors import UserError

_ENDINGS = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")


def read_rows(path: str, columns: Sequence[str] = (), limit: int | None = None) -> list[dict[str, Any]]:
    """Rows of every data file that `path` names, in order.

    Raises UserError when nothing is there, a file is of another kind, a column is missing, or there is no row.
    """
    files = [name for name in storage.list_files(path) if name.endswith(_ENDINGS)]
    if not files:
        raise UserError(f"{path}: holds no file that ends with {', '.join(_ENDINGS)}")
    rows: list[dict[str, Any]] = []
    for name in files:
        found = _parquet(name) if name.endswith(".parquet") else list(_json(name))
        missing = [column for column in columns if found and column not in found[0]]
        if missing:
            raise UserError(f"{name}: has no column {missing[0]}; it holds {', '.join(found[0])}")
        rows += found
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows[:limit]


def _parquet(path: str) -> list[dict[str, Any]]:
    try:
        with storage.open_read(path) as file:
            return list(pq.read_table(file).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from None


def _json(path: str) -> Iterator[dict[str, Any]]:
    """A file that begins with '[' is one list, else each line is an object.

    Lines end at \\n alone: str.splitlines would also cut at U+2028 inside a string.
    """
    with fsspec.open(path, "rb", compression="infer") as file:
        content = file.read()
    if content.lstrip()[:1] == b"[":
        for number, row in enumerate(_loads(content, path)):
            yield _object(row, f"{path}: item {number}")
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            yield _object(_loads(line, where), where)


def _loads(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}: not readable as JSON: {error}") from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where} is no JSON object")
    return row
