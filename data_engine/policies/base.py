"""What a policy is: named rules, each a bound on one signal. The base class does all deciding and naming."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from core.config import Config


@dataclass(frozen=True)
class Rule:
    """Keep a document whose `signal` is within the bounds. A bound of None does not bind.

    A signal that is NaN was not measured for this document (stop words of a language without a list): the rule passes.
    """

    name: str
    signal: str
    at_least: float | None = None
    at_most: float | None = None

    def broken(self, values: np.ndarray) -> np.ndarray:
        """Which documents break the rule. values: (n,) float64. Returns (n,) bool."""
        broken = np.zeros(values.size, bool)
        with np.errstate(invalid="ignore"):
            if self.at_least is not None:
                broken |= values < self.at_least
            if self.at_most is not None:
                broken |= values > self.at_most
        return broken

    def threshold(self, value: float) -> float:
        """The bound that `value` breaks."""
        if self.at_least is not None and value < self.at_least:
            return self.at_least
        assert self.at_most is not None
        return self.at_most


class Policy(Config, ABC):
    """A set of rules with their thresholds as fields."""

    name: ClassVar[str]
    shapes: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide what a signal is, not what it must be: they are the same for every document of a build."""

    enabled: bool = Field(True, description="whether this policy judges at all")

    @abstractmethod
    def rules(self) -> Iterator[Rule]:
        """The rules in the order in which they judge."""


@dataclass(frozen=True)
class Verdict:
    """What the rules say of n documents.

    reasons: (n,) object, `policy:rule` of the first rule broken, None where none is; values and thresholds: (n,)
    float64, of that rule, NaN where none is.
    """

    reasons: np.ndarray
    values: np.ndarray
    thresholds: np.ndarray

    @classmethod
    def clear(cls, documents: int) -> "Verdict":
        """Nothing decided yet."""
        return cls(np.full(documents, None, object), np.full(documents, np.nan), np.full(documents, np.nan))

    def of(self, which: np.ndarray) -> "Verdict":
        """A copy that speaks of the documents in `which` (n,) bool alone."""
        return Verdict(self.reasons[which], self.values[which], self.thresholds[which])

    def put(self, which: np.ndarray, part: "Verdict") -> None:
        """Take over what `part` says of the documents in `which`."""
        self.reasons[which], self.values[which], self.thresholds[which] = part.reasons, part.values, part.thresholds

    def apply(self, prefix: str, rule: Rule, values: np.ndarray) -> None:
        """Mark the documents that break `rule` and broke none before."""
        broken = rule.broken(values)
        thresholds = np.full(values.size, np.nan)
        thresholds[broken] = [rule.threshold(value) for value in values[broken]]
        self.mark(f"{prefix}:{rule.name}", broken, values, thresholds)

    def mark(self, reason: str, which: np.ndarray, values: np.ndarray, thresholds: np.ndarray | float) -> None:
        """Give `reason` to the documents in `which` (n,) bool that have none yet."""
        new = which & np.array([known is None for known in self.reasons], bool)
        self.reasons[new] = reason
        self.values[new] = values[new]
        self.thresholds[new] = np.broadcast_to(thresholds, values.shape)[new]


def judge(policies: list[Policy], signals: Mapping[str, np.ndarray], verdict: Verdict) -> None:
    """Let each policy's rules judge in order. signals: (n,) float64 each."""
    for policy in policies:
        for rule in policy.rules():
            verdict.apply(policy.name, rule, signals[rule.signal])
