"""Checkpoints and adapters from any fsspec URL, brought to this machine once and kept in a cache."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from core import storage
from core.errors import UserError
from serving.engine import EngineSettings

_COPY_BYTES = 1 << 24


def cache_folder() -> Path:
    """Where copies lie: `raymill/models` below XDG_CACHE_HOME. Nothing there is needed while no endpoint starts."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raymill" / "models"


def identity(url: str) -> str:
    """What changes when a file of the folder changes: 32 hex characters. Raises UserError when there is no file."""
    return _identity(_files(url))


def local(url: str) -> str:
    """The folder on this machine: `url` itself when it is a path, else its copy, fetched unless it is there already.

    Files lie flat in such folders; what is below a folder of it is left out. Raises UserError when it cannot be read.
    """
    if not storage.is_remote(url):
        return os.path.abspath(url.removeprefix("file://"))
    files = _files(url)
    target = cache_folder() / f"{storage.name_of(url.rstrip('/'))[:60]}-{_identity(files)}"
    with _alone(target):
        if not target.is_dir():
            _copy(files, target)
    return str(target)


def engine_files(checkpoint: str, settings: EngineSettings) -> tuple[str, EngineSettings]:
    """Checkpoint and settings with every URL replaced by a folder on this machine."""
    draft = settings.speculative.checkpoint
    if draft is not None:
        speculative = settings.speculative.model_copy(update={"checkpoint": local(draft)})
        settings = settings.model_copy(update={"speculative": speculative})
    return local(checkpoint), settings


def _files(url: str) -> list[str]:
    if not storage.is_remote(url):
        folder = Path(url.removeprefix("file://"))
        return sorted(str(path) for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    _, top = storage.filesystem_of(url.rstrip("/"))
    found = storage.list_files(f"{url.rstrip('/')}/")
    return [file for file in found if "/" not in storage.filesystem_of(file)[1].removeprefix(f"{top.rstrip('/')}/")]


def _identity(files: list[str]) -> str:
    return storage.digest_bytes(f"{storage.name_of(file)}\0{_fingerprint(file)}\n".encode() for file in files)


def _fingerprint(file: str) -> str:
    """Large local files by size and time of change: a checkpoint is gigabytes, and this is asked at each update."""
    if storage.is_remote(file):
        return storage.fingerprint(file)
    facts = os.stat(file)
    return storage.digest_file(file) if facts.st_size < _COPY_BYTES else f"{facts.st_size} {facts.st_mtime_ns}"


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process of this machine at a time; the kernel frees the lock of one that dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy(files: list[str], target: Path) -> None:
    """Beside its place first: a folder in its place is whole."""
    part = target.with_name(f".{target.name}.{uuid4().hex}")
    part.mkdir()
    try:
        for file in files:
            with storage.open_read(file) as source, open(part / storage.name_of(file), "wb") as copy:
                shutil.copyfileobj(source, copy, _COPY_BYTES)
        part.rename(target)
    except OSError as error:
        raise UserError(f"{files[0]}: cannot be copied to {target.parent}: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
