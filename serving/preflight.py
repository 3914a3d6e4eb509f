"""Whether a number format, and what is built on it, runs on some hardware: (ok, reason), before anything is started.

The tables hold for the vLLM of `VLLM`, by the checks of its kernels (`vllm/model_executor/kernels/linear`): a test
asks these through `serving/kernel_probe.py`, so that a vLLM that disagrees fails. Of another vLLM `other_vllm` warns:
whoever judges by the tables says so. Kernels on CPU: oneDNN for INT8,
PyTorch's dynamic 4-bit product for W4A8, scaled_mm for FP8; the 4-bit weight-only kernel needs AVX-512 (on AVX2 the
engine starts and dies at the first request: vllm#55613).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from core.errors import UserError
from serving.hardware import Hardware, detect, vllm_version

VLLM = "0.29"

# (format, kind of machine) where vLLM's registry says yes and the kernel does not work.
PROMISED: Mapping[tuple[str, str], str] = {
    ("int4_w4a16", "AVX2"): "the operation is not compiled: vllm#55613",
    ("int8_w8a8", "Blackwell 10.0"): "docs.vllm.ai, features/quantization/int8: not on capabilities from 10.0",
    ("int8_w8a8", "Blackwell 12.0"): "the same",
}

_HEAD_SIZES_CPU = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_UNITS = {"avx2": "AVX2", "avx512": "AVX-512", "amx": "AMX"}

FORMATS = (
    *("none", "int8_w8a8", "int8_w8a16", "int4_w4a16", "int4_w4a8"),
    *("fp8", "fp8_dynamic", "fp8_w8a16", "fp8_block", "nvfp4", "nvfp4a16", "mxfp4"),
)
Feature = Literal[
    "kv_cache_fp8",
    "lora",
    "prefix_caching",
    "long_context",
    "kv_offload",
    "speculation_ngram",
    "speculation_draft",
    "speculation_eagle3",
]
FEATURES: Mapping[Feature, str] = {
    "kv_cache_fp8": "FP8 KV cache",
    "lora": "LoRA adapters",
    "prefix_caching": "prefix caching",
    "long_context": "long context (RoPE scaling)",
    "kv_offload": "KV offload to host memory",
    "speculation_ngram": "speculation: n-gram",
    "speculation_draft": "speculation: draft model",
    "speculation_eagle3": "speculation: EAGLE-3",
}

# format: (what the CPU must have, what to expect)
_ON_CPU = {
    "none": ("avx2", "runs"),
    "int8_w8a8": ("avx2", "runs"),
    "int4_w4a8": ("avx2", "runs, but several times slower than bfloat16 (PyTorch's reference kernel)"),
    "int4_w4a16": ("avx512", "runs, with layer widths that are multiples of 32"),
    "fp8": ("avx2", "runs, slowly: no FP8 units"),
    "fp8_dynamic": ("avx2", "runs, slowly: no FP8 units"),
    "fp8_block": ("amx", "runs, as weights alone"),
}
_WEIGHTS_ALONE = "runs, as weights alone: this generation multiplies in 16 bits"
_FP8_ON_GPU = ((8.9, True, "runs"), (7.5, True, _WEIGHTS_ALONE))
# format: (from which compute capability, whether it runs, what to expect), the highest first
_ON_GPU: Mapping[str, tuple[tuple[float, bool, str], ...]] = {
    "none": ((8.0, True, "runs"), (7.5, True, "runs in float16: no bfloat16 on this generation")),
    "int8_w8a8": (
        (10.0, False, "INT8 products are compiled for compute capabilities below 10.0 only"),
        (7.5, True, "runs"),
    ),
    "int4_w4a8": ((0.0, False, "INT4 W4A8 has no kernel on NVIDIA GPUs (llm-compressor#2693)"),),
    "fp8": _FP8_ON_GPU,
    "fp8_dynamic": _FP8_ON_GPU,
    "fp8_block": _FP8_ON_GPU,
    "nvfp4": ((10.0, True, "runs"), (7.5, True, _WEIGHTS_ALONE)),
    **dict.fromkeys(("int8_w8a16", "int4_w4a16", "fp8_w8a16", "nvfp4a16", "mxfp4"), ((7.5, True, "runs"),)),
}
# Number formats that hold nearly the same as another one, the nearest first, for what to quantize to instead.
_INTEGERS = ("int4_w4a16", "int8_w8a8", "fp8_dynamic", "none")
_NEAREST = {
    "int8_w8a8": ("fp8_dynamic", "int4_w4a16", "none"),
    "int8_w8a16": ("int8_w8a8", "fp8_dynamic", "none"),
    "fp8": ("fp8_dynamic", "int8_w8a8", "none"),
    "fp8_w8a16": ("fp8_dynamic", "int8_w8a8", "none"),
    "fp8_block": ("fp8_dynamic", "int8_w8a8", "none"),
}


class Verdict(NamedTuple):
    """`reason` says why not and what would run instead; or, when it runs, what to expect."""

    ok: bool
    reason: str


def other_vllm() -> str | None:
    """A warning when the vLLM that is installed is not the one of the tables; None when it is, or without one."""
    version = vllm_version()
    if version is None or version.startswith(f"{VLLM}."):
        return None
    return (
        f"vLLM {version} is installed, and what runs where is known of {VLLM}: a format may fail that is said to run, "
        "or run that is refused; 'raymill serve preflight --ask' asks this vLLM itself"
    )


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


def kv_cache_format(config: Mapping[str, Any]) -> str:
    """`fp8` when the checkpoint holds scales for keys and values, which an engine then keeps in 8 bits; else `auto`."""
    quantization = config.get("quantization_config") or {}
    return "fp8" if quantization.get("kv_cache_scheme") else "auto"


# --- formats ------------------------------------------------------------------------------------------------------


def runs(name: str, hardware: Hardware) -> Verdict:
    """Whether the format runs there; a refusal names the nearest formats that do."""
    verdict = _runs(name, hardware)
    if verdict.ok:
        return verdict
    instead = nearest(name, hardware)
    return Verdict(False, f"{verdict.reason}; {_advice(instead)}" if instead else verdict.reason)


def nearest(name: str, hardware: Hardware) -> list[str]:
    """Formats that run there, the nearest to `name` first, two at most."""
    order = _NEAREST.get(name, _INTEGERS)
    return [other for other in order if other != name and _runs(other, hardware).ok][:2]


def _advice(formats: list[str]) -> str:
    quantized = [name for name in formats if name != "none"]
    if not quantized:
        return "serve the checkpoint in full precision, which runs here"
    return f"quantize with scheme {' or '.join(quantized)}, which {'run' if len(quantized) > 1 else 'runs'} here"


def _runs(name: str, hardware: Hardware) -> Verdict:
    return _runs_on_cpu(name, hardware) if hardware.gpu is None else _runs_on_gpu(name, hardware.gpu)


def _runs_on_cpu(name: str, hardware: Hardware) -> Verdict:
    if not hardware.avx2:
        return Verdict(False, "vLLM's CPU build needs AVX2 at least")
    if name not in _ON_CPU:
        return Verdict(False, "vLLM has no kernel for it on CPUs")
    needs, remark = _ON_CPU[name]
    if not getattr(hardware, needs):
        return Verdict(False, f"its kernel needs {_UNITS[needs]} and this is {hardware.name}")
    if name == "none":
        remark = "runs" if hardware.bf16 else "runs; float32 is faster than bfloat16 on a CPU without units for it"
    if name == "int8_w8a8" and not hardware.avx512:
        # gemm:jit instead of brg_matmul: 13.9 ms of a layer's 14 for one token go into packing (docs/log.md).
        remark = "runs and saves memory, but many times slower than float32: oneDNN packs the weights for each product"
    return Verdict(True, remark)


def _runs_on_gpu(name: str, gpu: float) -> Verdict:
    if name not in _ON_GPU:
        return Verdict(True, "left to vLLM: not one of the formats that 'serve quantize' writes")
    for least, ok, remark in _ON_GPU[name]:
        if gpu >= least:
            return Verdict(ok, remark)
    return Verdict(False, f"it needs compute capability {_ON_GPU[name][-1][0]} and this GPU has {gpu}")


# --- what is built on a format ------------------------------------------------------------------------------------


def supports(feature: Feature, name: str, hardware: Hardware, config: Mapping[str, Any] | None = None) -> Verdict:
    """Whether a feature works with the format on that hardware; `config`, a checkpoint's own, adds what it decides."""
    verdict = _runs(name, hardware)
    if not verdict.ok:
        return Verdict(False, f"the format {name} does not run there")
    return _RULES[feature](name, hardware, config or {})


