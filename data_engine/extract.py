"""HTML, EPUB and PDF to text, each document in bounded time: a parser that hangs or crashes costs one document."""

import json
import os
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from core.config import Config
from data_engine.extract_worker import ANSWER, FAILED, MEDIA, REQUEST
from data_engine.records import Media

_START_SECONDS = 60.0
_CHUNK = 1 << 16


class ExtractionConfig(Config):
    """How main text is found."""

    engine: Literal["trafilatura", "resiliparse"] = Field(
        "trafilatura", description="for HTML; docs/data_engine.md compares their quality and speed"
    )
    focus: Literal["balanced", "precision", "recall"] = Field(
        "balanced", description="trafilatura's choice between less noise and more text; FineWeb takes precision"
    )
    tables: bool = Field(True, description="keep the text of tables")
    comments: bool = Field(False, description="keep readers' comments")
    fast: bool = Field(
        False, description="trafilatura: no second opinion from other extractors; about a third less time"
    )
    timeout_seconds: float = Field(20.0, gt=0, description="time limit of one page; beyond it, quarantine")
    book_timeout_seconds: float = Field(120.0, gt=0, description="time limit of one EPUB or PDF")
    memory_mib: int = Field(4096, ge=512, description="address space of the parsing process")

    @model_validator(mode="after")
    def _only_what_the_engine_has(self) -> Self:
        if self.engine == "resiliparse" and (self.focus != "balanced" or self.fast):
            raise ValueError("focus and fast are settings of trafilatura; remove them or set engine: trafilatura")
        return self

    def options(self) -> dict[str, object]:
        """Arguments for the child process."""
        if self.engine == "resiliparse":
            html: dict[str, object] = {
                "main_content": True,
                "alt_texts": False,
                "comments": self.comments,
                "skip_elements": [] if self.tables else ["table"],
            }
        else:
            html = {
                "favor_precision": self.focus == "precision",
                "favor_recall": self.focus == "recall",
                "include_tables": self.tables,
                "include_comments": self.comments,
                "fast": self.fast,
                # a cache of paragraphs that this process saw before: a result would depend on which pages came earlier
                "deduplicate": False,
            }
        return {"engine": self.engine, "html": html, "memory_mib": self.memory_mib}


class Extracted(NamedTuple):
    """The text of a document, empty when it has none, and the licence that it states, empty when it states none."""

    text: str
    licence: str


class ExtractionError(Exception):
    """The document gave no text: it took too long, or the parser failed."""


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

    def extract(self, payload: bytes, charset: str | None = None, media: Media = "html") -> Extracted:
        """Parse one document. Raises ExtractionError."""
        declared = (charset or "").encode("ascii", "ignore")[:255]
        request = REQUEST.pack(MEDIA.index(media), len(declared), len(payload)) + declared + payload
        seconds = self.config.timeout_seconds if media == "html" else self.config.book_timeout_seconds
        try:
            kind, content, licence = self._ask(request, seconds)
        except OSError:
            # someone may have killed the process, for lack of memory or by hand: a second death is the document's fault
            try:
                kind, content, licence = self._ask(request, seconds)
            except OSError as error:
                raise ExtractionError(f"the parser died twice ({error})") from None
        if kind == FAILED:
            raise ExtractionError(content)
        return Extracted(content, licence)

    def _ask(self, request: bytes, seconds: float) -> tuple[int, str, str]:
        process = self._process or self._start()
        # the first document waits for the imports of a new process too
        try:
            answer = _exchange(process, request, seconds + (_START_SECONDS if self._fresh else 0.0))
        except TimeoutError:
            self.close()
            raise ExtractionError(f"the parser took longer than {seconds:g} s") from None
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


def _exchange(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> tuple[int, str, str]:
    """Send a request and read the answer. Raises TimeoutError, or OSError when the process is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(into, False)
    clock = _Clock(process.pid, seconds)
    unsent = memoryview(request)
    answer = bytearray()
    wanted = ANSWER.size
    while len(answer) < wanted:
        readable, writable, _ = select.select([out], [into] if unsent else [], [], clock.left())
        if writable:
            unsent = unsent[os.write(into, unsent[:_CHUNK]) :]
        if readable:
            part = os.read(out, _CHUNK)
            if not part:
                raise BrokenPipeError
            answer += part
        if len(answer) >= ANSWER.size:
            wanted = ANSWER.size + sum(ANSWER.unpack_from(answer)[1:])
    kind, length, _ = ANSWER.unpack_from(answer)
    end = ANSWER.size + length
    return kind, answer[ANSWER.size : end].decode(), answer[end:wanted].decode()


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
