"""Toxicity by word lists: documents in which insults and obscenities are a habit, not a mention."""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from data_engine.policies.base import Policy, Rule


class Toxicity(Policy):
    """A bound on the share of words that the list of the document's language, or the English one, holds."""

    name: ClassVar[str] = "toxicity"

    max_toxic_words: float | None = Field(
        0.015,
        description="toxic words per word, where a document counts at least 100 words: one alone never rejects. "
        "Dolma and Data-Juicer (flagged words at most 0.045) bound the same ratio; C4 rejects on a single word",
    )

    def rules(self) -> Iterator[Rule]:
        """One rule."""
        yield Rule("toxic_words", "toxic_words", at_most=self.max_toxic_words)
