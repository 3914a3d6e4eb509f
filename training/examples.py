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
from training.order import permutation, samples
from training.shapes import Fields, Row, answer_rows, conversation_rows, preference_rows

Chat = list[dict[str, str]]


@dataclass
class Examples:
    """Units ready for packing, the rows they came from, and why the other rows were left out."""

    units: list[Unit] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """One for each unit, but where long conversations are split into several."""
    skipped: Counter[str] = field(default_factory=Counter)
    too_long: int = 0
    """Rows whose end was cut off, or that were split."""

    def add(self, row: Row, units: Sequence[Unit] | str) -> None:
        """Take the units of a row, or count the reason why there are none."""
        if isinstance(units, str):
            self.skipped[units] += 1
        else:
            self.units += units
            self.rows.append(row)

    def told(self, path: str, kind: str) -> str:
        """A line for the log: how many there are, and what was left out."""
        left_out = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in self.skipped.items())
        return f"{path}: {len(self.rows):,} {kind}{f'; left out: {left_out}' if left_out else ''}"

    def require(self, path: str) -> "Examples":
        """Raises UserError when nothing is left."""
        if not self.units:
            reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in self.skipped.items())
            raise UserError(f"{path}: no example is usable ({reasons}); nothing to train on")
        return self


def conversations(
    path: str, encoder: ChatEncoder, max_length: int, too_long: TooLong, fields: Fields | None = None
) -> Examples:
    """Rows of any shape that `shapes` knows; each becomes one segment, or several where long ones are split."""
    found = Examples()
    for number, row in enumerate(conversation_rows(read_rows(path), path, fields)):
        messages = _messages(row["messages"], f"{path}, row {number}: messages")
        segments, over = encoder.segments(messages, max_length, too_long) if messages else ("nothing_to_learn", False)
        found.add(row, segments if isinstance(segments, str) else [[segment] for segment in segments])
        found.too_long += over
    return found.require(path)


def preference_pairs(path: str, encoder: ChatEncoder, max_length: int, fields: Fields | None = None) -> Examples:
    """Rows of any shape that `shapes` knows; each becomes two segments, prompt and chosen, prompt and rejected.

    Only the last answer carries loss. Pairs with equal answers say nothing and are skipped; a pair with one answer
    too long is skipped whole.
    """
    found = Examples()
    for number, row in enumerate(preference_rows(read_rows(path), path, fields)):
        pair = _pair(row, f"{path}, row {number}", encoder, max_length)
        found.add(row, pair if isinstance(pair, str) else [pair])
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
    segments: list[Segment] = []
    for answer in (chosen, rejected):
        segment = _answered(prompt, answer, encoder)
        if isinstance(segment, str):
            return segment
        if len(segment) > max_length:
            return "too_long"
        segments.append(segment)
    return segments


def labelled_answers(
    path: str, encoder: ChatEncoder, max_length: int, seed: int, fields: Fields | None = None
) -> Examples:
    """Rows with prompt, answer and label, or pairs taken apart; each becomes its answer and a mismatched one.

    The mismatched segment is the row's prompt with the answer of another row, for an estimate of how far the policy
    is from its reference (KTO). It is cut at `max_length`; an answer of its own that is too long is skipped. The
    labels are under `desirable` in the rows. Raises UserError when there are no two answers.
    """
    found = Examples()
    texts: list[tuple[Chat, Chat]] = []
    answers: list[Segment] = []
    for number, row in enumerate(answer_rows(read_rows(path), path, fields)):
        where = f"{path}, row {number}"
        prompt, answer = _messages(row["prompt"], f"{where}: prompt"), _answer(row["answer"], f"{where}: answer")
        segment = _answered(prompt, answer, encoder) if prompt and answer else "empty_answer" if prompt else None
        if segment is None or isinstance(segment, str) or len(segment) > max_length:
            found.skipped[segment if isinstance(segment, str) else "too_long" if segment else "empty_prompt"] += 1
            continue
        texts.append((prompt, answer))
        answers.append(segment)
        found.rows.append(row)
    found.units = [[answer] for answer in answers]
    found.require(path)
    if len(answers) < 2:
        raise UserError(f"{path}: holds one usable answer; an estimate from mismatched answers needs at least two")
    for at, other in enumerate(_mismatches([prompt for prompt, _ in texts], seed)):
        mismatched = _answered(texts[at][0], texts[other][1], encoder)
        assert isinstance(mismatched, Segment)
        cut = Segment(mismatched.tokens[:max_length], mismatched.labels[:max_length])
        found.units[at] = [answers[at], cut]
    return found


def _mismatches(prompts: Sequence[Chat], seed: int) -> list[int]:
    """For each row another one: the next in a cycle of all rows, the first there with another prompt if there is."""
    order = permutation(len(prompts), seed, 0).tolist()
    place = {row: at for at, row in enumerate(order)}
    found = []
    for row, prompt in enumerate(prompts):
        others = (order[(place[row] + step) % len(order)] for step in range(1, len(order)))
        found.append(next((other for other in others if prompts[other] != prompt), order[place[row] - 1]))
    return found


def _answered(prompt: Chat, answer: Chat, encoder: ChatEncoder) -> Segment | str:
    """Prompt and answer as one segment; earlier assistant turns are context and carry no loss."""
    ids, learned = encoder.encode([*prompt, *answer])
    learned[: min(len(encoder.prompt(prompt)), len(learned))] = False
    return Segment.from_ids(ids, learned) if learned.any() else "nothing_to_learn"


def _answer(value: Any, where: str) -> Chat:
    """An answer given as text or as messages; nothing when it says nothing."""
    said = _messages([{"role": "assistant", "content": value}] if isinstance(value, str) else value, where)
    return said if any(message["content"].strip() for message in said) else []


def _messages(value: Any, where: str) -> Chat:
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
