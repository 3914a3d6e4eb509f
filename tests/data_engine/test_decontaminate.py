"""Benchmark items in documents: against brute force over lists of words, and planted as leaks really look."""

import csv
import gzip
import json
import random
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import config
from core.errors import UserError
from data_engine import decontaminate
from data_engine.benchmark_items import Benchmark, read_items
from data_engine.decontaminate import DecontaminationConfig
from data_engine.measure import Folders
from data_engine.ngram_index import NgramIndex
from tests.data_engine import corpora
from tests.data_engine.test_build import build
from tests.data_engine.test_kernels_words import reference_tokens

GSM8K = {"name": "gsm8k", "question": ["question"], "answers": ["answer"]}


def windows(words, n):
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def write_items(path, items):
    corpora.write_jsonl(path, [{"question": question, "answer": answer} for question, answer in items])
    return {**GSM8K, "path": str(path)}


def judged(tmp_path, texts, benchmarks, **settings):
    parsed = config.parse(DecontaminationConfig, {"benchmarks": benchmarks, **settings}, "test")
    folders = Folders(tempfile.mkdtemp(dir=tmp_path))
    counts = decontaminate.prepare(parsed, folders)
    index = NgramIndex.load(lambda name: folders.scratch("benchmarks", name))
    return decontaminate.judge(pa.array(texts, pa.large_string()), index, parsed), counts


def hit(contamination):
    return [number for number, benchmark in enumerate(contamination.benchmark) if benchmark >= 0]


# --- benchmark files ----------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_items(tmp_path):
    rows = [
        {"q": f"Question {n}\u2028still", "c": [f"first {n}", f"second {n}"], "m": {f"key {n}": 1}} for n in range(3)
    ]
    corpora.write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    flat = [{"q": row["q"], "c": row["c"]} for row in rows]
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["q", "c"])
        writer.writerows([row["q"], row["c"][0]] for row in rows)
    expected = [(row["q"], tuple(row["c"])) for row in rows]
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"):
        items = read_items(Benchmark(name="b", path=str(tmp_path / name), question=["q"], answers=["c"]))
        assert [(item.question, item.answers) for item in items] == expected, name
        assert [item.number for item in items] == [0, 1, 2]
    items = read_items(Benchmark(name="b", path=str(tmp_path / "a.csv"), question=["q"], answers=["c"]))
    assert [(item.question, item.answers) for item in items] == [(q, c[:1]) for q, c in expected]
    items = read_items(Benchmark(name="b", path=str(tmp_path / "a.json"), question=["q"], answers=["m"]))
    assert items[1].answers == ("key 1",)


