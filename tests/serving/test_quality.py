import math

import pytest
import torch

from core import checkpoint
from serving import quality
from tests.tiny_models import save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [checkpoint.load_model(save_model(folder / str(seed), seed=seed)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def sequences_ST():
    return torch.randint(0, 384, (7, 24), generator=torch.Generator().manual_seed(0))  # 7: the last batch is not full


@pytest.fixture(scope="module")
def counted_ST(sequences_ST):
    """About half of the tokens, none of the last sequence."""
    chosen = torch.rand(sequences_ST.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    chosen[-1] = False
    return chosen


def slow(original, quantized, sequences_ST, counted_ST):
    """One sequence and one token at a time; likelihoods by transformers' own loss."""
    before, after, kl, same = [], [], [], []
    for tokens_T, counted_T in zip(sequences_ST, counted_ST, strict=True):
        batch = tokens_T.unsqueeze(0)
        labels = batch.masked_fill(~counted_T, -100)
        with torch.no_grad():
            old, new = original(input_ids=batch, labels=labels), quantized(input_ids=batch, labels=labels)
        places = [place for place in range(len(tokens_T) - 1) if counted_T[place + 1]]
        before.append((old.loss.item(), len(places)))
        after.append((new.loss.item(), len(places)))
        for place in places:
            p = old.logits[0, place].double().softmax(-1)
            q = new.logits[0, place].double().softmax(-1)
            kl.append(sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)))
            same.append(int(p.argmax()) == int(q.argmax()))
    return before, after, sum(kl) / len(kl), sum(same) / len(same)


def perplexity(losses):
    return math.exp(sum(loss * n for loss, n in losses if n) / sum(n for _, n in losses))


def test_every_figure_equals_a_slow_loop(models, sequences_ST, counted_ST):
    ticks = []
    found = quality.compare(*models, sequences_ST, counted_ST, ticks.append)
    before, after, kl, same = slow(*models, sequences_ST, counted_ST)
    assert found.tokens == int(counted_ST[:, 1:].sum())
    assert found.perplexity_before == pytest.approx(perplexity(before), rel=1e-4)
    assert found.perplexity_after == pytest.approx(perplexity(after), rel=1e-4)
    assert found.before_by_sequence == pytest.approx([math.exp(loss) for loss, n in before if n], rel=1e-4)
    assert found.after_by_sequence == pytest.approx([math.exp(loss) for loss, n in after if n], rel=1e-4)
    assert found.kl == pytest.approx(kl, rel=1e-4)
    assert found.agreement == pytest.approx(same)
    assert found.increase == pytest.approx(found.perplexity_after / found.perplexity_before)
    assert sum(ticks) == 7


def test_a_model_is_as_good_as_itself(models, sequences_ST):
    found = quality.compare(
        models[0], models[0], sequences_ST, torch.ones_like(sequences_ST, dtype=torch.bool), lambda _: None
    )
    assert found.increase == 1
    assert found.kl == pytest.approx(0, abs=1e-9)
    assert found.agreement == 1


def test_a_model_that_computes_no_numbers_never_passes_a_gate(models, sequences_ST):
    broken = models[1].__class__(models[1].config).eval()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    found = quality.compare(
        models[0], broken, sequences_ST, torch.ones_like(sequences_ST, dtype=torch.bool), lambda _: None
    )
    assert math.isnan(found.increase)
    assert not found.increase <= 1e9
