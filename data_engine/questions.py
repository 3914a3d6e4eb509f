"""Questions about facts: short ones with one right answer, open ones, and the choice among descriptions."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from core import storage
from data_engine.facts import Fact, parameters

TaskName = Literal["kind", "package", "module", "parameter", "describe"]
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One question type: its paraphrases, filled from a fact's fields, and its answer, None where the fact has none."""

    name: TaskName
    prompts: tuple[str, ...]
    answer: Callable[[Fact], str | None]


@dataclass(frozen=True)
class Question:
    """A prompt and its answer, with the fact it came from."""

    task: TaskName
    prompt: str
    answer: str
    fact: Fact


def _first_parameter(fact: Fact) -> str | None:
    found = parameters(fact.signature)
    return found[0].lstrip("*") if found and fact.kind in ("function", "method") else None


TASKS: dict[TaskName, Task] = {
    "kind": Task(
        "kind",
        (
            "What kind of object is `{name}`?",
            "Is `{name}` a module, class, exception, function or method?",
            "`{name}`: which kind of object is this?",
        ),
        lambda fact: fact.kind or None,
    ),
    "package": Task(
        "package",
        (
            "Which package has `{name}`?",
            "Name the package of `{name}`.",
            "`{name}`: which package is this from?",
        ),
        lambda fact: fact.package,
    ),
    "module": Task(
        "module",
        (
            "Which module is `{name}` in?",
            "Name the module of `{name}`.",
            "Where is `{name}` defined?",
        ),
        lambda fact: fact.module if fact.module != fact.name else None,
    ),
    "parameter": Task(
        "parameter",
        (
            "What is the first parameter of `{signature}`?",
            "Name the first parameter: `{signature}`",
            "`{signature}`: which parameter comes first?",
        ),
        _first_parameter,
    ),
    "describe": Task(
        "describe",
        (
            "What does the {kind} `{name}` do?",
            "Describe the {kind} `{name}`.",
            "What is the {kind} `{name}` for?",
        ),
        lambda fact: fact.description,
    ),
}


def draw(seed: int, *parts: str) -> int:
    """A number of 64 bits that depends on the seed and the parts alone: order and choice without arrival order."""
    return int(storage.digest_bytes([str(seed).encode(), *(b"\0" + part.encode() for part in parts)])[:16], 16)


def ask(task: Task, fact: Fact, seed: int) -> Question | None:
    """The question of this task about a fact; the paraphrase is drawn. None where the task does not fit the fact."""
    answer = task.answer(fact)
    if answer is None:
        return None
    template = task.prompts[draw(seed, "prompt", task.name, fact.document_id) % len(task.prompts)]
    prompt = template.format(
        name=fact.name, kind=fact.kind, description=fact.description, signature=_call(fact.signature)
    )
    return Question(task.name, prompt, answer, fact)


def _call(signature: str) -> str:
    return signature.removeprefix("async ").removeprefix("def ").partition(" -> ")[0]


def frequent(answers: Iterable[str], share: float) -> frozenset[str]:
    """Answers that make up at least `share` of all."""
    counted = Counter(answers)
    total = counted.total()
    return frozenset(answer for answer, count in counted.items() if count >= share * total)


def balance(questions: Sequence[Question], max_share: float, at_most: int, seed: int) -> list[Question]:
    """A drawn sample in which no answer exceeds `max_share` (as far as the other answers allow it) or `at_most` rows.

    The cap c is the largest whole number with c <= max_share * sum(min(count, c)), found by bisection; at least 1.
    """
    ordered = sorted(questions, key=lambda question: draw(seed, question.task, question.fact.document_id))
    counts = np.asarray(list(Counter(question.answer for question in ordered).values()) or [0])
    low, high = 1, int(counts.max(initial=1))
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= max_share * int(np.minimum(counts, middle).sum()):
            low = middle
        else:
            high = middle - 1
    scale = min(1.0, at_most / max(1, int(np.minimum(counts, low).sum())))
    cap = max(1, round(low * scale)) if scale < 1 else low
    taken: Counter[str] = Counter()
    kept: list[Question] = []
    for question in ordered:
        if taken[question.answer] < cap and len(kept) < at_most:
            taken[question.answer] += 1
            kept.append(question)
    return kept


def best_constant_share(answers: Sequence[str]) -> float:
    """Exact match of the best single answer given to every question."""
    return Counter(answers).most_common(1)[0][1] / len(answers) if answers else 0.0