def test_a_wrong_benchmark_file_is_named_in_one_line(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"q": "x"}\n{"q": \n')
    (tmp_path / "list.json").write_text('{"q": "x"}')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"q": "x"}\n' * 999)[:-20])
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "x.txt").write_text("x")
    for name, message in [
        ("bad.jsonl", "bad.jsonl: line 2 is no JSON"),
        ("list.json", "list.json: holds no list of objects"),
        ("empty.jsonl", "benchmark b has no row"),
        ("cut.jsonl.gz", "cut.jsonl.gz: not readable"),
        ("no.parquet", "no.parquet: not readable"),
        ("x.txt", r"holds no .jsonl"),
        ("absent.jsonl", "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            read_items(Benchmark(name="b", path=str(tmp_path / name), question=["q"]))
    (tmp_path / "good.jsonl").write_text('{"q": "x"}\n{"q": "y", "other": "z"}\n')
    with pytest.raises(UserError, match="no row has the field query that benchmark b names; there are: other, q"):
        read_items(Benchmark(name="b", path=str(tmp_path / "good.jsonl"), question=["query"]))


def test_two_benchmarks_of_one_name_are_refused():
    with pytest.raises(UserError, match="two benchmarks have the same name"):
        config.parse(DecontaminationConfig, {"benchmarks": [{**GSM8K, "path": "a"}, {**GSM8K, "path": "b"}]}, "test")


@pytest.mark.parametrize(
    ("name", "question", "answers", "rows"),
    [
        ("gsm8k_test.jsonl", "question", ["answer"], 1319),
        ("humaneval.jsonl.gz", "prompt", ["canonical_solution"], 164),
        ("truthfulqa_mc.json", "question", ["mc1_targets"], 817),
        ("mmlu/dev.jsonl", "question", ["choices"], 285),
        ("piqa_valid.jsonl", "goal", ["sol1", "sol2"], 1838),
        ("mt_bench_questions.jsonl", "turns", [], 80),
        ("advbench_behaviors.csv", "goal", ["target"], 520),
    ],
)
def test_real_benchmarks_are_read(real_data, name, question, answers, rows):
    path = str(real_data / "benchmarks" / name)
    items = read_items(Benchmark(name="b", path=path, question=[question], answers=answers))
    assert len(items) == rows
    assert all(item.question for item in items)
    assert all(item.answers for item in items) == bool(answers)


# --- what is found ------------------------------------------------------------------------------------------------


def test_train_questions_that_share_13_words_with_the_test_set_are_those_of_brute_force(tmp_path, real_data):
    path = real_data / "benchmarks" / "gsm8k_test.jsonl"
    tests = [json.loads(line) for line in path.open(encoding="utf-8")]
    train = [json.loads(line) for line in (real_data / "instructions" / "gsm8k_train.jsonl").open(encoding="utf-8")]
    texts = [row["question"] + "\n" + row["answer"] for row in train]
    listed = set()
    for row in tests:
        listed |= windows(reference_tokens(row["question"] + " " + row["answer"]), 13)
    expected = [number for number, text in enumerate(texts) if windows(reference_tokens(text), 13) & listed]
    assert expected
    contamination, counts = judged(tmp_path, texts, [{**GSM8K, "path": str(path)}])
    assert hit(contamination) == expected
    assert counts == {"gsm8k": {"items": 1319, "searched": 1319}}
    for row in contamination.rows:
        words = reference_tokens(row["text"])
        item = tests[row["item"]]
        assert len(words) == row["words"] >= 13
        assert windows(words, 13) <= windows(reference_tokens(item["question"] + " " + item["answer"]), 13)
        assert texts[row["document"]][row["start"] : row["end"]] == row["text"]


def disguised(text, rng):
    """As text leaks: other case, other punctuation, broken over lines, with mark-up."""
    words = [rng.choice([str.upper, str.title, str.lower])(word) for word in reference_tokens(text)]
    return "".join(word + rng.choice([" ", "\n", "\r\n\t", ", ", " - ", "** ", "\u00a0"]) for word in words)


def test_every_planted_item_is_found_whatever_it_looks_like_and_nothing_else(tmp_path, real_data):
    rng = random.Random(5)
    path = real_data / "benchmarks" / "gsm8k_test.jsonl"
    tests = [json.loads(line) for line in path.open(encoding="utf-8")]
    texts = pq.read_table(real_data / "docs" / "docs.parquet")["text"].to_pylist()[:600]
    clean, _ = judged(tmp_path, texts, [{**GSM8K, "path": str(path)}])
    planted = {}
    for document, item in zip(rng.sample(range(600), 40), rng.sample(range(1319), 40), strict=True):
        if len(reference_tokens(tests[item]["question"])) >= 13:
            place = texts[document].rfind("\n", 0, rng.randrange(len(texts[document]) + 1)) + 1
            whole = disguised(tests[item]["question"], rng)
            texts[document] = texts[document][:place] + "\n" + whole + "\n" + texts[document][place:]
            planted[document] = item
    assert len(planted) > 30
    contamination, _ = judged(tmp_path, texts, [{**GSM8K, "path": str(path)}])
    assert set(hit(contamination)) == set(planted) | set(hit(clean))
    best = {}
    for row in contamination.rows:
        if row["overlap"] == 1.0:
            best.setdefault(row["document"], set()).add(row["item"])
    for document, item in planted.items():
        assert item in best[document]
        assert contamination.overlap[document] == 1.0


QUESTION = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
ANSWER = "red orange yellow green blue indigo violet black white grey pink brown cyan magenta"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["question"], {"question"}),
        (["answer"], {"answer"}),
        (["joint"], {"joint"}),
        (["answer", "joint"], {"answer", "joint"}),
    ],
)
def test_parts_choose_which_ngrams_count(tmp_path, parts, expected):
    benchmark = write_items(tmp_path / "b.jsonl", [(QUESTION, ANSWER)])
    texts = {
        "question": f"before {QUESTION} after",
        "answer": f"before {ANSWER} after",
        "joint": f"eight nine ten eleven twelve thirteen fourteen fifteen. {ANSWER[:30]}",
        "none": " ".join(QUESTION.split()[:12]) + " and " + " ".join(ANSWER.split()[:12]),
    }
    contamination, _ = judged(tmp_path, list(texts.values()), [benchmark], parts=parts)
    assert {list(texts)[number] for number in hit(contamination)} == expected
    rows = {(row["document"], row["part"]) for row in contamination.rows}
    assert {part for _, part in rows} == set(parts)


