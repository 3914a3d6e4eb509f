import json
import os
import signal
import subprocess
import sys
import textwrap

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
    from pathlib import Path

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


def test_require_names_what_is_missing(tmp_path, config):
    with pytest.raises(UserError, match="not a finished artifact"):
        require(tmp_path)
    STAGE.execute(config)
    with pytest.raises(UserError, match=r"written by test\.copy, not by data\.build"):
        require(config.output, "data.build")
