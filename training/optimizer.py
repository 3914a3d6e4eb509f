"""AdamW or Muon with decay on matrices only, and gradients in one flat buffer: one all-reduce, one norm."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.config import Config
from training.model import bare
from training.world import World


class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), or Muon on the matrices between embedding and head.

    Muon (Jordan et al. 2024) takes AdamW's rate and decay: its update is scaled to the size of AdamW's
    (Liu et al. 2025, arXiv:2502.16982).
    """

    method: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: orthogonalised momentum for hidden matrices, AdamW for everything else"
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the first and second moment")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of matrices; none on norms, biases, embeddings")
    momentum: float = Field(0.95, ge=0, lt=1, description="muon: decay of its momentum")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: decayed matrices, and norms, biases and embeddings without decay.

    A tied output head is the embedding itself and is not decayed.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2 and id(parameter) not in embeddings]
    chosen = {id(parameter) for parameter in decayed}
    plain = [parameter for parameter in trainable if id(parameter) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Optimizer(Protocol):
    """What the trainer and its checkpoints need of an optimizer."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[Any, Any]
    """Parameter -> its moments."""

    def step(self) -> Any:
        """Update every parameter from its gradient."""
        ...


class Together:
    """Several optimizers, each of its own parameters, that step as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.state: defaultdict[Any, Any] = defaultdict(dict)
        for part in parts:
            part.state = self.state

    def step(self) -> None:
        """Update every parameter from its gradient."""
        for part in self.parts:
            part.step()


def build(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer, AdamW's update fused into one kernel call per group."""
    groups = parameter_groups(model, config.weight_decay)
    hidden = [] if config.method == "adamw" else _hidden_matrices(model)
    chosen = {id(parameter) for parameter in hidden}
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
    left = [group for group in groups if group["params"]]
    parts: list[torch.optim.Optimizer] = []
    if left:
        parts.append(
            torch.optim.AdamW(left, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True)
        )
    if hidden:
        parts.append(
            torch.optim.Muon(
                hidden,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return parts[0] if len(parts) == 1 else Together(*parts)


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trainable matrices but embeddings and what lies behind the last layer: output head, score, value head."""
    base = bare(model)
    layers = base.base_model if isinstance(base, PreTrainedModel) else base
    others = {id(module.weight) for module in layers.modules() if isinstance(module, nn.Embedding)}
    head = base.get_output_embeddings() if isinstance(base, PreTrainedModel) else None
    others.add(id(getattr(head, "weight", None)))  # in models that are their own base
    return [p for p in layers.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in others]


class Gradients(Protocol):
    """The gradients of a step, wherever they lie: what the trainer does with them."""

    def zero(self) -> None:
        """Start a step."""
        ...

    def exchange(self, world: World) -> None:
        """Add up what the ranks have accumulated. Collective."""
        ...

    def norm(self) -> Tensor:
        """The global L2 norm of what has been accumulated, unscaled. Collective."""
        ...

    def scale(self, factor: float) -> None:
        """Multiply every gradient."""
        ...


class FlatGradient:
    """All gradients as one vector: `.grad` of each parameter is a view of it, and autograd adds into the views.

    Micro-batches accumulate without a copy, the ranks exchange it in one all-reduce after the last of them, and the
    global norm is one call.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters: Sequence[nn.Parameter] = list(parameters)
        assert self.parameters, "nothing to train"
        first = self.parameters[0]
        self.vector = torch.zeros(sum(p.numel() for p in self.parameters), dtype=torch.float32, device=first.device)
        offset = 0
        for parameter in self.parameters:
            assert parameter.dtype == torch.float32, "master weights are FP32"
            parameter.grad = self.vector[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()

    def zero(self) -> None:
        """Start a step."""
        self.vector.zero_()

    def exchange(self, world: World) -> None:
        """Add up what the ranks have accumulated, in one all-reduce. Collective."""
        world.sum_(self.vector)

    def norm(self) -> Tensor:
        """The global L2 norm of what has been accumulated, unscaled."""
        return torch.linalg.vector_norm(self.vector)

    def scale(self, factor: float) -> None:
        """Multiply every gradient."""
        self.vector.mul_(factor)