def test_a_run_across_question_and_answer_is_one_row(tmp_path):
    benchmark = write_items(tmp_path / "b.jsonl", [(QUESTION, ANSWER)])
    contamination, _ = judged(tmp_path, [f"x {QUESTION}\n\n{ANSWER} y"], [benchmark])
    rows = [(row["part"], row["answer"], row["words"], row["overlap"]) for row in contamination.rows]
    assert rows == [("question", None, 15, 1.0), ("joint", 0, 12 + 14, 1.0)]


def test_short_questions_are_searched_whole_and_shorter_ones_are_counted(tmp_path):
    eight, seven = "alpha beta gamma delta epsilon zeta eta theta", "iota kappa lambda mu nu xi omicron"
    benchmark = write_items(tmp_path / "b.jsonl", [(eight, "yes"), (seven, "no"), ("", "")])
    texts = [f"so, {eight.upper()}!", eight[:-6] + " iota", seven, f"{seven} no"]
    contamination, counts = judged(tmp_path, texts, [benchmark])
    assert hit(contamination) == [0]
    assert counts == {"gsm8k": {"items": 3, "searched": 1}}
    contamination, counts = judged(tmp_path, texts, [benchmark], least_question=7)
    assert hit(contamination) == [0, 2, 3]
    # a short question with its answer reaches n words together
    long_answer = "one two three four five six seven"
    benchmark = write_items(tmp_path / "c.jsonl", [(seven, long_answer)])
    contamination, counts = judged(tmp_path, [f"{seven}? {long_answer}", seven, long_answer], [benchmark])
    assert hit(contamination) == [0]
    assert counts == {"gsm8k": {"items": 1, "searched": 1}}


def test_min_overlap_weighs_the_share_of_the_item(tmp_path):
    benchmark = write_items(tmp_path / "b.jsonl", [(QUESTION, ANSWER), (f"{QUESTION} sixteen seventeen " * 3, "")])
    half = " ".join(QUESTION.split()[:13])
    texts = [half, f"{QUESTION} and {ANSWER}", "nothing of it"]
    contamination, _ = judged(tmp_path, texts, [benchmark], min_overlap=0.9)
    assert hit(contamination) == [1]
    assert contamination.overlap[1] == 1.0
    by_document = {(row["document"], row["item"]): row for row in contamination.rows}
    assert by_document[0, 0]["overlap"] == pytest.approx(13 / 15)
    assert by_document[0, 1]["overlap"] == 1.0 * 39 / 51
    assert not any(row["removed"] for row in contamination.rows if row["document"] == 0)
    assert hit(judged(tmp_path, texts, [benchmark], min_overlap=0.8)[0]) == [0, 1]


def test_of_several_benchmarks_the_one_that_overlaps_most_is_the_reason(tmp_path):
    longer = write_items(tmp_path / "a.jsonl", [(QUESTION + " " + ANSWER, "")]) | {"name": "longer"}
    shorter = write_items(tmp_path / "b.jsonl", [(QUESTION, "")]) | {"name": "shorter"}
    contamination, _ = judged(tmp_path, [QUESTION], [longer, shorter])
    assert contamination.benchmark.tolist() == [1]
    assert {row["benchmark"] for row in contamination.rows} == {"longer", "shorter"}


def test_items_that_repeat_are_all_named(tmp_path):
    benchmark = write_items(tmp_path / "b.jsonl", [(QUESTION, "a"), ("other words", "b"), (QUESTION, "c")])
    contamination, _ = judged(tmp_path, [QUESTION, ""], [benchmark])
    assert {row["item"] for row in contamination.rows} == {0, 2}


def test_a_text_of_one_word_repeated_stays_linear(tmp_path):
    benchmark = write_items(tmp_path / "b.jsonl", [("a " * 3000, "")])
    began = time.process_time()
    contamination, _ = judged(tmp_path, ["a " * 30_000, "字" * 20_000], [benchmark])
    assert hit(contamination) == [0]
    assert [(row["words"], row["overlap"]) for row in contamination.rows] == [(30_000, 1.0)]
    assert time.process_time() - began < 10  # 3,000 x 30,000 steps would take a minute


