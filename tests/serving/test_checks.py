import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from core import checkpoint as checkpoints
from core.errors import UserError
from serving import checks
from serving.door_settings import DoorConfig
from serving.endpoint import Endpoint
from serving.engine import Adapter, EngineSettings, ModelConfig, Replicas, RopeStretch, Speculative
from serving.hardware import Hardware
from tests.serving.fixtures import CONTEXT, save_speller

AVX2 = Hardware(avx2=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_speller(tmp_path_factory.mktemp("checks") / "base")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks") / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).save_pretrained(str(folder))
    known = {"checkpoint": str(base), "fingerprint": checkpoints.fingerprint(base)}
    (folder / "base.json").write_text(json.dumps(known))
    return folder


def model(checkpoint, **more):
    return ModelConfig(checkpoint=str(checkpoint), **more)


def refused(config, reason):
    with pytest.raises(UserError, match=reason) as raised:
        checks.served(config, AVX2)
    assert "\n" not in str(raised.value)


def edited(folder, target, **changes):
    shutil.copytree(folder, target)
    written = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(written | changes))
    return target


def test_the_engine_will_run_on_what_it_was_judged_for(base):
    hopper = Hardware(bf16=True, gpu=9.0)
    on_cpu, on_gpu = (checks.served(model(base, tensor_parallel_size=1), found) for found in (AVX2, hopper))
    assert (on_cpu.config.engine.device, on_gpu.config.engine.device) == ("cpu", "gpu")
    assert on_cpu.version != on_gpu.version
    assert checks.served(model(base, kv_offload_gib=1), hopper).config.gpus == 1
    refused(model(base, kv_offload_gib=1), "KV offload to host memory does not work here")
    refused(model(base, tensor_parallel_size=2), "tensor_parallel_size: .* only GPUs share an engine")


def test_a_vllm_that_the_tables_do_not_know_is_warned_of(base, monkeypatch, caplog):
    monkeypatch.setattr(checks.preflight, "vllm_version", lambda: "0.33.0")
    checks.served(model(base), AVX2)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "vLLM 0.33.0 is installed" in record.message


def test_another_engine_is_needed_when_what_it_starts_with_changes_and_not_otherwise(base, adapter, tmp_path):
    version = checks.served(model(base), AVX2).version
    assert checks.served(model(base, aliases=["a"], replicas=Replicas(max=3)), AVX2).version == version
    assert checks.served(model(base, max_num_seqs=2), AVX2).version != version
    listed = Adapter(name="a", path=str(adapter))
    with_adapter = checks.served(model(base, adapters=[listed]), AVX2).version
    assert with_adapter != version, "an engine without slots takes no adapters"
    more = model(base, adapters=[listed, Adapter(name="b", path=str(adapter))])
    assert checks.served(more, AVX2).version == with_adapter
    other = edited(base, tmp_path / "other", eos_token_id=2)
    before = checks.served(model(other), AVX2).version
    edited(base, tmp_path / "changed", eos_token_id=3)
    shutil.copy(tmp_path / "changed" / "config.json", other)
    assert checks.served(model(other), AVX2).version != before


def test_a_context_is_as_long_as_the_checkpoint_and_its_stretch(base):
    content = checkpoints.check(base)
    stretch = RopeStretch(type="yarn", factor=4)
    assert checks.check_context(EngineSettings(), content) == CONTEXT
    assert checks.check_context(EngineSettings(rope_scaling=stretch), content) == 4 * CONTEXT
    assert checks.check_context(EngineSettings(rope_scaling=stretch, max_model_len=3000), content) == 3000
    refused(model(base, max_model_len=CONTEXT + 1), f"max_model_len: .* context of {CONTEXT}; rope_scaling")
    refused(model(base, rope_scaling=stretch, max_model_len=5 * CONTEXT), f"context of {4 * CONTEXT}$")
    overrides = EngineSettings(rope_scaling=stretch).arguments(0, content)["hf_overrides"]
    assert overrides["rope_parameters"]["original_max_position_embeddings"] == CONTEXT
    scaled = content | {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}
    with pytest.raises(UserError, match="no plain rotary positions"):
        checks.check_context(EngineSettings(rope_scaling=stretch), scaled)


