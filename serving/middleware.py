"""What every request passes on its way in: accounts, a net for crashes, keys, limits of the body. Plain ASGI, because
Starlette's BaseHTTPMiddleware runs a task and a queue for each response."""

import asyncio
import logging
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import errors, visit
from serving.auth import KeyRing
from serving.errors import ApiError
from serving.quota import Quotas
from serving.visit import Visit

log = logging.getLogger("ray.serve")


def respond(error: ApiError) -> JSONResponse:
    """The error as a response."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


class Accounts:
    """Opens a `Visit` for each request and closes it: the key is charged, metrics and audit log hear of it."""

    def __init__(self, app: ASGIApp, closed: Callable[[Visit], None]) -> None:
        self.app = app
        self.closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and remember the status."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = visit.begin(scope)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                found.status = message["status"]
                if found.allowance is not None:
                    message["headers"] = [*message["headers"], *found.allowance.headers()]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = scope.get("route")
            found.route = getattr(route, "path", "none")
            found.settle()
            self.closed(found)


class Failures:
    """A crash becomes a 500 that tells nothing, and the connection lives on.

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
            await respond(errors.internal())(scope, receive, send)


class KeyCheck:
    """Every path but the open ones wants a key, unknown paths too; a key may have used up its requests."""

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str], open_pages: frozenset[str]) -> None:
        """`open_paths` are open to every method, `open_pages` to GET and HEAD."""
        self.app = app
        self.keys = keys
        self.open_paths = open_paths
        self.open_pages = open_pages
        self.quotas = Quotas()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "http" and not self._is_open(scope):
            key = self.keys.find(_header(scope, b"authorization"))
            found = visit.of(scope)
            if key is None:
                found.error = errors.unauthorized().code
                await respond(errors.unauthorized())(scope, receive, send)
                return
            found.key = key
            found.allowance = self.quotas.of(key)
            try:
                found.allowance.take_request()
            except ApiError as error:
                found.error = error.code
                await respond(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return path in self.open_paths or (path in self.open_pages and scope["method"] in ("GET", "HEAD"))


class BodyLimit:
    """Stops reading a body at the limit, whatever its Content-Length said, and when it comes too slowly."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse by the header, or count while reading."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = _header(scope, b"content-length")
        if declared.isdigit() and int(declared) > self.limit:
            await respond(errors.too_large(self.limit))(scope, receive, send)
            return
        seen, reading, found = 0, True, visit.of(scope)
        deadline = asyncio.get_running_loop().time() + self.seconds

        async def counted() -> Message:
            nonlocal seen, reading
            if not reading:  # what comes after the body is the end of the connection, which may take its time
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408) from None
            reading = bool(message.get("more_body", False))
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise HTTPException(413)
            found.body_bytes = seen
            return message

        await self.app(scope, counted, send)
