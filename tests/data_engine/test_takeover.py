"""New input beside old: only the new is measured, and the result is that of a build from scratch."""

import json

import pytest

from core import config
from core.errors import UserError
from data_engine.build import STAGE
from tests.data_engine import corpora
from tests.data_engine.test_build import files_of


def build(folder, paths, **changes):
    settings = {"output": str(folder), "rules": False, **changes}
    settings["sources"] = [{"name": "web", "paths": [str(path) for path in paths]}]
    manifest, _ = STAGE.execute(config.parse(STAGE.config, settings, "test"))
    return manifest


@pytest.fixture
def files(tmp_path):
    rows = corpora.rows_of(corpora.texts(31, originals=20))
    paths = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for number, path in enumerate(paths):
        corpora.write_jsonl(path, rows[number::3])
    paths[0].write_bytes(paths[0].read_bytes() + b"{broken\n")
    return paths


@pytest.mark.slow
def test_only_new_files_are_measured_and_the_result_is_that_of_a_build_from_scratch(tmp_path, files, ray_session):
    first = build(tmp_path / "first", files[:2])
    assert first.metrics["shards"] == {"measured": 2, "reused": 0}
    before = files_of(tmp_path / "first")
    # the new file comes first: every old shard gets another number
    files = [files[2], *files[:2]]
    second = build(tmp_path / "second", files, reuse=str(tmp_path / "first"))
    assert second.metrics["shards"] == {"measured": 1, "reused": 2}
    whole = build(tmp_path / "whole", files)
    assert whole.metrics["shards"] == {"measured": 3, "reused": 0}
    assert files_of(tmp_path / "second") == files_of(tmp_path / "whole")
    assert second.counts == whole.counts
    assert second.counts["quarantined"] == 1
    assert files_of(tmp_path / "first") == before
    names = {path.name for path in (tmp_path / "first" / "measured").iterdir()}
    linked = [path for path in (tmp_path / "second" / "measured").iterdir() if path.stat().st_nlink == 2]
    assert {path.name for path in linked} == names


def test_dedup_settings_may_change_between_the_two(tmp_path, files):
    build(tmp_path / "first", files[:1])
    kept = []
    for threshold in (0.75, 0.95):
        output = tmp_path / str(threshold)
        manifest = build(output, files[:1], reuse=str(tmp_path / "first"), dedup={"threshold": threshold})
        assert manifest.metrics["shards"] == {"measured": 0, "reused": 1}
        kept.append(manifest.counts["kept"])
    assert kept[0] < kept[1]


def test_what_was_measured_otherwise_is_refused(tmp_path, files):
    build(tmp_path / "first", files[:1])
    for changes, named in [
        ({"dedup": {"shingle": 7}}, "dedup.shingle"),
        ({"max_document_bytes": 100}, "max_document_bytes"),
        ({"seed": 3}, "seed"),
        ({"rules": True}, "rules"),
    ]:
        with pytest.raises(UserError, match=f"reuse: .*first was measured with another {named};"):
            build(tmp_path / "second", files[:1], reuse=str(tmp_path / "first"), **changes)
    with pytest.raises(UserError, match="not a finished artifact"):
        build(tmp_path / "third", files[:1], reuse=str(tmp_path / "nowhere"))


def rewrite_manifest(folder, **changes):
    told = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(told | changes))
    return told


def test_what_another_version_or_parser_measured_is_refused(tmp_path, files):
    build(tmp_path / "first", files[:1])
    told = rewrite_manifest(tmp_path / "first", schema_version=1)
    with pytest.raises(
        UserError, match=rf"reuse: .*first was built .* \(schema version 1, here {STAGE.version}\); use"
    ):
        build(tmp_path / "second", files[:1], reuse=str(tmp_path / "first"))
    rewrite_manifest(tmp_path / "first", schema_version=STAGE.version, versions=told["versions"] | {"pypdf": "0.1"})
    with pytest.raises(UserError, match=r"reuse: .*first was measured with pypdf 0\.1, here \d"):
        build(tmp_path / "second", files[:1], reuse=str(tmp_path / "first"))
    # of what it does not tell, nothing can be said
    rewrite_manifest(tmp_path / "first", versions={})
    reused = build(tmp_path / "second", files[:1], reuse=str(tmp_path / "first"))
    assert reused.metrics["shards"] == {"measured": 0, "reused": 1}


