import json
import socket

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.door import OPEN_PATHS
from tests.serving.doors import (
    BEARER,
    CHAT,
    COMPLETIONS,
    KEY,
    MAX_BODY,
    Parrot,
    ask,
    catalogue_of,
    error_of,
    listening,
)

# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}])
def test_every_path_but_the_two_probes_wants_a_key(door, parrot, headers):
    app, client, _ = door
    paths = {route.path.replace("{name:path}", "parrot") for route in app.routes} - OPEN_PATHS
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
    assert response.json()["text"] == "hello"
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
    text = client.get("/metrics", headers=BEARER).text
    assert text.count("\nvllm:num_requests_running 0") == 2
    assert text.count("# TYPE vllm:num_requests_running") == 1, "Prometheus refuses a family that is described twice"
    assert 'raymill_requests_total{key="none",model="none",route="none",status="401"}' in text


def test_unknown_path_and_method_are_errors_of_the_same_shape(client):
    missing = client.get("/v1/nothing", headers=BEARER)
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
    body = json.dumps({"model": "parrot", "prompt": "x" * MAX_BODY}).encode()
    headers = BEARER | {"Content-Type": "application/json"}
    told = client.post(COMPLETIONS, content=body, headers=headers)
    chunked = client.post(COMPLETIONS, content=iter([body[:100], body[100:]]), headers=headers)
    assert chunked.request.headers["transfer-encoding"] == "chunked"
    for response in (told, chunked):
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
        assert f"{MAX_BODY:,}" in error_of(response)["message"]
    assert parrot.bodies == []


def test_a_body_of_exactly_the_limit_is_taken(client):
    empty = len(json.dumps({"model": "parrot", "prompt": ""}))
    body = json.dumps({"model": "parrot", "prompt": "x" * (MAX_BODY - empty)}).encode()
    assert len(body) == MAX_BODY
    headers = BEARER | {"Content-Type": "application/json"}
    assert client.post(COMPLETIONS, content=body, headers=headers).status_code == 200


# --- what is served -------------------------------------------------------------------------------------------------


def test_aliases_and_adapters_are_asked_by_the_name_that_the_engine_knows(parrot):
    catalogue = catalogue_of({"parrot": parrot}, aliases={"gpt-4o": "poet", "old": "parrot"}, adapters=["poet"])
    with listening({}, catalogue=catalogue) as (_, client):
        for name, known in (("gpt-4o", "poet"), ("poet", "poet"), ("old", "parrot"), ("parrot", "parrot")):
            assert ask(client, model=name).status_code == 200
            assert parrot.bodies[-1]["model"] == known
        cards = {card["id"]: card for card in client.get("/v1/models", headers=BEARER).json()["data"]}
        assert list(cards) == ["parrot", "poet", "gpt-4o", "old"]
        assert cards["gpt-4o"]["root"] == "poet"
        assert cards["poet"]["parent"] == cards["gpt-4o"]["parent"] == "parrot"
        assert "parent" not in cards["old"]


def test_a_model_that_comes_and_goes_is_served_and_forgotten_without_a_restart(parrot):
    backends = {"one": parrot, "two": Parrot()}
    catalogue = catalogue_of({"one": parrot})
    catalogue._connect = backends.__getitem__
    with listening({}, catalogue=catalogue) as (_, client):
        assert ask(client, model="two").status_code == 404
        catalogue.update({"models": {"two": {"deployment": "two"}}})
        assert ask(client, model="two").status_code == 200
        assert ask(client, model="one").status_code == 404


def test_an_engine_that_does_not_answer_hides_neither_the_list_nor_the_other_metrics():
    async def fail():
        raise RuntimeError("/root/secret")

    broken = Parrot()
    broken.limits = broken.metrics = fail
    with listening({"broken": broken, "parrot": Parrot()}) as (_, client):
        listed = client.get("/v1/models", headers=BEARER)
        assert [card.get("max_model_len") for card in listed.json()["data"]] == [None, 64]
        assert "vllm:num_requests_running 0" in client.get("/metrics", headers=BEARER).text


# --- browsers -------------------------------------------------------------------------------------------------------

PREFLIGHT = {
    "Origin": "https://chat.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_no_page_of_another_origin_may_ask_unless_it_is_listed(client, parrot):
    assert client.options(CHAT, headers=PREFLIGHT).status_code == 401
    assert "access-control-allow-origin" not in ask(client, headers=BEARER | PREFLIGHT).headers
    with listening({"parrot": parrot}, cors_origins=["https://chat.example"]) as (_, listed):
        allowed = listed.options(CHAT, headers=PREFLIGHT)
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in allowed.headers
        other = listed.options(CHAT, headers=PREFLIGHT | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = ask(listed, headers={"Origin": "https://chat.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://chat.example")


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
