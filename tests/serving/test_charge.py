import time
from contextlib import suppress

import httpx
import pytest

from serving import charge
from serving.auth import Key, digest
from serving.quota import Quotas
from serving.visit import Visit
from tests.serving.doors import BEARER, CHAT, COMPLETIONS, KEY, Parrot, ask, catalogue_of, error_of, listening, wait_for

MINUTE = 1000


def key(**limits):
    return Key(name="alice", digest=digest(KEY), **({"tokens_per_minute": MINUTE} | limits))


def left(client):
    return int(client.get("/v1/models", headers=BEARER).headers["x-ratelimit-remaining-tokens"])


def talk(client, content="a b", **fields):
    body = {"model": "parrot", "messages": [{"role": "user", "content": content}]} | fields
    return client.post(CHAT, json=body, headers=BEARER)


# --- leaving early --------------------------------------------------------------------------------------------------


def test_who_leaves_a_whole_answer_pays_for_his_prompt_and_for_what_was_made():
    parrot = Parrot()
    with listening({"parrot": parrot}, keys=[key()]) as (_, client):
        body = {"model": "parrot", "prompt": "hang", "max_tokens": 400, "user": "x" * 800}
        with suppress(httpx.TimeoutException):
            client.post(COMPLETIONS, json=body, headers=BEARER, timeout=1)
        wait_for(lambda: parrot.open == 0)
        time.sleep(0.1)
        # 215 tokens of the prompt and 20 a second; the bucket fills up by 17 a second
        assert left(client) < MINUTE - 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_does_not_come_in_time_is_paid_for(stream):
    with listening({"parrot": Parrot()}, keys=[key()], request_timeout_s=0.5) as (_, client):
        assert ask(client, "hang", stream=stream, max_tokens=400, user="x" * 800).status_code == 504
        assert left(client) < MINUTE - 200


@pytest.mark.parametrize("prompt", ["refuse", "crash"])
def test_what_the_engine_refuses_or_fails_costs_nothing(prompt):
    with listening({"parrot": Parrot()}, keys=[key()]) as (_, client):
        ask(client, prompt, max_tokens=400, user="x" * 800)
        assert left(client) == MINUTE


def test_the_estimate_follows_how_fast_the_model_was_and_stays_below_what_was_asked_for():
    [served] = catalogue_of({"parrot": Parrot()}).models()
    ended = Visit("", "POST", "", prompt_tokens=5, completion_tokens=200, engine_s=2.0)
    charge.measure(ended, served, {"n": 2})
    for fields, most in (({"max_tokens": 1000}, 100), ({"max_tokens": 30}, 30), ({"n": 2, "max_tokens": 1000}, 200)):
        gone = Visit("", "POST", "", body_bytes=40)
        charge.estimate(gone, served, "chat", fields, 2.0)
        assert (gone.prompt_tokens, gone.completion_tokens) == (11, most)
    gone = Visit("", "POST", "", body_bytes=40)
    charge.estimate(gone, served, "completions", {"prompt": ["a", "b"]}, 100.0)
    assert gone.completion_tokens == 32
    gone = Visit("", "POST", "", body_bytes=40)
    charge.estimate(gone, served, "embeddings", {"input": "a"}, 100.0)
    assert (gone.prompt_tokens, gone.completion_tokens) == (11, 0)


def test_waiting_costs_no_more_than_was_reserved():
    """A cold start, or a queue in the engine, looks like work from here."""
    [served] = catalogue_of({"parrot": Parrot()}).models()
    for kind, fields in (("chat", {}), ("chat", {"n": 4}), ("completions", {"prompt": ["a"] * 9})):
        gone = Visit("", "POST", "", body_bytes=40, reserved_tokens=60, allowance=Quotas().of(key()))
        charge.estimate(gone, served, kind, fields, 500.0)
        assert gone.prompt_tokens + gone.completion_tokens == 60


# --- requests without a limit ---------------------------------------------------------------------------------------


class Waiting(Parrot):
    """Has room for an answer of some length."""

    async def limits(self):
        return {"max_model_len": 300}


