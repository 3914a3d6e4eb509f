import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import door
from serving.door import DoorSettings
from tests.serving.doors import BEARER, KEY, SECRET, SETTINGS, Parrot, listening, wait_for

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def parrot():
    return Parrot()


@pytest.fixture
def served(parrot):
    with listening({"parrot": parrot, "org/second": Parrot()}) as found:
        yield found


@pytest.fixture
def client(served):
    return served[1]


def ask(client, prompt="hello", headers=BEARER, **fields):
    return client.post(COMPLETIONS, json={"model": "parrot", "prompt": prompt} | fields, headers=headers)


@contextmanager
def hanging_stream(client):
    """A stream of which the first part has arrived and the next will not."""
    body = {"model": "parrot", "prompt": "first hang", "stream": True}
    with client.stream("POST", COMPLETIONS, json=body, headers=BEARER) as response:
        parts = response.iter_text()
        assert "first" in next(parts)
        yield parts


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert SECRET not in response.text
    assert "Traceback" not in response.text
    return response.json()["error"]


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}])
def test_every_path_but_the_two_probes_wants_a_key(served, parrot, headers):
    app, client = served
    paths = {route.path.replace("{name:path}", "parrot") for route in app.routes} - door.OPEN_PATHS
    assert {CHAT, COMPLETIONS, "/v1/models", "/metrics", "/openapi.json"} <= paths
    for path in [*sorted(paths), "/", "/docs", "/nothing", "/health/", "/ready/", "/health/x", "//health", "/HEALTH"]:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
    assert parrot.bodies == []


def test_missing_and_wrong_key_are_not_told_apart(client):
    missing, wrong = ask(client, headers={}), ask(client, headers={"Authorization": "Bearer x"})
    assert (missing.status_code, missing.json()) == (wrong.status_code, wrong.json())
    assert error_of(missing)["code"] == "invalid_api_key"


def test_a_stranger_cannot_make_the_server_read_a_large_body_or_parse_json(client):
    assert client.post(COMPLETIONS, content=b"{" * 10_000).status_code == 401


def test_probes_are_open_and_say_nothing_more(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}


# --- requests -------------------------------------------------------------------------------------------------------


def test_an_answer_comes_as_the_backend_gave_it(client, parrot):
    response = ask(client, max_tokens=5, temperature=0)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"kind": "completions", "text": "hello"}
    [body] = parrot.bodies
    assert body["max_tokens"] == 5
    assert body["temperature"] == 0


def test_unknown_model_is_404_with_openai_s_code_and_reaches_no_backend(client, parrot):
    response = ask(client, model="gpt-4")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"
    assert "gpt-4" in error_of(response)["message"]
    assert client.get("/v1/models/gpt-4", headers=BEARER).status_code == 404
    assert parrot.bodies == []


def test_models_lists_every_model_once_with_its_limit(client):
    listed = client.get("/v1/models", headers=BEARER).json()
    assert [card["id"] for card in listed["data"]] == ["parrot", "org/second"]
    assert all(card["object"] == "model" and card["max_model_len"] == 64 for card in listed["data"])
    assert client.get("/v1/models/org/second", headers=BEARER).json() == listed["data"][1]


def test_metrics_of_every_model_are_behind_the_key(client):
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=BEARER).text == "vllm:num_requests_running 0\n" * 2


def test_unknown_path_and_method_are_errors_of_the_same_shape(client):
    missing = client.get("/v1/embeddings", headers=BEARER)
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    wrong = client.get(CHAT, headers=BEARER)
    assert wrong.status_code == 405
    assert error_of(wrong)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b'{"model": "parrot", "prompt": "\\ud800"}'),
        *(b"[" * 4000, b'{"model": ' + b"9" * 4000 + b"}", b'{"model": "parrot", "prompt": NaN}'),
    ],
)
def test_a_body_that_is_no_request_is_400_in_one_line(client, parrot, content):
    headers = BEARER | {"Content-Type": "application/json"}
    for path in (CHAT, COMPLETIONS):
        response = client.post(path, content=content, headers=headers)
        assert response.status_code == 400
        assert "\n" not in error_of(response)["message"]
    assert parrot.bodies == []


def test_a_body_sent_as_a_form_is_told_how_to_send_it(client):
    headers = BEARER | {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d sends
    response = client.post(COMPLETIONS, content=b'{"model": "parrot", "prompt": "x"}', headers=headers)
    assert response.status_code == 400
    assert "Content-Type: application/json" in error_of(response)["message"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps({"model": text}).encode()))
