"""`raymill data derive`: reference pages to instruction pairs, preference pairs and multiple-choice items."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from core.config import InputPath, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.report import Report, bar_chart
from core.run import Run
from core.stage import Stage
from data_engine.choice_items import ITEMS, answer_items, description_items
from data_engine.corpus import list_shards, read_documents
from data_engine.distractors import Distractors
from data_engine.facts import MODULE_PATTERN, OBJECT_PATTERN, Fact, PageReader, Skipped, check_pattern
from data_engine.near_identical import near_identical
from data_engine.questions import TASKS, Question, TaskName, ask, balance, best_constant_share, draw, frequent
from data_engine.split import TRAIN, VALIDATION, VALIDATION_FRACTION, split_of

TRAIN_FILE, HELDOUT_FILE = "train.parquet", "heldout.parquet"
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
CONVERSATIONS = pa.schema(
    [("messages", _MESSAGES), ("source", pa.string()), ("task", pa.string()), ("document_id", pa.string())]
)
PREFERENCES = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("source", pa.string()),
        ("document_id", pa.string()),
    ]
)


class DeriveConfig(StageConfig):
    """Settings of `raymill data derive`."""

    documents: InputPath = Field(description="documents artifact, or Parquet files with the columns id and text")
    validation_fraction: float = Field(
        VALIDATION_FRACTION, gt=0, lt=1, description="share of documents held out; no larger than that of data tokenize"
    )
    patterns: list[str] = Field(
        [OBJECT_PATTERN, MODULE_PATTERN],
        description="regular expressions for the line that says what a page documents, with the groups name, kind, "
        "and where they apply module and package",
    )
    shortest_description: int = Field(24, ge=1, description="characters; a shorter first sentence says too little")
    longest_description: int = Field(160, ge=1, description="characters; a longer first sentence is not taken")
    near_identical: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of words from which a held-out description counts as seen"
    )
    tasks: list[TaskName] = Field(
        ["kind", "package", "module", "parameter", "describe"], min_length=1, description="questions to ask"
    )
    max_answer_share: float = Field(
        0.3, gt=0, le=1, description="share of one answer within a task at most, so that a constant guess stays poor"
    )
    package_share: float = Field(
        0.02, ge=0, le=1, description="packages with a smaller share of the facts are not asked for"
    )
    train_per_task: int = Field(1200, ge=1, description="training conversations of one task at most")
    heldout_per_task: int = Field(200, ge=1, description="held-out conversations of one task at most")
    partners_per_fact: int = Field(1, ge=1, description="facts of other kinds that a fact is paired with, both ways")
    length_ratio: float = Field(
        1.4, ge=1, description="the longer of two paired descriptions over the shorter, at most"
    )
    choices: int = Field(4, ge=2, description="answers that a multiple-choice item offers")

    @field_validator("patterns")
    @classmethod
    def _patterns_name_their_groups(cls, value: list[str]) -> list[str]:
        for pattern in value:
            check_pattern(pattern)
        return value


@dataclass
class Facts:
    """Facts by split, and how many pages gave none, by reason."""

    train: list[Fact] = field(default_factory=list)
    heldout: list[Fact] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    documents: int = 0


def derive(config: DeriveConfig, run: Run) -> Manifest:
    """Facts from reference pages, then questions, pairs and items; held-out ones only from validation documents."""
    with run.timing("facts"):
        facts = _read_facts(config, run)
        _drop_leaks(config, facts)
    if not facts.train or not facts.heldout:
        which = "train" if not facts.train else "held-out"
        raise UserError(
            f"{config.documents}: no {which} fact in {facts.documents} documents ({_reasons(facts.skipped)}); "
            "set patterns to what your reference pages look like"
        )
    with run.timing("questions"):
        packages = frequent((fact.package for fact in facts.train), config.package_share)
        conversations = {
            TRAIN_FILE: _conversations(config, facts.train, packages, config.train_per_task),
            HELDOUT_FILE: _conversations(config, facts.heldout, packages, config.heldout_per_task),
        }
    with run.timing("pairs"):
        pairs = {TRAIN_FILE: _pairs(config, facts.train), HELDOUT_FILE: _pairs(config, facts.heldout)}
        items = [
            *description_items(facts.heldout, config.choices, config.length_ratio, config.seed),
            *answer_items(conversations[HELDOUT_FILE], config.choices, config.seed),
        ]
    for name, questions in conversations.items():
        rows = [_conversation_row(question) for question in questions]
        pq.write_table(pa.Table.from_pylist(rows, CONVERSATIONS), run.folder("conversations") / name)
    for name, rows in pairs.items():
        pq.write_table(pa.Table.from_pylist(rows, PREFERENCES), run.folder("preferences") / name)
    pq.write_table(pa.Table.from_pylist(items, ITEMS), run.folder("items") / HELDOUT_FILE)
    counts: dict[str, Any] = {
        "documents": facts.documents,
        "facts_train": len(facts.train),
        "facts_heldout": len(facts.heldout),
        "skipped": dict(sorted(facts.skipped.items())),
        "conversations_train": len(conversations[TRAIN_FILE]),
        "conversations_heldout": len(conversations[HELDOUT_FILE]),
        "pairs_train": len(pairs[TRAIN_FILE]),
        "pairs_heldout": len(pairs[HELDOUT_FILE]),
        "items_heldout": len(items),
    }
    if counts["documents"] != len(facts.train) + len(facts.heldout) + facts.skipped.total():
        raise RaymillError(f"derive: documents, facts and skipped do not add up: {counts}; this is a bug")
    report = _report(counts, conversations, pairs, items)
    return run.commit(counts=counts, metrics=_metrics(counts, conversations), report=report)


# --- facts --------------------------------------------------------------------------------------------------------


def _read_facts(config: DeriveConfig, run: Run) -> Facts:
    reader = PageReader(config.patterns, config.shortest_description, config.longest_description)
    shards = list_shards(config.documents)
    facts = Facts()
    with run.progress("derive", sum(shard.documents for shard in shards), "documents") as progress:
        for shard in shards:
            for batch in read_documents(shard.path, ("id", "text", "source")):
                for identifier, text, source in zip(batch["id"], batch["text"], batch["source"], strict=True):
                    found = reader.read(identifier, text, source)
                    if isinstance(found, Skipped):
                        facts.skipped[found.reason] += 1
                    elif split_of(identifier, config.validation_fraction) == VALIDATION:
                        facts.heldout.append(found)
                    else:
                        facts.train.append(found)
                facts.documents += len(batch["id"])
                progress.advance(len(batch["id"]))
    return facts


def _drop_leaks(config: DeriveConfig, facts: Facts) -> None:
    """One fact per name and per description; none held out whose name or description training could have seen."""
    for split in (TRAIN, VALIDATION):
        names: set[str] = set()
        descriptions: set[str] = set()
        kept = []
        pool = facts.train if split == TRAIN else facts.heldout
        for fact in sorted(pool, key=lambda fact: fact.document_id):
            if fact.name in names or fact.description.lower() in descriptions:
                facts.skipped["repeated"] += 1
                continue
            names.add(fact.name)
            descriptions.add(fact.description.lower())
            kept.append(fact)
        pool[:] = kept
    seen_names = {fact.name for fact in facts.train}
    alike = near_identical(
        [fact.description for fact in facts.heldout], [fact.description for fact in facts.train], config.near_identical
    )
    kept = [fact for fact, seen in zip(facts.heldout, alike, strict=True) if not seen and fact.name not in seen_names]
    if len(kept) < len(facts.heldout):
        facts.skipped["heldout_seen_in_train"] = len(facts.heldout) - len(kept)
    facts.heldout[:] = kept


def _reasons(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.most_common()) or "none skipped"


# --- what is derived ----------------------------------------------------------------------------------------------


def _conversations(
    config: DeriveConfig, facts: Sequence[Fact], packages: frozenset[str], at_most: int
) -> list[Question]:
    """Balanced questions of every task, in an order drawn by the seed."""
    taken: list[Question] = []
    for name in config.tasks:
        asked = [question for fact in facts if (question := ask(TASKS[name], fact, config.seed)) is not None]
        if name == "package":
            asked = [question for question in asked if question.answer in packages]
        taken += balance(asked, config.max_answer_share, at_most, config.seed)
    return sorted(taken, key=lambda question: draw(config.seed, "order", question.task, question.fact.document_id))


def _conversation_row(question: Question) -> dict[str, Any]:
    messages = [{"role": "user", "content": question.prompt}, {"role": "assistant", "content": question.answer}]
    fact = question.fact
    return {"messages": messages, "source": fact.source, "task": question.task, "document_id": fact.document_id}


def _pairs(config: DeriveConfig, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Right descriptions against wrong ones of the same split: no held-out text occurs in a training pair.

    Two facts of different kinds give two rows, each with its own question and the other's description as the wrong
    answer: every description is right as often as wrong, so only the question decides.
    """
    distractors = Distractors(facts, config.seed, config.length_ratio)
    rows: list[dict[str, Any]] = []
    seen: set[frozenset[str]] = set()
    for fact in facts:
        found = 0
        for other in distractors.partners(fact, "pair"):
            pair = frozenset((fact.document_id, other.document_id))
            if pair in seen:
                continue
            seen.add(pair)
            rows += [_preference_row(config, fact, other), _preference_row(config, other, fact)]
            found += 1
            if found == config.partners_per_fact:
                break
    return sorted(rows, key=lambda row: draw(config.seed, "order", row["document_id"], row["rejected"]))


