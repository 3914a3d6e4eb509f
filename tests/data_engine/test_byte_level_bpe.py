"""The tokenizer: nothing is lost, nothing is added, templates mark exactly what the assistant says."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_engine import byte_level_bpe
from tests.tiny_models import TEXT, save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@given(text=st.text())
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize(
    "text",
    [" leading", "trailing ", "a  b\t\n\n c", "don 't , is n't .", "e\u0301 \u00e9", "\u2028\ufeff\x00", "𝔘🎉🏽"],
)
def test_awkward_texts_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_token_is_added_to_a_text(tokenizer):
    assert tokenizer.encode("json") == tokenizer.encode("json", add_special_tokens=False)
    assert tokenizer.bos_token is None
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.convert_tokens_to_ids(list(byte_level_bpe.SPECIAL_TOKENS)) == [0, 1, 2, 3]


def test_every_byte_has_a_token():
    tokenizer = byte_level_bpe.train([], byte_level_bpe.SMALLEST_VOCABULARY)
    assert tokenizer.get_vocab_size() == 260
    for byte in range(128):
        assert tokenizer.decode(tokenizer.encode(chr(byte)).ids) == chr(byte)


def test_vocabulary_does_not_depend_on_the_order_of_texts():
    texts = [f"{word} {number}" for number, word in enumerate(" ".join(TEXT).split() * 5)]
    shuffled = random.Random(1).sample(texts, len(texts))
    assert byte_level_bpe.train(texts, 400).to_str() == byte_level_bpe.train(shuffled, 400).to_str()


def test_template_is_chatml_and_masks_exactly_what_the_assistant_says(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is json?"},
        {"role": "assistant", "content": "A module."},
        {"role": "user", "content": "And os?"},
        {"role": "assistant", "content": "Another\none."},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = found["input_ids"], found["assistant_masks"]
    assert tokenizer.decode(ids) == rendered
    said, current = [], []
    for token, marked in zip(ids, mask, strict=True):
        if marked:
            current.append(token)
        elif current:
            said.append(tokenizer.decode(current))
            current = []
    assert said == ["A module.<|im_end|>", "Another\none.<|im_end|>"]


def test_prompt_is_a_prefix_of_the_answered_conversation(tokenizer):
    question = [{"role": "user", "content": "What is json?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "x"}], tokenize=False)
    assert whole == prompt + "x<|im_end|>\n"


def test_template_lies_in_the_tokenizer_configuration(tmp_path):
    """vLLM and older tools read it there, not from a file of its own."""
    save_tokenizer(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "{% generation %}" in saved["chat_template"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
