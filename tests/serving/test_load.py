import asyncio
from collections import Counter
from itertools import repeat

import numpy as np
import pytest

from serving import load
from serving.load import Client, Limits, Request
from tests.serving.endpoints import FIRST_S, STEP_S, TOKENS, scripted


@pytest.fixture(scope="module")
def endpoint():
    with scripted() as found:
        yield found


def request(model, path="completions", stream=True):
    return Request.of(path, {"model": model, "prompt": "a", "stream": stream})


def send(url, one, key=None, timeout_s=20.0):
    async def ask():
        async with Client(url, key, timeout_s) as client:
            return await client.send(one)

    return asyncio.run(ask())


def run(url, loop, *arguments, **named):
    async def ask():
        async with Client(url) as client:
            return await loop(client, *arguments, **named)

    return asyncio.run(ask())


def test_times_are_of_the_events_and_tokens_of_the_usage(endpoint):
    sample = send(endpoint[0], request("plain"))
    assert (sample.outcome, sample.prompt_tokens, sample.output_tokens) == ("ok", 7, TOKENS)
    assert sample.first_token_s >= FIRST_S
    assert len(sample.gaps_s) == TOKENS - 1
    # asyncio's clock may wake a millisecond early
    assert all(gap >= STEP_S - 0.002 for gap in sample.gaps_s)
    assert sample.latency_s == pytest.approx(sample.first_token_s + sum(sample.gaps_s))
    assert sample.token_s == pytest.approx(sum(sample.gaps_s) / (TOKENS - 1))


def test_a_role_is_no_token_and_events_count_where_no_usage_is_sent(endpoint):
    sample = send(endpoint[0], request("chat", "chat/completions"))
    assert sample.first_token_s >= FIRST_S
    assert sample.output_tokens == TOKENS


def test_events_are_found_however_the_stream_is_cut(endpoint):
    sample = send(endpoint[0], request("torn"))
    assert (sample.outcome, sample.output_tokens, len(sample.gaps_s)) == ("ok", TOKENS, TOKENS - 1)


def test_an_answer_that_is_not_streamed_has_an_end_and_no_first_token(endpoint):
    sample = send(endpoint[0], request("plain", stream=False))
    assert (sample.outcome, sample.output_tokens, sample.first_token_s) == ("ok", TOKENS, None)
    assert sample.token_s is None
    assert sample.latency_s > 0


@pytest.mark.parametrize(
    ("model", "outcome", "words"),
    [
        ("busy", "http_429", "queue full"),
        ("cut_short", "broken_stream", "without [DONE]"),
        ("failing", "broken_stream", "The server failed."),
        ("nonsense", "malformed", "JSONDecodeError"),
        ("wordless", "no_token", ""),
        ("hanging", "timeout", ""),
    ],
)
def test_each_failure_is_an_outcome_of_its_own(endpoint, model, outcome, words):
    sample = send(endpoint[0], request(model), timeout_s=0.5)
    assert sample.outcome == outcome
    assert words in sample.message
    assert sample.latency_s > 0 or outcome == "no_token"


def test_nobody_listening_is_an_outcome_and_no_exception():
    assert send("http://127.0.0.1:9/v1", request("plain")).outcome == "connection"


def test_the_key_is_sent_as_a_bearer_and_only_when_there_is_one(endpoint):
    url, script = endpoint
    script.keys.clear()
    send(url, request("plain"), key="sesame")
    send(url, request("plain"))
    assert script.keys == ["Bearer sesame", None]


def test_a_closed_loop_keeps_so_many_requests_under_way_and_accounts_for_each(endpoint):
    url, script = endpoint
    script.most = 0
    seen = []
    samples = run(url, load.closed_loop, repeat(request("plain")), 3, Limits(10), seen.append)
    assert script.most == 3
    assert Counter(sample.outcome for sample in samples) == {"ok": 10}
    assert seen == list(range(1, 11))


def test_a_closed_loop_sends_nothing_once_its_time_is_over(endpoint):
    samples = run(endpoint[0], load.closed_loop, repeat(request("plain")), 2, Limits(10_000, seconds=0.3))
    assert 2 <= len(samples) < 100
    assert all(sample.began_s < 0.3 for sample in samples)


def test_an_open_loop_sends_at_poisson_times_and_waits_for_nobody(endpoint):
    url, script = endpoint
    script.most = 0
    samples = run(url, load.open_loop, repeat(request("plain")), 200.0, Limits(40), seed=3)
    due = np.cumsum(np.random.default_rng(3).exponential(1 / 200, 40))
    samples.sort(key=lambda sample: sample.began_s)
    assert [sample.began_s - sample.late_s for sample in samples] == pytest.approx(due, abs=0.02)
    assert all(sample.late_s >= 0 for sample in samples)
    assert script.most > 3
    limited = run(url, load.open_loop, repeat(request("plain")), 200.0, Limits(1000, seconds=0.1), seed=3)
    assert len(limited) == (np.cumsum(np.random.default_rng(3).exponential(1 / 200, 1000)) <= 0.1).sum()
