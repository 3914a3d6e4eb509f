"""What a finished fine-tuning tells its driver, and what of it goes into the manifest's counts."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from training.examples import Examples
from training.model import count_parameters
from training.trainer import Trainer


def outcome(
    trainer: Trainer, model: nn.Module, last: Mapping[str, Any], tables: Mapping[str, Examples]
) -> dict[str, Any]:
    """JSON-able facts of a run, for `launch` to carry home. last: the row of metrics that `trainer.run` returned."""
    parameters, trainable = count_parameters(model)
    return {
        "last": last,
        "exported_step": trainer.exported_step,
        "examples": {name: len(table.units) for name, table in tables.items()},
        "skipped": {name: table.skipped for name, table in tables.items()},
        "parameters": parameters,
        "trainable": trainable,
        "precision": trainer.precision.name,
    }


def counts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of the manifest from an `outcome`."""
    last = result["last"]
    return {
        "steps": last["step"],
        "tokens": last["tokens"],
        "skipped_steps": last["skipped"],
        "examples": result["examples"],
        "skipped_examples": result["skipped"],
    }
