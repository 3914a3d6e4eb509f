import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving import readiness
from serving.errors import not_ready
from tests.serving.doors import SECRET, Parrot, catalogue_of, error_of, listening, wait_for


@pytest.fixture
def parrot():
    return Parrot()


@pytest.fixture
def client(parrot):
    with listening({"parrot": parrot, "second": Parrot()}) as (_, client):
        yield client


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
    monkeypatch.setattr(readiness, "_PROBE_SECONDS", 0.2)
    parrot.probe_failure = lambda: asyncio.Event().wait()
    assert client.get("/ready").status_code == 503
    wait_for(lambda: parrot.open == 0)


def test_a_model_that_may_sleep_is_not_woken_to_ask_whether_it_is_awake(parrot):
    with listening({}, catalogue=catalogue_of({"parrot": parrot}, sleeps=True)) as (_, client):
        assert client.get("/ready").status_code == 200
    assert parrot.bodies == []


def test_an_embedding_model_is_probed_with_a_text_to_embed(parrot):
    with listening({}, catalogue=catalogue_of({"parrot": parrot}, task="embed")) as (_, client):
        assert client.get("/ready").status_code == 200
    assert parrot.bodies == [{"model": "parrot", "input": "a"}]


def test_a_door_that_serves_nothing_is_not_ready():
    with listening({}, catalogue=catalogue_of({})) as (_, client):
        assert client.get("/ready").status_code == 503


# --- one engine -----------------------------------------------------------------------------------------------------


class Engine:
    """Its probe waits behind other work, as long as it is told to; it writes tokens for others, or does not."""

    def __init__(self, answer=None, others=False):
        self.answer, self.others, self.written, self.waiting = answer, others, 0, 0

    async def probe(self):
        self.waiting += 1
        try:
            if self.answer is None:
                await asyncio.Event().wait()
            yield self.answer
        finally:
            self.waiting -= 1

    def tokens(self):
        self.written += self.others
        return self.written


@pytest.mark.parametrize(
    ("engine", "lives"),
    [
        (Engine("a token"), True),
        (Engine(not_ready()), False),
        (Engine(None, others=True), True),
        (Engine(None), False),
    ],
)
def test_an_engine_that_is_full_lives_and_one_that_stalls_does_not(engine, lives, monkeypatch):
    monkeypatch.setattr(readiness, "_STALL_SECONDS", 0.3)
    monkeypatch.setattr(readiness, "_LOOK_SECONDS", 0.05)
    assert asyncio.run(readiness.alive(engine.probe(), engine.tokens)) == lives
    assert engine.waiting == 0, "a probe that nobody waits for must not take a place in the engine"
