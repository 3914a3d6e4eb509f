"""Chat templates: what is scored is what would be generated."""

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from core.chat import chat_request, end_of_turn, render_answer, render_prompt
from core.errors import UserError
from tests.tiny_models import save_tokenizer

QUESTION = [{"role": "user", "content": "What is json?"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def test_answer_is_the_words_and_the_end_of_the_turn(tokenizer):
    assert render_prompt(tokenizer, QUESTION) == "<|im_start|>user\nWhat is json?<|im_end|>\n<|im_start|>assistant\n"
    assert render_answer(tokenizer, QUESTION, "A module.") == "A module.<|im_end|>"
    assert tokenizer.convert_ids_to_tokens([end_of_turn(tokenizer, QUESTION)]) == ["<|im_end|>"]


def test_scored_tokens_are_those_the_trainer_learns(tokenizer):
    request = chat_request(tokenizer, QUESTION, "A module.")
    turn = [*QUESTION, {"role": "assistant", "content": "A module."}]
    found = tokenizer.apply_chat_template(turn, return_dict=True, return_assistant_tokens_mask=True)
    learned = [token for token, marked in zip(found["input_ids"], found["assistant_masks"], strict=True) if marked]
    assert request.continuation == learned
    assert request.context + request.continuation == found["input_ids"][: len(request.context) + len(learned)]


def test_tokenizer_without_template_is_refused():
    with pytest.raises(UserError, match="no chat_template"):
        render_prompt(SimpleNamespace(chat_template=None, name_or_path="x"), QUESTION)


def test_template_that_renders_prompts_otherwise_is_refused(tokenizer, tmp_path):
    other = AutoTokenizer.from_pretrained(save_tokenizer(tmp_path))
    other.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    with pytest.raises(UserError, match="renders a prompt differently"):
        render_answer(other, QUESTION, "x")
