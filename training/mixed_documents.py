"""The documents of several sources as one run's sequences, in the shares of a mixture; and the account of it."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from core.errors import RaymillError
from core.token_set import TokenSet
from training.batch import Batch
from training.mixture import MixtureConfig, allocate, interleave
from training.packing import PackedDocuments

UNNAMED = "unknown"
"""What documents without a source or language are called."""


@dataclass(frozen=True)
class Account:
    """What one source had, was to give, and gave. Tokens balance: got = new + repeated, tokens = new + left_over."""

    source: str
    documents: int
    tokens: int
    share_wanted: float
    tokens_wanted: int
    tokens_got: int
    tokens_new: int
    tokens_repeated: int
    tokens_left_over: int
    documents_got: int
    documents_repeated: int
    documents_left_over: int
    epochs: float


class MixedDocuments:
    """`count` sequences of `length` tokens, each from one source, in the proportions of `mixture`.

    Each source is a packed stream of its own (PackedDocuments), so a source's documents come in the same order
    whatever the weights are. Which stream the k-th sequence continues follows from the counts alone: no state but k.
    """

    def __init__(self, tokens: TokenSet, mixture: MixtureConfig, length: int, seed: int, count: int) -> None:
        self.length = length
        self.streams = streams_by(tokens, "train", mixture.by, length, seed)
        sizes = {name: stream.total for name, stream in self.streams.items()}
        self.shares = mixture.shares(sizes)
        caps = {name: int(cap * sizes[name]) // length for name in sizes if (cap := mixture.epochs(name)) is not None}
        self.counts = allocate(count, self.shares, caps)

    def sequences(self, first: int, count: int) -> Batch:
        """Sequences first .. first + count - 1 of the run."""
        sources, places = interleave(list(self.counts.values()), first, count)
        columns = [torch.empty(count, self.length, dtype=torch.int64) for _ in range(4)]
        for number, stream in enumerate(self.streams.values()):
            rows = np.flatnonzero(sources == number)
            if len(rows):  # places of one source follow one another
                part = stream.sequences(int(places[rows[0]]), len(rows))
                for column, values in zip(
                    columns, (part.tokens, part.labels, part.positions, part.segments), strict=True
                ):
                    column[torch.from_numpy(rows)] = values
        return Batch(*columns)

    def accounts(self) -> list[Account]:
        """One for each source of the tokens, the unused ones too. Raises RaymillError unless they balance."""
        budget = sum(self.counts.values()) * self.length
        accounts = [self._account(name, budget) for name in self.streams]
        for account in accounts:
            if (
                account.tokens_got != account.tokens_new + account.tokens_repeated
                or account.tokens != account.tokens_new + account.tokens_left_over
                or account.documents != account.documents_got + account.documents_left_over
            ):
                raise RaymillError(f"mixture: the account does not balance, this is a bug: {asdict(account)}")
        if sum(account.tokens_got for account in accounts) != budget:
            raise RaymillError(f"mixture: the sources do not give the {budget:,} tokens of the run; this is a bug")
        return accounts

    def _account(self, name: str, budget: int) -> Account:
        stream = self.streams[name]
        got = self.counts[name] * self.length
        seen = stream.documents_within(got)
        repeated = stream.documents_within(got, epoch=1)
        return Account(
            source=name,
            documents=len(stream.rows),
            tokens=stream.total,
            share_wanted=round(float(self.shares[name]), 6),
            tokens_wanted=round(budget * self.shares[name]),
            tokens_got=got,
            tokens_new=min(got, stream.total),
            tokens_repeated=max(0, got - stream.total),
            tokens_left_over=max(0, stream.total - got),
            documents_got=seen,
            documents_repeated=repeated,
            documents_left_over=len(stream.rows) - seen,
            epochs=round(got / stream.total, 4),
        )


def streams_by(tokens: TokenSet, split: str, column: str, length: int, seed: int) -> dict[str, PackedDocuments]:
    """The documents of a split as one stream for each value of `column`, by name; sources without a token are absent.

    Raises UserError when the split holds no token at all.
    """
    everything = PackedDocuments(tokens, split, length, seed)
    names = np.asarray([name or UNNAMED for name in tokens.index.column(column).to_pylist()], dtype=object)
    here = names[everything.rows]
    return {
        name: PackedDocuments(tokens, split, length, seed, rows=everything.rows[here == name])
        for name in sorted(set(here.tolist()))
    }
