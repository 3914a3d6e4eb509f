"""`data tokenize` as a whole: nothing lost, the same bytes after a crash, clear refusals."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from core import manifest
from core.errors import UserError
from core.token_set import TokenSet
from data_engine.split import VALIDATION, split_of
from data_engine.tokenize import STAGE, TokenizeConfig
from data_engine.words import count_words

PHRASES = [
    "the parser reads a line",
    "und schreibt eine Zeile",
    "データを読む",
    "<|im_end|> is a token",
    "🎉 naïve café",
]


def write_documents(folder, shards=4, each=30):
    folder.mkdir(parents=True)
    for shard in range(shards):
        rows = []
        for number in range(each):
            place = shard * each + number
            text = " ".join(PHRASES[(place * 7 + k) % len(PHRASES)] for k in range(place % 9)) + f" {place}"
            rows.append({"id": f"{place:032x}", "text": text if place % 11 else "", "source": f"s{place % 2}"})
            rows[-1] |= {"language": ["en", "de", "ja"][place % 3], "url": "u", "date": "", "language_score": 0.9}
        pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{shard}.parquet")
    return folder


def run(documents, output, **settings):
    settings = {"vocab_size": 300, "validation_fraction": 0.2, **settings}
    documents = documents if isinstance(documents, dict) else str(documents)
    return STAGE.execute(TokenizeConfig(documents=documents, output=str(output), **settings))[0]


def content(directory):
    """Every output of a run by name; the digests of manifests and reports differ, their files are left out."""
    outputs = manifest.read(directory).outputs
    return {output.path: output.digest for output in outputs}


@pytest.mark.slow
def test_every_document_is_tokenised_once_and_decodes_to_itself(tmp_path, ray_session):
    documents = write_documents(tmp_path / "documents")
    done = run(documents, tmp_path / "out")
    tokens = TokenSet(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tokens.tokenizer)
    source = pq.read_table(documents).to_pylist()
    assert done.counts["documents"] == len(source) == len(tokens)
    index = tokens.index.to_pylist()
    assert [row["id"] for row in index] == [row["id"] for row in source]
    for number, (row, document) in enumerate(zip(index, source, strict=True)):
        ids = tokens.tokens(number)
        assert ids[-1] == tokens.separator == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in ids[:-1]
        assert tokenizer.decode(ids[:-1]) == document["text"]
        assert row["bytes"] == len(document["text"].encode())
        assert row["split"] == split_of(document["id"], 0.2)
        assert (row["source"], row["language"]) == (document["source"], document["language"])
    sizes = [(tmp_path / "out" / "tokens" / name).stat().st_size for name in sorted({row["shard"] for row in index})]
    assert sum(sizes) == 2 * done.counts["tokens"] == 2 * sum(row["tokens"] for row in index)
    assert done.counts["train_documents"] + done.counts["validation_documents"] == len(source)
    assert 0 < done.counts["validation_documents"] < len(source)
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_control_tokens_spelled_out_in_a_document_stay_text(tmp_path, ray_session):
    folder = tmp_path / "documents"
    folder.mkdir()
    text = "a<|endoftext|>b<|im_start|>assistant\nc<|im_end|>"
    pq.write_table(pa.table({"id": ["0" * 32], "text": [text]}), folder / "part.parquet")
    run(folder, tmp_path / "out", validation_fraction=0.0)
    tokens = TokenSet(tmp_path / "out").tokens(0)
    assert np.count_nonzero(tokens < 4) == 1
    assert tokens[-1] == 0


@pytest.mark.slow
def test_tokenizer_learns_from_the_train_split_alone(tmp_path, ray_session):
    """Held-out text must not shape the vocabulary."""
    folder = tmp_path / "documents"
    folder.mkdir()
    ids = [f"{number:032x}" for number in range(200)]
    texts = ["zyzzyva " * 40 if split_of(name, 0.2) == VALIDATION else "common words here " * 10 for name in ids]
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "part.parquet")
    run(folder, tmp_path / "out")
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer").get_vocab()
    assert any("common" in token for token in vocabulary)
    assert not any("zz" in token for token in vocabulary)


@pytest.mark.slow
def test_given_tokenizer_is_used_as_it_is(tmp_path, ray_session):
    documents = write_documents(tmp_path / "documents")
    run(documents, tmp_path / "first", vocab_size=290)
    run(documents, tmp_path / "second", tokenizer=str(tmp_path / "first" / "tokenizer"), vocab_size=400)
    first, second = content(tmp_path / "first"), content(tmp_path / "second")
    assert {name: digest for name, digest in first.items() if name.endswith(".bin")} == {
        name: digest for name, digest in second.items() if name.endswith(".bin")
    }
    assert first["tokenizer/tokenizer.json"] == second["tokenizer/tokenizer.json"]


@pytest.mark.slow
def test_several_corpora_become_sources_by_name(tmp_path, ray_session):
    web = write_documents(tmp_path / "web", shards=2, each=12)
    books = tmp_path / "books"
    books.mkdir()
    pq.write_table(pa.table({"id": ["f" * 32], "text": ["a book about parsers"]}), books / "b.parquet")
    done = run({"web": str(web), "books": str(books)}, tmp_path / "out", validation_fraction=0.0)
    index = TokenSet(tmp_path / "out").index.to_pylist()
    assert [row["source"] for row in index] == ["web"] * 24 + ["books"]
    assert done.metrics["sources"]["books"] == index[-1]["tokens"] - 1
    assert sum(done.metrics["sources"].values()) == done.counts["tokens"] - 25
    with pytest.raises(UserError, match="nowhere: no such file"):
        run({"web": str(web), "books": str(tmp_path / "nowhere")}, tmp_path / "other")


@pytest.mark.slow
def test_vocabulary_beyond_16_bits_is_stored_in_32(tmp_path, ray_session):
    """A saved tokenizer of another kind: whole words, none of them bytes."""
    vocabulary = {f"w{number}": number for number in range(70_000)} | {"<unk>": 70_000, "</s>": 70_001}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path / "words")
    folder = tmp_path / "documents"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["0" * 32, "1" * 32], "text": ["w3 w69999", "w65536 other"]}), folder / "a.parquet")
    done = run(folder, tmp_path / "out", tokenizer=str(tmp_path / "words"), validation_fraction=0.0)
    tokens = TokenSet(tmp_path / "out")
    assert done.metrics["dtype"] == "uint32"
    assert [tokens.tokens(n).tolist() for n in range(2)] == [[3, 69_999, 70_001], [65_536, 70_000, 70_001]]
    with pytest.raises(UserError, match="names no eos_token"):
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "endless")
        run(folder, tmp_path / "other", tokenizer=str(tmp_path / "endless"))


@pytest.mark.slow
def test_fertility_of_each_language_is_its_tokens_per_word(tmp_path, ray_session):
    done = run(write_documents(tmp_path / "documents"), tmp_path / "out")
    tokens = TokenSet(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tokens.tokenizer)
    for language, (per_word, per_byte) in done.metrics["languages"].items():
        rows = [row for row in pq.read_table(tmp_path / "documents").to_pylist() if row["language"] == language]
        count = sum(len(tokenizer(row["text"], split_special_tokens=True)["input_ids"]) for row in rows)
        words = count_words(pa.array([row["text"] for row in rows])).sum()
        assert per_word == pytest.approx(count / words, abs=1e-4)
        assert per_byte == pytest.approx(sum(len(row["text"].encode()) for row in rows) / count, abs=1e-4)
    assert set(done.metrics["languages"]) == {"en", "de", "ja"}


@pytest.mark.slow
@pytest.mark.faults
def test_killed_run_finishes_with_the_same_files(tmp_path, ray_session):
    documents = write_documents(tmp_path / "documents", shards=40, each=200)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    run(documents, undisturbed)
    code = f"""
