import ast
import importlib.util
from pathlib import Path

import pytest

from core.errors import UserError
from serving import kernel_probe, preflight
from serving.format_choice import engine_version
from serving.hardware import PROFILES, Hardware

AVX2, AVX512, AMX = PROFILES["AVX2"], PROFILES["AVX-512"], PROFILES["AMX"]
TURING, AMPERE, HOPPER = PROFILES["Turing 7.5"], PROFILES["Ampere 8.6"], PROFILES["Hopper 9.0"]
OLD = Hardware()
GPU = HOPPER


def compressed(weights, activations=None, **more):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **more}}


def preset(name):
    """What llm-compressor writes for one of its schemes, from the library itself."""
    from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme

    scheme = preset_name_to_scheme(name, ["Linear"])
    return {"quantization_config": QuantizationConfig(config_groups={"group_0": scheme}).model_dump(mode="json")}


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("W8A8", "int8_w8a8"),
        ("W4A16", "int4_w4a16"),
        ("W4A16_ASYM", "int4_w4a16"),
        ("W8A16", "int8_w8a16"),
        ("W4A8", "int4_w4a8"),
        ("FP8", "fp8"),
        ("FP8_DYNAMIC", "fp8_dynamic"),
        ("FP8_BLOCK", "fp8_block"),
        ("NVFP4", "nvfp4"),
        ("NVFP4A16", "nvfp4a16"),
        ("MXFP4", "mxfp4"),
    ],
)
def test_every_scheme_of_the_compressor_is_known_by_its_name(scheme, name):
    assert preflight.number_format(preset(scheme)) == name


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "none"),
        ({"quantization_config": None}, "none"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, "int4_w4a16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": False}}, "int4_w4a16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "gptq_w8a16"),
        # DeepSeek-V3's and Qwen3-FP8's config.json
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}}, "fp8_block"),
        ({"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}, "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),  # gpt-oss
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {}}, "none"),
        (compressed({"num_bits": 4, "type": "int", "group_size": 128}), "int4_w4a16"),
    ],
)
def test_formats_of_checkpoints_in_circulation(config, name):
    assert preflight.number_format(config) == name


RUNS = {  # the table of the vLLM CPU build 0.29, measured on AVX2 or read in its kernels' checks
    "none": (AVX2, AVX512, AMX),
    "int8_w8a8": (AVX2, AVX512, AMX),
    "int4_w4a8": (AVX2, AVX512, AMX),
    "fp8": (AVX2, AVX512, AMX),
    "fp8_dynamic": (AVX2, AVX512, AMX),
    "int4_w4a16": (AVX512, AMX),
    "fp8_block": (AMX,),
    "int8_w8a16": (),
    "nvfp4": (),
    "nvfp4a16": (),
    "mxfp4": (),
    "bitsandbytes": (),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("hardware", [OLD, AVX2, AVX512, AMX], ids=lambda hardware: hardware.name)
def test_a_format_runs_on_the_cpus_that_have_its_kernel(name, hardware):
    verdict = preflight.runs(name, hardware)
    assert verdict.ok == (hardware in RUNS[name])
    assert verdict.reason


@pytest.mark.parametrize("name", preflight.FORMATS)
@pytest.mark.parametrize("kind", PROFILES)
def test_a_refusal_names_the_nearest_formats_and_they_run_there(name, kind):
    verdict, instead = preflight.runs(name, PROFILES[kind]), preflight.nearest(name, PROFILES[kind])
    assert instead, "something runs everywhere"
    assert all(preflight.runs(other, PROFILES[kind]).ok for other in instead)
    if not verdict.ok:
        assert instead[0] in verdict.reason


@pytest.mark.parametrize(
    ("name", "hardware", "nearest"),
    [
        ("nvfp4", AVX512, ["int4_w4a16", "int8_w8a8"]),
        ("nvfp4", AVX2, ["int8_w8a8", "fp8_dynamic"]),
        ("int4_w4a8", HOPPER, ["int4_w4a16", "int8_w8a8"]),
        ("int8_w8a8", PROFILES["Blackwell 10.0"], ["fp8_dynamic", "int4_w4a16"]),
        ("fp8_block", AVX2, ["fp8_dynamic", "int8_w8a8"]),
    ],
)
def test_the_nearest_format_has_as_many_bits_or_the_next_more(name, hardware, nearest):
    assert preflight.nearest(name, hardware) == nearest


@pytest.mark.parametrize(
    ("name", "capability", "ok"),
    [
        ("none", 7.0, False),
        ("none", 7.5, True),
        ("nvfp4", 9.0, True),
        ("int4_w4a8", 9.0, False),
        ("int8_w8a8", 9.0, True),
        ("int8_w8a8", 12.0, False),
        ("fp8_block", 8.0, True),
        ("bitsandbytes", 9.0, True),
    ],
)
def test_formats_on_gpus(name, capability, ok):
    assert preflight.runs(name, Hardware(gpu=capability)).ok == ok


def test_a_gpu_without_units_for_the_format_is_told_that_it_gains_memory_alone():
    assert "weights alone" in preflight.runs("fp8_dynamic", AMPERE).reason
    assert preflight.runs("fp8_dynamic", HOPPER).reason == "runs"


def test_int8_where_its_weights_are_packed_for_each_product_is_told_to_be_slow():
    assert "slower than float32" in preflight.runs("int8_w8a8", AVX2).reason
    assert preflight.runs("int8_w8a8", AVX512).reason == "runs"


# --- features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", preflight.FEATURES)
@pytest.mark.parametrize("kind", PROFILES)
def test_every_feature_has_an_answer_for_every_machine(feature, kind):
    assert preflight.supports(feature, "none", PROFILES[kind]).reason
    unknown = preflight.supports(feature, "nvfp4", PROFILES["AVX2"])
    assert not unknown.ok
    assert "nvfp4" in unknown.reason


@pytest.mark.parametrize(
    ("feature", "name", "hardware", "config", "ok"),
    [
        ("kv_cache_fp8", "none", AVX2, {}, False),
        ("kv_cache_fp8", "none", AVX512, {}, True),
        ("kv_cache_fp8", "none", AVX512, {"head_dim": 80}, False),
        ("kv_cache_fp8", "none", TURING, {}, False),
        ("kv_cache_fp8", "none", AMPERE, {"head_dim": 96}, False),
        ("kv_cache_fp8", "none", HOPPER, {"head_dim": 96}, True),
        ("lora", "none", AVX2, {}, True),
        ("lora", "int8_w8a8", AVX2, {}, False),
        ("lora", "int8_w8a8", AMX, {}, True),
        ("lora", "int8_w8a8", HOPPER, {}, True),
        ("kv_offload", "none", AVX512, {}, False),
        ("kv_offload", "none", HOPPER, {}, True),
        ("prefix_caching", "none", AVX512, {"kv_lora_rank": 512}, False),
        ("prefix_caching", "none", AVX512, {}, True),
        ("speculation_draft", "int8_w8a8", AVX2, {}, True),
    ],
)
def test_features(feature, name, hardware, config, ok):
    assert preflight.supports(feature, name, hardware, config).ok == ok


def test_a_feature_that_does_not_work_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"KV offload to host memory does not work here: .* kv_cache_gib") as raised:
        preflight.require_feature("kv_offload", {}, AVX512)
    assert "\n" not in str(raised.value)
    assert preflight.require_feature("kv_offload", {}, HOPPER)


