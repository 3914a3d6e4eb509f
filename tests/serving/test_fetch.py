import fsspec
import pytest

from core.errors import UserError
from serving import fetch
from serving.engine import EngineSettings, Speculative


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fetch.cache_folder()


@pytest.fixture
def remote():
    """A checkpoint in another storage: fsspec's memory."""
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/models/tiny/config.json", b"{}")
    filesystem.pipe("/models/tiny/model.safetensors", b"weights")
    filesystem.pipe("/models/tiny/runs/log.txt", b"of no use")
    yield "memory://models/tiny"
    filesystem.rm("/models", recursive=True)


def test_a_remote_folder_is_copied_once_and_again_when_it_changes(remote, cache, monkeypatch):
    folder = fetch.local(remote)
    names = {"config.json": b"{}", "model.safetensors": b"weights"}
    assert {path.name: path.read_bytes() for path in (cache / folder).iterdir()} == names
    copy = fetch._copy
    monkeypatch.setattr(fetch, "_copy", None)
    assert fetch.local(f"{remote}/") == folder
    monkeypatch.setattr(fetch, "_copy", copy)
    fsspec.filesystem("memory").pipe("/models/tiny/model.safetensors", b"other weights")
    assert fetch.local(remote) != folder


def test_a_copy_that_breaks_off_leaves_nothing_that_looks_whole(remote, cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="No space left"):
        fetch.local(remote)
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


def test_a_path_stays_where_it_is_and_its_identity_follows_its_files(tmp_path, cache):
    (tmp_path / "config.json").write_text("{}")
    before = fetch.identity(str(tmp_path))
    assert fetch.local(str(tmp_path)) == fetch.local(f"file://{tmp_path}") == str(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert fetch.identity(str(tmp_path)) != before
    assert not cache.exists()


def test_a_folder_that_is_not_there_is_said(cache):
    with pytest.raises(UserError, match="memory://models/absent"):
        fetch.local("memory://models/absent")


def test_draft_and_target_are_fetched_together(remote, cache):
    settings = EngineSettings(speculative=Speculative(method="draft_model", checkpoint=remote))
    checkpoint, found = fetch.engine_files(remote, settings)
    assert checkpoint == found.speculative.checkpoint == fetch.local(remote)
    assert found.arguments(0, {})["speculative_config"]["model"] == checkpoint
