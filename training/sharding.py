"""FSDP2: every rank holds a shard of weights, gradients and moments; a layer's weights meet while it is computed."""

import copy
from collections.abc import Iterable, Sequence
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from core.errors import UserError
from training.layers import layers_of
from training.model import SHARDED_LOSSES, bare, losses_of
from training.precision import Precision
from training.world import World


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    part: Tensor = tensor.to_local()
    return part


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """`whole` on the device of `like`, sharded as it is if it is sharded and `whole` is of its shape. Collective."""
    if isinstance(whole, DTensor) or not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole if isinstance(whole, DTensor) else whole.to(like.device)
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)


def is_sharded(model: nn.Module) -> bool:
    """Whether every rank must take part in each forward pass of this model."""
    return isinstance(bare(model), FSDPModule)


class Sharded:
    """A model that is sharded in place, layer by layer; `gather` makes it whole again as it was when it came here."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._skeleton = _skeleton(model)

    def shard(self, world: World, precision: Precision) -> None:
        """Share the parameters out over all ranks."""
        self.world = world
        base = bare(self.model)
        packed = next((name for name, p in base.named_parameters() if not p.is_floating_point()), None)
        if packed is not None:
            raise UserError(f"parallel: fsdp cannot share out {packed}, whose numbers are packed; set parallel: ddp")
        mesh = init_device_mesh(world.device.type, (world.size,))
        # On a GPU the gathered weights and the products are BF16; weights, moments and sums over ranks stay FP32.
        native = precision.name == "bf16 native" and world.device.type == "cuda"
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if native else MixedPrecisionPolicy()
        for part in [*layers_of(base), base]:
            fully_shard(part, mesh=mesh, mp_policy=policy)
        for module in base.modules():
            if isinstance(module, FSDPModule):
                # The trainer divides by the global weight, so the ranks' gradients are added, not averaged. The sum
                # is asked for by name: a factor alone becomes an operation that only NCCL has.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        setattr(base, SHARDED_LOSSES, MethodType(losses_of, base))
        register_fsdp_forward_method(base, SHARDED_LOSSES)

    def reshard(self) -> None:
        """Let go of weights that a forward pass without a backward one has left gathered.

        FSDP2 keeps those of the outermost module and takes them for current: after a change of the shards, the next
        forward pass would use the old ones, and a checkpoint would hold them.
        """
        bare(self.model).reshard()

    @torch.no_grad()
    def gather(self) -> None:
        """Make the model whole on every rank, in place; collective, and the end of its training.

        The object stays the same and takes over the body of a copy that was made before sharding: FSDP2 has no way
        back of its own.
        """
        whole = dict(self._skeleton.named_parameters())
        found: dict[str, nn.Parameter] = {}
        for name, parameter in self.model.named_parameters():
            full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()
            found[name] = nn.Parameter(full.to(self.world.device), requires_grad=whole[name].requires_grad)
        assert found.keys() == whole.keys(), "the copy has the parameters of the model"
        _fill(self._skeleton, {id(whole[name]): parameter for name, parameter in found.items()})
        self._skeleton.to(self.world.device).train(self.model.training)
        self.model.__class__ = self._skeleton.__class__
        self.model.__dict__ = self._skeleton.__dict__


def _skeleton(model: nn.Module) -> Any:
    """A copy of the model without its numbers: parameters on the meta device, tied ones still tied."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, empty)


def _fill(model: nn.Module, filled: dict[int, nn.Parameter]) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = filled[id(parameter)]


class ShardedGradient:
    """This rank's shards of all gradients. Each micro-batch adds its own, summed over the ranks by FSDP2 on the way."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters: Sequence[nn.Parameter] = list(parameters)
        assert self.parameters, "nothing to train"

    def zero(self) -> None:
        """Start a step."""
        for parameter in self.parameters:
            parameter.grad = None

    def exchange(self, world: World) -> None:
        """Nothing is left to do: the backward pass has added up the ranks' gradients."""

    def norm(self) -> Tensor:
        """The global L2 norm: squares of the shards, summed over the ranks. Collective."""
        parts = self._parts()
        squares = torch.stack(torch._foreach_norm(parts)).square().sum() if parts else torch.zeros(())
        squares = squares.to(self.parameters[0].device)
        dist.all_reduce(squares)
        return squares.sqrt()

    def scale(self, factor: float) -> None:
        """Multiply every gradient."""
        if parts := self._parts():
            torch._foreach_mul_(parts, factor)

    def _parts(self) -> list[Tensor]:
        return [local(parameter.grad) for parameter in self.parameters if parameter.grad is not None]