@pytest.mark.parametrize("named", [False, True])
def test_files_added_to_the_input_of_the_same_output_are_measured_alone(tmp_path, files, named, ray_session):
    output = tmp_path / "run"
    changes = {"reuse": str(tmp_path / "elsewhere" / ".." / "run")} if named else {}
    (tmp_path / "elsewhere").mkdir()
    build(output, files[:2], **changes)
    kept = {path.name: path.stat().st_mtime_ns for path in (output / "measured").iterdir()}
    # one goes, one comes
    second = build(output, files[1:], **changes)
    assert second.metrics["shards"] == {"measured": 1, "reused": 1}
    whole = build(tmp_path / "whole", files[1:])
    assert files_of(output) == files_of(tmp_path / "whole")
    assert {output.path for output in second.outputs} == {output.path for output in whole.outputs}
    assert second.counts == whole.counts
    left = {path.name: path.stat().st_mtime_ns for path in (output / "measured").iterdir()}
    assert len(left.items() & kept.items()) == 1


def test_an_interrupted_build_of_the_same_output_still_has_what_was_measured(tmp_path, files, monkeypatch):
    output = tmp_path / "run"
    build(output, files[:1])
    with monkeypatch.context() as patch:
        patch.setattr("data_engine.build.map_tasks", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(output, files[:2])
    # with other thresholds, and as it was at first
    for changes in ({"dedup": {"threshold": 0.9}}, {}):
        again = build(output, files[:1], **changes)
        assert again.metrics["shards"] == {"measured": 0, "reused": 1}
    build(tmp_path / "whole", files[:1])
    assert files_of(output) == files_of(tmp_path / "whole")


def test_what_the_same_output_measured_otherwise_is_measured_anew_unless_it_was_asked_for(tmp_path, files, caplog):
    caplog.set_level("INFO")
    output = tmp_path / "run"
    build(output, files[:1])
    other = {"dedup": {"shingle": 7}}
    with pytest.raises(UserError, match=r"reuse: .*run was measured with another dedup\.shingle; use the same"):
        build(output, files[:1], reuse=str(output), **other)
    back = build(output, files[:1], seed=0, dedup={"threshold": 0.9})
    assert back.metrics["shards"] == {"measured": 0, "reused": 1}, "the refusal lost what was measured"
    anew = build(output, files[:1], **other)
    assert anew.metrics["shards"] == {"measured": 1, "reused": 0}
    assert f"what was in {output} was measured with another dedup.shingle: measured anew" in caplog.messages
    build(tmp_path / "whole", files[:1], **other)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_a_forced_build_measures_again(tmp_path, files):
    settings = {"output": str(tmp_path / "run"), "rules": False, "dedup": {"near": False}}
    parsed = config.parse(STAGE.config, settings | {"sources": [{"name": "w", "paths": [str(files[0])]}]}, "test")
    STAGE.execute(parsed)
    (measured,) = (tmp_path / "run" / "measured").iterdir()
    before = measured.stat().st_mtime_ns
    manifest, reused = STAGE.execute(parsed, force=True)
    assert not reused
    assert manifest.metrics["shards"] == {"measured": 1, "reused": 0}
    assert measured.stat().st_mtime_ns > before


def test_lists_and_models_are_compared_by_what_is_in_them(tmp_path, files):
    here, there = tmp_path / "domains.txt", tmp_path / "moved" / "domains.txt"
    there.parent.mkdir()
    for path in (here, there):
        path.write_text("casino.example\n")
    build(tmp_path / "first", files[:1], url={"domains": [str(here)]})
    moved = build(tmp_path / "second", files[:1], reuse=str(tmp_path / "first"), url={"domains": [str(there)]})
    assert moved.metrics["shards"] == {"measured": 0, "reused": 1}
    here.write_text("example.org\n")
    with pytest.raises(UserError, match=r"first was measured with another url\.domains;"):
        build(tmp_path / "third", files[:1], reuse=str(tmp_path / "first"), url={"domains": [str(here)]})


def test_thresholds_may_change_and_what_shapes_a_signal_may_not(tmp_path, files):
    loose = {"toxicity": {"enabled": False}, "gopher_repetition": {"enabled": False}, "fineweb": {"enabled": False}}
    loose |= {"gopher_quality": {"min_words": 3, "min_stop_words": None, "max_mean_word_length": None}}
    common = {"rules": True, "language": {"min_score": 0.0}}
    build(tmp_path / "first", files[:1], policies=loose, **common)
    strict = loose | {"c4": {"min_sentences": 12}, "by_language": {"en": {"gopher_quality": {"min_words": 4}}}}
    reused = build(tmp_path / "second", files[:1], policies=strict, reuse=str(tmp_path / "first"), **common)
    whole = build(tmp_path / "whole", files[:1], policies=strict, **common)
    assert reused.metrics["shards"] == {"measured": 0, "reused": 1}
    assert reused.counts == whole.counts
    assert reused.counts["rejected"]["c4:few_sentences"] > 0
    other = loose | {"c4": {"min_words_per_line": 9}}
    with pytest.raises(UserError, match=r"measured with another policies\.c4\.min_words_per_line;"):
        build(tmp_path / "third", files[:1], policies=other, reuse=str(tmp_path / "first"), **common)
