"""The crawler's loop: rounds of URLs, workers for each host, outcomes to the frontier, pages to the WARC."""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.errors import RaymillError
from core.progress import Progress
from data_engine import links, robots, urls
from data_engine.fetch import Answer, Fetcher, FetchError, Limits
from data_engine.frontier import Entry, Found, Frontier, Outcome, Round, State
from data_engine.politeness import Host, backoff, retry_after
from data_engine.robots import Robots
from data_engine.warc_writer import WarcSegments

if TYPE_CHECKING:
    from data_engine.crawl import CrawlConfig

log = logging.getLogger("raymill.data.crawl")

_BATCH = 20_000
_COMMIT_SECONDS = 1.0
_COMMIT_PAGES = 200
_ROBOTS_REDIRECTS = 5  # RFC 9309, 2.3.1.2
_MAX_SITEMAPS = 100
_KNOWN_URLS = 200_000
_FORBIDDEN = "User-agent: *\nDisallow: /\n"


class UnreachableError(Exception):
    """An origin whose robots.txt cannot be had, which forbids to crawl it (RFC 9309, 2.3.1.4)."""


class Crawler:
    """One crawl. `run()` returns when nothing waits any more, or `max_pages` are fetched."""

    def __init__(
        self, config: "CrawlConfig", frontier: Frontier, segments: WarcSegments, fetcher: Fetcher, progress: Progress
    ) -> None:
        self._config = config
        self._frontier = frontier
        self._segments = segments
        self._fetcher = fetcher
        self._progress = progress
        self._scope = config.scope()
        self._agent = robots.product_token(config.user_agent)
        self._limits = Limits(config.timeout_seconds, config.max_bytes, tuple(config.media_types))
        self._slots = asyncio.Semaphore(config.connections)
        self._hosts: dict[str, Host] = {}
        self._known: dict[str, Round] = {}
        self._origins: dict[str, asyncio.Future[Robots]] = {}
        self._seed_hosts = {urls.host(seed) for seed in config.normal_seeds()}
        self._fetched = self._fetched_before = frontier.count(State.FETCHED)
        self._uncommitted = 0
        self._committed_at = self._began = time.monotonic()

    async def run(self) -> None:
        """Crawl round by round. Raises RaymillError when a seed's host does not answer, or time is up."""
        self._add(self._config.normal_seeds(), Round(0, 0), via=None)
        self._progress.update(self._fetched)
        try:
            while (position := self._frontier.next_round()) is not None:
                entries = self._frontier.take(position, self._budget())
                if not entries:
                    break
                await self._visit_all(entries)
                if self._out_of_time():
                    waiting = self._frontier.count(State.WAITING)
                    raise RaymillError(
                        f"the crawl's {self._config.max_seconds:g} s are over: {self._fetched} pages fetched, "
                        f"{waiting} URLs waiting; run again to continue, or raise max_seconds"
                    )
        finally:
            self._commit()

    def _budget(self) -> int:
        """How many URLs may be visited now.

        Never more than pages are left to `max_pages`: so the visited URLs are always the first ones of their round
        (in the order of their ids), and which pages a limited crawl holds does not depend on timing.
        """
        if self._config.max_pages is None:
            return _BATCH
        return min(_BATCH, self._config.max_pages - self._fetched)

    def _out_of_time(self) -> bool:
        limit = self._config.max_seconds
        return limit is not None and time.monotonic() - self._began >= limit

    # --- workers ------------------------------------------------------------------------------------------------

    async def _visit_all(self, entries: list[Entry]) -> None:
        queues: dict[str, deque[Entry]] = defaultdict(deque)
        for entry in entries:
            queues[urls.host(entry.url)].append(entry)
        try:
            async with asyncio.TaskGroup() as group:
                for name, queue in queues.items():
                    for _ in range(min(self._config.connections_per_host, len(queue))):
                        group.create_task(self._work(self._host(name), queue))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self, host: Host, queue: deque[Entry]) -> None:
        while queue and not self._out_of_time():
            entry = queue.popleft()
            outcome = await self._visit(host, entry)
            self._frontier.finish(entry, outcome)
            self._show(outcome)
            self._uncommitted += 1
            if self._uncommitted >= _COMMIT_PAGES or time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
                self._commit()

    def _host(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = Host(name, self._config.delay_seconds)
        return self._hosts[name]

    def _commit(self) -> None:
        self._frontier.commit(self._segments.sync())
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    def _show(self, outcome: Outcome) -> None:
        fetched = outcome.state is State.FETCHED
        self._fetched += fetched
        rate = (self._fetched - self._fetched_before) / max(time.monotonic() - self._began, 1e-9)
        self._progress.advance(int(fetched), pages_per_second=round(rate, 1))

    # --- one URL ------------------------------------------------------------------------------------------------

    async def _visit(self, host: Host, entry: Entry) -> Outcome:
        if host.gone:
            return Outcome(State.FAILED, "host_gone", "the host stopped answering")
        try:
            rules = await self._robots(entry)
        except UnreachableError as error:
            return Outcome(State.FAILED, "robots_unreachable", str(error))
        if not rules.allows(entry.url):
            return Outcome(State.ROBOTS_DENIED)
        try:
            answer, tries = await self._get(host, entry.url, self._limits)
        except FetchError as error:
            self._note_health(host, error)
            state = {"too_large": State.TOO_LARGE, "content_type": State.FILTERED}.get(error.reason, State.FAILED)
            reason = None if state is State.TOO_LARGE else error.reason
            return Outcome(state, reason, error.detail, tries=error.tries)
        host.unanswered = 0
        return self._keep(entry, answer, tries)

    def _note_health(self, host: Host, error: FetchError) -> None:
        """Give up on a host that no longer takes connections; the crawl fails when a seed began there."""
        if error.reason != "connect":
            return
        host.unanswered += 1
        if host.gone and host.name in self._seed_hosts:
            self._frontier.reopen(host.name, "connect")
            raise RaymillError(
                f"{host.name} stopped answering after {self._fetched} pages ({error.detail}); run again to continue"
            )

    async def _get(self, host: Host, url: str, limits: Limits) -> tuple[Answer, int]:
        """GET with retries at the host's pace. Returns the answer and how many tries it took; raises FetchError."""
        for attempt in range(self._config.retries + 1):
            last = attempt == self._config.retries
            pause = backoff(attempt, self._config.backoff_seconds, self._config.max_backoff_seconds)
            try:
                answer = await self._get_once(host, url, limits)
            except FetchError as error:
                error.tries = attempt + 1
                if last or not error.retry:
                    raise
            else:
                if not answer.retryable:
                    return answer, attempt + 1
                asked = retry_after(answer.header("retry-after"))
                if asked is not None:
                    host.pause(min(asked, self._config.max_backoff_seconds))
                    if asked > self._config.max_backoff_seconds:
                        raise FetchError("retry_after", f"{answer.status}, come back in {asked:.0f} s", retry=False)
                if last:
                    return answer, attempt + 1
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _get_once(self, host: Host, url: str, limits: Limits) -> Answer:
        while True:
            await host.wait()
            async with self._slots:
                if host.try_start():
                    return await self._fetcher.get(url, limits)

    def _keep(self, entry: Entry, answer: Answer, tries: int) -> Outcome:
        answered = Outcome(
            State.FETCHED,
            tries=tries,
            status=answer.status,
            media_type=answer.media_type() or None,
            wire_bytes=answer.wire_bytes,
        )
        if answer.status in (200, 203):
            return self._keep_page(entry, answer, answered)
        if 300 <= answer.status < 400 and answer.header("location"):
            return self._keep_redirect(entry, answer, answered)
        return answered._replace(state=State.FAILED, reason=f"http_{answer.status}", detail=answer.phrase)

    def _keep_page(self, entry: Entry, answer: Answer, answered: Outcome) -> Outcome:
        asked = answer.header("x-robots-tag")
        if answer.decoded and _is_html(answer):
            page = links.read_page(entry.url, answer.body, answer.charset(), self._agent, asked)
        else:
            page = links.PageLinks(noindex="noindex" in links.directives(asked, self._agent))
        below = Round(entry.round.depth + 1, 0)
        self._add(page.nofollow, below, via=entry.url, refusal="nofollow")
        self._add(page.follow, below, via=entry.url)
        if page.noindex:
            return answered._replace(state=State.FILTERED, reason="noindex")
        stored = self._segments.write(answer)
        return answered._replace(payload_bytes=len(answer.body), **stored._asdict())

    def _keep_redirect(self, entry: Entry, answer: Answer, answered: Outcome) -> Outcome:
        target = urls.resolve(entry.url, answer.header("location"))
        if target is None:
            return answered._replace(state=State.FAILED, reason="redirect_nowhere", detail=answer.header("location"))
        if entry.round.hops >= self._config.max_redirects:
            return answered._replace(state=State.FAILED, reason="redirect_limit", redirect=target)
        stored = self._segments.write(answer)
        self._add([target], Round(entry.round.depth, entry.round.hops + 1), via=entry.url)
        return answered._replace(state=State.REDIRECTED, redirect=target, **stored._asdict())

    def _add(self, found: Iterable[str], position: Round, via: str | None, refusal: str | None = None) -> None:
        if position.depth > self._config.max_depth:
            refusal = "max_depth"
        new = []
        for url in found:
            # Most links of a page are its site's navigation: known, and no farther than here.
            known = self._known.get(url)
            if known is not None and known <= position:
                continue
            lasting = self._scope.refusal(url)
            new.append(Found(url, urls.host(url), lasting or refusal))
            if lasting or not refusal:
                self._known[url] = position
        self._frontier.add(new, position, via)
        if len(self._known) > _KNOWN_URLS:
            self._known.clear()

    # --- robots.txt ---------------------------------------------------------------------------------------------

    async def _robots(self, entry: Entry) -> Robots:
        """The rules of a URL's origin, read once; for all its URLs. Raises UnreachableError."""
        origin = urls.origin(entry.url)
        if origin not in self._origins:
            self._origins[origin] = asyncio.ensure_future(self._read_robots(origin, entry.round))
        return await self._origins[origin]

    async def _read_robots(self, origin: str, position: Round) -> Robots:
        host = self._host(urls.host(f"{origin}/"))
        text = self._frontier.origin(origin)
        if text is not None:  # an earlier run of this crawl took in its sitemaps too
            return self._obey(host, text)
        status, text = await self._fetch_robots(host, origin)
        rules = self._obey(host, text)
        pages = await self._read_sitemaps(rules) if self._config.sitemaps else []
        # Together in one transaction: a crash between the two would lose the sitemap.
        self._frontier.add_origin(origin, status, text)
        self._add(pages, Round(position.depth + 1, 0), via=f"{origin}/robots.txt")
        return rules

    def _obey(self, host: Host, text: str) -> Robots:
        rules = Robots(text, self._config.user_agent)
        host.delay_seconds = max(host.delay_seconds, rules.delay_seconds)
        return rules

    async def _fetch_robots(self, host: Host, origin: str) -> tuple[int, str]:
        """Status and rules. A client error means that everything is allowed, a server error the contrary (RFC 9309)."""
        url = f"{origin}/robots.txt"
        try:
            for _ in range(_ROBOTS_REDIRECTS + 1):
                answer, _ = await self._get(host, url, Limits(self._config.timeout_seconds, 10 * robots.MAX_BYTES))
                location = answer.header("location")
                if not (300 <= answer.status < 400 and location):
                    break
                url = urls.resolve(url, location) or url
        except FetchError as error:
            if host.name in self._seed_hosts:
                raise RaymillError(
                    f"{origin} does not answer: {error.detail}; is the address right, is it up?"
                ) from None
            raise UnreachableError(f"{error.reason}: {error.detail}") from None
        if 200 <= answer.status < 300:
            return answer.status, answer.body[: robots.MAX_BYTES].decode("utf-8", "replace")
        if answer.retryable:
            if host.name in self._seed_hosts:
                raise RaymillError(f"{url} answers {answer.status}, which forbids to crawl the site; try again later")
            raise UnreachableError(f"robots.txt answers {answer.status}")
        return answer.status, ""

    async def _read_sitemaps(self, rules: Robots) -> list[str]:
        pages: dict[str, None] = {}
        waiting, seen = deque(rules.sitemaps), set(rules.sitemaps)
        while waiting:
            url = waiting.popleft()
            if self._scope.refusal(url) is not None or not rules.allows(url):
                continue
            try:
                limits = Limits(self._config.timeout_seconds, robots.SITEMAP_MAX_BYTES)
                answer, _ = await self._get(self._host(urls.host(url)), url, limits)
            except FetchError as error:
                log.warning("sitemap %s left out: %s", url, error.detail)
                continue
            if answer.status != 200:
                log.warning("sitemap %s left out: it answers %d", url, answer.status)
                continue
            sitemap = robots.read_sitemap(url, answer.body)
            pages.update(dict.fromkeys(sitemap.pages))
            further = [other for other in sitemap.sitemaps if other not in seen][: _MAX_SITEMAPS - len(seen)]
            seen.update(further)
            waiting.extend(further)
        return list(pages)


def _is_html(answer: Answer) -> bool:
    media_type = answer.media_type()
    return "html" in media_type or (not media_type and b"<" in answer.body[:1024])
