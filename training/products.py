"""FP32 matrix products on CPUs, by oneDNN where MKL leaves half of the processor idle.

torch hands FP32 products to MKL, which has AVX-512 kernels for Intel's processors alone. Two cores of an AMD EPYC with
AVX-512 do 212 FLOP/ns through it and 469 through oneDNN, which torch carries for its fused layers (2,048 cubed,
benchmarks/training_speed.py). Both sum in FP32; they differ in the order of it.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

WITHOUT_AVX512 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}
"""Values of `ONEDNN_MAX_CPU_ISA` that keep oneDNN from AVX-512."""
_AT_ONCE = 1 << 22
"""Numbers of a product that is added to a sum."""


def _by_onednn() -> bool:
    wide = torch.backends.cpu.get_cpu_capability() in {"AVX512", "AMX"}
    hidden = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() in WITHOUT_AVX512
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return wide and not hidden and known and torch.backends.mkl.is_available() and _vendor() not in {"", "GenuineIntel"}


def _vendor() -> str:
    """Who made the processor, as Linux tells it; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


BY_ONEDNN = _by_onednn()
"""Whether oneDNN multiplies FP32 matrices here. A fact of the machine, never a timing: resumed runs stay exact."""


@torch.library.custom_op("raymill::product", mutates_args=(), device_types="cpu")
def _product(a_NK: Tensor, b_KO: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a_NK, b_KO.t(), None, "none", [], "")


@_product.register_fake
def _(a_NK: Tensor, b_KO: Tensor) -> Tensor:
    return a_NK.new_empty(a_NK.shape[0], b_KO.shape[1])


def product(a_NK: Tensor, b_KO: Tensor) -> Tensor:
    """a @ b, (N, O); either may be a transposed view. Not differentiable where oneDNN does it: call it from a Function.

    A compiler takes it as one operation, as it takes torch's own product.
    """
    return _product(a_NK, b_KO) if _ours(a_NK, b_KO) else a_NK @ b_KO


def add_product(sum_NO: Tensor, a_NK: Tensor, b_KO: Tensor) -> None:
    """sum += a @ b, in place, in FP32."""
    if sum_NO.dtype != a_NK.dtype:
        sum_NO += a_NK @ b_KO
    elif not _ours(a_NK, b_KO):
        sum_NO.addmm_(a_NK, b_KO)
    else:  # oneDNN's results are tensors of their own: a few rows at a time
        rows = max(64, _AT_ONCE // b_KO.shape[1])
        for part_RO, a_RK in zip(sum_NO.split(rows), a_NK.split(rows), strict=True):
            part_RO.add_(_product(a_RK, b_KO))


def _ours(a_NK: Tensor, b_KO: Tensor) -> bool:
    plain = a_NK.device.type == "cpu" and a_NK.dtype == torch.float32
    return BY_ONEDNN and plain and a_NK.numel() > 0 and b_KO.numel() > 0
