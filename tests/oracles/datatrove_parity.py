"""datatrove's four filter classes and our `datatrove` flavour on the same documents: who rejects what, and why."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline import filters

from data_engine import signals
from data_engine.policies import Policies
from data_engine.policies.base import Verdict, judge

CLASSES = {
    "gopher_repetition": filters.GopherRepetitionFilter,
    "gopher_quality": filters.GopherQualityFilter,
    "c4": filters.C4QualityFilter,
    "fineweb": filters.FineWebQualityFilter,
}
REASONS = {
    "dup_para_frac": "duplicate_paragraph_fraction",
    "dup_para_char_frac": "duplicate_paragraph_characters",
    "dup_line_frac": "duplicate_line_fraction",
    "dup_line_char_frac": "duplicate_line_characters",
    **{f"duplicated_{n}_n_grams": f"duplicate_{n}_gram" for n in range(5, 11)},
    "gopher_short_doc": "short_doc",
    "gopher_long_doc": "long_doc",
    "gopher_below_avg_threshold": "short_words",
    "gopher_above_avg_threshold": "long_words",
    "gopher_too_many_hashes": "hash_ratio",
    "gopher_too_many_ellipsis": "ellipsis_ratio",
    "gopher_too_many_bullets": "bullet_lines",
    "gopher_too_many_end_ellipsis": "ellipsis_lines",
    "gopher_below_alpha_threshold": "alphabetic_words",
    "gopher_enough_stop_words": "stop_words",
    "too_few_sentences": "few_sentences",
    "line_punct_ratio": "terminal_lines",
    "short_line_ratio": "short_lines",
    "char_dup_ratio": "repeated_lines",
    "list_ratio": "newlines_per_word",
}
"""datatrove's reasons by ours; those of one name are left out."""


def theirs(name: str, texts: Sequence[str], after_c4: bool = False) -> list[str | None]:
    """The reason of one class for each document, in our words; None where it stays. after_c4: of what C4 leaves;
    '-' where C4 leaves nothing."""
    judging, editing = CLASSES[name](), CLASSES["c4"]()
    found: list[str | None] = []
    for text in texts:
        document = Document(text=text, id="")
        if after_c4 and editing.filter(document) is not True:
            found.append("-")
            continue
        verdict = judging.filter(document)
        found.append(None if verdict is True else REASONS.get(verdict[1], verdict[1]))
    return found


def ours(name: str, texts: Sequence[str], after_c4: bool = False) -> list[str | None]:
    """The same by the `datatrove` flavour."""
    policies = Policies.model_validate({"flavour": "datatrove", "c4": {"enabled": name == "c4" or after_c4}})
    measured = signals.measure(pa.array(texts, pa.large_string()), ["en"] * len(texts), policies)
    verdict = Verdict.clear(len(texts))
    judge([getattr(policies, name)], measured, verdict)
    return [reason and str(reason).partition(":")[2] for reason in verdict.reasons]


def balanced_accuracy(expected: Sequence[str | None], found: Sequence[str | None]) -> float:
    """Mean of the shares that are right among documents that stay and among those that go; right is the same reason."""
    right = np.array([one == other for one, other in zip(expected, found, strict=True)], bool)
    stays = np.array([reason is None for reason in expected], bool)
    return float(np.mean([right[group].mean() for group in (stays, ~stays) if group.any()]))
