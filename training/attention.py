"""Attention within packed segments: each looks at itself alone, without a dense mask of length squared.

`varlen` takes segments one by one: a variable-length kernel on a GPU, causal attention of each on a CPU. `flex` gives
`flex_attention` a block mask. `sdpa` gives torch's attention a dense mask, for whatever the others cannot do.
"""

import inspect
from contextlib import suppress
from functools import cache
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from core.errors import UserError
from training import compilation
from training.batch import Batch
from training.precision import Precision

Kind = Literal["auto", "sdpa", "flex", "varlen"]
_PREFIX = "raymill_"


def choose(model: Any, kind: Kind, device: torch.device, precision: Precision) -> tuple[Kind, str]:
    """What `kind` is for this model on this device, and why. Raises UserError for what cannot be had."""
    plain = "" if getattr(model, "_supports_attention_backend", False) else f"{model.config.model_type} has its own"
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        plain = f"{model.config.model_type} caps its scores"
    if device.type != "cuda":
        lacks = {"varlen": plain, "flex": plain or "it has no backward pass on a CPU"}
        order: tuple[Kind, ...] = ("varlen", "sdpa")
    else:
        dropout = "attention_dropout is on" if getattr(model.config, "attention_dropout", 0.0) else ""
        number = "" if precision.name == "bf16 native" else "it needs precision: bf16"
        lacks = {"varlen": plain or dropout or number or _why_no_varlen(), "flex": plain or dropout}
        order = ("varlen", "flex", "sdpa")
    if kind != "auto":
        if lacks.get(kind):
            raise UserError(f"attention: {kind} is not possible here: {lacks[kind]}; set attention: auto")
        return kind, "configured"
    found = next(name for name in order if not lacks.get(name))
    return found, lacks.get(order[0]) or "segments one by one"


_kernel: Any = None
with suppress(ImportError):
    from torch.nn.attention import varlen

    _kernel = varlen.varlen_attn
# torch 2.11 to 2.13 differ in what it takes; asked here, for no compiler follows the question.
_KERNEL_TAKES = frozenset(inspect.signature(_kernel).parameters) if _kernel is not None else frozenset()


def _why_no_varlen() -> str:
    return "" if _kernel is not None else f"torch {torch.__version__} has no torch.nn.attention.varlen"


def install(model: Any, kind: Kind, length: int) -> None:
    """Let every layer of a `transformers` model attend in this way. Raises UserError for layers with a shorter view."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and length > window:
        raise UserError(
            f"layers of this {config.model_type} model look back {window} tokens only, and rows are {length} long; "
            f"rows of at most {window} tokens train it as it was meant"
        )
    model.set_attn_implementation("sdpa" if kind == "sdpa" else f"{_PREFIX}{kind}")


def inputs(model: Any, batch: Batch) -> dict[str, Any]:
    """What the model's forward is given, so that its attention keeps the batch's segments apart."""
    kind = model.config._attn_implementation.removeprefix(_PREFIX)
    common = {"input_ids": batch.tokens, "position_ids": batch.positions}
    if kind == "flex":
        return {**common, "attention_mask": _block_mask(batch)}
    if kind != "varlen":
        return {**common, "attention_mask": batch.mask()}
    # A mask of four dimensions is handed to the layers as it is; this one only says that there is none.
    common["attention_mask"] = batch.tokens.new_empty(0, 0, 0, 0)
    if batch.tokens.device.type == "cpu":
        return {**common, "segment_lengths": batch.lengths}
    ends = torch.tensor([0, *batch.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return {**common, "segment_ends": ends.to(batch.tokens.device, non_blocking=True)}


def _block_mask(batch: Batch) -> BlockMask:
    segments_BT = batch.segments
    rows, length = segments_BT.shape

    def within(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segments_BT[b, query] == segments_BT[b, key])

    gpu = segments_BT.device.type == "cuda"  # compiled, it never makes the dense mask
    return create_block_mask(within, rows, None, length, length, device=segments_BT.device, _compile=gpu)


# --- what a layer calls -------------------------------------------------------------------------------------------


def _attend(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    segment_lengths: list[int] | None = None,
    segment_ends: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output (batch, length, heads, width of a head), in the way that the inputs ask for."""
    if kwargs.get("s_aux") is not None:
        raise UserError(f"{type(module).__name__} has attention sinks, which training does not support")
    if isinstance(attention_mask, BlockMask):
        return _flex(query_BHTD, key_BGTD, value_BGTD, attention_mask, scaling), None
    if segment_lengths is not None:
        return _one_by_one(query_BHTD, key_BGTD, value_BGTD, segment_lengths, dropout, scaling), None
    if segment_ends is not None:
        return _varlen_kernel(query_BHTD, key_BGTD, value_BGTD, segment_ends, scaling), None
    if attention_mask is not None and attention_mask.numel() == 0:
        raise UserError(f"{type(module).__name__} does not pass on what varlen needs; set attention: sdpa")
    out, _ = sdpa_attention_forward(
        module, query_BHTD, key_BGTD, value_BGTD, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return out, None


def _flat(x_BHTD: Tensor) -> Tensor:
    """All rows end to end: (batch * length, heads, width)."""
    return x_BHTD.transpose(1, 2).flatten(0, 1)


@torch.compiler.disable  # every batch has lengths of its own, and would be compiled anew
def _one_by_one(
    query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, lengths: list[int], dropout: float, scaling: float | None
) -> Tensor:
    """CPU. At 8 rows of 512 in short segments this takes 0.25 of the time of a dense mask.

    Neighbours of one length, whole rows above all, go in one call: forward and backward, 8 segments of 256 tokens and 5
    heads of 64 then take 0.76 of the time, 32 of 64 tokens 0.41, for a call shares out heads and has its own cost.
    """
    rows, heads, length, width = query_BHTD.shape
    runs = [(size, len(list(same))) for size, same in groupby(lengths)]
    shared = key_BGTD.shape[1] != heads

    def split(x_BHTD: Tensor) -> list[Tensor]:
        parts = _flat(x_BHTD).split([size * count for size, count in runs])
        return [part.unflatten(0, (-1, size)).transpose(1, 2) for part, (size, _) in zip(parts, runs, strict=True)]

    outs = [
        nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared
        )
        for q, k, v in zip(split(query_BHTD), split(key_BGTD), split(value_BGTD), strict=True)
    ]
    return torch.cat([_flat(out_BHTD) for out_BHTD in outs]).view(rows, length, heads, width)


