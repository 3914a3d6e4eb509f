"""What the routes of the door share: who answers, within which limits, and what is told beside the answers."""

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request

from serving import charge, engine_metrics, visit
from serving.admission import Gate
from serving.answer import ModelAnswer, Work
from serving.auth import Key
from serving.catalogue import Catalogue, Served
from serving.door_metrics import DoorMetrics
from serving.door_settings import DoorConfig
from serving.protocol import ModelRequest, Sampling
from serving.readiness import Readiness
from serving.responses import Reply

log = logging.getLogger("ray.serve")
_ASIDE_SECONDS = 10.0
"""For what a replica is asked beside its work."""


@dataclass
class Desk:
    """What the routes share."""

    catalogue: Catalogue
    config: DoorConfig
    metrics: DoorMetrics
    readiness: Readiness
    whole: Gate
    started: int = field(default_factory=lambda: int(time.time()))

    def answer(self, http: Request, kind: str, asked: ModelRequest, reply: Reply | None = None) -> ModelAnswer:
        """Whoever serves the model that is asked for will answer; `reply` puts it in another form.

        Raises ApiError 404 for a model that is not served here, 429 when the key has too few tokens left.
        """
        found = visit.of(http.scope)
        served = self.catalogue.resolve(asked.model)
        found.model = served.engine_name
        if self.config.audit_prompts:
            found.prompt = asked.model_dump(include={"messages", "prompt", "input"}, exclude_none=True)
        if found.allowance is not None:
            most = charge.prompt_tokens(found) + asked.tokens_asked()
            found.allowance.reserve_tokens(most)
            found.reserved_tokens = most
        body = asked.engine_body() | {"model": served.engine_name}
        stream = isinstance(asked, Sampling) and asked.stream
        if isinstance(asked, Sampling) and stream:
            body["stream_options"] = body.get("stream_options", {}) | {"include_usage": True}
        work = Work(
            served=served,
            kind=kind,
            body=body,
            stream=stream,
            usage=_wants_usage(asked),
            seconds=self.config.request_timeout_s,
            first_seconds=_patience(http, self.config.request_timeout_s),
        )
        if reply is not None:
            work = replace(work, translate=reply.stream if stream else reply.whole, failed=reply.failed)
        return ModelAnswer(work, self.whole)

    async def card(self, served: Served) -> dict[str, Any]:
        """A model as /v1/models lists it."""
        card = {"id": served.name, "object": "model", "created": self.started, "owned_by": "raymill"}
        if served.name != served.engine_name or served.parent is not None:
            card["root"] = served.engine_name
        if served.parent is not None:
            card["parent"] = served.parent
        context = await self._context(served)
        return card | ({"max_model_len": context} if context is not None else {})

    async def _context(self, served: Served) -> int | None:
        try:
            async with asyncio.timeout(_ASIDE_SECONDS):
                return await served.context()
        except Exception:
            log.exception("%s does not tell its context", served.model)
            return None

    async def all_metrics(self, key: Key | None) -> str:
        """The door's and every engine's; an engine that does not answer, or sleeps, is left out.

        What other keys used, and their names, are for operators alone.
        """
        for served in self.catalogue.models():
            self.metrics.inside.labels(served.model).set(served.gate.inside)
            self.metrics.places.labels(served.model).set(served.gate.limit)
        engines = await asyncio.gather(*map(_engine_metrics, self.catalogue.models()))
        own = key.name if key is not None and not key.operator else None
        return engine_metrics.join([self.metrics.text(own), *engines])


def _wants_usage(asked: ModelRequest) -> bool:
    return isinstance(asked, Sampling) and asked.stream_options is not None and asked.stream_options.include_usage


async def _engine_metrics(served: Served) -> str:
    try:
        async with asyncio.timeout(_ASIDE_SECONDS):
            return await served.backend.metrics()
    except Exception:
        log.exception("the metrics of %s do not come", served.model)
        return ""


def _patience(http: Request, at_most: float) -> float:
    """How long the client waits for a first byte, which OpenAI's clients tell in this header."""
    try:
        seconds = float(http.headers.get("x-stainless-read-timeout", ""))
    except ValueError:
        return at_most
    return min(seconds, at_most) if math.isfinite(seconds) and seconds > 0 else at_most
