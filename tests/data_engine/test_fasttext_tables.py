"""Labels and scores from tables against fastText itself."""

import json

import numpy as np
import pyarrow as pa
import pytest

from data_engine import fasttext_tables, language
from data_engine.kernels.unicode import buffers
from tests.data_engine.texts import ADVERSARIAL

MODEL = language.model_path(language.LanguageConfig())
CONTROL = ["one </s> deux trois", "__label__de ein Satz", "a\rb\x0bc\x0cd\te", "<s>", "> <", "\u2003", "日本語" * 400]


def fasttext(texts):
    labels, scores = language.predict(texts, language.load(MODEL), 1)
    return [found[0] if found else "" for found in labels.to_pylist()], [
        one[0] if one else 0 for one in scores.to_pylist()
    ]


@pytest.fixture(scope="module")
def sentences(real_data):
    lines = (real_data / "multilingual" / "sentences.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line]


def test_labels_and_scores_are_those_of_fasttext(sentences):
    texts = [text for text in [*sentences, *ADVERSARIAL, *CONTROL] if text.strip()]
    labels, scores = fasttext(texts)
    found, values = language.identify(texts, MODEL)
    assert [f"__label__{label}" for label in found] == labels
    np.testing.assert_allclose(values, np.minimum(scores, 1), atol=1e-6)


def test_blank_texts_have_no_language():
    assert language.identify(["", " \n", "\u2003"], MODEL)[0] == ["und"] * 3


def test_broken_utf8_is_read_within_bounds():
    tables = fasttext_tables.load(MODEL)
    broken = np.frombuffer("é字😀 à".encode()[:-1] + b"\xff\xf0", np.uint8)
    for end in range(len(broken) + 1):
        leaves, scores = tables.best(broken, np.array([0, end]))
        assert leaves[0] < len(tables.labels)
        assert 0 <= scores[0] < 1.1


def test_a_slice_of_an_array_is_read_at_its_place(sentences):
    column = pa.array(sentences[:9], pa.large_string())
    whole = language.identify(column, MODEL)[0]
    assert language.identify(column.slice(4, 3), MODEL)[0] == whole[4:7]
    assert buffers(column.slice(4, 3))[1][0] > 0


@pytest.mark.parametrize("content", [b"", b"\0" * 100])
def test_another_kind_of_model_is_left_to_fasttext(tmp_path, content):
    (tmp_path / "model").write_bytes(content)
    assert fasttext_tables.load(str(tmp_path / "model")) is None