# --- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"hidden_size": 64, "num_attention_heads": 2}, 32),
        ({"hidden_size": 64, "num_attention_heads": 2, "head_dim": 128}, 128),
        ({"hidden_size": 64, "num_attention_heads": 2, "head_dim": None}, 32),
        ({"n_embd": 64}, None),
    ],
)
def test_head_size(config, size):
    assert preflight.head_size(config) == size


def test_a_checkpoint_that_runs_is_named_and_one_that_does_not_is_refused_with_its_path():
    good = {"hidden_size": 64, "num_attention_heads": 2}
    assert preflight.require("some/model", good, AVX2) == "none"
    assert preflight.require("some/model", good | preset("W8A8"), AVX2) == "int8_w8a8"
    with pytest.raises(UserError, match=r"some/model: the format int4_w4a16 .* needs AVX-512 .* a CPU with AVX2"):
        preflight.require("some/model", good | preset("W4A16"), AVX2)
    with pytest.raises(UserError, match="some/model: attention heads of 8"):
        preflight.require("some/model", {"hidden_size": 32, "num_attention_heads": 4}, AVX2)
    assert preflight.require("some/model", {"hidden_size": 32, "num_attention_heads": 4}, GPU) == "none"


def test_calibrated_scales_of_keys_and_values_are_a_part_of_what_must_run():
    config = preset("W8A8")
    assert preflight.kv_cache_format(config) == "auto"
    config["quantization_config"]["kv_cache_scheme"] = {"num_bits": 8, "type": "float"}
    assert preflight.kv_cache_format(config) == "fp8"
    assert preflight.serves(config, AVX512).ok
    verdict = preflight.serves(config, AVX2)
    assert not verdict.ok
    assert "its FP8 KV cache does not run here: it needs AVX-512" in verdict.reason


# --- the installed vLLM -------------------------------------------------------------------------------------------


def test_the_tables_are_of_the_installed_vllm():
    """Another one: run tests/serving/test_kernel_probe.py, mend the tables, then change `preflight.VLLM`."""
    installed = engine_version()
    if installed == "none":
        pytest.skip("vllm is absent")
    assert installed.partition(" ")[2].startswith(f"{preflight.VLLM}.")


def test_operations_that_the_registry_takes_for_granted_are_compiled_where_the_tables_say_so():
    """vllm#55613: the registry promises the 4-bit kernel on AVX2 as well, and the first request ends the engine."""
    found = kernel_probe.operations(("cpu_gemm_wna16", "fp8_scaled_mm_cpu", "onednn_scaled_mm"))
    if not found:
        pytest.skip("vllm is absent")
    for kind, operations in found.items():
        assert ("cpu_gemm_wna16" in operations) == preflight.runs("int4_w4a16", PROFILES[kind]).ok, kind
        assert "onednn_scaled_mm" in operations
    assert "fp8_scaled_mm_cpu" in found["AMX"]


def test_the_head_sizes_are_those_of_the_installed_engine():
    """Read from its source: importing vLLM takes half a minute."""
    package = importlib.util.find_spec("vllm")
    if package is None:
        pytest.skip("vllm is absent")
    source = Path(package.origin).parent / "v1/attention/backends/cpu_attn.py"
    functions = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.FunctionDef)]
    [sizes] = [node for node in functions if node.name == "get_supported_head_sizes"]
    [returned] = [node for node in ast.walk(sizes) if isinstance(node, ast.Return)]
    assert sorted(ast.literal_eval(returned.value)) == sorted(preflight._HEAD_SIZES_CPU)


def test_another_vllm_than_that_of_the_tables_is_said_by_whoever_judges_by_them(monkeypatch):
    for version, known in (("0.29.0", True), ("0.29.4+cpu", True), ("0.30.0", False), ("0.2.9", False), (None, True)):
        monkeypatch.setattr(preflight, "vllm_version", lambda version=version: version)
        assert (preflight.other_vllm() is None) == known, version
