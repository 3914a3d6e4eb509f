"""Segments that share a row do not see each other, whichever implementation keeps them apart."""

import pytest
import torch
from transformers import Qwen2Config

from core.errors import UserError
from tests.training import runs
from tests.training.test_precision import shape_of
from training import attention
from training.batch import Batch
from training.model import ModelConfig, initialize, losses
from training.precision import Precision

CPU = torch.device("cpu")
FP32 = Precision("fp32", "test")


def batch(padding=True):
    """Four rows of segments, some as long as the next, one with padding at its end."""
    lengths = [[5, 20, 7], [32], [32], [1, 2, 2, 27 - 4]]
    tokens = torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(0))
    segments, positions = torch.zeros(4, 32, dtype=torch.int64), torch.zeros(4, 32, dtype=torch.int64)
    for row, parts in enumerate(lengths):
        at = 0
        for number, size in enumerate(parts):
            segments[row, at : at + size], positions[row, at : at + size] = number + 1, torch.arange(size)
            at += size
        positions[row, at:] = torch.arange(32 - at)
    labels = tokens.roll(-1, 1).masked_fill(segments == 0, -100)
    return Batch(tokens, labels, positions, segments)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", ["varlen", "flex"])
def test_every_implementation_gives_the_losses_of_segments_alone(kind, architecture, kv_heads):
    shape = ModelConfig(
        architecture=architecture, hidden_size=32, layers=2, heads=4, kv_heads=kv_heads, intermediate_size=64
    )
    model = initialize(shape.to_transformers(256), 0)
    whole = batch()
    expected = torch.zeros(4, 32)
    for row in range(4):
        for number in range(1, int(whole.segments[row].max()) + 1):
            here = whole.segments[row] == number
            logits = model(input_ids=whole.tokens[row][here][None], use_cache=False).logits[0]
            expected[row, here] = torch.nn.functional.cross_entropy(logits, whole.labels[row][here], reduction="none")
    gradients = {}
    for way in ("sdpa", kind):
        attention.install(model, way, 32)
        model.zero_grad()
        with torch.set_grad_enabled(way != "flex"):  # it has no backward pass on a CPU
            found = losses(model, whole, FP32, per_token=True)
        torch.testing.assert_close(found.view(4, 32), expected, rtol=0, atol=1e-5)
        if found.requires_grad:
            found.sum().backward()
            gradients[way] = torch.cat([p.grad.flatten() for p in model.parameters()])
    if kind in gradients:
        torch.testing.assert_close(gradients[kind], gradients["sdpa"], rtol=1e-4, atol=1e-5)
    assert set(gradients) == {"sdpa", kind} - {"flex"}


@pytest.mark.parametrize("kind", ["varlen", "flex"])
def test_generation_and_padding_are_left_to_sdpa(kind):
    """After training, the same model answers prompts in padded batches."""
    model = runs.model().eval()
    tokens = torch.randint(3, 256, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    asked = {"input_ids": tokens, "attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    before = model.generate(**asked)
    attention.install(model, kind, 32)
    assert torch.equal(model.generate(**asked), before)


def test_lengths_are_those_of_segments_and_padding():
    assert batch().lengths == [5, 20, 7, 32, 32, 1, 2, 2, 23, 4]
    for device in ("cpu", "meta"):  # on another device they are known without asking it
        moved = batch().to(torch.device(device))
        assert (moved.lengths, moved.labelled) == (batch().lengths, 4 * 32 - 4)


@pytest.mark.parametrize("takes", [{"window_size", "enable_gqa", "scale"}, {"is_causal"}], ids=["2.13", "older"])
def test_the_gpu_kernel_is_given_segments_end_to_end(monkeypatch, takes):
    """Its contract, kept by plain attention in its place: what runs on a GPU is the kernel alone."""

    def kernel(q, k, v, ends, same, longest, again, *, scale=None, enable_gqa=False, window_size=None, is_causal=None):
        assert (window_size == (-1, 0)) or is_causal
        assert q.dtype == torch.bfloat16
        parts = [x.float().transpose(0, 1)[None].split(ends.diff().tolist(), 2) for x in (q, k, v)]
        sdpa = torch.nn.functional.scaled_dot_product_attention
        more = {"is_causal": True, "scale": scale, "enable_gqa": enable_gqa}
        return torch.cat([sdpa(*one, **more) for one in zip(*parts, strict=True)], 2)[0].transpose(0, 1)

    monkeypatch.setattr(attention, "_kernel", kernel)
    monkeypatch.setattr(attention, "_KERNEL_TAKES", frozenset(takes))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(4, heads, 32, 8, generator=generator).bfloat16() for heads in (4, 2, 2))
    ends = torch.tensor([0, *batch().lengths]).cumsum(0)
    found = attention._varlen_kernel(query, key, value, ends, 0.5)
    expected = attention._one_by_one(query.float(), key.float(), value.float(), batch().lengths, 0.0, 0.5)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_what_cannot_be_had_is_refused_or_replaced():
    gpt2 = initialize(shape_of("gpt2"), 0)
    gpt2._supports_attention_backend = False
    assert attention.choose(gpt2, "auto", CPU, FP32)[0] == "sdpa"
    with pytest.raises(UserError, match="attention: varlen is not possible here: gpt2 has its own"):
        attention.choose(gpt2, "varlen", CPU, FP32)
    with pytest.raises(UserError, match="flex is not possible here: it has no backward pass on a CPU"):
        attention.choose(runs.model(), "flex", CPU, FP32)
    assert attention.choose(runs.model(), "auto", CPU, FP32)[0] == "varlen"


def test_rows_beyond_a_sliding_window_are_refused():
    config = Qwen2Config(
        vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=64, use_sliding_window=True, sliding_window=16, max_window_layers=0,
    )  # fmt: skip
    model = initialize(config, 0)
    attention.install(model, "sdpa", 16)
    with pytest.raises(UserError, match="look back 16 tokens only, and rows are 32 long"):
        attention.install(model, "sdpa", 32)
