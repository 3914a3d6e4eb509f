"""Direct preference optimisation: the margin of the chosen answer over the rejected one, against a reference."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, relu

from core.config import Config
from training.batch import Batch
from training.linear_cross_entropy import IGNORED
from training.model import losses
from training.objectives import Sums
from training.precision import Precision
from training.replay import ReplayConfig


class PreferenceConfig(Config):
    """The preference loss."""

    loss: Literal["sigmoid", "robust", "hinge", "ipo", "kto"] = Field(
        "sigmoid",
        description="DPO's own, its unbiased form for noisy labels, hinge (SLiC, RSO), IPO's square, or KTO, "
        "which needs no pairs",
    )
    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference model; IPO's tau")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs assumed wrong: cDPO with sigmoid, the noise rate with robust"
    )
    length_normalized: bool = Field(False, description="mean instead of summed log-probability of each answer")
    sft_weight: float = Field(
        0.0, ge=0, description="weight of the chosen answer's own loss per token (RPO, arXiv:2404.19733, eq. 1)"
    )
    desirable_weight: float = Field(1.0, gt=0, description="kto: weight of desirable answers, lambda_D")
    undesirable_weight: float = Field(1.0, gt=0, description="kto: weight of undesirable answers, lambda_U")

    @model_validator(mode="after")
    def _settings_go_together(self) -> "PreferenceConfig":
        if self.label_smoothing and self.loss not in {"sigmoid", "robust"}:
            raise ValueError(f"label_smoothing goes with loss sigmoid or robust, not with {self.loss}")
        if self.loss == "kto" and (self.length_normalized or self.sft_weight):
            raise ValueError("length_normalized and sft_weight go with losses of pairs, not with kto")
        if self.loss != "kto" and (self.desirable_weight, self.undesirable_weight) != (1.0, 1.0):
            raise ValueError(f"desirable_weight and undesirable_weight go with loss kto, not with {self.loss}")
        return self


# Each takes margin_P = (chosen - chosen_ref) - (rejected - rejected_ref), log-probabilities of the answers given the
# prompt, (pairs,); beta; and the label smoothing epsilon. With length_normalized they are means over tokens.


def sigmoid_loss(margin_P: Tensor, beta: float, epsilon: float = 0.0) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7): -log sigmoid(beta * margin); cDPO for epsilon > 0."""
    z_P = beta * margin_P
    return -(1 - epsilon) * logsigmoid(z_P) - epsilon * logsigmoid(-z_P)


def robust_loss(margin_P: Tensor, beta: float, epsilon: float = 0.0) -> Tensor:
    """Its unbiased estimate when a share epsilon of the labels is flipped (Chowdhury et al. 2024, arXiv:2403.00409)."""
    z_P = beta * margin_P
    return (-(1 - epsilon) * logsigmoid(z_P) + epsilon * logsigmoid(-z_P)) / (1 - 2 * epsilon)


def hinge_loss(margin_P: Tensor, beta: float, _: float = 0.0) -> Tensor:
    """max(0, 1 - beta * margin): SLiC on log-ratios (Liu et al. 2023, arXiv:2309.06657, eq. 10)."""
    return relu(1 - beta * margin_P)


def ipo_loss(margin_P: Tensor, beta: float, _: float = 0.0) -> Tensor:
    """IPO (Azar et al. 2023, arXiv:2310.12036, eq. 17): (margin - 1 / (2 tau))^2.

    On summed log-probabilities, as the paper writes it; its authors' runs, and TRL, take means (`length_normalized`).
    """
    return (margin_P - 1 / (2 * beta)).square()


_LOSSES: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": sigmoid_loss,
    "robust": robust_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
}


