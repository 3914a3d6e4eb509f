"""HTML to main text with trafilatura, each page in bounded time: a parser that hangs or crashes costs one page."""

import json
import os
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Literal

from pydantic import Field

from core.config import Config
from data_engine.extract_worker import FAILED, HEADER

_START_SECONDS = 60.0
_CHUNK = 1 << 16


class ExtractionConfig(Config):
    """How main text is found."""

    focus: Literal["balanced", "precision", "recall"] = Field(
        "balanced", description="trafilatura's choice between less noise and more text; FineWeb takes precision"
    )
    tables: bool = Field(True, description="keep the text of tables")
    comments: bool = Field(False, description="keep readers' comments")
    fast: bool = Field(False, description="no second opinion from other extractors; about a third less time")
    timeout_seconds: float = Field(20.0, gt=0, description="time limit of one page; beyond it, quarantine")
    memory_mib: int = Field(4096, ge=512, description="address space of the parsing process")

    def options(self) -> dict[str, object]:
        """Arguments for the child process."""
        return {
            "favor_precision": self.focus == "precision",
            "favor_recall": self.focus == "recall",
            "include_tables": self.tables,
            "include_comments": self.comments,
            "fast": self.fast,
            # a cache of paragraphs that this process saw before: the result would depend on which pages came earlier
            "deduplicate": False,
            "memory_mib": self.memory_mib,
        }


class ExtractionError(Exception):
    """The page gave no text: it took too long, or the parser failed."""


class Extractor:
    """A context manager around the parsing process. `extract` restarts it where it hung or died."""

    def __init__(self, config: ExtractionConfig) -> None:
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._fresh = True

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def extract(self, payload: bytes, charset: str | None = None) -> str:
        """The main text of a page, empty when it has none. Raises ExtractionError."""
        declared = (charset or "").encode("ascii", "ignore")[:255]
        request = HEADER.pack(len(declared), len(payload)) + declared + payload
        try:
            kind, content = self._ask(request)
        except OSError:
            # someone may have killed the process, for lack of memory or by hand: a second death is the page's fault
            try:
                kind, content = self._ask(request)
            except OSError as error:
                raise ExtractionError(f"the parser died twice ({error})") from None
        if kind == FAILED:
            raise ExtractionError(content.decode("utf-8", "replace"))
        return content.decode("utf-8")

    def _ask(self, request: bytes) -> tuple[int, bytes]:
        process = self._process or self._start()
        # the first page waits for the imports of a new process too
        limit = self.config.timeout_seconds + (_START_SECONDS if self._fresh else 0.0)
        try:
            answer = _exchange(process, request, limit)
        except TimeoutError:
            self.close()
            raise ExtractionError(f"the parser took longer than {self.config.timeout_seconds:g} s") from None
        except OSError:
            code = process.wait()
            self.close()
            raise OSError(f"{'signal' if code < 0 else 'exit code'} {abs(code)}") from None
        self._fresh = False
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        self._fresh = True
        self._process = subprocess.Popen(
            [sys.executable, "-m", "data_engine.extract_worker", json.dumps(self.config.options()), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        return self._process


def _exchange(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> tuple[int, bytes]:
    """Send a request and read the answer. Raises TimeoutError, or OSError when the process is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(into, False)
    clock = _Clock(process.pid, seconds)
    unsent = memoryview(request)
    answer = bytearray()
    wanted = HEADER.size
    while len(answer) < wanted:
        readable, writable, _ = select.select([out], [into] if unsent else [], [], clock.left())
        if writable:
            unsent = unsent[os.write(into, unsent[:_CHUNK]) :]
        if readable:
            part = os.read(out, _CHUNK)
            if not part:
                raise BrokenPipeError
            answer += part
        if len(answer) >= HEADER.size:
            wanted = HEADER.size + HEADER.unpack_from(answer)[1]
    return HEADER.unpack_from(answer)[0], bytes(answer[HEADER.size : wanted])


class _Clock:
    """A limit on the processor time of another process, and ten times as much on the clock on the wall.

    Processor time, so that a busy machine does not send other pages to quarantine than an idle one.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self.seconds = seconds
        self._pid = pid
        self._used = self._cpu_seconds()
        self._deadline = time.monotonic() + 10 * seconds

    def left(self) -> float:
        """Seconds until it is worth looking again. Raises TimeoutError when the time is up."""
        wall = self._deadline - time.monotonic()
        cpu = self.seconds - (self._cpu_seconds() - self._used)
        if wall <= 0 or cpu <= 0:
            raise TimeoutError
        return min(wall, cpu)

    def _cpu_seconds(self) -> float:
        # clock_getcpuclockid(3): the id of a process's clock is ~pid << 3 | 2
        try:
            return time.clock_gettime((~self._pid) << 3 | 2)
        except OSError:
            return 0.0
