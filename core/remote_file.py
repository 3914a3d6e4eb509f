"""Reading from object stores and web servers, which fail now and then."""

import io
import logging
import time
from typing import Any

from core.errors import RaymillError, UserError

_WAITS = (1.0, 2.0, 4.0, 8.0)
_LATER = frozenset({408, 425, 429})
"""Request timeout, too early, too many requests: answers of the 4xx that mean another time."""

_BUFFER = 1 << 20
_LOG = logging.getLogger("raymill.storage")


def open_patient(filesystem: Any, path: str, url: str) -> io.BufferedReader:
    """A file of an fsspec filesystem, seekable; an open or a read that fails is tried again on a new connection.

    Raises FileNotFoundError or PermissionError when the storage says so, UserError when a server serves no parts of
    files, RaymillError when opening or reading fails five times: what a reader takes for damage of a file is never the
    network.
    """
    return io.BufferedReader(_PatientFile(filesystem, path, url), _BUFFER)


class _PatientFile(io.RawIOBase):
    def __init__(self, filesystem: Any, path: str, url: str) -> None:
        self._filesystem, self._path, self._url = filesystem, path, url
        self._file: Any = None
        self._position = 0
        self._size = self._again(lambda file: file.size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size is not None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size or 0}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        def fill(file: Any) -> bytes:
            if file.tell() != self._position:
                file.seek(self._position)
            return bytes(file.read(len(buffer)))

        part = self._again(fill)
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _again(self, ask: Any) -> Any:
        """What `ask` returns of the opened file, after as many tries as it takes."""
        for wait in (*_WAITS, None):
            try:
                if self._file is None:
                    self._file = self._filesystem.open(self._path, "rb")
                return ask(self._file)
            except Exception as error:  # every storage raises its own client's errors
                if _is_refused(error):
                    raise
                if "range requests" in str(error):
                    raise UserError(
                        f"{self._url}: this server does not serve parts of files (HTTP range requests); copy it first"
                    ) from None
                cause = error.__cause__ or error
                said = " ".join(str(cause).split()) or type(cause).__name__
                if wait is None:
                    raise RaymillError(
                        f"{self._url}: reading failed {len(_WAITS) + 1} times at byte {self._position:,} ({said}); "
                        "run it again later, what is done is kept"
                    ) from error
                _LOG.warning("%s: %s; trying again in %g s", self._url, said, wait)
                self._file = None
                time.sleep(wait)
        raise AssertionError("unreachable")


def _is_refused(error: Exception) -> bool:
    """Whether a storage says that the file is not there, or not for us.

    fsspec's HTTP filesystem says so of every failure to open; what happened is in the cause, with a status or without.
    """
    cause = error.__cause__
    if isinstance(cause, (TimeoutError, ConnectionError)):
        return False
    if isinstance(error, FileNotFoundError) and type(cause).__module__.startswith(("aiohttp", "asyncio")):
        status = getattr(cause, "status", 0)
        return 400 <= status < 500 and status not in _LATER
    return isinstance(error, (FileNotFoundError, PermissionError))
