"""The batch after this one, made in a thread while this one is trained on."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls a pure function one call ahead of being asked. An error shows when its result is asked for, not before."""

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._known: tuple[Hashable, Future[T]] | None = None

    def get(self, arguments: tuple[Any, ...], following: tuple[Any, ...]) -> T:
        """The result for `arguments`; that for `following` is begun, to be asked for next."""
        known, self._known = self._known, None
        result = known[1].result() if known is not None and known[0] == arguments else self._make(*arguments)
        self._known = following, self._pool.submit(self._make, *following)
        return result
