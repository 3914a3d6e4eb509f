"""Folders of files that are one document each: every file is a record, damage, or counted."""

import pytest

from core.errors import UserError
from data_engine import sources
from data_engine.records import Damage, Skips
from data_engine.sources import list_shards
from tests.data_engine import books, corpora, trees

FILES = {
    "a.txt": "plain",
    "sub/b.md": "# Title\n",
    "sub/c.html": corpora.page("words"),
    "book.epub": books.epub({"a.xhtml": (books.xhtml("<p>x</p>"), "")}),
    "paper.PDF": books.pdf([["x"]]),
    "picture.png": b"\x89PNG",
    "Thumbs": "x",
}


def test_every_file_is_one_document_of_its_kind(tmp_path):
    records, damaged, skipped = trees.read([trees.write(tmp_path, FILES)])
    assert {url: record.media for url, record in records.items()} == {
        "a.txt": "text",
        "sub/b.md": "text",
        "sub/c.html": "html",
        "book.epub": "epub",
        "paper.PDF": "pdf",
    }
    assert records["a.txt"].payload == b"plain"
    assert damaged == {}
    assert skipped == {"file .png": 1, "file without ending": 1}


def test_ids_do_not_depend_on_where_the_folder_lies_nor_on_how_it_is_named(tmp_path):
    one, two = trees.write(tmp_path / "one", FILES), trees.write(tmp_path / "two" / "deeper", FILES)
    ids = [
        {record.id("s") for record in trees.read([path])[0].values()}
        for path in (one, two, f"{one}/", f"{one}/**/*.*", f"file://{one}")
    ]
    assert len(ids[0]) == 5
    assert all(found == ids[0] for found in ids[1:])


def test_beside_files_of_many_documents_a_readme_is_no_document(tmp_path):
    corpora.write_jsonl(tmp_path / "train.jsonl", corpora.rows_of(["a", "b"]))
    trees.write(tmp_path, {"README.md": "about", "notes.txt": "x"})
    records, _, skipped = trees.read([tmp_path])
    assert len(records) == 2
    assert skipped == {"file .md": 1, "file .txt": 1}
    assert list(trees.read([tmp_path / "README.md"])[0]) == ["README.md"], "unless it is named itself"


def test_a_format_asked_for_takes_every_file_that_is_one(tmp_path):
    trees.write(
        tmp_path, {"README": "text without an ending", "x.png": b"\x89PNG\0\0", "u16": "Grüße".encode("utf-16")}
    )
    records, damaged, skipped = trees.read([tmp_path], format="text")
    assert set(records) == {"README", "u16"}
    assert (damaged, skipped) == ({}, {"binary file": 1})


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path):
    trees.write(
        tmp_path, {"a.pdf": "<html>404</html>", "b.epub": b"", "c.txt": b"\0\1\2", "d.txt": "x" * 50, "e.txt": ""}
    )
    records, damaged, _ = trees.read([tmp_path], max_bytes=40)
    assert set(records) == {"e.txt"}
    assert {url: one.error for url, one in damaged.items()} == {
        "a.pdf": "not a PDF",
        "b.epub": "not an EPUB",
        "c.txt": "binary file",
        "d.txt": "the file is longer than max_document_bytes (40)",
    }


def test_limits_of_a_source(tmp_path):
    trees.write(tmp_path, {f"{size}.txt": "x" * size for size in (0, 5, 10, 20)})
    records, _, skipped = trees.read([tmp_path], min_bytes=6, max_bytes=1000)
    assert set(records) == {"10.txt", "20.txt"}
    assert skipped == {"smaller than min_bytes": 2}
    _, shards = trees.shards_of([tmp_path])
    assert len(shards) == 1


def test_files_are_put_together_by_size_and_number(tmp_path):
    trees.write(tmp_path, {f"{number:03}.txt": "x" * 100 for number in range(25)})
    _, shards = trees.shards_of([tmp_path], shard_bytes=1000)
    assert [len(shard.files) for shard in shards] == [10, 10, 5]
    _, shards = trees.shards_of([tmp_path], rows=4)
    assert [len(shard.files) for shard in shards] == [4, 4, 4, 4, 4, 4, 1]
    _, again = trees.shards_of([tmp_path], rows=4)
    assert again == shards
    (tmp_path / "013.txt").write_text("y")
    _, changed = trees.shards_of([tmp_path], rows=4)
    assert [a.name == b.name for a, b in zip(shards, changed, strict=True)] == [True] * 3 + [False] + [True] * 3


def test_a_file_that_goes_away_before_it_is_read_is_damage(tmp_path):
    trees.write(tmp_path, {"a.txt": "x", "b.txt": "y"})
    source, shards = trees.shards_of([tmp_path])
    (tmp_path / "a.txt").unlink()
    found = list(sources.read(shards[0], source, 100, Skips()))
    assert [type(one) is Damage for one in found] == [True, False]
    with pytest.raises(UserError, match="no such file"):
        list_shards([source.model_copy(update={"paths": [str(tmp_path / "a.txt")]})], [], 10, 10)
