import pytest

from core.errors import UserError
from core.rows import read_rows
from training.chat import ChatEncoder
from training.examples import conversations, preference_pairs
from training.shapes import answer_rows, conversation_rows, preference_rows

ASKED = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": ASKED},
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {"conversations": ASKED},
        {"instruction": "2 + 2?", "input": "", "output": "4"},
        {"instruction": "2 + 2?", "response": "4"},
        {"question": "2 + 2?", "answer": "4"},
        {"prompt": "2 + 2?", "completion": "4"},
        {"prompt": "2 + 2?", "response": "4"},
    ],
)
def test_published_shapes_of_conversations_are_recognised(row):
    (found,) = conversation_rows([row | {"task": "sums"}], "t.json")
    assert found["messages"] == ASKED
    assert found["task"] == "sums", "other columns stay"


def test_an_input_follows_its_instruction():
    (found,) = conversation_rows([{"instruction": "Sum up.", "input": "1 2", "output": "3"}], "t.json")
    assert found["messages"][0]["content"] == "Sum up.\n\n1 2"


def test_a_missing_answer_is_no_conversation_rather_than_an_empty_lesson():
    assert conversation_rows([{"question": "2 + 2?", "answer": None}], "t.json")[0]["messages"] is None


HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Name a colour.\n\nAssistant: "
HISTORY = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Name a colour."},
]


def say(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": HISTORY, "chosen": say("Red"), "rejected": say("Dog")},
        {"chosen": [*HISTORY, *say("Red")], "rejected": [*HISTORY, *say("Dog")]},
        {"chosen": HH + "Red", "rejected": HH + "Dog"},
    ],
)
def test_published_shapes_of_pairs_are_recognised(row):
    (found,) = preference_rows([row], "t.json")
    assert (found["prompt"], found["chosen"], found["rejected"]) == (HISTORY, say("Red"), say("Dog"))


def test_a_prompt_as_text_is_the_users():
    (found,) = preference_rows([{"prompt": "Name a colour.", "chosen": "Red", "rejected": "Dog"}], "t.json")
    assert found["prompt"] == [{"role": "user", "content": "Name a colour."}]
    assert (found["chosen"], found["rejected"]) == ("Red", "Dog")


def test_equal_conversations_keep_an_answer_to_compare():
    (found,) = preference_rows([{"chosen": HH + "Red", "rejected": HH + "Red"}], "t.json")
    assert (found["chosen"], found["rejected"]) == (say("Red"), say("Red"))


def test_columns_can_be_named():
    fields = {"prompt": "ask", "response": "reply", "system": "role"}
    rows = conversation_rows([{"ask": "2 + 2?", "reply": "4", "role": "Be brief."}], "t.json", fields)
    assert rows[0]["messages"] == [{"role": "system", "content": "Be brief."}, *ASKED]
    fields = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    (pair,) = preference_rows([{"ask": "2 + 2?", "good": "4", "bad": "5"}], "t.json", fields)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (ASKED[:1], "4", "5")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "completion": "4", "label": True},
        {"prompt": ASKED[:1], "response": "4", "label": 1},
        {"ask": "2 + 2?", "reply": "4", "liked": True},
    ],
)
def test_published_shapes_of_labelled_answers_are_recognised(row):
    fields = {"prompt": "ask", "response": "reply", "label": "liked"} if "ask" in row else None
    (found,) = answer_rows([row], "t.json", fields)
    assert (found["prompt"], found["answer"], found["desirable"]) == (ASKED[:1], "4", True)


def test_pairs_taken_apart_are_labelled_answers():
    pair = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    named = {"ask": "2 + 2?", "good": "4", "bad": "5"}
    for row, fields in ((pair, None), (named, {"prompt": "ask", "chosen": "good", "rejected": "bad"})):
        found = answer_rows([row], "t.json", fields)
        assert [(part["answer"], part["desirable"]) for part in found] == [("4", True), ("5", False)]
        assert all(part["prompt"] == ASKED[:1] for part in found)
    with pytest.raises(
        UserError, match=r"none of: prompt \+ completion \+ label;.*\{prompt: q, response: a, label: ok\}"
    ):
        answer_rows([{"q": "x", "a": "y", "ok": True}], "t.json")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, r"t\.json: its columns \(a, b\) are none of: messages; .* are, as fields: \{prompt: a, response: b\}"),
        ({"prompt": "a", "answer": "b"}, "fields: expected prompt, response and maybe system, not prompt, answer"),
        ({"prompt": "a", "response": "c"}, r"t\.json: fields names c, which is no column; there are: a, b"),
    ],
)
def test_unknown_columns_are_refused_with_the_lines_that_map_them(fields, reason):
    with pytest.raises(UserError, match=reason):
        conversation_rows([{"a": "x", "b": "y"}], "t.json", fields)


REAL = [("gsm8k_train.jsonl", 7473), ("codealpaca_2k.json", 2017), ("gpteacher_roleplay.json", 1923)]


@pytest.mark.parametrize(("name", "count"), REAL)
def test_real_instructions_are_read_as_they_are_published(real_data, tokenizer, name, count):
    """Every row is a conversation or a counted skip."""
    path = str(real_data / "instructions" / name)
    assert len(read_rows(path)) == count
    found = conversations(path, ChatEncoder(tokenizer), 512, "truncate")
    assert len(found.units) + sum(found.skipped.values()) == count
    assert len(found.units) > 0.9 * count


def test_real_preferences_are_read_as_they_are_published(real_data, tokenizer):
    found = preference_pairs(str(real_data / "preferences/harmless_base_1500.jsonl"), ChatEncoder(tokenizer), 8192)
    assert found.skipped["empty_answer"] == 4
    assert len(found.units) + sum(found.skipped.values()) == 1500
