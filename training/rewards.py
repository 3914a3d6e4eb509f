"""Rewards: what makes an answer good, as one number each. Verifiable ones, a reward model, or any function."""

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from numbers import Real
from secrets import token_hex
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from core import sandbox
from core.config import Config, InputPath
from core.errors import RaymillError, UserError
from training.shapes import Row

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(r"####\s*(.+)")
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What the model said to a prompt, with the row of the table that the prompt comes from."""

    prompt: Sequence[Mapping[str, str]]
    text: str
    row: Row
    truncated: bool = False
    """It reached the largest length and did not end by itself."""


class Reward(Protocol):
    """Scores answers; higher is better."""

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """One number per answer."""
        ...


class RewardConfig(Config):
    """One reward; the sum over all of them, each times its weight, is what a policy is trained on."""

    kind: Literal["exact_answer", "unit_tests", "format", "model", "function"] = Field(
        description="exact_answer: the right result; unit_tests: code that passes its tests, in the sandbox; format: a "
        "regular expression; model: a checkpoint of train.reward; function: your own"
    )
    name: str | None = Field(None, description="its name in the log; its kind when left out")
    weight: float = Field(1.0, description="factor in the sum")
    column: str | None = Field(
        None, description="column with the right answer (answer) or the tests (tests); the name in brackets if left out"
    )
    take: Literal["marked", "last_number", "all"] = Field(
        "marked", description="exact_answer: what follows ####, as in GSM8K, the last number, or the whole answer"
    )
    pattern: str | None = Field(None, description="format: regular expression that the whole answer must match")
    function: str | None = Field(None, description="function: 'module:name', called with the answer's text and its row")
    checkpoint: InputPath | None = Field(None, description="model: folder of a reward model")
    seconds: float = Field(5.0, gt=0, description="unit_tests: longest run of one program")

    @model_validator(mode="after")
    def _complete(self) -> "RewardConfig":
        needed = {"format": "pattern", "function": "function", "model": "checkpoint"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {self.kind} needs {needed}")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from None
        return self

    @property
    def called(self) -> str:
        """Its name in the log."""
        return self.name or self.kind


class Scorer:
    """All rewards of a run."""

    def __init__(self, configs: Sequence[RewardConfig], device: Any = "cpu") -> None:
        """Raises UserError for a function or a model that is not there, and for two rewards of one name."""
        names = [config.called for config in configs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UserError(f"rewards: two of them are called {twice}; give each a name")
        self.configs = list(configs)
        self.rewards = [build(config, device) for config in configs]

    def __call__(self, answers: Sequence[Answer]) -> list[dict[str, float]]:
        """Each answer's rewards by name, before weights. Raises RaymillError for one that is no finite number."""
        scored: list[dict[str, float]] = [{} for _ in answers]
        for config, reward in zip(self.configs, self.rewards, strict=True):
            for answer, found, value in zip(answers, scored, reward(answers), strict=True):
                if not isinstance(value, (Real, np.bool_)) or not math.isfinite(value):
                    raise RaymillError(
                        f"reward {config.called} gave {value!r} for the answer {answer.text[:80]!r}; "
                        "a reward must be a finite number"
                    )
                found[config.called] = float(value)
        return scored

    def total(self, found: Mapping[str, float]) -> float:
        """The weighted sum."""
        return sum(config.weight * found[config.called] for config in self.configs)

    def check(self, rows: Sequence[Row]) -> None:
        """Raises UserError when the table lacks a column that a reward asks for."""
        for config in self.configs:
            column = _column(config)
            if column and any(row.get(column) in (None, "") for row in rows):  # 0 is a right answer
                raise UserError(
                    f"rewards: {config.called} reads the column {column}, which is empty or absent in the prompts; "
                    "set its column"
                )


def _column(config: RewardConfig) -> str | None:
    default = {"exact_answer": "answer", "unit_tests": "tests"}.get(config.kind)
    return default and (config.column or default)


def build(config: RewardConfig, device: Any = "cpu") -> Reward:
    """The reward that a configuration describes. Raises UserError when it cannot be had."""
    if config.kind == "unit_tests":
        sandbox.check()
        return _UnitTests(config.column or "tests", sandbox.Limits(config.seconds, math.ceil(config.seconds)))
    if config.kind == "model":
        from training.reward_model import RewardModel

        return RewardModel(str(config.checkpoint), device)
    each: Callable[[Answer], float]
    if config.kind == "exact_answer":
        column, take = config.column or "answer", config.take
        each = lambda answer: float(same_answer(taken(answer.text, take), reference(answer.row[column])))  # noqa: E731
    elif config.kind == "format":
        pattern = re.compile(str(config.pattern), re.DOTALL)
        each = lambda answer: float(pattern.fullmatch(answer.text.strip()) is not None)  # noqa: E731
    else:
        function = find_function(str(config.function))
        each = lambda answer: function(answer.text, answer.row)  # noqa: E731
    return lambda answers: [each(answer) for answer in answers]


# --- exact answers ------------------------------------------------------------------------------------------------


def taken(text: str, take: Literal["marked", "last_number", "all"]) -> str | None:
    """The part of an answer that is its result; None when it states none."""
    if take == "all":
        return text.strip()
    if take == "marked":
        found = _MARKED.findall(text)
        return found[-1].strip() if found else None
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def reference(value: Any) -> str:
    """The right result: what follows #### where the column has it, as GSM8K does, else all of it."""
    text = str(value)
    return taken(text, "marked") or text.strip()


def same_answer(given: str | None, right: str) -> bool:
    """Equal as numbers where both are (1,000 is $1000.0), else as text."""
    if given is None:
        return False
    numbers = _as_number(given), _as_number(right)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return given.strip() == right.strip()


def _as_number(text: str) -> Decimal | None:
    try:
        found = Decimal(text.strip().rstrip(".").replace(",", "").replace("$", "").removesuffix("%"))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


# --- unit tests ---------------------------------------------------------------------------------------------------


def code_of(text: str) -> str:
    """The last fenced block of an answer, or all of it."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else text


@dataclass(frozen=True)
class _UnitTests:
    """1 for a program that passes its tests.

    Passing means to reach the end: the tests are followed by a line that reads a word from standard input and says it,
    so that to exit early, or to print something, passes nothing. A program that reads the word itself could cheat.
    """

    column: str
    limits: sandbox.Limits

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(self._one, answers))

    def _one(self, answer: Answer) -> float:
        word = token_hex(16)
        program = f"{code_of(answer.text)}\n\n{answer.row[self.column]}\n\nprint('\\n' + input())\n"
        result = sandbox.run_python(program, self.limits, stdin=word + "\n")
        return float(result.status == "ok" and result.stdout.endswith(f"\n{word}\n"))


# --- functions ----------------------------------------------------------------------------------------------------


def find_function(named: str) -> Callable[..., Any]:
    """`module:function`, sought in the working directory first. Raises UserError when it is not there."""
    module_name, colon, name = named.partition(":")
    where = f"rewards: function {named}"
    if not colon or not module_name or not name:
        raise UserError(f"{where}: expected 'module:function', as in my_rewards:brevity")
    here = os.getcwd()  # as `python -m` has it; the installed command has not
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{where}: module {module_name} does not import ({error}); it is sought in {here}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{where}: module {module_name} has no function {name}")
    return function
