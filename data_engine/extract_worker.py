"""The child process that parses HTML: pages in on stdin, text out on stdout, each with its length before it.

It may hang or crash: its parent (extract.py) gives each page a time limit and replaces it. It dies with its parent.
"""

import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import struct
import sys
from typing import IO, Any

HEADER = struct.Struct("<BQ")
"""Kind (OK, FAILED) and length of what follows."""
OK, FAILED = 0, 1

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve pages until stdin closes. argv: the options as JSON, the parent's process id."""
    options = json.loads(sys.argv[1])
    _die_with(int(sys.argv[2]))
    memory = options.pop("memory_mib") << 20
    # only the text may reach the pipe, whatever a library prints
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    logging.disable(logging.CRITICAL)
    import trafilatura

    from data_engine.charset import decode, tidy

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    while (request := _receive(sys.stdin.buffer)) is not None:
        charset, payload = request
        try:
            text = trafilatura.extract(decode(payload, charset), **options) or ""
            _send(pipe, OK, tidy(text).encode())
        except MemoryError:
            _send(pipe, FAILED, b"the parser ran out of memory")
        except Exception as error:  # noqa: BLE001 (whatever a parser raises costs this page alone)
            _send(pipe, FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}".encode("utf-8", "replace"))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _receive(stream: IO[bytes]) -> tuple[str | None, bytes] | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    charset_length, length = HEADER.unpack(header)
    charset = stream.read(charset_length).decode("ascii", "ignore")
    return charset or None, stream.read(length)


def _send(stream: Any, kind: int, content: bytes) -> None:
    stream.write(HEADER.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


if __name__ == "__main__":
    main()
