"""An HTTP server inside of a replica: the door listens itself, without Ray Serve's proxy in front of it."""

import asyncio
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from core.errors import UserError
from serving.http_protocol import BoundedProtocol

_BACKLOG = 2048
_MAX_CONNECTIONS = 2048


class Listener:
    """uvicorn on a port that the old and the new process of a rolling update share."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        certificate: str | None = None,
        certificate_key: str | None = None,
        max_connections: int | None = None,
    ) -> None:
        """`max_connections`: None is 2,048, or half of the files that this process may open, after raising its soft
        limit towards the hard one.

        Raises UserError when the address cannot be listened on.
        """
        self._socket = _bind(host, port)
        self.port = int(self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=60,
                limit_concurrency=max_connections or _most_connections(),
                ssl_certfile=certificate,
                ssl_keyfile=certificate_key,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; returns when connections are taken."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self._socket]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the server ended before it listened")
            await asyncio.sleep(0.01)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What new connections are encrypted with, once it listens; None without a certificate."""
        return self._server.config.ssl

    @property
    def alive(self) -> bool:
        """Whether it still listens."""
        return self._task is not None and not self._task.done()

    async def stop(self, grace_s: float) -> None:
        """Take no new connection, let those go on that are being answered, and cut them off after `grace_s`."""
        if self._task is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        await self._task


def _most_connections() -> int:
    """With too few files left the process could open nothing else, and take no connection to say so."""
    return max(16, min(_MAX_CONNECTIONS, _files(2 * _MAX_CONNECTIONS) // 2))


def _files(wanted: int) -> int:
    """How many of so many files this process may open: the soft limit, often 1,024, is raised towards the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft
    return most


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to Ray, whose process this is."""
        yield


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(f"port: cannot listen on {host}:{port} ({error.strerror})") from None
    listening.listen(_BACKLOG)
    return listening
