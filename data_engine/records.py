"""What a reader yields: a document-bearing record, or a report of damage; and the id of a document."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

ID_BYTES = 16

Media = Literal["text", "html", "pdf", "epub"]
"""What a payload holds. All but text goes through a parser in a process of its own."""


@dataclass(frozen=True, slots=True)
class Record:
    """One document as stored.

    charset: what the transport declared, for HTML and text. language: set where the source knows it (source code), so
    that it is not identified. licence: an SPDX expression, or what the source says in its own words.
    """

    file: str
    offset: int
    url: str
    date: str
    payload: bytes
    media: Media
    charset: str | None = None
    language: str = ""
    licence: str = ""

    def id(self, source: str) -> bytes:
        """16 bytes: BLAKE2b of source name, url, date and raw payload, each with its length before it."""
        state = hashlib.blake2b(digest_size=ID_BYTES)
        for part in (source.encode(), self.url.encode("utf-8", "replace"), self.date.encode(), self.payload):
            state.update(len(part).to_bytes(8, "big"))
            state.update(part)
        return state.digest()


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that cannot be read, or a document that cannot be worked on: where it lies and why."""

    file: str
    offset: int
    error: str
    url: str = ""

    def entry(self) -> dict[str, object]:
        """The line in quarantine/."""
        entry: dict[str, object] = {"locator": {"file": self.file, "offset": self.offset}, "error": self.error}
        if self.url:
            entry["url"] = self.url
        return entry


@dataclass(slots=True)
class Skips:
    """Records that bear no document, by kind: requests, robots.txt, images, answers other than 200."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, count: int = 1) -> None:
        """Count one, or several."""
        self.counts[kind] = self.counts.get(kind, 0) + count


def one_line(error: Exception) -> str:
    """What an exception says, on one line and not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def iso_date(text: str | None) -> str:
    """An HTTP or ISO 8601 date as `2026-01-02T03:04:05Z`; empty when there is none, or none in the years 1 to 9999."""
    if not text:
        return ""
    try:
        when = parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text.strip())
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return ""
    return f"{when.replace(tzinfo=None).isoformat(timespec='seconds')}Z"  # strftime writes the year 1 as '1'
