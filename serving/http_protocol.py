"""uvicorn's HTTP protocol with an end to everything that a stranger may begin.

uvicorn itself waits for ever: for headers, for the rest of a body that nobody reads, for a client that does not read.
And it keeps however many headers are sent.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import ApiError

_HEADER_SECONDS = 20.0
_HEADER_BYTES = 65_536
"""Of all headers before a body; and, apart from it, of the trailers behind one."""
_LINGER_SECONDS = 10.0
_LINGER_BYTES = 4_000_000
"""What is read of a body after its answer: who is cut off in the middle of sending may never see why."""
_TOO_LARGE = ApiError(431, f"The headers are larger than {_HEADER_BYTES:,} bytes.", code="headers_too_large")


class BoundedProtocol(HttpToolsProtocol):
    """A connection that does not send a request in time, or sends too much beside its body, is closed."""

    _timer: asyncio.TimerHandle | None = None
    _counted = 0
    """Bytes since the last body byte, or since a wait began."""
    _limit = 0
    _in_message = False
    """Between a request's headers and its end."""
    _body_came = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects has something to ask."""
        super().connection_made(transport)
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
        self._in_message = True
        self._counted, self._limit = 0, _HEADER_BYTES
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of it."""
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body and its trailers are over."""
        super().on_message_complete()
        self._in_message = False
        self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answer that came before the end of the body, which nobody reads any more."""
        super().on_response_complete()
        if self._in_message and self.cycle.response_complete:
            self._wait(_LINGER_SECONDS, _LINGER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Count what is no body: all of it before a body and after an answer, trailers behind a body."""
        self._body_came = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._timer is None and self._is_idle():
            self._wait(_HEADER_SECONDS, _HEADER_BYTES)  # uvicorn has stopped its own timer and starts it no more
        elif self._timer is not None or self._in_message:
            self._count(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return not self._in_message and (self.cycle is None or self.cycle.response_complete)

    def _count(self, size: int) -> None:
        if self._timer is None and self._body_came:
            self._counted = 0
            return
        self._counted += size
        if self._counted > self._limit:
            self._stop_waiting()
            if not self._in_message:
                self.transport.write(_response(_TOO_LARGE))
            self.transport.close()

    def _wait(self, seconds: float, size: int) -> None:
        self._stop_waiting()
        self._counted, self._limit = 0, size
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
            self.transport.close()


def _response(error: ApiError) -> bytes:
    body = json.dumps(error.body()).encode()
    head = f"HTTP/1.1 {error.status} Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
