"""New input beside old: only the new is measured, and the result is that of a build from scratch."""

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
