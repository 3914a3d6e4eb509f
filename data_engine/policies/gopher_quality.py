"""Gopher quality rules: documents that do not look like prose (Rae et al. 2021, arXiv:2112.11446, appendix A1.1).

Words lie between white space here; datatrove's lie where spaCy cuts, punctuation marks among them, so its word counts
are about a tenth higher and its share of alphabetic words lower.
"""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from data_engine.policies.base import Policy, Rule


class GopherQuality(Policy):
    """Bounds on words, symbols and line shapes. None switches a rule off."""

    name: ClassVar[str] = "gopher_quality"

    min_words: int | None = Field(50, description="words that are not pure punctuation; Gopher 50")
    max_words: int | None = Field(100_000, description="the same, upper bound; Gopher 100,000")
    min_mean_word_length: float | None = Field(3, description="characters; not for unspaced scripts; Gopher 3")
    max_mean_word_length: float | None = Field(10, description="characters; not for unspaced scripts; Gopher 10")
    max_hash_ratio: float | None = Field(0.1, description="'#' per word; Gopher 0.1")
    max_ellipsis_ratio: float | None = Field(0.1, description="'...' or '…' per word; Gopher 0.1")
    max_bullet_lines: float | None = Field(0.9, description="share of lines that begin with a bullet; Gopher 0.9")
    max_ellipsis_lines: float | None = Field(0.3, description="share of lines that end with an ellipsis; Gopher 0.3")
    min_alphabetic_words: float | None = Field(0.8, description="share of words with a letter; Gopher 0.8")
    min_stop_words: int | None = Field(
        2,
        description="different stop words of the document's language, where it has a list; Gopher 2, of 8 English ones",
    )

    def rules(self) -> Iterator[Rule]:
        """Short and long first: the cheapest to understand."""
        yield Rule("short_doc", "words", at_least=self.min_words)
        yield Rule("long_doc", "words", at_most=self.max_words)
        yield Rule("short_words", "mean_word_length", at_least=self.min_mean_word_length)
        yield Rule("long_words", "mean_word_length", at_most=self.max_mean_word_length)
        yield Rule("hash_ratio", "hash_per_word", at_most=self.max_hash_ratio)
        yield Rule("ellipsis_ratio", "ellipsis_per_word", at_most=self.max_ellipsis_ratio)
        yield Rule("bullet_lines", "bullet_lines", at_most=self.max_bullet_lines)
        yield Rule("ellipsis_lines", "ellipsis_lines", at_most=self.max_ellipsis_lines)
        yield Rule("alphabetic_words", "alphabetic_words", at_least=self.min_alphabetic_words)
        yield Rule("stop_words", "stop_words", at_least=self.min_stop_words)
