"""Benchmark files as items: a question and its answers, from JSONL, JSON, Parquet or CSV, compressed or not."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from core import storage
from core.config import Config, InputPath
from core.errors import UserError

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


class Benchmark(Config):
    """Files of one benchmark, and the fields of a row that hold its texts.

    A field that holds a list gives each of its texts; one that holds a map gives its keys where the values are numbers
    (TruthfulQA's `mc1_targets`), else its values.
    """

    name: str = Field(pattern=r"^[\w.\-]+$", description="as reasons and tables name it: decontaminate:NAME")
    path: InputPath = Field(
        description="file, folder or glob: .jsonl, .json (a list), .parquet or .csv, also compressed"
    )
    question: list[str] = Field(min_length=1, description="fields whose texts, one after the other, are the question")
    answers: list[str] = Field(default_factory=list, description="fields whose texts are answers, each on its own")


@dataclass(frozen=True)
class Item:
    """One row: `number` counts the rows of a benchmark from 0 over its files in the order of their names."""

    number: int
    question: str
    answers: tuple[str, ...]


def read_items(benchmark: Benchmark) -> list[Item]:
    """Every item of a benchmark. Raises UserError that names the file, and the row or field, that is not as it says."""
    items: list[Item] = []
    wanted = [*benchmark.question, *benchmark.answers]
    files = [file for file in storage.list_files(benchmark.path) if _reader(file) is not None]
    if not files:
        raise UserError(f"{benchmark.path}: benchmark {benchmark.name} holds no .jsonl, .json, .parquet or .csv")
    for file in files:
        known: set[str] = set()
        for row in _rows(file):
            known |= row.keys()
            question = "\n".join(text for field in benchmark.question for text in _texts(row.get(field)))
            answers = tuple(text for field in benchmark.answers for text in _texts(row.get(field)))
            items.append(Item(len(items), question, answers))
        missing = [field for field in wanted if field not in known]
        if missing and known:
            raise UserError(
                f"{file}: no row has the field {missing[0]} that benchmark {benchmark.name} names; "
                f"there are: {', '.join(sorted(known))}"
            )
    if not items:
        raise UserError(f"{benchmark.path}: benchmark {benchmark.name} has no row")
    return items


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key if isinstance(inner, int | float) else inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _rows(file: str) -> Iterator[dict[str, Any]]:
    reader = _reader(file)
    assert reader is not None
    try:
        with fsspec.open(file, "rb", compression="infer") as opened:
            yield from reader(cast("IO[bytes]", opened), file)
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not readable: {' '.join(str(error).split())[:300]}") from None


def _json_lines(opened: IO[bytes], file: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(opened, 1):
        if line.strip():
            yield _object(line, f"{file}: line {number}")


def _json_list(opened: IO[bytes], file: str) -> Iterator[dict[str, Any]]:
    try:
        rows = json.load(opened)
    except ValueError as error:
        raise UserError(f"{file}: no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: holds no list of objects; JSON lines are named .jsonl")
    yield from rows


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} holds a {type(row).__name__}, not an object")
    return row


def _parquet(opened: IO[bytes], _: str) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(opened).iter_batches():
        yield from batch.to_pylist()


def _csv(opened: IO[bytes], _: str) -> Iterator[dict[str, Any]]:
    yield from csv.DictReader(io.TextIOWrapper(opened, "utf-8-sig", newline=""))


_READERS = {".jsonl": _json_lines, ".json": _json_list, ".parquet": _parquet, ".csv": _csv}


def _reader(file: str) -> Any:
    plain = next((file.removesuffix(ending) for ending in _COMPRESSED if file.endswith(ending)), file)
    return next((reader for ending, reader in _READERS.items() if plain.endswith(ending)), None)
