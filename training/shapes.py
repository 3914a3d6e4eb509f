"""The shapes in which conversations, preference pairs and labelled answers are published, told by their columns.

Each row becomes `messages`; `prompt` (messages), `chosen` and `rejected`; or `prompt`, `answer` and `desirable`. Its
other columns stay as they are.
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
"""Role -> column, for tables of no known shape: prompt and response, maybe label, or prompt, chosen and rejected; maybe
system."""

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def conversation_rows(rows: Sequence[Row], where: str, fields: Fields | None = None) -> list[Row]:
    """Rows with `messages`. Raises UserError when the columns are of no known shape."""
    roles = ("prompt", "response")
    read = _mapped(fields, roles, rows[0], where) if fields else _recognise(rows[0], _CONVERSATIONS)
    if read is None:
        raise UserError(_unknown(rows[0], where, roles, _CONVERSATIONS))
    return [{**row, "messages": read(row)} for row in rows]


def preference_rows(rows: Sequence[Row], where: str, fields: Fields | None = None) -> list[Row]:
    """Rows with `prompt`, `chosen`, `rejected`. Raises UserError when the columns are of no known shape."""
    roles = ("prompt", "chosen", "rejected")
    read = _mapped(fields, roles, rows[0], where) if fields else _recognise(rows[0], _PREFERENCES)
    if read is None:
        raise UserError(_unknown(rows[0], where, roles, _PREFERENCES))
    return [{**row, **read(row)} for row in rows]


def answer_rows(rows: Sequence[Row], where: str, fields: Fields | None = None) -> list[Row]:
    """Rows with `prompt`, `answer`, `desirable`: labelled answers, or pairs taken apart.

    Raises UserError when the columns are of no known shape, or a label is neither true nor false.
    """
    if fields and "label" in fields:
        read: Reader | None = _mapped(fields, ("prompt", "response", "label"), rows[0], where)
    else:
        read = None if fields else _recognise(rows[0], _LABELLED)
    if read is not None:
        found: list[Row] = [{**row, **read(row)} for row in rows]
        for number, row in enumerate(found):
            if row["desirable"] not in (True, False):  # 1 and 0 as well
                raise UserError(f"{where}, row {number}: its label is {row['desirable']!r}, neither true nor false")
        return found
    if not fields and _recognise(rows[0], _PREFERENCES) is None:
        raise UserError(_unknown(rows[0], where, ("prompt", "response", "label"), {**_LABELLED, **_PREFERENCES}))
    sides = (("chosen", True), ("rejected", False))
    pairs = preference_rows(rows, where, fields)
    return [{**pair, "answer": pair[side], "desirable": good} for pair in pairs for side, good in sides]


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


# --- labelled answers ---------------------------------------------------------------------------------------------


def _labelled(answer: str) -> Reader:
    return lambda row: {"prompt": _as_messages(row["prompt"]), "answer": row[answer], "desirable": row["label"]}


_LABELLED: Mapping[tuple[str, ...], Reader] = {
    ("prompt", "completion", "label"): _labelled("completion"),
    ("prompt", "response", "label"): _labelled("response"),
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

    def read(row: Row) -> Any:
        picked = {role: row[fields[role]] for role in roles}
        instruction = row[system] if system else None
        if tuple(roles) == ("prompt", "response"):
            return _turn(picked["prompt"], picked["response"], instruction)
        before = [{"role": "system", "content": instruction}] if instruction else []
        prompt = _as_messages(picked.pop("prompt"))
        picked["prompt"] = [*before, *prompt] if isinstance(prompt, list) else prompt
        if "label" in picked:
            return {"prompt": picked["prompt"], "answer": picked["response"], "desirable": picked["label"]}
        return picked

    return read


def _unknown(row: Row, where: str, roles: Sequence[str], shapes: Mapping[tuple[str, ...], Any]) -> str:
    """Names the columns, the known shapes, and the setting that maps the columns, with a guess at it."""
    known = "; ".join(" + ".join(columns) for columns in shapes)
    labels = (column for column, value in row.items() if isinstance(value, bool))
    texts = (column for column, value in row.items() if isinstance(value, str | list))
    guess = {role: next(labels if role == "label" else texts, "COLUMN") for role in roles}
    mapping = ", ".join(f"{role}: {column}" for role, column in guess.items())
    return f"{where}: its columns ({', '.join(row)}) are none of: {known}; say which they are, as fields: {{{mapping}}}"
