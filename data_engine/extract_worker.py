"""The child process that parses HTML, EPUB and PDF: documents in on stdin, text out on stdout, lengths before each.

It may hang or crash: its parent (extract.py) gives each document a time limit and replaces it. It dies with its parent.
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

from data_engine.records import Media, one_line

REQUEST = struct.Struct("<BBQ")
"""What is asked for (its place in MEDIA), length of the charset's name, length of the payload; both follow."""
MEDIA: tuple[Media, ...] = ("html", "epub", "pdf")

ANSWER = struct.Struct("<BQQ")
"""Kind (OK, FAILED), length of the text or of the error, length of the licence; both follow."""
OK, FAILED = 0, 1

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve documents until stdin closes. argv: the options as JSON, the parent's process id."""
    options = json.loads(sys.argv[1])
    _die_with(int(sys.argv[2]))
    # only the text may reach the pipe, whatever a library prints
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    logging.disable(logging.CRITICAL)
    from data_engine import epub, licences, main_text, pdf
    from data_engine.charset import decode, tidy

    parse_html = main_text.parser(options["engine"], options["html"])
    memory = options["memory_mib"] << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    def parse(media: Media, payload: bytes, charset: str | None) -> tuple[str, str]:
        """Text and licence."""
        if media == "epub":
            text, rights = epub.read(payload)
            return text, licences.of_address(rights)
        if media == "pdf":
            return pdf.read(payload), ""
        return parse_html(decode(payload, charset)), licences.of_page(payload)

    while (request := _receive(sys.stdin.buffer)) is not None:
        try:
            text, licence = parse(*request)
            _send(pipe, OK, tidy(text), tidy(licence))
        except MemoryError:
            _send(pipe, FAILED, "the parser ran out of memory")
        except (epub.BookError, pdf.PaperError) as error:
            _send(pipe, FAILED, one_line(error))
        except Exception as error:  # noqa: BLE001 (whatever a parser raises costs this document alone)
            _send(pipe, FAILED, f"{type(error).__name__}: {one_line(error)}")


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _receive(stream: IO[bytes]) -> tuple[Media, bytes, str | None] | None:
    header = stream.read(REQUEST.size)
    if len(header) < REQUEST.size:
        return None
    media, charset_length, length = REQUEST.unpack(header)
    charset = stream.read(charset_length).decode("ascii", "ignore")
    return MEDIA[media], stream.read(length), charset or None


def _send(stream: Any, kind: int, content: str, licence: str = "") -> None:
    parts = [content.encode("utf-8", "replace"), licence.encode("utf-8", "replace")]
    stream.write(ANSWER.pack(kind, *map(len, parts)) + b"".join(parts))
    stream.flush()


if __name__ == "__main__":
    main()