def answer_log_probabilities(model: nn.Module, batch: Batch, precision: Precision) -> tuple[Tensor, Tensor]:
    """log p(answer | prompt) of each sequence of the batch, summed over its labelled tokens, and their number.

    Both (sequences,); the first is differentiable.
    """
    assert batch.sequences is not None
    sequences_N = batch.sequences.flatten()
    loss_N = losses(model, batch, precision, per_token=True)
    count = int(sequences_N.max()) + 1
    # Padding has sequence -1, loss 0 and no label: it adds nothing to the sequence it is sent to.
    to_N = sequences_N.clamp(min=0)
    total_S = torch.zeros(count, device=loss_N.device).index_add(0, to_N, -loss_N)
    labelled_N = (batch.labels.flatten() != IGNORED).float()
    return total_S, torch.zeros(count, device=loss_N.device).index_add(0, to_N, labelled_N)


class Preference:
    """Pairs of answers, each pair with the conversations that are replayed beside it.

    Sequences of a batch come in groups of `segments`: chosen answer, rejected answer, replayed ones. Per pair
    the loss is l(margin) + a * L(chosen) + r * mean L(replayed), where L is the negative log-probability of an
    answer per token, a = `sft_weight` and r = `replay.weight`.
    """

    unit = "pairs"
    metrics: tuple[str, ...] = (
        "margin",
        "reward_accuracy",
        "preference_accuracy",
        "chosen_log_probability",
        "rejected_log_probability",
        "sft_loss",
    )

    def __init__(self, config: PreferenceConfig, replay: ReplayConfig | None = None) -> None:
        self.config, self.replay = config, replay
        self.segments = 2
        """Sequences that belong to one pair."""
        if replay is not None:
            self.segments += replay.per_pair
            self.metrics = (*self.metrics, "replay_loss")

    def reference(self, batch: Batch, precision: Precision) -> Tensor:
        """log p(answer | prompt) under the reference model: (pairs, 2). Here it was computed before training."""
        assert batch.reference is not None
        return batch.reference

    def scores(self, log_p_P2: Tensor, tokens_P2: Tensor, reference_P2: Tensor) -> dict[str, Tensor]:
        """`loss` and what is logged of each pair: (pairs,) each, only the loss differentiable.

        log_p_P2, reference_P2: summed log-probabilities of chosen and rejected answer; tokens_P2: how many tokens.
        """
        sft_loss_P = -log_p_P2[:, 0] / tokens_P2[:, 0]
        if self.config.length_normalized:
            log_p_P2, reference_P2 = log_p_P2 / tokens_P2, reference_P2 / tokens_P2
        chosen_P, rejected_P = log_p_P2.unbind(1)
        ratio_P2 = log_p_P2 - reference_P2
        margin_P = ratio_P2[:, 0] - ratio_P2[:, 1]
        loss_P = _LOSSES[self.config.loss](margin_P, self.config.beta, self.config.label_smoothing)
        if self.config.sft_weight:
            loss_P = loss_P + self.config.sft_weight * sft_loss_P
        values = (
            self.config.beta * margin_P,
            ratio_P2[:, 0] > ratio_P2[:, 1],
            chosen_P > rejected_P,
            chosen_P,
            rejected_P,
            sft_loss_P,
        )
        return {"loss": loss_P} | {n: v.detach() for n, v in zip(Preference.metrics, values, strict=True)}

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """Sums over the batch's pairs."""
        reference_P2 = self.reference(batch, precision)
        log_p_PG, tokens_PG = (
            each_S.view(-1, self.segments) for each_S in answer_log_probabilities(model, batch, precision)
        )
        found = self.scores(log_p_PG[:, :2], tokens_PG[:, :2], reference_P2)
        loss = found.pop("loss").sum()
        if self.replay:
            replay_P = -(log_p_PG[:, 2:] / tokens_PG[:, 2:]).mean(1)
            found["replay_loss"] = replay_P.detach()
            loss = loss + self.replay.weight * replay_P.sum()
        return Sums(loss, float(len(log_p_PG)), {name: float(value.sum()) for name, value in found.items()})
