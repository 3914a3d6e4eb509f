"""Ray Train, torch's elastic agent and no launcher train the same; a killed worker changes nothing but the time."""

import logging
import os
import re
import signal
import threading
from pathlib import Path

import pytest
import torch.distributed as dist

import cluster  # noqa: F401  # before Ray: it sets what `import ray` reads
from tests.training.test_stages import pretrain_config
from tests.training.test_state import TIMES
from training import launch, metrics, pretrain, saved_steps

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


def results_of(manifest):
    """All that the manifest says but for speeds."""
    return {name: value for name, value in manifest.metrics.items() if name not in ("tokens_per_second", "headline")}


def execute_and_kill(config, run):
    """Train, with a kill -9 of the main worker after step 7 or so. Returns (manifest, steps done when it came)."""
    killed: list[int] = []
    over = threading.Event()

    def kill():
        while not killed and not over.wait(0.01):
            if len(metrics.read(run)) >= 7 and (worker := main_worker(run)) is not None:
                os.kill(worker, signal.SIGKILL)
                killed.append(len(metrics.read(run)))

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found, _ = pretrain.STAGE.execute(config)
    finally:
        over.set()
        thread.join()
    assert killed and killed[0] < STEPS, "the run was over before it could be killed"
    return found, killed[0]


@pytest.fixture(scope="module")
def undisturbed(tokens, tmp_path_factory):
    """The run that the others are compared with: two workers of torch's elastic agent, left alone."""
    directory = tmp_path_factory.mktemp("torchrun") / "run"
    return directory, pretrain.STAGE.execute(settings(directory, tokens, "torchrun"))[0]


@pytest.mark.parametrize(
    "launcher", [pytest.param("ray", marks=pytest.mark.slow), pytest.param("torchrun", marks=pytest.mark.faults)]
)
def test_a_killed_worker_is_replaced_and_the_result_is_the_same_to_the_last_bit(
    ray_session, undisturbed, tokens, tmp_path, launcher, caplog
):
    """The run goes on from its newest checkpoint by itself; on Ray Train it ends as torchrun does that was left alone.

    So Ray Train and torchrun give the same, with one start of Ray Train's workers less than a test of that alone.
    """
    caplog.set_level(logging.INFO, "raymill")
    directory, alone = undisturbed
    run = tmp_path / "run"
    found, killed = execute_and_kill(settings(run, tokens, launcher), run)
    resumed = int(re.findall(r"resumed at step (\d+)", (run / "run.log").read_text())[-1])
    # A step is logged before its checkpoint: killed between the two, the run goes back to the checkpoint before.
    assert resumed in (killed // 5 * 5, killed // 5 * 5 - 5)
    assert found.counts["steps"] == STEPS
    assert len(log_of(run)) == STEPS
    assert log_of(run) == log_of(directory)
    assert files_of(run) == files_of(directory)
    assert results_of(found) == results_of(alone)
    assert len(saved_steps.steps(run)) == 2


def test_workers_that_are_started_again_do_not_find_what_their_predecessors_left(monkeypatch):
    """Their addresses, above all: who reads those waits for a process that is dead."""
    agents = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(agents.port))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    launch._agents_store().set("address", "of the first")
    assert launch._agents_store().check(["address"])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not launch._agents_store().check(["address"])


@pytest.mark.faults
def test_ray_left_alone_gives_the_same_too(ray_session, undisturbed, tokens, tmp_path):
    directory, alone = undisturbed
    found, _ = pretrain.STAGE.execute(settings(tmp_path / "run", tokens, "ray"))
    assert log_of(tmp_path / "run") == log_of(directory)
    assert files_of(tmp_path / "run") == files_of(directory)
    assert results_of(found) == results_of(alone)


@pytest.mark.faults
def test_two_workers_train_what_one_process_does(undisturbed, tokens, tmp_path):
    """The same data in the same order; only the order of summation differs."""
    directory, _ = undisturbed
    pretrain.STAGE.execute(settings(tmp_path / "run", tokens, "inline", workers=0))
    for ours, alone in zip(log_of(directory), log_of(tmp_path / "run"), strict=True):
        assert (ours["tokens"], ours["samples"], ours["lr"]) == (alone["tokens"], alone["samples"], alone["lr"])
        assert ours["loss"] == pytest.approx(alone["loss"], rel=1e-4)


@pytest.mark.faults
def test_a_killed_elastic_worker_is_replaced_too(ray_session, undisturbed, tokens, tmp_path):
    """Ray may go on with one worker or with two: the same data in the same order, sums in another one at most."""
    directory, _ = undisturbed
    found, _ = execute_and_kill(settings(tmp_path / "run", tokens, "ray", min_workers=1), tmp_path / "run")
    assert found.counts["steps"] == STEPS
    for ours, alone in zip(log_of(tmp_path / "run"), log_of(directory), strict=True):
        assert (ours["tokens"], ours["samples"], ours["lr"]) == (alone["tokens"], alone["samples"], alone["lr"])
        assert ours["loss"] == pytest.approx(alone["loss"], rel=1e-4)


@pytest.mark.slow
def test_the_command_trains_without_ray(tokens, tmp_path, raymill):
    (tmp_path / "absent" / "ray").mkdir(parents=True)
    (tmp_path / "absent" / "ray" / "__init__.py").write_text("raise ImportError('no Ray here')")
    config = settings(tmp_path / "run", tokens, "torchrun", steps=2)
    (tmp_path / "pretrain.yaml").write_text(config.model_dump_json(exclude_unset=True))
    path = os.pathsep.join([str(tmp_path / "absent"), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = raymill("train", "pretrain", "pretrain.yaml", env=os.environ | {"PYTHONPATH": path})
    assert found.returncode == 0, found.stderr
    assert len(metrics.read(tmp_path / "run")) == 2


@pytest.mark.parametrize(("permitted", "chosen"), [(True, False), (False, False), (True, True)])
def test_what_trains_under_ray_leaves_the_niceness_of_its_helpers_where_it_may(
    monkeypatch, tmp_path, permitted, chosen
):
    asked, joined = [], []

    def setpriority(which, who, niceness):
        asked.append((which, who, niceness))
        if not permitted:
            raise PermissionError

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    if chosen:
        monkeypatch.setenv("RAY_worker_niceness", "19")
    monkeypatch.setattr(os, "setpriority", setpriority)
    monkeypatch.setattr(launch, "_join", lambda job, *_: joined.append(job))
    job = launch.Job("training.pretrain", {}, str(tmp_path), str(tmp_path))
    launch._ray_trainer(print, vars(job), "tcp://127.0.0.1:1", 1, 0, 1)
    assert (asked, joined) == ([] if chosen else [(os.PRIO_PROCESS, 0, 0)], [job])


def test_more_workers_at_least_than_at_most_are_refused(tmp_path, tokens):
    with pytest.raises(ValueError, match="min_workers 3 is more than workers 2"):
        settings(tmp_path, tokens, "ray", min_workers=3)