def test_unspaced_scripts_and_right_to_left_text_are_found(tmp_path):
    chinese = "小明有五个苹果他又买了三个苹果请问现在他一共有几个苹果"
    arabic = "كان لدى أحمد خمس تفاحات ثم اشترى ثلاث تفاحات أخرى فكم تفاحة لديه الآن في المجموع"
    benchmark = write_items(tmp_path / "b.jsonl", [(chinese, "八"), (arabic, "ثمانية")])
    texts = [f"练习：{chinese}？", f"تمرين: {arabic}؟", "小明有五个梨"]
    assert hit(judged(tmp_path, texts, [benchmark])[0]) == [0, 1]


# --- in a build ---------------------------------------------------------------------------------------------------


def test_a_build_rejects_what_holds_an_item_and_says_where(tmp_path):
    rng = random.Random(3)
    texts = [corpora.document(rng) for _ in range(12)]
    texts[4] += f"\nQ: {QUESTION}?"
    texts[7] = f"{ANSWER.title()}. " + texts[7]
    texts[8] = texts[4]  # a copy: the copy goes as one, what stays of the two is contaminated
    corpora.write_jsonl(tmp_path / "a.jsonl", corpora.rows_of(texts))
    benchmark = write_items(tmp_path / "b.jsonl", [("unrelated words", ""), (QUESTION, ANSWER)])
    manifest, run = build(tmp_path, [tmp_path / "a.jsonl"], decontaminate={"benchmarks": [benchmark]})
    rejects = {row["url"][-1:]: row for row in corpora.read_all(run / "rejects")}
    assert manifest.counts["rejected"] == {"decontaminate:gsm8k": 2, "dedup:exact": 1}
    assert manifest.counts["kept"] == 9
    assert rejects["7"]["reason"] == "decontaminate:gsm8k"
    assert rejects["7"]["value"] == pytest.approx(14 / 29)
    found = corpora.read_all(run / "contamination")
    assert {(row["url"][-1:], row["item"], row["part"], row["answer"]) for row in found} == {
        ("4" if "4" in rejects and rejects["4"]["reason"].startswith("decon") else "8", 1, "question", None),
        ("7", 1, "answer", 0),
    }
    assert {row["id"] for row in found} == {row["id"] for row in rejects.values() if row["reason"].startswith("decon")}
    assert manifest.metrics["contamination"] == {"gsm8k": {"items": 2, "searched": 1, "items_found": 1, "documents": 2}}
    assert "benchmark gsm8k: items found 1, documents removed 2" in manifest.metrics["headline"]
    assert "Benchmark items found" in (run / "report.html").read_text(encoding="utf-8")
    assert any(entry.path == benchmark["path"] for entry in manifest.inputs), "a changed benchmark must be a new build"


