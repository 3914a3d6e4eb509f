"""The shapes in which conversations and preference pairs are published, recognised by their columns.

Each row becomes `messages`, or `prompt` (messages), `chosen` and `rejected`; its other columns stay as they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from core.errors import UserError

Row = Mapping[str, Any]
Messages = list[dict[str, Any]]
Reader = Callable[[Row], Any]
Fields = Mapping[str, str]
"""Role -> column, for tables of no known shape: prompt and response, or prompt, chosen and rejected; maybe system."""

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def conversation_rows(rows: Sequence[Row], where: str, fields: Fields | None = None) -> list[Row]:
    """Rows with `messages`. Raises UserError when the columns are of no known shape."""
    if fields:
        read: Reader | None = _mapped(fields, ("prompt", "response"), rows[0], where)
    else:
        read = _recognise(rows[0], _CONVERSATIONS)
    if read is None:
        raise UserError(_unknown(rows[0], where, "prompt, response", _CONVERSATIONS))
    return [{**row, "messages": read(row)} for row in rows]


def preference_rows(rows: Sequence[Row], where: str, fields: Fields | None = None) -> list[Row]:
    """Rows with `prompt`, `chosen`, `rejected`. Raises UserError when the columns are of no known shape."""
    if fields:
        read: Reader | None = _mapped(fields, ("prompt", "chosen", "rejected"), rows[0], where)
    else:
        read = _recognise(rows[0], _PREFERENCES)
    if read is None:
        raise UserError(_unknown(rows[0], where, "prompt, chosen, rejected", _PREFERENCES))
    return [{**row, **read(row)} for row in rows]


# --- conversations ------------------------------------------------------------------------------------------------


def _turn(question: Any, answer: Any, system: Any = None) -> Messages | None:
    """One question and its answer; None where either is missing."""
    if question is None or answer is None:
        return None
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _alpaca(answer: str) -> Reader:
    """Stanford Alpaca: an instruction, sometimes with an input to work on."""

    def read(row: Row) -> Messages | None:
        parts = [part for part in (row["instruction"], row.get("input")) if part]
        return _turn("\n\n".join(parts) or None, row[answer], row.get("system"))

    return read


def _sharegpt(row: Row) -> Messages | None:
    """ShareGPT: `conversations` of {from, value}. A speaker it does not know is left to the check of messages."""
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns  # type: ignore[no-any-return]  # refused, with its row, by whoever reads the messages
    speaker = [turn.get("from", turn.get("role")) for turn in turns]
    said = [turn.get("value", turn.get("content")) for turn in turns]
    return [{"role": _SPEAKERS.get(who, who), "content": text} for who, text in zip(speaker, said, strict=True)]


# Columns -> how a row is read; the first whose columns are all there.
_CONVERSATIONS: Mapping[tuple[str, ...], Reader] = {
    ("messages",): lambda row: row["messages"],
    ("conversations",): _sharegpt,
    ("instruction", "output"): _alpaca("output"),
    ("instruction", "response"): _alpaca("response"),
    ("question", "answer"): lambda row: _turn(row["question"], row["answer"]),
    ("prompt", "completion"): lambda row: _turn(row["prompt"], row["completion"]),
    ("prompt", "response"): lambda row: _turn(row["prompt"], row["response"]),
}


# --- preferences --------------------------------------------------------------------------------------------------


def _as_messages(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt else prompt or []


def _explicit(row: Row) -> Row:
    return {"prompt": _as_messages(row["prompt"]), "chosen": row["chosen"], "rejected": row["rejected"]}


def _implicit(row: Row) -> Row:
    """No prompt: it is what the two begin with. Messages, or transcripts of '\\n\\nHuman: ' and '\\n\\nAssistant: '."""
    chosen, rejected = (_transcript(row[name]) for name in ("chosen", "rejected"))
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return {"prompt": [], "chosen": chosen, "rejected": rejected}
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected[:-1], strict=False)))
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _transcript(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    head, *parts = _TURN.split(value)
    if not parts or head.strip():
        return value
    speakers, said = parts[::2], parts[1::2]
    return [{"role": _SPEAKERS[who.lower()], "content": text.strip()} for who, text in zip(speakers, said, strict=True)]


_PREFERENCES: Mapping[tuple[str, ...], Reader] = {
    ("prompt", "chosen", "rejected"): _explicit,
    ("chosen", "rejected"): _implicit,
}


# --- telling them apart -------------------------------------------------------------------------------------------


def _recognise(row: Row, shapes: Mapping[tuple[str, ...], Reader]) -> Reader | None:
    return next((read for columns, read in shapes.items() if set(columns) <= set(row)), None)


def _mapped(fields: Fields, roles: Sequence[str], row: Row, where: str) -> Reader:
    unknown = set(fields) - {*roles, "system"}
    missing = [role for role in roles if role not in fields]
    absent = [column for column in fields.values() if column not in row]
    if unknown or missing:
        raise UserError(f"fields: expected {', '.join(roles)} and maybe system, not {', '.join(fields)}")
    if absent:
        raise UserError(f"{where}: fields names {absent[0]}, which is no column; there are: {', '.join(row)}")
    system = fields.get("system")
    if "response" in roles:
        return lambda row: _turn(row[fields["prompt"]], row[fields["response"]], row[system] if system else None)

    def read(row: Row) -> Row:
        before = [{"role": "system", "content": row[system]}] if system and row[system] else []
        prompt = _as_messages(row[fields["prompt"]])
        return {
            "prompt": [*before, *prompt] if isinstance(prompt, list) else prompt,
            "chosen": row[fields["chosen"]],
            "rejected": row[fields["rejected"]],
        }

    return read


def _unknown(row: Row, where: str, roles: str, shapes: Mapping[tuple[str, ...], Any]) -> str:
    known = "; ".join(" + ".join(columns) for columns in shapes)
    mapping = ", ".join(f"{role.strip()}: COLUMN" for role in roles.split(","))
    return (
        f"{where}: its columns ({', '.join(row)}) are none of: {known}; say which they are with fields: {{{mapping}}}"
    )
