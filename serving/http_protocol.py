"""uvicorn's HTTP protocol with an end to what comes before a request: uvicorn itself waits for headers for ever, and
httptools keeps however many are sent."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import ApiError

_HEADER_SECONDS = 20.0
_HEADER_BYTES = 65_536
_TOO_LARGE = ApiError(431, f"The headers are larger than {_HEADER_BYTES:,} bytes.", code="headers_too_large")


class BoundedProtocol(HttpToolsProtocol):
    """A connection that does not send a request's headers in time, or sends too many, is closed."""

    _timer: asyncio.TimerHandle | None = None
    _seen = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects has something to ask."""
        super().connection_made(transport)
        self._await_headers()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._await_headers()

    def on_headers_complete(self) -> None:
        """The body has limits of its own, in the application."""
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Count until the headers are complete."""
        super().data_received(data)
        if self._timer is not None:
            self._seen += len(data)
            if self._seen > _HEADER_BYTES:
                self._stop_waiting()
                self.transport.write(_response(_TOO_LARGE))
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._stop_waiting()
        self._seen = 0
        self._timer = self.loop.call_later(_HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        answered: Any = self.cycle
        if answered is not None and not answered.response_complete:
            self._await_headers()  # an earlier request of this connection is still being answered
        else:
            self.transport.close()


def _response(error: ApiError) -> bytes:
    body = json.dumps(error.body()).encode()
    head = f"HTTP/1.1 {error.status} Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
