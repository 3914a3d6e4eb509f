"""The stage `data train-classifier`: labelled documents to a fastText classifier, measured on held-out ones.

As DCLM trains its quality filter (Li et al. 2024, arXiv:2406.11794, section 4.4): a linear model on word n-grams, with
examples of what is wanted as positives and ordinary documents as negatives.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from core import storage
from core.config import Config, InputPath, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.report import Report
from core.run import Run
from core.stage import Stage
from data_engine import fasttext_worker
from data_engine.classify import PREFIX
from data_engine.corpus import FOLDER
from data_engine.language import load, predict
from data_engine.split import TRAIN, VALIDATION, split_of

MODEL, CARD = "classifier.bin", "card.json"
_LEAST_HELD_OUT = 5


class Examples(Config):
    """Documents of one label, or with a column that says which."""

    path: InputPath = Field(description="documents artifact, or Parquet or JSON-lines files")
    label: str | None = Field(None, description="the label of all of them")
    label_column: str | None = Field(None, description="column that holds each document's label")
    text_column: str = Field("text", description="column that holds the text")

    @model_validator(mode="after")
    def _is_labelled(self) -> Self:
        if (self.label is None) == (self.label_column is None):
            raise ValueError(f"examples of {self.path} need either label or label_column")
        return self


class TrainClassifierConfig(StageConfig):
    """Settings of `data train-classifier`."""

    examples: list[Examples] = Field(min_length=1, description="labelled documents; at least two labels in all")
    held_out: float = Field(0.2, gt=0, lt=1, description="share held out, by a hash of the text: copies stay together")
    epochs: int = Field(5, ge=1, description="passes over the training documents; fastText 5")
    learning_rate: float = Field(0.1, gt=0, description="fastText 0.1")
    word_ngrams: int = Field(2, ge=1, description="longest word n-gram; DCLM 2")
    dimension: int = Field(100, ge=1, description="length of the vectors; fastText 100")
    min_count: int = Field(1, ge=1, description="a word counts from so many occurrences on; fastText 1")
    buckets: int = Field(200_000, ge=1, description="hash buckets of n-grams; fastText 2,000,000 (800 MB at 100)")


def train_classifier(config: TrainClassifierConfig, run: Run) -> Manifest:
    """Read and split the examples, train with one thread (more would not repeat), measure on what was held out."""
    texts: dict[str, list[tuple[str, str]]] = {TRAIN: [], VALIDATION: []}
    empty = 0
    for label, text in _examples(config):
        line = _line(text)
        if not line:
            empty += 1
            continue
        texts[split_of(storage.digest_bytes([line.encode()]), config.held_out)].append((label, line))
    counts = {split: Counter(label for label, _ in found) for split, found in texts.items()}
    _check(counts)

    training = run.path("training.txt")
    training.write_text("".join(f"{PREFIX}{label} {line}\n" for label, line in texts[TRAIN]), encoding="utf-8")
    with run.timing("train"):
        fasttext_worker.train(
            training, run.path(MODEL), lr=config.learning_rate, epoch=config.epochs, wordNgrams=config.word_ngrams,
            dim=config.dimension, minCount=config.min_count, bucket=config.buckets, seed=config.seed,
        )  # fmt: skip
    training.unlink()

    with run.timing("held_out"):
        labels = _evaluate(run, texts[VALIDATION], counts)
    card = {"labels": labels, "settings": config.identity(), "inputs": [entry.model_dump() for entry in run.inputs]}
    storage.write_atomic(run.path(CARD), json.dumps(card, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    report = Report("Classifier", f"{sum(counts[TRAIN].values()):,} documents to train on")
    columns = ["trained_on", "held_out", "precision", "recall"]
    report.table(
        "Labels", ["label", *columns], [[name, *(row[key] for key in columns)] for name, row in labels.items()]
    )
    told = [f"{name}: precision {row['precision']:.3f}, recall {row['recall']:.3f}" for name, row in labels.items()]
    return run.commit(
        counts={"documents": sum(map(len, texts.values())) + empty, "empty": empty}
        | {split: len(found) for split, found in texts.items()},
        metrics={"labels": labels, "headline": [f"on held-out documents: {'; '.join(told)}"]},
        report=report,
    )


def _examples(config: TrainClassifierConfig) -> Iterator[tuple[str, str]]:
    for examples in config.examples:
        columns = [name for name in (examples.text_column, examples.label_column) if name is not None]
        inside = os.path.join(examples.path, FOLDER)
        for path in storage.list_files(inside if os.path.isdir(inside) else examples.path):
            table = _read(path, columns)
            texts = table[examples.text_column].to_pylist()
            found = table[examples.label_column].to_pylist() if examples.label_column else [examples.label] * len(texts)
            for label, text in zip(found, texts, strict=True):
                if label is None or any(character.isspace() for character in str(label)):
                    raise UserError(f"{path}: a label is {label!r}; fastText labels are words without white space")
                yield str(label), text or ""


def _read(path: str, columns: list[str]) -> pa.Table:
    try:
        with storage.open_read(path) as file:
            table = pq.read_table(file) if path.endswith(".parquet") else pa_json.read_json(file)
    except pa.ArrowException as error:
        kind = "Parquet" if path.endswith(".parquet") else "JSON lines"
        raise UserError(f"{path}: not readable as {kind}: {str(error).splitlines()[0]}") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}; it has {', '.join(table.column_names)}")
    return table.select(columns)


def _line(text: str) -> str:
    """One line, as fastText reads it, in which no word is taken for a label."""
    return " ".join(text.split()).replace(PREFIX, "label ")


def _check(counts: dict[str, Counter[str]]) -> None:
    labels = sorted(counts[TRAIN] | counts[VALIDATION])
    if len(labels) < 2:
        raise UserError(f"examples: {len(labels)} label ({', '.join(labels)}); a classifier tells at least two apart")
    for label in labels:
        if not counts[TRAIN][label] or counts[VALIDATION][label] < _LEAST_HELD_OUT:
            raise UserError(
                f"examples: label {label} has {counts[TRAIN][label]} documents to train on and "
                f"{counts[VALIDATION][label]} held out; at least 1 and {_LEAST_HELD_OUT} are needed: add documents"
            )


def _evaluate(run: Run, held_out: list[tuple[str, str]], counts: dict[str, Counter[str]]) -> dict[str, dict[str, Any]]:
    """Precision and recall of the best label on held-out documents, by label."""
    best, _ = predict([line for _, line in held_out], load(str(run.path(MODEL)), MODEL), 1)
    said = [labels[0].removeprefix(PREFIX) if labels else "" for labels in best.to_pylist()]
    right: Counter[str] = Counter(label for (label, _), one in zip(held_out, said, strict=True) if label == one)
    claimed = Counter(said)
    return {
        label: {
            "trained_on": counts[TRAIN][label],
            "held_out": counts[VALIDATION][label],
            "precision": round(right[label] / max(claimed[label], 1), 4),
            "recall": round(right[label] / counts[VALIDATION][label], 4),
        }
        for label in sorted(counts[VALIDATION])
    }


STAGE = Stage(name="data.train-classifier", version=1, config=TrainClassifierConfig, run=train_classifier)
"""Its artifact is classifier.bin with card.json beside it."""
