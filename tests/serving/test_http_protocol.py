import socket
import time
from contextlib import ExitStack

import pytest

from serving import http_protocol
from tests.serving.doors import BEARER, COMPLETIONS, KEY, Parrot, ask, hanging_stream, listening

BEGUN = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()


@pytest.fixture
def parrot():
    return Parrot()


@pytest.fixture
def client(monkeypatch, parrot):
    monkeypatch.setattr(http_protocol, "_HEADER_SECONDS", 0.3)
    with listening({"parrot": parrot}, server={"http": http_protocol.BoundedProtocol}) as (_, client):
        yield client


def connect(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=10)


def closed(wire):
    try:
        return wire.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_connections_that_never_send_their_headers_are_closed_and_others_served(client):
    with ExitStack() as held:
        silent = held.enter_context(connect(client))
        slow = [held.enter_context(connect(client)) for _ in range(20)]
        for wire in slow:
            wire.sendall(BEGUN)
        assert ask(client).status_code == 200
        assert all(closed(wire) for wire in (silent, *slow))


def test_headers_without_end_are_refused_before_they_fill_the_memory(client):
    with connect(client) as wire:
        wire.sendall(BEGUN)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(10_000):
                wire.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")
    with connect(client) as wire:
        wire.sendall(BEGUN + b"X: " + b"x" * 70_000)
        answer = wire.recv(1000)
    assert answer.startswith(b"HTTP/1.1 431") and b'"code": "headers_too_large"' in answer


def test_an_answer_may_take_longer_than_headers_and_the_connection_goes_on(client, parrot):
    with hanging_stream(client):
        time.sleep(0.5)
        assert parrot.open == 1
    for _ in range(3):
        assert ask(client, headers=BEARER | {"X": "x" * 10_000}).status_code == 200


def test_a_body_is_not_counted_as_headers(client):
    assert client.post(COMPLETIONS, content=b"x" * 500_000, headers=BEARER).status_code == 413
