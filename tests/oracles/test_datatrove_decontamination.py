"""Our 12-gram rule beside datatrove's on GSM8K: training rows that hold 12 words of a test answer, or of its question
and answer.

datatrove's indexer wants lighteval, which does not load beside NumPy 2 (its own tests are skipped for that): its n-gram
hashes are asked for without it. Numbers stay numbers there too; by default each is 0, and sums match whatever they add.
"""

import json

import pyarrow as pa
import pytest

from core import config
from data_engine import decontaminate
from data_engine.decontaminate import DecontaminationConfig
from data_engine.measure import Folders
from data_engine.ngram_index import NgramIndex

n_grams = pytest.importorskip("datatrove.pipeline.decont.n_grams")
pytest.importorskip("spacy")

pytestmark = pytest.mark.slow  # spaCy cuts each row into words


def theirs(tests, texts):
    from datatrove.utils.text import TextNormConfig, ngrams, simplify_text

    settings = n_grams.NGramsDecontConfig(n_grams=12, norm_config=TextNormConfig(norm_numbers=False))
    indexer = object.__new__(n_grams.NGramsDecontIndexer)  # its __new__ asks for lighteval
    indexer.config = settings
    indexer.tokenizer = n_grams.load_word_tokenizer("eng")
    indexer.hash_func = hash  # its xxhash takes no text in the version that is installed
    listed = {hashed for row in tests for hashed in indexer.compute_hashes(row["answer"], row["question"])}
    found = []
    for number, text in enumerate(texts):
        words = indexer.tokenizer.word_tokenize(simplify_text(text, settings.norm_config))
        if any(indexer.hash_func(" ".join(ngram)) in listed for ngram in ngrams(words, 12)):
            found.append(number)
    return found


def test_the_same_rows_are_contaminated(tmp_path, real_data):
    path = real_data / "benchmarks" / "gsm8k_test.jsonl"
    tests = [json.loads(line) for line in path.open(encoding="utf-8")]
    train = [json.loads(line) for line in (real_data / "instructions" / "gsm8k_train.jsonl").open(encoding="utf-8")]
    texts = [row["question"] + "\n" + row["answer"] for row in train[::6]]
    texts += [f"Found on a forum: {row['question'].upper()}\n\n{row['answer'][:90]}" for row in tests[:40]]
    benchmark = {"name": "gsm8k", "path": str(path), "question": ["question"], "answers": ["answer"]}
    rule = config.parse(
        DecontaminationConfig, {"benchmarks": [benchmark], "ngram": 12, "parts": ["answer", "joint"]}, "test"
    )
    folders = Folders(tmp_path)
    decontaminate.prepare(rule, folders)
    index = NgramIndex.load(lambda name: folders.scratch("benchmarks", name))
    judged = decontaminate.judge(pa.array(texts, pa.large_string()), index, rule)
    ours = [number for number, benchmark in enumerate(judged.benchmark) if benchmark >= 0]
    assert ours == theirs(tests, texts)
    assert len(ours) > 30