def around(rng, characters):
    """Words of about so many characters, none of them in the items."""
    words = [corpora.document(rng, 12) for _ in range(characters // 90 + 1)]
    return " ".join(words)[:characters].rsplit(" ", 1)[0]


def test_cutting_takes_the_shared_words_and_the_margin_and_keeps_the_rest(tmp_path):
    rng = random.Random(6)
    before, after, short = around(rng, 900), around(rng, 700), around(rng, 350)
    texts = [
        f"{before} {QUESTION} {after}",
        f"{short} {QUESTION} {after}",  # what is left before it has fewer than 200 characters
        f"{short} {QUESTION} {short}",  # nothing is left
        after,
    ]
    benchmark = write_items(tmp_path / "b.jsonl", [(QUESTION, ANSWER)])
    found, _ = judged(tmp_path, texts, [benchmark], action="cut")
    assert found.texts == {
        0: f"{before[: len(before) + 1 - 200].strip()}\n\n{after[199:].strip()}",
        1: after[199:].strip(),
    }
    assert hit(found) == [2]
    assert [(row["document"], row["removed"], row["cut"]) for row in found.rows] == [
        (0, False, True),
        (1, False, True),
        (2, True, False),
    ]
    found, _ = judged(tmp_path, texts, [benchmark], action="cut", margin=0, least_piece=1)
    assert found.texts[2] == f"{short}\n\n{short}"


def test_a_document_of_too_many_pieces_is_rejected(tmp_path):
    rng = random.Random(7)
    benchmark = write_items(tmp_path / "b.jsonl", [(QUESTION, "")])
    texts = [f" {QUESTION} ".join(around(rng, 700) for _ in range(pieces)) for pieces in (10, 11)]
    found, _ = judged(tmp_path, texts, [benchmark], action="cut")
    assert hit(found) == [1]
    assert found.texts[0].count("\n\n") == 9
    assert QUESTION not in found.texts[0]


def test_ngrams_that_many_documents_hold_are_no_contamination(tmp_path):
    rng = random.Random(8)
    motto = "we hold these truths to be self evident that all men are created equal and free"
    texts = [around(rng, 500) + f" {motto}" * (n < 4) + f" {QUESTION}" * (n in (1, 5)) for n in range(8)]
    texts += [texts[0]] * 3  # copies do not count: they are gone before
    benchmark = write_items(tmp_path / "b.jsonl", [(motto, ""), (QUESTION, ANSWER)])
    removed = {}
    for most in (4, 3):
        folder = tmp_path / str(most)
        folder.mkdir()
        corpora.write_jsonl(folder / "a.jsonl", corpora.rows_of(texts))
        settings = {"benchmarks": [benchmark], "max_documents": most}
        manifest, run = build(folder, [folder / "a.jsonl"], decontaminate=settings)
        removed[most] = manifest.counts["rejected"]["decontaminate:gsm8k"]
        assert manifest.counts["rejected"]["dedup:exact"] == 3
    assert removed == {4: 5, 3: 2}
    assert "3 documents hold them: 4" in (run / "report.html").read_text(encoding="utf-8")


def test_a_build_cuts_what_it_shares_and_keeps_the_document(tmp_path):
    rng = random.Random(9)
    texts = [around(rng, 800) for _ in range(4)]
    texts[2] = f"{texts[2]} {QUESTION} {around(rng, 800)} anna@example.org"
    corpora.write_jsonl(tmp_path / "a.jsonl", corpora.rows_of(texts))
    benchmark = write_items(tmp_path / "b.jsonl", [(QUESTION, ANSWER)])
    settings = {"benchmarks": [benchmark], "action": "cut"}
    manifest, run = build(tmp_path, [tmp_path / "a.jsonl"], decontaminate=settings)
    assert (manifest.counts["kept"], manifest.counts["rejected"]) == (4, {})
    told = {"items": 1, "searched": 1, "items_found": 1, "documents": 0, "documents_cut": 1}
    assert manifest.metrics["contamination"] == {"gsm8k": told}
    assert "benchmark gsm8k: items found 1, documents removed 0, cut 1" in manifest.metrics["headline"]
    (cut,) = [row["text"] for row in corpora.read_all(run / "documents") if row["url"].endswith("2")]
    first, second = cut.split("\n\n")
    assert texts[2].startswith(first)
    assert second.endswith("<EMAIL>")
    assert "seven eight" not in cut


def test_a_benchmark_that_is_wrong_is_told_before_any_work(tmp_path):
    corpora.write_jsonl(tmp_path / "a.jsonl", [{"text": "some words"}])
    (tmp_path / "b.jsonl").write_text('{"prompt": "x"}\n')
    benchmark = {**GSM8K, "path": str(tmp_path / "b.jsonl")}
    with pytest.raises(UserError, match="no row has the field question that benchmark gsm8k names; there are: prompt"):
        build(tmp_path, [tmp_path / "a.jsonl"], decontaminate={"benchmarks": [benchmark]})
    assert not (tmp_path / "run" / "measured").exists()


def test_other_items_in_the_same_folder_are_other_items(tmp_path):
    corpora.write_jsonl(tmp_path / "a.jsonl", corpora.rows_of([QUESTION, ANSWER]))
    for question, rejected in [(QUESTION, "0"), (ANSWER, "1")]:
        benchmark = write_items(tmp_path / "b.jsonl", [(question, "")])
        _, run = build(tmp_path, [tmp_path / "a.jsonl"], decontaminate={"benchmarks": [benchmark]})
        assert [row["url"][-1] for row in corpora.read_all(run / "rejects")] == [rejected]


def test_without_benchmarks_nothing_is_searched_or_written(tmp_path):
    corpora.write_jsonl(tmp_path / "a.jsonl", corpora.rows_of([QUESTION]))
    manifest, run = build(tmp_path, [tmp_path / "a.jsonl"])
    assert manifest.counts["kept"] == 1
    assert not (run / "contamination").exists()
    assert "contamination" not in manifest.metrics
