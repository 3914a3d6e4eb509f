"""Arrow files as `datasets.save_to_disk` and Feather write them, to records."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from core import storage
from data_engine.read_tables import Columns
from data_engine.records import Damage, Record, one_line

_FILE_MAGIC = b"ARROW1"


@contextmanager
def _batches(path: str) -> Iterator[Iterator[pa.RecordBatch]]:
    """The record batches of a file in the stream format (`datasets`) or the file format (Feather), one after another.

    A local file is mapped: a batch that is passed over is not read.
    """
    with storage.open_read(path) as head:
        in_file_format = head.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    opened: Any = storage.open_read(path) if storage.is_remote(path) else pa.memory_map(path.removeprefix("file://"))
    with opened as file:
        if in_file_format:
            reader = pa.ipc.open_file(file)
            yield (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            yield iter(pa.ipc.open_stream(file))


def batch_rows(path: str) -> list[int]:
    """Rows of each record batch. Raises pa.ArrowInvalid (or OSError) when the file is not readable as Arrow."""
    rows: list[int] = []
    with _batches(path) as batches:
        try:
            rows.extend(batch.num_rows for batch in batches)
        except (pa.ArrowException, OSError):
            rows.append(1)  # what lies beyond is one damaged batch, which the last shard reports
    return rows


def read(path: str, start: int, end: int, columns: Columns, max_bytes: int) -> Iterator[Record | Damage]:
    """The rows of record batches start..end; a record's offset is its row number in the file."""
    row = 0
    try:
        with _batches(path) as batches:
            for number, batch in enumerate(batches):
                if number >= end:
                    return
                if number >= start:
                    yield from columns.records(batch, path, row, max_bytes)
                row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        yield Damage(path, row, f"not readable as Arrow from row {row:,} on: {one_line(error)}")
