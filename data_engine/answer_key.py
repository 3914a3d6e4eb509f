"""An answer key: what must become of certain pages, checked against what a build made of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pyarrow.dataset as ds
from pydantic import Field

from core import config
from core.config import Config
from core.errors import RaymillError

_SHOWN = 12


class Answer(Config):
    """What must become of one page. Only what is set is checked, but for `expect`."""

    url: str = Field(description="the page; a path alone (from '/' on) matches whatever host and port it came from")
    expect: Literal["kept", "rejected", "duplicate", "quarantined"]
    reason: str | None = Field(None, description="rejected: the reason, or the part of it before ':'")
    kind: Literal["exact", "near"] | None = Field(None, description="duplicate: how it was found")
    survivor: str | None = Field(None, description="duplicate: the url of the document that stays for it")
    language: str | None = Field(None, description="kept: its label")
    contains: list[str] = Field(default_factory=list, description="kept: strings in its text")
    absent: list[str] = Field(default_factory=list, description="kept: strings not in its text")
    note: str = Field("", description="why, for people")


class AnswerKey(Config):
    """A list of answers."""

    pages: list[Answer] = Field(min_length=1)

    @property
    def kept(self) -> int:
        """Pages that are to be kept."""
        return sum(answer.expect == "kept" for answer in self.pages)

    def check(self, directory: Path) -> str:
        """Compare with the files of a build. Returns '12 of 12'. Raises RaymillError that lists the mismatches."""
        outcome = _Outcome.of(directory, {_key(answer.url, answer.url) for answer in self.pages})
        wrong = [mismatch for answer in self.pages for mismatch in outcome.mismatches(answer)]
        missed = {url for url, _ in wrong}
        if wrong:
            shown = "; ".join(f"{url}: {what}" for url, what in wrong[:_SHOWN])
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            right = len(self.pages) - len(missed)
            raise RaymillError(f"answer key: {right} of {len(self.pages)} as expected; {shown}{more}")
        return f"{len(self.pages)} of {len(self.pages)}"


def load(path: str) -> AnswerKey:
    """Read a key. Raises UserError when it is missing or not as described."""
    return config.parse(AnswerKey, config.load_yaml(path), path)


@dataclass
class _Outcome:
    """What became of the pages of a key, by url. A url may have been read more than once."""

    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rejected: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    quarantined: dict[str, list[str]] = field(default_factory=dict)
    duplicates: dict[str, dict[str, Any]] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path, wanted: set[str]) -> "_Outcome":
        outcome = cls()
        for row in _rows(directory / "documents", ["id", "url", "text", "language"]):
            url = _wanted(row["url"], wanted)
            if url is not None:
                outcome.kept.setdefault(url, []).append(row)
                outcome.urls[row["id"]] = url
        for row in _rows(directory / "rejects", ["id", "url", "reason", "value", "threshold"]):
            url = _wanted(row["url"], wanted)
            if url is not None:
                outcome.rejected.setdefault(url, []).append(row)
        ids = {row["id"] for found in outcome.rejected.values() for row in found}
        for row in _rows(directory / "duplicates", ["id", "kind", "survivor_id", "jaccard"]):
            if row["id"] in ids:
                outcome.duplicates[row["id"]] = row
        for entry in _quarantine(directory / "quarantine"):
            url = _wanted(entry.get("url", ""), wanted)
            if url is not None:
                outcome.quarantined.setdefault(url, []).append(entry["error"])
        return outcome

    def mismatches(self, answer: Answer) -> Iterator[tuple[str, str]]:
        url = _key(answer.url, answer.url)
        kept, rejected = self.kept.get(url, []), self.rejected.get(url, [])
        duplicates = [row for row in rejected if row["reason"].startswith("dedup:")]
        became = (
            "kept" if kept
            else "duplicate" if duplicates
            else "rejected" if rejected
            else "quarantined" if url in self.quarantined
            else "never read"
        )  # fmt: skip
        if became != answer.expect:
            yield answer.url, f"expected {answer.expect}, was {became}{self._why(url, rejected)}"
            return
        if answer.expect == "rejected" and answer.reason is not None:
            reasons = {row["reason"] for row in rejected}
            if not any(reason == answer.reason or reason.startswith(answer.reason + ":") for reason in reasons):
                yield answer.url, f"expected {answer.reason}, was{self._why(url, rejected)}"
        if answer.expect == "duplicate":
            yield from self._duplicate(answer, duplicates)
        for row in kept:
            if answer.language is not None and row["language"] != answer.language:
                yield answer.url, f"expected language {answer.language}, was {row['language']}"
            yield from ((answer.url, f"lacks {text!r}") for text in answer.contains if text not in row["text"])
            yield from ((answer.url, f"still holds {text!r}") for text in answer.absent if text in row["text"])

    def _duplicate(self, answer: Answer, rejected: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        for row in rejected:
            duplicate = self.duplicates[row["id"]]
            if answer.kind is not None and duplicate["kind"] != answer.kind:
                yield answer.url, f"expected a copy of kind {answer.kind}, was {duplicate['kind']}"
            if answer.survivor is not None:
                survivor = self.urls.get(duplicate["survivor_id"], duplicate["survivor_id"])
                if survivor != _key(answer.survivor, answer.survivor):
                    yield answer.url, f"expected survivor {answer.survivor}, was {survivor}"

    def _why(self, url: str, rejected: list[dict[str, Any]]) -> str:
        if rejected:
            row = rejected[0]
            value = "" if row["value"] is None else f" {row['value']:.4g}"
            limit = "" if row["threshold"] is None else f" against {row['threshold']:.4g}"
            return f" ({row['reason']}{value}{limit})"
        return f" ({self.quarantined[url][0]})" if url in self.quarantined else ""


def _key(url: str, answer: str) -> str:
    """The part of a url that an answer names: all of it, or its path."""
    if answer.startswith("/") and not url.startswith("/"):
        parts = urlsplit(url)
        return parts.path + (f"?{parts.query}" if parts.query else "")
    return url


def _wanted(url: str, wanted: set[str]) -> str | None:
    if url in wanted:
        return url
    path = _key(url, "/")
    return path if path in wanted else None


def _rows(folder: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.parquet")):
        yield from ds.dataset(path).to_table(columns=columns).to_pylist()


def _quarantine(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            entry: dict[str, Any] = json.loads(line)
            yield entry
