"""WARC and WET files to records: document-bearing ones, counts of the rest, and a report for each damaged one."""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord

import data_engine.warc_brotli  # noqa: F401  # warcio learns to read brotli
from core import storage
from data_engine.gzip_members import DamagedMemberError, Gap, Member, members
from data_engine.records import Damage, Media, Record, Skips, iso_date

_BEGINS_WITH = b"WARC/"

MimeType = Literal[
    "text/html", "application/xhtml+xml", "text/plain", "text/markdown", "application/pdf", "application/epub+zip"
]
"""Types of responses that can be read; `Source.mime_types` chooses."""

_MEDIA: dict[str, Media] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/plain": "text",
    "text/markdown": "text",
    "application/pdf": "pdf",
    "application/epub+zip": "epub",
}
WEB_PAGES: tuple[MimeType, ...] = ("text/html", "application/xhtml+xml", "text/plain")

_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]+)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Reading:
    path: str
    max_bytes: int
    mime_types: frozenset[str]
    skips: Skips


def read(
    path: str,
    start: int,
    end: int,
    compressed: bool,
    max_bytes: int,
    skips: Skips,
    mime_types: Iterable[MimeType] = WEB_PAGES,
) -> Iterator[Record | Damage]:
    """The documents of a WARC or WET file whose gzip member begins in bytes start..end (all, when not compressed).

    max_bytes: a longer payload is reported, not read. Records without a document, and responses of other types than
    `mime_types`, are counted in `skips`.
    """
    reading = _Reading(path, max_bytes, frozenset(mime_types), skips)
    with storage.open_read(path) as file:
        if not compressed:
            yield from _records(file, None, reading)
            return
        for found in members(file, start, end, _BEGINS_WITH):
            if isinstance(found, Gap):
                what = f"{found.length:,} bytes hold no WARC record in gzip" if found.length else "the file is empty"
                yield Damage(path, found.offset, f"{what}; fetch the file again")
            else:
                yield from _member(found, reading)


def _member(member: Member, reading: _Reading) -> Iterator[Record | Damage]:
    """The documents of one gzip member. Its checksum stands at its end, so the last record waits until it was read."""
    held: Record | Damage | None = None
    records = 0
    try:
        for found in _records(member, member.offset, reading):
            if held is not None:
                yield held
            held = found
            records += 1
        member.drain()
    except DamagedMemberError as error:
        lost = f"nothing more is read of the {member.give_up():,} bytes before the next record; fetch the file again"
        # in a file with a member for each record, the record that waits is the damaged one
        if held is not None and records > 1:
            yield held
            held = None
        known = f"{held.error}; " if isinstance(held, Damage) else ""
        held = Damage(reading.path, member.offset, f"{known}{error}; {lost}", held.url if held is not None else "")
    if held is not None:
        yield held


def _records(stream: Any, member_offset: int | None, reading: _Reading) -> Iterator[Record | Damage]:
    iterator = ArchiveIterator(stream, check_digests=True)
    found: Record | Damage | None = None
    try:
        for record in iterator:
            offset = member_offset if member_offset is not None else iterator.offset
            found = _document(record, offset, reading)
            if found is not None:
                yield found
        if iterator.fh.tell() > iterator.offset and not isinstance(found, Damage):
            # warcio takes a record that ends within its headers for the end of the file
            offset = member_offset if member_offset is not None else iterator.offset
            yield Damage(reading.path, offset, "the file ends within the headers of this record")
    except (ArchiveLoadFailed, ValueError, EOFError, IndexError, zlib.error) as error:
        if isinstance(found, Damage):
            return  # a wrong Content-Length, already reported, leaves its rest where the next record is looked for
        offset = member_offset if member_offset is not None else iterator.offset
        yield Damage(reading.path, offset, f"not a WARC record: {' '.join(str(error).split()) or type(error).__name__}")


def _document(record: ArcWarcRecord, offset: int, reading: _Reading) -> Record | Damage | None:
    """The document of a record, a report of its damage, or None (counted) when it bears none."""
    path, max_bytes = reading.path, reading.max_bytes
    url = record.rec_headers.get_header("WARC-Target-URI") or ""
    http = record.http_headers if record.rec_type == "response" else None
    content_type = http.get_header("Content-Type") or "" if http is not None else "text/plain"
    mime = content_type.partition(";")[0].strip().lower()
    skip = _bears_none(record, url, mime, reading.mime_types)
    payload = record.content_stream().read(max_bytes + 1) if skip is None else b""
    if len(payload) > max_bytes:
        return Damage(path, offset, f"the payload is longer than max_document_bytes ({max_bytes:,})", url)
    while record.raw_stream.read(1 << 16):
        pass
    if skip is not None and (record.raw_stream.limit == 0 or record.rec_type != "response"):
        reading.skips.add(skip)
        return None
    if record.raw_stream.limit > 0:
        return Damage(path, offset, f"the record ends {record.raw_stream.limit:,} bytes before its Content-Length", url)
    failed = [str(problem) for problem in record.digest_checker.problems if "digest failed" in str(problem)]
    if failed:
        return Damage(path, offset, f"the record is not what its digest says: {failed[0]}", url)
    declared = _CHARSET.search(content_type)
    modified = iso_date(http.get_header("Last-Modified")) if http is not None else ""
    date = modified or iso_date(record.rec_headers.get_header("WARC-Date"))
    charset = declared.group(1) if declared else None
    return Record(path, offset, url, date, payload, _MEDIA.get(mime, "html"), charset)


def _bears_none(record: ArcWarcRecord, url: str, mime: str, mime_types: frozenset[str]) -> str | None:
    """Why a record bears no document, None when it does."""
    if record.rec_type == "conversion":
        return None
    if record.rec_type != "response":
        return str(record.rec_type)
    if record.http_headers is None:
        return "response without HTTP headers"
    status = record.http_headers.get_statuscode()
    if status != "200":
        return f"status {status}"
    if (mime or "text/html") not in mime_types:  # servers that name no type mean HTML
        return f"type {mime or 'not stated'}"
    return "robots.txt" if url.endswith("/robots.txt") and url.count("/") == 3 else None
