"""Batches made ahead are those that would have been made when asked for, and are there when they are."""

import threading

import pytest

from core.token_set import TokenSet
from training.packing import PackedDocuments
from training.prefetch import Ahead
from training.pretrain import _Sequences


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_sees_the_batches_of_its_share(tokens, size):
    documents = PackedDocuments(TokenSet(tokens), "train", 32, 0)
    made = [_Sequences(documents, 3) for _ in range(size)]
    for step in (0, 1, 2, 7):  # a resumed run begins anywhere
        found = {}
        for rank, sequences in enumerate(made):
            found |= dict(sequences.micro_batches(step * 8, 8, rank, size))
        assert sorted(found) == [0, 1, 2]
        for number, batch in found.items():
            expected = documents.sequences(step * 8 + 3 * number, [3, 3, 2][number])
            assert batch.tokens.equal(expected.tokens)
            assert batch.segments.equal(expected.segments)


def test_the_next_batch_is_made_before_it_is_asked_for():
    made, done = [], threading.Event()

    def make(number):
        made.append(number)
        if number == 2:
            done.set()
        return number

    ahead = Ahead(make)
    assert ahead.get((1,), (2,)) == 1
    assert done.wait(30)
    assert ahead.get((2,), (3,)) == 2
    assert made.count(2) == 1


def test_an_error_shows_with_the_batch_that_has_it():
    ahead = Ahead(lambda number: 1 // number)
    assert ahead.get((1,), (0,)) == 1
    with pytest.raises(ZeroDivisionError):
        ahead.get((0,), (1,))
    assert ahead.get((1,), (2,)) == 1
