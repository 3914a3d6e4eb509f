"""Where documents come from, and the shards that this work is cut into."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import fsspec
import pyarrow as pa
from pydantic import Field

from core import storage
from core.config import Config, InputPath
from core.errors import UserError
from core.manifest import FileDigest
from data_engine import read_tables, read_warc
from data_engine.records import Damage, Record, Skips

Format = Literal["warc", "wet", "parquet", "jsonl"]

_ENDINGS: tuple[tuple[str, Format], ...] = (
    (".warc.gz", "warc"),
    (".warc", "warc"),
    (".wet.gz", "wet"),
    (".wet", "wet"),
    (".parquet", "parquet"),
    *(((".jsonl" + ending), "jsonl") for ending in ("", ".gz", ".zst", ".bz2")),  # type: ignore[misc]
)


class Source(Config):
    """One named source of documents."""

    name: str = Field(description="the name that its documents carry; part of their ids")
    paths: list[InputPath] = Field(
        min_length=1, description="files, folders, globs or fsspec URLs; or a crawl artifact"
    )
    format: Literal["auto", "warc", "wet", "parquet", "jsonl"] = Field("auto", description="auto goes by the file name")
    text_field: str = Field("text", description="Parquet and JSONL: where a row has its text")
    url_field: str = Field("url", description="Parquet and JSONL: where a row has its url, if it has one")
    date_field: str = Field("date", description="Parquet and JSONL: where a row has its date, if it has one")

    def columns(self) -> read_tables.Columns:
        """Where its rows have their fields."""
        return read_tables.Columns(self.text_field, self.url_field, self.date_field)


@dataclass(frozen=True)
class Shard:
    """A part of a file that one task works on: bytes start..end, or row groups start..end of Parquet.

    `name` depends on the content of the input and the part alone: a shard's files are named after it.
    """

    name: str
    source: int
    file: str
    format: Format
    start: int
    end: int

    def row(self) -> dict[str, Any]:
        """As a small row for Ray Data."""
        return asdict(self)


def list_shards(sources: list[Source], digests: list[FileDigest], shard_bytes: int, rows_per_shard: int) -> list[Shard]:
    """Cut every file into shards, in order of source and file name.

    WARC.gz and JSONL are cut by bytes: a gzip member or a line belongs to the shard in which it begins. Parquet is cut
    at row groups (ray#65544: a row group is decoded whole). Files that are one compressed stream are one shard.
    """
    by_path = {digest.path: digest.digest for digest in digests}
    shards: dict[str, Shard] = {}
    for number, source in enumerate(sources):
        for file, pattern in _files(source).items():
            kind = _format(source, file)
            # an artifact has one digest for all its files; the file's name tells them apart
            content = by_path.get(file) or f"{by_path.get(pattern, '')}/{file.rpartition('/')[2]}"
            for start, end in _parts(file, kind, shard_bytes, rows_per_shard):
                copy = 0
                while (name := _name(source.name, content, start, end, kind, copy)) in shards:
                    copy += 1  # the same file under another name: its documents are read, and are duplicates
                shards[name] = Shard(name, number, file, kind, start, end)
    return list(shards.values())


def _files(source: Source) -> dict[str, str]:
    """Each file of a source once, with the pattern that named it. Raises UserError when none is of a known format."""
    files: dict[str, str] = {}
    for pattern in source.paths:
        for file in storage.list_files(pattern):
            if source.format == "auto" and not _known(file):
                if file == pattern:
                    raise UserError(f"{file}: no format goes by this name; set format of source {source.name}")
                continue
            files.setdefault(file, pattern)
    if not files:
        raise UserError(
            f"{', '.join(source.paths)}: source {source.name} holds no {', '.join(ending for ending, _ in _ENDINGS)}"
        )
    return files


def _name(source: str, content: str, start: int, end: int, kind: str, copy: int) -> str:
    return storage.digest_bytes([f"{source}\0{content}\0{start}\0{end}\0{kind}\0{copy}".encode()])


def _known(file: str) -> Format | None:
    return next((kind for ending, kind in _ENDINGS if file.endswith(ending)), None)


def _format(source: Source, file: str) -> Format:
    if source.format != "auto":
        return source.format
    kind = _known(file)
    assert kind is not None
    return kind


def _parts(file: str, kind: Format, shard_bytes: int, rows_per_shard: int) -> Iterator[tuple[int, int]]:
    if kind == "parquet":
        yield from _row_groups(file, rows_per_shard)
        return
    filesystem, path = fsspec.url_to_fs(file)
    size = int(filesystem.size(path) or 0)
    one_stream = (".gz", ".zst", ".bz2") if kind == "jsonl" else (".warc", ".wet")
    if file.endswith(one_stream):
        yield 0, 1 << 62
        return
    for start in range(0, max(size, 1), shard_bytes):
        yield start, min(start + shard_bytes, size)


def _row_groups(file: str, rows_per_shard: int) -> Iterator[tuple[int, int]]:
    try:
        groups = read_tables.parquet_row_groups(file)
    except (pa.ArrowException, OSError):
        yield 0, 0  # the shard that reads it reports the damage
        return
    start = rows = 0
    for group, count in enumerate(groups):
        if rows and rows + count > rows_per_shard:
            yield start, group
            start, rows = group, 0
        rows += count
    yield start, len(groups)


def read(shard: Shard, source: Source, max_bytes: int, skips: Skips) -> Iterator[Record | Damage]:
    """The records of a shard in the order of the file, damage among them."""
    if shard.format == "parquet":
        return read_tables.read_parquet(shard.file, shard.start, shard.end, source.columns(), max_bytes)
    if shard.format == "jsonl":
        return read_tables.read_jsonl(shard.file, shard.start, shard.end, source.columns(), max_bytes, skips)
    return read_warc.read(
        shard.file, shard.start, shard.end, not shard.file.endswith((".warc", ".wet")), max_bytes, skips
    )
