"""Whether a checkpoint's number format runs on the hardware at hand: (ok, reason), before anything is started.

The table holds for vLLM 0.29. Kernels on CPU: oneDNN for INT8, PyTorch's dynamic 4-bit product for W4A8, scaled_mm for
FP8; the 4-bit weight-only kernel needs AVX-512 (on AVX2 the engine starts and dies at the first request: vllm#55613).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from core.errors import UserError
from serving.hardware import Hardware, detect

_HEAD_SIZES_CPU = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

_UNITS = {"avx2": "AVX2", "avx512": "AVX-512", "amx": "AMX"}
# format: (what the CPU must have, what to expect)
_ON_CPU = {
    "none": ("avx2", "runs"),
    "int8_w8a8": ("avx2", "runs"),
    "int4_w4a8": ("avx2", "runs, but several times slower than bfloat16 (PyTorch's reference kernel)"),
    "int4_w4a16": ("avx512", "runs, with layer widths that are multiples of 32"),
    "fp8": ("avx2", "runs, slowly: no FP8 units"),
    "fp8_dynamic": ("avx2", "runs, slowly: no FP8 units"),
    "fp8_block": ("amx", "runs"),
}


class Verdict(NamedTuple):
    """`reason` says why not and what would run instead; or, when it runs, what to expect."""

    ok: bool
    reason: str


def number_format(config: Mapping[str, Any]) -> str:
    """The format's name from a checkpoint's `config.json`: `none`, `int8_w8a8`, `int4_w4a16`, `fp8_dynamic`, ..."""
    quantization = config.get("quantization_config")
    if not quantization:
        return "none"
    method = str(quantization.get("quant_method", "unknown"))
    if method in ("awq", "gptq", "auto-round"):
        return "int4_w4a16" if int(quantization.get("bits", 4)) == 4 else f"{method}_w{quantization['bits']}a16"
    if method != "compressed-tensors":
        return "fp8_block" if method == "fp8" and quantization.get("weight_block_size") else method
    groups = list(quantization.get("config_groups", {}).values())
    return _compressed_tensors(groups[0]) if groups else "none"


def _compressed_tensors(group: Mapping[str, Any]) -> str:
    weights, activations = group.get("weights") or {}, group.get("input_activations")
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    if kind == "float" and bits == 4:
        prefix = "mxfp4" if weights.get("group_size") == 32 else "nvfp4"
        return prefix if activations else f"{prefix}a16"
    if kind == "float":
        if weights.get("strategy") == "block":
            return "fp8_block"
        return "fp8_dynamic" if activations and activations.get("dynamic") else "fp8" if activations else "fp8_w8a16"
    return f"int{bits}_w{bits}a{activations['num_bits'] if activations else 16}"


def runs(name: str, hardware: Hardware) -> Verdict:
    """Whether the format runs there."""
    if hardware.gpu is not None:
        if name == "int4_w4a8":
            return Verdict(False, "INT4 W4A8 has no kernel on NVIDIA GPUs (llm-compressor#2693); use INT4 W4A16")
        return Verdict(True, "left to vLLM")
    return _runs_on_cpu(name, hardware)


def _runs_on_cpu(name: str, hardware: Hardware) -> Verdict:
    if not hardware.avx2:
        return Verdict(False, "vLLM's CPU build needs AVX2 at least")
    nearest = "quantize with scheme int8_w8a8, which runs on every CPU with AVX2"
    if name not in _ON_CPU:
        return Verdict(False, f"vLLM has no kernel for it on CPUs; {nearest}")
    needs, remark = _ON_CPU[name]
    if not getattr(hardware, needs):
        return Verdict(False, f"its kernel needs {_UNITS[needs]} and this is {hardware.name}; {nearest}")
    return Verdict(True, remark)


def head_size(config: Mapping[str, Any]) -> int | None:
    """Width of one attention head; None when the configuration does not say."""
    if config.get("head_dim"):
        return int(config["head_dim"])
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return int(hidden) // int(heads) if hidden and heads else None


def require(checkpoint: str, config: Mapping[str, Any], hardware: Hardware | None = None) -> str:
    """The number format of a checkpoint that will run. Raises UserError, with the reason, when it will not."""
    hardware = hardware or detect()
    name = number_format(config)
    verdict = runs(name, hardware)
    if not verdict.ok:
        raise UserError(f"{checkpoint}: the format {name} does not run here: {verdict.reason}")
    size = head_size(config)
    if hardware.gpu is None and size is not None and size not in _HEAD_SIZES_CPU:
        known = ", ".join(str(known) for known in _HEAD_SIZES_CPU)
        raise UserError(f"{checkpoint}: attention heads of {size} do not run on CPUs; vLLM's kernel knows {known}")
    return name
