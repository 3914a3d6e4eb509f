import json
import re
import socket
import ssl
import time
from contextlib import ExitStack, suppress

import httpx
import pytest

from serving import http_protocol
from tests.serving.doors import BEARER, COMPLETIONS, KEY, Parrot, ask, hanging_stream, listening, wait_for
from tests.serving.test_listener import self_signed

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


def received(wire):
    """A whole answer, which may come in parts: its head, and a body as long as it says."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + int(
        re.search(rb"(?i)content-length: (\d+)", data)[1]
    ):
        part = wire.recv(1000)
        assert part, f"the connection was closed after {data!r}"
        data += part
    return data


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
        assert send_until_closed(wire, trailer * 8) < 20_000_000
    assert ask(client).status_code == 200


def test_trailers_that_come_drop_by_drop_are_given_up_after_the_answer(client, monkeypatch):
    monkeypatch.setattr(http_protocol, "_LINGER_SECONDS", 0.3)
    with connect(client) as wire:
        wire.sendall(CHUNKED + b"Authorization: Bearer wrong\r\n\r\n0\r\n")
        assert received(wire).startswith(b"HTTP/1.1 401")
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
        assert received(wire).startswith(b"HTTP/1.1 200")
        assert len(parrot.bodies) == 1
        wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert received(wire).startswith(b"HTTP/1.1 200"), "the connection goes on"


def test_of_a_body_that_nobody_wants_only_so_much_is_read(client):
    with connect(client) as wire:
        wire.sendall(BEGUN.replace(KEY.encode(), b"wrong") + b"Content-Length: 1000000000\r\n\r\n")
        assert received(wire).startswith(b"HTTP/1.1 401")
        assert send_until_closed(wire, b"x" * 65_536) < 20_000_000


def test_a_body_that_nobody_wants_is_waited_for_only_so_long(client, monkeypatch):
    monkeypatch.setattr(http_protocol, "_LINGER_SECONDS", 0.3)
    with connect(client) as wire:
        wire.sendall(BEGUN.replace(KEY.encode(), b"wrong") + b"Content-Length: 1000000000\r\n\r\nx")
        assert received(wire).startswith(b"HTTP/1.1 401")
        assert closed(wire)


def test_empty_lines_between_requests_do_not_hold_a_connection(client):
    with connect(client) as wire:
        wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert received(wire).startswith(b"HTTP/1.1 200")
        wire.sendall(b"\r\n")
        assert closed(wire)


def test_a_refused_body_that_ends_soon_leaves_the_connection_whole(client):
    with connect(client) as wire:
        wire.sendall(BEGUN.replace(KEY.encode(), b"wrong") + b"Content-Length: 200000\r\n\r\nx")
        assert received(wire).startswith(b"HTTP/1.1 401")
        wire.sendall(b"x" * 199_999 + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert received(wire).startswith(b"HTTP/1.1 200")
        assert closed(wire), "and it is not held for ever"


# --- clients that do not read, and too many -------------------------------------------------------------------------


def flood():
    body = json.dumps({"model": "parrot", "prompt": "flood", "stream": True}).encode()
    return BEGUN + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_a_client_that_never_reads_is_dropped(client, parrot, monkeypatch):
    monkeypatch.setattr(http_protocol, "_SEND_SECONDS", 0.5)
    with connect(client) as wire:
        wire.sendall(flood())
        wait_for(lambda: parrot.open == 1)
        wait_for(lambda: parrot.open == 0)
    assert ask(client).status_code == 200


def test_requests_ahead_of_their_answers_are_finite(client):
    with connect(client) as wire:
        wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        wait_for(lambda: wire.recv(100_000, socket.MSG_PEEK).count(b"HTTP/1.1 200") == 50)
    with connect(client) as wire:
        with suppress(OSError):
            wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
        with suppress(ConnectionResetError):
            while answer := wire.recv(100_000):
                assert answer.count(b"HTTP/1.1 200") < 1000


def test_a_client_that_reads_slowly_gets_all(client, monkeypatch):
    monkeypatch.setattr(http_protocol, "_SEND_SECONDS", 1.0)
    with connect(client) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.sendall(flood())
        for _ in range(30):
            assert wire.recv(200_000)
            time.sleep(0.1)


class Large(Parrot):
    """One answer that is not streamed."""

    size = 12_000_000

    async def generate(self, kind, body):
        yield "x" * self.size


def read(wire, per_second, at_most=10**9):
    """How many bytes come."""
    found = 0
    with suppress(ConnectionResetError, ssl.SSLError):
        while found < at_most and (piece := wire.recv(100_000)):
            found += len(piece)
            time.sleep(len(piece) / per_second)
    return found


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["keep", "close"])
def test_a_large_answer_may_take_a_steady_reader_longer_than_an_idle_one_may(monkeypatch, tmp_path, tls, close):
    monkeypatch.setattr(http_protocol, "_SEND_SECONDS", 0.5)
    server = {"http": http_protocol.BoundedProtocol}
    if tls:
        certificate, key = self_signed(tmp_path)
        server |= {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    with listening({"parrot": Large()}, server=server) as (_, client), ExitStack() as held:
        wire = socket.socket()
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.settimeout(10)
        wire.connect((client.base_url.host, client.base_url.port))
        if tls:
            wire = ssl.create_default_context(cafile=str(certificate)).wrap_socket(wire, server_hostname="127.0.0.1")
        held.enter_context(wire)
        body = json.dumps({"model": "parrot", "prompt": "x"}).encode()
        head = BEGUN + close + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        wire.sendall(head + body)
        began = time.monotonic()
        assert read(wire, 4e6, Large.size) >= Large.size
        assert time.monotonic() - began > 1, "longer than is waited for who reads nothing"


def test_who_stops_reading_in_the_middle_of_a_large_answer_is_dropped(monkeypatch):
    monkeypatch.setattr(http_protocol, "_SEND_SECONDS", 0.5)
    server = {"http": http_protocol.BoundedProtocol}
    with listening({"parrot": Large()}, server=server) as (_, client), connect(client) as wire:
        body = json.dumps({"model": "parrot", "prompt": "x"}).encode()
        wire.sendall(BEGUN + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert received(wire).startswith(b"HTTP/1.1 200")
        time.sleep(2)
        assert read(wire, 1e9) < Large.size


def test_connections_beyond_the_limit_are_told_so_and_the_door_says_that_it_lives():
    server = {"http": http_protocol.BoundedProtocol, "limit_concurrency": 5}
    with listening({"parrot": Parrot()}, server=server) as (_, client), ExitStack() as held:
        assert ask(client).status_code == 200
        many = [held.enter_context(connect(client)) for _ in range(4)]
        with httpx.Client(base_url=client.base_url) as other:
            refused = ask(other)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
            assert refused.headers["retry-after"] == "5" and refused.headers["connection"] == "close"
            alive = other.get("/health")
            assert (alive.status_code, alive.headers["connection"]) == (200, "close")
        assert ask(client).status_code == 200, "who was there before stays"
        more = [held.enter_context(connect(client)) for _ in range(http_protocol._CROWD + 5)]
        assert sum(closed(wire) for wire in more[-5:]) == 5
        for wire in (*many, *more):
            wire.close()

        def let_in():
            with httpx.Client(base_url=client.base_url) as other:
                return ask(other).status_code == 200

        wait_for(let_in)
