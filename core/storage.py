"""Files on any fsspec URL: list, read, write whole, digest."""

import errno
import glob as local_glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeGuard
from uuid import uuid4

import fsspec

from core.errors import RaymillError, UserError
from core.remote_file import open_patient

_DIGEST_BYTES = 16
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_CONTENT_FACTS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "Last-Modified")
"""S3, Google Storage and Azure, web servers: what a storage says of a file's content, the strongest first."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether a file could not grow: a full disk, a quota, a limit on the size of files."""
    return isinstance(error, OSError) and error.errno in _FULL


def is_remote(url: str) -> bool:
    """Whether `url` names another storage than this machine's files."""
    return "://" in url and not url.startswith("file://")


def name_of(url: str) -> str:
    """The last part of a path or URL."""
    return url.rpartition("/")[2]


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it. Raises UserError when none is installed that reads it."""
    protocol = url.partition("://")[0]
    try:
        found: tuple[Any, str] = fsspec.url_to_fs(url)
    except ImportError as error:
        mend = f"pip install raymill[{_EXTRAS[protocol]}]" if protocol in _EXTRAS else str(error)
        raise UserError(f"{url}: a package that reads {protocol}:// is not installed; {mend}") from None
    except ValueError as error:
        raise UserError(f"{url}: {error}; name a path, or a URL as file://, https://, s3:// or gs://") from None
    return found


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """What a storage says against being asked, as one line."""
    try:
        yield
    except (RaymillError, UserError):
        raise
    except FileNotFoundError:
        answers = ", or the server does not answer" if url.startswith("http") else ""
        raise UserError(f"{url}: no such file{answers}") from None
    except Exception as error:
        if not is_remote(url):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{url}: cannot be read: {said}; check the address and your credentials") from None


def open_read(url: str) -> IO[bytes]:
    """Open for reading, bytes as stored, seekable. Raises UserError when there is no such file.

    Reading from another machine is tried again when it fails: see `remote_file`.
    """
    with _asking(url):
        if not is_remote(url):
            return open(url.removeprefix("file://"), "rb")
        filesystem, path = filesystem_of(url)
        opened: Any = open_patient(filesystem, path, url)
        return opened  # type: ignore[no-any-return]


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = filesystem_of(url)
    return bool(filesystem.exists(path))


def list_files(pattern: str) -> list[str]:
    """The files that a path, folder or glob names, sorted. A folder means every file below it, hidden ones left out.

    A web server's folder is named with '/' at its end; its files are those that its index links to.
    Raises UserError when nothing matches.
    """
    files = _list_remote(pattern) if is_remote(pattern) else _list_local(pattern.removeprefix("file://"))
    if not files:
        raise UserError(f"{pattern}: no such file, and nothing matches it as a pattern")
    return sorted(files)


def _list_remote(pattern: str) -> list[str]:
    filesystem, path = filesystem_of(pattern)
    with _asking(pattern):
        # to ask a web server whether a file is a folder fetches the file
        folder = path.endswith("/") if pattern.startswith("http") else filesystem.isdir(path)
        found = filesystem.find(path) if folder else filesystem.glob(path)
    if folder:
        top = path.rstrip("/")
        found = [name for name in found if not _hidden(name.removeprefix(top).split("/"))]
    return [str(filesystem.unstrip_protocol(name)) for name in found]


def _list_local(path: str) -> list[str]:
    if os.path.isdir(path):
        names = Path(path).rglob("*")
        return [str(name) for name in names if name.is_file() and not _hidden(name.relative_to(path).parts)]
    if os.path.isfile(path):
        return [path]
    return [name for name in local_glob.glob(path, recursive=True) if os.path.isfile(name)]


def _hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def sizes(files: Sequence[str]) -> dict[str, int | None]:
    """Bytes of each file, None where a web server does not tell. Raises UserError when one is missing."""
    found: dict[str, int | None] = {}
    remote: dict[Any, list[str]] = {}
    for file in files:
        if is_remote(file):
            remote.setdefault(filesystem_of(file)[0], []).append(file)
        else:
            with _asking(file):
                found[file] = os.path.getsize(file.removeprefix("file://"))
    for filesystem, urls in remote.items():
        with _asking(urls[0]):  # at once where the storage can
            found |= zip(urls, filesystem.sizes([filesystem_of(url)[1] for url in urls]), strict=True)
    return found


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


def fingerprint(url: str) -> str:
    """What changes when a file changes: its digest; of a file elsewhere, what its storage tells without reading it."""
    if is_remote(url):
        filesystem, path = filesystem_of(url)
        with _asking(url):
            facts = filesystem.info(path)
        told = [f"{name}={facts[name]}" for name in _CONTENT_FACTS if facts.get(name)]
        if told:
            return digest_bytes([f"{told[0]}\0{facts.get('size')}".encode()])
    return digest_file(url)
