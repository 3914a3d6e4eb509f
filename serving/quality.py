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
    """Means over all tokens that count. Perplexity is exp of the mean negative log-likelihood, nats.

    `kl`: mean KL(original || quantized), nats per token. `agreement`: share of tokens for which both rank the same
    token first. The last two hold each sequence's own perplexity, of the n that have tokens that count.
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
    original: PreTrainedModel,
    quantized: PreTrainedModel,
    tokens_ST: Tensor,
    counted_ST: Tensor,
    tick: Callable[[int], None],
) -> Quality:
    """Both models on token ids, (sequences, length) int64; `tick(n)` is called after n sequences.

    counted_ST: which tokens count, the first of a sequence never, for nothing predicts it.
    """
    before: list[float] = []
    after: list[float] = []
    kl_sum, same = 0.0, 0
    predicted_ST = counted_ST[:, 1:]
    for tokens_BT, counted_BT in zip(tokens_ST.split(_BATCH), predicted_ST.split(_BATCH), strict=True):
        targets_BT = tokens_BT[:, 1:]
        original_BTV = log_softmax(original(input_ids=tokens_BT).logits[:, :-1].float(), dim=-1)
        quantized_BTV = log_softmax(quantized(input_ids=tokens_BT).logits[:, :-1].float(), dim=-1)
        before += _negative_log_likelihood(original_BTV, targets_BT, counted_BT)
        after += _negative_log_likelihood(quantized_BTV, targets_BT, counted_BT)
        original_NV, quantized_NV = original_BTV[counted_BT], quantized_BTV[counted_BT]
        kl_sum += float(kl_div(quantized_NV, original_NV, reduction="sum", log_target=True))
        same += int((original_NV.argmax(-1) == quantized_NV.argmax(-1)).sum())
        tick(len(tokens_BT))
    tokens_S = predicted_ST.sum(-1).tolist()
    tokens = sum(tokens_S)
    return Quality(
        tokens=tokens,
        perplexity_before=math.exp(math.fsum(before) / tokens),
        perplexity_after=math.exp(math.fsum(after) / tokens),
        kl=kl_sum / tokens,
        agreement=same / tokens,
        before_by_sequence=[math.exp(nll / n) for nll, n in zip(before, tokens_S, strict=True) if n],
        after_by_sequence=[math.exp(nll / n) for nll, n in zip(after, tokens_S, strict=True) if n],
    )


def _negative_log_likelihood(log_probabilities_BTV: Tensor, targets_BT: Tensor, counted_BT: Tensor) -> list[float]:
    """Summed over each sequence, (B,)."""
    chosen_BT = log_probabilities_BTV.gather(-1, targets_BT.unsqueeze(-1)).squeeze(-1)
    sums: list[float] = (-chosen_BT.double() * counted_BT).sum(-1).tolist()
    return sums
