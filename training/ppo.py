"""Stage `train.ppo`: the classic RLHF path, a policy with a value head, held near the model it began as."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from core.config import Config
from core.manifest import Manifest
from core.report import Report
from core.run import Run
from core.stage import Stage
from training import policy_run
from training.advantages import generalized_advantages, whiten
from training.episodes import Episode, PolicyConfig
from training.optimizer import OptimizerConfig
from training.policy import PolicyBatch, WithValue
from training.policy_loss import PolicyLoss, PolicyLossConfig, clipped_value_loss
from training.report import curves
from training.world import World

_HORIZON_STEP, _LARGEST_ERROR = 0.1, 0.2


class ValueConfig(Config):
    """The value head and what its estimates are used for."""

    discount: float = Field(1.0, gt=0, le=1, description="gamma of later rewards; 1 for answers, which have an end")
    smoothing: float = Field(0.95, ge=0, le=1, description="lambda of generalized advantage estimation")
    weight: float = Field(0.1, ge=0, description="of the value loss beside the policy's")
    clip: float = Field(0.2, gt=0, description="a value counts this far from the one before the rollout's steps")


class KlConfig(Config):
    """The divergence from the model before tuning, as a penalty in the reward of each token."""

    coefficient: float = Field(0.05, ge=0, description="beta: the penalty is beta (log p - log p of that model)")
    target: float | None = Field(
        None, gt=0, description="nats per answer to steer to by changing beta; null: beta stays (Ziegler et al. 2019)"
    )
    horizon: float = Field(1.0, gt=0, description="speed of that, relative to a tenth of the error per rollout")


class PpoConfig(PolicyConfig):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022, arXiv:2203.02155)."""

    value: ValueConfig = Field(ValueConfig(), description="the value head")
    kl: KlConfig = Field(KlConfig(), description="what holds the policy near the model before tuning")
    loss: PolicyLossConfig = Field(PolicyLossConfig(clip_high=0.2), description="the clipped objective")
    batch_size: int = Field(64, gt=0, description="answers per optimizer step")
    rollout_epochs: int = Field(4, gt=0, description="times that each answer of a rollout is learned from")
    optimizer: OptimizerConfig = Field(OptimizerConfig(learning_rate=1e-5, weight_decay=0.0), description="AdamW")


class PpoLoss(PolicyLoss):
    """The clipped policy loss and, for each token, the clipped value loss."""

    def __init__(self, config: PpoConfig) -> None:
        super().__init__(config.loss, config.rollout.temperature, config.rollout.max_new_tokens)
        self.value = config.value
        self.metrics = (*self.metrics, "value_loss")

    def more(self, value_N: Tensor | None, batch: PolicyBatch, where: Tensor, metrics: dict[str, Tensor]) -> Tensor:
        """The value loss of each token, with its weight."""
        assert value_N is not None and batch.old_values is not None and batch.returns is not None
        old_N, returns_N = (values.flatten()[where] for values in (batch.old_values, batch.returns))
        metrics["value_loss"] = clipped_value_loss(value_N[where], old_N, returns_N, self.value.clip)
        return self.value.weight * metrics["value_loss"]


def judge(config: PpoConfig, episodes: list[Episode], before: Mapping[str, float]) -> dict[str, float]:
    """Set advantages and returns: the reward comes with the last token, each token pays for its divergence.

    r_t = -beta (log p_t - log p_ref,t), plus the answer's reward at the end (Ouyang et al. 2022, eq. 2).
    """
    beta = coefficient(config.kl, before)
    divergences, advantages, returns, values = [], [], [], []
    for episode in episodes:
        old, expected = np.array(episode.old_log_p), np.array(episode.old_values)
        divergence = old - np.array(episode.reference_log_p) if episode.reference_log_p else np.zeros(len(old))
        rewards = -beta * divergence
        rewards[-1] += episode.reward
        advantage, target = generalized_advantages(rewards, expected, config.value.discount, config.value.smoothing)
        episode.returns = target.tolist()
        divergences.append(divergence)
        advantages.append(advantage)
        returns.append(target)
        values.append(expected)
    white = whiten(np.concatenate(advantages))
    for episode, part in zip(episodes, np.split(white, np.cumsum([len(a) for a in advantages])[:-1]), strict=True):
        episode.advantages = part.tolist()
    spread = float(np.concatenate(returns).var())
    unexplained = float((np.concatenate(returns) - np.concatenate(values)).var())
    return {
        "kl_coefficient": beta,
        "rollout_kl": float(np.concatenate(divergences).mean()),
        "answer_kl": float(np.mean([divergence.sum() for divergence in divergences])),
        "explained_variance": 1 - unexplained / spread if spread else 0.0,
    }


def coefficient(config: KlConfig, before: Mapping[str, float]) -> float:
    """beta of a rollout from the one before: beta (1 + 0.1 clip(KL / target - 1, -0.2, 0.2)).

    Ziegler et al. 2019 (arXiv:1909.08593, section 2.2).
    """
    beta = before.get("kl_coefficient", config.coefficient)
    if config.target is None or not before:
        return beta
    error = min(max(before["answer_kl"] / config.target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
    return beta * (1 + _HORIZON_STEP * config.horizon * error)


def work(config: PpoConfig, directory: Path, world: World) -> dict[str, Any]:
    """One training process."""
    return policy_run.train(
        config,
        directory,
        world,
        PpoLoss(config),
        lambda episodes, before: judge(config, episodes, before),
        config.kl.coefficient > 0 or config.loss.kl > 0,
        WithValue,
    )


def ppo(config: PpoConfig, run: Run) -> Manifest:
    """Prompts and rewards to an adapter and a checkpoint."""
    return policy_run.run_stage(config, run, __name__, "Proximal policy optimisation", _figures)


def _figures(report: Report, rows: list[dict[str, Any]]) -> None:
    note = "Share of the variance of the returns that the value head knew before the rollout's steps."
    curves(report, "Value head", rows, {"explained_variance": "explained variance"}, "share", note)
    curves(report, "Value loss", rows, {"value_loss": "training"}, "half a squared error")
    curves(report, "Weight of the divergence", rows, {"kl_coefficient": "beta"}, "beta")


STAGE = Stage(name="train.ppo", version=1, config=PpoConfig, run=ppo)
