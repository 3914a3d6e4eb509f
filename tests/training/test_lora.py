import pytest
import torch
from safetensors.torch import load_file

from core import checkpoint
from core.errors import RaymillError, UserError
from tests.training import fixtures
from training import export, lora
from training.lora import LoraSettings
from training.model import bare, count_parameters


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def start(request, tmp_path_factory):
    shape = fixtures.TINY.model_copy(update={"tie_embeddings": request.param, "initializer_range": 0.2})
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("start"), shape)


def nf4(start):
    return lora.load_nf4(str(start), torch.float32, torch.device("cpu"))


def trained(start, base=None, **settings):
    """An adapter with weights as after training: B is not zero, lengths have changed."""
    model = lora.attach(base or checkpoint.load_model(start), LoraSettings(**settings), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("kind", ["full", "nf4"])
def test_a_fresh_adapter_changes_no_bit(start, dora, kind):
    base = checkpoint.load_model(start) if kind == "full" else nf4(start)
    before = export.probe_logits(base)
    wrapped = lora.attach(base, LoraSettings(dora=dora), seed=0).eval()
    assert torch.equal(export.probe_logits(wrapped.get_base_model()), before)


def test_weights_that_are_not_finite_are_refused_before_they_are_rounded_to_4_bits(start, tmp_path):
    spoiled = fixtures.write_spoiled(tmp_path / "spoiled", start)
    with pytest.raises(UserError, match=r"up_proj.weight holds weights that are not finite"):
        nf4(spoiled)


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


def test_merged_weights_of_dora_have_the_lengths_it_learned(start):
    """m (W + s B A) / |W + s B A|, row by row (Liu et al. 2024, eq. 5), worked out here from the saved matrices."""
    model = trained(start, rank=4, alpha=12, dora=True)
    before = export.probe_logits(model.get_base_model())
    matrices = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    merged = lora.merge(model)
    assert float((export.probe_logits(merged) - before).abs().max()) < 1e-5 * max(1.0, float(before.abs().max()))
    weights, changed = dict(merged.named_parameters()), 0
    for name, original in checkpoint.load_model(start).named_parameters():
        part = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{part}.lora_A.default.weight" not in matrices:
            continue
        a, b = (matrices[f"{part}.lora_{side}.default.weight"] for side in "AB")
        length = matrices[f"{part}.lora_magnitude_vector.default.weight"]
        moved = original + 3.0 * (b @ a)
        expected = length[:, None] * moved / moved.norm(dim=1, keepdim=True)
        torch.testing.assert_close(weights[name], expected, rtol=1e-5, atol=1e-6)
        changed += 1
    assert changed == 7 * fixtures.TINY.layers


def test_a_4_bit_base_learns_through_the_adapter_alone(start):
    """Its products are those of the dequantized matrices, and no gradient reaches them."""
    import bitsandbytes as bnb

    base = nf4(start)
    linear = {name: m for name, m in base.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    assert len(linear) == 7 * fixtures.TINY.layers, "all linear layers but the output head"
    assert {m.weight.dtype for m in linear.values()} == {torch.uint8}
    plain = checkpoint.load_model(start)
    assert count_parameters(base)[0] == count_parameters(plain)[0], "two numbers share a byte"
    with torch.no_grad():
        for name, module in linear.items():
            whole = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            assert float((whole - plain.get_submodule(name).weight).abs().max()) > 0.01, "nothing was rounded"
            plain.get_submodule(name).weight.copy_(whole)
    torch.testing.assert_close(export.probe_logits(base), export.probe_logits(plain), rtol=0, atol=1e-5)

    model = trained(start, base, rank=4, dora=True).train()
    before = {name: m.weight.data.clone() for name, m in linear.items()}
    model(input_ids=torch.arange(40)[None]).logits.logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
        assert "lora_" not in name or (parameter.dtype == torch.float32 and parameter.grad.isfinite().all())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        model.eval()(input_ids=torch.arange(40)[None])
    model.train().zero_grad()
    model(input_ids=torch.arange(40)[None]).logits.logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or torch.equal(parameter.grad, gradients[name]), "an evaluation changed it"
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert all(torch.equal(m.weight.data, before[name]) for name, m in linear.items())


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_an_adapter_of_a_4_bit_base_is_merged_into_full_precision(start, tmp_path, dora):
    adapter = lora.save(trained(start, nf4(start), rank=4, alpha=12, dora=dora), tmp_path, str(start))
    onto_full = lora.load(checkpoint.load_model(start), adapter, str(start))
    expected = export.probe_logits(bare(onto_full))
    matrices = load_file(adapter / "adapter_model.safetensors")
    merged = lora.merge(onto_full)
    assert float((export.probe_logits(merged) - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    if not dora:
        key = "model.layers.0.mlp.up_proj"
        b, a = (matrices[f"base_model.model.{key}.lora_{side}.weight"] for side in "BA")
        whole = checkpoint.load_model(start).get_submodule(key).weight
        torch.testing.assert_close(merged.get_submodule(key).weight, whole + 3.0 * (b @ a), rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError, match="rounded away"):
        lora.merge(trained(start, nf4(start)))


@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["lm_head"], ["embed_tokens", "lm_head"]], ids=str)
@pytest.mark.filterwarnings("ignore:Model")
def test_an_adapter_of_the_embedding_or_the_head_does_not_change_the_other(start, tmp_path, targets):
    model = trained(start, targets=targets)
    before = export.probe_logits(bare(model))
    assert float((before - export.probe_logits(checkpoint.load_model(start))).abs().max()) > 0.1
    tokenizer = checkpoint.load_tokenizer(start)
    again = checkpoint.load_model(export.save(lora.merge(model), tokenizer, tmp_path, [tokenizer.eos_token_id]))
    scale = max(1.0, float(before.abs().max()))
    torch.testing.assert_close(export.probe_logits(again), before, rtol=0, atol=1e-5 * scale)
    assert not again.config.tie_word_embeddings


def test_layers_that_are_not_there_are_refused(start):
    with pytest.raises(UserError, match=r"lora\.targets: Target modules"):
        lora.attach(checkpoint.load_model(start), LoraSettings(targets=["query"]), seed=0)


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
