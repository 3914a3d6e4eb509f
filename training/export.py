"""The final checkpoint: a Hugging Face directory that `transformers` and vLLM load as it is."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

CHECKPOINT = "checkpoint"


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, stop_tokens: Sequence[int]
) -> Path:
    """Write `checkpoint/`: weights in the model's own precision, tokenizer with its chat template, stop tokens.

    Written under a hidden name and renamed, so that it is whole or absent.
    """
    target = directory / CHECKPOINT
    temporary = directory / f".{CHECKPOINT}"
    shutil.rmtree(temporary, ignore_errors=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys(stop_tokens)),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.bos_token_id = tokenizer.bos_token_id
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


@torch.no_grad()
def probe_logits(model: PreTrainedModel, seed: int = 0) -> Tensor:
    """Logits of 4 x 32 random tokens: (4, 32, vocabulary)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, model.config.vocab_size, (4, 32), generator=generator)
    return model(input_ids=tokens.to(model.device)).logits
