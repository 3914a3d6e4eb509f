"""Lines, paragraphs and sentences that documents share: against brute force over Python strings, and in a build."""

import random
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.cut import cut, merged
from data_engine.kernels import segments
from data_engine.repeated_lines import LOSS, SEGMENT, RepeatedLinesConfig, find, segments_of
from tests.data_engine import corpora
from tests.data_engine.test_build import build
from tests.data_engine.test_kernels_words import letterlike, reference_tokens, unspaced
from tests.data_engine.texts import ADVERSARIAL, arrays, random_texts

TERMINALS = set(".?!。！？؟।")


def reference_lines(text):
    return [line.strip() for line in text.split("\n") if line.strip()]


def reference_paragraphs(text):
    out = [[]]
    for line in text.split("\n"):
        out[-1].append(line) if line.strip() else out.append([])
    return ["\n".join(lines).strip() for lines in out if lines]


def reference_sentences(text):
    out = []
    for line in reference_lines(text):
        sentence, ended = "", False
        for character in line:
            if ended and (character.isspace() or unspaced(character)):
                out.append(sentence.strip())
                sentence, ended = "", False
            if not (character.isspace() and not sentence):
                sentence += character
            ended = character in TERMINALS or (ended and not letterlike(character))
        out += [sentence.strip()] if sentence.strip() else []
    return out


REFERENCES = {"line": reference_lines, "paragraph": reference_paragraphs, "sentence": reference_sentences}
KINDS = {"line": segments.LINE, "paragraph": segments.PARAGRAPH, "sentence": segments.SENTENCE}


def split(text, kind):
    utf8, offsets, classes, _ = arrays([text])
    begins, ends = np.empty(utf8.size + 1, np.int64), np.empty(utf8.size + 1, np.int64)
    count = segments.split_segments(utf8, 0, offsets[1], classes, kind, begins, ends)
    return [bytes(utf8[begin:end]).decode() for begin, end in zip(begins[:count], ends[:count], strict=True)]


@pytest.mark.parametrize("unit", ["line", "paragraph", "sentence"])
def test_segments_equal_the_reference_on_adversarial_text(unit):
    for text in ADVERSARIAL:
        assert split(text, KINDS[unit]) == REFERENCES[unit](text), text[:60]


@given(random_texts, st.sampled_from(["line", "paragraph", "sentence"]))
def test_segments_equal_the_reference_on_random_text(texts, unit):
    for text in texts:
        assert split(text, KINDS[unit]) == REFERENCES[unit](text)


@given(
    st.lists(
        st.lists(st.sampled_from(["a b c", "A, b c!", "d. e f.", "g", "字字字", "", "h i"]), max_size=8), min_size=1
    ),
    st.sampled_from(["line", "paragraph", "sentence"]),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_keys_are_equal_exactly_where_words_are(texts, unit, span, least):
    texts = ["\n".join(lines) for lines in texts]
    config = RepeatedLinesConfig(unit=unit, span=span, min_words=least)
    by_key, by_words = defaultdict(list), defaultdict(list)
    for number, (text, (keys, begins, ends)) in enumerate(
        zip(texts, segments_of(pa.array(texts, pa.large_string()), config), strict=True)
    ):
        for key, begin, end in zip(map(tuple, keys.tolist()), begins.tolist(), ends.tolist(), strict=True):
            by_key[key].append((number, text.encode()[begin:end].decode()))
        parts = REFERENCES[unit](text)
        for at in range(len(parts) - span + 1):
            words = [word for part in parts[at : at + span] for word in reference_tokens(part)]
            if len(words) >= least:
                by_words[tuple(words)].append(number)
    assert sorted([number for number, _ in found] for found in by_key.values()) == sorted(by_words.values())
    for found in by_key.values():
        assert len({tuple(reference_tokens(text)) for _, text in found}) == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 9)), max_size=40), st.integers(2, 4))
def test_losses_equal_brute_force(found, least):
    found = sorted(set(found))
    table = np.array([(key, check, 0, 9 - ref, ref) for key, check, ref in found], SEGMENT)
    table = table[np.random.default_rng(0).permutation(table.size)]
    for keep_first in (True, False):
        expected = []
        for key, check in {row[:2] for row in found}:
            refs = sorted((ref for k, c, ref in found if (k, c) == (key, check)), key=lambda ref: 9 - ref)
            if len(refs) >= least:
                expected += [(ref, key, check) for ref in refs[keep_first:]]
        losses = find(table, least, keep_first)
        assert losses.dtype == LOSS
        assert losses.tolist() == sorted(expected)


