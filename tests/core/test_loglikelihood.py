"""Log-likelihoods: against a loop without batches or cache, and against numbers worked out by hand."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import UserError
from core.loglikelihood import Request, encode_pair, encode_rendered, score, start_token
from tests.tiny_models import TEXT, save_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), max_length=64)


@pytest.fixture(scope="module")
def model(directory):
    return AutoModelForCausalLM.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


class Table(nn.Module):
    """A model whose next-token probabilities depend on the current token alone, by a table."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()
        self.device = torch.device("cpu")
        text = SimpleNamespace(vocab_size=len(probabilities), max_position_embeddings=8)
        self.config = SimpleNamespace(get_text_config=lambda: text)

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.logits[input_ids])


TABLE = [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.7, 0.2, 0.1]]


def test_numbers_worked_out_by_hand():
    model = Table(TABLE)
    requests = [Request([0], [1, 2]), Request([2, 1], [2]), Request([1], [0]), Request([0], []), Request([2], [0, 0])]
    found = score(model, requests)
    expected = [0.25 * 0.8, 0.8, 0.1, 1.0, 0.7 * 0.5]
    assert [one.logprob for one in found] == pytest.approx([math.log(p) for p in expected], abs=1e-6)
    assert [one.tokens for one in found] == [2, 1, 1, 0, 2]
    assert [one.is_greedy for one in found] == [False, True, False, True, True]


def test_continuation_longer_than_the_model_counts_every_token_once():
    generator = random.Random(0)
    tokens = [generator.randrange(3) for _ in range(100)]
    expected = sum(math.log(TABLE[a][b]) for a, b in zip([0, *tokens], tokens, strict=False))
    for overlap in (0, 1, 2, 5, 7, 20):
        (found,) = score(Table(TABLE), [Request([0], tokens)], overlap=overlap)
        assert found.tokens == 100
        assert found.logprob == pytest.approx(expected, abs=1e-4)


def naive(model, request):
    """One request, no batch, no cut: the full matrix of log-probabilities."""
    tokens = [*request.context, *request.continuation]
    with torch.no_grad():
        table = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    begin = len(request.context)
    picked = [table[place - 1, tokens[place]].item() for place in range(begin, len(tokens))]
    greedy = all(int(table[place - 1].argmax()) == tokens[place] for place in range(begin, len(tokens)))
    return sum(picked), greedy


def requests_of(count, seed=0):
    generator = random.Random(seed)
    return [
        Request(
            [generator.randrange(320) for _ in range(generator.randint(1, 30))],
            [generator.randrange(320) for _ in range(generator.randint(1, 30))],
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_equals_a_loop_without_batches(model, batch_tokens):
    requests = requests_of(40)
    found = score(model, requests, batch_tokens=batch_tokens)
    for request, one in zip(requests, found, strict=True):
        logprob, greedy = naive(model, request)
        assert one.logprob == pytest.approx(logprob, abs=2e-4)
        assert one.is_greedy == greedy


def test_order_of_requests_does_not_matter(model):
    requests = requests_of(40)
    order = random.Random(1).sample(range(40), 40)
    straight = score(model, requests, batch_tokens=300)
    shuffled = score(model, [requests[place] for place in order], batch_tokens=300)
    for place, one in zip(order, shuffled, strict=True):
        assert one.logprob == pytest.approx(straight[place].logprob, abs=2e-4)


def test_greedy_continuation_is_called_greedy(model):
    tokens = [5, 9, 200]
    for _ in range(6):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    first, second = score(model, [Request(tokens[:3], tokens[3:]), Request(tokens[:3], [*tokens[3:-1], 1])])
    assert first.is_greedy
    assert not second.is_greedy


def test_long_context_loses_its_left_end(model):
    request = requests_of(1, seed=3)[0]
    long = Request([7] * 200 + list(request.context), request.continuation)
    kept = (list(long.context) + list(long.continuation))[-65:]
    logprob, _ = naive(model, Request(kept[: -len(long.continuation)], long.continuation))
    assert score(model, [long])[0].logprob == pytest.approx(logprob, abs=2e-4)


def test_progress_counts_requests_once(model):
    told = []
    requests = [*requests_of(9), Request([3], [4] * 300)]
    score(model, requests, batch_tokens=120, on_batch=told.append)
    assert sum(told) == 10
    assert len(told) > 2


def test_blanks_between_context_and_continuation_belong_to_the_continuation(tokenizer):
    one = encode_pair(tokenizer, TEXT[0], " Serialize obj")
    other = encode_pair(tokenizer, TEXT[0] + " ", "Serialize obj")
    assert one == other
    assert tokenizer.decode(one.context) == TEXT[0]
    assert tokenizer.decode(one.continuation) == " Serialize obj"


def test_empty_context_starts_from_the_end_of_the_text_before(tokenizer):
    request = encode_pair(tokenizer, "", "json")
    assert request.context == [tokenizer.eos_token_id] == [start_token(tokenizer)]


class AddsFront:
    """A tokenizer that puts its beginning-of-text token before every text, as Llama's does."""

    bos_token_id, eos_token_id, name_or_path = 90, 91, "adds-front"

    def encode(self, text, add_special_tokens=True):
        return [90] * add_special_tokens + [ord(letter) - 32 for letter in text.replace("<s>", chr(90 + 32))]


def test_beginning_of_text_stands_once():
    plain = encode_pair(AddsFront(), "ab", "c")
    assert plain.context == [90, 65, 66]
    assert encode_pair(AddsFront(), "", "c").context == [90]
    rendered = encode_rendered(AddsFront(), "<s>ab", "c")
    assert rendered.context == [90, 65, 66]
    assert rendered.continuation == plain.continuation == [67]


def test_tokenizer_without_any_start_is_refused():
    with pytest.raises(UserError, match="neither bos_token nor eos_token"):
        start_token(SimpleNamespace(bos_token_id=None, eos_token_id=None, name_or_path="x"))
