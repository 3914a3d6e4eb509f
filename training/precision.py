"""FP32 compute, or BF16 with FP32 master weights: on the hardware's BF16 units, or rounded and multiplied in FP32.

Native: `torch.autocast`. Emulated, for CPUs without BF16 units, where torch's BF16 product is 5 to 100 times slower
than its FP32 product: both operands of every matrix product, in the forward and in the backward pass, are rounded to
BF16 (round to nearest even, as the units do) and multiplied and accumulated in FP32. Products of BF16 numbers are
exact in FP32, so the two paths differ only in the order of summation and in that the native one rounds each result.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from training import products
from training.products import product

Name = Literal["bf16", "fp32"]
Path = Literal["auto", "native", "emulated"]
Products = Literal["fp32", "bf16 native", "bf16 emulated"]


@dataclass(frozen=True)
class Precision:
    """How matrix products are computed (`name`), and why so."""

    name: Products
    reason: str

    def context(self) -> AbstractContextManager[Any]:
        """Wraps the forward pass; the backward pass runs outside."""
        if self.name == "bf16 native":
            return torch.autocast(_device_type(), torch.bfloat16)
        if self.name == "bf16 emulated":
            return RoundOperands()
        return OneDnnLinear() if products.BY_ONEDNN and _device_type() == "cpu" else nullcontext()


def _device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve(name: Name, path: Path = "auto") -> Precision:
    """Choose the path for this machine.

    `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` can hide the BF16 units from the libraries; they are asked too.
    """
    if name == "fp32":
        return Precision("fp32", "configured")
    if path != "auto":
        return Precision("bf16 native" if path == "native" else "bf16 emulated", "configured")
    if torch.cuda.is_available():
        return Precision("bf16 native", "the GPU has BF16 units")
    units = [unit for unit, present in _bf16_units().items() if present]
    if units:
        return Precision("bf16 native", f"this CPU has {units[0]}")
    return Precision("bf16 emulated", "no BF16 units on this CPU: operands rounded to BF16, products in FP32")


def _bf16_units() -> dict[str, bool]:
    without = products.WITHOUT_AVX512 | {"AVX512_CORE", "AVX512_CORE_VNNI"}
    hidden = (
        torch.backends.cpu.get_cpu_capability() not in {"AVX512", "AMX"}
        or os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() in without
    )
    return {
        "AMX": not hidden and bool(torch.cpu._is_amx_tile_supported()),
        "AVX512-BF16": not hidden and bool(torch.cpu._is_avx512_bf16_supported()),
    }


# --- what takes the place of torch's products -------------------------------------------------------------------------


def rounded(tensor: Tensor) -> Tensor:
    """The nearest BF16 values, as FP32."""
    return tensor.to(torch.bfloat16).to(torch.float32)


class _Product(torch.autograd.Function):
    """x_NK @ w_OK^T in FP32; backward dx = g @ w, dw = g^T @ x. `rounding`: of all operands, the gradient's as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_OK: Tensor, rounding: bool) -> Tensor:
        x_NK = x.reshape(-1, x.shape[-1])
        if rounding:
            x_NK, w_OK = rounded(x_NK), rounded(w_OK)
        needs_x, needs_w, _ = ctx.needs_input_grad
        ctx.save_for_backward(x_NK if needs_w else None, w_OK if needs_x else None)
        ctx.rounding = rounding
        return product(x_NK, w_OK.t()).view(*x.shape[:-1], w_OK.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_NK, w_OK = ctx.saved_tensors
        (gradient,) = gradients
        g_NO = gradient.reshape(-1, gradient.shape[-1])
        g_NO = rounded(g_NO) if ctx.rounding else g_NO
        needs_x, needs_w, _ = ctx.needs_input_grad
        dx = product(g_NO, w_OK).view(*gradient.shape[:-1], w_OK.shape[1]) if needs_x else None
        return dx, product(g_NO.t(), x_NK) if needs_w else None, None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, rounding: bool = True) -> Tensor:
    result = _Product.apply(x, weight, rounding)
    return result if bias is None else result + bias


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _linear(x, weight, bias, rounding=False)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    # Straight through: the casts round the gradients of query, key and value as well.
    return torch.nn.functional.scaled_dot_product_attention(
        rounded(query), rounded(key), rounded(value), *args, **kwargs
    )


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(rounded(a), rounded(b))


def _addmm(bias: Tensor, a_NK: Tensor, b_KO: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * bias + alpha * a @ b: the Conv1D of GPT-2, and a linear layer with its bias where the two were fused."""
    return beta * bias + alpha * _Product.apply(a_NK, b_KO.t(), True)


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """The same over a batch: attention scores with a position bias, as BLOOM has them."""
    return torch.baddbmm(bias, rounded(a), rounded(b), beta=beta, alpha=alpha)


_ROUNDED: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    torch.nn.functional.linear: _linear,
    torch.nn.functional.scaled_dot_product_attention: _attention,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    torch.bmm: _matmul,
    torch.Tensor.bmm: _matmul,
    torch.mm: _matmul,
    torch.Tensor.mm: _matmul,
    torch.addmm: _addmm,
    torch.Tensor.addmm: _addmm,
    torch.baddbmm: _baddbmm,
    torch.Tensor.baddbmm: _baddbmm,
}


class _Replacing(TorchFunctionMode):
    """Within this context other functions take the place of torch's, for FP32."""

    _by: Mapping[Callable[..., Any], Callable[..., Tensor]]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = self._by.get(func)
        if replacement is None or args[0].dtype != torch.float32:
            return func(*args, **(kwargs or {}))
        return replacement(*args, **(kwargs or {}))  # this mode is off inside itself


class OneDnnLinear(_Replacing):
    """Within this context linear layers multiply FP32 as `products` says."""

    _by: Mapping[Callable[..., Any], Callable[..., Tensor]] = {torch.nn.functional.linear: _plain_linear}


class RoundOperands(_Replacing):
    """Within this context FP32 matrix products round their operands to BF16."""

    _by = _ROUNDED
