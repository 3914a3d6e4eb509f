"""The average of the weights: its closed form, and that training goes on from the weights themselves."""

import pytest
import torch
from torch import nn

from tests.training import runs
from training.ema import Average


def test_the_average_follows_its_closed_form():
    layer = nn.Linear(3, 2)
    average = Average(layer, 0.3)
    expected = layer.weight.detach().double().clone()
    for step in range(1, 6):
        nn.init.normal_(layer.weight)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach().double()
    torch.testing.assert_close(average.state["weight"].double(), expected, rtol=1e-6, atol=1e-7)


def test_the_average_is_measured_and_exported_and_training_does_not_see_it(tokens, tmp_path):
    seen, found = {}, {}
    for decay in (None, 0.9):
        settings = runs.config(tmp_path / str(decay), ema_decay=decay)
        model = runs.model()
        validated = []
        trainer = runs.trainer(
            tmp_path / str(decay),
            settings,
            runs.documents(tokens, settings),
            model,
            evaluate=lambda model=model, to=validated: to.append(runs.weights(model)) or {"validation_loss": 1.0},
            evaluate_every=2,
        )
        trainer.run()
        seen[decay], found[decay] = validated, runs.weights(model)
    assert not torch.equal(found[0.9], found[None])
    assert torch.equal(found[0.9], seen[0.9][-1]), "what is exported is what was measured"
    # The average swapped its place with the weights at the end.
    names = trainer.average.state
    assert torch.equal(torch.cat([names[name].flatten() for name, _ in model.named_parameters()]), found[None])


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_average_equals_one_that_was_never_interrupted(tokens, tmp_path, step):
    def train(directory, steps=6):
        settings = runs.config(directory, ema_decay=0.9, schedule={"warmup": 0, "decay": 0})
        trainer = runs.trainer(directory, settings, runs.documents(tokens, settings), runs.model(), steps=steps)
        trainer.run()
        return runs.weights(trainer.model)

    whole = train(tmp_path / "whole")
    train(tmp_path / "part", step)
    assert torch.equal(train(tmp_path / "part"), whole)
