"""Ray Train, torch's elastic agent and no launcher train the same; a killed worker changes nothing but the time."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import cluster  # noqa: F401  # before Ray: it sets what `import ray` reads
from tests.training.test_stages import pretrain_config
from tests.training.test_state import TIMES
from training import metrics, pretrain, saved_steps

STEPS = 20


def settings(directory, tokens, launcher, **changes):
    changes = {"steps": STEPS, "checkpoint_every": 5, "threads": 1, "workers": 2, "launcher": launcher} | changes
    return pretrain_config(directory, tokens, **changes)


def log_of(directory):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in metrics.read(directory)]


def files_of(directory):
    return {path.name: path.read_bytes() for path in (directory / "checkpoint").glob("*.safetensors")}


def main_worker(directory):
    """The process that holds the trainer's lock of a run, if there is one."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:  # it has ended, or is not ours
            continue
        if str(directory / ".trainer.lock") in opened:
            return int(process.name)
    return None


@pytest.fixture(scope="module")
def uninterrupted(ray_session, tokens, tmp_path_factory):
    """The run that the others are compared with: two workers of Ray Train, left alone."""
    directory = tmp_path_factory.mktemp("ray") / "run"
    return directory, pretrain.STAGE.execute(settings(directory, tokens, "ray"))[0]


@pytest.mark.faults
def test_ray_and_torchrun_give_the_same_to_the_last_bit(uninterrupted, tokens, tmp_path):
    directory, found = uninterrupted
    other, _ = pretrain.STAGE.execute(settings(tmp_path / "run", tokens, "torchrun"))
    assert log_of(tmp_path / "run") == log_of(directory)
    assert len(log_of(directory)) == STEPS
    assert files_of(tmp_path / "run") == files_of(directory)
    assert {**other.metrics, "tokens_per_second": 0} == {**found.metrics, "tokens_per_second": 0}


@pytest.mark.faults
def test_two_workers_train_what_one_process_does(uninterrupted, tokens, tmp_path):
    """The same data in the same order; only the order of summation differs."""
    directory, _ = uninterrupted
    pretrain.STAGE.execute(settings(tmp_path / "run", tokens, "inline", workers=0))
    for ours, alone in zip(log_of(directory), log_of(tmp_path / "run"), strict=True):
        assert (ours["tokens"], ours["samples"], ours["lr"]) == (alone["tokens"], alone["samples"], alone["lr"])
        assert ours["loss"] == pytest.approx(alone["loss"], rel=1e-4)


@pytest.mark.faults
@pytest.mark.parametrize("launcher", ["ray", "torchrun"])
def test_a_killed_worker_is_replaced_and_the_result_is_the_same(uninterrupted, tokens, tmp_path, launcher):
    """kill -9 of the main worker after step 7 or so: the run goes on from its newest checkpoint by itself."""
    directory, _ = uninterrupted
    run = tmp_path / "run"
    killed: list[int] = []

    def kill():
        until = time.monotonic() + 300
        while time.monotonic() < until and not killed:
            if len(metrics.read(run)) >= 7 and (worker := main_worker(run)) is not None:
                os.kill(worker, signal.SIGKILL)
                killed.append(len(metrics.read(run)))
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    found, _ = pretrain.STAGE.execute(settings(run, tokens, launcher))
    thread.join()
    assert 7 <= killed[0] < STEPS, "the run was over before it could be killed"
    assert f"resumed at step {killed[0] // 5 * 5}" in (run / "run.log").read_text()
    assert found.counts["steps"] == STEPS
    assert log_of(run) == log_of(directory)
    assert files_of(run) == files_of(directory)
    assert len(saved_steps.steps(run)) == 2
