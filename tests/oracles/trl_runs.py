"""The same training by Raymill and by TRL 1.16: same model, examples, order and hyper-parameters, loss by loss."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from core import checkpoint
from training import dpo, lora, metrics, sft
from training.chat import ChatEncoder
from training.examples import conversations, labelled_answers, preference_pairs
from training.order import samples

Losses = tuple[np.ndarray, np.ndarray]
"""Ours and TRL's, one of each step."""


class _Recorded:
    """A TRL trainer that takes the rows in their order; `losses` holds one unrounded loss per micro-batch."""

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset if dataset is None else dataset)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses = [*getattr(self, "losses", []), float(loss)]
        return loss


class _Tokenized(_Recorded):
    """The same, of rows that are token ids already."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset


class _Sft(_Recorded, SFTTrainer):
    pass


class _Dpo(_Tokenized, DPOTrainer):
    pass


class _Kto(_Tokenized, KTOTrainer):
    pass


def _settings(config: Any, directory: Path, micro_batch: int) -> dict[str, Any]:
    return {
        "output_dir": str(directory),
        "max_steps": config.steps,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": config.batch_size // micro_batch,
        "learning_rate": config.optimizer.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta2": config.optimizer.betas[1],
        "weight_decay": config.optimizer.weight_decay,
        "max_grad_norm": config.clip_norm,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def _compare(config: Any, trainer: Any) -> Losses:
    trainer.train()
    ours = np.array([row["loss"] for row in metrics.read(Path(config.output))])
    return ours, np.array(trainer.losses).reshape(config.steps, -1).sum(1)


def _plain(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def sft_losses(config: sft.SftConfig, directory: Path, micro_batch: int) -> Losses:
    """Of the stage, and of TRL on the conversations as they are: it renders and masks them itself.

    TRL weighs tokens as we do, over all micro-batches of a step. An adapter begins as ours.
    """
    sft.STAGE.execute(config)
    tokenizer = checkpoint.load_tokenizer(config.checkpoint)
    rows = conversations(config.conversations, ChatEncoder(tokenizer), config.max_length, "skip").rows
    order = samples(len(rows), config.seed, 0, config.steps * config.batch_size)
    arguments = SFTConfig(assistant_only_loss=True, max_length=None, **_settings(config, directory, micro_batch))
    model = _plain(config.checkpoint)
    if config.method == "lora":
        model = lora.attach(model, config.lora, config.seed)
    dataset = Dataset.from_list([{"messages": rows[number]["messages"]} for number in order])
    return _compare(config, _Sft(model, arguments, train_dataset=dataset, processing_class=tokenizer))


def _ids(segment: Any) -> tuple[list[int], list[int]]:
    """(prompt, answer) of a segment."""
    first = int(np.argmax(segment.labels >= 0)) + 1
    return segment.tokens[:first].tolist(), segment.labels[segment.labels >= 0].tolist()


def dpo_losses(config: dpo.DpoConfig, directory: Path, micro_batch: int, **theirs: Any) -> Losses:
    """Of the stage, and of TRL on the same token ids; theirs: how TRL says what `config.preference` says."""
    dpo.STAGE.execute(config)
    tokenizer = checkpoint.load_tokenizer(config.checkpoint)
    units = preference_pairs(config.preferences, ChatEncoder(tokenizer), config.max_length).units
    rows = []
    for number in samples(len(units), config.seed, 0, config.steps * config.batch_size):
        (prompt, chosen), (_, rejected) = (_ids(segment) for segment in units[number])
        rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    arguments = DPOConfig(beta=config.preference.beta, **theirs, **_settings(config, directory, micro_batch))
    model, reference = _plain(config.checkpoint), _plain(config.checkpoint)
    dataset = Dataset.from_list(rows)
    return _compare(config, _Dpo(model, reference, arguments, train_dataset=dataset, processing_class=tokenizer))


def kto_losses(config: dpo.DpoConfig, directory: Path) -> Losses:
    """Of the stage, and of TRL on the same token ids and mismatched answers, a step in one micro-batch.

    TRL estimates z0 from a micro-batch, we from the step.
    """
    dpo.STAGE.execute(config)
    tokenizer = checkpoint.load_tokenizer(config.checkpoint)
    table = labelled_answers(config.preferences, ChatEncoder(tokenizer), config.max_length, config.seed)
    rows = []
    for number in samples(len(table.units), config.seed, 0, config.steps * config.batch_size):
        (prompt, answer), (_, other) = (_ids(segment) for segment in table.units[number])
        label = bool(table.rows[number]["desirable"])
        rows.append({"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other, "label": label})
    arguments = KTOConfig(
        beta=config.preference.beta,
        desirable_weight=config.preference.desirable_weight,
        undesirable_weight=config.preference.undesirable_weight,
        train_sampling_strategy="sequential",
        **_settings(config, directory, config.batch_size),
    )
    model, reference = _plain(config.checkpoint), _plain(config.checkpoint)
    dataset = Dataset.from_list(rows)
    return _compare(config, _Kto(model, reference, arguments, train_dataset=dataset, processing_class=tokenizer))
