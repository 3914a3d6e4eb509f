"""NEFTune: uniform noise on the embeddings while fine-tuning (Jain et al. 2023, arXiv:2310.05914)."""

from typing import Any

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.model import bare
from training.objectives import NextToken, Sums
from training.precision import Precision


class NoisyNextToken(NextToken):
    """-log p(next token) under embeddings x' = x + alpha / sqrt(L d) * e, with e uniform on [-1, 1].

    d: width of the embeddings; L: tokens of the packed segment, not of the row, so a conversation gets the noise that
    it would get alone. Nothing is added while the model is in evaluation mode. The noise comes from torch's
    generator, which the trainer seeds for each micro-batch.
    """

    def __init__(self, model: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self._scale_BT: Tensor | None = None
        # Once, before anything compiles the model: a compiled one looks for no new hooks.
        bare(model).get_input_embeddings().register_forward_hook(self._add)

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """Sums over the batch's labelled tokens."""
        self._scale_BT = self.scale(batch) if model.training else None
        try:
            return super().__call__(model, batch, precision)
        finally:
            self._scale_BT = None

    def scale(self, batch: Batch) -> Tensor:
        """alpha / sqrt(L) of each token's segment: (rows, length); 0 for padding."""
        same_BTT = batch.segments[:, :, None] == batch.segments[:, None, :]
        return self.alpha / same_BTT.sum(2).float().sqrt() * (batch.segments > 0)

    def _add(self, _module: nn.Module, _inputs: Any, embedded_BTD: Tensor) -> Tensor | None:
        if self._scale_BT is None:
            return None
        noise_BTD = torch.empty_like(embedded_BTD).uniform_(-1, 1)
        return embedded_BTD + noise_BTD * (self._scale_BT / embedded_BTD.shape[-1] ** 0.5)[..., None]
