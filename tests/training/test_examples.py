import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from tests.training.fixtures import conversation
from training.batch import Segment
from training.chat import ChatEncoder
from training.examples import PackedExamples, conversations, labelled_answers, preference_pairs
from training.linear_cross_entropy import IGNORED
from training.order import samples


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder(tokenizer)


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_conversations_left_out_are_counted_with_their_reason(encoder, tmp_path):
    long = conversation("word " * 100, "no")
    rows = [conversation("a", "b"), long, [{"role": "user", "content": "a"}], [], None, conversation("a", "x " * 60)]
    path = table(tmp_path / "t.parquet", messages=rows)
    skipping, cutting = (conversations(path, encoder, 60, way) for way in ("skip", "truncate"))
    assert [row["messages"] for row in skipping.rows] == [rows[0]]
    assert skipping.skipped == {"too_long": 2, "nothing_to_learn": 3}
    assert skipping.too_long == 0
    assert [row["messages"] for row in cutting.rows] == [rows[0], rows[5]]
    assert cutting.skipped == {"nothing_to_learn": 4}  # of the long one nothing of the assistant is left
    assert cutting.too_long == 1
    splitting = conversations(path, encoder, 60, "split")
    assert splitting.skipped == {"nothing_to_learn": 3}
    assert splitting.too_long == 2
    assert len(splitting.rows) == 3
    assert len(splitting.units) > 3
    assert max(len(segment) for (segment,) in splitting.units) <= 60


def test_pairs_left_out_are_counted_with_their_reason(encoder, tmp_path):
    ask = [{"role": "user", "content": "which?"}]
    columns = {
        "prompt": [ask, ask, ask, ask, [], None, ask, ask],
        "chosen": ["red", "red", "", "red " * 90, "red", "red", None, " \n"],
        "rejected": ["blue", "red", "blue", "blue", "blue", "blue", "blue", "blue"],
    }
    found = preference_pairs(table(tmp_path / "t.parquet", **columns), encoder, 60)
    assert len(found.units) == 1
    assert found.skipped == {"equal_answers": 1, "empty_answer": 3, "too_long": 1, "empty_prompt": 2}


def test_labelled_answers_come_with_the_answer_of_another_prompt(encoder, tokenizer, tmp_path):
    asks = [[{"role": "user", "content": f"number {n}?"}] for n in (1, 1, 2, 3)]
    said = ["one", "uno", "two", "three"]
    path = table(tmp_path / "t.parquet", prompt=asks, completion=said, label=[True, False, True, False])
    found = labelled_answers(path, encoder, 60, seed=0)
    assert [row["desirable"] for row in found.rows] == [True, False, True, False]
    text = lambda segment: tokenizer.decode(segment.labels[segment.labels >= 0])  # noqa: E731
    for row, (answer, mismatched) in enumerate(found.units):
        assert text(answer) == f"{said[row]}<|im_end|>"
        other = said.index(text(mismatched).removesuffix("<|im_end|>"))
        assert asks[other] != asks[row]
        assert f"number {asks[row][0]['content'][7]}" in tokenizer.decode(mismatched.tokens)
    again = labelled_answers(path, encoder, 60, seed=0)
    assert [u[1].tokens.tolist() for u in again.units] == [u[1].tokens.tolist() for u in found.units]


def test_labelled_answers_left_out_are_counted_and_one_alone_is_refused(encoder, tmp_path):
    columns = {
        "prompt": ["a", "", "a", "b", "c"],
        "response": ["x", "x", " ", "x " * 90, "y"],
        "label": [1, 0, 1, 0, 0],
    }
    found = labelled_answers(table(tmp_path / "t.parquet", **columns), encoder, 60, 0)
    assert found.skipped == {"empty_prompt": 1, "empty_answer": 1, "too_long": 1}
    assert len(found.units) == len(found.rows) == 2
    one = table(tmp_path / "one.parquet", prompt=["a"], response=["x"], label=[1])
    with pytest.raises(UserError, match="needs at least two"):
        labelled_answers(one, encoder, 60, 0)
    with pytest.raises(UserError, match=r"row 1: its label is 0\.5, neither true nor false"):
        labelled_answers(
            table(tmp_path / "score.parquet", prompt=["a", "b"], response=["x", "y"], label=[1, 0.5]), encoder, 60, 0
        )


