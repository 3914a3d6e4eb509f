"""How much each key may ask for: buckets of requests and tokens that fill up again with time.

A request takes what it may cost at most before it starts, and gives back what it did not use when it ends; so keys
cannot overdraw by asking for much at once. The state lives in the door's memory: a new door starts with full buckets.
"""

import math
import time
from dataclasses import dataclass

from serving import errors
from serving.auth import Key
from serving.errors import ApiError

_MINUTE = 60.0
_DAY = 86_400.0


class Bucket:
    """A token bucket: holds `limit` at most and fills up in `period_s` seconds."""

    def __init__(self, limit: int, period_s: float) -> None:
        self.limit = limit
        self.rate = limit / period_s
        self._level = float(limit)
        self._at = time.monotonic()

    def level(self) -> float:
        """What is left; below zero when somebody used more than he had asked for."""
        now = time.monotonic()
        self._level = min(self.limit, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Take it, or with a minus give it back."""
        self._level = min(self.limit, self.level() - amount)

    def wait_s(self, amount: float) -> float:
        """Seconds until there is so much; 0 when there is."""
        return max(0.0, (amount - self.level()) / self.rate)


@dataclass
class Allowance:
    """The buckets of one key; None where it has no limit."""

    requests: Bucket | None
    tokens: Bucket | None
    daily_tokens: Bucket | None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-*` headers; of the two buckets of tokens the one that has less left."""
        found = []
        of_tokens = [bucket for bucket in (self.tokens, self.daily_tokens) if bucket is not None]
        tightest = min(of_tokens, key=Bucket.level, default=None)
        for what, bucket in (("requests", self.requests), ("tokens", tightest)):
            if bucket is not None:
                values = (bucket.limit, max(0, math.floor(bucket.level())), f"{bucket.wait_s(bucket.limit):.3f}s")
                for name, value in zip(("limit", "remaining", "reset"), values, strict=True):
                    found.append((f"x-ratelimit-{name}-{what}".encode(), str(value).encode()))
        return found

    def take_request(self) -> None:
        """One more request. Raises ApiError 429 when there were enough."""
        if self.requests is not None:
            if (wait := self.requests.wait_s(1)) > 0:
                raise _exceeded("requests per minute", self.requests.limit, wait)
            self.requests.take(1)

    def reserve_tokens(self, amount: int) -> None:
        """As many tokens as a request may use. Raises ApiError 429 when they are not there, 400 when there can
        never be so many."""
        limits = ((self.tokens, "tokens per minute"), (self.daily_tokens, "tokens per day"))
        for bucket, name in limits:
            if bucket is not None:
                if amount > bucket.limit:
                    raise _too_much(name, bucket.limit, amount)
                if (wait := bucket.wait_s(amount)) > 0:
                    raise _exceeded(name, bucket.limit, wait)
        self.settle(0, amount)

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens are limited at all."""
        return self.tokens is not None or self.daily_tokens is not None

    def payable(self, reserved: int, most: int, least: int) -> int:
        """Of `most` tokens, beside those reserved already, as many as are there; `least` where that is less, which is
        waited for, unless this key could never have them: beyond a full bucket of a minute, or what is left of a
        day's."""
        there, ever = most, least
        if self.tokens is not None:
            there = min(there, math.floor(self.tokens.level()))
            ever = min(ever, self.tokens.limit - reserved)
        if self.daily_tokens is not None:
            left = math.floor(self.daily_tokens.level())
            there, ever = min(there, left), min(ever, left)
        return max(0, there, ever)

    def settle(self, reserved: int, used: int) -> None:
        """Put what was used in the place of what was reserved."""
        for bucket in (self.tokens, self.daily_tokens):
            if bucket is not None:
                bucket.take(used - reserved)


class Quotas:
    """The allowance of every key, by its name. A key that changes its limits starts with full buckets."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Key, Allowance]] = {}

    def of(self, key: Key) -> Allowance:
        """The buckets of this key."""
        known, allowance = self._found.get(key.name, (None, None))
        if allowance is None or known != key:
            allowance = Allowance(
                _bucket(key.requests_per_minute, _MINUTE),
                _bucket(key.tokens_per_minute, _MINUTE),
                _bucket(key.tokens_per_day, _DAY),
            )
            self._found[key.name] = (key, allowance)
        return allowance


def _bucket(limit: int | None, period_s: float) -> Bucket | None:
    return Bucket(limit, period_s) if limit is not None else None


def _exceeded(what: str, limit: int, wait_s: float) -> ApiError:
    return errors.over_quota(f"This key may use {limit:,} {what}", max(1, math.ceil(wait_s)))


def _too_much(what: str, limit: int, asked: int) -> ApiError:
    """No 429, which says that it will fit later."""
    message = f"This key may use {limit:,} {what}, and this request may need {asked:,}: ask for less."
    return ApiError(400, message, code="request_too_large", headers={"X-Should-Retry": "false"})
