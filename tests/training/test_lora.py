import pytest
import torch
from safetensors.torch import load_file

from core import checkpoint
from core.errors import RaymillError
from tests.training import fixtures
from training import export, lora
from training.lora import LoraSettings


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def start(request, tmp_path_factory):
    shape = fixtures.TINY.model_copy(update={"tie_embeddings": request.param, "initializer_range": 0.2})
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("start"), shape)


def trained(start, **settings):
    """An adapter with weights as after training: B is not zero."""
    model = lora.attach(checkpoint.load_model(start), LoraSettings(**settings), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def test_a_fresh_adapter_changes_no_bit(start):
    base = checkpoint.load_model(start)
    before = export.probe_logits(base)
    wrapped = lora.attach(base, LoraSettings(), seed=0).eval()
    assert torch.equal(export.probe_logits(wrapped.get_base_model()), before)


def test_only_the_adapter_is_trained_and_the_head_has_none(start):
    model = lora.attach(checkpoint.load_model(start), LoraSettings(rank=4), seed=0)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = fixtures.TINY.layers
    assert len(trainable) == layers * 7 * 2, "A and B on each of the seven projections"
    assert all("lora_" in name for name in trainable)
    assert not any("lm_head" in name or "embed" in name for name in trainable)


def test_the_seed_decides_the_adapter_and_nothing_else(start):
    def weights(seed):
        model = lora.attach(checkpoint.load_model(start), LoraSettings(), seed)
        return torch.cat([p.flatten() for name, p in model.named_parameters() if "lora_A" in name])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_merged_logits_and_weights_are_those_of_base_and_adapter(start):
    """W + (alpha / r) B A, worked out here from the saved matrices."""
    model = trained(start, rank=4, alpha=12)
    before = export.probe_logits(model.get_base_model())
    base = checkpoint.load_model(start)
    assert float((export.probe_logits(base) - before).abs().max()) > 0.1, "the adapter does nothing"
    matrices = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    merged = lora.merge(model)
    assert float((export.probe_logits(merged) - before).abs().max()) < 1e-5 * max(1.0, float(before.abs().max()))
    weights = dict(merged.named_parameters())
    changed = 0
    for name, original in base.named_parameters():
        key = "base_model.model." + name.removesuffix(".weight")
        if f"{key}.lora_A.default.weight" in matrices:
            b, a = matrices[f"{key}.lora_B.default.weight"], matrices[f"{key}.lora_A.default.weight"]
            torch.testing.assert_close(weights[name], original + 3.0 * (b @ a), rtol=1e-5, atol=1e-6)
            changed += 1
        else:
            assert torch.equal(weights[name], original), name
    assert changed == 7 * fixtures.TINY.layers


def test_tied_embeddings_stay_tied_through_merge_save_and_load(start, tmp_path):
    model = trained(start)
    before = export.probe_logits(model.get_base_model())
    tokenizer = checkpoint.load_tokenizer(start)
    saved = export.save(lora.merge(model), tokenizer, tmp_path, [tokenizer.eos_token_id])
    again = checkpoint.load_model(saved)
    tied = again.config.tie_word_embeddings
    assert (again.get_input_embeddings().weight is again.get_output_embeddings().weight) == tied
    assert ("lm_head.weight" in load_file(saved / "model.safetensors")) != tied
    torch.testing.assert_close(export.probe_logits(again), before, rtol=0, atol=2e-5)


def test_a_merge_that_changes_the_model_is_not_written(start, monkeypatch):
    model = trained(start)
    merge = model.merge_and_unload

    def broken():
        merged = merge()
        with torch.no_grad():
            merged.model.layers[0].mlp.up_proj.weight[0] += 0.5
        return merged

    monkeypatch.setattr(model, "merge_and_unload", broken)
    with pytest.raises(RaymillError, match="merging changed the logits"):
        lora.merge(model)


def test_adapter_with_adapter_dropout_merges_all_the_same(start):
    lora.merge(trained(start, dropout=0.5).train())
