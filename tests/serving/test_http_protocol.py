import json
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


# --- trailers, and what comes after an answer -----------------------------------------------------------------------

CHUNKED = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()


def send_until_closed(wire, piece, at_most=50_000_000):
    """How many bytes went out before the door closed the connection."""
    wire.settimeout(10)
    sent = 0
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while sent < at_most:
            wire.sendall(piece)
            sent += len(piece)
    return sent


@pytest.mark.parametrize("key", ["wrong", KEY])
@pytest.mark.parametrize("body", [b"", b"1\r\n{\r\n"])
@pytest.mark.parametrize("trailer", [b"X-More: " + b"y" * 1000 + b"\r\n", b"y" * 1000], ids=["many", "endless"])
def test_trailers_without_end_close_the_connection(client, key, body, trailer):
    with connect(client) as wire:
        wire.sendall(CHUNKED + f"Authorization: Bearer {key}\r\n\r\n".encode() + body + b"0\r\nX: ")
        assert send_until_closed(wire, trailer * 8) < 10_000_000
    assert ask(client).status_code == 200


def test_trailers_that_come_drop_by_drop_are_given_up_after_the_answer(client, monkeypatch):
    monkeypatch.setattr(http_protocol, "_LINGER_SECONDS", 0.3)
    with connect(client) as wire:
        wire.sendall(CHUNKED + b"Authorization: Bearer wrong\r\n\r\n0\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 401")
        began = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - began < 10:
                wire.sendall(b"X: y\r\n")
                time.sleep(0.02)


def test_trailers_are_no_headers_of_anybody(client, parrot):
    body = json.dumps({"model": "parrot", "prompt": "hello"}).encode()
    with connect(client) as wire:
        wire.sendall(CHUNKED + f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\r\n".encode())
        wire.sendall(b"%x\r\n" % len(body) + body + b"\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 200")
        assert len(parrot.bodies) == 1
        wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 200"), "the connection goes on"


def test_of_a_body_that_nobody_wants_only_so_much_is_read(client):
    with connect(client) as wire:
        wire.sendall(BEGUN.replace(KEY.encode(), b"wrong") + b"Content-Length: 1000000000\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 401")
        assert send_until_closed(wire, b"x" * 65_536) < 20_000_000


def test_a_body_that_nobody_wants_is_waited_for_only_so_long(client, monkeypatch):
    monkeypatch.setattr(http_protocol, "_LINGER_SECONDS", 0.3)
    with connect(client) as wire:
        wire.sendall(BEGUN.replace(KEY.encode(), b"wrong") + b"Content-Length: 1000000000\r\n\r\nx")
        assert wire.recv(1000).startswith(b"HTTP/1.1 401")
        assert closed(wire)


def test_empty_lines_between_requests_do_not_hold_a_connection(client):
    with connect(client) as wire:
        wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 200")
        wire.sendall(b"\r\n")
        assert closed(wire)


def test_a_refused_body_that_ends_soon_leaves_the_connection_whole(client):
    with connect(client) as wire:
        wire.sendall(BEGUN.replace(KEY.encode(), b"wrong") + b"Content-Length: 200000\r\n\r\nx")
        assert wire.recv(1000).startswith(b"HTTP/1.1 401")
        wire.sendall(b"x" * 199_999 + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 200")
        assert closed(wire), "and it is not held for ever"
