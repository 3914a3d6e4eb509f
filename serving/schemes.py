"""What a checkpoint can be quantized to: schemes, the methods that reach them, the layer widths that they need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core.errors import UserError

SchemeName = Literal["int8_w8a8", "int4_w4a16", "int4_w4a8", "fp8_dynamic", "fp8_block", "nvfp4", "nvfp4a16"]
MethodName = Literal["gptq", "smoothquant", "awq", "rtn"]


@dataclass(frozen=True)
class Scheme:
    """A number format of weights and activations.

    preset: llm-compressor's name. methods: the ways to round to it, the usual one first. groups: inputs that share one
    scale, the usual number first; none where a scale belongs to a channel. blocks: scales of squares of that side.
    """

    preset: str
    methods: tuple[MethodName, ...]
    groups: tuple[int, ...] = ()
    block: int | None = None


SCHEMES: Mapping[str, Scheme] = {
    "int8_w8a8": Scheme("W8A8", ("gptq", "smoothquant", "rtn")),
    "int4_w4a16": Scheme("W4A16", ("gptq", "awq", "rtn"), groups=(128, 64, 32)),
    "int4_w4a8": Scheme("W4A8", ("gptq", "rtn"), groups=(128, 64, 32)),
    "fp8_dynamic": Scheme("FP8_DYNAMIC", ("rtn",)),
    "fp8_block": Scheme("FP8_BLOCK", ("rtn",), block=128),
    "nvfp4": Scheme("NVFP4", ("rtn",), groups=(16,)),
    "nvfp4a16": Scheme("NVFP4A16", ("rtn",), groups=(16,)),
}


@dataclass(frozen=True)
class Variant:
    """A scheme reached by a method."""

    scheme: str
    method: str

    @property
    def name(self) -> str:
        """As settings, folders and tables have it: `int8_w8a8-rtn`."""
        return f"{self.scheme}-{self.method}"


def variant(scheme: str, method: str | None = None) -> Variant:
    """The scheme by that method, or by its usual one. Raises ValueError when they do not go together."""
    known = SCHEMES.get(scheme)
    if known is None:
        raise ValueError(f"{scheme} is no scheme; there are {', '.join(SCHEMES)}")
    if method is not None and method not in known.methods:
        raise ValueError(f"{scheme} is not reached by {method}; its methods are {', '.join(known.methods)}")
    return Variant(scheme, method or known.methods[0])


def parse(names: Sequence[str]) -> list[Variant]:
    """Variants from `int4_w4a16` or `int4_w4a16-awq`. Raises ValueError for a name that is none."""
    parts = [name.partition("-") for name in names]
    return [variant(scheme, method or None) for scheme, _, method in parts]


def every() -> list[Variant]:
    """All schemes by all their methods."""
    return [Variant(name, method) for name, scheme in SCHEMES.items() for method in scheme.methods]


def group_size(name: str, widths: Mapping[str, tuple[int, int]]) -> tuple[int | None, list[str]]:
    """(inputs that share a scale, layers that these do not divide), None for a scheme without groups.

    The largest group that divides the inputs of every layer; where there is none, that which leaves the fewest weights
    out. No engine multiplies INT4 weights in groups that its layer's inputs are no multiple of, nor such a layer with a
    scale for each channel (vLLM 0.29: multiples of 32 inputs on CPUs, of 128 on GPUs): it has to stay as it is.

    widths: (outputs, inputs) by layer. Raises UserError, with a layer and what would do, when none is left.
    """
    scheme = SCHEMES[name]
    if scheme.block is not None:
        for layer, (outputs, inputs) in widths.items():
            # One block of inputs is taken for a scale of each channel when it is loaded (compressed-tensors 0.17).
            if outputs % scheme.block or inputs % scheme.block or inputs == scheme.block:
                raise UserError(
                    f"scheme {name}: {layer} is {outputs} x {inputs}, which is not made of blocks of {scheme.block} x "
                    f"{scheme.block}, two of inputs at least; use fp8_dynamic, which has a scale for each channel"
                )
    if not scheme.groups:
        return None, []

    def left_out(size: int) -> list[str]:
        return [layer for layer, (_, inputs) in widths.items() if inputs % size]

    def weights(layers: Sequence[str]) -> int:
        return sum(widths[layer][0] * widths[layer][1] for layer in layers)

    best = min(scheme.groups, key=lambda size: (weights(left_out(size)), -size))
    kept = left_out(best)
    if len(kept) == len(widths):
        sizes = " or ".join(map(str, scheme.groups))
        raise UserError(
            f"scheme {name}: {kept[0]} has {widths[kept[0]][1]} inputs, which groups of {sizes} do not divide, and so "
            "have all; use int8_w8a8 or fp8_dynamic, which have a scale for each channel"
        )
    return best, kept
