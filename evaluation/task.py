"""What a task is: rows read from a file before any model loads, then samples from each model."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from core.config import Config


@dataclass(frozen=True)
class Subject:
    """The model under evaluation, loaded once for all tasks."""

    name: str
    model: Any
    tokenizer: Any
    batch_tokens: int
    advance: Callable[[int], None]


@dataclass(frozen=True)
class Sample:
    """One row of one task as one model answered it.

    `values`: metric -> numerator (0 or 1, or bits); `weight`: its denominator (1, or bytes); `group`: samples that vary
    together, such as pairs about one fact.
    """

    task: str
    id: str
    values: dict[str, float]
    weight: float = 1.0
    group: str = ""
    prompt: str = ""
    target: str = ""
    output: str = ""


@dataclass(frozen=True)
class Rows:
    """What a task reads. `size` is what one model's pass counts as progress; `skipped` says which rows it left out."""

    rows: Sequence[Any]
    size: int
    skipped: dict[str, int] = field(default_factory=dict)


class Task(Config):
    """Base of every task's settings, told apart by `type`."""

    name: str = Field("", description="name in the scores; the type where it is empty", pattern=r"^[\w-]*$")
    limit: int | None = Field(None, ge=1, description="rows to use at most, the first ones; none uses all")

    @property
    def key(self) -> str:
        """Name in the scores."""
        return self.name or str(getattr(self, "type"))  # noqa: B009

    @abstractmethod
    def read(self) -> Rows:
        """The rows of this task. Raises UserError when the file is missing, of another kind, or empty."""

    @abstractmethod
    def evaluate(self, rows: Rows, subject: Subject) -> list[Sample]:
        """One sample per row, in order."""

    def guess(self, rows: Rows) -> dict[str, float]:
        """What no skill at all would score, by task and metric written `task.metric`."""
        return {}
