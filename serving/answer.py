"""An answer of a model over HTTP: whole or as a stream, within its deadline, for as long as its client listens.

Parts go through as they come. Nothing of a stream is parsed but the chunk that holds its token counts.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving import charge, errors, visit
from serving.admission import Gate
from serving.catalogue import Served
from serving.errors import ApiError
from serving.visit import Visit

log = logging.getLogger("ray.serve")
Parts = AsyncGenerator[str, None]
_USAGE, _NO_CHOICES = '"usage":{', '"choices":[]'  # inside of a JSON text a quote has a backslash before it
_UNCOUNTED = frozenset({"tokenize", "detokenize"})
"""What the engine does not count, since no model reads it."""
_CLIENT_LEFT = 499
_LAST_WORD_SECONDS = 1.0
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Work:
    """What a model is to do for a request."""

    served: Served
    kind: str
    """What `Backend.generate` calls it."""
    body: dict[str, Any]
    stream: bool = False
    usage: bool = True
    """Whether the client wants the chunk with the token counts."""
    seconds: float = 600.0
    """For the whole answer."""
    first_seconds: float = 600.0
    """For its first part: what the client is ready to wait."""
    translate: Callable[[Parts], Parts] | None = None
    """From the engine's answer to that of another endpoint."""
    failed: Callable[[ApiError], str] = lambda error: f"data: {json.dumps(error.body())}\n\n"
    """The last event of a stream that broke off."""


class ModelAnswer(Response):
    """Asks when it is called, so that what goes wrong before the first byte has a status of its own."""

    def __init__(self, work: Work, whole: Gate) -> None:
        """`whole`: the door's own queue, around that of the model."""
        self.work = work
        self.whole = whole
        self.background = None
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises ApiError before the first byte; after it, an error is the last event: a client must not take a
        broken answer for a whole one."""
        found = visit.of(scope)
        try:
            async with asyncio.timeout(min(self.work.seconds, self.work.first_seconds)) as limit:
                with _client_listens(receive, limit, found):
                    await charge.reserve_the_rest(found, self.work.served, self.work.kind, self.work.body)
                    await (self._stream if self.work.stream else self._whole)(found, send, limit)
        except ApiError as error:
            await self._fail(error, found, send)
        except TimeoutError:
            if limit.expired():
                self._charge_unheard(found)
            if found.gone:
                found.status = found.status or _CLIENT_LEFT
                return
            seconds = self.work.seconds if self._begun else min(self.work.seconds, self.work.first_seconds)
            await self._fail(errors.timed_out(seconds) if limit.expired() else errors.not_ready(), found, send)
        except Exception:
            if not self._begun:
                raise
            log.exception("a stream broke off")
            await self._fail(errors.internal(), found, send)
        finally:
            self._charge(found)

    def _charge(self, found: Visit) -> None:
        """What the engine counted, or what came when it did not come to that."""
        if self.work.kind in _UNCOUNTED or found.first is None:
            return
        charge.measure(found, self.work.served, self.work.body)
        charge.estimate(found, self.work.served, self.work.kind, self.work.body, 0.0)

    def _charge_unheard(self, found: Visit) -> None:
        """The engine was at work and nothing had come of it when the client, or the time, was gone."""
        if self.work.kind not in _UNCOUNTED and found.asked is not None and found.first is None:
            waited_s = time.perf_counter() - found.asked
            charge.estimate(found, self.work.served, self.work.kind, self.work.body, waited_s)

    async def _whole(self, found: Visit, send: Send, _: asyncio.Timeout) -> None:
        async with aclosing(self._translated(found)) as parts:
            text = "".join([part async for part in parts]).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        self._begun = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def _stream(self, found: Visit, send: Send, limit: asyncio.Timeout) -> None:
        deadline = asyncio.get_running_loop().time() + self.work.seconds
        async with aclosing(self._translated(found)) as parts:
            async for part in parts:
                if not self._begun:
                    limit.reschedule(deadline)
                    self._begun = True
                    await send({"type": "http.response.start", "status": 200, "headers": _stream_headers()})
                await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _translated(self, found: Visit) -> Parts:
        parts = self._parts(found)
        return self.work.translate(parts) if self.work.translate is not None else parts

    async def _parts(self, found: Visit) -> Parts:
        """The engine's parts, a place in the queue held until the last one; their times and tokens noted."""
        work = self.work
        with self.whole.admitted(), work.served.gate.admitted():
            found.asked = waiting = time.perf_counter()
            async with aclosing(work.served.backend.generate(work.kind, work.body)) as parts:
                async for part in parts:
                    found.last = time.perf_counter()
                    found.engine_s += found.last - waiting
                    if found.first is None:
                        found.first = found.last
                    found.parts += 1
                    if _USAGE in part:
                        _count(part, found)
                        if work.stream and not work.usage and _NO_CHOICES in part:
                            continue
                    yield part
                    waiting = time.perf_counter()

    async def _fail(self, error: ApiError, found: Visit, send: Send) -> None:
        found.error = error.code
        if not self._begun:
            raise error
        with suppress(TimeoutError):  # who does not read his stream will not read its end either
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await send({"type": "http.response.body", "body": self.work.failed(error).encode()})


@contextmanager
def _client_listens(receive: Receive, limit: asyncio.Timeout, found: Visit) -> Iterator[None]:
    """When the client goes away, the time is over."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        found.gone = True
        limit.reschedule(asyncio.get_running_loop().time())

    watcher = asyncio.create_task(until_gone())
    try:
        yield
    finally:
        watcher.cancel()


def _stream_headers() -> list[tuple[bytes, bytes]]:
    pairs = {"content-type": "text/event-stream; charset=utf-8"} | _STREAM_HEADERS
    return [(name.lower().encode(), value.encode()) for name, value in pairs.items()]


def _count(part: str, found: Visit) -> None:
    try:
        usage, _ = json.JSONDecoder().raw_decode(part, part.rindex(_USAGE) + len(_USAGE) - 1)
        found.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        found.completion_tokens = int(usage.get("completion_tokens") or 0)
    except (ValueError, TypeError, AttributeError):
        log.exception("token counts that are none")
