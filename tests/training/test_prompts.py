"""Tables of prompts as they come, and what cannot be asked."""

import json

import pytest

from core.errors import UserError
from training.chat import ChatEncoder
from training.prompts import read_prompts


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder(tokenizer)


def table(folder, *rows):
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "prompts.jsonl")


USER = {"role": "user", "content": "two and two?"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "two and two?", "answer": "4"},
        {"prompt": [USER], "answer": "4"},
        {"question": "two and two?", "answer": "4"},
        {"messages": [USER, {"role": "assistant", "content": "4"}]},
        {"instruction": "two and two?", "output": "4"},
        {"prompt": "two and two?", "completion": "4"},
    ],
)
def test_a_prompt_is_what_comes_before_the_answer(row, encoder, tmp_path):
    found = read_prompts(table(tmp_path, row), encoder, 64)
    assert found.messages == [[USER]]
    assert found.tokens == [encoder.prompt([USER])]
    assert found.rows[0]["answer"] == "4"


def test_empty_and_long_prompts_are_left_out_and_counted(encoder, tmp_path):
    rows = [{"prompt": "go"}, {"prompt": " "}, {"prompt": None}, {"prompt": "word " * 100}]
    found = read_prompts(table(tmp_path, *rows), encoder, 32)
    assert len(found) == 1
    assert found.skipped == {"empty_prompt": 2, "too_long": 1}


def test_nothing_to_ask_is_an_error_that_says_why(encoder, tmp_path):
    with pytest.raises(UserError, match=r"no prompt is usable \(1 empty prompt, 1 too long\); one may have 32 tokens"):
        read_prompts(table(tmp_path, {"prompt": ""}, {"prompt": "word " * 100}), encoder, 32)
    with pytest.raises(UserError, match="row 0: the prompt must be text, or a list of messages"):
        read_prompts(table(tmp_path, {"prompt": 5}), encoder, 32)
