import json

import pytest
import torch

from tests.training import runs
from training import metrics, state
from training.early_stopping import EarlyStopping

LOSSES = [3.0, 2.0, 2.5, 1.9, 1.95, 1.9, 2.2, 1.0]
"""Of steps 1, 2, ...; with patience 3 the run ends at step 7 with the weights of step 4."""


class Killed(Exception):
    pass


@pytest.fixture
def start(tokens):
    """A trainer whose held-out losses are those above: (trainer, the model, weights by step)."""

    def make(directory, fail_at=None, patience=3):
        settings = runs.config(directory, export="best", keep_checkpoints=1)
        directory.mkdir(parents=True, exist_ok=True)
        network, seen = runs.model(), {}
        saved = state.steps(directory)
        before = int(saved[-1].name.removeprefix("step-")) if saved else 0

        def evaluate():
            step = max(seen, default=before) + 1
            if step == fail_at:
                raise Killed
            seen[step] = runs.weights(network)
            return {"validation_loss": LOSSES[step - 1]}

        stopping = EarlyStopping(patience, directory)
        more = {"steps": len(LOSSES), "evaluate": evaluate, "evaluate_every": 1, "stopping": stopping}
        trainer = runs.trainer(directory, settings, runs.documents(tokens, settings), network, **more)
        return trainer, network, seen

    return make


def test_training_ends_after_patience_with_the_best_weights(start, tmp_path):
    trainer, network, seen = start(tmp_path)
    assert trainer.run()["step"] == 7
    assert state.steps(tmp_path)[-1].name.endswith("0007"), "resumable where it stopped"
    assert trainer.exported_step == 4, "the first of equal ones"
    assert torch.equal(runs.weights(network), seen[4])


@pytest.mark.parametrize("fail_at", [4, 5, 7])
def test_an_interrupted_run_stops_where_the_other_did_with_the_same_weights(start, tmp_path, fail_at):
    trainer, network, _ = start(tmp_path / "whole")
    trainer.run()
    with pytest.raises(Killed):
        start(tmp_path / "killed", fail_at)[0].run()
    for attempt in ("goes on", "killed again, after its last step"):
        again, other, seen = start(tmp_path / "killed")
        assert again.run()["step"] == 7
        assert (not seen) == (attempt != "goes on")
        assert again.exported_step == 4
        assert torch.equal(runs.weights(other), runs.weights(network))


def test_without_enough_worse_evaluations_it_trains_to_the_end(start, tmp_path):
    trainer, network, seen = start(tmp_path, patience=4)
    assert trainer.run()["step"] == trainer.exported_step == 8
    assert torch.equal(runs.weights(network), seen[8])


def test_a_loss_that_is_not_finite_is_never_the_best_and_counts_also_after_a_resume(tmp_path):
    stopping, log = EarlyStopping(2, tmp_path), metrics.MetricsLog(tmp_path, 0)
    for step, loss in enumerate([2.0, float("nan"), None, float("inf")], 1):
        if loss is not None:
            stopping.saw(step, loss)
        evaluated = {} if loss is None else {"validation_seconds": 0.1}
        log.write({"step": step, "validation_loss": loss} | evaluated)
    log.close()
    for each in (stopping, EarlyStopping(2, tmp_path)):
        assert each.best(4) == 1
        assert each.stops(4)
        assert not each.stops(3)


def test_evaluations_after_the_step_of_a_resume_do_not_count(tmp_path):
    evaluated = {"validation_seconds": 0.1}
    rows = [{"step": n, "validation_loss": loss} | evaluated for n, loss in enumerate([3.0, 2.0, 2.5, 2.6], 1)]
    (tmp_path / metrics.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    stopping = EarlyStopping(2, tmp_path)
    assert stopping.stops(4)
    assert not stopping.stops(3)
    stopping.saw(3, 1.0)
    assert stopping.best(3) == 3
    assert not stopping.stops(4), "what the earlier run said of step 4 is forgotten"
