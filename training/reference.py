"""Log-probabilities under the reference model: of each sequence once, before training."""

from collections.abc import Sequence

import torch
from torch import nn

from training.batch import Unit
from training.examples import Examples, PackedExamples
from training.feedback import Feedback
from training.order import samples
from training.precision import Precision
from training.preference import answer_log_probabilities
from training.trainer import Trainer
from training.tuning import Tuned
from training.world import World


@torch.no_grad()
def log_probabilities(
    model: nn.Module,
    examples: PackedExamples,
    asked: Sequence[int],
    world: World,
    precision: Precision,
    feedback: Feedback | None = None,
) -> torch.Tensor:
    """log p(answer | prompt) of the units `asked`, without dropout: (units, segments of each), 0 elsewhere. Collective.

    Of pairs: chosen first. `feedback` shows how far the reference is.
    """
    asked = list(dict.fromkeys(asked))  # a unit that two ranks measured would be added up
    training = model.training
    model.eval()
    segments = len(examples.units[0])
    known = torch.zeros(len(examples.units), segments, dtype=torch.float64)
    done = 0
    for numbers, batch in examples.batches(asked, world.rank, world.size):
        found, _ = answer_log_probabilities(model, batch.to(world.device), precision)
        known[numbers] = found.cpu().double().view(-1, segments)
        done += len(numbers)
        if feedback is not None:
            feedback.update("reference", min(done * world.size, len(asked)), len(asked), "examples")
    model.train(training)
    return world.sum_(known.to(world.device)).float().cpu()


def reference(
    tuned: Tuned, train: Examples, held_out: Examples, trainer: Trainer, world: World, training: bool = True
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """log p under the reference of the training units that the run will come to, and of all held-out ones.

    Units of two segments each; `training` False: of the held-out ones alone.
    """
    config, first = tuned.config, len(train.units)
    asked = list(range(first, first + len(held_out.units)))
    if training:
        wanted = min(trainer.steps * config.batch_size, first)
        asked = [*sorted(samples(first, config.seed, 0, wanted)), *asked]
    both: list[Unit] = [*train.units, *held_out.units]
    packed = PackedExamples(both, config.seed, config.micro_batch, 2 * config.max_length, tuned.encoder.padding)
    with tuned.before_tuning() as base:
        known_U2 = log_probabilities(base, packed, asked, world, trainer.precision, trainer.feedback)
    return known_U2[:first] if training else None, known_U2[first:]
