"""Multiple choice by log-likelihood: the model's choice is the continuation it finds most likely."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from core.chat import chat_request
from core.config import InputPath
from core.errors import UserError
from core.loglikelihood import Request, encode_pair, score
from core.rows import read_rows
from evaluation.task import Rows, Sample, Subject, Task


class MultipleChoice(Task):
    """acc: argmax of log p(choice | question); acc_norm: of it per character of the choice, as lm-eval has them.

    Items with a column `task` are scored apart for each of its values, named `<name>/<task>`.
    """

    type: Literal["multiple_choice"]
    items: InputPath = Field(
        description="file with the columns question, choices, answer (index from 0), and maybe id, task, document_id"
    )
    form: Literal["plain", "chat"] = Field(
        "plain",
        description="plain: prompt, then the choice; chat: the chat template, the choice as the assistant's words",
    )
    limit: int | None = Field(None, ge=1, description="items of each task at most, the first ones; none uses all")
    prompt: str = Field("Question: {question}\nAnswer:", description="plain form: what stands before ' choice'")

    def read(self) -> Rows:
        """Items with an answer among their choices."""
        by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number, row in enumerate(read_rows(self.items, ("question", "choices", "answer"))):
            if len(row["choices"]) < 2 or not 0 <= int(row["answer"]) < len(row["choices"]):
                raise UserError(f"{self.items}: row {number}: answer {row['answer']} is none of its choices")
            by_key[self._key(row)].append(row)
        rows = [row for items in by_key.values() for row in items[: self.limit]]
        return Rows(rows, sum(len(row["choices"]) for row in rows))

    def evaluate(self, rows: Rows, subject: Subject) -> list[Sample]:
        """One sample per item."""
        requests = [self._request(subject, row["question"], choice) for row in rows.rows for choice in row["choices"]]
        scores = iter(score(subject.model, requests, subject.batch_tokens, on_batch=subject.advance))
        samples = []
        for number, row in enumerate(rows.rows):
            choices, answer = row["choices"], int(row["answer"])
            logprobs = np.asarray([next(scores).logprob for _ in choices])
            best = int(logprobs.argmax())
            best_norm = int((logprobs / [max(1, len(choice)) for choice in choices]).argmax())
            samples.append(
                Sample(
                    self._key(row),
                    str(row.get("id") or number),
                    {"acc": float(best == answer), "acc_norm": float(best_norm == answer)},
                    group=str(row.get("document_id") or ""),
                    prompt=row["question"],
                    target=choices[answer],
                    output=choices[best],
                )
            )
        return samples

    def _request(self, subject: Subject, question: str, choice: str) -> Request:
        if self.form == "chat":
            return chat_request(subject.tokenizer, [{"role": "user", "content": question}], choice)
        return encode_pair(subject.tokenizer, self.prompt.replace("{question}", question), " " + choice)

    def _key(self, row: Mapping[str, Any]) -> str:
        return f"{self.key}/{row['task']}" if row.get("task") else self.key

    def guess(self, rows: Rows) -> dict[str, float]:
        """Of each task, the better of chance and of always taking the choice that is right most often."""
        by_key: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows.rows:
            by_key[self._key(row)].append(row)
        found = {key: _without_reading(items) for key, items in by_key.items()}
        return {f"{key}.{metric}": value for key, value in found.items() for metric in ("acc", "acc_norm")}


def _without_reading(items: Sequence[Mapping[str, Any]]) -> float:
    """Accuracy of who reads no question but knows how often each choice is right in all the other items."""
    right = Counter(item["choices"][int(item["answer"])] for item in items)
    chance = float(np.mean([1 / len(item["choices"]) for item in items]))
    hits = []
    for item in items:
        answer = item["choices"][int(item["answer"])]
        known = [right[choice] - (choice == answer) for choice in item["choices"]]
        best = [choice for choice, count in zip(item["choices"], known, strict=True) if count == max(known)]
        hits.append((answer in best) / len(best))
    return max(chance, float(np.mean(hits)))
