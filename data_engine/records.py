"""What a reader yields: a document-bearing record, or a report of damage; and the id of a document."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Record:
    """One document as stored. `payload` holds HTML when `html` is set, else UTF-8 text; `charset` is what the
    transport declared, for HTML and text alike."""

    file: str
    offset: int
    url: str
    date: str
    payload: bytes
    html: bool
    charset: str | None = None

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

    def add(self, kind: str) -> None:
        """Count one."""
        self.counts[kind] = self.counts.get(kind, 0) + 1


def iso_date(text: str | None) -> str:
    """An HTTP or ISO 8601 date as `2026-01-02T03:04:05Z`; empty when there is none or it is not one."""
    if not text:
        return ""
    try:
        when = parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text.strip())
    except (ValueError, TypeError):
        return ""
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