def _kv_cache_fp8(name: str, hardware: Hardware, config: Mapping[str, Any]) -> Verdict:
    size = head_size(config)
    if hardware.gpu is None:
        if not hardware.avx512:
            return Verdict(False, f"it needs AVX-512 and this is {hardware.name}; quantize with kv_cache auto")
        if size is not None and size % 32:
            return Verdict(False, f"on CPUs it needs heads that are multiples of 32, and these are {size}")
        return Verdict(True, "half the memory for keys and values")
    if hardware.gpu < 8:
        return Verdict(False, "no attention kernel reads 8-bit keys and values below compute capability 8.0")
    if hardware.gpu < 8.9 and size is not None and size not in (64, 128, 256, 512):
        return Verdict(False, f"below compute capability 8.9 it needs heads of 64, 128 or 256, and these are {size}")
    return Verdict(True, "half the memory for keys and values")


def _lora(name: str, hardware: Hardware, config: Mapping[str, Any]) -> Verdict:
    if hardware.gpu is None and name in ("int8_w8a8", "int4_w4a8") and not (name == "int8_w8a8" and hardware.amx):
        return Verdict(
            False,
            "vLLM drops the weights that its LoRA layers look at (lora/layers/utils.py); merge the adapter into its "
            "base and quantize the result, or serve adapters on full precision",
        )
    return Verdict(True, "adapters stay in 16 or 32 bits beside the base")


