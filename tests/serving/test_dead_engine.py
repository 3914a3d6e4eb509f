"""Engine, replica and door killed under load: requests end, and the endpoint is ready again by itself."""

import threading
import time

import httpx
import pytest

from tests.serving.doors import wait_for
from tests.serving.processes import processes

pytestmark = pytest.mark.faults

CLIENTS = 3
NOTICED_SECONDS = 30.0
READY_SECONDS = 180.0
"""A cold start of vLLM takes 65 to 100 s on two cores; finding out and ending what is left take the rest."""
LONGEST_SECONDS = READY_SECONDS + NOTICED_SECONDS
"""Of a request, which may be held until the next engine is there. Clients wait twice as long: one that hangs shows."""


def ready(endpoint):
    try:
        return httpx.get(f"{endpoint.root}/ready", timeout=60).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("victim", ["engine", "replica", "door"])
def test_what_died_is_replaced_while_clients_ask_on(endpoint, victim):
    stop = threading.Event()
    seconds, codes = [], []

    def ask():
        body = {"model": endpoint.model_id, "prompt": "a", "max_tokens": 200, "ignore_eos": True, "stream": True}
        while not stop.is_set():
            began = time.monotonic()
            try:
                with httpx.stream(
                    "POST",
                    f"{endpoint.url}/completions",
                    json=body,
                    headers=endpoint.bearer,
                    timeout=2 * LONGEST_SECONDS,
                ) as response:
                    text = "".join(response.iter_text())
                    codes.append(response.status_code if "error" not in text else 500)
            except httpx.HTTPError as error:
                codes.append(type(error).__name__)
            seconds.append(time.monotonic() - began)
            time.sleep(0.2)

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: len(codes) >= 2 * CLIENTS, READY_SECONDS)
        assert set(codes) == {200}
        (doomed,) = processes(victim)
        doomed.kill()
        died = time.monotonic()
        # A probe may be held until the next one is there, and be answered by it.
        while ready(endpoint) and all(process.pid == doomed.pid for process in processes(victim)):
            assert time.monotonic() - died < NOTICED_SECONDS, f"the endpoint calls itself ready without its {victim}"
            time.sleep(0.2)
        noticed = time.monotonic() - died
        while not ready(endpoint):
            assert time.monotonic() - died < READY_SECONDS, f"not ready again; {codes[-20:]}"
            time.sleep(0.5)
        print(f"{victim}: noticed after {noticed:.1f} s, ready again {time.monotonic() - died:.1f} s after its death")
        done = len(codes)
        while len(codes) < done + 2 * CLIENTS:
            time.sleep(0.1)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(codes[-CLIENTS:]) == {200}
    # Who is cut off in the middle of a stream is told so; without a door there is nobody to tell.
    cut = {"RemoteProtocolError", "ReadError", "ConnectError"} if victim == "door" else set()
    assert set(codes) <= {200, 500, 503} | cut
    assert max(seconds) < LONGEST_SECONDS, "a request hung"
    assert len(processes("engine")) == 1, "the engine of a dead replica must not stay"
