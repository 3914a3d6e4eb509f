"""Mixtures: exact shares, caps that hold, nothing lost, any sequence from its number alone."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.errors import UserError
from core.token_set import INDEX, TokenSet
from tests.training import fixtures
from training import pretrain
from training.mixed_documents import MixedDocuments, streams_by
from training.mixture import MixtureConfig, allocate, interleave
from training.packing import PackedDocuments

LENGTH = 32


def sainte_lague(counts):
    """The method as a parliament runs it: the next seat goes to the largest counts / (2 seats + 1)."""
    seats, order = [0] * len(counts), []
    for _ in range(sum(counts)):
        quotients = [Fraction(count, 2 * have + 1) for count, have in zip(counts, seats, strict=True)]
        winner = quotients.index(max(quotients))
        order.append((winner, seats[winner]))
        seats[winner] += 1
    return order


@given(st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(sum), st.data())
def test_any_window_of_the_order_is_what_sainte_lague_gives(counts, data):
    total = sum(counts)
    first = data.draw(st.integers(0, total))
    number = data.draw(st.integers(0, total - first))
    sources, places = interleave(counts, first, number)
    found = list(zip(sources.tolist(), places.tolist(), strict=True))
    assert found == sainte_lague(counts)[first : first + number]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=9), st.data())
def test_shares_are_exact_from_any_place_of_a_run_of_any_size(counts, data):
    """Far into a run of web size, without a table: places of a source go on where the window before ended."""
    total = sum(counts)
    first = data.draw(st.integers(0, max(0, total - 64)))
    number = min(64, total - first)
    split = data.draw(st.integers(0, number))
    whole = np.stack(interleave(counts, first, number))
    parts = [interleave(counts, first, split), interleave(counts, first + split, number - split)]
    assert np.array_equal(whole, np.concatenate([np.stack(part) for part in parts], axis=1))
    for source, count in enumerate(counts):
        places = whole[1][whole[0] == source]
        assert np.array_equal(np.diff(places), np.ones(max(0, len(places) - 1)))
        if len(places):
            assert abs(int(places[0]) - count * first / total) <= len(counts) / 2 + 1


shares_and_caps = st.lists(
    st.tuples(st.integers(0, 1000), st.none() | st.integers(0, 500)), min_size=1, max_size=8
).filter(lambda rows: any(weight for weight, _ in rows))


@given(shares_and_caps, st.integers(0, 3000))
def test_allocation_adds_up_keeps_its_caps_and_proportions(rows, budget):
    total = sum(weight for weight, _ in rows)
    shares = {f"s{n}": Fraction(weight, total) for n, (weight, _) in enumerate(rows)}
    caps = {f"s{n}": cap for n, (_, cap) in enumerate(rows)}
    room = sum(caps[name] if caps[name] is not None else budget for name in shares if shares[name])
    if room < budget:
        with pytest.raises(UserError, match=r"raise mixture\.max_epochs"):
            allocate(budget, shares, caps)
        return
    counts = allocate(budget, shares, caps)
    assert sum(counts.values()) == budget
    assert all(counts[name] == 0 for name, share in shares.items() if not share)
    assert all(caps[name] is None or counts[name] <= caps[name] for name in counts)
    # Those below their caps have one rate of sequences per share, give or take the rounding of one sequence.
    free = [name for name in counts if shares[name] and counts[name] != caps[name]]
    for one in free:
        for other in free:
            low = (counts[one] - 1) / shares[one]
            assert low <= (counts[other] + 1) / shares[other]
    # A capped source would have had at least its cap at that rate.
    for name in counts.keys() - set(free):
        if shares[name] and free:
            assert max((counts[other] + 1) / shares[other] for other in free) >= counts[name] / shares[name]


def test_rounding_goes_to_the_largest_remainders():
    third = {"a": Fraction(1, 3), "b": Fraction(1, 3), "c": Fraction(1, 3)}
    assert allocate(10, third, {}) == {"a": 4, "b": 3, "c": 3}
    assert allocate(10, {"a": Fraction(1, 4), "b": Fraction(3, 4)}, {"b": 4}) == {"a": 6, "b": 4}


def test_temperature_and_default_weights():
    sizes = {"large": 8100, "small": 100}
    natural = MixtureConfig().shares(sizes)
    assert natural == {"large": Fraction(81, 82), "small": Fraction(1, 82)}
    flat = MixtureConfig(temperature=2).shares(sizes)  # square roots: 90 and 10
    assert flat == {"large": Fraction(9, 10), "small": Fraction(1, 10)}
    chosen = MixtureConfig(weights={"small": 3, "large": 1}).shares(sizes)
    assert chosen == {"large": Fraction(1, 4), "small": Fraction(3, 4)}


# --- on tokens ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_tokens(tmp_path_factory):
    """The fixture's documents under three sources of different size."""
    directory = fixtures.write_tokens(tmp_path_factory.mktemp("tokens"))
    table = pq.read_table(directory / INDEX)
    names = ["tiny" if n % 11 == 0 else "web" if n % 3 else "books" for n in range(table.num_rows)]
    column = table.schema.get_field_index("source")
    languages = ["en" if n % 2 else "" for n in range(table.num_rows)]
    table = table.set_column(column, table.schema.field(column), [names])
    column = table.schema.get_field_index("language")
    pq.write_table(table.set_column(column, table.schema.field(column), [languages]), directory / INDEX)
    return directory


