"""Main-text extraction: quality and speed of both engines on the Zyte article set: `python benchmarks/extraction.py`.

Quality is what evaluate.py of scrapinghub/article-extraction-benchmark (MIT) computes, written anew from its
definition: tokens are runs of word characters; a text is the multiset of its 4-grams (a shorter text is one gram); true
positives are grams in common, and the counts of a page are divided by their sum, so that long pages weigh no more than
short ones; precision and recall are means over pages, F1 is their harmonic mean. Speed is pages per second of processor
time, that of the parsing process and of the one that asks it together; starting it is not counted.
"""

import argparse
import json
import re
import statistics
import time
from collections import Counter

import harness

from data_engine import read_warc
from data_engine.extract import ExtractionConfig, Extractor
from data_engine.records import Record, Skips

GRAM = 4
SETTINGS = {
    "trafilatura": {"engine": "trafilatura"},
    "trafilatura, focus precision": {"engine": "trafilatura", "focus": "precision"},
    "trafilatura, fast": {"engine": "trafilatura", "fast": True},
    "resiliparse": {"engine": "resiliparse"},
}


def grams(text: str) -> Counter[tuple[str, ...]]:
    tokens = re.findall(r"\w+", text)
    found = Counter(tuple(tokens[at : at + GRAM]) for at in range(max(1, len(tokens) - GRAM + 1)))
    del found[()]
    return found


def page_counts(true: str, extracted: str) -> tuple[float, float, float]:
    """Shares of true positives, false positives and false negatives among the grams of a page."""
    wanted, had = grams(true), grams(extracted)
    counts = (wanted & had).total(), (had - wanted).total(), (wanted - had).total()
    return tuple(count / max(sum(counts), 1) for count in counts)  # type: ignore[return-value]


def quality(pages: list[tuple[float, float, float]]) -> dict[str, float]:
    """A page without extracted text has no precision, one without true text no recall."""
    precision = statistics.mean(tp / (tp + fp) for tp, fp, _ in pages if tp + fp)
    recall = statistics.mean(tp / (tp + fn) for tp, _, fn in pages if tp + fn)
    return {"f1": 2 * precision * recall / (precision + recall), "precision": precision, "recall": recall}


def processor_seconds(extractor: Extractor) -> float:
    """Of this process and of its parser. clock_getcpuclockid(3): the id of a process's clock is ~pid << 3 | 2."""
    assert extractor._process is not None
    return time.process_time() + time.clock_gettime((~extractor._process.pid) << 3 | 2)


def measure(records: list[Record], truth: dict[str, str], settings: dict[str, object], runs: int) -> dict[str, object]:
    speeds, pages = [], []
    with Extractor(ExtractionConfig(**settings)) as extractor:  # type: ignore[arg-type]
        extractor.extract(b"<p>the imports are done</p>")
        for _ in range(runs):
            began = processor_seconds(extractor)
            texts = [extractor.extract(record.payload, record.charset).text for record in records]
            speeds.append(len(records) / (processor_seconds(extractor) - began))
    pages = [page_counts(truth[record.url], text) for record, text in zip(records, texts, strict=True)]
    return quality(pages) | {"pages_per_second": statistics.median(speeds), "runs": speeds}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=3)
    runs = arguments.parse_args().runs
    lines = harness.test_data("crawl/articles.truth.jsonl").read_bytes().split(b"\n")
    truth = {row["url"]: row["articleBody"] for row in map(json.loads, filter(None, lines))}
    warc = str(harness.test_data("crawl/articles.warc.gz"))
    records = list(read_warc.read(warc, 0, 1 << 62, True, 10_000_000, Skips()))
    assert {record.url for record in records} == truth.keys()
    found = {}
    print(f"{len(records)} pages, {runs} runs\n{'':30} {'F1':>6} {'P':>6} {'R':>6} {'pages/s':>8}")
    for name, settings in SETTINGS.items():
        found[name] = one = measure(records, truth, settings, runs)
        print(f"{name:30} {one['f1']:6.3f} {one['precision']:6.3f} {one['recall']:6.3f} {one['pages_per_second']:8.1f}")
    harness.write(
        "data.extraction",
        found["trafilatura"]["f1"],
        {"trafilatura": found["trafilatura"]},
        {name: one for name, one in found.items() if name != "trafilatura"},
        found["trafilatura"]["runs"],
    )


if __name__ == "__main__":
    main()
