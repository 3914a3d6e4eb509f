"""Manifests: what counts as an artifact, and digests that change exactly when content does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import manifest
from core.errors import UserError
from core.manifest import FileDigest, Manifest


def make(outputs=(("a.txt", "1"),), **changes):
    given = {
        "stage": "data.build", "schema_version": 1, "identity": "x", "config": {"output": "o"}, "inputs": [],
        "outputs": [FileDigest(path=path, digest=digest) for path, digest in outputs], "counts": {"read": 1},
        "metrics": {}, "timings": {"total": 1.5}, "versions": {}, "seed": 0,
    }  # fmt: skip
    return Manifest(**{**given, **changes})


def write(folder, made):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / manifest.NAME).write_text(made.model_dump_json())
    return folder


def test_what_is_written_is_what_is_read(tmp_path):
    made = make(metrics={"headline": ["é", 1.5, None]}, inputs=[FileDigest(path="s3://b/x", digest="d")])
    assert manifest.read(write(tmp_path, made)) == made


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"stage": "data.build"}', '"text"'])
def test_a_torn_or_foreign_manifest_makes_no_artifact(tmp_path, content):
    (tmp_path / manifest.NAME).write_text(content)
    assert manifest.read(tmp_path) is None
    with pytest.raises(UserError, match="not a finished artifact"):
        manifest.require(tmp_path)


def test_a_field_that_nobody_knows_is_no_manifest(tmp_path):
    write(tmp_path, make())
    content = json.loads((tmp_path / manifest.NAME).read_text())
    (tmp_path / manifest.NAME).write_text(json.dumps({**content, "surprise": 1}))
    assert manifest.read(tmp_path) is None


def test_the_wrong_stage_is_named(tmp_path):
    assert manifest.require(write(tmp_path, make()), "data.build").stage == "data.build"
    with pytest.raises(UserError, match=r"written by data\.build, not by train\.pretrain"):
        manifest.require(tmp_path, "train.pretrain")
    with pytest.raises(UserError, match=r"nowhere: not a finished artifact \(no manifest\.json\)"):
        manifest.require("nowhere")


outputs = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1), st.text("0123", max_size=3))
)


@given(outputs, outputs)
def test_digest_differs_exactly_when_outputs_do(one, other):
    assert (make(one).digest() == make(other).digest()) == (one == other)


def test_digest_does_not_see_when_or_how_the_outputs_came_about():
    changed = make(timings={"total": 9.0}, counts={}, seed=7, versions={"torch": "1"}, config={"output": "elsewhere"})
    assert changed.digest() == make().digest()


def test_files_have_a_digest_each_and_an_artifact_has_one(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("b.txt", "a.txt"):
        (plain / name).write_text(name)
    digests = manifest.digest_input(str(plain))
    assert [entry.path for entry in digests] == [str(plain / "a.txt"), str(plain / "b.txt")]
    assert len({entry.digest for entry in digests}) == 2

    run = write(tmp_path / "run", make())
    (run / "documents").mkdir()
    (run / "documents" / "part.parquet").write_bytes(b"1")
    for path in (run, run / "documents", run / "documents" / "*.parquet", run / "documents" / "part.parquet"):
        [entry] = manifest.digest_input(str(path))
        assert (entry.path, entry.digest) == (str(path), make().digest())


def test_content_decides_the_digest_of_a_plain_input(tmp_path):
    path = tmp_path / "x.txt"
    seen = []
    for content in ("1", "2", "1"):
        path.write_text(content)
        seen.append(manifest.digest_input(str(path))[0].digest)
    assert seen[0] == seen[2] != seen[1]


def test_an_input_that_is_not_there_is_a_users_mistake(tmp_path):
    for path in ("none.txt", "none/*.txt"):
        with pytest.raises(UserError, match="none"):
            manifest.digest_input(str(tmp_path / path))


def test_versions_are_those_installed():
    from importlib import metadata

    found = manifest.versions()
    assert found["ray"] == metadata.version("ray")
    assert {"raymill", "torch", "transformers"} <= set(found)
