"""FineWeb's own rules (Penedo et al. 2024, arXiv:2406.17557, section 3.6): lists, fragments, repeated lines."""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from data_engine.policies.base import Policy, Rule


class FineWeb(Policy):
    """Bounds on how lines end, how short they are and how often they repeat. None switches a rule off."""

    name: ClassVar[str] = "fineweb"
    shapes: ClassVar[frozenset[str]] = frozenset({"short_line"})

    min_terminal_lines: float | None = Field(
        0.12, description="share of lines that end with a sentence terminal; not for Thai and Lao; FineWeb 0.12"
    )
    max_short_lines: float | None = Field(0.67, description="share of short lines; FineWeb 0.67")
    short_line: int = Field(30, ge=0, description="characters of a short line; FineWeb 30")
    max_repeated_line_characters: float | None = Field(
        0.01, description="share of characters in lines that occurred before in the document; FineWeb 0.01"
    )
    max_newlines_per_word: float | None = Field(
        0.3, description="line breaks per word, words and punctuation marks counted; FineWeb 0.3"
    )

    def rules(self) -> Iterator[Rule]:
        """In the order of datatrove's filter."""
        yield Rule("terminal_lines", "terminal_lines", at_least=self.min_terminal_lines)
        yield Rule("short_lines", "short_lines", at_most=self.max_short_lines)
        yield Rule("repeated_lines", "repeated_line_characters", at_most=self.max_repeated_line_characters)
        yield Rule("newlines_per_word", "newlines_per_word", at_most=self.max_newlines_per_word)
