"""Exact match: the model's greedy answer to a held-out prompt is the reference answer, to the letter."""

from collections import Counter, defaultdict
from typing import Any, Literal

from pydantic import Field

from core.config import InputPath
from core.errors import UserError
from core.rows import read_rows
from evaluation.generate import greedy_answers
from evaluation.task import Rows, Sample, Subject, Task


class ExactMatch(Task):
    """Greedy generation with the chat template; a score for each value of the column `task`, named `<name>/<task>`."""

    type: Literal["exact_match"]
    conversations: InputPath = Field(
        description="file with the column messages, the last one the assistant's; maybe task"
    )
    tasks: list[str] | None = Field(None, description="values of the column task to use; none uses all")
    max_new_tokens: int = Field(24, ge=1, description="tokens after which an answer is cut")
    limit: int | None = Field(None, ge=1, description="rows of each task at most, the first ones; none uses all")

    def read(self) -> Rows:
        """Conversations that end with the assistant's answer."""
        by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number, row in enumerate(read_rows(self.conversations, ("messages",))):
            task = str(row.get("task") or "")
            if self.tasks is not None and task not in self.tasks:
                continue
            messages = row["messages"]
            if len(messages) < 2 or messages[-1]["role"] != "assistant":
                raise UserError(f"{self.conversations}: row {number} does not end with the assistant's answer")
            by_task[task].append({**row, "number": number, "task": task})
        for task in self.tasks or []:
            if task not in by_task:
                raise UserError(f"{self.conversations}: no row has the task {task!r}")
        rows = [row for task in sorted(by_task) for row in by_task[task][: self.limit]]
        return Rows(rows, len(rows))

    def evaluate(self, rows: Rows, subject: Subject) -> list[Sample]:
        """One sample per conversation."""
        answers = greedy_answers(subject, [row["messages"][:-1] for row in rows.rows], self.max_new_tokens)
        samples = []
        for row, answer in zip(rows.rows, answers, strict=True):
            target = row["messages"][-1]["content"]
            samples.append(
                Sample(
                    self._key(row["task"]),
                    str(row["number"]),
                    {"exact_match": float(answer.strip() == target.strip())},
                    prompt=row["messages"][-2]["content"],
                    target=target,
                    output=answer,
                )
            )
        return samples

    def _key(self, task: str) -> str:
        return f"{self.key}/{task}" if task else self.key

    def guess(self, rows: Rows) -> dict[str, float]:
        """Exact match of the one answer that fits most of these very rows: the best that a constant could do."""
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows.rows:
            answers[row["task"]][row["messages"][-1]["content"].strip()] += 1
        return {
            f"{self._key(task)}.exact_match": counted.most_common(1)[0][1] / counted.total()
            for task, counted in answers.items()
        }
