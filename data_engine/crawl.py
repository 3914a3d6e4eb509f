"""The crawl: polite, resumable, every URL accounted for; WARC/1.1 out."""

import asyncio
import re
import sqlite3
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from core.config import RUNTIME, InputPath, StageConfig
from core.errors import RaymillError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from data_engine import crawl_report, robots, urls
from data_engine.crawler import Crawler
from data_engine.fetch import Fetcher
from data_engine.frontier import Frontier, State
from data_engine.warc_writer import WarcSegments


class CrawlConfig(StageConfig):
    """What to crawl, how politely, and within which limits."""

    seeds: list[str] = Field(min_length=1, description="URLs where the crawl begins")
    allow: list[str] = Field(
        default_factory=list, description="hosts or URL prefixes that belong to the crawl; default: the seeds' hosts"
    )
    deny: list[str] = Field(default_factory=list, description="regular expressions; a URL that holds one is left out")
    inputs: list[InputPath] = Field(
        default_factory=list,
        description="files that decide what the site serves; when their content changes, the crawl is out of date",
    )
    user_agent: str = Field(
        "raymill/0.1",
        description="sent with every request; its first word is what robots.txt is asked for; add how to reach you",
    )
    media_types: list[str] = Field(
        default_factory=lambda: ["text/html", "application/xhtml+xml", "text/plain"],
        description="media types (prefixes) whose pages are kept; a page without one is kept too",
    )
    sitemaps: bool = Field(True, description="also take URLs from the sitemaps that robots.txt names")

    max_pages: int | None = Field(None, ge=1, description="pages fetched; the rest stays waiting and is counted")
    max_depth: int = Field(20, ge=0, description="links from the nearest seed; bounds endless calendars")
    max_redirects: int = Field(5, ge=0, description="redirects in a row")
    max_bytes: int = Field(10_000_000, ge=1, description="size of a page, decompressed; a larger one is left out")
    max_url_length: int = Field(2000, ge=16, description="characters; crawler traps make URLs grow")
    max_seconds: Annotated[float | None, RUNTIME] = Field(
        None, gt=0, description="stop with an error after so long; running again continues"
    )

    delay_seconds: Annotated[float, RUNTIME] = Field(
        1.0, ge=0, description="between the starts of two requests to a host; a larger Crawl-delay in robots.txt wins"
    )
    connections_per_host: Annotated[int, RUNTIME] = Field(1, ge=1, description="requests at the same time to one host")
    connections: Annotated[int, RUNTIME] = Field(64, ge=1, description="requests at the same time in all")
    timeout_seconds: float = Field(30.0, gt=0, description="for one request, from connecting to the last byte")
    retries: int = Field(3, ge=0, description="after timeouts, broken connections, 408, 429 and 5xx")
    backoff_seconds: Annotated[float, RUNTIME] = Field(
        1.0, ge=0, description="before the first retry, doubling each time; a longer Retry-After wins"
    )
    max_backoff_seconds: Annotated[float, RUNTIME] = Field(
        300.0, gt=0, description="longest wait; when Retry-After asks for more, the URL fails as retry_after"
    )
    connect_to: Annotated[dict[str, str], RUNTIME] = Field(
        default_factory=dict,
        description="host or host:port to the host:port dialled instead, as curl --connect-to; URLs keep their names",
    )
    segment_bytes: int = Field(1_000_000_000, ge=1, description="a WARC segment ends when it is at least so large")

    @field_validator("seeds")
    @classmethod
    def _seeds_are_urls(cls, seeds: list[str]) -> list[str]:
        for seed in seeds:
            if urls.normalise(seed) is None:
                raise ValueError(f"{seed!r} is no URL to begin at; write it as https://example.org/")
        return seeds

    @field_validator("user_agent")
    @classmethod
    def _agent_fits_into_a_header(cls, agent: str) -> str:
        if not (agent.isascii() and agent.isprintable() and robots.product_token(agent)):
            raise ValueError(
                f"{agent!r} must be plain ASCII and begin with a name, as raymill/0.1 (+https://example.org)"
            )
        return agent

    @field_validator("deny")
    @classmethod
    def _patterns_compile(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @field_validator("allow")
    @classmethod
    def _allowed_are_hosts_or_prefixes(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            wanted = entry if "://" in entry else f"http://{entry}/"
            if urls.normalise(wanted) is None or ("://" not in entry and "/" in entry):
                raise ValueError(
                    f"{entry!r} is neither a host (example.org) nor a URL prefix (https://example.org/docs/)"
                )
        return entries

    @field_validator("connect_to")
    @classmethod
    def _targets_have_ports(cls, mapping: dict[str, str]) -> dict[str, str]:
        for target in mapping.values():
            try:
                port = urlsplit(f"//{target}").port
            except ValueError:
                port = None
            if port is None:
                raise ValueError(f"{target!r} is no host:port, as 127.0.0.1:8000")
        return mapping

    @model_validator(mode="after")
    def _seeds_are_in_scope(self) -> "CrawlConfig":
        scope = self.scope()
        for seed in self.normal_seeds():
            if (refusal := scope.refusal(seed)) is not None:
                raise ValueError(f"the seed {seed} is left out by allow, deny or max_url_length ({refusal})")
        return self

    def normal_seeds(self) -> list[str]:
        """The seeds in normal form, each once."""
        return list(dict.fromkeys(url for seed in self.seeds if (url := urls.normalise(seed)) is not None))

    def scope(self) -> urls.Scope:
        """Which URLs belong to the crawl."""
        allow = self.allow or [urls.host(seed) for seed in self.normal_seeds()]
        return urls.Scope(allow, self.deny, self.max_url_length)


def crawl(config: CrawlConfig, run: Run) -> Manifest:
    """Fetch what the seeds lead to. Raises RaymillError when a seed's host cannot be reached or no page was fetched."""
    frontier = Frontier(run.path("frontier.sqlite"))
    try:
        segments = WarcSegments(
            run.folder("warc"), config.segment_bytes, frontier.segments(), user_agent=config.user_agent
        )
        earlier = frontier.count(State.FETCHED)
        with run.timing("crawl"):
            asyncio.run(_fetch_all(config, run, frontier, segments))
        counts = _counts(frontier)
        if not counts["fetched"]:
            raise RaymillError(f"no page was fetched from {', '.join(config.seeds)}: {_explain(counts)}")
        metrics, report = crawl_report.describe(frontier, counts, run.timings["crawl"], earlier)
    except (OSError, sqlite3.Error) as error:
        raise RaymillError(f"{run.directory}: the crawl cannot be written: {error}; mend it and run again") from error
    finally:
        frontier.close()
    return run.commit(counts=counts, metrics=metrics, report=report)


async def _fetch_all(config: CrawlConfig, run: Run, frontier: Frontier, segments: WarcSegments) -> None:
    async with Fetcher(config.user_agent, config.connect_to, config.connections) as fetcher:
        with run.progress("crawl", total=config.max_pages, unit="pages") as progress:
            try:
                await Crawler(config, frontier, segments, fetcher, progress).run()
            finally:
                segments.close()


def _counts(frontier: Frontier) -> dict[str, Any]:
    """URLs by what became of them: `seen` is the sum of the states."""
    by_reason = frontier.by_reason()
    counts: dict[str, Any] = {"seen": sum(by_reason.values())}
    for state in State:
        counts[state.value] = sum(count for (name, _), count in by_reason.items() if name == state)
        if state in (State.FILTERED, State.FAILED):
            counts[f"{state.value}_by_reason"] = {
                reason: count for (name, reason), count in by_reason.items() if name == state
            }
    if counts["seen"] != sum(counts[state.value] for state in State):
        raise RaymillError(f"the frontier's states do not add up to the URLs seen: {counts}")
    return counts


def _explain(counts: dict[str, Any]) -> str:
    parts = [f"{state.value.replace('_', ' ')} {counts[state.value]}" for state in State if counts[state.value]]
    return ", ".join(parts)


STAGE = Stage(name="data.crawl", version=1, config=CrawlConfig, run=crawl)
