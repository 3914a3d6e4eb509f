import fcntl
import json
import subprocess
import sys

import pytest

from core.errors import UserError
from core.run import Run
from tests.training.test_stages import pretrain_config
from training import metrics, pretrain, saved_steps
from training.status import status

ROW = {
    "total_steps": 400, "samples": 0, "tokens": 12_000, "loss": 3.25, "lr": 5e-4, "grad_norm": 1.0,
    "step_seconds": 0.5, "data_seconds": 0.0, "tokens_per_second": 2000.0, "mfu": None, "memory_gib": 1.0,
    "skipped": 0, "validation_loss": None,
}  # fmt: skip


@pytest.fixture
def run(tmp_path, tokens):
    """A run directory as its stage opens it."""
    found = Run("train.pretrain", 1, pretrain_config(tmp_path / "run", tokens))
    with found:
        yield found


def log(run, *rows):
    run.path(metrics.METRICS).write_text("".join(json.dumps(ROW | row) + "\n" for row in rows))


def test_a_run_that_has_just_begun(run):
    assert status(run.directory) == [("state", "running"), ("stage", "train.pretrain"), ("step", "none yet")]


def test_a_running_run_shows_where_it_is_and_when_it_ends(run):
    rows = [{"step": step, "step_seconds": 60.0 if step == 100 else 0.5} for step in range(1, 101)]
    rows[49] |= {"validation_loss": 3.5}
    rows[-1] |= {"skipped": 2, "loss": None}
    log(run, *[row | {"mfu": 0.4} for row in rows])
    run.folder(saved_steps.FOLDER, "step-00000050")
    run.folder(saved_steps.FOLDER, "step-00000100")
    run.folder(saved_steps.FOLDER, ".step-00000101.half")
    found = dict(status(run.directory))
    assert found["state"] == "running"
    assert found["step"] == "100 of 400 (25%)"
    assert found["loss"] == "not finite"
    assert found["skipped steps"] == "2"
    assert found["validation loss"] == "3.5000 at step 50"
    assert found["learning rate"] == "0.0005"
    assert found["tokens/s"] == "2,000"
    assert found["MFU"] == "40.0%"
    assert found["ETA"] == "2:30", "300 steps of 0.5 s; one slow step does not count"
    assert found["trainer checkpoint"].endswith("step-00000100")


def test_what_is_not_known_has_no_row(run):
    log(run, {"step": 3})
    found = dict(status(run.directory))
    assert not {"MFU", "validation loss", "skipped steps", "trainer checkpoint"} & found.keys()
    assert found["loss"] == "3.2500"


def test_a_killed_run_is_interrupted(tmp_path, tokens):
    """The kernel frees the lock of a process that is killed; nothing else says that it has gone."""
    config = pretrain_config(tmp_path / "run", tokens)
    run = Run("train.pretrain", 1, config)
    with run:
        log(run, {"step": 3})
    assert dict(status(run.directory))["state"].startswith("interrupted")
    assert "ETA" not in dict(status(run.directory))
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time\nf = open(sys.argv[1])\nfcntl.flock(f, fcntl.LOCK_EX)\n"
         "print('held', flush=True)\ntime.sleep(60)", run.path("run.lock")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"held\n"
        assert dict(status(run.directory))["state"] == "running"
    finally:
        holder.kill()
        holder.wait()
    assert dict(status(run.directory))["state"].startswith("interrupted")


@pytest.mark.slow
def test_a_finished_run_is_complete(tmp_path, tokens):
    config = pretrain_config(tmp_path / "run", tokens, steps=2)
    pretrain.STAGE.execute(config)
    found = dict(status(tmp_path / "run"))
    assert found["state"] == "complete"
    assert found["step"] == "2 of 2 (100%)"
    assert "ETA" not in found
    assert found["trainer checkpoint"].endswith("step-00000002")


def test_rounds_show_the_newest_of_them(tmp_path):
    run = tmp_path / "rounds"
    run.mkdir()
    (run / "run.json").write_text('{"stage": "train.rounds", "identity": "x"}')
    assert status(run)[2:] == [("round", "none yet"), ("step", "none yet")]
    for number, step in ((2, 400), (10, 30)):
        training = tmp_path / "rounds-rounds" / f"round-{number}" / "dpo"
        (training / saved_steps.FOLDER / f"step-{step:08d}").mkdir(parents=True)
        (training / metrics.METRICS).write_text(json.dumps(ROW | {"step": step}) + "\n")
    found = dict(status(run))
    assert (found["round"], found["step"]) == ("10", "30 of 400 (8%)")
    assert found["trainer checkpoint"] == str(training / saved_steps.FOLDER / "step-00000030")
    (tmp_path / "rounds-rounds" / "round-11" / "pairs").mkdir(parents=True)
    assert status(run)[2:] == [("round", "11"), ("step", "none yet")]


def test_asking_does_not_disturb_a_run_that_wants_to_begin(tmp_path, tokens):
    run = Run("train.pretrain", 1, pretrain_config(tmp_path / "run", tokens))
    with run:
        log(run, {"step": 1})
    status(run.directory)
    with run.path("run.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"identity": "x"}', '{"stage": "data.build"}'])
def test_what_is_no_training_run_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="name the output of a 'raymill train' stage") as caught:
        status(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        status(tmp_path / "nowhere")


def test_the_command_prints_the_rows(run, raymill):
    log(run, {"step": 100, "step_seconds": 0.5})
    found = raymill("train", "status", str(run.directory))
    assert found.returncode == 0, found.stderr
    assert "100 of 400 (25%)" in found.stdout
    wrong = raymill("train", "status", "nowhere")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
