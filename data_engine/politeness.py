"""Politeness towards one host: how soon the next request may start, and how long to wait after a refusal."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_GONE_AFTER = 3


@dataclass
class Host:
    """Pace and health of one host. `delay_seconds` lies between the starts of two requests."""

    name: str
    delay_seconds: float
    next_start: float = 0.0
    unanswered: int = field(default=0)
    """URLs in a row that found no connection, retries included."""
    clock: Callable[[], float] = time.monotonic

    async def wait(self) -> None:
        """Sleep until a request may start."""
        while (seconds := self.next_start - self.clock()) > 0:
            await asyncio.sleep(seconds)

    def try_start(self) -> bool:
        """Claim the next start; False when another request was faster."""
        now = self.clock()
        if now < self.next_start:
            return False
        self.next_start = now + self.delay_seconds
        return True

    def pause(self, seconds: float) -> None:
        """Leave the host alone for so long."""
        self.next_start = max(self.next_start, self.clock() + seconds)

    @property
    def gone(self) -> bool:
        """Whether several URLs in a row found no connection."""
        return self.unanswered >= _GONE_AFTER


def retry_after(value: str, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number or a date), None when it asks nothing."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def backoff(attempt: int, base_seconds: float, cap_seconds: float) -> float:
    """base * 2^attempt, at most the cap; `attempt` counts from 0."""
    return float(min(cap_seconds, base_seconds * 2.0 ** min(attempt, 1000)))
