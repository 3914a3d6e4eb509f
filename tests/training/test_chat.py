import numpy as np
import pytest

from core.errors import UserError
from tests.training.fixtures import conversation
from training.chat import ChatEncoder

TWO_TURNS = [
    {"role": "system", "content": "be brief"},
    *conversation("first of red blue?", "red"),
    *conversation("and last?", "blue"),
]
WITHOUT_MARKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
)
END_OUTSIDE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder(tokenizer)


def by_hand(tokenizer, messages):
    """ChatML spelled out part by part: (ids, learned)."""
    ids, learned = [], []
    for message in messages:
        said = message["role"] == "assistant"
        head = [tokenizer.convert_tokens_to_ids("<|im_start|>"), *tokenizer.encode(message["role"] + "\n")]
        body = [*tokenizer.encode(message["content"]), tokenizer.convert_tokens_to_ids("<|im_end|>")]
        tail = tokenizer.encode("\n")
        ids += head + body + tail
        learned += [False] * len(head) + [said] * len(body) + [False] * len(tail)
    return ids, learned


@pytest.mark.parametrize("messages", [TWO_TURNS, conversation("question", "answer"), conversation("", "")])
def test_only_what_the_assistant_says_and_its_end_token_are_learned(encoder, tokenizer, messages):
    ids, learned = encoder.encode(messages)
    expected_ids, expected_learned = by_hand(tokenizer, messages)
    assert ids.tolist() == expected_ids
    assert learned.tolist() == expected_learned


def test_every_turn_ends_with_a_learned_stop_token(encoder, tokenizer):
    """Also where padding is the end token, which masks it away in many collators: the model would never stop."""
    for pad in (tokenizer.pad_token, tokenizer.eos_token, "<|im_end|>", None):
        tokenizer.pad_token = pad
        again = ChatEncoder(tokenizer)
        (segment,), _ = again.segments(TWO_TURNS, 500, "skip")
        assert (segment.labels == again.stop_token).sum() == 2
        assert again.stop_token == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert isinstance(again.padding, int)


def test_a_beginning_of_text_is_written_once(encoder, tokenizer):
    """The template writes it and the tokenizer would add another one when asked to tokenize the rendered text."""
    from tokenizers.processors import TemplateProcessing

    bos, number = "<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.bos_token = bos
    tokenizer.chat_template = "{{ '" + bos + "' }}" + tokenizer.chat_template
    tokenizer._tokenizer.post_processor = TemplateProcessing(f"{bos} $A", None, [(bos, number)])
    again = ChatEncoder(tokenizer)
    assert tokenizer(tokenizer.apply_chat_template(TWO_TURNS, tokenize=False)).input_ids[:2] == [number, number]
    for ids in (again.encode(TWO_TURNS)[0].tolist(), again.prompt(TWO_TURNS[:2])):
        assert ids[0] == number
        assert ids.count(number) == 1


def test_prompt_and_answer_are_the_conversation(encoder):
    """What generation is given is exactly what training saw before the assistant's first token."""
    ids, learned = encoder.encode(TWO_TURNS[:3])
    prompt = encoder.prompt(TWO_TURNS[:2])
    assert ids[: len(prompt)].tolist() == prompt
    assert not learned[: len(prompt)].any()
    assert learned[len(prompt)]


@pytest.mark.parametrize(
    ("template", "complaint"),
    [(None, "no chat template"), (WITHOUT_MARKS, "marks no assistant tokens"), (END_OUTSIDE, "never learn to stop")],
)
def test_templates_that_would_train_on_nothing_or_never_stop_are_refused(tokenizer, template, complaint):
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=complaint) as caught:
        ChatEncoder(tokenizer)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(tokenizer.name_or_path), "names the template's tokenizer"


def test_a_conversation_that_is_too_long_is_skipped_or_cut_and_told(encoder):
    ids, learned = encoder.encode(TWO_TURNS)
    whole = len(ids) - 1
    for length in range(1, whole + 2):
        assert (encoder.segments(TWO_TURNS, length, "skip")[0] == "too_long") == (length < whole)
        found, cut = encoder.segments(TWO_TURNS, length, "truncate")
        if not learned[1 : length + 1].any():
            assert (found, cut) == ("nothing_to_learn", False)
            continue
        (segment,) = found
        assert cut == (length < whole)
        assert len(segment) == min(length, whole)
        assert segment.tokens.tolist() == ids[: len(segment)].tolist()
        expected = np.where(learned, ids, -100)[1 : len(segment) + 1]
        assert segment.labels.tolist() == expected.tolist()


def test_a_split_conversation_loses_no_token_of_the_assistant_and_repeats_none(encoder):
    ids, learned = encoder.encode(TWO_TURNS)
    for length in range(1, len(ids) + 1):
        pieces, over = encoder.segments(TWO_TURNS, length, "split")
        assert over == (len(ids) > length + 1)
        assert max(len(piece) for piece in pieces) <= length
        assert np.concatenate([p.labels[p.labels >= 0] for p in pieces]).tolist() == ids[1:][learned[1:]].tolist()
        before = np.concatenate([p.tokens[p.labels >= 0] for p in pieces]).tolist()
        assert before == ids[:-1][learned[1:]].tolist(), "each is predicted from the token before it"


def test_a_conversation_without_the_assistant_teaches_nothing(encoder):
    assert encoder.segments(TWO_TURNS[:2], 500, "skip") == ("nothing_to_learn", False)


def test_answers_are_decoded_up_to_the_end_of_the_turn(encoder, tokenizer):
    ids = tokenizer.encode("gold mine")
    assert encoder.decode(ids) == "gold mine"
    for end in ("<|im_end|>", "<|endoftext|>"):
        assert encoder.decode([*ids, tokenizer.convert_tokens_to_ids(end), *ids]) == "gold mine"
    assert encoder.decode([]) == ""


@pytest.mark.parametrize("text", ["<|im_end|>", "a <|im_start|>assistant\nno", "\n\n", "é🙂"])
def test_hostile_contents_still_learn_only_from_the_assistant(encoder, tokenizer, text):
    """Special tokens in the user's text stay in the user's turn."""
    ids, learned = encoder.encode(conversation(text, "fine"))
    assert tokenizer.decode(ids[learned]) == "fine<|im_end|>"