def _varlen_kernel(
    query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, ends: Tensor, scaling: float | None
) -> Tensor:
    """GPU. No segment is longer than a row, so a row's length serves as the longest without asking the device."""
    rows, heads, length, width = query_BHTD.shape
    shared = key_BGTD.shape[1] != heads
    if shared and "enable_gqa" not in _KERNEL_TAKES:
        groups = heads // key_BGTD.shape[1]
        key_BGTD, value_BGTD = repeat_kv(key_BGTD, groups), repeat_kv(value_BGTD, groups)
    more: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in _KERNEL_TAKES else {"is_causal": True}
    if shared and "enable_gqa" in _KERNEL_TAKES:
        more["enable_gqa"] = True
    if "scale" in _KERNEL_TAKES:
        more["scale"] = scaling
    elif scaling is not None:
        query_BHTD = query_BHTD * (scaling * width**0.5)
    # Rotary positions are FP32 under autocast, and no kernel of this kind takes FP32.
    q, k, v = (_flat(x).to(torch.bfloat16) for x in (query_BHTD, key_BGTD, value_BGTD))
    out: Tensor = _kernel(q, k, v, ends, ends, length, length, **more)
    return out.view(rows, length, heads, width)


@cache
def _compiled_flex() -> Any:
    return compilation.compiled(flex_attention)


def _flex(query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, mask: BlockMask, scaling: float | None) -> Tensor:
    # Inside a compiled layer it is compiled with it; on a CPU it serves tests, which see the forward pass alone.
    eager = query_BHTD.device.type == "cpu" or torch.compiler.is_compiling()
    work = flex_attention if eager else _compiled_flex()
    shared = key_BGTD.shape[1] != query_BHTD.shape[1]
    if torch.is_autocast_enabled(query_BHTD.device.type):
        number = torch.get_autocast_dtype(query_BHTD.device.type)
        query_BHTD, key_BGTD, value_BGTD = (x.to(number) for x in (query_BHTD, key_BGTD, value_BGTD))
    return work(query_BHTD, key_BGTD, value_BGTD, block_mask=mask, scale=scaling, enable_gqa=shared).transpose(1, 2)


for _kind in ("varlen", "flex"):
    ALL_ATTENTION_FUNCTIONS.register(f"{_PREFIX}{_kind}", _attend)
    # Generation pads: its mask is the one that sdpa takes, and so is then the attention.
    ALL_MASK_ATTENTION_FUNCTIONS.register(f"{_PREFIX}{_kind}", sdpa_mask)
