"""Lists of paths as Common Crawl publishes them: each listed file read below the prefix, none forgotten."""

import gzip

import pytest

from core.errors import UserError
from tests.data_engine import corpora, trees

HTML = [("Content-Type", "text/html")]
LISTED = [f"crawl-data/CC-MAIN-2026-01/segments/1.1/warc/part-{number}.warc.gz" for number in range(3)]


@pytest.fixture
def mirror(tmp_path):
    """A crawl of three files below a folder, and its list."""
    for number, name in enumerate(LISTED):
        path = tmp_path / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(corpora.warc([(f"http://h/{number}/{n}", "200 OK", HTML, b"x" * 99) for n in range(4)]))
    (tmp_path / "warc.paths.gz").write_bytes(gzip.compress("\n".join(LISTED).encode() + b"\n"))
    return tmp_path


def test_every_listed_file_below_the_prefix(mirror):
    for prefix in (f"{mirror}/mirror", f"{mirror}/mirror/", f"file://{mirror}/mirror/"):
        records, damaged, skipped = trees.read([mirror / "warc.paths.gz"], manifest_prefix=prefix, shard_bytes=1 << 20)
        assert sorted(records) == [f"http://h/{number}/{n}" for number in range(3) for n in range(4)]
        assert (damaged, skipped) == ({}, {})
    records, _, _ = trees.read([mirror / "warc.paths.gz"], manifest_prefix=f"{mirror}/mirror", manifest_files=2)
    assert len(records) == 8


def test_shards_do_not_depend_on_where_the_files_lie(mirror):
    _, here = trees.shards_of([mirror / "warc.paths.gz"], manifest_prefix=f"{mirror}/mirror")
    (mirror / "mirror").rename(mirror / "elsewhere")
    _, there = trees.shards_of([mirror / "warc.paths.gz"], manifest_prefix=f"{mirror}/elsewhere")
    assert [shard.name for shard in here] == [shard.name for shard in there]
    assert len({shard.name for shard in here}) == len(here)


def test_a_listed_file_that_is_missing_is_named(mirror):
    (mirror / "mirror" / LISTED[1]).unlink()
    with pytest.raises(UserError, match=r"part-1.warc.gz: no such file"):
        trees.read([mirror / "warc.paths.gz"], manifest_prefix=f"{mirror}/mirror")


@pytest.mark.parametrize(
    ("content", "error"), [(b"no gzip", "not readable as a list"), (gzip.compress(b"\n"), "empty")]
)
def test_a_list_that_is_none_is_named(tmp_path, content, error):
    (tmp_path / "wet.paths.gz").write_bytes(content)
    with pytest.raises(UserError, match=error):
        trees.read([tmp_path / "wet.paths.gz"])
