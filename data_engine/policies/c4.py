"""C4 rules (Raffel et al. 2020, arXiv:1910.10683, section 2.2; line rules of tensorflow_datasets' c4_utils.py).

C4 drops lines, then judges what is left. Here text is measured, not edited: sentences, 'lorem ipsum' and '{' count in
the lines that C4 would keep. Sentence ends are those of every script; Thai and Lao have none, so there the rule on
sentences does not apply.
"""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from data_engine.policies.base import Policy, Rule


class C4(Policy):
    """Bounds on the lines that C4 keeps. None switches a rule off."""

    name: ClassVar[str] = "c4"
    shapes: ClassVar[frozenset[str]] = frozenset({"min_words_per_line", "max_word_length", "terminal_punctuation"})

    min_sentences: int | None = Field(5, description="sentences in kept lines; C4 5, DCLM 3")
    max_lorem_ipsum: int | None = Field(0, description="kept lines with 'lorem ipsum'; C4 0")
    max_curly_brackets: int | None = Field(0, description="'{' in kept lines; C4 0")
    max_policy_lines: float | None = Field(
        None,
        description="share of lines with cookie or privacy phrases or javascript; no published rule "
        "(C4 drops the lines)",
    )
    min_kept_lines: float | None = Field(
        None, description="share of lines that C4 keeps; no published rule (RefinedWeb: at least 0.95 of the words)"
    )
    min_words_per_line: int = Field(3, ge=0, description="a kept line has so many words; C4 3, DCLM 5")
    max_word_length: int = Field(1000, ge=1, description="longest word of a kept line, characters; C4 1000")
    terminal_punctuation: bool = Field(
        True, description="kept lines end with a sentence terminal or quotation mark; C4 yes, FineWeb no"
    )

    def rules(self) -> Iterator[Rule]:
        """In the order of datatrove's filter."""
        yield Rule("lorem_ipsum", "c4_lorem_ipsum", at_most=self.max_lorem_ipsum)
        yield Rule("curly_bracket", "c4_curly_bracket", at_most=self.max_curly_brackets)
        yield Rule("policy_lines", "c4_policy_lines", at_most=self.max_policy_lines)
        yield Rule("kept_lines", "c4_kept_lines", at_least=self.min_kept_lines)
        yield Rule("few_sentences", "c4_sentences", at_least=self.min_sentences)
