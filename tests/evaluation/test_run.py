"""`eval run` as a whole: every task against a direct computation, one example at a time."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core import config as core_config
from core.errors import UserError
from core.token_set import TokenSet
from evaluation.run import STAGE, EvalConfig
from tests.evaluation.fixtures import CONVERSATIONS, ITEMS, PAIRS, documents, write_rows, write_token_set
from tests.tiny_models import save_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two checkpoints, the second with another tokenizer, and every task's file."""
    folder = tmp_path_factory.mktemp("eval")
    save_model(folder / "one", seed=1)
    save_model(folder / "two", seed=2, vocab_size=280)
    texts = documents()
    write_token_set(folder / "tokens", texts, ["validation" if n % 3 else "train" for n in range(len(texts))])
    write_rows(folder / "items.parquet", ITEMS)
    write_rows(folder / "pairs.jsonl", PAIRS)
    write_rows(folder / "conversations.parquet", CONVERSATIONS)
    return folder


def settings(folder):
    return {
        "models": {"one": str(folder / "one"), "two": str(folder / "two")},
        "tasks": [
            {"type": "bits_per_byte", "tokens": str(folder / "tokens")},
            {"type": "multiple_choice", "items": str(folder / "items.parquet")},
            {"type": "multiple_choice", "name": "chat_choice", "items": str(folder / "items.parquet"), "form": "chat"},
            {"type": "exact_match", "conversations": str(folder / "conversations.parquet"), "max_new_tokens": 8},
            {"type": "preference", "pairs": str(folder / "pairs.jsonl")},
        ],
    }


def run(folder, output, **changes):
    given = {**settings(folder), **changes, "output": str(output)}
    return STAGE.execute(core_config.parse(EvalConfig, given, "eval.yaml"))[0]


@pytest.fixture(scope="module")
def done(world):
    run(world, world / "out")
    scores = {
        (row["model"], row["task"], row["metric"]): row
        for row in json.loads((world / "out" / "scores.json").read_text())["scores"]
    }
    return scores, pq.read_table(world / "out" / "samples.parquet").to_pylist()


def load(world, name):
    return AutoModelForCausalLM.from_pretrained(world / name).eval(), AutoTokenizer.from_pretrained(world / name)


def logprob(model, context, continuation):
    """Sum of log-probabilities of the continuation: one example alone, no batch, no padding, nothing cut."""
    with torch.no_grad():
        table = model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
    return sum(float(table[len(context) + n - 1, token]) for n, token in enumerate(continuation))


def token_by_token(model, context, continuation):
    """The same by one forward pass for each token, which sees nothing of what follows it."""
    total, tokens = 0.0, list(context)
    for token in continuation:
        with torch.no_grad():
            total += float(model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)[token])
        tokens.append(token)
    return total


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_direct_computation_in_one_pass_equals_one_token_by_token(world, name):
    model, tokenizer = load(world, name)
    context, continuation = tokenizer.encode(ITEMS[0]["question"]), tokenizer.encode(ITEMS[0]["choices"][1])
    expected = token_by_token(model, context, continuation)
    assert logprob(model, context, continuation) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["one", "two"])
def test_bits_per_byte_equals_a_direct_computation(world, done, name):
    """Model two reads the same text in its own tokens; the bytes stay those of the text."""
    model, tokenizer = load(world, name)
    held_out = [text for number, text in enumerate(documents()) if number % 3]
    bits = [-logprob(model, [0], [*tokenizer.encode(text), 0]) / math.log(2) for text in held_out]
    size = [len(text.encode()) for text in held_out]
    found = done[0][name, "bits_per_byte", "bits_per_byte"]
    assert found["value"] == pytest.approx(sum(bits) / sum(size), rel=1e-4)
    assert found["n"] == len(held_out) == 8
    assert not found["higher_is_better"]
    assert found["low"] < found["value"] < found["high"]


def test_multiple_choice_equals_a_direct_computation(world, done):
    model, tokenizer = load(world, "one")
    hits, hits_norm = [], []
    for item in ITEMS:
        context = tokenizer.encode(f"Question: {item['question']}\nAnswer:")
        found = [logprob(model, context, tokenizer.encode(" " + choice)) for choice in item["choices"]]
        hits.append(int(np.argmax(found)) == item["answer"])
        per_character = [value / len(choice) for value, choice in zip(found, item["choices"], strict=True)]
        hits_norm.append(int(np.argmax(per_character)) == item["answer"])
    assert done[0]["one", "multiple_choice", "acc"]["value"] == pytest.approx(np.mean(hits))
    assert done[0]["one", "multiple_choice", "acc_norm"]["value"] == pytest.approx(np.mean(hits_norm))


def chat(tokenizer, messages, answer):
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(prompt), tokenizer.encode(answer + "<|im_end|>")


def test_preference_equals_a_direct_computation(world, done):
    model, tokenizer = load(world, "one")
    wins = []
    for pair in PAIRS:
        chosen, rejected = (logprob(model, *chat(tokenizer, pair["prompt"], pair[s])) for s in ("chosen", "rejected"))
        wins.append(chosen > rejected)
    assert done[0]["one", "preference", "preference"]["value"] == pytest.approx(np.mean(wins))
    samples = [row for row in done[1] if row["model"] == "one" and row["task"] == "preference"]
    assert [dict(row["values"])["preference"] for row in samples] == [float(win) for win in wins]
    assert [row["group"] for row in samples] == [pair["document_id"] for pair in PAIRS]


