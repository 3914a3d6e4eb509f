"""Whether every model answers: each of its engines a one-token probe, remembered for a few seconds."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from serving.catalogue import Catalogue, Served
from serving.errors import ApiError

log = logging.getLogger("ray.serve")
_PROBE_SECONDS = 30.0
_STALL_SECONDS = 25.0
_LOOK_SECONDS = 0.2
_READY_SECONDS = 5.0
_FAILED_SECONDS = 1.0


async def alive(probe: AsyncGenerator[str | ApiError, None], tokens: Callable[[], float]) -> bool:
    """Whether an engine works: it answers the probe, or writes tokens for others while that waits behind them.

    tokens: how many it has read and written so far. An engine that is merely full lives; one of which nothing comes
    for `_STALL_SECONDS`, not even the probe's token, does not.
    """
    before, until = tokens(), time.monotonic() + _STALL_SECONDS
    first = asyncio.create_task(_first(probe))
    try:
        while not first.done() and time.monotonic() < until:
            await asyncio.wait({first}, timeout=_LOOK_SECONDS)
            if tokens() > before:
                return True
        return first.done() and first.exception() is None and not isinstance(first.result(), ApiError)
    finally:
        first.cancel()
        await asyncio.wait({first})


async def _first(probe: AsyncGenerator[str | ApiError, None]) -> str | ApiError:
    async with aclosing(probe) as parts:
        return await anext(parts)


class Readiness:
    """Whoever has no key may ask: there is one round of probes at a time, however many wait for it.

    An engine that stalls is not ready, though its process lives (ray#61263). A model that may sleep is not woken.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._lock = asyncio.Lock()
        self._ready = False
        self._until = 0.0

    async def check(self) -> bool:
        """Whether every model answers; False for a door without models."""
        async with self._lock:
            if time.monotonic() >= self._until:
                models = list(self.catalogue.models())
                awake = [served for served in models if not served.entry.sleeps]
                found = await asyncio.gather(*map(self._probe, awake))
                self._ready = bool(models) and all(found)
                self._until = time.monotonic() + (_READY_SECONDS if self._ready else _FAILED_SECONDS)
            return self._ready

    async def _probe(self, served: Served) -> bool:
        kind, body = _question(served)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                answers = await served.backend.alive(kind, body)
        except Exception:
            log.exception("the probe of %s failed", served.name)
            return False
        if not answers:
            log.error("the probe of %s was not answered by each of its engines", served.name)
        return answers


def _question(served: Served) -> tuple[str, dict[str, Any]]:
    if served.entry.task == "embed":
        return "embeddings", {"model": served.engine_name, "input": "a"}
    return "completions", {"model": served.engine_name, "prompt": "a", "max_tokens": 1, "temperature": 0.0}
