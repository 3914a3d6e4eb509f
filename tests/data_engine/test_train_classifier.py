"""A classifier must learn, say how well on text it has not seen, repeat, and decide in a build by its score."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import config
from core.errors import UserError
from data_engine.classify import scores
from data_engine.policies.classifiers import Classifier
from data_engine.train_classifier import STAGE
from tests.data_engine import corpora
from tests.data_engine.test_build import build

SMALL = {"dimension": 16, "buckets": 20_000, "epochs": 20, "learning_rate": 0.5}


def train(tmp_path, name, examples, **changes):
    settings = {"output": str(tmp_path / name), "examples": examples, **SMALL, **changes}
    manifest, _ = STAGE.execute(config.parse(STAGE.config, settings, "test"))
    return manifest, tmp_path / name


@pytest.fixture(scope="module")
def manuals_and_chat(real_data, tmp_path_factory):
    """Software manuals against replies of an assistant: two kinds of English that words tell apart."""
    folder = tmp_path_factory.mktemp("examples")
    manuals = [t for t in pq.read_table(real_data / "docs" / "docs.parquet")["text"].to_pylist()[::12] if t.strip()]
    lines = (real_data / "preferences" / "harmless_base_1500.jsonl").read_text(encoding="utf-8").split("\n")
    chat = [turn["content"] for line in lines if line for turn in json.loads(line)["prompt"]][:600]
    pq.write_table(pa.table({"text": manuals}), folder / "manuals.parquet")
    text = "".join(json.dumps({"body": one, "kind": "chat"}) + "\n" for one in chat)
    (folder / "chat.jsonl").write_text(text, encoding="utf-8")
    return [
        {"path": str(folder / "manuals.parquet"), "label": "manual"},
        {"path": str(folder / "chat.jsonl"), "label_column": "kind", "text_column": "body"},
    ]


def test_held_out_precision_and_recall_are_high_and_on_the_card(tmp_path, manuals_and_chat):
    manifest, run = train(tmp_path, "run", manuals_and_chat)
    card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    assert set(card["labels"]) == {"manual", "chat"}
    for row in card["labels"].values():
        assert row["precision"] > 0.9
        assert row["recall"] > 0.9
        assert row["held_out"] > 20
    counts = manifest.counts
    assert counts["documents"] == counts["train"] + counts["validation"] + counts["empty"]
    assert not (run / "training.txt").exists()


def test_the_same_seed_gives_the_same_model(tmp_path, manuals_and_chat):
    one, two = (train(tmp_path, name, manuals_and_chat)[1] / "classifier.bin" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_scores_are_fasttexts_own(tmp_path, manuals_and_chat):
    import fasttext

    _, run = train(tmp_path, "run", manuals_and_chat)
    texts = ["Install the package with pip\nand run it.", "", "Why are you so mean to me?"]
    classifier = Classifier(name="kind", model=str(run / "classifier.bin"), label="manual", min_score=0.5)
    found = scores(pa.array(texts, pa.large_string()), classifier)
    model = fasttext.load_model(str(run / "classifier.bin"))
    labels, values = model.f.multilinePredict([text.replace("\n", " ") + "\n" for text in texts], 2, 0.0, "strict")
    expected = [dict(zip(*row, strict=True)).get("__label__manual", 0) for row in zip(labels, values, strict=True)]
    assert found[[0, 2]] == pytest.approx([min(expected[0], 1), min(expected[2], 1)])
    assert found[1] == 0


def test_a_build_drops_by_one_score_and_tags_by_another(tmp_path, manuals_and_chat):
    _, run = train(tmp_path, "run", manuals_and_chat)
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"text": "Run pip install to set up the package. See the configuration file.", "url": "http://a/1"})
        + "\n"
        + json.dumps({"text": "Oh no, I really hate my neighbour, what should I do about him?", "url": "http://a/2"})
        + "\n",
        encoding="utf-8",
    )
    from tests.data_engine.test_build import ANY

    model = str(run / "classifier.bin")
    models = [
        {"name": "kind", "model": model, "label": "manual", "min_score": 0.5},
        {"name": "chatty", "model": model, "label": "chat", "action": "tag"},
    ]
    manifest, out = build(tmp_path / "b", [tmp_path / "in.jsonl"], policies={**ANY, "classifiers": {"models": models}})
    assert manifest.counts["rejected"] == {"classifier:kind": 1}
    (kept,) = corpora.read_all(out / "documents")
    assert kept["url"] == "http://a/1"
    assert kept["signals"]["classifier_kind"] > 0.5 > kept["signals"]["classifier_chatty"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": "spam"}, "has no label 'spam'; it knows chat, manual"), ({"model": "absent.bin"}, "absent.bin")],
)
def test_a_wrong_model_or_label_is_named_before_work_begins(tmp_path, manuals_and_chat, change, message):
    _, run = train(tmp_path, "run", manuals_and_chat)
    (tmp_path / "in.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    model = {"name": "kind", "model": str(run / "classifier.bin"), "label": "manual", "min_score": 0.5} | change
    with pytest.raises(UserError, match=message):
        build(tmp_path / "b", [tmp_path / "in.jsonl"], policies={"classifiers": {"models": [model]}})


def test_one_label_is_no_classifier(tmp_path, manuals_and_chat):
    with pytest.raises(UserError, match="1 label"):
        train(tmp_path, "run", manuals_and_chat[:1])
