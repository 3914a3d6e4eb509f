import errno
import json
import math
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file

from core import checkpoint
from core.errors import RaymillError
from tests.training import runs
from training import lora, metrics, saved_steps, state
from training.objectives import NextToken

STEPS = 6
TIMES = {"step_seconds", "data_seconds", "tokens_per_second", "mfu", "memory_gib", "validation_seconds"}


class KilledError(Exception):
    pass


class Dies(NextToken):
    """Raises in the middle of a step, after some of its micro-batches."""

    def __init__(self, call):
        self.call, self.count = call, 0

    def __call__(self, model, batch, precision):
        self.count += 1
        if self.count == self.call:
            raise KilledError
        return super().__call__(model, batch, precision)


def network(base, method):
    """Dropout is on: its masks must come back, too."""
    if method != "lora":
        return runs.model(dropout=0.2)
    settings = lora.LoraSettings(rank=2, dropout=0.2)
    return lora.attach(checkpoint.load_model(base), settings, seed=0)


@pytest.fixture(params=["full", "muon", "lora"])
def method(request):
    return request.param


@pytest.fixture
def train(tokens, base, method):
    def call(directory, objective=None, steps=STEPS, **changes):
        settings = runs.config(directory, optimizer={"method": "muon" if method == "muon" else "adamw"}, **changes)
        model = network(base, method)
        trainer = runs.trainer(
            directory,
            settings,
            runs.documents(tokens, settings),
            model,
            objective=objective or NextToken(),
            steps=steps,
        )
        torch.manual_seed(int.from_bytes(str(directory).encode()[-4:]))  # whatever a process has drawn before
        trainer.run()
        return trainer

    return call


def everything(trainer):
    """Weights and moments, as bytes."""
    found = {name: p.detach() for name, p in trainer.model.named_parameters()}
    for name, parameter in trainer.model.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            found[f"{name}:{key}"] = value
    return found


def assert_equal_to_the_last_bit(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def log_of(directory):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in metrics.read(directory)]


@pytest.mark.slow
def test_resuming_at_any_step_equals_never_having_stopped(train, tmp_path):
    whole = train(tmp_path / "whole", steps=10)
    for step in range(1, 11):
        part = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole", part)
        for folder in saved_steps.steps(part)[step:]:
            shutil.rmtree(folder)
        resumed = train(part, steps=10)
        assert_equal_to_the_last_bit(everything(resumed), everything(whole))
        assert log_of(part) == log_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 4, 7, 12])