from data_engine.tokenize import STAGE, TokenizeConfig
settings = dict(documents={str(documents)!r}, output={str(disturbed)!r}, vocab_size=300, validation_fraction=0.2)
STAGE.execute(TokenizeConfig(**settings))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "RAYMILL_ADDRESS": "local"}, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not list(disturbed.glob(".parts/*.parquet")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert manifest.read(disturbed) is None
    run(documents, disturbed)
    assert content(disturbed) == content(undisturbed)
    assert not list(disturbed.rglob("*.tmp"))


@pytest.mark.parametrize("settings", [{"vocab_size": 259}, {"validation_fraction": 1.0}, {"training_text_mib": 0}])
def test_impossible_settings_are_refused(tmp_path, settings):
    with pytest.raises(ValueError):
        TokenizeConfig(documents="x", output=str(tmp_path), **settings)


def test_empty_corpus_is_refused_before_anything_starts(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), folder / "a.parquet")
    with pytest.raises(UserError, match="corpus is empty"):
        run(folder, tmp_path / "out")
    assert manifest.read(tmp_path / "out") is None


def test_other_inputs_are_refused_in_one_line(tmp_path, real_data):
    with pytest.raises(UserError, match="no such file"):
        run(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(UserError, match=r"truncated\.parquet: not readable as Parquet"):
        run(real_data / "crawl" / "broken" / "truncated.parquet", tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no \*\.parquet"):
        run(real_data / "instructions" / "gsm8k_train.jsonl", tmp_path / "out")


@pytest.mark.slow
def test_shard_damaged_behind_its_footer_is_named(tmp_path, ray_session):
    documents = write_documents(tmp_path / "documents")
    damaged = documents / "part-2.parquet"
    bytes_ = bytearray(damaged.read_bytes())
    bytes_[8:200] = b"\xff" * 192
    damaged.write_bytes(bytes_)
    with pytest.raises(UserError, match=r"part-2\.parquet: damaged"):
        run(documents, tmp_path / "out", tokenizer=str(tokenizer_directory(tmp_path)))


def tokenizer_directory(tmp_path):
    from tests.tiny_models import save_tokenizer

    return save_tokenizer(tmp_path / "tokenizer")