@pytest.mark.parametrize(("fields", "reserved"), [({}, 300), ({"n": 2}, 580), ({"max_tokens": 10}, 40)])
def test_a_chat_without_a_limit_reserves_the_rest_of_the_context(fields, reserved):
    with listening({"parrot": Waiting()}, keys=[key()]) as (_, client):
        # The headers are sent when a stream begins, before what was not used has come back.
        response = talk(client, stream=True, **fields)
        assert MINUTE - reserved - 30 <= int(response.headers["x-ratelimit-remaining-tokens"]) <= MINUTE - reserved + 30
        wait_for(lambda: left(client) > MINUTE - 30)


def test_many_at_once_cannot_overdraw():
    parrot = Waiting()
    with listening({"parrot": parrot}, keys=[key(tokens_per_minute=500)]) as (_, client):
        body = {"model": "parrot", "messages": [{"role": "user", "content": "first hang"}], "stream": True}
        with client.stream("POST", CHAT, json=body, headers=BEARER) as response:
            parts = response.iter_text()
            next(parts)
            refused = talk(client)
            assert error_of(refused)["code"] == "rate_limit_exceeded"
            assert int(refused.headers["retry-after"]) >= 1


def test_a_context_larger_than_the_quota_can_be_asked_all_the_same():
    for limits in ({"tokens_per_minute": 100}, {"tokens_per_minute": None, "tokens_per_day": 100}):
        with listening({"parrot": Waiting()}, keys=[key(**limits)]) as (_, client):
            assert talk(client).status_code == 200
    with listening({"parrot": Waiting()}, keys=[key(tokens_per_minute=None, tokens_per_day=100)]) as (_, client):
        assert [talk(client).status_code for _ in range(3)] == [200] * 3, "a day's quota is not waited for"


class Roomy(Parrot):
    """Has room for an answer longer than the keys here can pay at once."""

    async def limits(self):
        return {"max_model_len": 5000}


def test_a_second_chat_within_the_minute_gets_what_the_key_has_left_and_no_more():
    parrot = Roomy()
    with listening({"parrot": parrot}, keys=[key()]) as (_, client):
        assert [talk(client, "a " * 50).status_code for _ in range(3)] == [200] * 3
    limits = [body["max_completion_tokens"] for body in parrot.bodies]
    assert all(MINUTE - 250 < limit < MINUTE for limit in limits)
    assert limits[1] < limits[0], "the first one used some"


def test_two_chats_can_be_under_way_where_both_have_room_for_some():
    parrot = Roomy()
    with listening({"parrot": parrot}, keys=[key()]) as (_, client):
        body = {"model": "parrot", "prompt": "first hang", "stream": True, "max_tokens": 600}
        with client.stream("POST", COMPLETIONS, json=body, headers=BEARER) as response:
            parts = response.iter_text()  # which would end the stream if nobody held it
            next(parts)
            assert talk(client).status_code == 200
            assert 256 <= parrot.bodies[-1]["max_completion_tokens"] < 400
            refused = talk(client, "hang", min_tokens=500)
            assert error_of(refused)["code"] == "rate_limit_exceeded", "it wants more than that"


def test_each_of_several_answers_gets_its_share():
    parrot = Roomy()
    with listening({"parrot": parrot}, keys=[key()]) as (_, client):
        assert talk(client, n=2).status_code == 200
    assert MINUTE / 2 - 50 < parrot.bodies[-1]["max_completion_tokens"] < MINUTE / 2


def test_no_limit_is_set_where_the_context_is_the_limit_or_the_prompt_might_not_fit_beside_it():
    parrot = Waiting()
    with listening({"parrot": parrot}, keys=[key()]) as (_, client):
        assert talk(client).status_code == 200
    with listening({"parrot": parrot}, keys=[key(tokens_per_minute=250)]) as (_, client):
        assert talk(client, "x" * 200).status_code == 200
    assert all("max_completion_tokens" not in body for body in parrot.bodies)


def test_a_refused_request_gives_back_what_it_had_reserved():
    with listening({"parrot": Waiting()}, keys=[key()]) as (_, client):
        for _ in range(5):
            assert talk(client, "refuse").status_code == 400
        assert left(client) == MINUTE