def test_what_a_cpu_has_not_is_refused(base):
    refused(model(base, kv_cache_dtype="fp8"), "AVX-512")
    refused(model(base, kv_offload_gib=1.0), "host memory already")


def test_a_draft_must_speak_the_target_s_tokens(base, tmp_path):
    smaller = edited(base, tmp_path / "smaller", vocab_size=64)
    refused(
        model(base, speculative=Speculative(method="draft_model", checkpoint=str(smaller))), "vocabulary of 64 tokens"
    )
    renumbered = edited(base, tmp_path / "renumbered")
    written = json.loads((renumbered / "tokenizer.json").read_text())
    vocabulary = written["model"]["vocab"]
    first, second = sorted(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (renumbered / "tokenizer.json").write_text(json.dumps(written))
    refused(
        model(base, speculative=Speculative(method="draft_model", checkpoint=str(renumbered))), "numbers its tokens"
    )
    checks.served(model(base, speculative=Speculative(method="draft_model", checkpoint=str(base))), AVX2)


def test_a_head_must_fit_the_target_s_states(base, tmp_path):
    head = edited(base, tmp_path / "head", architectures=["LlamaForCausalLMEagle3"])
    checks.served(model(base, speculative=Speculative(method="eagle3", checkpoint=str(head))), AVX2)
    refused(model(base, speculative=Speculative(method="eagle3", checkpoint=str(base))), "no EAGLE-3 head")
    wide = edited(head, tmp_path / "wide", hidden_size=128)
    refused(model(base, speculative=Speculative(method="eagle3", checkpoint=str(wide))), "states of 128 .* has 64")


def test_an_adapter_must_fit_its_base_and_the_engine(base, adapter, tmp_path):
    def with_adapter(path, **more):
        return model(base, adapters=[Adapter(name="poet", path=str(path))], **more)

    found = checks.served(with_adapter(adapter), AVX2)
    assert found.adapters["poet"][0] == str(adapter)
    assert found.config.engine.adapter_slots == 4
    refused(with_adapter(tmp_path), "no PEFT adapter, adapter_config.json is missing")

    def changed(name, **changes):
        folder = shutil.copytree(adapter, tmp_path / name)
        written = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(written | changes))
        return folder

    refused(with_adapter(changed("large", r=64)), "rank 64 is above max_adapter_rank 16")
    refused(with_adapter(changed("dora", use_dora=True)), "merge it")
    other = save_speller(tmp_path / "other", seed=1)
    foreign = model(other, adapters=[Adapter(name="poet", path=str(adapter))])
    refused(foreign, "was trained on .* whose weights are not those of")
    unknown = changed("unknown")
    (unknown / "base.json").unlink()
    narrow = edited(base, tmp_path / "narrow")
    tensors = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(32, 32)}
    from safetensors.torch import save_file

    save_file(tensors, narrow / "model.safetensors")
    wrong = model(narrow, adapters=[Adapter(name="poet", path=str(unknown))])
    refused(wrong, "belongs to another base .* 64 x 64 there and 32 x 32 here")


def test_a_name_means_one_thing(base):
    def endpoint(*configs):
        served = [checks.served(config, AVX2) for config in configs]
        return Endpoint(models=served, keys=[], door=DoorConfig())

    checks.check_names(endpoint(model(base, aliases=["b"])))
    with pytest.raises(UserError, match="two have the model_id raymill"):
        checks.check_names(endpoint(model(base), model(base)))
    with pytest.raises(UserError, match="means two things: other"):
        checks.check_names(endpoint(model(base, aliases=["other"]), model(base, model_id="other")))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "draft_model"}, "needs speculative.checkpoint"),
        ({"method": "ngram", "checkpoint": "m"}, "of no use to the method ngram"),
        ({"method": "ngram", "prompt_lookup_min": 5}, "prompt_lookup_min is greater"),
    ],
)
def test_a_method_has_what_it_needs(settings, reason):
    with pytest.raises(ValueError, match=reason):
        Speculative(**settings)


def test_drafts_end_where_the_batch_is_too_large():
    arguments = Speculative(method="ngram", max_batch=2).arguments(8)
    assert arguments["num_speculative_tokens_per_batch_size"] == [(1, 2, 4), (3, 8, 0)]
    assert "num_speculative_tokens_per_batch_size" not in Speculative(method="ngram", max_batch=8).arguments(8)
