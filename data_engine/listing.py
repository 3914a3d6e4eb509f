"""The files of a source: folders, globs, URLs, data sets of the `datasets` library, manifests of a crawl."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from core import manifest, storage
from core.errors import UserError
from data_engine import formats
from data_engine.formats import Format

_STATE = "state.json"


@dataclass(frozen=True)
class SourceFile:
    """A file with its format. root: the folder that was named; content: what its shards' names depend on."""

    path: str
    format: Format
    root: str
    content: str

    @property
    def url(self) -> str:
        """Of a file that is one document: its address, or its path below the folder, wherever that lies."""
        return self.path if storage.is_remote(self.path) else os.path.relpath(self.path, self.root)


@dataclass(frozen=True)
class Listing:
    """The files of a source that are read, in order, and how many others lie among them, by kind."""

    files: list[SourceFile]
    ignored: Counter[str] = field(default_factory=Counter)


def list_source(
    name: str, paths: Sequence[str], wanted: Format | None, prefix: str, limit: int | None, digests: Mapping[str, str]
) -> Listing:
    """List a source. wanted: the format of every file; None goes by names.

    By names, files of many documents come before files that are one: beside Parquet or WARC, a README.md is no
    document. prefix, limit: see `manifest_prefix` and `manifest_files` of Source. digests: by path.
    Raises UserError when there is no file to read.
    """
    files: dict[str, SourceFile] = {}
    ignored: Counter[str] = Counter()
    for pattern in paths:
        for file in _named(pattern, prefix, limit, digests):
            kind = wanted or formats.by_name(file.path)
            if file.cache:
                ignored["file .arrow, a cache"] += 1
            elif kind is not None:
                files.setdefault(file.path, SourceFile(file.path, kind, file.root, file.content))
            elif file.path == pattern.removeprefix("file://"):
                raise UserError(f"{pattern}: no format goes by this name; set format of source {name}")
            elif not _is_artifact(pattern):
                ignored[_kind_of_other(file.path)] += 1
    listed = list(files.values())
    if wanted is None and any(file.format in formats.CONTAINERS for file in listed):
        ignored.update(_kind_of_other(file.path) for file in listed if file.format not in formats.CONTAINERS)
        listed = [file for file in listed if file.format in formats.CONTAINERS]
    if not listed:
        raise UserError(f"{', '.join(paths)}: source {name} holds no {', '.join(formats.ENDINGS)}")
    return Listing(listed, ignored)


@dataclass(frozen=True)
class _Named:
    path: str
    root: str
    content: str
    cache: bool = False


def _named(pattern: str, prefix: str, limit: int | None, digests: Mapping[str, str]) -> Iterator[_Named]:
    found = storage.list_files(pattern)
    root = _root(pattern, found)
    caches = _caches_of_data_sets(found)
    for file in found:
        # an artifact has one digest for all its files; the file's name tells them apart
        content = digests.get(file) or f"{digests.get(pattern, '')}/{storage.name_of(file)}"
        if file.endswith(formats.MANIFESTS):
            for line in _lines(file)[:limit]:
                # a listed file is what its name says: Common Crawl never changes one
                yield _Named(f"{prefix.rstrip('/')}/{line}", prefix, f"{content}/{line}")
        else:
            yield _Named(file, root, content, cache=file in caches)


def _root(pattern: str, found: Sequence[str]) -> str:
    """The folder that urls of documents begin below."""
    path = pattern.removeprefix("file://")
    return os.path.dirname(path.split("*", maxsplit=1)[0]) if found == [path] or "*" in path else path


def _lines(file: str) -> list[str]:
    with storage.open_read(file) as raw:
        content = raw.read()
    try:
        text = (gzip.decompress(content) if file.endswith(".gz") else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as a list of paths: {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{file}: this list of paths is empty")
    return lines


def _caches_of_data_sets(found: Sequence[str]) -> set[str]:
    """Arrow files beside a state.json of `save_to_disk` that it does not name: caches of transformations.

    Raises UserError when one that it names is missing.
    """
    present = set(found)
    caches: set[str] = set()
    for file in found:
        if storage.name_of(file) != _STATE:
            continue
        with storage.open_read(file) as raw:
            try:
                state = json.load(raw)
                named = {f"{file.removesuffix(_STATE)}{entry['filename']}" for entry in state["_data_files"]}
            except (ValueError, KeyError, TypeError):
                continue  # some other state.json
        if missing := sorted(named - present):
            raise UserError(f"{missing[0]}: no such file, but {file} names it; copy the data set again")
        if state.get("_indices_data_files"):
            raise UserError(f"{file}: rows are chosen by an index file; load and save it with a newer `datasets`")
        folder = file.removesuffix(_STATE)
        caches |= {one for one in present - named if one.endswith(".arrow") and os.path.dirname(one) + "/" == folder}
    return caches


def _is_artifact(pattern: str) -> bool:
    return not storage.is_remote(pattern) and os.path.isfile(os.path.join(pattern, manifest.NAME))


def _kind_of_other(file: str) -> str:
    ending = os.path.splitext(storage.name_of(file))[1].lower()
    return f"file {ending}" if ending else "file without ending"
