"""A finite queue in front of an engine: what does not fit is told to come back, before it costs anything."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving import errors

_MEAN_WEIGHT = 0.1


class Gate:
    """Lets at most `running + waiting` requests in at a time.

    The engine itself works on `running` of them together; the rest wait inside it. One gate belongs to one event
    loop, so its counter needs no lock.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.inside = 0
        self._mean_seconds = 1.0
        self.resize(running, waiting)

    def resize(self, running: int, waiting: int) -> None:
        """Change the limits; whoever is inside already stays."""
        self.running = running
        self.limit = running + waiting

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place for the block. Raises ApiError 429 when all are taken."""
        if self.inside >= self.limit:
            raise errors.busy(self.retry_after_s())
        self.inside += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.inside -= 1
            self._mean_seconds += _MEAN_WEIGHT * (time.monotonic() - began - self._mean_seconds)

    def retry_after_s(self) -> int:
        """When a place should be free: with `running` at work, one leaves every mean / running seconds."""
        return max(1, math.ceil(self._mean_seconds / self.running))
