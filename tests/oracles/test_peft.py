"""Our LoRA'd models against PEFT used on its own, as its documentation does: `from_pretrained`, forward, merge."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from core import checkpoint
from tests.training import fixtures
from training import export, lora
from training.batch import Segment, collate
from training.lora import LoraSettings
from training.model import losses
from training.precision import resolve

SHAPES = {
    "llama, tied": {"tie_embeddings": True},
    "llama, untied, grouped heads": {"tie_embeddings": False, "heads": 4, "kv_heads": 2},
    "qwen3": {"architecture": "qwen3"},
}
ADAPTERS = {
    "all-linear": {},
    "q and v": {"targets": ["q_proj", "v_proj"]},
    "DoRA": {"dora": True},
}


@pytest.fixture(scope="module", params=SHAPES)
def start(request, tmp_path_factory):
    shape = fixtures.TINY.model_copy(update={"initializer_range": 0.2, **SHAPES[request.param]})
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("start"), shape)


@pytest.fixture(params=ADAPTERS)
def tuned(request, start, tmp_path):
    """(our model with a trained adapter, the adapter as we save it)."""
    model = lora.attach(checkpoint.load_model(start), LoraSettings(rank=4, alpha=12, **ADAPTERS[request.param]), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval(), lora.save(model, tmp_path, str(start))


def tokens():
    return torch.randint(0, fixtures.VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(1))


def batch_of(ids):
    return collate([[Segment.from_ids(row, row >= 0)] for row in ids.numpy()], padding=0)


@torch.no_grad()
def logits(model):
    return model(input_ids=tokens(), use_cache=False).logits


def test_our_forward_pass_is_that_of_peft(tuned, start):
    """The saved adapter on the base it names, and our loss, which never asks PEFT's wrapper for logits."""
    ours, adapter = tuned
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), adapter).eval()
    assert theirs.peft_config["default"].base_model_name_or_path == str(start)
    assert torch.equal(logits(ours), logits(theirs))
    assert float((logits(theirs) - logits(checkpoint.load_model(start))).abs().max()) > 0.1, "the adapter does nothing"

    ids = tokens()
    loss = losses(ours, batch_of(ids), resolve("fp32"), per_token=False)
    expected = theirs(input_ids=ids, labels=ids).loss * ids[:, 1:].numel()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_our_merged_checkpoint_is_the_merge_of_peft(tuned, start, tmp_path):
    ours, adapter = tuned
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), adapter).eval()
    with_adapter = logits(theirs)
    merged = theirs.merge_and_unload()
    tokenizer = checkpoint.load_tokenizer(start)
    saved = export.save(lora.merge(ours), tokenizer, tmp_path, [tokenizer.eos_token_id])
    again = AutoModelForCausalLM.from_pretrained(saved)
    expected = dict(merged.named_parameters())
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-7)
    scale = max(1.0, float(with_adapter.abs().max()))
    assert float((logits(again) - with_adapter).abs().max()) < 1e-5 * scale


def test_gradients_of_the_adapter_are_those_of_peft(tuned, start):
    ours, adapter = tuned
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), adapter, is_trainable=True)
    ids = tokens()
    losses(ours, batch_of(ids), resolve("fp32"), per_token=False).backward()
    (theirs(input_ids=ids, labels=ids).loss * ids[:, 1:].numel()).backward()
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert expected
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert float((parameter.grad - expected[name]).norm() / expected[name].norm()) < 1e-4, name
        else:
            assert parameter.grad is None, f"{name} belongs to the frozen base"
