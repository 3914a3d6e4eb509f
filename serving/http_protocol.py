"""uvicorn's HTTP protocol with an end to everything that a stranger may begin.

uvicorn itself waits for ever: for headers, for the rest of a body that nobody reads, for a client that does not read.
And it keeps however many headers are sent.
"""

import asyncio
import json
import socket
import sys
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import ApiError

_HEADER_SECONDS = 20.0
_HEADER_BYTES = 65_536
"""Of all headers before a body; and, apart from it, of the trailers behind one."""
_LINGER_SECONDS = 10.0
_LINGER_BYTES = 4_000_000
"""What is read of a body after its answer: who is cut off in the middle of sending may never see why."""
_SEND_SECONDS = 30.0
"""For a client to read some of what lies ready for it: any of it, for a large answer takes a slow one longer."""
_TCP_INFO_BYTES = 128
_ACKNOWLEDGED = slice(120, 128)
"""`tcpi_bytes_acked` in Linux' `struct tcp_info`."""
_MAX_PIPELINED = 100
"""Requests that one connection sends ahead of their answers."""
_CROWD = 64
"""Connections beyond the limit that are told so; those beyond them are cut off."""
_HEALTH = "/health"
_RETRY_AFTER = b"5"
_FULL = ApiError(503, "Too many connections; try again in 5 s.", "server_error", code="too_many_connections")
_TOO_LARGE = ApiError(431, f"The headers are larger than {_HEADER_BYTES:,} bytes.", code="headers_too_large")


class BoundedProtocol(HttpToolsProtocol):
    """A connection that does not send a request in time, sends too much beside its body, or does not read, is closed.

    uvicorn's `limit_concurrency` is here the number of connections; those beyond it get `/health` alone.
    """

    _unread: asyncio.TimerHandle | None = None
    _timer: asyncio.TimerHandle | None = None
    _counted = 0
    """Bytes since a wait began."""
    _limit = 0
    """Of them."""
    _beside = 0
    """Bytes since the last one of a body: headers or trailers."""
    _in_message = False
    """Between a request's headers and its end."""
    _body_came = False
    """In the last data."""
    _passed = False
    """They went beyond the headers or the end of a request: there is nothing yet to count for what follows."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects has something to ask."""
        self._socket = transport.get_extra_info("socket")
        most, self.limit_concurrency = self.limit_concurrency, None  # uvicorn's own refusal says it to /health too
        super().connection_made(transport)
        if most is not None and len(self.connections) > most:
            if len(self.connections) > most + _CROWD:
                transport.abort()
                return
            self.app = _only_health(self.app)
        self._wait(_HEADER_SECONDS, _HEADER_BYTES)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._wait(_HEADER_SECONDS, _HEADER_BYTES)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of a request's headers; those behind its body say nothing to anybody here, and uvicorn would keep them."""
        if not self._in_message:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body has limits of its own, in the application."""
        self._stop_waiting()
        self._in_message = self._passed = True
        self._counted = self._beside = 0
        super().on_headers_complete()
        if len(self.pipeline) > _MAX_PIPELINED:  # uvicorn reads on with each answer: thousands come for one
            raise ValueError("too many requests ahead of their answers")

    def on_body(self, body: bytes) -> None:
        """A piece of it."""
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body and its trailers are over."""
        super().on_message_complete()
        self._in_message, self._passed = False, True
        self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answer that came before the end of the body, which nobody reads any more."""
        super().on_response_complete()
        self._mind_closing()
        if self._in_message and self.cycle.response_complete:
            self._wait(_LINGER_SECONDS, _LINGER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Count what is no body: all of it before a body and after an answer, trailers behind a body."""
        self._body_came = False
        self._passed = False
        super().data_received(data)
        if self.transport.is_closing():
            self._mind_closing()
        elif self._timer is None and self._is_idle():
            self._wait(_HEADER_SECONDS, _HEADER_BYTES)  # uvicorn has stopped its own timer and starts it no more
        elif not self._passed:
            self._count(len(data))

    def pause_writing(self) -> None:
        """The client does not read as fast as it asks: it has a while to begin again."""
        super().pause_writing()
        self._mind()

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_minding()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked."""
        super().timeout_keep_alive_handler()
        self._mind_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for."""
        self._stop_waiting()
        self._stop_minding()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return not self._in_message and (self.cycle is None or self.cycle.response_complete)

    def _count(self, size: int) -> None:
        self._beside = 0 if self._body_came else self._beside + size
        if self._timer is not None:
            self._counted += size
        if self._beside > _HEADER_BYTES or self._counted > self._limit:
            self._stop_waiting()
            if not self._in_message:
                self.transport.write(_response(_TOO_LARGE))
            self._close()

    def _wait(self, seconds: float, size: int) -> None:
        self._stop_waiting()
        self._counted, self._limit = 0, size
        self._beside = 0
        self._timer = self.loop.call_later(seconds, self._give_up, seconds, size)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self, seconds: float, size: int) -> None:
        self._timer = None
        answered: Any = self.cycle
        if answered is not None and not answered.response_complete:
            self._wait(seconds, size)  # an earlier request of this connection is still being answered
        else:
            self._close()

    def _close(self) -> None:
        self.transport.close()
        self._mind_closing()

    def _mind_closing(self) -> None:
        """asyncio closes a connection when all is read, which may be never."""
        if self.transport.is_closing():
            self._mind()

    def _mind(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(_SEND_SECONDS, self._look, self._taken())

    def _look(self, before: int) -> None:
        self._unread = None
        if self._taken() == before:
            self.transport.abort()
        else:
            self._mind()

    def _taken(self) -> int:
        """Bytes that the client's machine has taken. The transport's buffer does not tell under TLS: it leaves out what
        is encrypted already."""
        try:
            found = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # closed, which the transport is about to say
            return 0
        return int.from_bytes(found[_ACKNOWLEDGED], sys.byteorder)

    def _stop_minding(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _only_health(app: Any) -> Any:
    """Of a connection too many: it is told so, but whoever asks whether the door lives."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def closing(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        if scope["type"] != "http" or scope["path"] == _HEALTH:
            await app(scope, receive, closing)
            return
        body = json.dumps(_FULL.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"retry-after", _RETRY_AFTER))
        await closing({"type": "http.response.start", "status": _FULL.status, "headers": headers})
        await closing({"type": "http.response.body", "body": body})

    return answer


def _response(error: ApiError) -> bytes:
    body = json.dumps(error.body()).encode()
    head = f"HTTP/1.1 {error.status} Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
