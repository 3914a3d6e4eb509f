"""AdamW with decay on matrices only, and gradients in one flat buffer: one all-reduce, one norm."""

from collections.abc import Iterable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config import Config


class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    learning_rate: float = Field(1e-3, gt=0, description="peak rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the first and second moment")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of matrices; none on norms, biases, embeddings")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: decayed matrices, and norms, biases and embeddings without decay.

    A tied output head is the embedding itself and is not decayed.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2 and id(parameter) not in embeddings]
    chosen = {id(parameter) for parameter in decayed}
    plain = [parameter for parameter in trainable if id(parameter) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer, its update fused into one kernel call per group."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        fused=True,
    )


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

    def norm(self) -> Tensor:
        """The global L2 norm of what has been accumulated, unscaled."""
        return torch.linalg.vector_norm(self.vector)

    def scale(self, factor: float) -> None:
        """Multiply every gradient."""
        self.vector.mul_(factor)
