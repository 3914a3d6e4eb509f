"""Where documents come from, and the shards that this work is cut into."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
from pydantic import Field

from core import storage
from core.config import Config, InputPath
from core.manifest import FileDigest
from data_engine import formats, licences, read_arrow, read_code, read_files, read_tables, read_warc
from data_engine.formats import Format
from data_engine.listing import SourceFile, list_source
from data_engine.read_warc import MimeType
from data_engine.records import Damage, Record, Skips

_WHOLE = 1 << 62


class Source(Config):
    """One named source of documents."""

    name: str = Field(description="the name that its documents carry; part of their ids")
    paths: list[InputPath] = Field(
        min_length=1,
        description="files, folders, globs or fsspec URLs; a crawl artifact; a saved data set; a list of paths such as "
        "warc.paths.gz",
    )
    format: Format | Literal["auto"] = Field(
        "auto", description="auto goes by the file name; code takes a tree of source code"
    )
    text_field: str = Field("text", description="Parquet, JSONL, Arrow: where a row has its text")
    url_field: str = Field("url", description="Parquet, JSONL, Arrow: where a row has its url, if it has one")
    date_field: str = Field("date", description="Parquet, JSONL, Arrow: where a row has its date, if it has one")
    licence_field: str = Field("license", description="Parquet, JSONL, Arrow: where a row has its licence, if it has")
    mime_types: list[MimeType] = Field(
        list(read_warc.WEB_PAGES),
        min_length=1,
        description="WARC: responses of other types are counted and passed over",
    )
    min_bytes: int = Field(0, ge=0, description="smaller payloads are counted and passed over")
    max_bytes: int | None = Field(
        None, ge=1, description="a longer payload goes to quarantine; null takes max_document_bytes"
    )
    manifest_prefix: str = Field(
        "https://data.commoncrawl.org/", description="what stands before each line of a list of paths: URL or folder"
    )
    manifest_files: int | None = Field(None, ge=1, description="read the first so many of a list of paths")

    def columns(self) -> read_tables.Columns:
        """Where its rows have their fields."""
        return read_tables.Columns(self.text_field, self.url_field, self.date_field, self.licence_field)


@dataclass(frozen=True)
class Shard:
    """What one task works on: bytes start..end of a file, row groups start..end of Parquet, or several whole files.

    `name` depends on the content of the input and the part alone: a shard's files are named after it.
    """

    name: str
    source: int
    file: str
    format: Format
    start: int = 0
    end: int = _WHOLE
    files: tuple[SourceFile, ...] = ()
    """Files that are one document each; `file` is the first of them."""
    licence_files: tuple[SourceFile, ...] = ()
    """Source code: the licence files of the folders above `files`."""
    ignored: tuple[tuple[str, int], ...] = ()
    """Files of the source that are not read, by kind; they are told by its first shard."""


def list_shards(sources: list[Source], digests: list[FileDigest], shard_bytes: int, rows_per_shard: int) -> list[Shard]:
    """Cut every file into shards, in order of source and file name.

    WARC.gz and JSONL are cut by bytes: a gzip member or a line belongs to the shard in which it begins. Parquet is cut
    at row groups (ray#65544: a row group is decoded whole), Arrow at record batches. Files that are one compressed
    stream are one shard. Files that are one document each are put together.
    """
    by_path = {digest.path: digest.digest for digest in digests}
    shards: dict[str, Shard] = {}
    for number, source in enumerate(sources):
        wanted = None if source.format == "auto" else source.format
        listing = list_source(source.name, source.paths, wanted, source.manifest_prefix, source.manifest_files, by_path)
        ignored = tuple(sorted(listing.ignored.items()))
        for content, shard in _cut(listing.files, shard_bytes, rows_per_shard):
            content = f"{content}\0{ignored}" if ignored else content  # noqa: PLW2901 (its counts are in its files)
            copy = 0
            named = f"{source.name}\0{content}".encode(errors="surrogatepass")  # a file's name may be no UTF-8
            while (name := storage.digest_bytes([named, f"\0{copy}".encode()])) in shards:
                copy += 1  # the same file under another name: its documents are read, and are duplicates
            shards[name] = replace(shard, name=name, source=number, ignored=ignored)
            ignored = ()
    return list(shards.values())


def _cut(files: list[SourceFile], shard_bytes: int, rows_per_shard: int) -> Iterator[tuple[str, Shard]]:
    """The shards of a source, yet without name and source; and what each name depends on."""
    sizes = storage.sizes([file.path for file in files])
    for file in files:
        if file.format in formats.CONTAINERS:
            for start, end in _parts(file, sizes[file.path], shard_bytes, rows_per_shard):
                content = f"{file.content}\0{start}\0{end}\0{file.format}"
                yield content, Shard("", 0, file.path, file.format, start, end)
    for kind in sorted({file.format for file in files} - set(formats.CONTAINERS)):
        whole = [file for file in files if file.format == kind]
        beside = [file for file in whole if kind == "code" and licences.is_licence_file(storage.name_of(file.path))]
        for together in _bundles(whole, sizes, shard_bytes, rows_per_shard):
            folders = {folder for file in together for folder in licences.folders_above(file.path, file.root)}
            above = tuple(file for file in beside if licences.folder_of(file.path) in folders)
            content = "\0".join([kind, *(f"{file.content}\0{file.url}" for file in (*together, *above))])
            yield content, Shard("", 0, together[0].path, kind, files=tuple(together), licence_files=above)


def _bundles(
    files: list[SourceFile], sizes: Mapping[str, int | None], most_bytes: int, most_files: int
) -> Iterator[list[SourceFile]]:
    """Files in order, together up to so many bytes and so many."""
    together: list[SourceFile] = []
    filled = 0
    for file in files:
        size = sizes[file.path] or 0
        if together and (filled + size > most_bytes or len(together) >= most_files):
            yield together
            together, filled = [], 0
        together.append(file)
        filled += size
    if together:
        yield together


def _parts(file: SourceFile, size: int | None, shard_bytes: int, rows_per_shard: int) -> Iterator[tuple[int, int]]:
    if file.format in ("parquet", "arrow"):
        count = read_tables.parquet_row_groups if file.format == "parquet" else read_arrow.batch_rows
        try:
            groups = count(file.path)
        except (pa.ArrowException, OSError):
            groups = []  # the shard that reads it reports the damage
        yield from _groups_together(groups, rows_per_shard)
        return
    one_stream = (".gz", ".zst", ".bz2") if file.format == "jsonl" else (".warc", ".wet")
    if size is None or file.path.endswith(one_stream):
        yield 0, _WHOLE
        return
    for start in range(0, max(size, 1), shard_bytes):
        yield start, min(start + shard_bytes, size)


def _groups_together(groups: list[int], most_rows: int) -> Iterator[tuple[int, int]]:
    start = rows = 0
    for group, count in enumerate(groups):
        if rows and rows + count > most_rows:
            yield start, group
            start, rows = group, 0
        rows += count
    yield start, len(groups)


def read(shard: Shard, source: Source, max_bytes: int, skips: Skips) -> Iterator[Record | Damage]:
    """The records of a shard in the order of the file, damage among them."""
    for kind, count in shard.ignored:
        skips.add(kind, count)
    for found in _read(shard, source, source.max_bytes or max_bytes, skips):
        if isinstance(found, Record) and len(found.payload) < source.min_bytes:
            skips.add("smaller than min_bytes")
        else:
            yield found


def _read(shard: Shard, source: Source, max_bytes: int, skips: Skips) -> Iterator[Record | Damage]:
    match shard.format:
        case "parquet":
            return read_tables.read_parquet(shard.file, shard.start, shard.end, source.columns(), max_bytes)
        case "arrow":
            return read_arrow.read(shard.file, shard.start, shard.end, source.columns(), max_bytes)
        case "jsonl":
            return read_tables.read_jsonl(shard.file, shard.start, shard.end, source.columns(), max_bytes, skips)
        case "warc" | "wet":
            compressed = not shard.file.endswith((".warc", ".wet"))
            return read_warc.read(shard.file, shard.start, shard.end, compressed, max_bytes, skips, source.mime_types)
        case "code":
            return read_code.read(shard.files, shard.licence_files, max_bytes, skips)
        case _:
            return read_files.read(shard.files, shard.format, max_bytes, skips)
