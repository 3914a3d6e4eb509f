"""Replay: earlier conversations beside the preference pairs, so that what was learned from them stays."""

from collections.abc import Sequence

from pydantic import Field

from core.config import Config, InputPath
from training.batch import Unit
from training.order import samples


class ReplayConfig(Config):
    """Conversations of the stage before, mixed into each batch, as InstructGPT mixes its pretraining data into PPO.

    Ouyang et al. 2022, arXiv:2203.02155, eq. 2 (PPO-ptx); against forgetting in general: Rolnick et al. 2019,
    arXiv:1811.11682.
    """

    conversations: InputPath = Field(description="Parquet with a column messages, as fine-tuning took them")
    per_pair: int = Field(1, gt=0, description="conversations beside each preference pair")
    weight: float = Field(1.0, gt=0, description="of the mean loss per token of their answers, against the pair's loss")


def beside(pairs: Sequence[Unit], conversations: Sequence[Unit], per_pair: int, seed: int) -> list[Unit]:
    """Each pair with its `per_pair` conversations as further segments; every conversation serves before one returns."""
    order = samples(len(conversations), seed, 0, per_pair * len(pairs))
    return [
        [*pair, *(segment for number in order[at : at + per_pair] for segment in conversations[number])]
        for pair, at in zip(pairs, range(0, len(order), per_pair), strict=True)
    ]
