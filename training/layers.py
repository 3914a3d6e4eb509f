"""The layers of any decoder: what is kept of their forward pass for the backward one, and their compilation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from training import compilation
from training.model import COMPILED_LOSS
from training.precision import Precision

Checkpointing = Literal["none", "selective", "full"]


def layers_of(base: Any) -> Sequence[nn.Module]:
    """The decoder's blocks: its list of modules with the most parameters."""
    lists = [module for module in base.get_decoder().modules() if isinstance(module, nn.ModuleList)]
    assert lists, "a decoder has a list of layers"
    found: nn.ModuleList = max(lists, key=lambda one: sum(p.numel() for p in one.parameters()))
    return list(found)


class Prepared:
    """A decoder whose layers are compiled, or run again in the backward pass, or both; `undo` makes them plain again.

    `full` keeps the input of a layer (Chen et al. 2016, arXiv:1604.06174); `selective` the results of matrix products
    and attention as well, so that only cheap operations run twice (Korthikanti et al. 2022, arXiv:2205.05198). A
    compiled layer is selective by itself: the partitioner of its graph keeps products and repeats what is cheap.
    """

    def __init__(self, base: Any, checkpointing: Checkpointing, compiled: bool, precision: Precision) -> None:
        self._layers = layers_of(base) if compiled or checkpointing != "none" else []
        self._base = base
        if compiled:
            setattr(base, COMPILED_LOSS, True)
        self._before = [layer.__dict__.get("forward") for layer in self._layers]
        for layer in self._layers:
            if compiled:
                layer.forward = compilation.compiled(layer.forward)
            if checkpointing == "full" or (checkpointing == "selective" and not compiled):
                contexts = partial(_contexts, checkpointing == "selective", precision)
                layer.forward = _recomputed(layer, layer.forward, contexts)

    def undo(self) -> None:
        """Give every layer the forward pass that it had."""
        self._base.__dict__.pop(COMPILED_LOSS, None)
        for layer, before in zip(self._layers, self._before, strict=True):
            layer.__dict__.pop("forward", None)
            if before is not None:
                layer.forward = before


def _recomputed(layer: nn.Module, forward: Callable[..., Any], contexts: Callable[[], Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _contexts(selective: bool, precision: Precision) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Around the forward pass, and around its repetition, which torch runs outside of `precision`'s own context."""
    if precision.name == "bf16 native":  # autocast is restored by torch itself
        return create_selective_checkpoint_contexts(_policy) if selective else (ExitStack(), ExitStack())
    if not selective:
        return ExitStack(), precision.context()
    first, again = create_selective_checkpoint_contexts(_policy)
    return first, _both(again, precision.context())


@contextmanager
def _both(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Any:
    with outer, inner:
        yield


_KEPT = {
    getattr(torch.ops.aten, name).default
    for name in (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if hasattr(torch.ops.aten, name)
} | {torch.ops.raymill.product.default}


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    keep = operation in _KEPT or "varlen_attn" in str(operation) or "flex_attention" in str(operation)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
