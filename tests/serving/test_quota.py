import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import quota
from serving.auth import Key, digest
from serving.errors import ApiError
from serving.quota import Bucket, Quotas


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(quota.time, "monotonic", lambda: now[0])
    return now


def key(**limits):
    return Key(name="alice", digest=digest("x" * 20), **limits)


def refused(call, *arguments):
    with pytest.raises(ApiError) as raised:
        call(*arguments)
    assert (raised.value.status, raised.value.type) == (429, "rate_limit_error")
    assert int(raised.value.headers["Retry-After"]) >= 1
    return raised.value


def test_a_bucket_fills_up_evenly_and_not_beyond_its_limit(clock):
    bucket = Bucket(60, 60.0)
    bucket.take(60)
    assert bucket.wait_s(1) == pytest.approx(1.0)
    clock[0] += 30
    assert bucket.level() == pytest.approx(30)
    clock[0] += 1e6
    assert bucket.level() == 60


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 30)), max_size=40))
def test_in_any_time_no_more_passes_than_the_limit_and_what_filled_up(steps):
    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quota.time, "monotonic", lambda: now[0])
        bucket, passed = Bucket(100, 60.0), 0
        for amount, pause in steps:
            if bucket.wait_s(amount) == 0:
                bucket.take(amount)
                passed += amount
            now[0] += pause
        assert passed <= 100 + now[0] * 100 / 60 + 1e-6


def test_requests_are_refused_with_the_time_until_the_next_one(clock):
    allowance = Quotas().of(key(requests_per_minute=2))
    allowance.take_request()
    allowance.take_request()
    error = refused(allowance.take_request)
    assert error.headers["Retry-After"] == "30"
    assert "2 requests per minute" in error.message
    clock[0] += 30
    allowance.take_request()


def test_the_daily_quota_holds_when_the_minute_s_is_full_again(clock):
    allowance = Quotas().of(key(tokens_per_minute=100, tokens_per_day=150))
    allowance.reserve_tokens(100)
    clock[0] += 60
    error = refused(allowance.reserve_tokens, 90)
    assert "150 tokens per day" in error.message
    assert int(error.headers["Retry-After"]) > 3600
    allowance.reserve_tokens(40)


def test_what_was_reserved_and_not_used_comes_back_and_what_was_used_beyond_is_owed(clock):
    allowance = Quotas().of(key(tokens_per_minute=100))
    allowance.reserve_tokens(80)
    allowance.settle(80, 5)
    allowance.reserve_tokens(90)
    allowance.settle(90, 200)
    assert allowance.tokens.level() == pytest.approx(-105)
    assert dict(allowance.headers())[b"x-ratelimit-remaining-tokens"] == b"0"
    assert int(refused(allowance.reserve_tokens, 1).headers["Retry-After"]) > 60


def test_a_request_without_a_limit_gets_what_is_there_or_waits_for_a_little(clock):
    allowance = Quotas().of(key(tokens_per_minute=1000, tokens_per_day=5000))
    assert allowance.payable(0, 700, 256) == 700
    allowance.reserve_tokens(600)
    assert allowance.payable(0, 700, 256) == 400
    allowance.reserve_tokens(300)
    assert allowance.payable(0, 700, 256) == 256, "more than is there: it waits"
    assert allowance.payable(0, 100, 100) == 100
    small = Quotas().of(key(tokens_per_minute=100))
    small.reserve_tokens(30)
    assert small.payable(30, 700, 256) == 70, "it could never have more"
    daily = Quotas().of(key(tokens_per_day=100))
    daily.reserve_tokens(80)
    assert daily.payable(30, 700, 256) == 20, "a day is not waited for"


def test_what_can_never_fit_is_not_told_to_come_back(clock):
    with pytest.raises(ApiError) as raised:
        Quotas().of(key(tokens_per_minute=100)).reserve_tokens(101)
    error = raised.value
    assert (error.status, error.code) == (400, "request_too_large")
    assert error.headers == {"X-Should-Retry": "false"}
    assert "100 tokens per minute, and this request may need 101: ask for less" in error.message


def test_a_key_without_limits_has_neither_refusals_nor_headers():
    allowance = Quotas().of(key())
    for _ in range(1000):
        allowance.take_request()
        allowance.reserve_tokens(10**9)
    assert allowance.headers() == []


def test_the_headers_tell_of_the_tighter_of_two_limits(clock):
    allowance = Quotas().of(key(tokens_per_minute=100, tokens_per_day=150))
    allowance.reserve_tokens(90)
    clock[0] += 60
    found = dict(allowance.headers())
    assert found[b"x-ratelimit-limit-tokens"] == b"150"
    assert found[b"x-ratelimit-remaining-tokens"] == b"60"


def test_a_key_keeps_its_buckets_while_the_keys_are_read_again_unless_its_limits_changed(clock):
    quotas = Quotas()
    quotas.of(key(requests_per_minute=2)).take_request()
    assert quotas.of(key(requests_per_minute=2)).requests.level() == 1
    assert quotas.of(key(requests_per_minute=5)).requests.level() == 5
