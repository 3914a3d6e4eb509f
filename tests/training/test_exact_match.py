from dataclasses import replace

import pytest
import torch

from core import checkpoint
from tests.training.fixtures import conversation
from training.chat import ChatEncoder
from training.exact_match import Question, constant_guess, exact_match, greedy, questions
from training.feedback import Feedback
from training.world import World


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder(tokenizer)


@pytest.fixture
def model(base):
    """Scaled up, so that the most likely token is far ahead."""
    found = checkpoint.load_model(base)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return found


def row(answer, task="a", question="which?"):
    return {"messages": conversation(question, answer), "task": task}


def question(answer, task="a"):
    return Question([1], answer, task, "")


def test_constant_guess_is_the_commonest_training_answer_of_each_task():
    train = [row("red"), row(" red "), row("blue"), row("gold", "b"), row("gray", "b")]
    held_out = [question("red"), question("blue"), question("gold", "b"), question("gray", "b"), question("x", "c")]
    # Task a guesses red; task b has a tie, which goes to the smaller text; task c was never trained on.
    assert constant_guess(train, held_out) == {"all": 2 / 5, "a": 1 / 2, "b": 1 / 2, "c": 0.0}
    assert constant_guess(train, []) == {"all": 0.0}


def test_answers_in_a_padded_batch_equal_those_of_each_prompt_alone(model, encoder):
    """Left padding that shifts positions or is looked at costs tens of points (lm-eval#2583)."""
    texts = ["a", "first of red blue green?", "word " * 20, "last of gold pink?", "é🙂"]
    prompts = [encoder.prompt([{"role": "user", "content": text}]) for text in texts]
    together = greedy(model, prompts, encoder, 12)
    assert together == [greedy(model, [prompt], encoder, 12)[0] for prompt in prompts]
    assert len(set(together)) > 1, "one answer to everything tells nothing"

    alone = []  # argmax in a plain loop, without cache, mask or generate
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        alone.append(encoder.decode(ids[len(prompt) :]).strip())
    assert together == alone


def test_padding_of_a_tokenizer_without_one_changes_no_answer(model, encoder, tokenizer):
    prompts = [encoder.prompt([{"role": "user", "content": text}]) for text in ("a", "first of red blue green?")]
    before = greedy(model, prompts, encoder, 8)
    tokenizer.pad_token = None
    assert greedy(model, prompts, ChatEncoder(tokenizer), 8) == before


def test_the_last_answer_of_the_assistant_is_asked_for(encoder):
    two = [*conversation("q", "first answer"), *conversation("r", " the answer ")]
    rows = [
        {"messages": two, "task": None},
        {"messages": two[:3]},  # the user has the last word
        {"messages": two[1:2]},  # an answer to nothing
    ]
    (asked,) = questions(rows, encoder)
    assert asked.prompt == encoder.prompt(two[:3])
    assert (asked.answer, asked.task) == ("the answer", "all")


def test_shares_count_each_task_and_all(model, encoder, tmp_path):
    asked = questions([row("x", task, f"{n} of red blue?") for n, task in enumerate("aabbb")], encoder)
    given = greedy(model, [each.prompt for each in asked], encoder, 6)
    right = [replace(each, answer=answer) for each, answer in zip(asked, given, strict=True)]
    right[0] = asked[0]
    right[3] = asked[3]
    model.train()
    shares, answers = exact_match(model, right, encoder, 6, World(), Feedback(tmp_path, False), "answer")
    assert answers == given
    assert shares == {"all": 3 / 5, "a": 1 / 2, "b": 2 / 3}
    assert model.training
