"""Tables of conversations and of preference pairs, read and checked; what is left out is counted with its reason."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from core.errors import UserError
from core.rows import read_rows
from training.batch import Batch, Segment, Unit, collate, pack
from training.chat import ChatEncoder, TooLong
from training.order import samples
from training.shapes import Fields, Row, conversation_rows, preference_rows


@dataclass
class Examples:
    """Units ready for packing, the row that each came from, and why the other rows were left out."""

    units: list[Unit] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    """Units whose end was cut off."""

    def add(self, row: Row, unit: Unit | str) -> None:
        """Take a unit, or count the reason why there is none."""
        if isinstance(unit, str):
            self.skipped[unit] += 1
        else:
            self.units.append(unit)
            self.rows.append(row)

    def require(self, path: str) -> "Examples":
        """Raises UserError when nothing is left."""
        if not self.units:
            reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in self.skipped.items())
            raise UserError(f"{path}: no example is usable ({reasons}); nothing to train on")
        return self


def conversations(
    path: str, encoder: ChatEncoder, max_length: int, too_long: TooLong, fields: Fields | None = None
) -> Examples:
    """Rows of any shape that `shapes` knows; each becomes one segment."""
    found = Examples()
    for number, row in enumerate(conversation_rows(read_rows(path), path, fields)):
        messages = _messages(row["messages"], f"{path}, row {number}: messages")
        segment, cut = encoder.segment(messages, max_length, too_long) if messages else ("nothing_to_learn", False)
        found.add(row, segment if isinstance(segment, str) else [segment])
        found.truncated += cut
    return found.require(path)


def preference_pairs(path: str, encoder: ChatEncoder, max_length: int, fields: Fields | None = None) -> Examples:
    """Rows of any shape that `shapes` knows; each becomes two segments, prompt and chosen, prompt and rejected.

    Only the last answer carries loss. Pairs with equal answers say nothing and are skipped; a pair with one answer
    too long is skipped whole.
    """
    found = Examples()
    for number, row in enumerate(preference_rows(read_rows(path), path, fields)):
        found.add(row, _pair(row, f"{path}, row {number}", encoder, max_length))
    return found.require(path)


def _pair(row: Row, where: str, encoder: ChatEncoder, max_length: int) -> Unit | str:
    prompt = _messages(row["prompt"], f"{where}: prompt")
    chosen, rejected = (_answer(row[name], f"{where}: {name}") for name in ("chosen", "rejected"))
    if not prompt:
        return "empty_prompt"
    if not chosen or not rejected:
        return "empty_answer"
    if chosen == rejected:
        return "equal_answers"
    context = len(encoder.prompt(prompt))
    segments: list[Segment] = []
    for answer in (chosen, rejected):
        ids, learned = encoder.encode([*prompt, *answer])
        if len(ids) > max_length + 1:
            return "too_long"
        learned[: min(context, len(learned))] = False  # earlier assistant turns are context here
        if not learned.any():
            return "nothing_to_learn"
        segments.append(Segment.from_ids(ids, learned))
    return segments


def _answer(value: Any, where: str) -> list[dict[str, str]]:
    """An answer given as text or as messages."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}] if value else []
    return _messages(value, where)


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    """Messages as the chat template wants them, none for a null. Raises UserError when they are something else."""
    messages = [] if value is None else value
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in messages
    ):
        raise UserError(f"{where} must be a list of messages, each with role and content as text")
    return messages


class PackedExamples:
    """Training samples: any step's examples from the number consumed, packed into rows of at most `row_length` tokens.

    Epoch after epoch in its own order; packing happens inside a step, so nothing is dropped and the content of a step
    depends on nothing but (examples, seed, samples consumed).
    """

    def __init__(self, units: Sequence[Unit], seed: int, micro_batch: int, row_length: int, padding: int) -> None:
        self.units, self.seed, self.micro_batch = units, seed, micro_batch
        self.row_length, self.padding = row_length, padding

    def micro_batches(self, consumed: int, count: int, rank: int, size: int) -> Iterator[tuple[int, Batch]]:
        """This rank's micro-batches of the step that takes samples consumed .. consumed + count - 1."""
        chosen = samples(len(self.units), self.seed, consumed, count)
        for number, (_, batch) in zip(itertools.count(rank, size), self.batches(chosen, rank, size), strict=False):
            yield number, batch

    def batches(self, chosen: Sequence[int], rank: int = 0, size: int = 1) -> Iterator[tuple[list[int], Batch]]:
        """Rank's share of the chosen units as micro-batches, each with its unit numbers in the order of `sequences`.

        The number of micro-batches is rounded up to a multiple of `size`, so that no rank waits for another.
        """
        units = [self.units[unit] for unit in chosen]
        rows = pack(units, self.row_length)
        wanted = -(-len(rows) // (self.micro_batch * size)) * size
        bounds = np.linspace(0, len(rows), min(wanted, len(rows)) + 1).round().astype(int)
        parts = [rows[begin:end] for begin, end in pairwise(bounds)]
        for part in parts[rank::size]:
            segments = [[segment for unit in row for segment in units[unit]] for row in part]
            yield [chosen[unit] for row in part for unit in row], collate(segments, self.padding)
