"""The shards of a documents artifact: found, checked by their footers, read in batches."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import storage
from core.errors import UserError

FOLDER = "documents"
_COLUMNS = ("id", "text")


@dataclass(frozen=True)
class Shard:
    """One Parquet file of documents; `ordinal` is its place in the sorted list.

    `source`: what its documents are called instead of what their column `source` says; None leaves the column.
    """

    ordinal: int
    path: str
    documents: int
    source: str | None = None


def list_shards(path: str) -> list[Shard]:
    """The shards that a documents artifact, a folder, a file or a glob names, sorted by path.

    Raises UserError when there is none, when a file is no Parquet or lacks a column, or when they hold no document.
    """
    inside = os.path.join(path, FOLDER)
    found = storage.list_files(inside if os.path.isdir(inside) else path)
    files = [name for name in found if name.endswith(".parquet")]
    if not files:
        raise UserError(f"{path}: holds no *.parquet; name a documents artifact, as 'raymill data build' writes it")
    shards = [Shard(ordinal, name, _count(name)) for ordinal, name in enumerate(files)]
    if not sum(shard.documents for shard in shards):
        raise UserError(f"{path}: the corpus is empty, no document is left; see the rejects of the stage that wrote it")
    return shards


def list_corpora(documents: str | Mapping[str, str]) -> list[Shard]:
    """The shards of one corpus, or of several by name: then each name is the source of its documents.

    Raises UserError as `list_shards` does.
    """
    if isinstance(documents, str):
        return list_shards(documents)
    named = [replace(shard, source=name) for name, path in documents.items() for shard in list_shards(path)]
    return [replace(shard, ordinal=ordinal) for ordinal, shard in enumerate(named)]


def _count(path: str) -> int:
    try:
        with _open(path) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            rows = int(file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet: {_first_line(error)}") from None
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}; documents need id and text")
    return rows


def text_bytes(path: str) -> int:
    """Uncompressed size of the text column as the footer states it: near the bytes of text, read without the text."""
    with _open(path) as file:
        groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
        leaves = (group.column(number) for group in groups for number in range(group.num_columns))
        return sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema == "text")


def read_batches(path: str, columns: tuple[str, ...], batch_size: int = 512) -> Iterator[pa.Table]:
    """Tables of the string columns asked for; one that the file lacks is empty text, and so is a null.

    Raises UserError when a row group is damaged.
    """
    try:
        with _open(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=batch_size, columns=present):
                empty = pa.repeat("", batch.num_rows)
                held = {name: pc.fill_null(batch.column(name), "") for name in present}
                yield pa.table({name: held.get(name, empty) for name in columns})
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged, not readable as Parquet: {_first_line(error)}") from None


def read_documents(path: str, columns: tuple[str, ...], batch_size: int = 512) -> Iterator[dict[str, list[str]]]:
    """The same as lists of Python strings."""
    for batch in read_batches(path, columns, batch_size):
        yield batch.to_pydict()


def _open(path: str) -> pq.ParquetFile:
    return pq.ParquetFile(storage.open_read(path) if storage.is_remote(path) else path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
