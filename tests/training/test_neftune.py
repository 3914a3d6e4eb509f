import pytest
import torch

from core import checkpoint
from tests.training.fixtures import TINY
from training.batch import Segment, collate
from training.neftune import NoisyNextToken
from training.objectives import NextToken
from training.precision import resolve

FP32 = resolve("fp32")
ALPHA = 5.0


def batch():
    segments = [torch.arange(length + 1).numpy() for length in (3, 9, 20)]
    rows = [Segment.from_ids(ids, ids >= 0) for ids in segments]
    return collate([rows[:2], rows[2:]], padding=0)


@pytest.fixture
def noisy(base):
    """(model, objective, what came out of the embedding at each call)."""
    model = checkpoint.load_model(base)
    seen = []
    objective = NoisyNextToken(model, ALPHA)
    model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    return model, objective, seen


def test_noise_is_uniform_and_scaled_by_the_length_of_each_segment(noisy):
    """|noise| <= alpha / sqrt(L d), and its variance a third of the square; padding is left alone."""
    model, objective, seen = noisy
    model.train()
    packed = batch()
    clean = model.get_input_embeddings().weight[packed.tokens].detach()
    for seed in range(40):
        torch.manual_seed(seed)
        objective(model, packed, FP32)
    noise = torch.stack(seen) - clean
    for row, place, length in ((0, slice(0, 3), 3), (0, slice(3, 12), 9), (1, slice(0, 20), 20)):
        part = noise[:, row, place]
        bound = ALPHA / (length * TINY.hidden_size) ** 0.5
        assert float(part.abs().max()) <= bound * 1.0001
        assert float(part.var()) == pytest.approx(bound**2 / 3, rel=0.1)
        assert float(part.mean()) == pytest.approx(0, abs=0.05 * bound)
    assert torch.equal(seen[0][0, 12:], clean[0, 12:]), "padding"


def test_noise_is_in_training_only_and_follows_the_seed(noisy):
    model, objective, _ = noisy
    packed, plain = batch(), NextToken()
    model.eval()
    assert objective(model, packed, FP32).loss == plain(model, packed, FP32).loss
    model.train()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(objective(model, packed, FP32).loss.item())
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != plain(model, packed, FP32).loss.item(), "whoever else asks the model gets no noise"
    logits = model(input_ids=packed.tokens).logits
    assert torch.equal(logits, model(input_ids=packed.tokens).logits)
