import hashlib

import pytest

from core import storage
from core.errors import UserError


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    storage.write_atomic(path, "old")
    with pytest.raises(TypeError):
        storage.write_atomic(path, object())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"], "no temporary file stays"


def test_digest_is_blake2b_of_the_content(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(content)
    assert storage.digest_file(str(tmp_path / "x")) == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_listing_is_sorted_and_skips_hidden_files(tmp_path):
    for name in ("b.txt", "a.txt", ".part", "sub/c.txt", ".scratch/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [name.removeprefix(f"{tmp_path}/") for name in storage.list_files(str(tmp_path))] == [
        "a.txt",
        "b.txt",
        "sub/c.txt",
    ]


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing matches"):
        storage.list_files(str(tmp_path / "*.parquet"))


def test_memory_filesystem_is_read_like_a_disk():
    import fsspec

    with fsspec.open("memory://bucket/a.txt", "wb") as file:
        file.write(b"x")
    assert storage.list_files("memory://bucket/*.txt") == ["memory:///bucket/a.txt"]
    assert storage.digest_file("memory://bucket/a.txt") == storage.digest_bytes([b"x"])