def test_greedy_answers_equal_one_at_a_time(world, done):
    model, tokenizer = load(world, "two")
    said = {row["prompt"]: row["output"] for row in done[1] if row["model"] == "two" and "exact_match" in row["task"]}
    assert len(said) == len(CONVERSATIONS)
    for row in CONVERSATIONS:
        tokens, _ = chat(tokenizer, row["messages"][:1], "")
        answer = []
        for _ in range(8):
            with torch.no_grad():
                token = int(model(torch.tensor([tokens + answer])).logits[0, -1].argmax())
            if token in (0, 3):
                break
            answer.append(token)
        assert said[row["messages"][0]["content"]] == tokenizer.decode(answer, skip_special_tokens=True)


def test_scores_are_kept_apart_by_task(done):
    names = {task for _, task, _ in done[0]}
    assert names == {
        *("bits_per_byte", "multiple_choice", "chat_choice", "preference"),
        *("exact_match/kind", "exact_match/other"),
    }


def test_batch_size_does_not_change_the_scores(world, done, tmp_path):
    run(world, tmp_path / "out", batch_tokens=64)
    again = json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]
    for row in again:
        before = done[0][row["model"], row["task"], row["metric"]]
        assert row["value"] == pytest.approx(before["value"], rel=1e-4), row


def test_guessing_is_stated(world):
    guess = json.loads((world / "out" / "scores.json").read_text())["guess"]
    assert guess["multiple_choice.acc"] == 0.25
    assert guess["preference.preference"] == 0.5
    answers = [row["messages"][1]["content"] for row in CONVERSATIONS if row["task"] == "kind"]
    assert guess["exact_match/kind.exact_match"] == max(answers.count(a) for a in answers) / len(answers)


def test_choices_are_scored_by_task_beside_what_needs_no_reading(world, tmp_path):
    """Of ten items of one task the same choice is right in seven: always taking it scores seven tenths."""
    rows = [
        {**ITEMS[0], "id": str(n), "choices": ["a", "b", "c", "d"], "answer": 0 if n < 7 else n - 6, "task": "letter"}
        for n in range(10)
    ]
    items = write_rows(tmp_path / "items.parquet", [*rows, {**ITEMS[1], "task": "other"}])
    task = {"type": "multiple_choice", "items": str(items)}
    run(world, tmp_path / "out", tasks=[task], models={"one": str(world / "one")})
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {row["task"] for row in found["scores"]} == {"multiple_choice/letter", "multiple_choice/other"}
    assert found["guess"]["multiple_choice/letter.acc"] == pytest.approx(0.7)
    assert found["guess"]["multiple_choice/other.acc"] == 0.25


def test_limit_takes_the_first_rows(world, tmp_path):
    task = {"type": "multiple_choice", "items": str(world / "items.parquet"), "limit": 5}
    done = run(world, tmp_path / "out", tasks=[task], models={"one": str(world / "one")})
    assert done.counts["rows"] == {"multiple_choice": 5}
    ids = pq.read_table(tmp_path / "out" / "samples.parquet").column("id").to_pylist()
    assert ids == [item["id"] for item in ITEMS[:5]]


def test_pairs_that_ask_nothing_are_counted(world, tmp_path):
    pairs = write_rows(
        tmp_path / "pairs.jsonl", [*PAIRS, {**PAIRS[0], "chosen": ""}, {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}]
    )
    done = run(world, tmp_path / "out", tasks=[{"type": "preference", "pairs": str(pairs)}])
    assert done.counts["skipped"] == {"preference": {"empty or equal answers": 2}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {"one": "nowhere"}}, "nowhere"),
        ({"models": {"one": "tokens"}}, "config.json is missing"),
        ({"models": {}}, "models"),
        ({"tasks": [{"type": "multiple_choice", "items": "nowhere.parquet"}]}, "no such file"),
        ({"tasks": [{"type": "multiple_choice", "items": "empty.parquet"}]}, "holds no rows"),
        ({"tasks": [{"type": "multiple_choice", "items": "pairs.jsonl"}]}, "has no column question"),
        ({"tasks": [{"type": "multiple_choice", "items": "wrong.jsonl"}]}, "answer 4 is none of its choices"),
        ({"tasks": [{"type": "multiple_choice", "items": "broken.jsonl"}]}, "line 2: not readable as JSON"),
        ({"tasks": [{"type": "bits_per_byte", "tokens": "one"}]}, "not a token artifact"),
        ({"tasks": [{"type": "bits_per_byte", "tokens": "unsplit"}]}, "validation split is empty"),
        ({"tasks": [{"type": "exact_match", "conversations": "conversations.parquet", "tasks": ["x"]}]}, "task 'x'"),
        ({"tasks": [{"type": "exact_match", "conversations": "conversations.parquet", "task": "x"}]}, "did you mean"),
        ({"tasks": [{"type": "preferences", "pairs": "pairs.jsonl"}]}, "preference"),
        ({"tasks": [{"type": "preference", "pairs": "pairs.jsonl"}] * 2}, "two tasks are called 'preference'"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_model_loads(world, tmp_path, monkeypatch, changes, message):
    write_rows(world / "empty.parquet", ITEMS[:1])
    pq.write_table(pq.read_table(world / "empty.parquet").slice(0, 0), world / "empty.parquet")
    write_rows(world / "wrong.jsonl", [{**ITEMS[0], "answer": 4}])
    (world / "broken.jsonl").write_text('{"question": "x"}\n{"question": \n')
    if not (world / "unsplit").exists():
        write_token_set(world / "unsplit", ["a"], ["train"])
    monkeypatch.chdir(world)
    monkeypatch.setattr("core.checkpoint.load_model", None)
    with pytest.raises(UserError, match=message) as caught:
        run(world, tmp_path / "out", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_token_set_reads_back_what_the_fixture_wrote(world):
    """The fixture is no artifact of its own kind: it must stay readable as the tokenizer's stage writes it."""
    assert len(TokenSet(world / "tokens")) == len(documents())
