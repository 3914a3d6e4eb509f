"""Parquet files that are there whole or not at all, and the same bytes for the same rows."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

_FEW_VALUES = frozenset({"source", "language", "licence", "reason", "kind"})


class TableWriter:
    """A context manager: tables go in, one row group each; the file appears when the block ends without an error.

    `metadata` may be filled until then; it is stored in the file's schema. `encoding` names encodings of columns.
    """

    def __init__(self, path: Path, schema: pa.Schema, encoding: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.schema = schema
        self.encoding = encoding
        self.metadata: dict[str, str] = {}

    def __enter__(self) -> "TableWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{uuid4().hex}.tmp")
        self._file = self._temporary.open("wb")
        dictionary = [
            field.name for field in self.schema if field.name in ("source", "language", "licence", "reason", "kind")
        ]
        self._writer = pq.ParquetWriter(
            self._file,
            self.schema,
            compression="zstd",
            use_dictionary=dictionary if self.encoding is None else False,
            column_encoding=self.encoding,
            write_page_index=False,
        )
        return self

    def write(self, table: pa.Table) -> None:
        """Append one row group."""
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self.metadata:
                    self._writer.add_key_value_metadata(self.metadata)
                self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self.path)
        finally:
            self._writer.is_open = False  # or it tries again when it is collected
            with suppress(OSError):  # a full disk takes nothing of what is buffered either
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """Write one table as one file."""
    with TableWriter(path, table.schema) as writer:
        writer.write(table)