def test_a_run_that_died_within_a_step_equals_one_that_did_not(train, tmp_path, call):
    """Two micro-batches a step, a checkpoint every two steps: half-done steps and logged, unsaved ones are redone."""
    whole = train(tmp_path / "whole")
    with pytest.raises(KilledError):
        train(tmp_path / "died", Dies(call), checkpoint_every=2)
    assert len(metrics.read(tmp_path / "died")) == (call - 1) // 2
    resumed = train(tmp_path / "died", checkpoint_every=2)
    assert_equal_to_the_last_bit(everything(resumed), everything(whole))
    assert log_of(tmp_path / "died") == log_of(tmp_path / "whole")


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "cursor.json"])
@pytest.mark.parametrize("damage", ["cut", "missing", "garbage"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(train, tmp_path, file, damage):
    whole = train(tmp_path / "whole")
    damaged = saved_steps.steps(tmp_path / "whole")[-1] / file
    if damage == "missing":
        damaged.unlink()
    else:
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\xff" * len(content))
    resumed = train(tmp_path / "whole")
    assert_equal_to_the_last_bit(everything(resumed), everything(whole))


def test_an_interrupted_save_is_no_checkpoint_and_is_removed(train, tmp_path):
    train(tmp_path)
    newest = saved_steps.steps(tmp_path)[-1]
    newest.rename(newest.parent / f".{newest.name}.0123abcd")
    assert [folder.name for folder in saved_steps.steps(tmp_path)] == [f"step-{k:08d}" for k in range(1, STEPS)]
    train(tmp_path)
    assert not list((tmp_path / saved_steps.FOLDER).glob(".*"))
    assert len(saved_steps.steps(tmp_path)) == STEPS


def test_only_the_newest_checkpoints_are_kept(train, tmp_path):
    train(tmp_path, keep_checkpoints=2)
    assert [folder.name for folder in saved_steps.steps(tmp_path)] == ["step-00000005", "step-00000006"]


def test_a_checkpoint_holds_the_cursor_and_what_is_trained(train, tmp_path, method):
    trainer = train(tmp_path)
    newest = saved_steps.steps(tmp_path)[-1]
    assert json.loads((newest / "cursor.json").read_text()) == {
        "step": 6,
        "samples": 48,
        "tokens": 48 * 32,
        "skipped": 0,
        "best_step": 0,
        "best_loss": None,
    }
    saved = load_file(newest / "model.safetensors")
    assert saved.keys() == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert ("lora" in "".join(saved)) == (method == "lora")


def test_the_last_line_of_the_log_may_be_half_written(train, tmp_path):
    train(tmp_path)
    before = log_of(tmp_path)
    with (tmp_path / metrics.METRICS).open("a") as file:
        file.write('{"step": 7, "lo')
    assert log_of(tmp_path) == before
    shutil.rmtree(saved_steps.steps(tmp_path)[-1])
    train(tmp_path)
    assert log_of(tmp_path) == before


# --- written on the side ----------------------------------------------------------------------------------------------


def small(directory, tokens, objective=None, evaluate=None, **changes):
    """Without dropout or adapters: what is tested is when things are written."""
    settings = runs.config(directory, **changes)
    samples = runs.documents(tokens, settings)
    every = {"evaluate": evaluate, "evaluate_every": 1} if evaluate else {}
    network = runs.model()
    made = runs.trainer(directory, settings, samples, network, objective=objective or NextToken(), steps=STEPS, **every)
    return made, network


class Watches(NextToken):
    """Calls back before each micro-batch, of which there are two a step."""

    def __init__(self, watch):
        self.watch, self.count = watch, 0

    def __call__(self, model, batch, precision):
        self.watch(self.count)
        self.count += 1
        return super().__call__(model, batch, precision)


def test_training_goes_on_while_a_checkpoint_is_written(tokens, tmp_path, monkeypatch):
    go, seen, write = threading.Event(), [], state.save_file

    def slow(tensors, file):
        assert go.wait(60)
        write(tensors, file)

    def watch(call):
        seen.append([folder.name for folder in saved_steps.steps(tmp_path)])
        if call == 7:  # in step 4; the checkpoint of step 2 is still being written
            assert next((tmp_path / saved_steps.FOLDER).iterdir()).name == ".step-00000002"
            go.set()

    monkeypatch.setattr(state, "save_file", slow)
    trainer, _ = small(tmp_path, tokens, Watches(watch), checkpoint_every=2)
    trainer.run()
    assert seen[:8] == [[]] * 8
    monkeypatch.undo()
    whole, _ = small(tmp_path / "alone", tokens, checkpoint_every=2)
    whole.run()
    for folder in saved_steps.steps(tmp_path):
        for file in folder.iterdir():
            again = tmp_path / "alone" / saved_steps.FOLDER / folder.name / file.name
            assert file.read_bytes() == again.read_bytes(), "what is written is what was saved, not what came later"
    assert len(saved_steps.steps(tmp_path)) == 3


def test_a_failure_to_write_ends_the_run_at_its_next_step(tokens, tmp_path, monkeypatch):
    def full(tensors, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    trainer, _ = small(tmp_path, tokens, checkpoint_every=2)
    with pytest.raises(RaymillError, match=r"could not be written \(.*No space left on device\); make room"):
        trainer.run()
    assert len(metrics.read(tmp_path)) < STEPS
    assert saved_steps.steps(tmp_path) == []


@pytest.mark.parametrize("export", ["last", "best"])
def test_the_best_checkpoint_is_kept_and_exported(tokens, tmp_path, export):
    losses, weights = [5.0, 3.0, 4.0, math.nan, 3.5, 3.0], []

    def evaluate():
        weights.append(runs.weights(network))
        return {"validation_loss": losses[len(weights) - 1]}

    trainer, network = small(tmp_path, tokens, evaluate=evaluate, keep_checkpoints=1, export=export)
    trainer.run()
    assert [folder.name for folder in saved_steps.steps(tmp_path)] == ["step-00000002", "step-00000006"]
    assert saved_steps.best_of(tmp_path).name == "step-00000002"
    step = {"last": 6, "best": 2}[export]
    assert trainer.exported_step == step
    assert torch.equal(runs.weights(network), weights[step - 1])
