"""Untrusted Python, run in a sandbox: what a model wrote is tried out without trust in it.

Covered, on Linux with namespaces (as root, or as any user where unprivileged user namespaces are allowed):

* files: a file system of its own that holds Python with its standard library, read-only, and an empty /tmp with a
  limit on its size; no /etc, no /proc, no home;
* network: none, not even the machine's own loopback;
* processes: it sees and signals none but its own; all of them die with the first one, daemons included;
* limits on time, processor time, memory, file size, number of processes, output; no core dumps;
* its environment is made anew; it holds none of the caller's open files; it gains no privileges;
* where libseccomp is installed, system calls that reach far into the kernel (ptrace, mount, bpf, io_uring, keyctl,
  sockets, ...) are refused.

Not covered: a flaw in the kernel (for hostile code of people rather than of models use a virtual machine); memory is
limited per process, so all together may take `processes` times as much, and /tmp as much as `file_bytes`; side channels
such as the processor's caches; on macOS or Windows, or in a container that forbids namespaces, it refuses to run rather
than run with less.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Literal

from core.errors import UserError

_JAIL = Path(__file__).with_name("jail.py")
_SETUP_SECONDS = 60.0
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    seconds: float = 5.0
    """By the clock."""
    cpu_seconds: int = 5
    """Processor time of each process."""
    memory_bytes: int = 256 << 20
    """Address space of each process."""
    file_bytes: int = 16 << 20
    """Of all files together."""
    processes: int = 4
    """Threads count as processes."""
    output_bytes: int = 64 << 10
    """Of standard output and error together."""


@dataclass(frozen=True)
class Result:
    """How a program ended.

    `ok`: exit code 0; `failed`: another one; `timeout`: by the clock or of processor time; `output`: it wrote more
    than allowed and was killed; `killed`: by another signal.
    """

    status: Literal["ok", "failed", "timeout", "output", "killed"]
    exit_code: int
    """Negative: the signal that ended it."""
    stdout: str
    stderr: str
    seconds: float


def run_python(program: str, limits: Limits | None = None, *, stdin: str = "") -> Result:
    """Run a Python program and wait for its end.

    It is started in /tmp as `program.py`, without site packages. Raises UserError where the machine cannot isolate it.
    """
    limits = limits or Limits()
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    with tempfile.TemporaryDirectory(prefix="raymill-sandbox-") as root, tempfile.TemporaryFile() as request:
        described = {
            "program": program,
            "input": stdin,
            "limits": asdict(limits),
            "root": root,
            "prefix": str(Path(sys.base_prefix).resolve()),
            "number": _next_number(),
        }
        request.write(json.dumps(described).encode())
        request.seek(0)
        status, status_end = os.pipe()
        try:
            process = subprocess.Popen(
                [python, "-I", "-S", "-B", _JAIL, str(status_end)],
                stdin=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
                pass_fds=[status_end],
                start_new_session=True,
            )
        finally:
            os.close(status_end)
        with os.fdopen(status, "rb") as told:
            return _watch(process, told, limits)


def _watch(process: "subprocess.Popen[bytes]", told: IO[bytes], limits: Limits) -> Result:
    """Collect what the program writes, until its end or the first limit that it breaks."""
    assert process.stdout is not None and process.stderr is not None
    parts: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    order = list(parts)
    began, deadline = time.monotonic(), time.monotonic() + _SETUP_SECONDS
    broken: Literal["timeout", "output"] | None = None
    written = 0
    try:
        with selectors.DefaultSelector() as selector:
            for source in (told, process.stdout, process.stderr):
                selector.register(source, selectors.EVENT_READ)
            while selector.get_map() and broken is None:
                for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                    chunk = os.read(key.fd, _CHUNK)
                    if key.fd == told.fileno():
                        if chunk:
                            raise UserError(_refusal(chunk.decode()))
                        began = time.monotonic()  # the program starts now
                        deadline = began + limits.seconds
                    if not chunk:
                        selector.unregister(key.fileobj)
                        continue
                    room = limits.output_bytes - written
                    parts[key.fd].append(chunk[: max(0, room)])
                    written += len(chunk)
                    broken = "output" if written > limits.output_bytes else broken
                if time.monotonic() >= deadline:
                    broken = broken or "timeout"
            if broken is None:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:  # it closed its output and goes on
                    broken = "timeout"
    finally:
        seconds = time.monotonic() - began
        process.kill()  # and with it, by the kernel, all that the program started
        process.wait()
        process.stdout.close()
        process.stderr.close()
    # exit codes from 193 on are 256 - signal: see jail.main
    code = process.returncode if process.returncode < 193 else process.returncode - 256
    stdout, stderr = (b"".join(parts[number]).decode(errors="replace") for number in order)
    return Result(broken or _status(code), code, stdout, stderr, seconds)


def _status(code: int) -> Literal["ok", "failed", "timeout", "killed"]:
    if code >= 0:
        return "failed" if code else "ok"
    return "timeout" if code == -signal.SIGXCPU else "killed"


_numbers = iter(range(1 << 30))


def _next_number() -> int:
    """Different for every run of this machine that is alive."""
    return (os.getpid() << 8 | next(_numbers) & 0xFF) & ((1 << 30) - 1)


def _refusal(reason: str) -> str:
    return (
        f"the sandbox for generated code cannot isolate a program here ({reason}); allow user namespaces "
        "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns; in a container its seccomp "
        "profile), or run as root"
    )


@cache
def check() -> None:
    """Raises UserError where no program can be isolated: asked once, before a run that will need it."""
    if sys.platform != "linux":
        raise UserError(
            "the sandbox for generated code needs Linux; leave out what runs code, or run it in a container"
        )
    result = run_python("print('works')", Limits(seconds=30, cpu_seconds=30))
    if result.stdout != "works\n":
        raise UserError(_refusal(f"a trial program ended with {result.status}: {result.stderr.strip()[-200:]}"))
