"""The pace towards a host under any order of requests, and what Retry-After asks for."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.politeness import Host, backoff, retry_after

steps = st.lists(st.floats(0, 3, allow_nan=False), max_size=40)


@given(steps, st.floats(0, 2), st.lists(st.none() | st.floats(0, 5), min_size=40, max_size=40))
def test_starts_are_never_closer_than_the_delay(passing, delay, pauses):
    now = 0.0
    host = Host("a", delay, clock=lambda: now)
    started, free_from = [], 0.0
    for seconds, pause in zip(passing, pauses, strict=False):
        now += seconds
        if host.try_start():
            assert now >= free_from
            started.append(now)
            free_from = max(free_from, now + delay)
        if pause is not None:
            host.pause(pause)
            free_from = max(free_from, now + pause)
    # to a nanosecond: a smaller delay is lost in the clock's own digits
    assert all(later - earlier >= delay * (1 - 1e-9) - 1e-9 for earlier, later in pairwise(started))
    now = free_from
    assert host.try_start(), "a host is left alone longer than asked"


def test_a_shorter_pause_does_not_undo_a_longer_one():
    host = Host("a", 0, clock=lambda: 0.0)
    host.pause(60)
    host.pause(1)
    assert host.next_start == 60


def test_many_waiters_start_one_at_a_time():
    host = Host("a", 0.02)
    starts = []

    async def one():
        while True:
            await host.wait()
            if host.try_start():
                starts.append(host.clock())
                return

    async def all_of_them():
        await asyncio.gather(*(one() for _ in range(6)))

    asyncio.run(all_of_them())
    assert len(starts) == 6
    assert all(later - earlier >= 0.0199 for earlier, later in pairwise(starts))


def test_a_host_is_gone_after_three_in_a_row():
    host = Host("a", 0)
    states = []
    for failed in (True, True, False, True, True, True):
        host.unanswered = host.unanswered + 1 if failed else 0
        states.append(host.gone)
    assert states == [False, False, False, False, False, True]


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120), (" 0 ", 0), ("Thu, 01 Jan 2026 12:01:30 GMT", 90), ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("Thursday, 01-Jan-26 12:01:30 GMT", 90), ("", None), ("soon", None), ("-5", None), ("1.5", None), ("٣", None),
        ("9" * 400, math.inf), ("Thu, 01 Jan 99999 12:00:00 GMT", None), ("Thu, 99 Jan 2026 12:00:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(value, seconds):
    assert retry_after(value, NOW) == seconds


@given(st.integers(0, 10**7))
def test_a_date_asks_for_as_long_as_the_number(seconds):
    assert retry_after(format_datetime(NOW + timedelta(seconds=seconds), usegmt=True), NOW) == seconds


@given(st.text() | st.from_regex(r"\w{3}, \d{1,4} \w{3} \d{1,6} \d\d:\d\d:\d\d [-+A-Z0-9]{1,5}", fullmatch=True))
def test_any_retry_after_is_understood_or_left(value):
    asked = retry_after(value, NOW)
    assert asked is None or asked >= 0


@given(st.integers(0, 5000), st.just(0) | st.floats(0.001, 100), st.floats(0.001, 1000))
def test_backoff_doubles_up_to_its_cap(attempt, base, cap):
    pause = backoff(attempt, base, cap)
    assert 0 <= pause <= cap
    if attempt and pause < cap:
        assert pause == 2 * backoff(attempt - 1, base, cap)
