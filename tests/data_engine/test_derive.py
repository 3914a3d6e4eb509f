"""`data derive` as a whole: facts are right, and nothing held out leaks into training."""

import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import manifest
from core.errors import UserError
from data_engine.derive import STAGE, DeriveConfig
from data_engine.near_identical import near_identical
from data_engine.questions import best_constant_share
from data_engine.split import VALIDATION, split_of

KINDS = ["function", "class", "method", "exception"]
PACKAGES = ["numpy", "torch", "rich", None]
VERBS, NOUNS = ["Return", "Build", "Read", "Write", "Merge"], [f"noun{n}" for n in range(400)]


def pages(count=900, seed=0):
    """Pages with facts that the test knows, some copies, some that are no reference pages."""
    generator = random.Random(seed)
    rows, truth = [], {}
    for number in range(count):
        identifier = f"{number:032x}"
        kind, package = KINDS[number % 4], generator.choice(PACKAGES)
        module = f"{package or 'std'}.part{number % 17}"
        name = f"{module}.thing{number}"
        words = generator.sample(NOUNS, 5)
        description = f"{generator.choice(VERBS)} the {words[0]} of the {words[1]} and its {' '.join(words[2:])}."
        owner = f"the package {package}" if package else "the standard library"
        article = "an" if kind == "exception" else "a"
        head = f"{name}\n{name} is {article} {kind} in the module {module} of {owner}."
        text = f"{head}\nthing{number}(first{number % 40}, b=1)\n{description} More."
        if number % 30 == 7:
            text = "A page about something else.\nIt has no facts."
        elif number % 30 == 8 and rows:
            text = rows[-2]["text"].replace("thing", "copy")  # another name, the same description
            kind, description = KINDS[(number - 2) % 4], ""
        truth[identifier] = {"kind": kind, "package": package or "the standard library", "module": module}
        truth[identifier] |= {"parameter": f"first{number % 40}", "describe": description}
        rows.append({"id": identifier, "text": text, "source": "pages"})
    return rows, truth


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    folder = tmp_path_factory.mktemp("derive")
    rows, truth = pages()
    pq.write_table(pa.Table.from_pylist(rows), folder / "pages.parquet")
    settings = {"documents": str(folder / "pages.parquet"), "validation_fraction": 0.2}
    done, _ = STAGE.execute(DeriveConfig(output=str(folder / "out"), **settings))
    return folder, rows, truth, done, settings


def table(derived, *parts):
    return pq.read_table(derived[0].joinpath("out", *parts)).to_pylist()


def test_answers_are_the_facts_of_the_page(derived):
    truth = derived[2]
    found = table(derived, "conversations", "train.parquet") + table(derived, "conversations", "heldout.parquet")
    checked = [row for row in found if truth[row["document_id"]]["describe"]]
    assert len(checked) > 1000
    for row in checked:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert assistant["content"] == truth[row["document_id"]][row["task"]]
        assert row["source"] == "pages"


def test_every_document_is_a_fact_or_skipped_with_a_reason(derived):
    counts = derived[3].counts
    assert counts["documents"] == 900
    assert counts["facts_train"] + counts["facts_heldout"] + sum(counts["skipped"].values()) == 900
    assert counts["skipped"]["no_match"] == 30
    assert counts["skipped"]["repeated"] + counts["skipped"]["heldout_seen_in_train"] == 30


def test_held_out_rows_come_from_validation_documents_alone(derived):
    for folder in ("conversations", "preferences"):
        for name, split in (("train.parquet", "train"), ("heldout.parquet", VALIDATION)):
            ids = {row["document_id"] for row in table(derived, folder, name)}
            assert ids
            assert {split_of(identifier, 0.2) for identifier in ids} == {split}
    assert {split_of(row["document_id"], 0.2) for row in table(derived, "items", "heldout.parquet")} == {VALIDATION}


