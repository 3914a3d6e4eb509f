"""Parquet, JSONL and compressed JSONL to records; a row that cannot be read costs that row."""

import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from core import storage
from data_engine.records import Damage, Record, Skips, iso_date, one_line

_READ = 1 << 20
_ESCAPED = 6
"""Bytes of JSON for one byte of text at most, as in \\u0007; another _READ is left for the other fields of a line."""
_LONG = 1 << 26
"""Bytes that a line may have whatever its text may: other fields are no concern of a limit on texts."""
ROWS = 1024
_UNREADABLE = (pa.ArrowException, ValueError, OverflowError)
"""What Arrow raises for bytes that are no UTF-8, offsets beyond a buffer, and times beyond Python's calendar."""


class Columns:
    """Where a row has its text, url, date and licence. A missing text is damage, the others are then empty."""

    def __init__(self, text: str, url: str, date: str, licence: str) -> None:
        self.text, self.url, self.date, self.licence = text, url, date, licence

    def among(self, names: list[str]) -> list[str]:
        """Those of the columns that are there."""
        return [name for name in (self.text, self.url, self.date, self.licence) if name in names]

    def records(self, batch: pa.RecordBatch, file: str, first: int, max_bytes: int) -> Iterator[Record | Damage]:
        """The rows of a batch, which begins at row `first` of the file. A value that cannot be read costs its row."""
        batch = batch.select([place for place, name in enumerate(batch.schema.names) if self.among([name])])
        # to validate a slice of lists or of a dictionary validates all of their values: the whole once, then halves
        pending = [(0, batch.num_rows, False)]
        while pending:
            begin, end, sound = pending.pop()
            part = batch.slice(begin, end - begin)
            try:
                if not sound:
                    part.validate(full=True)
                rows = part.to_pylist() if end - begin <= ROWS else None
            except _UNREADABLE:
                if end - begin == 1:
                    yield self._alone(part, file, first + begin, max_bytes)
                else:
                    middle = (begin + end) // 2
                    pending += [(middle, end, sound), (begin, middle, sound)]
                continue
            if rows is None:
                pending += [(start, min(start + ROWS, end), True) for start in reversed(range(begin, end, ROWS))]
                continue
            for offset, row in enumerate(rows, first + begin):
                yield self.record(row, file, offset, max_bytes)

    def _alone(self, row: pa.RecordBatch, file: str, offset: int, max_bytes: int) -> Record | Damage:
        """A row in which something cannot be read; when it is the date, it has none."""
        undated = row.select([place for place, name in enumerate(row.schema.names) if name != self.date])
        try:
            undated.validate(full=True)
            return self.record(undated.to_pylist()[0], file, offset, max_bytes)
        except _UNREADABLE as error:
            return Damage(file, offset, f"the row does not decode: {one_line(error)}")

    def record(self, row: dict[str, Any], file: str, offset: int, max_bytes: int) -> Record | Damage:
        """A row as a record."""
        text = row.get(self.text)
        url = str(row.get(self.url) or "")
        if not isinstance(text, str):
            return Damage(file, offset, f"the row has no text in '{self.text}'", url)
        payload = text.encode("utf-8", "replace")
        if len(payload) > max_bytes:
            return Damage(file, offset, f"the text is longer than max_document_bytes ({max_bytes:,})", url)
        date = iso_date(str(row.get(self.date) or ""))
        licence = row.get(self.licence)  # a list where a row has several, as in The Stack
        licence = " AND ".join(map(str, licence)) if isinstance(licence, list) else str(licence or "")
        return Record(file, offset, url, date, payload, "text", charset="utf-8", licence=licence)


def parquet_row_groups(path: str) -> list[int]:
    """Rows of each row group. Raises pa.ArrowInvalid (or OSError) when the file is not readable as Parquet."""
    with storage.open_read(path) as file:
        metadata = pq.ParquetFile(file).metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def read_parquet(path: str, start: int, end: int, columns: Columns, max_bytes: int) -> Iterator[Record | Damage]:
    """The rows of row groups start..end; a record's offset is its row number in the file."""
    with storage.open_read(path) as file:
        try:
            parquet = pq.ParquetFile(file)
            wanted = columns.among(parquet.schema_arrow.names)
            row = sum(parquet.metadata.row_group(group).num_rows for group in range(start))
            for group in range(start, min(end, parquet.num_row_groups)):
                first = row
                row += parquet.metadata.row_group(group).num_rows
                try:
                    # decoded whole before any row goes out: a damaged row group yields no half
                    table = parquet.read_row_group(group, columns=wanted)
                except (pa.ArrowException, OSError) as error:
                    yield Damage(path, first, f"row group {group} does not decode: {one_line(error)}")
                    continue
                for batch in table.to_batches():
                    yield from columns.records(batch, path, first, max_bytes)
                    first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            yield Damage(path, 0, f"not readable as Parquet: {one_line(error)}")


def read_jsonl(
    path: str, start: int, end: int, columns: Columns, max_bytes: int, skips: Skips
) -> Iterator[Record | Damage]:
    """The lines that begin in bytes start..end of the decompressed file; a record's offset is that of its line.

    A line that is longer than a text of max_bytes can make it is damage, and is not held in memory.
    """
    with storage.open_read(path) as raw, _decompressed(raw, path) as file:
        position = 0
        if start:
            # a line belongs to the part in which it begins: begin after the first '\n' at or after start - 1
            raw.seek(start - 1)
            position, line = start - 1, b" "
            while position < end and line and not line.endswith(b"\n"):
                line = file.readline(_READ)
                position += len(line)
        longest = max(_LONG, _ESCAPED * max_bytes + _READ)
        while position < end:
            try:
                line = file.readline(longest)
                rest = _rest_of_line(file, line)
            except (OSError, EOFError, pa.ArrowException) as error:
                yield Damage(path, position, f"the file does not decompress: {one_line(error)}")
                return
            if not line:
                return
            if rest:
                yield Damage(path, position, f"the line is longer than {longest:,} bytes; see max_document_bytes")
            elif line.strip():
                yield _json_record(line, path, position, columns, max_bytes)
            else:
                skips.add("empty line")
            position += len(line) + rest


def _rest_of_line(file: IO[bytes], line: bytes) -> int:
    """Pass over what is left of a line, in bounded memory. Returns its bytes."""
    rest = 0
    while line and not line.endswith(b"\n"):
        line = file.readline(_READ)
        rest += len(line)
    return rest


def _json_record(line: bytes, path: str, offset: int, columns: Columns, max_bytes: int) -> Record | Damage:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Damage(path, offset, f"the line is no UTF-8: {one_line(error)}")
    except ValueError as error:
        return Damage(path, offset, f"the line is no JSON: {one_line(error)}")
    except RecursionError:
        return Damage(path, offset, "the line is nested too deeply")
    if not isinstance(row, dict):
        return Damage(path, offset, f"the line holds a {type(row).__name__}, not an object")
    return columns.record(row, path, offset, max_bytes)


def _decompressed(raw: IO[bytes], path: str) -> Any:
    """Lines of a file that may be compressed, by its name."""
    for ending, codec in ((".gz", "gzip"), (".zst", "zstd"), (".bz2", "bz2")):
        if path.endswith(ending):
            import io

            return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec), _READ)
    return raw
