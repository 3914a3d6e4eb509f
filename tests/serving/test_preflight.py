import ast
import importlib.util
from pathlib import Path

import pytest

from core.errors import UserError
from serving import preflight
from serving.hardware import Hardware

AVX2 = Hardware(avx2=True)
AVX512 = Hardware(avx2=True, avx512=True)
AMX = Hardware(avx2=True, avx512=True, bf16=True, amx=True)
OLD = Hardware()
GPU = Hardware(bf16=True, gpu=9.0)


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
def test_a_format_runs_on_the_cpus_that_have_its_kernel_and_a_refusal_says_what_would(name, hardware):
    verdict = preflight.runs(name, hardware)
    assert verdict.ok == (hardware in RUNS[name])
    assert verdict.reason
    if not verdict.ok and hardware is not OLD:
        assert "int8_w8a8" in verdict.reason
        assert preflight.runs("int8_w8a8", hardware).ok


@pytest.mark.parametrize(("name", "ok"), [("none", True), ("nvfp4", True), ("int4_w4a8", False)])
def test_gpus_are_left_to_the_engine_but_for_the_format_without_a_kernel(name, ok):
    assert preflight.runs(name, GPU).ok == ok


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
