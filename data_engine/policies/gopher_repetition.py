"""Gopher repetition rules (Rae et al. 2021, arXiv:2112.11446, table A1).

What counts as repeated is the paper's reading that DCLM and RedPajama share: every occurrence of what occurs more than
once, overlaps once, in shares of the characters outside white space. datatrove and NeMo Curator leave the first
occurrence out.
"""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from data_engine.policies.base import Policy, Rule


class GopherRepetition(Policy):
    """Bounds on repeated lines, paragraphs and n-grams. None switches a rule off."""

    name: ClassVar[str] = "gopher_repetition"

    max_duplicate_line_fraction: float | None = Field(0.30, description="share of lines; Gopher 0.30")
    max_duplicate_paragraph_fraction: float | None = Field(0.30, description="share of paragraphs; Gopher 0.30")
    max_duplicate_line_characters: float | None = Field(0.20, description="share of characters; Gopher 0.20")
    max_duplicate_paragraph_characters: float | None = Field(0.20, description="share of characters; Gopher 0.20")
    max_top_2_gram: float | None = Field(0.20, description="characters of the most frequent 2-gram; Gopher 0.20")
    max_top_3_gram: float | None = Field(0.18, description="of the most frequent 3-gram; Gopher 0.18")
    max_top_4_gram: float | None = Field(0.16, description="of the most frequent 4-gram; Gopher 0.16")
    max_duplicate_5_gram: float | None = Field(0.15, description="characters in repeated 5-grams; Gopher 0.15")
    max_duplicate_6_gram: float | None = Field(0.14, description="in repeated 6-grams; Gopher 0.14")
    max_duplicate_7_gram: float | None = Field(0.13, description="in repeated 7-grams; Gopher 0.13")
    max_duplicate_8_gram: float | None = Field(0.12, description="in repeated 8-grams; Gopher 0.12")
    max_duplicate_9_gram: float | None = Field(0.11, description="in repeated 9-grams; Gopher 0.11")
    max_duplicate_10_gram: float | None = Field(0.10, description="in repeated 10-grams; Gopher 0.10")

    def rules(self) -> Iterator[Rule]:
        """In datatrove's order: paragraphs, lines, n-grams."""
        yield Rule(
            "duplicate_paragraph_fraction",
            "duplicate_paragraph_fraction",
            at_most=self.max_duplicate_paragraph_fraction,
        )
        yield Rule(
            "duplicate_paragraph_characters",
            "duplicate_paragraph_characters",
            at_most=self.max_duplicate_paragraph_characters,
        )
        yield Rule("duplicate_line_fraction", "duplicate_line_fraction", at_most=self.max_duplicate_line_fraction)
        yield Rule("duplicate_line_characters", "duplicate_line_characters", at_most=self.max_duplicate_line_characters)
        yield Rule("top_2_gram", "top_2_gram", at_most=self.max_top_2_gram)
        yield Rule("top_3_gram", "top_3_gram", at_most=self.max_top_3_gram)
        yield Rule("top_4_gram", "top_4_gram", at_most=self.max_top_4_gram)
        yield Rule("duplicate_5_gram", "duplicate_5_gram", at_most=self.max_duplicate_5_gram)
        yield Rule("duplicate_6_gram", "duplicate_6_gram", at_most=self.max_duplicate_6_gram)
        yield Rule("duplicate_7_gram", "duplicate_7_gram", at_most=self.max_duplicate_7_gram)
        yield Rule("duplicate_8_gram", "duplicate_8_gram", at_most=self.max_duplicate_8_gram)
        yield Rule("duplicate_9_gram", "duplicate_9_gram", at_most=self.max_duplicate_9_gram)
        yield Rule("duplicate_10_gram", "duplicate_10_gram", at_most=self.max_duplicate_10_gram)
