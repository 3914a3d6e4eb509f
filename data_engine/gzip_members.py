"""The members of a gzip file one by one: where each begins, what it holds, and how to go on after a damaged one."""

import zlib
from collections.abc import Iterator
from typing import IO

_MAGIC = b"\x1f\x8b\x08"
_READ = 1 << 16


class DamagedMemberError(Exception):
    """A member that does not decompress, or that the file ends within."""


class Member:
    """A file-like reader of one member's decompressed bytes. Raises DamagedMemberError where they cannot be had."""

    def __init__(self, file: IO[bytes], offset: int) -> None:
        self.offset = offset
        self.end: int | None = None
        """Where the next member begins; known when this one was read to its end."""
        self._file = file
        self._position = offset
        self._inflate = zlib.decompressobj(wbits=31)
        self._ready = b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, all that is left for -1, none at the end."""
        parts = []
        wanted = size if size >= 0 else 1 << 62
        while wanted > 0:
            if not self._ready and not self._fill():
                break
            part, self._ready = self._ready[:wanted], self._ready[wanted:]
            wanted -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _fill(self) -> bool:
        while not self._ready and not self._inflate.eof:
            compressed = self._inflate.unconsumed_tail
            if not compressed:
                self._file.seek(self._position)
                compressed = self._file.read(_READ)
                if not compressed:
                    raise DamagedMemberError("the file ends within this gzip member")
                self._position += len(compressed)
            try:
                self._ready = self._inflate.decompress(compressed, _READ * 4)
            except zlib.error as error:
                raise DamagedMemberError(f"the gzip member does not decompress: {error}") from None
            if self._inflate.eof:
                self.end = self._position - len(self._inflate.unused_data)
        return bool(self._ready)

    def drain(self) -> None:
        """Read on to the end, so that `end` is known."""
        while self.read(_READ):
            pass


def find_member(file: IO[bytes], start: int, end: int, begins_with: bytes) -> int | None:
    """The first offset in start..end where a member begins whose content starts with `begins_with`.

    The magic bytes turn up by chance inside compressed data; that such a place also decompresses to the given bytes
    does not happen.
    """
    position = start
    carried = b""
    while position < end + len(_MAGIC) - 1:  # a member that begins right before the end has its magic behind it
        file.seek(position)
        chunk = file.read(_READ)
        if not chunk:
            return None
        window = carried + chunk
        base = position - len(carried)
        at = window.find(_MAGIC)
        while at >= 0:
            offset = base + at
            if offset >= end:
                return None
            if _starts(file, offset, begins_with):
                return offset
            at = window.find(_MAGIC, at + 1)
        carried = window[-(len(_MAGIC) - 1) :]
        position += len(chunk)
    return None


def _starts(file: IO[bytes], offset: int, begins_with: bytes) -> bool:
    file.seek(offset)
    try:
        return zlib.decompressobj(wbits=31).decompress(file.read(1024), len(begins_with)) == begins_with
    except zlib.error:
        return False


def members(file: IO[bytes], start: int, end: int, begins_with: bytes) -> Iterator[Member]:
    """The members that begin in start..end, in order. The caller reads each or leaves it.

    Where a member was left unread or is damaged, the next one is found by its first bytes.
    """
    offset = find_member(file, start, end, begins_with)
    while offset is not None and offset < end:
        member = Member(file, offset)
        yield member
        if member.end is None:
            offset = find_member(file, offset + 1, end, begins_with)
        elif member.end < end and not _starts(file, member.end, begins_with):
            offset = find_member(file, member.end, end, begins_with)
        else:
            offset = member.end
