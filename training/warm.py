"""Training processes forked from one that has its imports done: torch and transformers take seconds, a fork does not.

A server belongs to a node and a key. The first caller starts it; it imports the training code once, and forks a
process for each call. So the second worker of a node, and those that replace a killed worker, begin at once. It ends
when the last call has ended well, or when none has come for a while.

multiprocessing's own forkserver ends with the process that started it, and here that is a worker which may be lost.

Forking is safe as long as nothing has run: imports start no threads that hold locks, and CUDA is first touched in the
fork. A fork ends with its caller, however that ends: it sees the connection close.
"""

import fcntl
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from core.errors import RaymillError

Say = Callable[..., None]
"""What a fork is given to speak with: keyword arguments, JSON-able, that reach its caller's `heard`."""

_IDLE_SECONDS = 45.0
"""A group of workers is replaced within 10 to 20 s; later than this, the next one imports for itself."""
_POLL_SECONDS = 0.5
_START_SECONDS = 60.0


def call(
    key: str, module: str, function: str, arguments: Mapping[str, Any], heard: Callable[[dict[str, Any]], None]
) -> None:
    """Run `function(say, **arguments)` in a fork of the server for `key`, and wait for its end.

    module: what the server imports before it forks; function: as `package.module:name`; arguments: JSON-able; heard:
    gets what the fork says, in this thread. The fork has this process's environment and output. Raises RuntimeError
    with the fork's last words when it failed, or when it was killed.
    """
    with suppress(ConnectionError), _connected(key, module) as connection:
        socket.send_fds(connection, [b"."], [1, 2])
        with connection.makefile("rw", encoding="utf-8") as stream:
            json.dump({"function": function, "arguments": arguments, "environment": dict(os.environ)}, stream)
            stream.write("\n")
            stream.flush()
            for line in stream:
                message = json.loads(line)
                if "said" in message:
                    heard(message["said"])
                elif message["failed"] is None:
                    return
                else:
                    raise RuntimeError(message["failed"])
    raise RuntimeError("the training process was killed")


@contextmanager
def _connected(key: str, module: str) -> Iterator[socket.socket]:
    """A connection to the server, which is started where there is none. One caller at a time looks."""
    path = Path(tempfile.gettempdir()) / f"raymill-{os.getuid()}-{key}.sock"
    connection = socket.socket(socket.AF_UNIX)
    with connection, path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            connection.connect(str(path))
        except OSError:
            _start(path, module)
            connection.connect(str(path))
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield connection


def _start(path: Path, module: str) -> None:
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "training.warm", str(path), module]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no process to fork from came up within {_START_SECONDS:.0f} s")
        time.sleep(0.01)


# --- the server ---------------------------------------------------------------------------------------------------


def serve(path: Path, module: str) -> None:
    """Import `module`, then fork for whoever connects, until nobody needs it any more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        os.chmod(f"{path}.new", 0o600)
        os.rename(f"{path}.new", path)  # callers may connect from now on; they wait while this imports
        importlib.import_module(module)
        listener.settimeout(_POLL_SECONDS)
        try:
            _fork_for_all(listener)
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)


def _fork_for_all(listener: socket.socket) -> None:
    context = get_context("fork")
    last: Any = None
    idle_since = time.monotonic()
    while True:
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            last = context.Process(target=_answer, args=(connection, listener))
            last.start()
            connection.close()
        if active_children():  # which also takes note of those that have ended
            idle_since = time.monotonic()
        elif (last is not None and last.exitcode == 0) or time.monotonic() - idle_since > _IDLE_SECONDS:
            return


def _answer(connection: socket.socket, listener: socket.socket) -> None:
    """In the fork: take the call, do the work, say how it ended. Exit code 1 when trying again may help."""
    listener.close()
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    stream = connection.makefile("rw", encoding="utf-8")
    request = json.loads(stream.readline())
    done = threading.Event()
    threading.Thread(target=_end_with, args=(connection, done), daemon=True).start()
    os.environ.clear()
    os.environ.update(request["environment"])

    def send(message: dict[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    module, _, name = request["function"].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        function(lambda **said: send({"said": said}), **request["arguments"])
    except BaseException as error:  # noqa: BLE001 (its caller raises it)
        traceback.print_exc()
        done.set()
        send({"failed": f"{type(error).__name__}: {error}"})
        sys.exit(not isinstance(error, RaymillError))
    done.set()
    send({"failed": None})


def _end_with(connection: socket.socket, done: threading.Event) -> None:
    """End this process when its caller is gone, even in the middle of a step: another one may take its place."""
    if not connection.recv(1) and not done.is_set():
        os._exit(1)


if __name__ == "__main__":
    # In a session of its own and nobody's child: Ray kills the children of a worker that it stops.
    if os.fork():
        os._exit(0)
    os.setsid()
    serve(Path(sys.argv[1]), sys.argv[2])
