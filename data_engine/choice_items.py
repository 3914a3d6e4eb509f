"""Multiple-choice items: one right answer among wrong ones that other questions have for theirs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.distractors import Distractors
from data_engine.facts import Fact
from data_engine.questions import TASKS, Question, ask, draw

ITEMS = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.int64()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("document_id", pa.string()),
    ]
)


def description_items(facts: Sequence[Fact], choices: int, length_ratio: float, seed: int) -> Iterator[dict[str, Any]]:
    """One item per fact: its description among those of other objects of its kind."""
    distractors = Distractors(facts, seed, length_ratio)
    for fact in facts:
        question = ask(TASKS["describe"], fact, seed)
        assert question is not None
        wrong = distractors.draw(fact, choices - 1, "item")
        if len(wrong) == choices - 1:
            yield _item(question, wrong, seed)


def answer_items(questions: Sequence[Question], choices: int, seed: int) -> Iterator[dict[str, Any]]:
    """One item per question with a short answer: the answer among other answers of the same task.

    Wrong ones are drawn in proportion to how often they are right, so that what is common tells little. A task with
    fewer different answers than `choices` gives no items.
    """
    counts: dict[str, Counter[str]] = {}
    for question in questions:
        counts.setdefault(question.task, Counter())[question.answer] += 1
    for question in questions:
        if question.task == "describe":
            continue
        others = sorted(answer for answer in counts[question.task] if answer != question.answer)
        if len(others) < choices - 1:
            continue
        weights = np.array([counts[question.task][answer] for answer in others], float)
        rng = np.random.default_rng(draw(seed, "wrong", question.task, question.fact.document_id))
        wrong = rng.choice(len(others), choices - 1, replace=False, p=weights / weights.sum())
        yield _item(question, [others[int(i)] for i in wrong], seed)


def _item(question: Question, wrong: Sequence[str], seed: int) -> dict[str, Any]:
    """The right answer stands at a drawn place."""
    fact, task = question.fact, question.task
    place = draw(seed, "place", task, fact.document_id) % (len(wrong) + 1)
    return {
        "id": f"{fact.document_id}:{task}",
        "question": question.prompt,
        "choices": [*wrong[:place], question.answer, *wrong[place:]],
        "answer": place,
        "source": fact.source,
        "task": task,
        "document_id": fact.document_id,
    }
