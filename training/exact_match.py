"""Greedy answers to held-out prompts, compared with the right ones, beside the best constant guess."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from training.chat import ChatEncoder
from training.feedback import Feedback
from training.shapes import Row
from training.world import World

_BATCH = 64
ALL = "all"


@dataclass(frozen=True)
class Question:
    """A held-out prompt as tokens, the right answer, the task that it belongs to, and what the user asked last."""

    prompt: list[int]
    answer: str
    task: str
    text: str


def questions(rows: Sequence[Row], encoder: ChatEncoder) -> list[Question]:
    """The last message of each conversation is the answer if it is the assistant's, what comes before it the prompt.

    A conversation that is an answer to nothing asks nothing.
    """
    return [
        Question(
            prompt=encoder.prompt(messages[:-1]),
            answer=messages[-1]["content"].strip(),
            task=str(row.get("task") or ALL),
            text=messages[-2]["content"],
        )
        for row in rows
        if len(messages := row["messages"]) > 1 and messages[-1]["role"] == "assistant"
    ]


def constant_guess(train: Sequence[Row], held_out: Sequence[Question]) -> dict[str, float]:
    """Per task, the share of held-out answers that equal the most frequent answer of the training rows.

    What a model scores that has learned nothing but the commonest answer. Ties go to the smaller text.
    """
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        if row["messages"][-1]["role"] == "assistant":
            seen[str(row.get("task") or ALL)][row["messages"][-1]["content"].strip()] += 1
    guesses = {task: min(answers, key=lambda a: (-answers[a], a)) for task, answers in seen.items()}
    return _shares([question.answer == guesses.get(question.task) for question in held_out], held_out)


def exact_match(
    model: PreTrainedModel,
    held_out: Sequence[Question],
    encoder: ChatEncoder,
    max_new_tokens: int,
    world: World,
    feedback: Feedback,
    phase: str,
) -> tuple[dict[str, float], list[str]]:
    """(share of exact matches per task and overall, every answer in the order of `held_out`). Collective."""
    order = sorted(range(len(held_out)), key=lambda i: len(held_out[i].prompt))
    mine = order[world.rank :: world.size]
    found: dict[int, str] = {}
    for begin in range(0, len(mine), _BATCH):
        part = mine[begin : begin + _BATCH]
        prompts = [held_out[i].prompt for i in part]
        answers = greedy(model, prompts, encoder, max_new_tokens)
        found.update(zip(part, answers, strict=True))
        feedback.update(phase, len(found) * world.size, len(held_out), "prompts")
    for others in world.gather(found):
        found.update(others)
    answers = [found[i] for i in range(len(held_out))]
    hits = [answer == question.answer for answer, question in zip(answers, held_out, strict=True)]
    return _shares(hits, held_out), answers


@torch.inference_mode()
def greedy(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], encoder: ChatEncoder, max_new_tokens: int
) -> list[str]:
    """The most likely continuation of each prompt, up to the end of the turn, padded on the left in one batch."""
    padding = encoder.padding
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    training = model.training
    model.eval()
    output = cast("Any", model).generate(
        input_ids=tokens.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=encoder.stop_tokens,
        pad_token_id=padding,
    )
    model.train(training)
    return [encoder.decode(row.tolist()).strip() for row in output[:, longest:]]


def _shares(hits: Sequence[bool], held_out: Sequence[Question]) -> dict[str, float]:
    by_task: Mapping[str, list[bool]] = defaultdict(list)
    for hit, question in zip(hits, held_out, strict=True):
        by_task[question.task].append(hit)
    shares = {task: sum(found) / len(found) for task, found in sorted(by_task.items())}
    return {ALL: sum(hits) / max(1, len(hits)), **{task: share for task, share in shares.items() if task != ALL}}
