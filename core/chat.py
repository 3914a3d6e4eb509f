"""Chat templates as text: the prompt that a model is given, and what it is to answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import UserError
from core.loglikelihood import Request, encode_rendered

Messages = Sequence[Mapping[str, str]]


def render_prompt(tokenizer: Any, messages: Messages) -> str:
    """Messages up to the place where the assistant begins to speak. Raises UserError without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat_template; use one made by 'raymill data tokenize'"
        )
    rendered = tokenizer.apply_chat_template(_plain(messages), tokenize=False, add_generation_prompt=True)
    return str(rendered)


def render_answer(tokenizer: Any, messages: Messages, answer: str) -> str:
    """What the assistant says after `render_prompt`: the answer and the token that ends its turn."""
    prompt = render_prompt(tokenizer, messages)
    turn = [*_plain(messages), {"role": "assistant", "content": answer}]
    whole = str(tokenizer.apply_chat_template(turn, tokenize=False))
    if not whole.startswith(prompt):
        raise UserError(
            f"{tokenizer.name_or_path}: the chat_template renders a prompt differently once it is answered; "
            "its add_generation_prompt must give exactly what precedes the assistant's words"
        )
    return whole[len(prompt) :].rstrip("\n")


def chat_request(tokenizer: Any, messages: Messages, answer: str) -> Request:
    """The answer to be scored given the messages, both as the chat template has them."""
    return encode_rendered(tokenizer, render_prompt(tokenizer, messages), render_answer(tokenizer, messages, answer))


def encode(tokenizer: Any, messages: Messages) -> tuple[list[int], list[bool]]:
    """A conversation's token ids, and which of them the assistant says.

    The template's `{% generation %}` marks tell; of a template without them, every token counts. The template writes
    every special token itself; the tokenizer adds none. Raises UserError without a chat template.
    """
    render_prompt(tokenizer, messages[:1])
    found = tokenizer.apply_chat_template(
        _plain(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = list(found["input_ids"])
    said = [bool(mark) for mark in found["assistant_masks"]]
    return ids, said if "generation" in tokenizer.chat_template else [True] * len(ids)


def _plain(messages: Messages) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def end_of_turn(tokenizer: Any, messages: Messages) -> int | None:
    """The token with which the template ends the assistant's turn; None where it ends with none."""
    after = render_answer(tokenizer, messages, "answer").removeprefix("answer").strip()
    tokens = tokenizer.encode(after, add_special_tokens=False)
    return int(tokens[0]) if tokens else None
