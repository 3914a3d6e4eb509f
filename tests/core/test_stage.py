"""Stage.execute: reuse, force, and the check that turns what an artifact says into a failure, each time."""

import logging

import pytest

from core import manifest
from core.config import StageConfig
from core.errors import RaymillError
from core.stage import Stage


class Count(StageConfig):
    number: int = 1


class Once(Count):
    @property
    def reusable(self):
        return False


@pytest.fixture
def ran():
    return []


@pytest.fixture
def make(ran):
    def work(config, run):
        ran.append(run.resumed)
        run.path("out.txt").write_text(str(config.number))
        return run.commit(metrics={"number": config.number})

    def check(done):
        if done.metrics["number"] > 10:
            raise RaymillError(f"{done.metrics['number']} is too much")

    return lambda config=Count, checked=True: Stage("test.count", 1, config, work, check if checked else None)


def test_force_runs_again_what_is_up_to_date(tmp_path, make, ran):
    config = Count(output=str(tmp_path / "run"))
    stage = make()
    assert [stage.execute(config)[1], stage.execute(config)[1], stage.execute(config, force=True)[1]] == [
        False, True, False,
    ]  # fmt: skip
    assert ran == [False, False], "a forced run of finished work is a new one, not one that was interrupted"


def test_a_forced_run_finds_nothing_of_the_finished_one_and_goes_on_when_it_was_interrupted(tmp_path):
    found = []

    def work(config, run):
        found.append(sorted(path.name for path in run.directory.glob("part*")))
        run.path(f"part-{len(found)}").write_text("x")
        if len(found) == 2:
            raise ValueError("broken")
        return run.commit()

    stage, config = Stage("test.count", 1, Count, work), Count(output=str(tmp_path / "run"))
    stage.execute(config)
    with pytest.raises(ValueError, match="broken"):
        stage.execute(config, force=True)
    stage.execute(config, force=True)
    assert found == [[], [], ["part-2"]]


def test_a_stage_that_leaves_something_running_is_never_reused(tmp_path, make, ran):
    config = Once(output=str(tmp_path / "run"))
    assert [make(Once).execute(config)[1] for _ in range(2)] == [False, False]
    assert len(ran) == 2


def test_a_failed_check_leaves_the_artifact_and_fails_again_when_reused(tmp_path, make, ran, caplog):
    caplog.set_level(logging.INFO)
    config = Count(output=str(tmp_path / "run"), number=11)
    for _ in range(2):
        with pytest.raises(RaymillError, match="11 is too much"):
            make().execute(config)
    assert len(ran) == 1, "it was run again though its artifact is up to date"
    assert manifest.require(tmp_path / "run").metrics == {"number": 11}
    assert make(checked=False).execute(config)[1] is True
    assert f"up to date, reused: {tmp_path / 'run'}" in caplog.messages


def test_a_failure_is_not_an_artifact_and_the_next_run_goes_on(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    seen = []

    def work(config, run):
        seen.append((run.resumed, run.path("shard").exists()))
        run.path("shard").write_text("x")
        if len(seen) == 1:
            raise ValueError("broken")
        return run.commit()

    stage = Stage("test.count", 1, Count, work)
    config = Count(output=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="broken"):
        stage.execute(config)
    assert manifest.read(tmp_path / "run") is None
    stage.execute(config)
    assert seen == [(False, False), (True, True)]
    assert f"resuming an interrupted run: {tmp_path / 'run'}" in caplog.messages
