"""Layers that run twice or compiled: the same loss and gradient as layers that do neither."""

import pytest
import torch

from tests.training import runs
from tests.training.test_precision import shape_of
from training import attention
from training.batch import Batch
from training.layers import Prepared, layers_of
from training.model import initialize, losses
from training.precision import Precision

PRECISIONS = ["fp32", "bf16 emulated", "bf16 native"]


def batch():
    tokens = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))
    segments = torch.cat([torch.full((2, 9), 1), torch.full((2, 15), 2)], 1)
    positions = torch.cat([torch.arange(9), torch.arange(15)])[None].expand(2, -1)
    return Batch(tokens, tokens.roll(-1, 1), positions, segments)


def gradient(model, precision):
    model.train()
    model.zero_grad()
    torch.manual_seed(1)  # of dropout
    loss = losses(model, batch(), precision, per_token=False)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("kind", ["selective", "full"])
def test_recomputation_changes_no_bit(kind, name):
    precision = Precision(name, "test")
    model = runs.model(dropout=0.2)
    loss, plain = gradient(model, precision)
    prepared = Prepared(model, kind, False, precision)
    again, found = gradient(model, precision)
    assert loss == again
    assert torch.equal(plain, found)
    prepared.undo()
    assert not any("forward" in layer.__dict__ for layer in layers_of(model))


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_what_is_kept_is_what_the_kind_says(kind):
    """Elements kept between forward and backward: all, without what is cheap, or a layer's input alone."""
    kept = {}
    for which in ("none", kind):
        model, precision, sizes = runs.model(), Precision("fp32", "test"), []
        Prepared(model, which, False, precision)
        model.train()
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=sizes: to.append(x.numel()) or x, lambda x: x):
            losses(model, batch(), precision, per_token=False)
        kept[which] = sum(sizes)
    assert kept[kind] < kept["none"]


def test_the_layers_of_any_decoder_are_found():
    assert [type(layer).__name__ for layer in layers_of(runs.model())] == ["LlamaDecoderLayer"] * 2
    assert [type(layer).__name__ for layer in layers_of(initialize(shape_of("gpt2"), 0))] == ["GPT2Block"] * 2


@pytest.mark.slow
def test_compiled_layers_that_run_twice_give_the_same_gradient():
    precision = Precision("fp32", "test")
    model = runs.model()
    attention.install(model, "varlen", 24)
    loss, plain = gradient(model, precision)
    Prepared(model, "full", True, precision)
    again, found = gradient(model, precision)
    assert again == pytest.approx(loss, rel=1e-5)
    assert float((found - plain).norm() / plain.norm()) < 1e-4
