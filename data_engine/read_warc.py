"""WARC and WET files to records: document-bearing ones, counts of the rest, and a report for each damaged one."""

import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord, ArcWarcRecordLoader

import data_engine.warc_brotli  # noqa: F401  # warcio learns to read brotli
from core import storage
from data_engine.gzip_members import DamagedMemberError, Gap, Member, members
from data_engine.records import Damage, Media, Record, Skips, iso_date, one_line

_BEGINS_WITH = b"WARC/"
_GZIP = b"\x1f\x8b"
_RECORD = (b"WARC/1.", b"WARC/0.")
_READ = _LINE = 1 << 16
_LOADER = ArcWarcRecordLoader(verify_http=False, arc2warc=False)

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
        if not compressed and file.read(2) != _GZIP:
            file.seek(0)
            yield from _records(file, None, reading)
            return
        for found in members(file, start, end, _BEGINS_WITH):
            if isinstance(found, Gap):
                what = f"{found.length:,} bytes hold no WARC record in gzip" if found.length else "the file is empty"
                yield Damage(path, found.offset, f"{what}; fetch the file again")
            else:
                yield from _member(found, reading)


def _member(member: Member, reading: _Reading) -> Iterator[Record | Damage]:
    """The documents of one gzip member. Its checksum stands at its end, which is read before the last one goes out."""
    try:
        yield from _records(io.BufferedReader(_Raw(member), _READ), member.offset, reading)
    except DamagedMemberError as error:
        yield Damage(reading.path, member.offset, f"{error}; {_nothing_more(member.give_up())}")


class _Raw(io.RawIOBase):
    """A member with the methods of a file, for lines and offsets within it."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self._member.read(len(buffer))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def _nothing_more(lost: int) -> str:
    return f"nothing more is read of the {lost:,} bytes before the next record; fetch the file again"


def _records(stream: Any, member_offset: int | None, reading: _Reading) -> Iterator[Record | Damage]:
    """The documents of records that lie end to end; after one of wrong length, of those that can be known again."""

    def place(before: int) -> int:
        return stream.tell() - before if member_offset is None else member_offset

    size = None
    if member_offset is None and stream.seekable():
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
    line, stray = _next_record(stream)
    if stray or not line:
        what = f"{stray:,} bytes are no WARC record" if stray else "there is no WARC record"
        yield Damage(reading.path, place(len(line) + stray), f"{what}; fetch the file again")
    while line:
        offset, first = place(len(line)), line
        found, whole, short = _read_record(stream, line, offset, reading, size)
        line, stray = _next_record(stream)
        if member_offset is None and (short or stray) and not whole:
            # its length may reach over other records, or to the end of the file
            stream.seek(offset + len(first))
            line, stray = _next_record(stream)
        if stray:
            if whole and found is not None:
                yield found
                found, offset = None, place(len(line) + stray)
            known = f"{found.error}; " if isinstance(found, Damage) else ""
            url = found.url if found is not None else ""
            found = Damage(reading.path, offset, f"{known}{_nothing_more(stray)}", url)
        if found is not None:
            yield found


def _next_record(stream: Any) -> tuple[bytes, int]:
    """The first line of the next record, empty at the end, and how many bytes before it are more than blank lines.

    Where a record should begin, or after a blank line, a line that begins as a record does is one.
    """
    stray_from = None
    may_begin = True
    while line := stream.readline(_LINE):
        if may_begin and line.startswith(_RECORD):
            break
        blank = not line.strip(b"\0 \t\r\n")  # zeros are padding
        if not blank and stray_from is None:
            stray_from = stream.tell() - len(line)
        may_begin = blank
    return line, stream.tell() - len(line) - stray_from if stray_from is not None else 0


def _read_record(
    stream: Any, line: bytes, offset: int, reading: _Reading, size: int | None
) -> tuple[Record | Damage | None, bool, bool]:
    """What the record bears; whether it is what its digest says; whether the file ends before it does.

    size: of the file where it is known. Of a record that ends behind it nothing is read: each of many would be read to
    the end of the file, and what follows it again.
    """
    try:
        record = _LOADER.parse_record_stream(stream, line, "warc", check_digests=True)
        missing = 0
        if size is not None and record.length is not None:
            missing = max(0, stream.tell() + record.raw_stream.limit - size)
        found = _document(record, offset, reading, missing)
    except (ArchiveLoadFailed, ValueError, EOFError, IndexError, AttributeError, zlib.error) as error:
        return Damage(reading.path, offset, f"not a WARC record: {one_line(error)}"), False, True
    return found, record.digest_checker.passed is True, record.length is None or record.raw_stream.limit > 0


def _document(record: ArcWarcRecord, offset: int, reading: _Reading, missing: int) -> Record | Damage | None:
    """The document of a record, a report of its damage, or None (counted) when it bears none.

    missing: bytes that it ends behind the file's end, if that is known before it is read.
    """
    path, max_bytes = reading.path, reading.max_bytes
    url = record.rec_headers.get_header("WARC-Target-URI") or ""
    if record.length is None:
        return Damage(path, offset, "the record has no Content-Length, or the file ends within its headers", url)
    http = record.http_headers if record.rec_type == "response" else None
    content_type = http.get_header("Content-Type") or "" if http is not None else "text/plain"
    mime = content_type.partition(";")[0].strip().lower()
    skip = _bears_none(record, url, mime, reading.mime_types)
    payload = record.content_stream().read(max_bytes + 1) if skip is None and not missing else b""
    while not missing and record.raw_stream.read(1 << 16):
        pass
    if len(payload) > max_bytes:
        return Damage(path, offset, f"the payload is longer than max_document_bytes ({max_bytes:,})", url)
    if skip is not None and (record.raw_stream.limit == 0 or record.rec_type != "response"):
        reading.skips.add(skip)
        return None
    if record.raw_stream.limit > 0:
        missing = missing or record.raw_stream.limit
        return Damage(path, offset, f"the record ends {missing:,} bytes before its Content-Length", url)
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
