"""What every request passes on its way in: accounts, a net for crashes, keys, limits of the body. Plain ASGI, because
Starlette's BaseHTTPMiddleware runs a task and a queue for each response."""

import asyncio
import logging
from collections import Counter
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
_LARGEST_TOGETHER = 64
_LARGEST_OF_KEY = 16
_OPEN_BYTES = 4096
"""Of a request without a key, whose body nobody reads."""
_AGAIN_SECONDS = 1


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
    """Stops reading a body at the limit, whatever its Content-Length said, and when it comes too slowly.

    Bodies lie in memory until their answer ends: of all of them together, and of those of one key, only so many bytes
    are inside at a time. One that does not tell its length counts as the largest until it has come. Of strangers, whom
    only open paths let in, bodies are small and count for nobody: they would take the room of those who have a key.
    """

    def __init__(
        self, app: ASGIApp, limit: int, seconds: float, together: int | None = None, of_key: int | None = None
    ) -> None:
        """`together`, `of_key`: bytes; None: as many as 64 and 16 of the largest bodies."""
        self.app = app
        self.limit = limit
        self.seconds = seconds
        self.together = together if together is not None else _LARGEST_TOGETHER * limit
        self.of_key = of_key if of_key is not None else _LARGEST_OF_KEY * limit
        self._inside: Counter[str] = Counter()
        """Bytes by the name of the key."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse by the header, or count while reading."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = visit.of(scope)
        owner = found.key.name if found.key is not None else None
        limit = self.limit if owner is not None else min(self.limit, _OPEN_BYTES)
        declared = _header(scope, b"content-length")
        size = int(declared) if declared.isdigit() else 0
        if _header(scope, b"transfer-encoding"):
            size = limit
        error = errors.too_large(limit) if size > limit else self._no_room(owner, size)
        if error is not None:
            found.error = error.code
            await respond(error)(scope, receive, send)
            return
        held = _Held(self._inside, owner)
        held.change(size)
        try:
            await self.app(scope, self._counted(receive, found, held, limit), send)
        finally:
            held.change(0)

    def _no_room(self, owner: str | None, size: int) -> ApiError | None:
        if size == 0 or owner is None:
            return None
        if self._inside[owner] + size > self.of_key:
            return _full(429, "rate_limit_error", "This key has too many bytes of requests under way")
        if self._inside.total() + size > self.together:
            return _full(503, "server_error", "There are too many bytes of requests under way")
        return None

    def _counted(self, receive: Receive, found: Visit, held: "_Held", limit: int) -> Receive:
        seen, reading = 0, True
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
            if seen > limit:
                raise HTTPException(413)
            if not reading:
                held.change(seen)
            found.body_bytes = seen
            return message

        return counted


class _Held:
    """What one request has of the bytes inside."""

    def __init__(self, inside: Counter[str], owner: str | None) -> None:
        self._inside, self._owner, self._size = inside, owner, 0

    def change(self, size: int) -> None:
        if self._owner is None:
            return
        self._inside[self._owner] += size - self._size
        self._size = size
        if self._inside[self._owner] <= 0:
            del self._inside[self._owner]


def _full(status: int, kind: str, reason: str) -> ApiError:
    message = f"{reason}; try again in {_AGAIN_SECONDS} s."
    headers = {"Retry-After": str(_AGAIN_SECONDS)}
    return ApiError(status, message, kind, code="too_many_bytes", headers=headers)
