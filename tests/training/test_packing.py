from collections import Counter
from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from core.token_set import INDEX, TokenSet
from tests.training import fixtures
from training.linear_cross_entropy import IGNORED
from training.model import ModelConfig, initialize
from training.packing import PackedDocuments, unigram_counts, unigram_entropy

LENGTH = 48


@pytest.fixture(scope="module")
def token_set(tokens):
    return TokenSet(tokens)


def documents_of(token_set, split):
    """Documents as plain lists, straight from the artifact."""
    return [token_set.tokens(int(row)).tolist() for row in token_set.rows(split)]


def epoch(packed, number=0):
    """The labels of one epoch as one list, from sequences that cover it."""
    first, last = number * packed.total, (number + 1) * packed.total
    begin = first // packed.length
    batch = packed.sequences(begin, -(-last // packed.length) - begin)
    at = first - begin * packed.length
    return batch.labels.flatten().tolist()[at : at + packed.total]


def split_at(labels, separator):
    documents, current = [], []
    for label in labels:
        current.append(label)
        if label == separator:
            documents.append(tuple(current))
            current = []
    assert not current, "an epoch ends with the end of a document"
    return documents


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_document_is_predicted_whole_once_an_epoch(token_set, split, number):
    packed = PackedDocuments(token_set, split, LENGTH, seed=3)
    found = split_at(epoch(packed, number), token_set.separator)
    assert Counter(found) == Counter(map(tuple, documents_of(token_set, split)))


def test_epochs_have_orders_of_their_own(token_set):
    packed = PackedDocuments(token_set, "train", LENGTH, seed=3)
    assert epoch(packed, 0) != epoch(packed, 1)
    assert epoch(packed, 0) != epoch(PackedDocuments(token_set, "train", LENGTH, seed=4), 0)


def test_order_does_not_depend_on_shards_or_on_the_order_of_the_index(tokens, tmp_path):
    one = fixtures.write_tokens(tmp_path / "three", shards=3)
    table = pq.read_table(one / INDEX)
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    pq.write_table(shuffled, one / INDEX)
    left, right = (PackedDocuments(TokenSet(path), "train", LENGTH, seed=1) for path in (tokens, one))
    for ours, theirs in zip(
        left.sequences(0, 40).__dict__.values(), right.sequences(0, 40).__dict__.values(), strict=1
    ):
        assert ours is theirs is None or torch.equal(ours, theirs)


def test_a_sequence_is_the_same_in_whatever_batch_it_comes(token_set):
    packed = PackedDocuments(token_set, "train", LENGTH, seed=1)
    together = packed.sequences(5, 7)
    for k in range(7):
        alone = packed.sequences(5 + k, 1)
        for name in ("tokens", "labels", "positions", "segments"):
            assert torch.equal(getattr(together, name)[k], getattr(alone, name)[0]), name


def test_inputs_are_the_token_before_and_a_document_begins_after_a_separator(token_set):
    packed = PackedDocuments(token_set, "train", LENGTH, seed=1)
    batch = packed.sequences(0, 30)
    labels = batch.labels.flatten().tolist()
    stream = [token_set.separator, *labels[:-1]]  # every document ends with the separator, so it also precedes the next
    assert batch.tokens.flatten().tolist() == stream
    for row in range(30):
        for place in range(LENGTH):
            begins = place == 0 or labels[row * LENGTH + place - 1] == token_set.separator
            assert (batch.positions[row, place] == 0) == begins
            if not begins:
                assert batch.positions[row, place] == batch.positions[row, place - 1] + 1
                assert batch.segments[row, place] == batch.segments[row, place - 1]
            elif place:
                assert batch.segments[row, place] == batch.segments[row, place - 1] + 1


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_packed_documents_do_not_see_each_other(token_set, architecture):
    """Logits of packed documents are those of each alone, in a plain call of the model without our mask."""
    shape = ModelConfig(
        architecture=architecture, hidden_size=32, layers=2, heads=2, intermediate_size=64, max_length=128,
        initializer_range=0.3,
    )  # fmt: skip
    model = initialize(shape.to_transformers(fixtures.VOCABULARY), 0).eval()
    packed = PackedDocuments(token_set, "train", 120, seed=0)
    batch = packed.sequences(0, 3)
    assert batch.segments.max() > 1, "nothing is packed"
    compared = 0
    with torch.no_grad():
        together = model(
            input_ids=batch.tokens, attention_mask=batch.mask(), position_ids=batch.positions, use_cache=False
        ).logits
        for row in range(3):
            for number in batch.segments[row].unique():
                here = batch.segments[row] == number
                alone = model(input_ids=batch.tokens[row][here][None], use_cache=False).logits[0]
                assert float((together[row][here] - alone).abs().max()) < 1e-5
                compared += 1
        contaminated = model(input_ids=batch.tokens, attention_mask=torch.ones_like(batch.tokens)).logits
    assert compared > 3
    assert float((contaminated - together).abs().max()) > 1e-2, "the model is too simple to tell"


def test_validation_counts_each_token_once_up_to_the_limit(token_set):
    packed = PackedDocuments(token_set, "validation", LENGTH, seed=0)
    for limit in (1, LENGTH, LENGTH * 5 + 7, packed.total, packed.total * 3):
        batches = packed.prefix(limit, micro_batch=4)
        labels = torch.cat([batch.labels.flatten() for batch in batches])
        assert int((labels != IGNORED).sum()) == min(limit, packed.total)
        assert labels[labels != IGNORED].tolist() == epoch(packed)[: min(limit, packed.total)]
        assert max(len(batch.tokens) for batch in batches) <= 4


def test_bytes_per_token_and_unigram_entropy_by_hand(token_set, tokens):
    texts = [text for number, text in enumerate(fixtures.documents()) if number % 7 == 0]
    documents = documents_of(token_set, "validation")
    packed = PackedDocuments(token_set, "validation", LENGTH, seed=0)
    assert packed.bytes_per_token() == sum(len(t.encode()) for t in texts) / sum(map(len, documents))
    counts = unigram_counts(token_set, "validation", fixtures.VOCABULARY)
    assert counts.tolist() == [Counter(chain(*documents))[token] for token in range(fixtures.VOCABULARY)]
    # Training has seen (a, b) 3 and 1 times, validation holds each once: q = (4/6, 2/6), p = (1/2, 1/2).
    cross, own = unigram_entropy(np.array([3, 1]), np.array([1, 1]))
    assert cross == pytest.approx(-0.5 * np.log(4 / 6) - 0.5 * np.log(2 / 6))
    assert own == pytest.approx(np.log(2))


def test_a_split_without_tokens_is_refused(token_set):
    with pytest.raises(UserError, match="no test tokens"):
        PackedDocuments(token_set, "test", LENGTH, seed=0)
