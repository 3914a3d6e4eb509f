"""Reward models: a causal language model with one score in place of its vocabulary, loaded, trained, applied."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from core import checkpoint
from core.errors import RaymillError, UserError
from training import attention
from training.batch import Batch, Segment
from training.chat import ChatEncoder
from training.linear_cross_entropy import IGNORED
from training.model import bare, require_finite
from training.objectives import Sums
from training.precision import Precision
from training.rewards import Answer
from training.rope import context

_BATCH = 64
HERE = 0
"""Label of the position at which a sequence is scored."""


def load(path: str | Path, padding: int, seed: int | None = None, device: Any = "cpu") -> PreTrainedModel:
    """The checkpoint with one score per sequence, in FP32. seed: draw the score's weights anew, N(0, 1 / (width + 1)).

    That is the start of Stiennon et al. 2020 (arXiv:2009.01325, appendix C). Raises UserError when it does not load.
    """
    content = checkpoint.check(path)
    require_finite(path)
    try:
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=1, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{path}: a {content['model_type']} checkpoint does not load with a score: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise UserError(
            f"{path}: a {content['model_type']} model has no linear score to train; take another checkpoint"
        )
    model.config.pad_token_id = padding
    if seed is not None:
        width = model.score.in_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5)
    return model.to(device).eval()


def scored_segment(ids: np.ndarray, padding: int) -> Segment:
    """A whole conversation, scored where `transformers` does it: at its last token that is no padding."""
    labels = np.full(len(ids), IGNORED, np.int64)
    labels[int(np.flatnonzero(ids != padding)[-1])] = HERE
    return Segment(np.asarray(ids, np.int64), labels)


def scores(model: nn.Module, batch: Batch, precision: Precision) -> Tensor:
    """The score of each sequence of the batch, (sequences,), FP32, differentiable."""
    base = bare(model)
    assert batch.sequences is not None
    with precision.context():
        inner = getattr(base, base.base_model_prefix)
        hidden_BTD = inner(**attention.inputs(base, batch), use_cache=False).last_hidden_state
    where = batch.labels == HERE
    score_S: Tensor = base.score(hidden_BTD[where].float())[:, 0]
    return score_S[batch.sequences[where].argsort()]


class BradleyTerry:
    """-log sigmoid(r_chosen - r_rejected) per pair (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1).

    centre: c (r_chosen + r_rejected)^2 holds the scores around zero (Eisenstein et al. 2023, arXiv:2312.09244, eq. 2).
    """

    unit = "pairs"
    metrics: tuple[str, ...] = ("accuracy", "margin", "chosen_reward", "rejected_reward")

    def __init__(self, centre: float) -> None:
        self.centre = centre

    def losses(self, score_P2: Tensor) -> Tensor:
        """Of each pair, (pairs,). score_P2: chosen, rejected."""
        chosen_P, rejected_P = score_P2.unbind(1)
        return -logsigmoid(chosen_P - rejected_P) + self.centre * (chosen_P + rejected_P).square()

    def __call__(self, model: nn.Module, batch: Batch, precision: Precision) -> Sums:
        """Sums over the batch's pairs."""
        score_P2 = scores(model, batch, precision).view(-1, 2)
        loss = self.losses(score_P2).sum()
        chosen_P, rejected_P = score_P2.detach().unbind(1)
        values = (chosen_P > rejected_P, chosen_P - rejected_P, chosen_P, rejected_P)
        return Sums(loss, float(len(score_P2)), {n: float(v.sum()) for n, v in zip(self.metrics, values, strict=True)})


class RewardModel:
    """A trained reward model as a reward: the score of prompt and answer, as its own chat template renders them."""

    def __init__(self, path: str, device: Any = "cpu") -> None:
        """Raises UserError when the folder is no reward model."""
        architectures = checkpoint.check(path).get("architectures") or []
        if not any(name.endswith("ForSequenceClassification") for name in architectures):
            raise UserError(
                f"{path}: not a reward model but a {', '.join(architectures) or 'nameless model'}; name the "
                "reward_model folder of a 'raymill train reward' run"
            )
        self.path = path
        self.encoder = ChatEncoder(checkpoint.load_tokenizer(path))
        self.model: Any = load(path, self.encoder.padding, device=device)
        self.padding = int(self.model.config.pad_token_id)
        self.context = context(self.model.config) or 1 << 30

    @torch.no_grad()
    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """One score per answer. Raises RaymillError for one longer than the model's context."""
        ids = [
            self.encoder.encode([*answer.prompt, {"role": "assistant", "content": answer.text}])[0]
            for answer in answers
        ]
        longest = max((len(each) for each in ids), default=0)
        if longest > self.context:
            raise RaymillError(
                f"{self.path}: the reward model's context of {self.context} tokens is too short for a prompt and "
                f"answer of {longest}; lower max_length"
            )
        found = np.zeros(len(ids))
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for begin in range(0, len(order), _BATCH):
            part = order[begin : begin + _BATCH]
            width = len(ids[part[-1]])
            tokens = np.full((len(part), width), self.padding, np.int64)
            for row, number in enumerate(part):
                tokens[row, : len(ids[number])] = ids[number]
            mask = np.arange(width) < np.array([[len(ids[number])] for number in part])
            inputs = {"input_ids": tokens, "attention_mask": mask.astype(np.int64)}
            moved = {name: torch.from_numpy(value).to(self.model.device) for name, value in inputs.items()}
            found[part] = self.model(**moved, use_cache=False).logits[:, 0].float().cpu().numpy()
        return [float(value) for value in found]