@given(st.text(st.sampled_from("ab \n字é"), max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_a_cut_takes_out_exactly_the_words_in_it_and_never_joins_two(text, ranges):
    ranges = merged((min(pair), min(max(pair), len(text))) for pair in ranges if min(pair) < min(max(pair), len(text)))
    places = [len(text[:at].encode()) for at in range(len(text) + 1)]
    result = cut(text.encode(), [(places[begin], places[end]) for begin, end in ranges])
    kept = "".join(c for at, c in enumerate(text) if not any(b <= at < e for b, e in ranges))
    assert "".join(result.split()) == "".join(kept.split())
    assert result == result.strip()
    if not ranges:
        assert result == text.strip()


def test_paragraphs_stay_apart_when_a_line_between_them_goes():
    def without(text, *gone):
        return cut(text.encode(), [(text.index(part), text.index(part) + len(part)) for part in gone])

    assert without("one\ntwo\n\nthree", "two") == "one\n\nthree"
    assert without("one\n\ntwo\nthree", "two") == "one\n\nthree"
    assert without("one\ntwo\nthree", "two") == "one\nthree"
    assert without("one two three", "two") == "one three"
    assert without("one\ntwo\nthree\n\nfour", "two", "three") == "one\n\nfour"
    assert without("one\ntwo", "one") == "two"
    assert without("one", "one") == ""


# --- in a build ---------------------------------------------------------------------------------------------------

FOOTER = "Subscribe to our newsletter for weekly updates."
DEDUP_OFF = {"exact": False, "near": False}


def pages(rng, number):
    out = []
    for at in range(number):
        lines = [corpora.document(rng, 20) for _ in range(6)]
        if at % 2:
            lines.insert(rng.randrange(len(lines)), FOOTER if at % 4 == 1 else FOOTER.upper().replace(".", " !"))
        lines.insert(1, "}")
        out.append("\n".join(lines))
    return out


def expected_texts(measured, keep_first):
    """Brute force: lines of at least three words that two documents share go, from all but the smallest id."""
    holders = defaultdict(set)
    for row in measured:
        for line in reference_lines(row["text"]):
            holders[tuple(reference_tokens(line))].add(row["id"])
    out = {}
    for row in measured:
        lines = []
        for line in row["text"].split("\n"):
            words = tuple(reference_tokens(line))
            shared = len(words) >= 3 and len(holders[words]) >= 2
            if not shared or (keep_first and row["id"] == min(holders[words])):
                lines.append(line)
        out[row["id"]] = "\n".join(lines).strip()
    return out


@pytest.mark.parametrize("keep", ["first", "none"])
def test_a_build_cuts_shared_lines_and_nothing_else(tmp_path, keep):
    rows = corpora.rows_of([*pages(random.Random(1), 20), f"{FOOTER}\nonly a few words here", "}\n" * 10])
    corpora.write_jsonl(tmp_path / "a.jsonl", rows)
    manifest, run = build(
        tmp_path, [tmp_path / "a.jsonl"], dedup=DEDUP_OFF, repeated_text={"lines": {"enabled": True, "keep": keep}}
    )
    measured = corpora.read_all(run / "measured")
    expected = expected_texts(measured, keep == "first")
    changed = {row["id"] for row in measured if expected[row["id"]] != row["text"]}
    short = {row["id"] for row in corpora.read_all(run / "rejects")}
    assert short == {identity for identity in changed if len(reference_tokens(expected[identity])) < 50}
    documents = {row["id"]: row["text"] for row in corpora.read_all(run / "documents")}
    assert documents == {identity: text for identity, text in expected.items() if identity not in short}
    edits = {row["id"]: row for row in corpora.read_all(run / "edits")}
    assert set(edits) == changed
    assert {row["lines"] for row in edits.values()} == {1}
    assert all(row["characters"] == len(expected[identity]) for identity, row in edits.items())
    rejected = manifest.counts["rejected"]
    assert rejected == ({"repeated_text:too_short": len(short)} if short else {})
    assert manifest.metrics["repeated_text"]["documents"] == len(changed) >= 10
    assert "Repeated text cut" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_is_cut_does_not_depend_on_order_or_shards(tmp_path, ray_session):
    rows = corpora.rows_of(pages(random.Random(2), 40))
    results = []
    for number, (files, shard_bytes) in enumerate([(1, 1 << 30), (3, 5_000)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        random.Random(number).shuffle(rows)
        for file in range(files):
            corpora.write_jsonl(folder / f"{file}.jsonl", rows[file::files])
        settings = {"lines": {"enabled": True, "unit": "paragraph"}} if number > 5 else {"lines": {"enabled": True}}
        _, run = build(folder, folder.glob("*.jsonl"), shard_bytes=shard_bytes, repeated_text=settings)
        results.append({(row["id"], row["text"]) for row in corpora.read_all(run / "documents")})
        assert len(list((run / "documents").glob("*"))) >= files
    assert results[0] == results[1]
    assert len(results[0]) == 40


def test_by_default_nothing_is_cut(tmp_path):
    corpora.write_jsonl(tmp_path / "a.jsonl", corpora.rows_of(pages(random.Random(1), 6)))
    manifest, run = build(tmp_path, [tmp_path / "a.jsonl"])
    assert {row["text"] for row in corpora.read_all(run / "documents")} == set(pages(random.Random(1), 6))
    assert not (run / "edits").exists()
    assert "repeated_text" not in manifest.metrics
