"""WARC/1.1 segments that are valid up to their last committed byte, whatever happens after it."""

import io
import os
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from core.errors import RaymillError
from data_engine.fetch import Answer

_REPLACED = {"content-encoding", "content-length", "transfer-encoding"}


class Location(NamedTuple):
    """Where a response record lies: file name, first byte, bytes of its gzip member; and its payload digest."""

    segment: str
    offset: int
    length: int
    payload_digest: str


class WarcSegments:
    """Appends response and request records to `segment-NNNNN.warc.gz`, one gzip member for each record.

    folder: where they lie; committed: bytes of each segment that count. What lies behind them, from a run that was
    interrupted, is cut off.
    """

    def __init__(self, folder: Path, segment_bytes: int, committed: dict[str, int], user_agent: str) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._user_agent = user_agent
        self._file: IO[bytes] | None = None
        self._name = ""
        self._sizes = {name: size for name, size in committed.items() if size}
        for path in folder.glob("segment-*.warc.gz"):
            if path.name not in self._sizes:
                path.unlink()
        for name, size in self._sizes.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size < size:
                raise RaymillError(f"{path}: the frontier knows of more bytes than are there; delete {folder.parent}")
            os.truncate(path, size)

    def write(self, answer: Answer) -> Location:
        """Append one exchange. Raises OSError as the file system does."""
        file = self._current()
        writer = WARCWriter(file, gzip=True, warc_version="WARC/1.1")
        when = writer.curr_warc_date()
        named = {"WARC-Date": when, **({"WARC-IP-Address": answer.peer} if answer.peer else {})}
        response = writer.create_warc_record(
            answer.url,
            "response",
            payload=io.BytesIO(answer.body),
            length=len(answer.body),
            http_headers=_AsReceived(
                f"{answer.status} {answer.phrase}", _stored_headers(answer), protocol=answer.protocol
            ),
            warc_headers_dict=dict(named),
        )
        parts = urlsplit(answer.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        request = writer.create_warc_record(
            answer.url,
            "request",
            http_headers=_AsReceived(f"GET {target} HTTP/1.1", answer.request_headers, is_http_request=True),
            warc_headers_dict={
                **named,
                "WARC-Concurrent-To": response.rec_headers.get_header("WARC-Record-ID"),
            },
        )
        begin = file.tell()
        writer.write_record(response)
        end = file.tell()
        writer.write_record(request)
        self._sizes[self._name] = file.tell()
        return Location(self._name, begin, end - begin, response.rec_headers.get_header("WARC-Payload-Digest"))

    def sync(self) -> dict[str, int]:
        """Bring every byte to the disk. Returns the size of each segment, for the frontier's commit."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return dict(self._sizes)

    def close(self) -> None:
        """Close the open segment; `sync` first what must last."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _current(self) -> IO[bytes]:
        if self._file is not None and self._sizes[self._name] < self._segment_bytes:
            return self._file
        if self._file is not None:
            self.sync()
            self.close()
        self._name = max(self._sizes, default="")
        if not self._name or self._sizes[self._name] >= self._segment_bytes:
            self._name = f"segment-{len(self._sizes):05d}.warc.gz"
        self._file = (self._folder / self._name).open("ab")
        if self._file.tell() == 0:
            self._begin_segment(self._file)
        return self._file

    def _begin_segment(self, file: IO[bytes]) -> None:
        info = {
            "software": f"raymill {metadata.version('raymill')}",
            "format": "WARC File Format 1.1",
            "conformsTo": "https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
            "http-header-user-agent": self._user_agent,
            "robots": "classic",
        }
        writer = WARCWriter(file, gzip=True, warc_version="WARC/1.1")
        writer.write_record(writer.create_warcinfo_record(self._name, info))
        self._sizes[self._name] = file.tell()


class _AsReceived(StatusAndHeaders):
    """Status line and headers in the bytes that came.

    warcio percent-encodes values that are not ASCII, and fails where a reason phrase or a parameter's name is not.
    """

    def to_ascii_bytes(self, filter_func: Any = None) -> bytes:
        """What warcio writes: every character is the byte that `fetch` made it from."""
        return self.to_bytes(filter_func, "latin-1")


def _stored_headers(answer: Answer) -> list[tuple[str, str]]:
    """The payload is stored decoded, as Common Crawl does: what described the transfer is kept as X-Crawler-*."""
    replaced = _REPLACED if answer.decoded else _REPLACED - {"content-encoding"}
    headers = [(f"X-Crawler-{name}" if name.lower() in replaced else name, value) for name, value in answer.headers]
    return [*headers, ("Content-Length", str(len(answer.body)))]