def test_no_body_whatever_makes_the_server_fail(client, content):
    response = client.post(CHAT, content=content, headers=BEARER | {"Content-Type": "application/json"})
    assert response.status_code in (400, 404)
    error_of(response)


def test_a_body_over_the_limit_is_refused_whether_it_says_its_length_or_not(client, parrot):
    body = json.dumps({"model": "parrot", "prompt": "x" * SETTINGS.max_body_bytes}).encode()
    headers = BEARER | {"Content-Type": "application/json"}
    told = client.post(COMPLETIONS, content=body, headers=headers)
    chunked = client.post(COMPLETIONS, content=iter([body[:100], body[100:]]), headers=headers)
    assert chunked.request.headers["transfer-encoding"] == "chunked"
    for response in (told, chunked):
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
        assert f"{SETTINGS.max_body_bytes:,}" in error_of(response)["message"]
    assert parrot.bodies == []


def test_a_body_of_exactly_the_limit_is_taken(client):
    empty = len(json.dumps({"model": "parrot", "prompt": ""}))
    body = json.dumps({"model": "parrot", "prompt": "x" * (SETTINGS.max_body_bytes - empty)}).encode()
    assert len(body) == SETTINGS.max_body_bytes
    headers = BEARER | {"Content-Type": "application/json"}
    assert client.post(COMPLETIONS, content=body, headers=headers).status_code == 200


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
    assert [json.loads(event.removeprefix("data: "))["text"] for event in events[:-2]] == ["a", "b", "c"]


def test_the_first_part_arrives_before_the_last_is_made(client, parrot):
    with hanging_stream(client):
        assert parrot.open == 1


def test_a_client_that_goes_away_ends_the_generation_and_frees_its_place(client, parrot):
    for _ in range(SETTINGS.max_num_seqs + SETTINGS.max_waiting + 2):
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


# --- the queue ------------------------------------------------------------------------------------------------------


def test_a_full_queue_answers_429_at_once_and_lets_in_again_when_a_place_is_free(client, parrot):
    with ExitStack() as held:
        for _ in range(SETTINGS.max_num_seqs + SETTINGS.max_waiting):
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
    for _ in range(SETTINGS.max_num_seqs + SETTINGS.max_waiting + 1):
        assert ask(client, "crash").status_code == 500
        assert ask(client, "crash", stream=True).status_code == 500
        assert ask(client, "refuse").status_code == 400
        ask(client, "x break", stream=True)
    assert ask(client).status_code == 200


# --- readiness ------------------------------------------------------------------------------------------------------


def test_many_who_ask_whether_it_is_ready_cost_one_probe(client, parrot):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.get("/ready").status_code, range(16)))
    assert found == [200] * 16
    assert len(parrot.bodies) == 1
    assert parrot.bodies[0]["max_tokens"] == 1


def test_an_engine_that_fails_is_alive_but_not_ready(client, parrot):
    async def fail():
        raise RuntimeError(SECRET)

    parrot.probe_failure = fail
    response = client.get("/ready")
    assert response.status_code == 503
    assert error_of(response)["code"] == "not_ready"
    assert client.get("/health").status_code == 200
    parrot.probe_failure = None
    wait_for(lambda: client.get("/ready").status_code == 200)


def test_an_engine_that_stalls_is_not_ready(client, parrot, monkeypatch):
    monkeypatch.setattr(door, "_PROBE_SECONDS", 0.2)
    parrot.probe_failure = lambda: asyncio.Event().wait()
    assert client.get("/ready").status_code == 503
    wait_for(lambda: parrot.open == 0)


# --- the wire -------------------------------------------------------------------------------------------------------


def test_the_openai_client_works_as_it_is(client, parrot):
    asked = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0)
    assert {model.id for model in asked.models.list()} == {"parrot", "org/second"}
    with pytest.raises(openai.NotFoundError):
        asked.chat.completions.create(model="x", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.AuthenticationError):
        asked.with_options(api_key="wrong").models.list()
    parts = [{"type": "text", "text": "hello"}]
    asked.chat.completions.create(model="parrot", messages=[{"role": "user", "content": parts}])
    assert parrot.bodies[-1]["messages"][0]["content"] == parts


def test_a_websocket_finds_no_door(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as wire:
        wire.sendall(
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        status = int(wire.recv(1000).split()[1])
    assert status in (401, 403)


def test_no_places_to_wait_is_a_valid_setting():
    parrot = Parrot()
    with listening({"parrot": parrot}, DoorSettings(max_num_seqs=1, max_waiting=0, max_body_bytes=4096)) as (_, client):
        with hanging_stream(client):
            assert ask(client).status_code == 429
        wait_for(lambda: parrot.open == 0)
        assert ask(client).status_code == 200
