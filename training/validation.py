"""Held-out loss: the objective over fixed batches, shared out over the ranks."""

from collections.abc import Sequence

import torch
from torch import nn

from training.batch import Batch
from training.objectives import Objective
from training.precision import Precision
from training.sharding import is_sharded
from training.world import World


@torch.no_grad()
def evaluate(
    model: nn.Module, objective: Objective, batches: Sequence[Batch], world: World, precision: Precision
) -> dict[str, float]:
    """Loss and metrics per unit of weight (token or pair) over all batches; `loss` and `weight` are among the names.

    Collective; every rank returns the same numbers. Dropout is off.
    """
    training = model.training
    model.eval()
    sums = dict.fromkeys(["loss", "weight", *objective.metrics], 0.0)
    # A sharded model is computed by all ranks together: in the last round, some compute a batch that does not count.
    end = -(-len(batches) // world.size) * world.size if is_sharded(model) else len(batches)
    for number in range(world.rank, end, world.size):
        part = objective(model, batches[min(number, len(batches) - 1)].to(world.device), precision)
        if number >= len(batches):
            continue
        sums["loss"] += float(part.loss)
        sums["weight"] += part.weight
        for name, value in part.metrics.items():
            sums[name] += value
    model.train(training)
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=world.device)
    total = dict(zip(sums, world.sum_(values).tolist(), strict=True))
    weight = max(total["weight"], 1.0)
    return {name: value if name == "weight" else value / weight for name, value in total.items()}