def test_no_held_out_text_occurs_in_training(derived):
    train = table(derived, "preferences", "train.parquet")
    heldout = table(derived, "preferences", "heldout.parquet")
    seen = {row["chosen"] for row in train} | {row["rejected"] for row in train}
    seen |= {m["content"] for row in table(derived, "conversations", "train.parquet") for m in row["messages"]}
    asked = {row["chosen"] for row in heldout} | {row["rejected"] for row in heldout}
    items = [row for row in table(derived, "items", "heldout.parquet") if row["task"] == "describe"]
    asked |= {choice for row in items for choice in row["choices"]}
    assert not asked & seen
    assert not any(near_identical(sorted(asked), sorted(seen), 0.8))


MANNER = {"function": "call", "method": "call", "class": "class", "module": "module", "exception": "exception"}


def test_rejected_descriptions_are_wrong_but_plausible(derived):
    truth = derived[2]
    kind_of = {fact["describe"]: fact["kind"] for fact in truth.values() if fact["describe"]}
    rows = table(derived, "preferences", "train.parquet")
    assert len(rows) > 1000
    for row in rows:
        fact = truth[row["document_id"]]
        if not fact["describe"]:
            continue
        assert row["chosen"] != row["rejected"]
        assert MANNER[kind_of[row["rejected"]]] != MANNER[fact["kind"]]
        assert max(len(row["chosen"]), len(row["rejected"])) <= 1.4 * min(len(row["chosen"]), len(row["rejected"]))


def test_right_and_wrong_cannot_be_told_apart_without_the_question(derived):
    """Every description is right as often as it is wrong: a prior over descriptions scores exactly one half."""
    rows = table(derived, "preferences", "train.parquet")
    chosen, rejected = (Counter(row[side] for row in rows) for side in ("chosen", "rejected"))
    assert chosen == rejected


def test_items_have_one_right_choice_at_every_place(derived):
    items = table(derived, "items", "heldout.parquet")
    truth = derived[2]
    by_task = Counter(item["task"] for item in items)
    assert set(by_task) == {"describe", "kind", "package", "module", "parameter"}
    assert min(by_task.values()) > 50
    for item in items:
        assert len(set(item["choices"])) == 4
        if not truth[item["document_id"]]["describe"]:
            continue  # a copy that survived: its own truth is that of the page it copies
        assert item["choices"][item["answer"]] == truth[item["document_id"]][item["task"]]
        assert item["id"] == f"{item['document_id']}:{item['task']}"
    for task in by_task:
        assert {item["answer"] for item in items if item["task"] == task} == {0, 1, 2, 3}


def test_common_answers_are_offered_where_they_are_wrong(derived):
    """Else the choice that is right somewhere would be the right one."""
    items = table(derived, "items", "heldout.parquet")
    for task in ("kind", "package"):
        offered, right = Counter(), Counter()
        for item in items:
            if item["task"] == task:
                offered.update(item["choices"])
                right[item["choices"][item["answer"]]] += 1
        assert all(right[choice] < 0.5 * offered[choice] for choice in offered), (task, right, offered)


def test_no_constant_answer_is_good(derived):
    by_task = {}
    for row in table(derived, "conversations", "heldout.parquet"):
        by_task.setdefault(row["task"], []).append(row["messages"][1]["content"])
    assert set(by_task) == {"kind", "package", "module", "parameter", "describe"}
    for task, answers in by_task.items():
        assert best_constant_share(answers) <= 0.35, task


def test_same_result_whatever_the_order_and_number_of_shards(derived, tmp_path):
    folder, rows, _, _, settings = derived
    shuffled = random.Random(2).sample(rows, len(rows))
    for number in range(7):
        pq.write_table(pa.Table.from_pylist(shuffled[number::7]), tmp_path / f"{number}.parquet")
    again = {**settings, "documents": str(tmp_path)}
    STAGE.execute(DeriveConfig(output=str(tmp_path / "out"), **again))
    assert manifest.read(tmp_path / "out").outputs == manifest.read(folder / "out").outputs


def test_corpus_without_reference_pages_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["1" * 32], "text": ["An essay."]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no train fact in 1 documents \(1 no_match\); set patterns"):
        STAGE.execute(DeriveConfig(documents=str(tmp_path / "a.parquet"), output=str(tmp_path / "out")))


def test_pattern_without_its_groups_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="must have the groups name and kind"):
        DeriveConfig(documents="x", output=str(tmp_path), patterns=["(.*)"])
