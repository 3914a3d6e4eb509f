"""Multiple choice by log-likelihood: the model's choice is the continuation it finds most likely."""

from typing import Literal

import numpy as np
from pydantic import Field

from core.chat import chat_request
from core.config import InputPath
from core.errors import UserError
from core.loglikelihood import Request, encode_pair, score
from core.rows import read_rows
from evaluation.task import Rows, Sample, Subject, Task


class MultipleChoice(Task):
    """acc: argmax of log p(choice | question); acc_norm: of it per character of the choice, as lm-eval has them."""

    type: Literal["multiple_choice"]
    items: InputPath = Field(description="file with the columns question, choices, answer (index from 0), and maybe id")
    form: Literal["plain", "chat"] = Field(
        "plain",
        description="plain: prompt, then the choice; chat: the chat template, the choice as the assistant's words",
    )
    prompt: str = Field("Question: {question}\nAnswer:", description="plain form: what stands before ' choice'")

    def read(self) -> Rows:
        """Items with an answer among their choices."""
        rows = read_rows(self.items, ("question", "choices", "answer"), self.limit)
        for number, row in enumerate(rows):
            if len(row["choices"]) < 2 or not 0 <= int(row["answer"]) < len(row["choices"]):
                raise UserError(f"{self.items}: row {number}: answer {row['answer']} is none of its choices")
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
                    self.key,
                    str(row.get("id") or number),
                    {"acc": float(best == answer), "acc_norm": float(best_norm == answer)},
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

    def guess(self, rows: Rows) -> dict[str, float]:
        """Chance."""
        chance = float(np.mean([1 / len(row["choices"]) for row in rows.rows]))
        return {f"{self.key}.acc": chance, f"{self.key}.acc_norm": chance}
