import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from core.config import InputPath, StageConfig
from core.errors import UserError
from core.manifest import read, require
from core.report import Report
from core.run import Run
from core.stage import Stage


class Copy(StageConfig):
    source: InputPath
    suffix: str = ""


def copy(config, run):
    run.folder("out")
    with open(config.source) as file:
        run.path("out", "copy.txt").write_text(file.read() + config.suffix)
    run.path(".scratch").write_text("x")
    return run.commit(counts={"read": 1}, report=Report("copy"))


STAGE = Stage("test.copy", 1, Copy, copy)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "in.txt").write_text("hello")
    return Copy(output=str(tmp_path / "run"), source=str(tmp_path / "in.txt"))


def test_second_run_reuses_and_a_changed_input_does_not(config, tmp_path):
    assert STAGE.execute(config)[1] is False
    assert STAGE.execute(config)[1] is True
    (tmp_path / "in.txt").write_text("changed")
    manifest, reused = STAGE.execute(config)
    assert not reused
    assert (tmp_path / "run/out/copy.txt").read_text() == "changed"
    assert [output.path for output in manifest.outputs] == ["out/copy.txt"]


def test_changed_setting_or_schema_version_or_lost_output_reruns(config, tmp_path):
    STAGE.execute(config)
    assert STAGE.execute(config.model_copy(update={"suffix": "!"}))[1] is False
    assert Stage("test.copy", 2, Copy, copy).execute(config)[1] is False
    (tmp_path / "run/out/copy.txt").unlink()
    assert Stage("test.copy", 2, Copy, copy).execute(config)[1] is False


def test_rerun_of_an_input_to_the_same_content_keeps_what_depends_on_it(config, tmp_path):
    STAGE.execute(config)
    second = Copy(output=str(tmp_path / "second"), source=str(tmp_path / "run/out/copy.txt"))
    STAGE.execute(second)
    STAGE.execute(config, force=True)
    assert STAGE.execute(second)[1] is True


def test_manifest_is_complete(config):
    STAGE.execute(config)
    content = json.loads((config_path(config) / "manifest.json").read_text())
    assert content["status"] == "complete"
    assert {"stage", "config", "inputs", "outputs", "counts", "metrics", "timings", "versions", "seed"} <= set(content)


def config_path(config):
    return Path(config.output)


def test_directory_with_foreign_files_is_left_alone(config):
    folder = config_path(config)
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files that no run wrote"):
        STAGE.execute(config)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_directory_in_use_is_refused(config):
    with Run("test.copy", 1, config), pytest.raises(UserError, match="in use by another run"):
        STAGE.execute(config)


def test_missing_input_is_named_and_nothing_is_written(config):
    with pytest.raises(UserError, match="nowhere"):
        STAGE.execute(config.model_copy(update={"source": "/nowhere/*.txt"}))
    assert not config_path(config).exists()


def test_failed_stage_leaves_no_manifest_and_resumes(config):
    def fail(config, run):
        run.path("part.txt").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Stage("test.copy", 1, Copy, fail).execute(config)
    assert read(config.output) is None
    with Run("test.copy", 1, config) as run:
        assert run.resumed
        assert run.path("part.txt").read_text() == "half"
    with Run("test.copy", 1, config.model_copy(update={"suffix": "!"})) as run:
        assert not run.resumed
        assert not run.path("part.txt").exists(), "what another configuration left is cleared"


def test_killed_process_leaves_a_directory_that_resumes(config):
    program = f"""
        import os, signal
        from core.run import Run
        from tests.core.test_run import Copy
        config = Copy(output={config.output!r}, source={config.source!r})
        with Run("test.copy", 1, config) as run:
            run.path("shard-0").write_text("done")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, cwd=os.getcwd())
    assert killed.returncode == -signal.SIGKILL
    with Run("test.copy", 1, config) as run:
        assert run.resumed
        assert run.path("shard-0").read_text() == "done"


def killed_while_opening(run, operations):
    """Open a run in a process that is killed before its file operation of that number. Returns whether it was."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = iter(range(operations))

    def counting(operation):
        def counted(*arguments, **options):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return counted

    for owner, name in ((Path, "unlink"), (Path, "replace"), (Path, "mkdir"), (Path, "rmdir"), (os, "unlink")):
        setattr(owner, name, counting(getattr(owner, name)))
    entries = Path.iterdir
    Path.iterdir = lambda folder: iter(sorted(entries(folder)))  # results before the state, whatever the disk's order
    try:
        run.__enter__()
    finally:
        os._exit(0)


