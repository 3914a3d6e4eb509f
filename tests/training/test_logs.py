"""Other viewers of the training log see every step once, also after a resume, and none is missed where it is absent."""

import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.run import STATE
from tests.training import runs
from training import metrics
from training.feedback import duration
from training.logs import TENSORBOARD, Logs


def scalars(directory):
    events = EventAccumulator(str(directory / TENSORBOARD))
    events.Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_shows_what_the_log_holds_and_a_resume_replaces_later_steps(tokens, tmp_path):
    for steps in (4, 6):
        settings = runs.config(tmp_path, checkpoint_every=3, schedule={"warmup": 0, "decay": 0})
        evaluate = {"evaluate": lambda: {"validation_loss": 2.5}, "evaluate_every": 3}
        trainer = runs.trainer(
            tmp_path, settings, runs.documents(tokens, settings), runs.model(), steps=steps, **evaluate
        )
        trainer.run()
    found = scalars(tmp_path)
    rows = {row["step"]: row for row in metrics.read(tmp_path)}
    assert sorted(found["loss"]) == list(rows)
    for name in ("loss", "lr", "grad_norm", "tokens_per_second"):
        assert found[name] == {step: pytest.approx(row[name], rel=1e-6) for step, row in rows.items()}
    assert sorted(found["validation_loss"]) == [3, 4, 6]
    assert "mfu" not in found, "what is not known is not zero"


def test_a_viewer_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = []
    with Logs(["wandb"], tmp_path, 0, said.append) as logs:
        logs.write({"step": 1, "loss": 2.0})
    assert said == ["logs: wandb is not installed; only metrics.jsonl is written in its place"]


def test_wandb_is_given_the_numbers_of_each_step_and_one_identity_for_all_resumes(tmp_path, monkeypatch):
    """Its client is not installed here; what it is asked for is what its documentation of `init` and `log` names."""
    asked, logged = [], []
    run = SimpleNamespace(log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: asked.append("end"))
    module = SimpleNamespace(init=lambda **given: asked.append(given) or run)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "wandb", module)
    for work in ("one", "another"):
        (tmp_path / STATE).write_text(f'{{"stage": "train.sft", "identity": "{work}"}}')
        for step in (1, 2):
            with Logs(["wandb"], tmp_path, step - 1, lambda line: None) as logs:
                logs.write({"step": step, "total_steps": 2, "loss": 2.0, "mfu": None, "skipped": 0})
    first, second, other, its_second = asked[::2]
    assert first == second
    assert other == its_second
    assert other["id"] != first["id"], "another configuration in the same directory"
    assert first["resume"] == "allow"
    assert logged == 2 * [(1, {"loss": 2.0, "skipped": 0.0}), (2, {"loss": 2.0, "skipped": 0.0})]


def test_durations_read_as_a_clock_does():
    assert [duration(seconds) for seconds in (4.4, 75, 3599.6, 7384)] == ["0:04", "1:15", "1:00:00", "2:03:04"]
