"""Direct preference optimisation: the margin of the chosen answer over the rejected one, against a reference."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from core.config import Config
from training.batch import Batch
from training.linear_cross_entropy import IGNORED
from training.model import losses
from training.objectives import Sums
from training.precision import Precision


class PreferenceConfig(Config):
    """The preference loss."""

    loss: Literal["sigmoid"] = Field("sigmoid", description="sigmoid: DPO (Rafailov et al. 2023, eq. 7)")
    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference model")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs assumed wrong (cDPO)")
    length_normalized: bool = Field(False, description="mean instead of summed log-probability of each answer")


def sigmoid_loss(margin_P: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7): -log sigmoid(beta * margin); cDPO for label_smoothing > 0.

    margin_P = (chosen - chosen_ref) - (rejected - rejected_ref), each a log-probability of the answer given the prompt.
    """
    z_P = beta * margin_P
    return -(1 - label_smoothing) * logsigmoid(z_P) - label_smoothing * logsigmoid(-z_P)


def sequence_log_probabilities(
    model: nn.Module, batch: Batch, precision: Precision, length_normalized: bool = False
) -> Tensor:
    """log p(answer | prompt) of each sequence of the batch: (sequences,), summed over its labelled tokens."""
    assert batch.sequences is not None
    labels_N, sequences_N = batch.labels.flatten(), batch.sequences.flatten()
    loss_N = losses(model, batch, precision, per_token=True)
    count = int(sequences_N.max()) + 1
    # Padding has sequence -1 and loss 0: it adds nothing to the sequence it is sent to.
    total_S = torch.zeros(count, device=loss_N.device).index_add(0, sequences_N.clamp(min=0), -loss_N)
    if not length_normalized:
        return total_S
    learned_N = (labels_N != IGNORED).float()
    length_S = torch.zeros(count, device=loss_N.device).index_add(0, sequences_N.clamp(min=0), learned_N)
    return total_S / length_S


class Preference:
    """Pairs of answers; sequences 2 i and 2 i + 1 of a batch are the chosen and the rejected answer of pair i."""

    unit = "pairs"
    metrics: tuple[str, ...] = (
        "margin",
        "reward_accuracy",
        "preference_accuracy",
        "chosen_log_probability",
        "rejected_log_probability",
    )

    def __init__(self, config: PreferenceConfig) -> None:
        self.config = config

    def reference(self, batch: Batch, precision: Precision) -> Tensor:
        """log p(answer | prompt) under the reference model: (sequences,). Here it was computed before training."""
        assert batch.reference is not None
        return batch.reference

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """Sums over the batch's pairs."""
        reference_S = self.reference(batch, precision)
        log_p_S = sequence_log_probabilities(model, batch, precision, self.config.length_normalized)
        chosen_P, rejected_P = log_p_S[0::2], log_p_S[1::2]
        reward_chosen_P = self.config.beta * (chosen_P - reference_S[0::2]).detach()
        reward_rejected_P = self.config.beta * (rejected_P - reference_S[1::2]).detach()
        margin_P = (chosen_P - rejected_P) - (reference_S[0::2] - reference_S[1::2])
        loss = sigmoid_loss(margin_P, self.config.beta, self.config.label_smoothing).sum()
        values = (
            (reward_chosen_P - reward_rejected_P).sum(),
            (reward_chosen_P > reward_rejected_P).sum(),
            (chosen_P > rejected_P).sum(),
            chosen_P.detach().sum(),
            rejected_P.detach().sum(),
        )
        return Sums(loss, float(len(margin_P)), {n: float(v) for n, v in zip(self.metrics, values, strict=True)})
