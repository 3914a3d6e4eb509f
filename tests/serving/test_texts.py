import hashlib
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from core.errors import UserError
from serving import texts
from tests.serving.fixtures import documents, write_parquet
from tests.tiny_models import save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def folder(tmp_path):
    write_parquet(tmp_path / "docs/documents/a.parquet", documents(120))
    return tmp_path / "docs"


def choose(path, tokenizer, held_out=None, seed=0, count=1000, held_out_count=1000, length=16):
    found = texts.choose(str(path), held_out and str(held_out), tokenizer, seed, count, held_out_count, length)
    return tuple(sequences.tokens_ST for sequences in found)


def identities(sequences_ST, rows, tokenizer):
    """The documents whose tokens, from the first on, begin some sequence."""
    encoded = {row["id"]: tokenizer.encode(row["text"]) for row in rows}
    found = set()
    for sequence in sequences_ST.tolist():
        found |= {name for name, tokens in encoded.items() if _begins(sequence, tokens)}
    return found


def _begins(sequence, tokens):
    shared = min(len(sequence), len(tokens))
    return sequence[:shared] == tokens[:shared]


def unique_documents(count):
    """Documents that differ from their first token on."""
    return [{"id": str(n), "text": f"{n:04d} " + "Serialize obj to a JSON formatted str. " * 3} for n in range(count)]


def test_calibration_and_held_out_share_no_document_and_leave_none_out(tmp_path, tokenizer):
    rows = unique_documents(200)
    path = write_parquet(tmp_path / "a.parquet", rows)
    calibration_ST, held_out_ST = choose(path, tokenizer, length=8)
    ours, theirs = identities(calibration_ST, rows, tokenizer), identities(held_out_ST, rows, tokenizer)
    assert ours and theirs
    assert not ours & theirs
    assert ours | theirs == {row["id"] for row in rows}
    assert 0.1 < len(theirs) / len(rows) < 0.3  # a fifth


def test_the_split_is_by_a_stable_hash_of_seed_and_id(tmp_path, tokenizer):
    """Fixed by the formula: a calibration of last year can be made again today."""
    rows = unique_documents(50)
    path = write_parquet(tmp_path / "a.parquet", rows)

    def place(row):
        digest = hashlib.blake2b(b"7\0" + row["id"].encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    expected = [row["text"] for row in sorted(rows, key=place) if place(row) < 0.2]
    _, held_out_ST = choose(path, tokenizer, seed=7, length=8)
    assert held_out_ST.tolist() == [tokenizer.encode(text)[:8] for text in expected]


def test_choice_does_not_depend_on_files_or_the_order_of_rows(tmp_path, tokenizer):
    rows = documents(100)
    one = choose(write_parquet(tmp_path / "one.parquet", rows), tokenizer)
    shuffled = random.Random(3).sample(rows, len(rows))
    for number in range(4):
        write_parquet(tmp_path / "many" / f"{number}.parquet", shuffled[number::4])
    many = choose(tmp_path / "many", tokenizer)
    for left, right in zip(one, many, strict=True):
        assert torch.equal(left, right)


def test_another_seed_chooses_other_text(folder, tokenizer):
    left, right = (choose(folder, tokenizer, seed=seed)[1] for seed in (0, 1))
    assert left.shape != right.shape or not torch.equal(left, right)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(2, 24), st.integers(1, 6))
def test_sequences_are_whole_texts_end_to_end_and_begin_where_a_text_begins(lengths, length, count):
    documents = [[100 * (n + 1) + k for k in range(size)] for n, size in enumerate(lengths)]
    expected, current = [], []
    for tokens in documents:
        current = current + tokens
        if len(current) >= length:
            expected.append(current[:length])
            current = []
    found = texts.Texts.__new__(texts.Texts)
    found._tokens = lambda rows, tokenizer: iter(
        [(documents[row], [t % 2 == 1 for t in documents[row]]) for row in rows]
    )
    sequences = found.sequences(range(len(documents)), None, count, length)
    assert sequences.tokens_ST.shape[1] == length
    assert sequences.tokens_ST.tolist() == expected[:count]
    assert torch.equal(sequences.counted_ST, sequences.tokens_ST % 2 == 1), "each token keeps its mark"


def test_documents_are_separated_by_the_end_of_text(tmp_path, tokenizer):
    path = write_parquet(tmp_path / "a.parquet", [{"text": "ab"}])
    found = texts.Texts(str(path), 0).sequences([0], tokenizer, 1, len(tokenizer.encode("ab")) + 1)
    assert found.tokens_ST.tolist() == [[*tokenizer.encode("ab"), tokenizer.eos_token_id]]
    assert found.counted_ST.all()


def test_conversations_are_rendered_as_the_model_will_see_them(tmp_path, tokenizer):
    messages = [{"role": "user", "content": "What is json?"}, {"role": "assistant", "content": "A module."}]
    path = write_parquet(tmp_path / "a.parquet", [{"messages": messages, "task": "x"}])
    expected = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    found = texts.Texts(str(path), 0).sequences([0], tokenizer, 1, len(expected))
    assert found.tokens_ST.tolist() == [expected]
    assert tokenizer.decode(found.tokens_ST[found.counted_ST]) == "A module.<|im_end|>"


def test_only_the_documents_of_an_artifact_are_read(folder, tokenizer):
    write_parquet(folder / "rejects/a.parquet", [{"id": "x", "text": "rejected"}])
    assert len(texts.Texts(str(folder), 0).hashes) == 120


def test_held_out_of_its_own_is_used_whole_and_leaves_calibration_whole(tmp_path, folder, tokenizer):
    rows = unique_documents(30)
    held_out = write_parquet(tmp_path / "held.parquet", rows)
    calibration_ST, held_out_ST = choose(folder, tokenizer, held_out=held_out, length=8)
    assert len(held_out_ST) == 30
    assert len(calibration_ST) == 120


def test_text_that_cannot_be_used_is_refused_in_one_line(tmp_path, tokenizer):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    (tmp_path / "notes.txt").write_text("hello")
    other = write_parquet(tmp_path / "other.parquet", [{"prompt": "x", "chosen": "y"}])
    few = write_parquet(tmp_path / "few.parquet", [{"text": "short"}])
    asked = [{"messages": [{"role": "user", "content": f"What is number {n}, and why?"}]} for n in range(9)]
    unanswered = write_parquet(tmp_path / "unanswered.parquet", asked)
    cases = [
        (tmp_path / "empty", "empty"),
        (tmp_path / "absent", "no such file"),
        (tmp_path / "notes.txt", "holds no Parquet"),
        (tmp_path / "broken.parquet", "not readable as Parquet"),
        (other, "neither a column 'text' nor 'messages'; it has: chosen, prompt"),
        (few, "not enough text for one sequence of 16 tokens"),
        (unanswered, "no assistant says anything"),
    ]
    for path, reason in cases:
        with pytest.raises(UserError, match=reason) as raised:
            choose(path, tokenizer)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
