"""Greedy answers to chat prompts, in batches."""

from collections.abc import Sequence
from typing import Any

import torch

from core.chat import Messages, end_of_turn, render_prompt
from evaluation.task import Subject


@torch.inference_mode()
def greedy_answers(subject: Subject, prompts: Sequence[Messages], max_new_tokens: int) -> list[str]:
    """What the model says to each prompt, up to its end of turn, end of text, or `max_new_tokens`.

    Rows are padded on the left with an attention mask, from which `generate` takes the position ids; prompts of like
    length go together.
    """
    tokenizer: Any = subject.tokenizer
    encoded = [tokenizer.encode(render_prompt(tokenizer, prompt), add_special_tokens=False) for prompt in prompts]
    stops = _stops(subject, prompts[0])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: -len(encoded[number]))
    begin = 0
    while begin < len(order):
        width = len(encoded[order[begin]])
        batch = order[begin : begin + max(1, subject.batch_tokens // (width + max_new_tokens))]
        begin += len(batch)
        tokens_BT = torch.full((len(batch), width), pad)
        mask_BT = torch.zeros_like(tokens_BT)
        for row, number in enumerate(batch):
            tokens_BT[row, width - len(encoded[number]) :] = torch.as_tensor(encoded[number])
            mask_BT[row, width - len(encoded[number]) :] = 1
        device = subject.model.device
        said_BT = subject.model.generate(
            input_ids=tokens_BT.to(device),
            attention_mask=mask_BT.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=stops,
            pad_token_id=pad,
        )[:, width:]
        for row, number in enumerate(batch):
            answers[number] = tokenizer.decode(_until(said_BT[row].tolist(), stops), skip_special_tokens=True)
        subject.advance(len(batch))
    return answers


def _stops(subject: Subject, prompt: Messages) -> list[int]:
    """End of turn as the template has it, end of text, and what the checkpoint's generation settings name."""
    configured = subject.model.generation_config.eos_token_id
    named = configured if isinstance(configured, list) else [configured]
    found = [end_of_turn(subject.tokenizer, prompt), subject.tokenizer.eos_token_id, *named]
    return sorted({int(token) for token in found if token is not None})


def _until(tokens: list[int], stops: Sequence[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in stops:
            return tokens[:place]
    return tokens
