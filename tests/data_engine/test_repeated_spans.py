"""Long spans that repeat: against brute force over lists of words, with hashes that lie, and in a build."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.cut import cut, merged
from data_engine.kernels import winnow as kernel
from data_engine.repeated_spans import REPEAT, WINDOW, Words, candidates, find_repeats, find_twice, sample, verified
from tests.data_engine import corpora
from tests.data_engine.test_build import build
from tests.data_engine.test_kernels_words import reference_tokens

N = 6


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 9))
def test_winnowing_chooses_the_last_smallest_of_each_window(hashes, window):
    places = np.empty(len(hashes) + 1, np.int64)
    count = kernel.winnow(np.array(hashes, np.uint64), len(hashes), window, places)
    expected = set()
    for start in range(len(hashes) - window + 1):
        least = min(hashes[start : start + window])
        expected.add(max(at for at in range(start, start + window) if hashes[at] == least))
    assert places[:count].tolist() == sorted(expected)


texts_that_repeat = st.lists(
    st.lists(st.sampled_from(["a", "b", "a b c d e f g", "h i j k l m n o p", "B,", "字字字"]), max_size=14).map(
        " ".join
    ),
    min_size=1,
    max_size=5,
)


def reference_cuts(texts, n):
    """Words that lie in n words which stand before: texts in order of ids. (text, word) pairs."""
    seen, gone = set(), set()
    for number, text in enumerate(texts):
        words = reference_tokens(text)
        for at in range(len(words) - n + 1):
            window = tuple(words[at : at + n])
            if window in seen:
                gone |= {(number, word) for word in range(at, at + n)}
            seen.add(window)
    return gone


def windows_of(number, words, starts, n):
    from data_engine.kernels import ngrams

    table = np.zeros(starts.size, WINDOW)
    table["key"], table["check"] = (words.windows(n, base)[starts] for base in (ngrams.BASE, ngrams.OTHER_BASE))
    table["id_lo"], table["ref"], table["word"] = number, number, starts
    return table


def cuts(texts, n):
    """The two passes without Ray."""
    own = [Words.of(text.encode()) for text in texts]
    from data_engine.repeated_spans import SAMPLE

    tables = [np.zeros(0, SAMPLE)]
    for number, words in enumerate(own):
        keys, places = sample(words, n)
        tables.append(np.array([(key, number, place) for key, place in zip(keys, places, strict=True)], SAMPLE))
    twice = find_twice(np.concatenate(tables))
    windows = [np.zeros(0, WINDOW)]
    for number, words in enumerate(own):
        starts = candidates(twice["word"][twice["ref"] == number], words.hashes.size, n)
        windows.append(windows_of(number, words, starts, n))
    repeats = find_repeats(np.concatenate(windows))
    gone = set()
    for ref, first in sorted({(int(row["ref"]), int(row["first"])) for row in repeats}):
        part = repeats[(repeats["ref"] == ref) & (repeats["first"] == first)]
        for begin, end in verified(own[ref], own[first], part, n):
            gone |= {(ref, word) for word in range(begin, end)}
    return gone


@given(texts_that_repeat, st.integers(4, 9))
def test_what_is_cut_equals_brute_force(texts, n):
    assert cuts(texts, n) == reference_cuts(texts, n)


def test_periodic_text_keeps_one_period():
    period = " ".join(f"w{n}" for n in range(20))
    gone = cuts([" ".join([period] * 5), "x " * 300], N)
    assert {word for text, word in gone if text == 0} == set(range(20, 100))
    assert {word for text, word in gone if text == 1} == set(range(1, 300))


@pytest.mark.parametrize("length", [49, 50, 51, 80])
def test_a_shared_span_is_found_from_its_least_length_on_wherever_it_stands(length):
    rng = random.Random(length)
    span = corpora.document(rng, 200).split()[:length]
    for _ in range(20):
        before, after = (corpora.document(rng, 60).split()[: rng.randrange(60)] for _ in range(2))
        other = corpora.document(rng, 300)
        gone = cuts([other, " ".join(span), " ".join([*before, *span, *after])], 50)
        expected = {(2, word) for word in range(len(before), len(before) + length)} if length >= 50 else set()
        assert gone == expected


def test_equal_hashes_of_other_words_cut_nothing():
    one, other = Words.of(b"a b c d e f g h"), Words.of(b"a b c d e f x h")
    lying = np.zeros(3, REPEAT)
    lying["word"] = lying["first_word"] = [0, 1, 2]
    assert verified(one, other, lying, N) == [(0, 6)]
    assert verified(one, one, lying, N) == [(0, 8)]
    lying["first_word"] = [2, 1, 0]
    assert verified(one, other, lying, N) == []


# --- in a build ---------------------------------------------------------------------------------------------------


def expected_texts(measured, n):
    ranked = sorted(measured, key=lambda row: row["id"])
    gone = reference_cuts([row["text"] for row in ranked], n)
    out = {}
    for number, row in enumerate(ranked):
        words = Words.of(row["text"].encode())
        own = sorted(word for text, word in gone if text == number)
        runs = np.split(np.array(own, np.int64), np.flatnonzero(np.diff(own) > 1) + 1) if own else []
        ranges = merged((int(words.begins[run[0]]), int(words.ends[run[-1]])) for run in runs)
        out[row["id"]] = cut(row["text"].encode(), ranges)
    return out


def corpus(rng, number):
    licence = corpora.document(rng, 90)
    out = [corpora.document(rng, 130) for _ in range(number)]
    for at in range(0, number, 3):
        words = out[at].split(" ")
        place = rng.randrange(len(words))
        out[at] = " ".join([*words[:place], "\n\n", rng.choice([licence, licence.upper()]), "\n\n", *words[place:]])
    out += [licence, " ".join([*out[1].split(" ")[:60], *corpora.document(rng, 80).split(" ")])]
    return out


SETTINGS = {"substrings": {"enabled": True}}
NO_COPIES = {"exact": False, "near": False}


def check(run):
    measured = {row["id"]: row for row in corpora.read_all(run / "measured")}
    expected = expected_texts(measured.values(), 50)
    documents = {row["id"]: row["text"] for row in corpora.read_all(run / "documents")}
    short = {row["id"] for row in corpora.read_all(run / "rejects")}
    changed = {key for key, row in measured.items() if expected[key] != row["text"]}
    assert len(changed) >= 4
    assert short == {key for key in changed if len(reference_tokens(expected[key])) < 50}
    assert documents == {key: text for key, text in expected.items() if key not in short}
    spans = [row for row in corpora.read_all(run / "duplicates") if row["kind"] == "substring"]
    assert {row["id"] for row in spans} == changed
    for row in spans:
        words = reference_tokens(measured[row["id"]]["text"][row["start"] : row["end"]])
        kept = reference_tokens(measured[row["survivor_id"]]["text"])
        assert len(words) >= 50
        assert any(kept[at : at + len(words)] == words for at in range(len(kept)))
        assert row["survivor_id"] <= row["id"]
    return documents


def test_a_build_cuts_repeated_spans_and_records_where_they_stay(tmp_path):
    corpora.write_jsonl(tmp_path / "a.jsonl", corpora.rows_of(corpus(random.Random(4), 15)))
    manifest, run = build(tmp_path, [tmp_path / "a.jsonl"], dedup=NO_COPIES, repeated_text=SETTINGS)
    check(run)
    assert manifest.metrics["repeated_text"]["spans"] >= 4
    assert manifest.counts["kept"] + sum(manifest.counts["rejected"].values()) == manifest.counts["read"]


def test_lines_and_spans_are_cut_together(tmp_path):
    rows = corpora.rows_of(corpus(random.Random(5), 9))
    for row in rows:
        row["text"] = "Read more about our terms of service here.\n" + row["text"]
    corpora.write_jsonl(tmp_path / "a.jsonl", rows)
    both = {**SETTINGS, "lines": {"enabled": True, "keep": "none"}}
    _, run = build(tmp_path, [tmp_path / "a.jsonl"], dedup=NO_COPIES, repeated_text=both)
    kept = corpora.read_all(run / "documents")
    assert not any("Read more" in row["text"] for row in kept)
    assert not reference_cuts([row["text"] for row in sorted(kept, key=lambda row: row["id"])], 50)
    edits = corpora.read_all(run / "edits")
    assert len(edits) == len(rows)
    assert sum(row["spans"] > 0 for row in edits) >= 3


@pytest.mark.slow
def test_spans_do_not_depend_on_order_or_shards(tmp_path, ray_session):
    rows = corpora.rows_of(corpus(random.Random(6), 24))
    results = []
    for number, (files, shard_bytes) in enumerate([(1, 1 << 30), (3, 4_000)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        random.Random(number).shuffle(rows)
        for file in range(files):
            corpora.write_jsonl(folder / f"{file}.jsonl", rows[file::files])
        settings = {"dedup": NO_COPIES, "repeated_text": SETTINGS, "shard_bytes": shard_bytes}
        _, run = build(folder, folder.glob("*.jsonl"), **settings)
        results.append(check(run))
    assert results[0] == results[1]
