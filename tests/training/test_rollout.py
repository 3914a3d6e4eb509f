"""Sampling: each token from the model's own distribution, the same answers whatever is sampled beside them."""

import numpy as np
import pytest
import torch

from core import checkpoint
from tests.training import fixtures, runs
from training import lora, rollout
from training.lora import LoraSettings
from training.precision import Precision
from training.rollout import Request, RolloutConfig, TransformersSampler
from training.world import World

FP32 = Precision("fp32", "test")
STOP = 7


def sampler(stop=(STOP,), seed=0, **settings):
    return TransformersSampler(RolloutConfig(**{"max_new_tokens": 12} | settings), stop, 1, seed, World(), FP32)


def sharp(seed=0):
    """A model whose predictions are far from uniform, so that some answers stop early."""
    model = runs.model(seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


def requests(count=24, seed=0):
    rng = np.random.default_rng(seed)
    return [Request(rng.integers(0, 500, rng.integers(1, 9)).tolist(), 100 + i) for i in range(count)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_of_the_whole_text(temperature):
    model, asked = sharp(), requests()
    stop = tuple(range(0, 500, 9))
    found = sampler(stop, temperature=temperature).sample(model, asked)
    assert 0 < sum(completion.stopped for completion in found) < len(found)
    for request, completion in zip(asked, found, strict=True):
        assert completion.stopped == (completion.tokens[-1] in stop)
        assert not set(completion.tokens[:-1]) & set(stop)
        ids = torch.tensor([[*request.prompt, *completion.tokens]])
        logits = model(ids).logits[0, len(request.prompt) - 1 : -1] / temperature
        expected = logits.log_softmax(1)[torch.arange(len(completion.tokens)), completion.tokens]
        torch.testing.assert_close(torch.tensor(completion.log_p), expected, rtol=0, atol=2e-4)


def test_an_answer_does_not_depend_on_what_is_sampled_beside_it():
    model, asked = sharp(), requests(10)
    together = sampler().sample(model, asked)
    alone = [sampler(batch=1).sample(model, [request])[0] for request in reversed(asked)][::-1]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.tokens for c in together] != [c.tokens for c in sampler(seed=1).sample(model, asked)]


def test_tokens_come_as_often_as_their_probability_says():
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    uniform = torch.linspace(0, 1, 1001, dtype=torch.double)[:-1]
    chosen = rollout._invert(probabilities.log().expand(1000, -1), uniform)
    assert torch.bincount(chosen, minlength=4).tolist() == pytest.approx([100, 0, 600, 300], abs=1)


def test_the_greedy_answer_is_the_most_likely_one():
    model, asked = sharp(), requests(4)
    for request, completion in zip(asked, sampler((STOP,)).sample(model, asked, greedy=True), strict=True):
        logits = model(torch.tensor([[*request.prompt, *completion.tokens]])).logits[0, len(request.prompt) - 1 : -1]
        assert logits.argmax(1).tolist() == completion.tokens


@pytest.mark.parametrize("dora", [False, True])
def test_merged_weights_are_the_policy_s_and_leave_no_trace(base, dora):
    model = lora.attach(checkpoint.load_model(base), LoraSettings(rank=4, dora=dora), 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    ids = torch.arange(12)[None]
    before = model(ids).logits
    weights = rollout.weights_of(model)
    assert torch.equal(model(ids).logits, before)
    plain = checkpoint.load_model(base)
    missing, unexpected = plain.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    torch.testing.assert_close(plain(ids).logits, before, rtol=0, atol=1e-5)
    assert not torch.allclose(checkpoint.load_model(base)(ids).logits, before, atol=1e-3)


@pytest.mark.slow
def test_vllm_samples_from_the_policy_as_it_is_now(ray_session, tmp_path):
    """One engine: its answers and log-probabilities are the model's, before and after the weights have changed."""
    shape = fixtures.TINY.model_copy(update={"hidden_size": 64, "heads": 2})
    folder = fixtures.write_checkpoint(tmp_path / "base", shape)
    model = lora.attach(checkpoint.load_model(folder), LoraSettings(rank=4), 0)
    asked, stop = requests(16), list(range(0, 500, 25))
    config = RolloutConfig(engine="vllm", max_new_tokens=8, kv_cache_gib=0.05, temperature=0.8, threads=1)
    engine = rollout.build(config, str(folder), stop, 1, 64, 0, World(), FP32, directory=tmp_path)
    plain = TransformersSampler(config, stop, 1, 0, World(), FP32)
    try:
        seen = []
        for turn in range(2):
            if turn:
                with torch.no_grad():
                    for (
                        name,
                        parameter,
                    ) in model.named_parameters():  # those of the base as well, its tied ends among them
                        parameter.add_(torch.randn_like(parameter) * (0.3 if "lora_" in name else 0.02))
            ours, theirs = (each.sample(model, asked, greedy=True) for each in (plain, engine))
            assert [c.tokens for c in theirs] == [c.tokens for c in ours]
            assert [c.stopped for c in theirs] == [c.stopped for c in ours]
            sampled = engine.sample(model, asked)
            assert [c.tokens for c in engine.sample(model, asked)] == [c.tokens for c in sampled]
            assert 0 < sum(c.stopped for c in sampled) < len(sampled)
            for request, completion in zip(asked, sampled, strict=True):
                with torch.no_grad():
                    logits = model(torch.tensor([[*request.prompt, *completion.tokens]])).logits[0] / 0.8
                log_p = logits[len(request.prompt) - 1 : -1].log_softmax(1)
                expected = log_p[torch.arange(len(completion.tokens)), completion.tokens]
                torch.testing.assert_close(torch.tensor(completion.log_p), expected, rtol=0, atol=1e-3)
            seen.append([c.tokens for c in theirs])
        assert seen[0] != seen[1], "the weights hardly changed, so nothing was compared"
        assert 0 < engine.sync_seconds < 60
        print(f"sync: {engine.sync_seconds:.3f} s")
    finally:
        engine.close()
