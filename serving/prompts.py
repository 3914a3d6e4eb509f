"""Prompts for a load: of known lengths and no meaning, or those of an artifact."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from core import rows
from core.config import Config, InputPath
from core.errors import UserError

_FIRST_PLAIN_TOKEN = 16


class PromptSet(Config):
    """What is sent: without `path`, random tokens of the lengths given here."""

    path: InputPath | None = Field(
        None,
        description="Parquet or JSONL with messages, prompt or text in each row: conversations, preferences, documents",
    )
    tokens: int = Field(64, ge=1, description="length of a synthetic prompt")
    tokens_max: int | None = Field(None, ge=1, description="lengths are drawn between tokens and this; None: all equal")
    shared_tokens: int = Field(0, ge=0, description="tokens that every synthetic prompt begins with, beside its own")
    vocabulary: int = Field(256, gt=_FIRST_PLAIN_TOKEN, description="synthetic prompts are ids below this")
    tokenizer: InputPath | None = Field(
        None, description="checkpoint whose tokenizer turns them into text, for endpoints that take no ids"
    )
    characters: int = Field(2000, ge=1, description="a document is asked to be continued from its first so many")

    @model_validator(mode="after")
    def _lengths(self) -> "PromptSet":
        if self.tokens_max is not None and self.tokens_max < self.tokens:
            raise ValueError("tokens_max is less than tokens")
        return self


def bodies(prompts: PromptSet, chat: bool, count: int, seed: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Endless: `{"prompt"}` or for chats `{"messages"}`; `count` different ones, or as many as the artifact has.

    Raises UserError when rows hold nothing to ask, or are of the other kind.
    """
    found = _synthetic(prompts, chat, count, seed) if prompts.path is None else _of_rows(prompts, chat, count)
    return cycle(found)


def _synthetic(prompts: PromptSet, chat: bool, count: int, seed: Sequence[int]) -> list[dict[str, Any]]:
    generator = np.random.default_rng(list(seed))
    lengths = generator.integers(prompts.tokens, (prompts.tokens_max or prompts.tokens) + 1, count)
    shared = generator.integers(_FIRST_PLAIN_TOKEN, prompts.vocabulary, prompts.shared_tokens).tolist()
    drawn = [shared + generator.integers(_FIRST_PLAIN_TOKEN, prompts.vocabulary, size).tolist() for size in lengths]
    if prompts.tokenizer is None:
        if chat:
            raise UserError("prompts.tokenizer is missing: a chat takes text, not token ids; or set api: completions")
        return [{"prompt": ids} for ids in drawn]
    from core import checkpoint  # torch, several seconds

    tokenizer = checkpoint.load_tokenizer(prompts.tokenizer)
    texts = [str(tokenizer.decode(ids)) for ids in drawn]
    return [_chat(text) if chat else {"prompt": text} for text in texts]


def _of_rows(prompts: PromptSet, chat: bool, count: int) -> list[dict[str, Any]]:
    assert prompts.path is not None
    found = [_ask(row, prompts, chat) for row in rows.read_rows(prompts.path, limit=count)]
    return [body for body in found if body is not None] or _nothing_to_ask(prompts.path, chat)


def _ask(row: dict[str, Any], prompts: PromptSet, chat: bool) -> dict[str, Any] | None:
    """A conversation without its last answer, else the prompt, else the start of a text."""
    asked = row.get("messages") or row.get("prompt") or row.get("text")
    if isinstance(asked, str):
        text = asked if row.get("prompt") else asked[: prompts.characters]
        return _chat(text) if chat else {"prompt": text}
    if not chat or not asked:
        return None
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in asked]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return {"messages": turns} if turns else None


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _nothing_to_ask(path: str, chat: bool) -> list[dict[str, Any]]:
    wanted = "messages, prompt or text" if chat else "prompt or text (conversations need api: chat)"
    raise UserError(f"prompts.path: {path}: no row holds {wanted}")
