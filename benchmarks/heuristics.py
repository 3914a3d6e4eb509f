"""All heuristic filters on real documents: our speed beside datatrove's four filter classes, and our agreement.

Speed: both sides judge every document by every rule; what one class rejects is judged by the next too. Each run takes
a third of the documents. Each document passes through datatrove's classes at once, so that its cache shares the words
among them. How fast datatrove is when a document leaves at the first class that rejects it stands in the result too.

Parity: the `datatrove` flavour, class by class, on every document, with the same reason (tests/oracles).
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from pathlib import Path

import harness

harness.one_thread()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import logging  # noqa: E402

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from datatrove.data import Document  # noqa: E402

from data_engine import signals  # noqa: E402
from data_engine.measure import BATCH  # noqa: E402
from data_engine.policies import Policies  # noqa: E402
from data_engine.policies.base import Verdict, judge  # noqa: E402
from tests.oracles import datatrove_parity as parity  # noqa: E402

RUNS = 3
QUALITY = {"toxicity": {"enabled": False}}


def ours(texts: pa.Array, policies: Policies) -> None:
    for start in range(0, len(texts), BATCH):
        part = texts.slice(start, BATCH)
        verdict = Verdict.clear(len(part))
        judge(policies.enabled(), signals.measure(part, ["en"] * len(part), policies), verdict)


def theirs(texts: list[str], leave_early: bool) -> None:
    classes = [judging() for judging in parity.CLASSES.values()]
    for text in texts:
        document = Document(text=text, id="")
        for judging in classes:
            if judging.filter(document) is not True and leave_early:
                break


def measure_speed(texts: list[str]) -> None:
    default = Policies.model_validate(QUALITY)
    flavour = Policies.model_validate(QUALITY | {"flavour": "datatrove"})
    for policies in (default, flavour):
        ours(pa.array(texts[:50], pa.large_string()), policies)
    theirs(texts[:20], leave_early=False)
    own, own_flavour, other, early = [], [], [], []
    for run in range(RUNS):
        part = texts[run::RUNS]
        column = pa.array(part, pa.large_string())
        own.append(len(part) / harness.cpu_seconds(lambda column=column: ours(column, default), 5))
        own_flavour.append(len(part) / harness.cpu_seconds(lambda column=column: ours(column, flavour), 5))
        other.append(len(part) / harness.cpu_seconds(lambda part=part: theirs(part, leave_early=False)))
        early.append(len(part) / harness.cpu_seconds(lambda part=part: theirs(part, leave_early=True)))
    ratios = [one / two for one, two in zip(own, other, strict=True)]
    harness.write(
        "data.heuristics_vs_datatrove",
        statistics.median(ratios),
        statistics.median(own),
        statistics.median(other),
        ratios,
        unit="documents per second of one core",
        ours_in_datatrove_flavour=statistics.median(own_flavour),
        theirs_when_rejects_leave_early=statistics.median(early),
    )


def corpora() -> dict[str, list[str]]:
    docs = pq.read_table(harness.test_data("docs/docs.parquet"))["text"].to_pylist()
    found = {"docs": docs}
    for name, path, field in (
        ("articles", "crawl/articles.truth.jsonl", "articleBody"),
        ("multilingual", "multilingual/sentences.jsonl", "text"),
    ):
        lines = harness.test_data(path).read_text(encoding="utf-8").split("\n")
        found[name] = [json.loads(line)[field] for line in lines if line]
    # a text of white space alone is rejected before any rule
    return {name: [text for text in texts if text.strip()] for name, texts in found.items()}


def measure_parity(texts_of: dict[str, list[str]]) -> None:
    found, documents = {}, {}
    exceptions: Counter[str] = Counter()
    for corpus, texts in texts_of.items():
        for name in parity.CLASSES:
            for after_c4 in (False, True) if name == "fineweb" else (False,):
                expected, said = parity.theirs(name, texts, after_c4), parity.ours(name, texts, after_c4)
                pairs = [pair for pair in zip(expected, said, strict=True) if pair[0] != "-"]
                key = f"{corpus}: {name}{' after c4' if after_c4 else ''}"
                found[key] = parity.balanced_accuracy(*zip(*pairs, strict=True))
                documents[key] = f"{sum(one is None for one, _ in pairs)} of {len(pairs)} kept"
                exceptions.update(f"{key}: {one} there, {two} here" for one, two in pairs if one != two)
                print(f"{key}: {found[key]:.5f}, {documents[key]}")
    harness.write(
        "data.heuristics_parity",
        min(found.values()),
        found,
        documents,
        list(found.values()),
        exceptions=dict(exceptions),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["speed", "parity"], help="speed, parity or both")
    wanted = parser.parse_args().what
    logging.disable()
    found = corpora()
    if "speed" in wanted:
        measure_speed(found["docs"])
    if "parity" in wanted:
        measure_parity(found)
