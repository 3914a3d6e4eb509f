"""Conversations to token segments: rendered by the chat template, loss on what the assistant says and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from core.errors import UserError
from training.batch import Segment

Messages = Sequence[Mapping[str, str]]
TooLong = Literal["skip", "truncate", "split"]


class ChatEncoder:
    """Renders and tokenises messages with the tokenizer's chat template.

    The template says which tokens the assistant generates, with `{% generation %}` marks. A template without them, or
    whose marks leave out the token that ends the assistant's turn, is refused here: the first trains on nothing
    (an all-zero mask), the second makes a model that never stops.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no chat template; conversations need one")
        probe = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        ids, learned = self.encode(probe)
        where = f"{tokenizer.name_or_path}: the chat template"
        if not learned.any():
            raise UserError(
                f"{where} marks no assistant tokens, so there would be nothing to learn; "
                "put {% generation %} ... {% endgeneration %} around the assistant's content and its end token"
            )
        self.stop_token = int(ids[learned][-1])
        if self.stop_token not in tokenizer.all_special_ids:
            raise UserError(
                f"{where} leaves the end of the assistant's turn outside its {{% generation %}} marks, so the model "
                "would never learn to stop; include the end token"
            )
        # Many published tokenizers have no padding token. Any id will do: nothing sees padding, nothing learns it.
        self.padding = int(self.stop_token if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    @property
    def stop_tokens(self) -> list[int]:
        """Ids that end an answer: of a turn, and of a document where the tokenizer has one."""
        end: Any = self.tokenizer.eos_token_id
        return [self.stop_token] if end is None else list(dict.fromkeys([self.stop_token, int(end)]))

    def encode(self, messages: Messages) -> tuple[np.ndarray, np.ndarray]:
        """(ids, whether the assistant generates each), both (n,).

        The template writes every special token itself; the tokenizer adds none, so there is no second BOS.
        """
        rendered: Any = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return np.array(rendered["input_ids"], np.int64), np.array(rendered["assistant_masks"], bool)

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of the messages and of the opening of the assistant's turn."""
        rendered: Any = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=True, return_dict=True, add_generation_prompt=True
        )
        return list(rendered["input_ids"])

    def segments(self, messages: Messages, max_length: int, too_long: TooLong) -> tuple[list[Segment] | str, bool]:
        """(segments of at most `max_length` tokens, or why the conversation is left out; whether it was too long).

        One segment, but for `split`: there each token the assistant generates is learned once, whatever the length; a
        later piece sees the token before it and nothing earlier, and pieces without the assistant are left out.
        Reasons: `too_long`, `nothing_to_learn` (no assistant message, or none within the length).
        """
        ids, learned = self.encode(messages)
        over = len(ids) > max_length + 1
        if over and too_long == "skip":
            return "too_long", False
        starts = range(0, max(1, len(ids) - 1), max_length) if too_long == "split" else range(1)
        pieces = [slice(start, start + max_length + 1) for start in starts]
        found = [Segment.from_ids(ids[piece], learned[piece]) for piece in pieces if learned[piece][1:].any()]
        return (found, over) if found else ("nothing_to_learn", False)

    def decode(self, ids: Sequence[int]) -> str:
        """Generated ids as text, up to the first token that ends a turn or a document."""
        end = next((place for place, token in enumerate(ids) if token in self.stop_tokens), len(ids))
        return str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
