"""What the model sees: rows of packed segments, isolated from one another."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.linear_cross_entropy import IGNORED


@dataclass(frozen=True)
class Batch:
    """One micro-batch, all (rows, length) int64.

    tokens: inputs; labels: the token that each input must predict (already shifted), -100 where there is no loss;
    positions: from 0 in each segment; segments: 1, 2, ... within a row, 0 is padding; sequences: for losses per
    sequence, its number in this micro-batch, -1 elsewhere.
    """

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    segments: Tensor
    sequences: Tensor | None = None
    reference: Tensor | None = None
    """(pairs, 2) summed log-probabilities of chosen and rejected answers under the reference, for preference losses."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        values: Any = (getattr(self, field.name) for field in fields(self))
        parts: list[Any] = [value if value is None else value.to(device) for value in values]
        moved = Batch(*parts)
        if device != self.tokens.device:  # asked here, before that device would have to be waited for
            moved.__dict__.update(lengths=self.lengths, labelled=self.labelled)
        return moved

    @cached_property
    def labelled(self) -> int:
        """How many tokens carry loss."""
        return int((self.labels != IGNORED).sum())

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each segment, row by row; the padding at the end of a row is a segment."""
        numbers_BT = self.segments + torch.arange(len(self.segments), device=self.segments.device)[:, None] * (1 << 32)
        found: list[int] = torch.unique_consecutive(numbers_BT, return_counts=True)[1].tolist()
        return found

    def mask(self) -> Tensor:
        """Attention mask (rows, 1, length, length), True where a query may look: its own segment, not ahead of itself.

        Given to `transformers` as a ready 4D mask, it is used by every layer as it is. Padding is a segment of its
        own, so no row of the mask is empty.
        """
        length = self.tokens.shape[1]
        causal_TT = torch.ones(length, length, dtype=torch.bool, device=self.tokens.device).tril()
        same_BTT = self.segments[:, :, None] == self.segments[:, None, :]
        return (same_BTT & causal_TT)[:, None]


@dataclass(frozen=True)
class Segment:
    """Tokens that belong together and see nothing else; inputs and labels are shifted against each other by one."""

    tokens: np.ndarray
    labels: np.ndarray

    @classmethod
    def from_ids(cls, ids: np.ndarray, learned: np.ndarray) -> "Segment":
        """ids: (n,); learned: (n,) bool, the tokens that carry loss. The first one is only context."""
        labels = np.where(learned[1:], ids[1:], IGNORED)
        return cls(np.asarray(ids[:-1], np.int64), labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def learned(self) -> int:
        """How many tokens carry loss."""
        return int((self.labels != IGNORED).sum())


Unit = Sequence[Segment]
"""Segments that must share a micro-batch, as the two answers of a preference pair."""


def pack(units: Sequence[Unit], capacity: int) -> list[list[int]]:
    """Rows of unit numbers, each at most `capacity` tokens long: first-fit decreasing, ties in the given order.

    A unit longer than the capacity gets a row of its own.
    """
    lengths = [sum(len(segment) for segment in unit) for unit in units]
    rows: list[list[int]] = []
    free: list[int] = []
    for unit in sorted(range(len(units)), key=lambda u: -lengths[u]):
        row = next((r for r, room in enumerate(free) if room >= lengths[unit]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(capacity)
        rows[row].append(unit)
        free[row] -= lengths[unit]
    return rows


def collate(rows: Sequence[Sequence[Segment]], padding: int) -> Batch:
    """Rows of segments to one batch, as long as its longest row; segments are numbered row by row in `sequences`."""
    length = max(sum(len(segment) for segment in row) for row in rows)
    shape = (len(rows), length)
    tokens = np.full(shape, padding, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    positions, segments, sequences = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    number = 0
    for r, row in enumerate(rows):
        at = 0
        for s, segment in enumerate(row):
            here = (r, slice(at, at + len(segment)))
            tokens[here], labels[here] = segment.tokens, segment.labels
            positions[here], segments[here] = np.arange(len(segment)), s + 1
            sequences[here] = number
            number += 1
            at += len(segment)
        positions[r, at:] = np.arange(length - at)
    return Batch(*(torch.from_numpy(array) for array in (tokens, labels, positions, segments, sequences)))