def _prefix_caching(name: str, hardware: Hardware, config: Mapping[str, Any]) -> Verdict:
    if hardware.gpu is None and config.get("kv_lora_rank") and not hardware.amx:
        return Verdict(False, "vLLM switches it off for latent attention (MLA) on a CPU without AMX")
    return Verdict(True, "on by itself")


def _long_context(name: str, hardware: Hardware, config: Mapping[str, Any]) -> Verdict:
    return Verdict(True, "as far as the memory for keys and values reaches")


def _kv_offload(name: str, hardware: Hardware, config: Mapping[str, Any]) -> Verdict:
    if hardware.gpu is None:
        return Verdict(False, "keys and values lie in host memory already: raise kv_cache_gib instead")
    return Verdict(True, "to host memory, by vLLM's own connector")


def _speculation(name: str, hardware: Hardware, config: Mapping[str, Any]) -> Verdict:
    return Verdict(True, "same greedy tokens; pays where drafts are accepted and few requests run together")


_RULES: Mapping[Feature, Callable[[str, Hardware, Mapping[str, Any]], Verdict]] = {
    "kv_cache_fp8": _kv_cache_fp8,
    "lora": _lora,
    "prefix_caching": _prefix_caching,
    "long_context": _long_context,
    "kv_offload": _kv_offload,
    "speculation_ngram": _speculation,
    "speculation_draft": _speculation,
    "speculation_eagle3": _speculation,
}


# --- a checkpoint -------------------------------------------------------------------------------------------------


def head_size(config: Mapping[str, Any]) -> int | None:
    """Width of one attention head; None when the configuration does not say."""
    if config.get("head_dim"):
        return int(config["head_dim"])
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return int(hidden) // int(heads) if hidden and heads else None


def serves(config: Mapping[str, Any], hardware: Hardware | None = None) -> Verdict:
    """Whether a checkpoint with this `config.json` can be served there: format, attention heads, KV cache."""
    hardware = hardware or detect()
    name = number_format(config)
    verdict = runs(name, hardware)
    if not verdict.ok:
        return Verdict(False, f"the format {name} does not run here: {verdict.reason}")
    size = head_size(config)
    if hardware.gpu is None and size is not None and size not in _HEAD_SIZES_CPU:
        known = ", ".join(str(known) for known in _HEAD_SIZES_CPU)
        return Verdict(False, f"attention heads of {size} do not run on CPUs; vLLM's kernel knows {known}")
    if kv_cache_format(config) == "fp8" and not (cache := supports("kv_cache_fp8", name, hardware, config)).ok:
        return Verdict(False, f"its FP8 KV cache does not run here: {cache.reason}")
    return verdict


def require(checkpoint: str, config: Mapping[str, Any], hardware: Hardware | None = None) -> str:
    """The number format of a checkpoint that will run. Raises UserError, with the reason, when it will not."""
    verdict = serves(config, hardware)
    if not verdict.ok:
        raise UserError(f"{checkpoint}: {verdict.reason}")
    return number_format(config)


def require_feature(feature: Feature, config: Mapping[str, Any], hardware: Hardware | None = None) -> str:
    """What to expect of the feature with that checkpoint. Raises UserError, with the reason, when it does not work."""
    verdict = supports(feature, number_format(config), hardware or detect(), config)
    if not verdict.ok:
        raise UserError(f"{FEATURES[feature]} does not work here: {verdict.reason}")
    return verdict.reason
