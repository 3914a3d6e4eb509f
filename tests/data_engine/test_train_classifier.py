"""A classifier must learn, say how well on text it has not seen, repeat, and decide in a build by its score."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import config
from core.errors import UserError
from data_engine.classify import scores
from data_engine.policies.classifiers import Classifier
from data_engine.train_classifier import STAGE
from tests.data_engine import corpora
from tests.data_engine.test_build import ANY, build

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


@pytest.fixture(scope="module")
def trained(manuals_and_chat, tmp_path_factory):
    """The manifest and the artifact of the two."""
    return train(tmp_path_factory.mktemp("trained"), "run", manuals_and_chat)


def test_held_out_precision_and_recall_are_high_and_on_the_card(trained):
    manifest, run = trained
    card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    assert set(card["labels"]) == {"manual", "chat"}
    for row in card["labels"].values():
        assert row["precision"] > 0.9
        assert row["recall"] > 0.9
        assert row["held_out"] > 20
    counts = manifest.counts
    assert counts["documents"] == counts["train"] + counts["validation"] + counts["empty"]
    assert not (run / "training.txt").exists()


def test_the_same_seed_gives_the_same_model(tmp_path, trained, manuals_and_chat):
    _, again = train(tmp_path, "again", manuals_and_chat)
    assert (again / "classifier.bin").read_bytes() == (trained[1] / "classifier.bin").read_bytes()


def test_scores_are_fasttexts_own(trained):
    import fasttext

    _, run = trained
    texts = ["Install the package with pip\nand run it.", "", "Why are you so mean to me?"]
    classifier = Classifier(name="kind", model=str(run / "classifier.bin"), label="manual", min_score=0.5)
    found = scores(pa.array(texts, pa.large_string()), classifier)
    model = fasttext.load_model(str(run / "classifier.bin"))
    labels, values = model.f.multilinePredict([text.replace("\n", " ") + "\n" for text in texts], 2, 0.0, "strict")
    expected = [dict(zip(*row, strict=True)).get("__label__manual", 0) for row in zip(labels, values, strict=True)]
    assert found[[0, 2]] == pytest.approx([min(expected[0], 1), min(expected[2], 1)])
    assert found[1] == 0


def test_a_build_drops_by_one_score_and_tags_by_another(tmp_path, trained):
    _, run = trained
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"text": "Run pip install to set up the package. See the configuration file.", "url": "http://a/1"})
        + "\n"
        + json.dumps({"text": "Oh no, I really hate my neighbour, what should I do about him?", "url": "http://a/2"})
        + "\n",
        encoding="utf-8",
    )
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


def sentences(rng, toxic):
    """Insults without a word of the shipped lists, or talk of a harbour; the same grammar and length."""
    people = ["pathetic liar", "worthless clown", "miserable coward"] if toxic else ["harbour pilot", "cook", "teacher"]
    acts = (
        ["get lost", "nobody wants you here", "crawl away"] if toxic else ["come along", "we sail today", "take a seat"]
    )
    return " ".join(f"You are a {rng.choice(people)}, so {rng.choice(acts)}." for _ in range(rng.randint(2, 5)))


def test_toxicity_learnt_from_labels_is_dropped_or_tagged(tmp_path):
    rng = random.Random(4)
    labelled = [{"text": sentences(rng, n % 2), "label": "toxic" if n % 2 else "fine"} for n in range(300)]
    corpora.write_jsonl(tmp_path / "labelled.jsonl", labelled)
    examples = [{"path": str(tmp_path / "labelled.jsonl"), "label_column": "label"}]
    learnt, run = train(tmp_path, "toxicity", examples)
    assert min(min(row["precision"], row["recall"]) for row in learnt.metrics["labels"].values()) > 0.9

    rows = corpora.rows_of([f"{sentences(rng, n % 2)} {sentences(rng, n % 2)}" for n in range(8)])
    corpora.write_jsonl(tmp_path / "in.jsonl", rows)
    model = {"name": "toxicity", "model": str(run / "classifier.bin"), "label": "toxic"}
    found = {}
    for action, bound in (("drop", {"max_score": 0.5}), ("tag", {})):
        policies = {**ANY, "classifiers": {"models": [model | bound | {"action": action}]}}
        found[action] = build(tmp_path / action, [tmp_path / "in.jsonl"], policies=policies)
    manifest, dropped = found["drop"]
    assert manifest.counts["rejected"] == {"classifier:toxicity": 4}
    rejects = corpora.read_all(dropped / "rejects")
    assert {int(row["url"][-1]) % 2 for row in rejects} == {1}
    assert all(row["value"] > 0.5 == row["threshold"] for row in rejects)
    manifest, tagged = found["tag"]
    assert manifest.counts["rejected"] == {}
    scores = {
        int(row["url"][-1]): row["signals"]["classifier_toxicity"] for row in corpora.read_all(tagged / "documents")
    }
    assert [scores[n] > 0.5 for n in range(8)] == [bool(n % 2) for n in range(8)]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": "spam"}, "has no label 'spam'; it knows chat, manual"), ({"model": "absent.bin"}, "absent.bin")],
)
def test_a_wrong_model_or_label_is_named_before_work_begins(tmp_path, trained, change, message):
    _, run = trained
    (tmp_path / "in.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    model = {"name": "kind", "model": str(run / "classifier.bin"), "label": "manual", "min_score": 0.5} | change
    with pytest.raises(UserError, match=message):
        build(tmp_path / "b", [tmp_path / "in.jsonl"], policies={"classifiers": {"models": [model]}})


def test_one_label_is_no_classifier(tmp_path, manuals_and_chat):
    with pytest.raises(UserError, match="1 label"):
        train(tmp_path, "run", manuals_and_chat[:1])
