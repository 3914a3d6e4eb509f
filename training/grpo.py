"""Stage `train.grpo`: a policy that learns from rewards of its own answers, each against others to the same prompt."""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from training import policy_run
from training.advantages import Scale, group_advantages
from training.episodes import Episode, PolicyConfig
from training.optimizer import OptimizerConfig
from training.policy_loss import PolicyLoss, PolicyLossConfig
from training.world import World


class GrpoConfig(PolicyConfig):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) with DAPO's and Dr. GRPO's corrections.

    Dr. GRPO: scale none, loss.normalize constant, clip_high as clip_low.
    """

    group: int = Field(8, gt=1, description="answers to each prompt; a reward is judged against their mean")
    scale: Scale = Field("group", description="divide by the rewards' standard deviation in the group, batch, or not")
    loss: PolicyLossConfig = Field(PolicyLossConfig(), description="the clipped objective")
    batch_size: int = Field(64, gt=0, description="answers per optimizer step")
    optimizer: OptimizerConfig = Field(OptimizerConfig(learning_rate=1e-5, weight_decay=0.0), description="AdamW")

    @property
    def group_size(self) -> int:
        """Answers to each prompt."""
        return self.group

    @model_validator(mode="after")
    def _group_fits(self) -> "GrpoConfig":
        if self.answers < self.group:
            raise ValueError(f"group: {self.group} answers to a prompt are more than a rollout's {self.answers}")
        return self


def judge(config: GrpoConfig, episodes: list[Episode]) -> dict[str, float]:
    """Set each episode's advantage, the same for all its tokens."""
    rewards_GK = np.array([episode.reward for episode in episodes]).reshape(-1, config.group)
    advantages_GK, equal_G = group_advantages(rewards_GK, config.scale)
    for episode, advantage in zip(episodes, advantages_GK.flatten(), strict=True):
        episode.advantages = [float(advantage)] * len(episode.tokens)
    return {"zero_variance_groups": float(equal_G.sum()), "zero_variance_share": float(equal_G.mean())}


def work(config: GrpoConfig, directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    objective = PolicyLoss(config.loss, config.rollout.temperature, config.rollout.max_new_tokens)
    return policy_run.train(
        config, directory, world, objective, lambda episodes, _: judge(config, episodes), config.loss.kl > 0
    )


def grpo(config: GrpoConfig, run: Run) -> Manifest:
    """Prompts and rewards to an adapter and a checkpoint."""
    return policy_run.run_stage(config, run, __name__, "Group relative policy optimisation", lambda *_: None)


STAGE = Stage(name="train.grpo", version=1, config=GrpoConfig, run=grpo)
"""GRPO."""
