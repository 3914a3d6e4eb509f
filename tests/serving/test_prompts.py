import json
from itertools import islice

import pytest
from pydantic import ValidationError

from core.errors import UserError
from serving.prompts import PromptSet, bodies
from tests.tiny_models import save_tokenizer


def take(count, prompts, chat=False, seed=(0, 1), different=None):
    return list(islice(bodies(prompts, chat, different or count, seed), count))


def test_synthetic_prompts_have_the_lengths_asked_for_and_differ_by_load_and_seed():
    first, again, other = (take(20, PromptSet(tokens=9), seed=seed) for seed in ((0, 1), (0, 1), (0, 2)))
    assert {len(body["prompt"]) for body in first} == {9}
    assert len({tuple(body["prompt"]) for body in first}) == 20
    assert first == again != other
    assert all(16 <= token < 256 for body in first for token in body["prompt"])
    lengths = {len(body["prompt"]) for body in take(60, PromptSet(tokens=3, tokens_max=5))}
    assert lengths == {3, 4, 5}


def test_a_shared_beginning_is_the_same_in_every_prompt_and_nothing_else_is():
    asked = [body["prompt"] for body in take(5, PromptSet(tokens=8, shared_tokens=30))]
    assert len({tuple(ids[:30]) for ids in asked}) == 1
    assert len({tuple(ids[30:]) for ids in asked}) == 5
    assert {len(ids) for ids in asked} == {38}


def test_more_are_asked_for_than_there_are_and_they_begin_anew():
    asked = take(5, PromptSet(tokens=4), different=2)
    assert asked[0] == asked[2] == asked[4] != asked[1]


def test_a_tokenizer_makes_text_of_them_and_a_chat_needs_one(tmp_path):
    prompts = PromptSet(tokens=5, tokenizer=str(save_tokenizer(tmp_path)))
    assert all(isinstance(body["prompt"], str) for body in take(3, prompts))
    [body] = take(1, prompts, chat=True)
    assert body["messages"][0]["role"] == "user"
    with pytest.raises(UserError, match="tokenizer is missing"):
        take(1, PromptSet(), chat=True)


def rows(tmp_path, *found):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return PromptSet(path=str(path), characters=6)


TALK = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


def test_a_conversation_is_asked_without_its_last_answer(tmp_path):
    prompts = rows(tmp_path, {"messages": TALK, "source": "x"}, {"messages": [*TALK, TALK[0]]})
    assert take(2, prompts, chat=True) == [{"messages": TALK[:1]}, {"messages": [*TALK, TALK[0]]}]
    with pytest.raises(UserError, match="conversations need api: chat"):
        take(1, prompts)


def test_preferences_give_their_prompt_and_documents_their_beginning(tmp_path):
    assert take(1, rows(tmp_path, {"prompt": TALK[:1], "chosen": "a"}), chat=True) == [{"messages": TALK[:1]}]
    assert take(1, rows(tmp_path, {"text": "A long document."})) == [{"prompt": "A long"}]
    assert take(1, rows(tmp_path, {"prompt": "Say it all."})) == [{"prompt": "Say it all."}]
    asked = take(1, rows(tmp_path, {"prompt": "Say it all."}), chat=True)
    assert asked == [{"messages": [{"role": "user", "content": "Say it all."}]}]


def test_rows_with_nothing_to_ask_are_said_and_lengths_must_make_sense(tmp_path):
    with pytest.raises(UserError, match="no row holds"):
        take(1, rows(tmp_path, {"messages": TALK[1:]}), chat=True)
    with pytest.raises(ValidationError, match="tokens_max is less"):
        PromptSet(tokens=9, tokens_max=3)
