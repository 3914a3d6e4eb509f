import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from core import checkpoint, manifest
from core.errors import RaymillError, UserError
from tests.training import fixtures
from tests.training.test_lora import nf4, trained
from training import export, lora
from training import merge as stage
from training.merge import MergeConfig
from training.model import bare


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    shape = fixtures.TINY.model_copy(update={"initializer_range": 0.2})
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("start"), shape)


@pytest.fixture
def adapter(start, tmp_path):
    return lora.save(trained(start, rank=4), tmp_path, str(start))


def merged(directory, adapter, **changes):
    return stage.STAGE.execute(MergeConfig(output=str(directory / "run"), adapter=str(adapter), **changes))[0]


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"dora": True, "base": "nf4"}], ids=str)
def test_the_written_checkpoint_is_base_and_adapter(start, tmp_path, settings):
    """Also of an adapter trained on a 4-bit base: on the full one, which it names itself."""
    base = nf4(start) if settings.pop("base", "full") == "nf4" else None
    adapter = lora.save(trained(start, base, rank=4, **settings), tmp_path, str(start))
    expected = export.probe_logits(bare(lora.load(checkpoint.load_model(start), adapter, str(start))))
    found = merged(tmp_path, adapter)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint")
    scale = max(1.0, float(expected.abs().max()))
    assert float((export.probe_logits(theirs) - expected).abs().max()) < 1e-5 * scale
    assert found.metrics["largest_logit_difference"] < 1e-5 * scale
    assert found.metrics["tied_embeddings"]
    stop = checkpoint.load_tokenizer(start).convert_tokens_to_ids("<|im_end|>")
    assert stop in theirs.generation_config.eos_token_id
    assert checkpoint.load_tokenizer(tmp_path / "run" / "checkpoint").chat_template
    assert stage.STAGE.execute(MergeConfig(output=str(tmp_path / "run"), adapter=str(adapter)))[1], "reused"


def test_weights_rounded_to_bf16_are_judged_by_what_they_predict(start, adapter, tmp_path, monkeypatch):
    found = merged(tmp_path, adapter, dtype="bfloat16")
    assert json.loads((tmp_path / "run/checkpoint/config.json").read_text())["dtype"] == "bfloat16"
    assert 0 < found.metrics["kl"] < 1e-2
    assert found.metrics["agreement"] > 0.95
    monkeypatch.setattr(stage, "_LARGEST_KL", found.metrics["kl"] / 2)
    with pytest.raises(RaymillError, match="set dtype: float32"):
        merged(tmp_path / "again", adapter, dtype="bfloat16")
    assert not (tmp_path / "again/run/checkpoint").exists()


def test_kl_and_agreement_by_hand():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.75, 0.25], [0.1, 0.9]])
    found = stage.compare(p.log(), q.log() + 3)
    by_hand = [0.5 * (torch.tensor(a).log() + torch.tensor(b).log()) for a, b in ((2 / 3, 2.0),)]
    by_hand.append(0.8 * torch.tensor(9.0).log())
    assert found["kl"] == pytest.approx(float(sum(by_hand)) / 2, abs=1e-6)
    assert found["agreement"] == 0.5


def refused(directory, complaint, adapter, **changes):
    with pytest.raises(UserError, match=complaint) as caught:
        merged(directory, adapter, **changes)
    assert "\n" not in str(caught.value)
    assert manifest.read(directory / "run") is None
    assert not (directory / "run" / "checkpoint").exists()


def test_another_base_is_refused(start, adapter, tmp_path):
    """By its weights where the shape is the same, by the matrices that do not fit where it is not; an adapter without
    our note by the base that it names."""
    shape = fixtures.TINY
    twin = fixtures.write_checkpoint(tmp_path / "twin", shape, seed=7)
    refused(tmp_path, f"was trained on {start}, whose weights are not those of {twin}", adapter, checkpoint=str(twin))
    moved = shutil.copytree(start, tmp_path / "moved")
    assert merged(tmp_path / "fits", adapter, checkpoint=str(moved)).metrics["base"] == str(moved)
    (adapter / "base.json").unlink()
    refused(tmp_path, "whose weights are not those of", adapter, checkpoint=str(twin))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "somebody/elses"}))
    wide = fixtures.write_checkpoint(tmp_path / "wide", shape.model_copy(update={"hidden_size": 64}))
    refused(tmp_path, r"belongs to another base than .*wide", adapter, checkpoint=str(wide))
    flat = fixtures.write_checkpoint(tmp_path / "flat", shape.model_copy(update={"layers": 1}))
    refused(tmp_path, r"layers\.1\..*, absent on this base", adapter, checkpoint=str(flat))


def test_what_is_no_adapter_or_no_full_base_is_refused(start, adapter, tmp_path):
    refused(tmp_path, r"not a PEFT adapter, adapter_config\.json is missing", start)
    broken = shutil.copytree(adapter, tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"none")
    refused(tmp_path, r"adapter_model\.safetensors: not readable", broken)
    (broken / "adapter_config.json").write_text("{")
    refused(tmp_path, r"adapter_config\.json: not readable", broken)
    small = shutil.copytree(start, tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    refused(tmp_path, "is quantized; an adapter is merged into the full-precision", adapter, checkpoint=str(small))
