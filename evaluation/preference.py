"""Preference accuracy: how often the chosen answer is more likely than the rejected one."""

from typing import Literal

from pydantic import Field

from core.chat import chat_request
from core.config import InputPath
from core.errors import UserError
from core.loglikelihood import score
from core.rows import read_rows
from evaluation.task import Rows, Sample, Subject, Task


class Preference(Task):
    """log p(chosen | prompt) > log p(rejected | prompt), summed over answer and end of turn; ties are misses."""

    type: Literal["preference"]
    pairs: InputPath = Field(description="file with the columns prompt (messages), chosen, rejected")

    def read(self) -> Rows:
        """Pairs whose two answers differ and are not empty."""
        rows = read_rows(self.pairs, ("prompt", "chosen", "rejected"), self.limit)
        kept = [row for row in rows if row["chosen"] and row["rejected"] and row["chosen"] != row["rejected"]]
        if not kept:
            raise UserError(f"{self.pairs}: no pair has two different answers")
        skipped = {"empty or equal answers": len(rows) - len(kept)} if len(kept) < len(rows) else {}
        return Rows(kept, 2 * len(kept), skipped)

    def evaluate(self, rows: Rows, subject: Subject) -> list[Sample]:
        """One sample per pair; pairs of one document vary together."""
        requests = [
            chat_request(subject.tokenizer, row["prompt"], row[side])
            for row in rows.rows
            for side in ("chosen", "rejected")
        ]
        scores = score(subject.model, requests, subject.batch_tokens, on_batch=subject.advance)
        samples = []
        for number, row in enumerate(rows.rows):
            chosen, rejected = scores[2 * number], scores[2 * number + 1]
            wins = chosen.logprob > rejected.logprob
            wins_norm = chosen.logprob / chosen.tokens > rejected.logprob / rejected.tokens
            samples.append(
                Sample(
                    self.key,
                    str(number),
                    {"preference": float(wins), "preference_norm": float(wins_norm)},
                    group=str(row.get("document_id") or number),
                    prompt=row["prompt"][-1]["content"],
                    target=row["chosen"],
                    output=row["chosen"] if wins else row["rejected"],
                )
            )
        return samples

    def guess(self, rows: Rows) -> dict[str, float]:
        """Chance."""
        return {f"{self.key}.preference": 0.5, f"{self.key}.preference_norm": 0.5}
