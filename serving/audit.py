"""One line of JSON for each answered request: who asked for what and what it cost; prompts only when asked for."""

import json
import logging
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path

from serving.visit import Visit

log = logging.getLogger("ray.serve")


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _PrivateFile(WatchedFileHandler):
    """Opened for its owner alone, whatever the umask says: the first time, and whenever logrotate has moved it away."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, opener=_for_the_owner)


class AuditLog:
    """Appends to a file that its owner alone reads; a file that logrotate moved away is begun anew."""

    def __init__(self, path: str | Path, prompts: bool = False) -> None:
        self._prompts = prompts
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _PrivateFile(path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(message)s"))
        self._file.handleError = self._fail  # type: ignore[method-assign,assignment]

    def write(self, visit: Visit) -> None:
        """Add the line of a request that has ended. A disk that is full is told in the log and stops no request."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": visit.client,
            "key": visit.key.name if visit.key is not None else None,
            "method": visit.method,
            "path": visit.path[:200],
            "model": visit.model,
            "status": visit.status,
            "error": visit.error,
            "prompt_tokens": visit.prompt_tokens,
            "completion_tokens": visit.completion_tokens,
            "seconds": round(visit.seconds, 4),
            "client_left": visit.gone,
        }
        if self._prompts and visit.prompt is not None:
            line["prompt"] = visit.prompt
        text = json.dumps(line, ensure_ascii=False)
        self._file.handle(logging.LogRecord("audit", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _fail(self, _: logging.LogRecord) -> None:
        log.exception("the audit log cannot be written")
