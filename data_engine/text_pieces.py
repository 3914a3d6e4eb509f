"""A plain text as documents, without loss: pieces of some thousand characters that end where a paragraph or line ends.

One long document would fall into one split as a whole, and a run shuffles documents.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from core import storage
from core.errors import UserError

ENDING = ".txt"
PIECE = 8192
"""Characters of a piece at most."""
_SCHEMA = pa.schema({"id": pa.string(), "text": pa.string()})
_ROWS = 512


def pieces(file: TextIO) -> Iterator[str]:
    """The text in order, cut at the last blank line, line end or space in the second half of a piece, if there is one.

    The pieces joined are the text. Holds one piece in memory.
    """
    held = ""
    while True:
        held += file.read(PIECE - len(held))
        if len(held) < PIECE:
            break
        cut = PIECE
        for border in ("\n\n", "\n", " "):
            at = held.rfind(border, PIECE // 2)
            if at >= 0:
                cut = at + len(border)
                break
        yield held[:cut]
        held = held[cut:]
    if held:
        yield held


def write_documents(path: str, target: Path) -> None:
    """Write the pieces of the UTF-8 text at `path` as Parquet with id and text. Raises UserError for other bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with storage.open_read(path) as raw, pq.ParquetWriter(target, _SCHEMA) as writer:
            file = io.TextIOWrapper(raw, encoding="utf-8", newline="")
            rows: list[dict[str, str]] = []
            for number, text in enumerate(pieces(file)):
                place = f"{path.rpartition('/')[2]}:{number}:"
                identifier = storage.digest_bytes([place.encode(), text.encode()])
                rows.append({"id": identifier, "text": text})
                if len(rows) == _ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8 text ({error.reason}); 'raymill data build' reads other charsets") from None