def finished_with_parts(config, suffix):
    """An artifact of two folders, the first of which others may go on from."""

    def work(config, run):
        for name in ("parts/a", "parts/b", "out/a", "out/b"):
            run.folder(name.split("/")[0])
            run.path(name).write_text(suffix)
        return run.commit()

    return Stage("test.copy", 1, Copy, work, keeps=("parts",)).execute(config.model_copy(update={"suffix": suffix}))


def test_half_an_artifact_is_never_resumed_whenever_its_clearing_is_killed(config):
    killed = operations = 0
    while killed == operations:
        finished_with_parts(config, "?")
        killed += killed_while_opening(Run("test.copy", 1, config, ("parts",)), operations)
        operations += 1
        with Run("test.copy", 1, config.model_copy(update={"suffix": "?"}), ("parts",)) as run:
            assert sorted(path.name for path in run.path("parts").glob("*")) == ["a", "b"]
            assert sorted(path.name for path in run.path("out").glob("*")) in ([], ["a", "b"])
        shutil.rmtree(config_path(config))
    assert killed > 5, "it was never killed"


@pytest.mark.parametrize("anew", [False, True])
def test_what_a_run_may_go_on_from_is_all_there_or_forgotten_whenever_it_is_killed(config, anew):
    killed = operations = 0
    while killed == operations:
        finished_with_parts(config, "?")
        folder = config_path(config)
        new = Run("test.copy", 1, config.model_copy(update={"suffix": "?" if anew else "!"}), ("parts",))
        new.anew = anew
        killed += killed_while_opening(new, operations)
        operations += 1
        finished = read(folder) is not None
        assert not finished or (folder / "out/b").exists(), "half an artifact has a manifest"
        with Run("test.copy", 1, config.model_copy(update={"suffix": "other"}), ("parts",)) as run:
            assert not run.resumed
            assert not run.path("out").exists()
            parts = sorted(path.name for path in run.path("parts").glob("*"))
            if finished or not anew:
                assert parts == ["a", "b"]
                assert run.earlier().config["suffix"] == "?"
            else:
                assert parts == []
                assert run.earlier() is None
            run.path("parts/c").write_text("other") if parts else None
        shutil.rmtree(folder)
    assert killed > 5, "it was never killed"


def test_an_interrupted_run_goes_on_from_the_earlier_artifact_until_it_is_finished_or_forgets_it(config):
    finished_with_parts(config, "?")
    for _ in range(2):
        with Run("test.copy", 1, config, ("parts",)) as run:
            assert run.earlier().config["suffix"] == "?"
            assert run.path("parts/a").exists()
    assert run.resumed
    with run:
        run.forget_earlier()
        assert run.earlier() is None
        assert sorted(path.name for path in run.directory.iterdir()) == ["run.json", "run.lock", "run.log"]
    finished_with_parts(config, "!")
    with Run("test.copy", 1, config, ("parts",)) as run:
        run.commit()
        assert run.earlier() is None


def test_require_names_what_is_missing(tmp_path, config):
    with pytest.raises(UserError, match="not a finished artifact"):
        require(tmp_path)
    STAGE.execute(config)
    with pytest.raises(UserError, match=r"written by test\.copy, not by data\.build"):
        require(config.output, "data.build")


def test_what_an_interrupted_run_of_yet_another_identity_left_is_not_taken_for_the_earlier_artifacts(config):
    finished_with_parts(config, "?")
    with Run("test.copy", 1, config.model_copy(update={"suffix": "wrong"}), ("parts",)) as run:
        (run.path("parts") / "c").write_text("made with wrong settings")
    with Run("test.copy", 1, config.model_copy(update={"suffix": "!"}), ("parts",)) as run:
        assert sorted(path.name for path in run.path("parts").iterdir()) == ["a", "b"]
