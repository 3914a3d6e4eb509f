"""The members of a gzip file one by one: where each begins, what it holds, how to go on past damage and other bytes."""

import os
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

_MAGIC = b"\x1f\x8b\x08"
_READ = 1 << 16
_NO_END = 1 << 62


class DamagedMemberError(Exception):
    """A member that does not decompress, or that the file ends within."""


class Gap(NamedTuple):
    """Bytes that are no member where one should begin: one that cannot be known any more, or something else."""

    offset: int
    length: int


class Member:
    """A file-like reader of one member's decompressed bytes. Raises DamagedMemberError where they cannot be had."""

    def __init__(self, file: IO[bytes], offset: int, begins_with: bytes = b"") -> None:
        self.offset = offset
        self.end: int | None = None
        """Where the next one should begin; known when this one was read to its end, or given up."""
        self._file = file
        self._begins_with = begins_with
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

    def give_up(self) -> int:
        """Of a damaged member: its bytes, and all others before the next one that can be known."""
        following = find_member(self._file, self.offset + 1, _NO_END, self._begins_with)
        self.end = self._file.seek(0, os.SEEK_END) if following is None else following
        return self.end - self.offset


def find_member(file: IO[bytes], start: int, end: int, begins_with: bytes) -> int | None:
    """The first offset in start..end where a member begins whose content starts with `begins_with`.

    The magic bytes turn up by chance inside compressed data; that such a place also decompresses to the given bytes
    does not happen.
    """
    if start < end and _starts(file, start, begins_with):
        return start
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


def members(file: IO[bytes], start: int, end: int, begins_with: bytes) -> Iterator[Member | Gap]:
    """The members that begin in start..end, in order, and the gaps behind them. The caller reads each or leaves it.

    A gap belongs to the part of the file that the member before it belongs to, one at the head of the file to the
    first part: however a file is cut, each is told once. Zeros at the end of a file are padding, as `gzip` takes them;
    line ends and members of nothing are none anywhere.
    Where a member was left unread or is damaged, the next one is found by its first bytes.
    """
    position, should_begin = start, start == 0
    while should_begin or position < end:
        offset = find_member(file, position, _NO_END if should_begin else end, begins_with)
        if should_begin and offset != position and (gap := _gap(file, position, offset)) is not None:
            yield gap
        if offset is None or offset >= end:
            return
        member = Member(file, offset, begins_with)
        yield member
        should_begin = member.end is not None
        position = offset + 1 if member.end is None else member.end


def _gap(file: IO[bytes], start: int, following: int | None) -> Gap | None:
    end = file.seek(0, os.SEEK_END) if following is None else following
    file.seek(start)
    if start and end - start <= _READ:
        blank = b"\r\n\t \0" if following is None else b"\r\n\t "
        if _holds_nothing(file.read(end - start), blank):
            return None
    elif start and following is None and all(not part.strip(b"\0") for part in iter(lambda: file.read(_READ), b"")):
        return None
    return Gap(start, end - start)


def _holds_nothing(part: bytes, blank: bytes) -> bool:
    """Whether there is nothing but blanks and gzip members without content."""
    while part := part.lstrip(blank):
        inflate = zlib.decompressobj(wbits=31)
        try:
            if inflate.decompress(part, 1) or not inflate.eof:
                return False
        except zlib.error:
            return False
        part = inflate.unused_data
    return True