def _preference_row(config: DeriveConfig, fact: Fact, other: Fact) -> dict[str, Any]:
    question = ask(TASKS["describe"], fact, config.seed)
    assert question is not None
    return {
        "prompt": [{"role": "user", "content": question.prompt}],
        "chosen": fact.description,
        "rejected": other.description,
        "source": fact.source,
        "document_id": fact.document_id,
    }


# --- the report ---------------------------------------------------------------------------------------------------


def _by_task(questions: Sequence[Question]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for question in questions:
        found.setdefault(question.task, []).append(question.answer)
    return dict(sorted(found.items()))


def _metrics(counts: dict[str, Any], conversations: dict[str, list[Question]]) -> dict[str, Any]:
    heldout = _by_task(conversations[HELDOUT_FILE])
    facts = counts["facts_train"] + counts["facts_heldout"]
    return {
        "best_constant_guess": {task: round(best_constant_share(answers), 4) for task, answers in heldout.items()},
        "headline": [
            f"{facts:,} facts of {counts['documents']:,} documents, {counts['facts_heldout']:,} of them held out",
            "conversations: "
            f"{counts['conversations_train']:,} to train on, {counts['conversations_heldout']:,} held out",
            f"preference pairs: {counts['pairs_train']:,} to train on, {counts['pairs_heldout']:,} held out",
            f"multiple-choice items: {counts['items_heldout']:,}",
        ],
    }


def _report(
    counts: dict[str, Any],
    conversations: dict[str, list[Question]],
    pairs: dict[str, list[dict[str, Any]]],
    items: list[dict[str, Any]],
) -> Report:
    facts = counts["facts_train"] + counts["facts_heldout"]
    report = Report("Derived tasks", f"{facts:,} facts of {counts['documents']:,} reference pages")
    named = {name.replace("_", " ").replace("heldout", "held out"): value for name, value in counts.items()}
    report.facts(
        "In short",
        {name: value for name, value in named.items() if name != "skipped"},
        "A fact is a name of the documentation with its kind, module, package, parameters and description. "
        "Conversations, preference pairs and multiple-choice items ask about facts of their own split only.",
    )
    skipped = [[reason.replace("_", " ").replace("heldout", "held out,"), n] for reason, n in counts["skipped"].items()]
    report.table("Pages without a fact", ["reason", "pages"], skipped)
    train, heldout = (_by_task(conversations[name]) for name in (TRAIN_FILE, HELDOUT_FILE))
    rows = []
    for task in train:
        answers = heldout.get(task, [])
        rows.append([task, len(train[task]), len(answers), len(set(train[task])), best_constant_share(answers)])
    report.table(
        "Instruction tasks",
        ["task", "train", "held out", "different answers", "best constant guess"],
        rows,
        "Best constant guess: exact match on the held-out questions of the one answer that fits most of them.",
    )
    for task in ("kind", "package"):
        if task in train:
            answers_of = dict(Counter(train[task]).most_common(20))
            report.figure(f"Right answers of the task {task}", bar_chart(answers_of, "training conversations"))
    report.samples(
        "Held-out conversations",
        [(question.prompt, question.answer) for question in conversations[HELDOUT_FILE][:12]],
    )
    report.samples(
        "Held-out preference pairs",
        [
            (row["prompt"][0]["content"], f"chosen:   {row['chosen']}\nrejected: {row['rejected']}")
            for row in pairs[HELDOUT_FILE][:8]
        ],
    )
    report.samples(
        "Multiple-choice items",
        [
            (
                row["question"],
                "\n".join(f"{'>' if i == row['answer'] else ' '} {c}" for i, c in enumerate(row["choices"])),
            )
            for row in items[:: max(1, len(items) // 8)][:8]
        ],
    )
    return report


STAGE = Stage(name="data.derive", version=3, config=DeriveConfig, run=derive)
