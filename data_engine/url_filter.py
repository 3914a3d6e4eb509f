"""Documents that their address gives away: lists of domains and URLs, and words in the URL.

The rules of RefinedWeb (Penedo et al. 2023, arXiv:2306.01116, appendix G.1), as datatrove's URLFilter has them. They
ask for no text, so a rejected document is not even extracted. Differences: a listed domain stands for all hosts below
it, without a list of public suffixes; case makes no difference to words.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, field_validator

from core import storage
from core.config import Config, InputPath
from core.errors import UserError
from data_engine.policies.base import Verdict

_SEPARATORS = re.compile(r"[^a-z0-9]+")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.\-]*://", re.IGNORECASE)
_HOST = re.compile(r"[^\s/:@?#]+\.[^\s/:@?#]+")


class UrlConfig(Config):
    """What is rejected by its address, before extraction. Lists are files, an entry a line, '#' begins a comment."""

    domains: list[InputPath] = Field([], description="files of domains; all hosts below them are meant")
    urls: list[InputPath] = Field([], description="files of addresses; scheme, fragment and a last '/' do not count")
    hard_words: list[str] = Field([], description="one of these words in the URL rejects")
    hard_word_files: list[InputPath] = Field([], description="files of such words")
    soft_words: list[str] = Field([], description="several of these words in the URL reject")
    soft_word_files: list[InputPath] = Field([], description="files of such words")
    min_soft_words: int = Field(2, ge=1, description="different soft words that reject; RefinedWeb 2")
    hard_parts: list[str] = Field([], description="one of these in the URL, read without punctuation, rejects")

    @field_validator("hard_words", "soft_words", "hard_parts")
    @classmethod
    def _can_match(cls, words: list[str]) -> list[str]:
        return [_word(word) for word in words]


class Finding(NamedTuple):
    """Why an address is rejected: `url:...`, how many matches, and how many reject."""

    reason: str
    value: float
    threshold: float


class UrlFilter:
    """The lists of a configuration in memory. Raises UserError for a list that is missing or has a wrong line."""

    def __init__(self, config: UrlConfig) -> None:
        self.domains = frozenset(_entries(config.domains, _domain))
        self.urls = frozenset(_entries(config.urls, _bare))
        self.hard = frozenset(_entries(config.hard_word_files, _word)) | set(config.hard_words)
        self.soft = frozenset(_entries(config.soft_word_files, _word)) | set(config.soft_words)
        self.parts = tuple(sorted(set(config.hard_parts)))
        self.min_soft_words = config.min_soft_words
        self.active = bool(self.domains or self.urls or self.hard or self.soft or self.parts)

    def __call__(self, url: str) -> Finding | None:
        """The first rule that rejects the address, in the order of RefinedWeb: domain, URL, words, parts."""
        if not self.active:
            return None
        if self.domains and any(domain in self.domains for domain in _domains_of(url)):
            return Finding("url:domain", 1, 1)
        if self.urls and _bare(url) in self.urls:
            return Finding("url:listed", 1, 1)
        words = set(_SEPARATORS.split(url.lower()))
        squeezed = _SEPARATORS.sub("", url.lower()) if self.parts else ""
        for reason, hits, least in (
            ("url:hard_word", len(words & self.hard), 1),
            ("url:soft_words", len(words & self.soft), self.min_soft_words),
            ("url:hard_part", sum(part in squeezed for part in self.parts), 1),
        ):
            if hits >= least:
                return Finding(reason, hits, least)
        return None

    def judge(self, urls: Sequence[str | None], verdict: Verdict) -> None:
        """Mark the documents whose address is rejected. urls: n."""
        found = [self(url) if url else None for url in urls] if self.active else []
        for reason in sorted({finding.reason for finding in found if finding}):
            hits = np.array([finding is not None and finding.reason == reason for finding in found], bool)
            values, thresholds = (
                np.array([finding[field] if finding else np.nan for finding in found], np.float64) for field in (1, 2)
            )
            verdict.mark(reason, hits, values, thresholds)


def load(config: UrlConfig) -> UrlFilter:
    """The filter of a configuration, read once in a process."""
    return _load(config.model_dump_json())


@lru_cache(4)
def _load(config: str) -> UrlFilter:
    return UrlFilter(UrlConfig.model_validate_json(config))


def _entries(paths: Iterable[str], read: Callable[[str], str]) -> Iterable[str]:
    for path in paths:
        with storage.open_read(path) as file:
            content = file.read()
        try:
            lines = content.decode("utf-8").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8 text; a list has an entry a line") from None
        for number, line in enumerate(lines, 1):
            entry = "" if line.startswith("#") else line.partition(" #")[0].strip()
            if not entry:
                continue
            try:
                yield read(entry)
            except ValueError as error:
                raise UserError(f"{path}: line {number}: {error}") from None


def _domain(entry: str) -> str:
    domain = entry.lower().strip(".")
    if not _HOST.fullmatch(domain):
        raise ValueError(f"{entry!r} is no domain; write it as example.com, addresses belong to url.urls")
    return domain


def _word(entry: str) -> str:
    word = _SEPARATORS.sub("", entry.lower())
    if not word:
        raise ValueError(f"{entry!r} has no letter or digit of ASCII, so no URL holds it")
    return word


def _bare(url: str) -> str:
    return _SCHEME.sub("", url.strip()).partition("#")[0].rstrip("/").removeprefix("www.")


def _domains_of(url: str) -> list[str]:
    """The host and every domain above it: a.b.org, b.org, org."""
    try:
        host = urlsplit(url if _SCHEME.match(url) else f"//{url}").hostname or ""
    except ValueError:
        return []
    labels = host.rstrip(".").split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]
