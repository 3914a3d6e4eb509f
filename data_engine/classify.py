"""Scores of fastText classifiers for a batch of texts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import UserError
from data_engine.language import load, predict
from data_engine.policies.classifiers import Classifier

PREFIX = "__label__"


def check(classifier: Classifier) -> None:
    """Raises UserError when the model's file is missing or no fastText model, or when it does not know the label."""
    where = f"policies.classifiers: {classifier.name}"
    if not Path(classifier.model).is_file():
        raise UserError(f"{where}: {classifier.model}: no such file")
    labels = [label.removeprefix(PREFIX) for label in load(classifier.model, where).get_labels()]
    if classifier.label not in labels:
        shown = ", ".join(sorted(labels)[:10])
        raise UserError(f"{where}: {classifier.model} has no label {classifier.label!r}; it knows {shown}")


def scores(texts: pa.Array, classifier: Classifier) -> np.ndarray:
    """The score of the classifier's label, (n,) float64; 0 where the model gives none, as for an empty text.

    texts: n strings.
    """
    labels, values = predict(texts, load(classifier.model), -1)
    hits = pc.equal(labels.flatten(), PREFIX + classifier.label)
    out = np.zeros(len(labels))
    documents = pc.list_parent_indices(labels).filter(hits).to_numpy()
    out[documents] = np.minimum(values.flatten().filter(hits).to_numpy(zero_copy_only=False), 1.0)
    return out
