"""The clipped policy gradient of GRPO and PPO, on answers that an earlier policy gave."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from core.config import Config
from training.batch import Batch
from training.linear_cross_entropy import IGNORED
from training.objectives import Sums
from training.policy import PolicyBatch, policy_terms
from training.precision import Precision

Level = Literal["token", "sequence"]


class PolicyLossConfig(Config):
    """The clipped objective and what holds the policy back."""

    clip_low: float = Field(0.2, gt=0, lt=1, description="the ratio to the old policy counts down to 1 - clip_low")
    clip_high: float = Field(
        0.28, gt=0, description="and up to 1 + clip_high; larger than clip_low keeps rare tokens alive (DAPO)"
    )
    normalize: Literal["token", "sequence", "constant"] = Field(
        "token",
        description="each token counts the same (DAPO), each answer (GRPO), or answers by their length over "
        "max_new_tokens (Dr. GRPO)",
    )
    kl: float = Field(0.0, ge=0, description="weight of the divergence from the model before tuning, in the loss")
    importance: Literal["token", "sequence", "none"] = Field(
        "token", description="correct for a sampler that computes otherwise than the trainer: weights per token, answer"
    )
    importance_cap: float = Field(2.0, ge=1, description="largest such weight (truncated importance sampling)")

    @model_validator(mode="after")
    def _clips(self) -> "PolicyLossConfig":
        if self.clip_high < self.clip_low:
            raise ValueError(f"clip_high {self.clip_high} is below clip_low {self.clip_low}; exchange them")
        return self


# All take tensors of one entry per token of an answer, (tokens,).


def clipped_surrogate(
    log_p_N: Tensor, old_log_p_N: Tensor, advantages_N: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """(-min(r A, clip(r, 1 - low, 1 + high) A), where the clip took the gradient away), r = p / p_old.

    PPO (Schulman et al. 2017, arXiv:1707.06347, eq. 7); low < high: DAPO (arXiv:2503.14476, eq. 10).
    """
    ratio_N = (log_p_N - old_log_p_N).exp()
    loss_N = -torch.minimum(ratio_N * advantages_N, ratio_N.clamp(1 - low, 1 + high) * advantages_N)
    clipped_N = ((ratio_N < 1 - low) & (advantages_N < 0)) | ((ratio_N > 1 + high) & (advantages_N > 0))
    return loss_N, clipped_N


def divergence(log_p_N: Tensor, reference_log_p_N: Tensor) -> Tensor:
    """k3, unbiased and never negative: exp(d) - d - 1, d = log p_ref - log p (DeepSeekMath, eq. 4)."""
    d_N = reference_log_p_N - log_p_N
    return d_N.exp() - d_N - 1


def importance_weights(
    trainer_log_p_N: Tensor, sampler_log_p_N: Tensor, sequences_N: Tensor, level: Level, cap: float
) -> tuple[Tensor, Tensor]:
    """(min(p_trainer / p_sampler, cap), where the cap cut it), per token, or of whole answers.

    Truncated importance sampling against the mismatch of two engines (Yao et al. 2025, 'Your efficient RL framework
    secretly brings you off-policy RL training'). sequences_N: the number of each token's answer.
    """
    gap_N = trainer_log_p_N - sampler_log_p_N
    if level == "sequence":
        total_S = torch.zeros(int(sequences_N.max()) + 1, device=gap_N.device).index_add(0, sequences_N, gap_N)
        gap_N = total_S[sequences_N]
    weights_N = gap_N.exp()
    return weights_N.clamp(max=cap), weights_N > cap


def clipped_value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float) -> Tensor:
    """max((V - R)^2, (V_clip - R)^2) / 2, V_clip within `clip` of the old value, as PPO's published code has it."""
    near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_N - returns_N).square(), (near_N - returns_N).square())


# ------------------------------------------------------------------------------------------------------------------

_METRICS = ("clip_share", "entropy", "sampler_gap", "importance_cut")


class PolicyLoss:
    """Sums of a clipped policy gradient over answers; metrics are means of the same kind as the loss.

    With `normalize` constant they are means over answers of the mean over an answer's tokens.
    """

    def __init__(self, config: PolicyLossConfig, temperature: float, longest: int) -> None:
        self.config, self.temperature, self.longest = config, temperature, longest
        self.unit = "tokens" if config.normalize == "token" else "answers"
        self.metrics: tuple[str, ...] = (*_METRICS, "kl") if config.kl else _METRICS

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """Sums over the batch's answers."""
        assert isinstance(batch, PolicyBatch) and batch.sequences is not None
        terms = policy_terms(model, batch, precision, self.temperature)
        where = (batch.labels != IGNORED).flatten()
        log_p_N = terms.log_p_N[where]

        def of(values: Tensor | None) -> Tensor:
            return log_p_N.detach() if values is None else values.flatten()[where]

        old_N, sampler_N, advantages_N = of(batch.old_log_p), of(batch.sampler_log_p), of(batch.advantages)
        sequences_N = batch.sequences.flatten()[where]
        loss_N, clipped_N = clipped_surrogate(log_p_N, old_N, advantages_N, self.config.clip_low, self.config.clip_high)
        cut_N = torch.zeros_like(clipped_N)
        if self.config.importance != "none":
            weights_N, cut_N = importance_weights(
                old_N, sampler_N, sequences_N, self.config.importance, self.config.importance_cap
            )
            loss_N = loss_N * weights_N
        metrics_N = dict(
            zip(_METRICS, (clipped_N, terms.entropy_N[where], (old_N - sampler_N).abs(), cut_N), strict=True)
        )
        if self.config.kl:
            kl_N = divergence(log_p_N, of(batch.reference_log_p))
            loss_N = loss_N + self.config.kl * kl_N
            metrics_N["kl"] = kl_N
        loss_N = loss_N + self.more(terms.value_N, batch, where, metrics_N)
        add, weight = self._summed(sequences_N)
        constant = self.config.normalize == "constant"
        loss = loss_N.sum() / self.longest if constant else add(loss_N)
        return Sums(loss, weight, {name: float(add(value.detach().float())) for name, value in metrics_N.items()})

    def more(
        self, value_N: Tensor | None, batch: PolicyBatch, where: Tensor, metrics: dict[str, Tensor]
    ) -> Tensor | float:
        """A further loss of each token, for methods that have one."""
        return 0.0

    def _summed(self, sequences_N: Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
        """How values of tokens add up, and what their sum is to be divided by: tokens, or answers."""
        if self.config.normalize == "token":
            return torch.sum, float(len(sequences_N))
        lengths_S = torch.bincount(sequences_N).float()
        return lambda values_N: (values_N / lengths_S[sequences_N]).sum(), float((lengths_S > 0).sum())
