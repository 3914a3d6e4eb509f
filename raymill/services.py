"""Helper processes of a recipe, such as a local web site to crawl: started before a stage, stopped after it."""

import ctypes
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from pydantic import Field

from core.config import Config
from core.errors import RaymillError

_PR_SET_PDEATHSIG = 1
log = logging.getLogger("raymill.run")


class Service(Config):
    """A command that serves on a port of this machine; `${NAME.port}` in the recipe is a free port chosen at start."""

    command: list[str] = Field(description="program and arguments; `python` means the interpreter that runs Raymill")
    ready: str = Field(description="URL that answers when the service is up")
    stages: list[str] = Field(description="stages of this recipe that need the service")
    start_seconds: float = Field(60.0, gt=0, description="how long it may take to answer")


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(name: str, service: Service) -> Iterator[None]:
    """Run the service for the time of the block. Raises RaymillError when it does not come up."""
    command = [sys.executable if word == "python" else word for word in service.command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_die_with_parent,  # noqa: PLW1509  # no threads of ours hold locks here
    )
    try:
        _wait_until_ready(name, service, process)
        log.info("service %s is up", name)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _die_with_parent() -> None:
    """Linux: a driver that is killed with -9 cannot stop its services, so the kernel does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_ready(name: str, service: Service, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + service.start_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            output = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            reason = output.splitlines()[-1] if output else "no message"
            raise RaymillError(f"services.{name}: the command ended with exit code {process.returncode}: {reason}")
        try:
            httpx.get(service.ready, timeout=2)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RaymillError(f"services.{name}: no answer at {service.ready} within {service.start_seconds:.0f} s")
