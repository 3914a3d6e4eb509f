"""Decontamination: documents that hold word n-grams of benchmark items, by the rules of GPT-3 and of lighteval.

Words are maximal runs of letters, digits and marks in lower case: case, punctuation, line breaks and mark-up make no
difference; a character of a script without spaces is a word. Accents count.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from core.config import Config
from data_engine import ngram_index, rows
from data_engine.benchmark_items import Benchmark, read_items
from data_engine.cut import merged
from data_engine.measure import Folders
from data_engine.ngram_index import ANSWER, JOINT, QUESTION, NgramIndex
from data_engine.tables import write_table

Part = Literal["question", "answer", "joint"]

_STEP = "benchmarks"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("benchmark", pa.string()),
        ("item", pa.int64()),
        ("part", pa.string()),
        ("answer", pa.int64()),
        ("words", pa.int64()),
        ("overlap", pa.float64()),
        ("removed", pa.bool_()),
        ("cut", pa.bool_()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.large_string()),
    ]
)
"""contamination/: one row for each run of shared n-grams of a document and a question, or an answer (after the
end of its question: part joint). item: row of the benchmark's files from 0; answer: which of its answers, null for the
question; words: length of the run; overlap: of the whole item, see `DecontaminationConfig.min_overlap`; removed:
whether the document is rejected for the item; cut: whether the run was cut out of it; start, end: characters of the
text that was judged; text: what stands there."""


class DecontaminationConfig(Config):
    """Which n-grams of which benchmarks must not occur in documents; with no benchmark, nothing is searched.

    GPT-3 (Brown et al. 2020, appendix C) and DCLM compare 13-grams of whole items: the defaults. lighteval and
    datatrove compare 12-grams of the answer and across question and answer: `ngram: 12`, `parts: [answer, joint]`.
    GPT-3 further ignored what many documents hold, and cut documents instead of rejecting them, as "that overly
    penalized long documents such as books": `max_documents: 10`, `action: cut`.
    """

    benchmarks: list[Benchmark] = Field(default_factory=list, description="benchmark files to search for; none: off")
    ngram: int = Field(13, ge=2, le=1000, description="words of an n-gram; GPT-3 and DCLM 13, lighteval 12")
    parts: list[Part] = Field(
        [QUESTION, ANSWER, JOINT],  # type: ignore[list-item]
        min_length=1,
        description="n-grams inside the question, inside an answer, or across the question and one of its answers; "
        "lighteval's default is [answer, joint]",
    )
    least_question: int = Field(
        8,
        ge=2,
        description="a question shorter than `ngram` is searched as a whole when it has at least this many words, "
        "GPT-3's least n; what is shorter has no n-gram of its own and is counted",
    )
    min_overlap: float = Field(
        0.0,
        ge=0,
        le=1,
        description="least share of the words of a question, or of it with one answer, that shared n-grams cover in "
        "one document; 0: a single shared n-gram rejects (GPT-3, lighteval)",
    )
    max_documents: int | None = Field(
        None,
        ge=1,
        description="an n-gram that more documents hold is common language and counts nowhere; GPT-3 10, null: each "
        "counts. Documents are counted after copies are removed, before repeated text is cut",
    )
    action: Literal["drop", "cut"] = Field(
        "drop", description="reject the document, or cut what it shares with an item and what stands around it"
    )
    margin: int = Field(200, ge=0, description="cut: characters on either side of what is shared; GPT-3 200")
    least_piece: int = Field(200, ge=1, description="cut: characters of the shortest piece that is kept; GPT-3 200")
    most_pieces: int = Field(
        10,
        ge=1,
        description="cut: a document that falls into more pieces, short ones among them, is rejected; GPT-3 10",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError("two benchmarks have the same name; reasons would not tell them apart")
        return self


def prepare(config: DecontaminationConfig, folders: Folders) -> dict[str, dict[str, int]]:
    """Read the benchmarks and save their index. Returns by benchmark how many items it has and how many are searched.

    Raises UserError when a file is not as its benchmark says.
    """
    if not config.benchmarks:
        return {}
    items = [read_items(benchmark) for benchmark in config.benchmarks]
    index = ngram_index.build(items, config.ngram, config.parts, config.least_question)
    index.save(partial(folders.scratch, _STEP))
    counts = {}
    for number, benchmark in enumerate(config.benchmarks):
        own = index.item_benchmark == number
        counts[benchmark.name] = {"items": int(own.sum()), "searched": int(index.searched[own].sum())}
    return counts


def index_of(folders: Folders) -> NgramIndex:
    """The index that `prepare` saved, its n-grams numbered the same on every run."""
    return _load(folders.directory, folders.scratch(_STEP, "keys").stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(directory: Path, written: int) -> NgramIndex:
    """The index of a run, mapped once in a process. written: when, as a worker may live to see another one there."""
    return NgramIndex.load(partial(Folders(directory).scratch, _STEP))


def save_common(common: np.ndarray, folders: Folders) -> None:
    """Say which n-grams of the index count nowhere. common: (m,) bool."""
    rows.save(folders.scratch(_STEP, "common"), common)


@dataclass(frozen=True)
class Contamination:
    """What an index says of n texts.

    benchmark: (n,) int64, for whose item a text is rejected, the one it overlaps most, -1 where it stays; overlap: (n,)
    float64, of that item. rows: see SCHEMA, without id and url; `document` is the number of the text. texts: by number,
    what is left of those that were cut.
    """

    benchmark: np.ndarray
    overlap: np.ndarray
    rows: list[dict[str, Any]]
    texts: dict[int, str]


def judge_shard(documents: pa.Table, config: DecontaminationConfig, name: str, folders: Folders) -> "Contamination":
    """Judge what would stay of a shard, and write its `contamination/`. documents: n rows with id, url and text."""
    common = rows.load(folders.scratch(_STEP, "common")) if config.max_documents is not None else None
    found = judge(documents["text"].combine_chunks(), index_of(folders), config, common)
    ids, urls = documents["id"].to_pylist(), documents["url"].to_pylist()
    told = [{"id": ids[row["document"]], "url": urls[row["document"]], **row} for row in found.rows]
    write_table(folders.contamination(name), pa.Table.from_pylist(told, SCHEMA))
    return found


def judge(
    texts: pa.Array, index: NgramIndex, config: DecontaminationConfig, common: np.ndarray | None = None
) -> Contamination:
    """Find the n-grams of an index in texts and weigh them.

    texts: n large strings; common: (m,) bool, n-grams that do not count.
    """
    hits = index.find(texts)
    if common is not None:
        hits = hits[~common[hits[:, 1]]]
    contamination = Contamination(np.full(len(texts), -1), np.zeros(len(texts)), [], {})
    for document in np.unique(hits[:, 0]):
        own = hits[hits[:, 0] == document]
        runs = _runs(index, own)
        overlaps = _overlaps(index, np.unique(own[:, 1]))
        held = {item for item, overlap in overlaps.items() if overlap >= config.min_overlap}
        text = texts[int(document)].as_py().encode()
        places = [(len(text[: run.begin].decode()), len(text[: run.end].decode())) for run in runs]
        items = [int(index.sequence_item[run.sequence]) for run in runs]
        left = ""
        if held and config.action == "cut":
            spans = [place for place, item in zip(places, items, strict=True) if item in held]
            left = cut_around(text.decode(), spans, config)
        if left:
            contamination.texts[int(document)] = left
        elif held:
            worst = min(held, key=lambda item: (-overlaps[item], item))
            contamination.benchmark[document] = index.item_benchmark[worst]
            contamination.overlap[document] = overlaps[worst]
        for run, item, (start, end) in zip(runs, items, places, strict=True):
            answer = int(index.sequence_answer[run.sequence])
            inside = run.place >= index.sequence_tail[run.sequence]
            contamination.rows.append(
                {
                    "document": int(document),
                    "benchmark": config.benchmarks[index.item_benchmark[item]].name,
                    "item": int(index.item_number[item]),
                    "part": QUESTION if answer < 0 else ANSWER if inside else JOINT,
                    "answer": None if answer < 0 else answer,
                    "words": run.words,
                    "overlap": overlaps[item],
                    "removed": item in held and not left,
                    "cut": item in held and bool(left),
                    "start": start,
                    "end": end,
                    "text": text[run.begin : run.end].decode(),
                }
            )
    return contamination


def cut_around(text: str, spans: Sequence[tuple[int, int]], config: DecontaminationConfig) -> str:
    """What GPT-3 leaves of a text, empty when nothing stays: pieces between the spans, less the margin around these.

    The pieces stay one document with a blank line between them, where GPT-3 makes each a document of its own: an id
    stands for one document read, and kept and rejected ones add up. spans: characters, in any order.
    """
    margin = config.margin
    taken = merged((max(start - margin, 0), min(end + margin, len(text))) for start, end in spans)
    borders = [0, *(border for span in taken for border in span), len(text)]
    pieces = [text[start:end].strip() for start, end in zip(borders[::2], borders[1::2], strict=True)]
    if sum(map(bool, pieces)) > config.most_pieces:
        return ""
    return "\n\n".join(piece for piece in pieces if len(piece) >= config.least_piece)


@dataclass
class _Run:
    """Words of a document in a row that n-grams of one sequence cover; place: of the first n-gram in the sequence."""

    sequence: int
    place: int
    word: int
    words: int
    begin: int
    end: int


def _runs(index: NgramIndex, hits: np.ndarray) -> list[_Run]:
    """Join n-grams of a sequence that overlap or touch in the text. hits: those of one document."""
    holders = {ngram: _holders(index, ngram) for ngram in np.unique(hits[:, 1]).tolist()}
    found: dict[int, list[_Run]] = defaultdict(list)
    for _, ngram, word, begin, end in hits[np.argsort(hits[:, 2], kind="stable")].tolist():
        words = int(index.words[ngram])
        for sequence, place in holders[ngram].items():
            same = found[sequence]
            if same and word <= same[-1].word + same[-1].words:
                same[-1].words = max(same[-1].words, word + words - same[-1].word)
                same[-1].end = max(same[-1].end, end)
            else:
                same.append(_Run(sequence, place, word, words, begin, end))
    return sorted((run for runs in found.values() for run in runs), key=lambda run: (run.begin, run.sequence))


def _holders(index: NgramIndex, ngram: int) -> dict[int, int]:
    """The sequences that hold an n-gram, with the first place of it."""
    held = slice(index.holders[ngram], index.holders[ngram + 1])
    sequences, first = np.unique(index.holder_sequence[held], return_index=True)
    return dict(zip(sequences.tolist(), index.holder_place[held][first].tolist(), strict=True))


def _overlaps(index: NgramIndex, found: np.ndarray) -> dict[int, float]:
    """By item: the share of its words that n-grams cover, of the question alone or with one answer, the larger of them.

    found: the n-grams of one document, each once.
    """
    questions: dict[int, set[int]] = defaultdict(set)
    answers: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for ngram in found.tolist():
        for held in range(index.holders[ngram], index.holders[ngram + 1]):
            sequence, place = int(index.holder_sequence[held]), int(index.holder_place[held])
            item, tail = int(index.sequence_item[sequence]), int(index.sequence_tail[sequence])
            covered = range(place, place + int(index.words[ngram]))
            if index.sequence_answer[sequence] < 0:
                questions[item].update(covered)
            else:
                begin = int(index.item_question[item]) - tail
                questions[item].update(begin + word for word in covered if word < tail)
                answers[item][sequence].update(word for word in covered if word >= tail)
    overlaps = {}
    for item, question in questions.items():
        size = int(index.item_question[item])
        shares = [len(question) / size] if size else []
        for sequence, answer in answers[item].items():
            own = int(index.sequence_words[sequence] - index.sequence_tail[sequence])
            shares.append((len(question) + len(answer)) / (size + own))
        overlaps[item] = max(shares)
    return overlaps
