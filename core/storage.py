"""Files on any fsspec URL: list, read, write whole, digest."""

import glob as local_glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import fsspec

from core.errors import UserError

_DIGEST_BYTES = 16


def is_remote(url: str) -> bool:
    """Whether `url` names another storage than this machine's files."""
    return "://" in url and not url.startswith("file://")


def open_read(url: str) -> IO[bytes]:
    """Open for reading, bytes as stored. Raises UserError when there is no such file."""
    try:
        opened: Any = fsspec.open(url, "rb").open()
    except FileNotFoundError:
        raise UserError(f"{url}: no such file") from None
    return opened


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = fsspec.url_to_fs(url)
    return bool(filesystem.exists(path))


def list_files(pattern: str) -> list[str]:
    """The files that a path, folder or glob names, sorted. A folder means every file below it, hidden ones left out.

    Raises UserError when nothing matches.
    """
    if is_remote(pattern):
        filesystem, path = fsspec.url_to_fs(pattern)
        found = filesystem.find(path) if filesystem.isdir(path) else filesystem.glob(path)
        files = [str(filesystem.unstrip_protocol(name)) for name in found]
    else:
        path = pattern.removeprefix("file://")
        if os.path.isdir(path):
            files = [
                str(name)
                for name in Path(path).rglob("*")
                if name.is_file() and not any(part.startswith(".") for part in name.relative_to(path).parts)
            ]
        elif os.path.isfile(path):
            files = [path]
        else:
            files = [name for name in local_glob.glob(path, recursive=True) if os.path.isfile(name)]
    if not files:
        raise UserError(f"{pattern}: no such file, and nothing matches it as a pattern")
    return sorted(files)


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a whole local file: a reader sees the old content or the new, never a part, also after a power cut."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def digest_bytes(parts: Iterable[bytes]) -> str:
    """BLAKE2b, 32 hex characters, of the parts end to end."""
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def digest_file(url: str) -> str:
    """BLAKE2b, 32 hex characters, of a file's content."""
    with open_read(url) as file:
        return digest_bytes(iter(lambda: file.read(1 << 20), b""))
