"""What policy gradients need of a model: log-probabilities, entropies and values of the tokens it said."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import UserError
from training import attention
from training.batch import Batch, Segment, collate
from training.linear_cross_entropy import IGNORED, token_losses
from training.model import _plain_head, bare
from training.precision import Precision, rounded

_CHUNK = 512
"""Tokens whose logits exist at once where the entropy is measured."""


@dataclass(frozen=True)
class PolicyBatch(Batch):
    """Prompts with their answers; labels are the answers' tokens. Further fields are (rows, length) FP32, 0 elsewhere.

    They hold what was known when the answers were sampled; None where the method does without.
    """

    advantages: Tensor | None = None
    sampler_log_p: Tensor | None = None
    """Of the process that sampled, which may compute in another way."""
    old_log_p: Tensor | None = None
    """Of the trainer's own model before the first step on this rollout."""
    reference_log_p: Tensor | None = None
    old_values: Tensor | None = None
    returns: Tensor | None = None

    def to(self, device: torch.device) -> "PolicyBatch":
        """The same batch on a device."""
        values: Any = (getattr(self, field.name) for field in fields(self))
        moved: list[Any] = [value if value is None else value.to(device) for value in values]
        return PolicyBatch(*moved)


PER_TOKEN = ("advantages", "sampler_log_p", "old_log_p", "reference_log_p", "old_values", "returns")


def answer_segment(prompt: Sequence[int], answer: Sequence[int]) -> Segment:
    """A prompt with its answer; the answer's tokens are the labels."""
    ids = np.array([*prompt, *answer], np.int64)
    return Segment.from_ids(ids, np.arange(len(ids)) >= len(prompt))


def policy_batch(
    rows: Sequence[Sequence[Segment]], facts: dict[str, Sequence[np.ndarray] | None], padding: int
) -> PolicyBatch:
    """Rows of segments to one batch. facts: for names of `PER_TOKEN`, per segment, row by row, its tokens' values."""
    batch = collate(rows, padding)
    labelled = batch.labels != IGNORED
    placed: dict[str, Tensor] = {}
    for name, values in facts.items():
        if values is not None:
            placed[name] = torch.zeros(batch.labels.shape)
            placed[name][labelled] = torch.from_numpy(np.concatenate(values).astype(np.float32))
    kept = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    return PolicyBatch(**kept, **placed)


@dataclass(frozen=True)
class Terms:
    """Of each position, (rows * length,); 0 where there is no label."""

    log_p_N: Tensor
    entropy_N: Tensor
    """Of the whole distribution, in nats; carries no gradient."""
    value_N: Tensor | None


def policy_terms(
    model: nn.Module, batch: Batch, precision: Precision, temperature: float = 1.0, entropy: bool = True
) -> Terms:
    """log p(label) under softmax(z / temperature), the entropy of that softmax, and the value where there is a head.

    The policy that is trained is the one that was sampled from, temperature and all (trl#4159).
    """
    base = bare(model)
    labels_N = batch.labels.flatten()
    head_VD = _plain_head(base)
    if head_VD is None:
        with precision.context():
            logits_NV = base(**attention.inputs(base, batch), use_cache=False).logits.flatten(0, 1).float()
        log_p_NV = (logits_NV / temperature).log_softmax(1)
        said_N1 = log_p_NV.gather(1, labels_N.clamp(min=0)[:, None])
        hidden = (labels_N == IGNORED)[:, None]
        entropy_N1 = -(log_p_NV.detach().exp() * log_p_NV.detach()).sum(1, keepdim=True)
        return Terms(said_N1.masked_fill(hidden, 0.0)[:, 0], entropy_N1.masked_fill(hidden, 0.0)[:, 0], None)
    with precision.context():
        decoded = base.get_decoder()(**attention.inputs(base, batch), use_cache=False)
    hidden_ND = decoded.last_hidden_state.flatten(0, 1)
    scaled_ND = hidden_ND if temperature == 1.0 else hidden_ND / temperature
    log_p_N = -token_losses(scaled_ND, head_VD, labels_N, precision.name)
    entropy_N = _entropies(scaled_ND, head_VD, labels_N, precision) if entropy else torch.zeros_like(log_p_N)
    value_N = None
    if isinstance(model, WithValue):
        value_N = model.value_head(hidden_ND.float())[:, 0].masked_fill(labels_N == IGNORED, 0.0)
    return Terms(log_p_N, entropy_N, value_N)


@torch.no_grad()
def _entropies(hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, precision: Precision) -> Tensor:
    """H = logsumexp(z) - sum softmax(z) z at the labelled positions, a chunk of logits at a time."""
    entropy_N = torch.zeros(len(labels_N), device=hidden_ND.device)
    where = (labels_N != IGNORED).nonzero()[:, 0]
    emulated = precision.name == "bf16 emulated"
    w_VD = rounded(head_VD) if emulated else head_VD.to(hidden_ND.dtype)
    for part in where.split(_CHUNK):
        h_CD = rounded(hidden_ND[part]) if emulated else hidden_ND[part]
        log_p_CV = (h_CD @ w_VD.t()).float().log_softmax(1)
        entropy_N[part] = -(log_p_CV.exp() * log_p_CV).sum(1)
    return entropy_N


class WithValue(nn.Module):
    """A policy and, on its last hidden states, a linear value head that starts at zero.

    Raises UserError for a model that has no hidden states of its own before its output head.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        base = bare(policy)
        if _plain_head(base) is None:
            raise UserError(f"a {base.config.model_type} model has no plain output head to set a value head beside")
        self.value_head = nn.Linear(base.config.hidden_size, 1, device=next(base.parameters()).device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def get_base_model(self) -> Any:
        """The `transformers` model inside, as PEFT's wrapper gives it."""
        return bare(self.policy)
