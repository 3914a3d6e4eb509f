"""Tables of prompts for a policy to answer, with the columns that its rewards read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import UserError
from core.rows import read_rows
from training.chat import ChatEncoder
from training.shapes import Fields, Row, conversation_rows


@dataclass
class Prompts:
    """Prompts as messages and as tokens, the rows they come from, and why the others were left out."""

    messages: list[list[dict[str, str]]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.rows)


def read_prompts(path: str, encoder: ChatEncoder, longest: int, fields: Fields | None = None) -> Prompts:
    """Rows with a column `prompt` (text or messages), or conversations of a known shape, their last answer left out.

    That answer is then the row's `answer`, unless it has such a column. longest: tokens that leave room for an answer.
    Raises UserError when no prompt is usable.
    """
    found = Prompts()
    rows: list[Row] = list(read_rows(path))
    if "prompt" not in rows[0] or fields or {"response", "completion"} & set(rows[0]):
        rows = conversation_rows(rows, path, fields)
    for number, row in enumerate(rows):
        messages, row_ = _prompt(row, f"{path}, row {number}")
        if not messages or not messages[-1]["content"].strip():
            found.skipped["empty_prompt"] += 1
            continue
        tokens = encoder.prompt(messages)
        if len(tokens) > longest:
            found.skipped["too_long"] += 1
            continue
        found.messages.append(messages)
        found.tokens.append(tokens)
        found.rows.append(row_)
    if not found.rows:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in found.skipped.items())
        raise UserError(
            f"{path}: no prompt is usable ({reasons}); one may have {longest} tokens (max_length less "
            "rollout.max_new_tokens)"
        )
    return found


def _prompt(row: Row, where: str) -> tuple[list[dict[str, str]], Row]:
    """The messages to answer, and the row with the answer that stood there."""
    if "messages" not in row:
        value = row["prompt"]
        return _messages([{"role": "user", "content": value}] if isinstance(value, str) else value, where), row
    messages = _messages(row["messages"], where)
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], {"answer": messages[-1]["content"], **row}
    return messages, row


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    messages = [] if value is None else value
    good = isinstance(messages, list) and all(
        isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in messages
    )
    if not good:
        raise UserError(f"{where}: the prompt must be text, or a list of messages with role and content as text")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
