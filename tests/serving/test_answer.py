import json
import socket
import time
from contextlib import ExitStack

import openai
import pytest

from tests.serving.doors import (
    BEARER,
    COMPLETIONS,
    KEY,
    RUNNING,
    SECRET,
    WAITING,
    Parrot,
    ask,
    catalogue_of,
    error_of,
    events_of,
    hanging_stream,
    listening,
    wait_for,
)

# --- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_is_server_sent_events_as_they_come_and_ends_with_done(client):
    with client.stream(
        "POST", COMPLETIONS, json={"model": "parrot", "prompt": "a b c", "stream": True}, headers=BEARER
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        text = response.read().decode()
    events = text.split("\n\n")
    assert events[-1] == ""
    assert events[-2] == "data: [DONE]"
    assert [event["text"] for event in events_of(text) if "text" in event] == ["a", "b", "c"]


def test_the_first_part_arrives_before_the_last_is_made(client, parrot):
    with hanging_stream(client):
        assert parrot.open == 1


def test_a_client_that_goes_away_ends_the_generation_and_frees_its_place(client, parrot):
    for _ in range(RUNNING + WAITING + 2):
        with hanging_stream(client):
            pass
        wait_for(lambda: parrot.open == 0)


@pytest.mark.parametrize(("prompt", "code"), [("x break", "internal_error"), ("x refuse", "not_ready")])
def test_a_stream_that_breaks_off_ends_with_an_error_and_never_looks_whole(client, parrot, prompt, code):
    text = ask(client, prompt, stream=True).text
    assert "[DONE]" not in text
    assert SECRET not in text
    last = text.rstrip("\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == code
    asked = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0)
    with pytest.raises(openai.APIError):
        list(asked.completions.create(model="parrot", prompt=prompt, stream=True))
    assert parrot.open == 0


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_backend_refuses_is_told_in_its_words_with_its_status(client, stream):
    response = ask(client, "refuse", stream=stream)
    assert response.status_code == 400
    assert error_of(response)["message"] == "max_tokens is too large."
    assert error_of(response)["param"] == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_a_crash_inside_is_500_tells_nothing_and_leaves_the_connection_whole(client, parrot, stream):
    for _ in range(5):
        response = ask(client, "crash", stream=stream)
        assert response.status_code == 500
        assert error_of(response)["code"] == "internal_error"
    assert parrot.open == 0
    assert ask(client).status_code == 200


# --- token counts ---------------------------------------------------------------------------------------------------


def test_the_chunk_of_token_counts_goes_on_only_to_who_asked_for_it(client, parrot):
    plain = events_of(ask(client, "a b", stream=True).text)
    counted = events_of(ask(client, "a b", stream=True, stream_options={"include_usage": True}).text)
    assert counted[:-1] == plain
    assert counted[-1] == {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}
    assert all(body["stream_options"]["include_usage"] for body in parrot.bodies), "the door counts for itself"


def test_a_text_that_looks_like_the_chunk_of_token_counts_goes_through(client):
    word = '"choices":[],"usage":{"prompt_tokens":9}'
    assert ask(client, word, stream=True).text.count("prompt_tokens") == 2  # in `text` and in the delta
    assert ask(client, word).json()["text"] == word


# --- deadlines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_does_not_begin_in_time_is_504_and_its_generation_ends(parrot, stream):
    with listening({"parrot": parrot}, request_timeout_s=0.2) as (_, client):
        response = ask(client, "hang", stream=stream)
        assert response.status_code == 504
        assert error_of(response)["code"] == "timeout"
        assert response.headers["x-should-retry"] == "false"
        wait_for(lambda: parrot.open == 0)
        assert ask(client).status_code == 200, "its place in the queue is free again"


def test_a_stream_that_does_not_end_in_time_ends_with_an_error(parrot):
    with listening({"parrot": parrot}, request_timeout_s=0.3) as (_, client):
        response = ask(client, "first hang", stream=True)
        assert response.status_code == 200
        assert events_of(response.text)[-1]["error"]["code"] == "timeout"
        assert "[DONE]" not in response.text
        wait_for(lambda: parrot.open == 0)


def test_a_client_that_waits_for_less_ends_the_work_when_it_stops_waiting(client, parrot):
    began = time.monotonic()
    assert ask(client, "hang", headers=BEARER | {"X-Stainless-Read-Timeout": "0.2"}).status_code == 504
    assert time.monotonic() - began < 10
    for nonsense in ("nan", "-1", "inf", "soon", ""):
        assert ask(client, headers=BEARER | {"X-Stainless-Read-Timeout": nonsense}).status_code == 200
    asked = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0, timeout=0.3)
    with pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
        asked.completions.create(model="parrot", prompt="hang")
    wait_for(lambda: parrot.open == 0)


def test_a_client_that_leaves_before_the_first_byte_ends_the_generation_too(client, parrot):
    with pytest.raises(Exception, match="timed out"):
        client.post(COMPLETIONS, json={"model": "parrot", "prompt": "hang"}, headers=BEARER, timeout=0.2)
    wait_for(lambda: parrot.open == 0)


def test_a_client_that_does_not_read_its_stream_is_dropped_at_the_deadline(parrot):
    with listening({"parrot": parrot}, request_timeout_s=0.5) as (_, client):
        body = json.dumps({"model": "parrot", "prompt": "flood", "stream": True}).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        head += "Content-Type: application/json\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as wire:
            wire.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: parrot.open == 1)
            wait_for(lambda: parrot.open == 0)
        assert ask(client).status_code == 200


# --- the queue ------------------------------------------------------------------------------------------------------


def test_a_full_queue_answers_429_at_once_and_lets_in_again_when_a_place_is_free(client, parrot):
    with ExitStack() as held:
        for _ in range(RUNNING + WAITING):
            held.enter_context(hanging_stream(client))
        refused = ask(client)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert error_of(refused)["code"] == "queue_full"
        assert ask(client, model="org/second").status_code == 200, "one model's queue must not block another's"
        assert client.get("/health").status_code == 200
    wait_for(lambda: parrot.open == 0)
    assert ask(client).status_code == 200


def test_failures_of_every_kind_use_up_no_place(client):
    for _ in range(RUNNING + WAITING + 1):
        assert ask(client, "crash").status_code == 500
        assert ask(client, "crash", stream=True).status_code == 500
        assert ask(client, "refuse").status_code == 400
        ask(client, "x break", stream=True)
    assert ask(client).status_code == 200


def test_the_door_as_a_whole_is_finite_too():
    models = {"parrot": Parrot(), "second": Parrot()}
    with listening(models, max_requests=2) as (_, client), ExitStack() as held:
        for _ in range(2):
            held.enter_context(hanging_stream(client))
        assert error_of(ask(client, model="second"))["code"] == "queue_full"


def test_what_a_full_queue_refuses_never_reaches_the_engine(client, parrot):
    with ExitStack() as held:
        for _ in range(RUNNING + WAITING):
            held.enter_context(hanging_stream(client))
        before = len(parrot.bodies)
        assert {ask(client).status_code for _ in range(20)} == {429}
        assert len(parrot.bodies) == before


def test_no_places_to_wait_is_a_valid_setting():
    parrot = Parrot()
    catalogue = catalogue_of({"parrot": parrot}, running=1, waiting=0)
    with listening({}, catalogue=catalogue) as (_, client):
        with hanging_stream(client):
            assert ask(client).status_code == 429
        wait_for(lambda: parrot.open == 0)
        assert ask(client).status_code == 200