def mixed(directory, count, **settings):
    return MixedDocuments(TokenSet(directory), MixtureConfig(**settings), LENGTH, seed=3, count=count)


def source_of_rows(tokens):
    """Which source each sequence of labels comes from, found by the text itself."""
    owner = {}
    for name, stream in streams_by(tokens, "train", "source", LENGTH, 3).items():
        batch = stream.sequences(0, -(-4 * stream.total // LENGTH))
        for place, row in enumerate(batch.labels.tolist()):
            owner.setdefault(tuple(row), []).append((name, place))
    return owner


def test_sequences_have_the_exact_shares_and_each_source_continues_its_own_stream(mixed_tokens):
    tokens = TokenSet(mixed_tokens)
    documents = mixed(mixed_tokens, 40, weights={"web": 2, "books": 1, "tiny": 1})
    assert documents.counts == {"books": 10, "tiny": 10, "web": 20}
    owner = source_of_rows(tokens)
    taken = Counter()
    for row in documents.sequences(0, 40).labels.tolist():
        candidates = owner[tuple(row)]
        name = candidates[0][0]
        assert (name, taken[name]) in candidates, "a source skipped or repeated a sequence"
        taken[name] += 1
    assert taken == documents.counts
    for upto in range(4, 41, 4):  # and not only at the end
        sources, _ = interleave(list(documents.counts.values()), 0, upto)
        assert [int((sources == n).sum()) for n in range(3)] == pytest.approx([upto / 4, upto / 4, upto / 2], abs=1)


def test_a_sequence_is_the_same_in_whatever_batch_on_whatever_worker(mixed_tokens):
    together = mixed(mixed_tokens, 30).sequences(0, 30)
    again = mixed(mixed_tokens, 30)
    for first, number in ((7, 5), (0, 1), (29, 1), (12, 18)):
        part = again.sequences(first, number)
        for name in ("tokens", "labels", "positions", "segments"):
            assert torch.equal(getattr(part, name), getattr(together, name)[first : first + number]), name


def test_order_does_not_depend_on_the_order_of_the_index(mixed_tokens, tmp_path):
    table = pq.read_table(mixed_tokens / INDEX)
    (tmp_path / "tokens").symlink_to(mixed_tokens / "tokens")
    pq.write_table(table.take(np.random.default_rng(0).permutation(table.num_rows)), tmp_path / INDEX)
    left, right = mixed(mixed_tokens, 30).sequences(0, 30), mixed(tmp_path, 30).sequences(0, 30)
    assert torch.equal(left.labels, right.labels)
    assert torch.equal(left.tokens, right.tokens)


def test_accounts_balance_and_a_capped_source_is_never_seen_more_often(mixed_tokens):
    documents = mixed(mixed_tokens, 400, weights={"tiny": 1, "web": 1}, max_epochs={"tiny": 2})
    accounts = {account.source: account for account in documents.accounts()}
    tiny, web, books = accounts["tiny"], accounts["web"], accounts["books"]
    assert tiny.tokens_wanted == web.tokens_wanted == 200 * LENGTH
    assert tiny.tokens_got == 2 * tiny.tokens // LENGTH * LENGTH < tiny.tokens_wanted
    assert 1.8 < tiny.epochs <= 2
    assert tiny.documents_repeated <= tiny.documents_got == tiny.documents
    assert tiny.tokens_left_over == 0
    assert web.tokens_got == 400 * LENGTH - tiny.tokens_got, "what tiny could not give came from web"
    assert (books.tokens_got, books.documents_got) == (0, 0)
    assert (books.tokens_left_over, books.documents_left_over) == (books.tokens, books.documents)
    seen = Counter(map(tuple, documents.sequences(0, 400).labels.tolist()))
    assert sum(seen.values()) == 400


def test_account_of_documents_counts_what_the_sequences_hold(mixed_tokens):
    """Against the sequences themselves: each document ends with one separator."""
    tokens = TokenSet(mixed_tokens)
    documents = mixed(mixed_tokens, 200, weights={"tiny": 1}, max_epochs=None)
    account = next(account for account in documents.accounts() if account.source == "tiny")
    ends = int((documents.sequences(0, 200).labels == tokens.separator).sum())
    epochs, inside = divmod(200 * LENGTH, account.tokens)
    assert epochs * account.documents <= ends <= epochs * account.documents + account.documents_got
    assert account.documents_got == account.documents == account.documents_repeated
    assert inside == 200 * LENGTH - epochs * account.tokens


def test_one_source_alone_is_its_plain_stream(mixed_tokens):
    tokens = TokenSet(mixed_tokens)
    rows = tokens.rows("train")
    books = rows[np.asarray(tokens.index.column("source").to_pylist(), object)[rows] == "books"]
    plain = PackedDocuments(tokens, "train", LENGTH, 3, rows=books).sequences(0, 8)
    assert torch.equal(mixed(mixed_tokens, 8, weights={"books": 5}).sequences(0, 8).labels, plain.labels)


def test_documents_without_a_language_are_a_group_of_their_own(mixed_tokens):
    documents = mixed(mixed_tokens, 20, by="language", weights={"en": 1, "unknown": 1})
    assert documents.counts == {"en": 10, "unknown": 10}


def test_mistakes_are_one_line_that_names_what_there_is(mixed_tokens):
    for settings in ({"weights": {"wikipedia": 1}}, {"max_epochs": {"wikipedia": 2}}):
        with pytest.raises(UserError, match="'wikipedia' is no source of these tokens; there are: books, tiny, web"):
            mixed(mixed_tokens, 10, **settings)
    with pytest.raises(UserError, match="every weight is 0"):
        mixed(mixed_tokens, 10, weights={"web": 0})
    with pytest.raises(UserError, match=r"10,000 sequences are wanted, its sources give \d+ within max_epochs"):
        mixed(mixed_tokens, 10_000, weights={"tiny": 1})
    for settings in ({"weights": {"web": -1}}, {"weights": {}}, {"temperature": 0}, {"max_epochs": 0}):
        with pytest.raises(ValidationError):
            MixtureConfig(**settings)


def test_pretraining_on_a_mixture_accounts_for_it_and_validates_by_source(mixed_tokens, tmp_path):
    config = pretrain.PretrainConfig(
        output=str(tmp_path / "run"), tokens=str(mixed_tokens), mixture={"weights": {"web": 3, "books": 1}},
        model=fixtures.TINY, steps=4, batch_size=8, micro_batch=4, sequence_length=LENGTH, workers=0,
        precision="fp32", validation_tokens=512,
    )  # fmt: skip
    found, _ = pretrain.STAGE.execute(config)
    account = found.counts["mixture"]
    assert {name: account[name]["tokens_got"] for name in account} == {
        "books": 8 * LENGTH, "tiny": 0, "web": 24 * LENGTH,
    }  # fmt: skip
    by_source = found.metrics["validation_by_source"]
    assert set(by_source) == {"books", "tiny", "web"}, "sources left out of training are validated as well"
    assert all(row["loss"] > 0 and 0 < row["tokens"] <= 512 for row in by_source.values())
    assert "Mixture, tokens" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UserError, match="'wiki' is no source"):
        pretrain.STAGE.execute(config.model_copy(update={"mixture": MixtureConfig(weights={"wiki": 1})}))
