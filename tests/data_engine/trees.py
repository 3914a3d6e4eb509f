"""Folders of files for tests, and the records that a source of them gives."""

from core.manifest import digest_input
from data_engine import sources
from data_engine.records import Damage, Record, Skips
from data_engine.sources import Source, list_shards


def write(folder, files):
    """files: {path below the folder: text or bytes}."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def shards_of(paths, shard_bytes=1000, rows=100, **settings):
    """The source and its shards."""
    source = Source(name="s", paths=[str(path) for path in paths], **settings)
    digests = [digest for path in source.paths for digest in digest_input(path)]
    return source, list_shards([source], digests, shard_bytes, rows)


def read(paths, max_bytes=100_000, **settings):
    """Records and damage by url, and what was skipped."""
    source, shards = shards_of(paths, **settings)
    skips = Skips()
    found = [one for shard in shards for one in sources.read(shard, source, max_bytes, skips)]
    records = {one.url: one for one in found if isinstance(one, Record)}
    damaged = {one.url or one.file: one for one in found if isinstance(one, Damage)}
    assert len(records) + len(damaged) == len(found), "every url once"
    return records, damaged, skips.counts
