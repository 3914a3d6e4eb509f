"""The front door: an OpenAI-compatible HTTP application with keys, a finite queue and errors that tell nothing."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import errors
from serving.admission import Gate
from serving.auth import KeyRing
from serving.errors import ApiError
from serving.protocol import ChatRequest, CompletionRequest, Sampling, describe

log = logging.getLogger("ray.serve")
OPEN_PATHS = frozenset({"/health", "/ready"})
_PROBE_SECONDS = 30.0
_READY_SECONDS = 5.0
_FAILED_SECONDS = 1.0


class Backend(Protocol):
    """What the door asks of a model."""

    def generate(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """One JSON text, or server-sent events; closing the iterator ends the generation."""
        ...

    async def limits(self) -> dict[str, int]:
        """`max_model_len`."""
        ...

    async def metrics(self) -> str:
        """Prometheus' text form."""
        ...


@dataclass(frozen=True)
class DoorSettings:
    """Limits of the door."""

    max_num_seqs: int
    max_waiting: int
    max_body_bytes: int


class KeyCheck:
    """ASGI middleware: every path but `/health` and `/ready` wants a key, unknown paths too."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            headers = dict(scope["headers"])
            if not self.keys.accepts(headers.get(b"authorization", b"").decode("latin-1")):
                await _respond(errors.unauthorized())(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: stops reading a body at the limit, whatever its Content-Length said."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse by the header, or count while reading."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            await _respond(errors.too_large(self.limit))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise HTTPException(413)
            return message

        await self.app(scope, counted, send)


class Failures:
    """ASGI middleware: a crash becomes a 500 that tells nothing, and the connection lives on.

    Starlette's own handler of `Exception` raises again after the answer, and the server then resets the connection
    under the client's next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and answer when that fails before an answer has begun."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            if begun or scope["type"] != "http":
                raise
            log.exception("a request failed")
            await _respond(errors.internal())(scope, receive, send)


def build_app(models: Mapping[str, Backend], keys: Sequence[str], settings: DoorSettings) -> FastAPI:
    """The application. `models`: backend by model id; `keys`: SHA-256 digests."""
    app = FastAPI(title="Raymill", docs_url=None, redoc_url=None)
    gates = {name: Gate(settings.max_num_seqs, settings.max_waiting) for name in models}
    readiness = Readiness(models)
    started = int(time.time())
    # Added last runs first: a stranger's body is not read at all.
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(KeyCheck, keys=KeyRing(keys))
    app.add_middleware(Failures)
    _handle_errors(app, settings)

    async def answer(kind: str, request: Sampling) -> Response:
        if request.model not in models:
            raise errors.unknown_model(request.model)
        parts = admitted(models[request.model], gates[request.model], kind, request)
        if not request.stream:
            return Response("".join([part async for part in parts]), media_type="application/json")
        first = await anext(parts)  # errors come before the first part, while the status can still say so
        return StreamingResponse(
            _chain(first, parts), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        """Every model has just produced a token."""
        if not await readiness.check():
            raise errors.not_ready()
        return JSONResponse({"status": "ready"})

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The models served here."""
        return {"object": "list", "data": [await card(name) for name in models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        if name not in models:
            raise errors.unknown_model(name)
        return await card(name)

    async def card(name: str) -> dict[str, Any]:
        limits = await models[name].limits()
        return {"id": name, "object": "model", "created": started, "owned_by": "raymill", **limits}

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> Response:
        """An answer to a conversation."""
        return await answer("chat", request)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        """A continuation of a text."""
        return await answer("completions", request)

    @app.get("/metrics")
    async def metrics() -> Response:
        """The engines' metrics in Prometheus' text form."""
        return PlainTextResponse("".join([await backend.metrics() for backend in models.values()]))

    return app


async def admitted(backend: Backend, gate: Gate, kind: str, request: Sampling) -> AsyncGenerator[str, None]:
    """The parts of an answer, its place in the queue held until the last one or until the client has gone."""
    with gate.admitted():
        async with aclosing(backend.generate(kind, request.engine_body())) as parts:
            async for part in parts:
                yield part


async def _chain(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """A stream whose failure is its last event, because the status has been sent: a client must not take a broken
    answer for a whole one."""
    async with aclosing(rest):
        yield first
        try:
            async for part in rest:
                yield part
        except ApiError as error:
            yield f"data: {json.dumps(error.body())}\n\n"
        except Exception:
            log.exception("a stream broke off")
            yield f"data: {json.dumps(errors.internal().body())}\n\n"


class Readiness:
    """A real one-token probe per model, its outcome remembered for a few seconds.

    Whoever has no key may ask: there is one probe at a time, however many wait for it. An engine that stalls is not
    ready, though its process lives (ray#61263).
    """

    def __init__(self, models: Mapping[str, Backend]) -> None:
        self.models = models
        self._lock = asyncio.Lock()
        self._ready = False
        self._until = 0.0

    async def check(self) -> bool:
        """Whether every model answers."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._ready = all([await self._probe(name, backend) for name, backend in self.models.items()])
                self._until = time.monotonic() + (_READY_SECONDS if self._ready else _FAILED_SECONDS)
            return self._ready

    async def _probe(self, name: str, backend: Backend) -> bool:
        body = {"model": name, "prompt": "a", "max_tokens": 1, "temperature": 0.0}
        try:
            async with asyncio.timeout(_PROBE_SECONDS), aclosing(backend.generate("completions", body)) as parts:
                await anext(parts)
        except Exception:
            log.exception("the probe of %s failed", name)
            return False
        return True


def _handle_errors(app: FastAPI, settings: DoorSettings) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return _respond(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        message, param = describe(error.errors())
        return _respond(ApiError(400, message, param=param))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return _respond(errors.not_found())
        if error.status_code == 413:
            return _respond(errors.too_large(settings.max_body_bytes))
        return _respond(ApiError(error.status_code, str(error.detail)))


def _respond(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)