def test_only_the_last_answer_of_a_pair_is_learned(encoder, tokenizer, tmp_path):
    history = [*conversation("first?", "earlier answer"), {"role": "user", "content": "and now?"}]
    path = table(tmp_path / "t.parquet", prompt=[history], chosen=["right one"], rejected=["wrong"])
    (pair,) = preference_pairs(path, encoder, 200).units
    learned = [tokenizer.decode(segment.labels[segment.labels != IGNORED]) for segment in pair]
    assert learned == ["right one<|im_end|>", "wrong<|im_end|>"]


def test_answers_given_as_messages_are_those_given_as_text(encoder, tmp_path):
    ask = [{"role": "user", "content": "which?"}]
    say = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    text = preference_pairs(table(tmp_path / "a.parquet", prompt=[ask], chosen=["red"], rejected=["blue"]), encoder, 99)
    messages = preference_pairs(
        table(tmp_path / "b.parquet", prompt=[ask], chosen=[say("red")], rejected=[say("blue")]), encoder, 99
    )
    for left, right in zip(text.units[0], messages.units[0], strict=True):
        assert left.tokens.tolist() == right.tokens.tolist()
        assert left.labels.tolist() == right.labels.tolist()


BAD_MESSAGES = ["a question in plain text", [{"role": "user"}], [{"role": "user", "content": None}], ["a", "b"]]


@pytest.mark.parametrize("messages", BAD_MESSAGES)
def test_malformed_messages_are_refused_with_their_row(encoder, tmp_path, messages):
    good = conversation("a", "b")
    same_type = [messages] if isinstance(messages, str) or isinstance(messages[0], str) else [good, messages]
    path = table(tmp_path / "t.parquet", messages=same_type)
    with pytest.raises(UserError, match=rf"t\.parquet, row {len(same_type) - 1}: messages must be a list"):
        conversations(path, encoder, 60, "skip")


def test_a_prompt_that_is_no_text_and_no_messages_is_refused(encoder, tmp_path):
    path = table(tmp_path / "t.parquet", prompt=[7], chosen=["red"], rejected=["blue"])
    with pytest.raises(UserError, match="row 0: prompt must be a list of messages"):
        preference_pairs(path, encoder, 60)


def test_tables_that_hold_nothing_usable_are_refused(encoder, tmp_path):
    empty = table(tmp_path / "empty.parquet", messages=pa.array([], pa.string()))
    with pytest.raises(UserError, match="holds no rows"):
        conversations(empty, encoder, 60, "skip")
    with pytest.raises(UserError, match=r"its columns \(text\) are none of: messages; conversations"):
        conversations(table(tmp_path / "other.parquet", text=["a"]), encoder, 60, "skip")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(UserError, match="not readable as Parquet"):
        conversations(str(tmp_path / "broken.parquet"), encoder, 60, "skip")
    unusable = table(tmp_path / "long.parquet", messages=[conversation("w " * 99, "x")])
    with pytest.raises(UserError, match=r"no example is usable \(1 too long\)"):
        conversations(unusable, encoder, 60, "skip")


def packed(lengths, micro_batch, row_length):
    units = [[Segment(torch.full((n,), i).numpy(), torch.full((n,), i).numpy())] for i, n in enumerate(lengths)]
    return PackedExamples(units, seed=5, micro_batch=micro_batch, row_length=row_length, padding=0)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(20, 60),
    st.integers(1, 4),
    st.integers(1, 50),
)
def test_ranks_share_a_step_without_loss_or_repetition(lengths, micro_batch, row_length, size, count):
    examples = packed(lengths, micro_batch, row_length)
    alone = [part for _, part in examples.micro_batches(7, count, 0, 1)]
    shared = [examples.micro_batches(7, count, rank, size) for rank in range(size)]
    shared = sorted((pair for part in shared for pair in part), key=lambda pair: pair[0])
    assert [number for number, _ in shared] == list(range(len(shared)))
    labels = lambda batches: sorted(torch.cat([b.labels[b.labels != IGNORED] for b in batches]).tolist())  # noqa: E731
    assert labels(alone) == labels([batch for _, batch in shared])
    assert all(len(batch.tokens) <= micro_batch for _, batch in shared)


@given(st.integers(1, 30), st.integers(0, 100), st.integers(1, 40))
def test_each_epoch_has_every_example_once_in_an_order_of_its_own(examples, seed, batch_size):
    firsts = range(0, 3 * examples, batch_size)
    stream = [sample for first in firsts for sample in samples(examples, seed, first, batch_size)]
    epochs = [stream[k * examples : (k + 1) * examples] for k in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(examples))
    assert stream[: 2 * examples] == samples(examples, seed, 0, 2 * examples)
    if examples > 8:
        assert epochs[0] != epochs[1]
