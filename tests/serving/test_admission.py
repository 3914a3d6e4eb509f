import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import admission
from serving.admission import Gate
from serving.errors import ApiError


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    return now


def fill(gate, count):
    held = [gate.admitted() for _ in range(count)]
    for place in held:
        place.__enter__()
    return held


def test_what_does_not_fit_is_told_when_to_come_back():
    gate = Gate(running=2, waiting=1)
    held = fill(gate, 3)
    with pytest.raises(ApiError) as raised, gate.admitted():
        raise AssertionError("a fourth request came in")
    assert raised.value.status == 429
    assert raised.value.type == "rate_limit_error"
    assert int(raised.value.headers["Retry-After"]) >= 1
    assert gate.inside == 3, "the refused one must not have taken a place"
    held[0].__exit__(None, None, None)
    with gate.admitted():
        assert gate.inside == 3


def test_a_request_that_fails_gives_its_place_back():
    gate = Gate(running=1, waiting=0)
    for _ in range(5):
        with pytest.raises(ValueError, match="broken"), gate.admitted():
            raise ValueError("broken")
    assert gate.inside == 0


def test_a_cancelled_request_gives_its_place_back():
    gate = Gate(running=1, waiting=0)

    async def work():
        with gate.admitted():
            await asyncio.Event().wait()

    async def scenario():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        assert gate.inside == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gate.inside == 0

    asyncio.run(scenario())


def test_no_waiting_place_still_lets_the_running_ones_in():
    assert len(fill(Gate(running=3, waiting=0), 3)) == 3


def test_retry_after_follows_the_time_that_requests_really_take(clock):
    gate = Gate(running=2, waiting=0)
    for _ in range(200):
        with gate.admitted():
            clock[0] += 30.0
    assert gate.retry_after_s() == 15  # two at work, each for 30 s: one leaves every 15 s
    for _ in range(200):
        with gate.admitted():
            clock[0] += 0.01
    assert gate.retry_after_s() == 1  # a whole number of seconds, never 0


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(0, 4))
def test_places_taken_never_exceed_the_limit_nor_get_lost(steps, running, waiting):
    gate = Gate(running, waiting)
    held = []
    for enter in steps:
        if enter:
            full = len(held) == running + waiting
            place = gate.admitted()
            try:
                place.__enter__()
            except ApiError:
                assert full
            else:
                assert not full
                held.append(place)
        elif held:
            held.pop(0).__exit__(None, None, None)
        assert gate.inside == len(held)
