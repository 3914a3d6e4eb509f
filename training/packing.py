"""Documents to training sequences, computed at load: any sequence of the run from its number alone."""

from functools import lru_cache

import numpy as np
import torch

from core.errors import UserError
from core.token_set import TokenSet
from training.batch import Batch
from training.linear_cross_entropy import IGNORED
from training.order import permutation


class PackedDocuments:
    """The documents of one split as an endless stream of tokens, cut into sequences of `length`.

    Epoch after epoch, each in its own order, documents stand end to end; sequence k is the stream's tokens
    [k length, (k + 1) length). Nothing is dropped: each token is predicted once per epoch. A document d_1 .. d_n, of
    which d_n is the separator, has the inputs (separator, d_1, .., d_{n-1}) and the labels (d_1, .., d_n), so the model
    also learns how documents begin. Segments do not see each other; a document that a cut divides goes on in the next
    sequence with the token before the cut as its first context.

    The order depends on the documents' ids, the length and the seed; not on shards, batch size, or workers.
    """

    def __init__(self, tokens: TokenSet, split: str, length: int, seed: int, rows: np.ndarray | None = None) -> None:
        """`rows`: of the index, some of the split's documents; None: all of them."""
        self.set = tokens
        self.length = length
        self.seed = seed
        rows = tokens.rows(split) if rows is None else rows
        ids = tokens.index.column("id").to_numpy(zero_copy_only=False)[rows].astype(str)
        sizes = tokens.index.column("tokens").to_numpy()[rows]
        order = np.argsort(ids, kind="stable")
        order = order[sizes[order] > 0]
        self.rows, self.sizes = rows[order], sizes[order]
        self.total = int(self.sizes.sum())
        if self.total == 0:
            raise UserError(f"{tokens.directory}: no {split} tokens; nothing to work on")
        self._epoch = lru_cache(maxsize=2)(self._order_of)

    def sequences(self, first: int, count: int) -> Batch:
        """Sequences first .. first + count - 1 of the stream."""
        size = count * self.length
        tokens = np.empty(size, np.int64)
        labels = np.empty(size, np.int64)
        begins = np.empty(size, np.int64)  # where in the stream the segment's document begins, relative to `first`
        at, end = first * self.length, first * self.length + size
        while at < end:
            epoch, inside = divmod(at, self.total)
            order, starts = self._epoch(epoch)
            place = int(np.searchsorted(starts, inside, side="right")) - 1
            document = self.set.tokens(int(self.rows[order[place]]))
            skipped = inside - int(starts[place])
            taken = min(len(document) - skipped, end - at)
            here = slice(at - first * self.length, at - first * self.length + taken)
            labels[here] = document[skipped : skipped + taken]
            before = self.set.separator if skipped == 0 else int(document[skipped - 1])
            tokens[here.start] = before
            tokens[here.start + 1 : here.stop] = labels[here.start : here.stop - 1]
            begins[here] = here.start - skipped
            at += taken
        return self._rows(tokens, labels, begins, count)

    def _rows(self, tokens: np.ndarray, labels: np.ndarray, begins: np.ndarray, count: int) -> Batch:
        place = np.arange(len(tokens))
        row_begins = place // self.length * self.length
        positions = place - np.maximum(begins, row_begins)
        segments = np.cumsum((positions == 0).reshape(count, self.length), axis=1)
        arrays = (tokens, labels, positions, segments)
        return Batch(*(torch.from_numpy(array.reshape(count, self.length)) for array in arrays))

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the documents and where each begins in the epoch."""
        order = permutation(len(self.rows), self.seed, epoch)
        return order, np.concatenate([[0], np.cumsum(self.sizes[order])[:-1]])

    def prefix(self, tokens: int, micro_batch: int) -> list[Batch]:
        """The first epoch's sequences up to `tokens` tokens, or all of it: a fixed sample for validation.

        Nothing counts twice: what the last sequence holds beyond the limit carries no loss.
        """
        limit = min(tokens, self.total)
        count = -(-limit // self.length)
        batches = []
        for first in range(0, count, micro_batch):
            batch = self.sequences(first, min(micro_batch, count - first))
            beyond = limit - first * self.length
            if beyond < batch.labels.numel():
                batch.labels.view(-1)[beyond:] = IGNORED
            batches.append(batch)
        return batches

    def documents_within(self, tokens: int, epoch: int = 0) -> int:
        """Documents of which the first `tokens` tokens of the stream hold a part that belongs to this epoch."""
        inside = min(tokens - epoch * self.total, self.total)
        return int(np.searchsorted(self._epoch(epoch)[1], inside, side="left")) if inside > 0 else 0

    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the split's text for each of its tokens, separators counted: turns loss into bits per byte."""
        return float(self.set.index.column("bytes").to_numpy()[self.rows].sum() / self.total)


def unigram_counts(tokens: TokenSet, split: str, vocabulary: int) -> np.ndarray:
    """How often each token occurs in a split: (vocabulary,) int64."""
    counts = np.zeros(vocabulary, np.int64)
    for row in tokens.rows(split):
        counts += np.bincount(tokens.tokens(int(row)), minlength=vocabulary)
    return counts


def unigram_entropy(train: np.ndarray, validation: np.ndarray) -> tuple[float, float]:
    """(cross-entropy of the validation tokens under train frequencies with one added to each, their own entropy).

    Both in nats per token; what a model reaches that knows how common each token is, and nothing else.
    """
    p = validation / validation.sum()
    q = (train + 1) / (train + 1).sum()
    used = p > 0
    return float(-(p[used] * np.log(q[used])).sum()), float(-(p[used] * np.log(p[used])).sum())
