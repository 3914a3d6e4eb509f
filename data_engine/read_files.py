"""Files that are one document each to records: plain text, HTML, EPUB, PDF."""

from collections.abc import Iterator, Sequence
from typing import Literal

from core import storage
from core.errors import UserError
from data_engine.formats import ENDINGS
from data_engine.listing import SourceFile
from data_engine.records import Damage, Record, Skips

_BEGINS_WITH = {"pdf": b"%PDF-", "epub": b"PK\x03\x04"}
_PDF_HEAD = 1024
"""Readers accept bytes before the header (ISO 32000-1, note to 7.5.2; Adobe's implementation note 13)."""

_BINARY_BYTES = 8000
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read(
    files: Sequence[SourceFile], media: Literal["text", "html", "epub", "pdf"], max_bytes: int, skips: Skips
) -> Iterator[Record | Damage]:
    """A record for each file. One whose bytes are of another kind is counted in `skips`, or is damage when its name
    says that it should be of this kind."""
    for file in files:
        payload = load(file, max_bytes)
        if isinstance(payload, Damage):
            yield payload
            continue
        other = _other_kind(payload, media)
        if other is None:
            yield Record(file.path, 0, file.url, "", payload, media)
        elif file.path.lower().endswith(tuple(ending for ending, kind in ENDINGS.items() if kind == media)):
            yield Damage(file.path, 0, other, file.url)
        else:
            skips.add(other)


def load(file: SourceFile, max_bytes: int) -> bytes | Damage:
    """The content of a file, or why it cannot be had."""
    try:
        with storage.open_read(file.path) as opened:
            payload = opened.read(max_bytes + 1)
    except (UserError, PermissionError) as error:
        return Damage(file.path, 0, f"not readable: {error}", file.url)
    if len(payload) > max_bytes:
        return Damage(file.path, 0, f"the file is longer than max_document_bytes ({max_bytes:,})", file.url)
    return payload


def is_binary(payload: bytes) -> bool:
    """Whether bytes are no text: a NUL among the first 8,000, as git decides it (buffer_is_binary in
    xdiff-interface.c), unless a byte-order mark says UTF-16."""
    return b"\0" in payload[:_BINARY_BYTES] and not payload.startswith(_UTF_16)


def _other_kind(payload: bytes, media: Literal["text", "html", "epub", "pdf"]) -> str | None:
    if media == "pdf":
        return None if _BEGINS_WITH["pdf"] in payload[:_PDF_HEAD] else "not a PDF"
    if media == "epub":
        return None if payload.startswith(_BEGINS_WITH["epub"]) else "not an EPUB"
    return "binary file" if is_binary(payload) else None
