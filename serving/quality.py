"""How far a quantized model is from its original: perplexity, KL divergence, top-1 agreement on the same tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

_BATCH = 4


@dataclass(frozen=True)
class Quality:
    """Means over all predicted tokens. Perplexity is exp of the mean negative log-likelihood, nats.

    `kl`: mean KL(original || quantized), nats per token. `agreement`: share of tokens for which both rank the same
    token first. The last two hold each sequence's own perplexity, (n,).
    """

    tokens: int
    perplexity_before: float
    perplexity_after: float
    kl: float
    agreement: float
    before_by_sequence: list[float]
    after_by_sequence: list[float]

    @property
    def increase(self) -> float:
        """Perplexity after over perplexity before."""
        return self.perplexity_after / self.perplexity_before


@torch.inference_mode()
def compare(
    original: PreTrainedModel, quantized: PreTrainedModel, sequences_ST: Tensor, tick: Callable[[int], None]
) -> Quality:
    """Both models on sequences of token ids, (sequences, length) int64; `tick(n)` is called after n sequences."""
    before: list[float] = []
    after: list[float] = []
    kl_sum, same = 0.0, 0
    for tokens_BT in sequences_ST.split(_BATCH):
        targets_BT = tokens_BT[:, 1:]
        original_BTV = log_softmax(original(input_ids=tokens_BT).logits[:, :-1].float(), dim=-1)
        quantized_BTV = log_softmax(quantized(input_ids=tokens_BT).logits[:, :-1].float(), dim=-1)
        before += _negative_log_likelihood(original_BTV, targets_BT)
        after += _negative_log_likelihood(quantized_BTV, targets_BT)
        kl_sum += float(kl_div(quantized_BTV, original_BTV, reduction="sum", log_target=True))
        same += int((original_BTV.argmax(-1) == quantized_BTV.argmax(-1)).sum())
        tick(len(tokens_BT))
    predicted = sequences_ST.shape[1] - 1
    tokens = len(sequences_ST) * predicted
    return Quality(
        tokens=tokens,
        perplexity_before=math.exp(math.fsum(before) / tokens),
        perplexity_after=math.exp(math.fsum(after) / tokens),
        kl=kl_sum / tokens,
        agreement=same / tokens,
        before_by_sequence=[math.exp(nll / predicted) for nll in before],
        after_by_sequence=[math.exp(nll / predicted) for nll in after],
    )


def _negative_log_likelihood(log_probabilities_BTV: Tensor, targets_BT: Tensor) -> list[float]:
    """Summed over each sequence, (B,)."""
    chosen_BT = log_probabilities_BTV.gather(-1, targets_BT.unsqueeze(-1)).squeeze(-1)
    sums: list[float] = (-chosen_BT.double().sum(-1)).tolist()
    return sums
