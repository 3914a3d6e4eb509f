"""Whether every model answers: a real one-token probe for each, its outcome remembered for a few seconds."""

import asyncio
import logging
import time
from contextlib import aclosing
from typing import Any

from serving.catalogue import Catalogue, Served

log = logging.getLogger("ray.serve")
_PROBE_SECONDS = 30.0
_READY_SECONDS = 5.0
_FAILED_SECONDS = 1.0


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
            async with asyncio.timeout(_PROBE_SECONDS), aclosing(served.backend.generate(kind, body)) as parts:
                await anext(parts)
        except Exception:
            log.exception("the probe of %s failed", served.name)
            return False
        return True


def _question(served: Served) -> tuple[str, dict[str, Any]]:
    if served.entry.task == "embed":
        return "embeddings", {"model": served.engine_name, "input": "a"}
    return "completions", {"model": served.engine_name, "prompt": "a", "max_tokens": 1, "temperature": 0.0}
