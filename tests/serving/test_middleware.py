import asyncio
import json
import socket
import time
import tracemalloc
from contextlib import ExitStack

import pytest

from serving import http_protocol, middleware
from serving.auth import Key, KeyRing, digest
from serving.middleware import _LARGEST_OF_KEY
from tests.serving.doors import BEARER, COMPLETIONS, KEY, MAX_BODY, Parrot, ask, error_of, listening, wait_for

BODY = json.dumps({"model": "parrot", "prompt": "hello"}).encode()


def head(key=KEY, length=None):
    lines = [f"POST {COMPLETIONS} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(BODY) if length is None else length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def connect(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=10)


# --- slow and large bodies ------------------------------------------------------------------------------------------


def test_a_body_that_comes_byte_by_byte_is_given_up_and_others_are_served_meanwhile():
    parrot = Parrot()
    with listening({"parrot": parrot}, body_timeout_s=0.5) as (_, client), ExitStack() as held:
        wires = [held.enter_context(connect(client)) for _ in range(100)]
        for wire in wires:
            wire.sendall(head() + BODY[:5])
        assert ask(client).status_code == 200
        answers = [wire.recv(1000) for wire in wires]
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
    assert b'"code":"request_timeout"' in answers[0]
    assert len(parrot.bodies) == 1


def test_a_stranger_s_body_is_not_waited_for():
    with listening({"parrot": Parrot()}, body_timeout_s=60) as (_, client), connect(client) as wire:
        wire.sendall(head(key="wrong", length=10**9))
        assert wire.recv(1000).startswith(b"HTTP/1.1 401")


def test_ten_megabytes_cost_no_more_than_the_limit():
    with listening({"parrot": Parrot()}) as (_, client):
        piece = b"x" * 65_536
        ask(client)
        tracemalloc.start()
        try:
            response = client.post(COMPLETIONS, content=iter([piece] * 160), headers=BEARER)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        except OSError:
            return  # the door has closed the connection, which is as good
        finally:
            tracemalloc.stop()
        assert response.status_code == 413


def test_headers_that_never_end_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(http_protocol, "_HEADER_SECONDS", 0.5)
    server = {"http": http_protocol.BoundedProtocol, "limit_concurrency": 70}
    with listening({"parrot": Parrot()}, server=server) as (_, client), ExitStack() as held:
        wires = [held.enter_context(connect(client)) for _ in range(60)]
        for wire in wires:
            wire.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX: ")
        assert ask(client).status_code == 200
        assert all(wire.recv(100) == b"" for wire in wires), "they are closed, not kept"


# --- bodies together ------------------------------------------------------------------------------------------------

OTHER = "rml-jihgfedcba9876543210"


def begin(held, client, key=KEY, length=MAX_BODY):
    """A body of which all but the first byte is to come; the beginning of an answer that comes at once."""
    wire = held.enter_context(connect(client))
    coding = f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"
    wire.sendall(head(key).replace(f"Content-Length: {len(BODY)}".encode(), coding.encode()))
    wire.settimeout(0.3)
    try:
        return wire.recv(2000)
    except TimeoutError:
        return None


@pytest.mark.parametrize("length", [MAX_BODY, None], ids=["declared", "chunked"])
def test_bodies_under_way_are_finite_for_each_key_and_others_are_served(length):
    keys = [Key(name=name, digest=digest(key)) for name, key in (("alice", KEY), ("bob", OTHER))]
    with listening({"parrot": Parrot()}, keys=keys) as (_, client):
        with ExitStack() as held:
            answers = [begin(held, client, length=length) for _ in range(_LARGEST_OF_KEY + 1)]
            assert answers[:-1] == [None] * _LARGEST_OF_KEY
            assert answers[-1].startswith(b"HTTP/1.1 429") and b"retry-after: 1" in answers[-1]
            assert error_of(ask(client))["code"] == "too_many_bytes"
            assert client.get("/v1/models", headers=BEARER).status_code == 200, "what has no body passes"
            assert ask(client, headers={"Authorization": f"Bearer {OTHER}"}).status_code == 200
        wait_for(lambda: ask(client).status_code == 200)


def test_bodies_under_way_are_finite_for_all_keys_together(monkeypatch):
    monkeypatch.setattr(middleware, "_LARGEST_TOGETHER", 3)
    keys = [Key(name=name, digest=digest(key)) for name, key in (("alice", KEY), ("bob", OTHER))]
    with listening({"parrot": Parrot()}, keys=keys) as (_, client), ExitStack() as held:
        assert [begin(held, client, key) for key in (KEY, KEY, OTHER)] == [None] * 3
        refused = ask(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert error_of(refused)["code"] == "too_many_bytes"
        assert client.get("/health").status_code == 200


def test_strangers_at_an_open_path_take_no_room_from_those_who_have_a_key():
    class Stalled(Parrot):
        async def alive(self, kind, body):
            await asyncio.Event().wait()

    parrot = Stalled()
    with listening({"parrot": parrot}, max_body_bytes=100_000) as (_, client), ExitStack() as held:
        for length in (100_000, 4096):
            for _ in range(middleware._LARGEST_TOGETHER):
                wire = held.enter_context(connect(client))
                wire.sendall(f"GET /ready HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
                if length > 4096:
                    assert wire.recv(1000).startswith(b"HTTP/1.1 413")
        largest = json.dumps({"model": "parrot", "prompt": "hello", "user": "x" * 99_000}).encode()
        headers = BEARER | {"Content-Type": "application/json"}
        assert client.post(COMPLETIONS, content=largest, headers=headers).status_code == 200


def test_bytes_of_every_end_of_a_request_are_given_back():
    with listening({"parrot": Parrot()}) as (_, client):
        for _ in range(_LARGEST_OF_KEY + 5):
            pieces = iter([json.dumps({"model": "parrot", "prompt": "x"}).encode()])
            headers = BEARER | {"Content-Type": "application/json"}
            assert client.post(COMPLETIONS, content=pieces, headers=headers).status_code == 200
            assert ask(client, "crash", user="x" * 3000).status_code == 500
            assert ask(client, "refuse", user="x" * 3000).status_code == 400
            assert client.post(COMPLETIONS, content=iter([b"x" * 5000]), headers=headers).status_code == 413


# --- keys -----------------------------------------------------------------------------------------------------------


def test_ten_thousand_wrong_keys_leave_nothing_behind_and_reach_nothing():
    parrot = Parrot()
    statuses = []

    async def send(message):
        statuses.append(message.get("status"))

    async def receive():
        raise AssertionError("a stranger's body was read")

    async def knock(app):
        for number in range(10_000):
            headers = [(b"authorization", b"Bearer wrong-%d" % number)]
            scope = {"type": "http", "method": "POST", "path": COMPLETIONS, "headers": headers, "client": ("::1", 1)}
            await app(scope, receive, send)

    with listening({"parrot": parrot}) as (app, client):
        asyncio.run(knock(app))
        assert statuses.count(401) == 10_000
        text = client.get("/metrics", headers=BEARER).text
        (counted,) = [line for line in text.splitlines() if line.startswith("raymill_requests_total") and "401" in line]
        assert counted.endswith(" 10000.0")
        assert "wrong-" not in text
    assert parrot.bodies == []


def test_a_key_that_has_used_up_its_requests_is_told_when_to_come_back():
    key = Key(name="alice", digest=digest(KEY), requests_per_minute=2)
    other = Key(name="bob", digest=digest("rml-jihgfedcba9876543210"))
    with listening({"parrot": Parrot()}, keys=[key, other]) as (_, client):
        first, second, third = (ask(client) for _ in range(3))
        assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert error_of(third)["code"] == "rate_limit_exceeded"
        assert 25 <= int(third.headers["retry-after"]) <= 30
        assert client.get("/v1/models", headers=BEARER).status_code == 429, "every path counts"
        assert client.get("/health").status_code == 200
        unlimited = ask(client, headers={"Authorization": "Bearer rml-jihgfedcba9876543210"})
        assert unlimited.status_code == 200
        assert not [name for name in unlimited.headers if name.startswith("x-ratelimit")]


def test_a_key_is_charged_for_what_was_used_and_cannot_overdraw_by_asking_for_much():
    key = Key(name="alice", digest=digest(KEY), tokens_per_minute=100)
    with listening({"parrot": Parrot()}, keys=[key]) as (_, client):
        never = ask(client, max_tokens=500)
        assert (never.status_code, never.headers["x-should-retry"]) == (400, "false")
        assert error_of(never)["code"] == "request_too_large"
        assert ask(client, "a b c", max_tokens=10).status_code == 200
        left = int(ask(client, "a b c", max_tokens=10).headers["x-ratelimit-remaining-tokens"])
        assert 60 <= left <= 80, "10 of the first; of the second, whose answer begins, what it may use at most"
        for _ in range(3):
            assert ask(client, "refuse", max_tokens=40).status_code == 400
        assert ask(client, "a", max_tokens=40).status_code == 200, "what was refused costs nothing"


def test_counting_tokens_costs_none():
    class Tokenizer(Parrot):
        async def generate(self, kind, body):
            yield '{"count":3,"tokens":[1,2,3]}'

    key = Key(name="alice", digest=digest(KEY), tokens_per_minute=100)
    with listening({"parrot": Tokenizer()}, keys=[key]) as (_, client):
        for _ in range(20):
            response = client.post("/tokenize", json={"model": "parrot", "prompt": "x" * 100}, headers=BEARER)
            assert response.status_code == 200


def test_who_leaves_before_the_counts_come_is_charged_all_the_same():
    key = Key(name="alice", digest=digest(KEY), tokens_per_minute=1000)
    parrot = Parrot()
    with listening({"parrot": parrot}, keys=[key]) as (_, client):
        body = {"model": "parrot", "prompt": "first " * 100 + "hang", "stream": True, "max_tokens": 1}
        with client.stream("POST", COMPLETIONS, json=body, headers=BEARER) as response:
            next(response.iter_text())
        wait_for(lambda: parrot.open == 0)
        time.sleep(0.05)
        assert int(client.get("/v1/models", headers=BEARER).headers["x-ratelimit-remaining-tokens"]) < 850


def test_keys_change_while_the_door_is_open(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.auth._LOOK_AGAIN_SECONDS", 0.05)
    file = tmp_path / "keys"
    file.write_text(KEY + "\n")
    with listening({"parrot": Parrot()}, keys=KeyRing([], file)) as (_, client):
        assert ask(client).status_code == 200
        file.write_text("rml-jihgfedcba9876543210\n")
        wait_for(lambda: ask(client).status_code == 401)
        assert ask(client, headers={"Authorization": "Bearer rml-jihgfedcba9876543210"}).status_code == 200
        file.write_text("short\n")
        time.sleep(0.1)
        assert ask(client, headers={"Authorization": "Bearer rml-jihgfedcba9876543210"}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_open_paths_read_no_body(path):
    with listening({"parrot": Parrot()}) as (_, client):
        assert client.request("GET", path, content=b"x" * 4000).status_code == 200
        assert client.request("GET", path, content=b"x" * 100_000).status_code == 413
        with connect(client) as wire:
            wire.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n".encode())
            assert wire.recv(1000).startswith(b"HTTP/1.1 200"), "the answer waits for no body"
