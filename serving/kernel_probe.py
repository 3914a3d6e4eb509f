"""Asks the installed vLLM itself which kernel it would take: `python -m serving.kernel_probe` prints JSON.

A process of its own, because importing vLLM takes 20 s and stays. For each kind of machine of `hardware.PROFILES` the
platform is replaced by one of that kind, and vLLM's registry is asked as it asks itself when it loads a layer.
`{"format": {"machine": [ok, kernel or reason]}}`. The answers are those of the registry: an operation that was not
compiled shows only when it is called. `operations` looks for these in the compiled libraries.
"""

import contextlib
import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serving.hardware import PROFILES, Hardware

_INPUTS = _OUTPUTS = 256
_FP8_UNITS = 89  # CompressedTensorsW8A8Fp8.get_min_capability: below, weights alone
_LIBRARIES = {"AVX2": "_C_AVX2", "AVX-512": "_C_AVX512", "AVX-512 BF16": "_C", "AMX": "_C"}


def operations(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Which of the operations are compiled into vLLM's library for each kind of CPU; empty where vLLM is absent."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        return {}
    found: dict[str, list[str]] = {}
    for machine, library in _LIBRARIES.items():
        [file] = Path(package.origin).parent.glob(f"{library}.*so")
        content = file.read_bytes()
        found[machine] = [name for name in names if name.encode() in content]
    return found


def probe() -> dict[str, dict[str, tuple[bool, str]]]:
    """The registry's answer for every format and machine."""
    # What a registry says to itself is no news for a reader of JSON.
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import vllm.model_executor.kernels.linear as registry

    answers: dict[str, dict[str, tuple[bool, str]]] = {}
    for machine, hardware in PROFILES.items():
        with _as_if(machine, hardware):
            for name, ask in _questions(registry, hardware).items():
                answers.setdefault(name, {})[machine] = _answer(ask)
    return answers


def _answer(ask: Callable[[], Any]) -> tuple[bool, str]:
    try:
        return True, str(ask().__name__)
    except (ValueError, AttributeError, ImportError, RuntimeError, NotImplementedError) as error:
        return False, " ".join(str(error).split())


@contextlib.contextmanager
def _as_if(machine: str, hardware: Hardware) -> Iterator[None]:
    """vLLM's platform object, which every module has imported by name, becomes one of another class.

    What vLLM asked of the library of the machine at hand when it was imported becomes what the other's library holds.
    """
    import torch
    from vllm import _custom_ops
    from vllm.platforms import current_platform
    from vllm.platforms.interface import DeviceCapability, Platform, PlatformEnum

    class Gpu(Platform):
        _enum = PlatformEnum.CUDA
        device_name = device_type = "cuda"
        dispatch_key = "CUDA"

        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> Any:
            major, minor = divmod(round((hardware.gpu or 0) * 10), 10)
            return DeviceCapability(major, minor)

        @classmethod
        def supports_fp8(cls) -> bool:
            return bool(cls.has_device_capability(_FP8_UNITS))

    units = {"avx2": "_is_avx2_supported", "avx512": "_is_avx512_supported", "bf16": "_is_avx512_bf16_supported"}
    units["amx"] = "_is_amx_tile_supported"
    kept = {name: getattr(torch.cpu, name) for name in units.values()}
    fp8_here = _custom_ops._supports_cpu_fp8_w8a16
    own = type(current_platform)
    try:
        _custom_ops._supports_cpu_fp8_w8a16 = bool(operations(("fp8_scaled_mm_cpu",)).get(machine))
        for unit, name in units.items():
            setattr(torch.cpu, name, functools.partial(getattr, hardware, unit))
        if hardware.gpu is not None:
            current_platform.__class__ = Gpu
        yield
    finally:
        current_platform.__class__ = own
        _custom_ops._supports_cpu_fp8_w8a16 = fp8_here
        for name, function in kept.items():
            setattr(torch.cpu, name, function)


def _questions(registry: Any, hardware: Hardware) -> dict[str, Callable[[], Any]]:
    """What a layer of each format asks when it is loaded (compressed_tensors/schemes/*.py: create_weights)."""
    import torch
    from vllm.model_executor.kernels.linear import (
        FP8ScaledMMLinearLayerConfig,
        Int8ScaledMMLinearLayerConfig,
        MPLinearLayerConfig,
        choose_mp_linear_kernel,
        choose_scaled_mm_linear_kernel,
    )
    from vllm.model_executor.layers.quantization.utils import quant_utils as keys
    from vllm.platforms import current_platform
    from vllm.scalar_type import scalar_types

    gpu = None if hardware.gpu is None else round(hardware.gpu * 10)
    weights_alone = gpu is not None and gpu < _FP8_UNITS

    def integers(weight_type: Any) -> Any:
        shape = (_INPUTS, _OUTPUTS)
        layer = MPLinearLayerConfig(
            full_weight_shape=shape,
            partition_weight_shape=shape,
            weight_type=weight_type,
            act_type=torch.bfloat16,
            group_size=128,
            zero_points=False,
            has_g_idx=False,
        )
        return choose_mp_linear_kernel(layer, gpu)

    def eight_bits() -> Any:
        layer = Int8ScaledMMLinearLayerConfig(is_channelwise=True, is_static_input_scheme=False, input_symmetric=True)
        return choose_scaled_mm_linear_kernel(layer, registry._POSSIBLE_INT8_KERNELS, gpu)

    def floats(weight: Any, activation: Any, kernels: Any) -> Any:
        layer = FP8ScaledMMLinearLayerConfig(
            weight_quant_key=weight,
            activation_quant_key=activation,
            weight_shape=(_OUTPUTS, _INPUTS),
            input_dtype=torch.bfloat16,
            out_dtype=torch.bfloat16,
        )
        return choose_scaled_mm_linear_kernel(
            layer, registry._POSSIBLE_WFP8A16_KERNELS if weights_alone else kernels, gpu
        )

    def four_bit_floats(weights_only: bool) -> Any:
        # vLLM forces Marlin for weights alone; its emulation, for tests, says yes everywhere.
        kernels = [registry.MarlinNvFp4LinearKernel]
        if not weights_only:
            possible = registry._POSSIBLE_NVFP4_KERNELS.get(current_platform._enum, [])
            kernels = [kernel for kernel in possible if kernel is not registry.EmulationNvFp4LinearKernel]
        for kernel in kernels:
            with contextlib.suppress(AttributeError):  # its own check asks an operation that a build for CPUs lacks
                if kernel.is_supported(gpu)[0]:
                    return kernel
        raise ValueError("no kernel for it")

    channel, token = keys.kFp8StaticChannelSym, keys.kFp8DynamicTokenSym
    block, group = keys.kFp8Static128BlockSym, keys.kFp8Dynamic128Sym
    return {
        "int8_w8a8": eight_bits,
        "int4_w4a16": lambda: integers(scalar_types.uint4b8),
        "int4_w4a8": lambda: integers(scalar_types.int4),
        "fp8_dynamic": lambda: floats(channel, token, registry._POSSIBLE_FP8_KERNELS),
        "fp8_block": lambda: floats(block, group, registry._POSSIBLE_FP8_BLOCK_KERNELS),
        "nvfp4": lambda: four_bit_floats(False),
        "nvfp4a16": lambda: four_bit_floats(True),
    }


if __name__ == "__main__":
    json.dump(probe(), sys.stdout)
