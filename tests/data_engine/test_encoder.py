"""The fast encoder gives the tokenizer's own ids: for every text, after growth, after its table was emptied."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_engine import byte_level_bpe, encoder
from data_engine.kernels import pieces
from data_engine.kernels.unicode import buffers
from tests.data_engine.texts import ADVERSARIAL

SEPARATOR = 0
UINT32 = np.dtype("<u4")
TEXTS = [
    *ADVERSARIAL,
    "it's we'll they're I've don't I'm he'd 'tis 's'S 'LL '",
    "  two  spaces   before\n\n\n  words \t\n end  ",
    "a \u3000b\u00a0 c\u2028d\x1cx\x85y",
    "x=1;!?'re ... 'llama 'vex",
    "١٢٣ ½ ² Ⅷ 一二三 3rd 3.14",
    "<|im_end|><|endoftext|>",
    "\U0001f600" * 40 + " " * 40,
]
TRAINING = [text for text in TEXTS if len(text) < 1000]
"""The long ones are there to be encoded: to learn from one word of 100,000 letters takes seconds."""


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    byte_level_bpe.save(byte_level_bpe.train([*TRAINING, "the parser reads the line " * 20] * 3, 600), directory)
    return directory / "tokenizer.json"


@pytest.fixture(scope="module")
def fast(tokenizer_file):
    loaded = encoder.load(tokenizer_file)
    assert isinstance(loaded, encoder.CachedPieces)
    return loaded


def same(fast, texts):
    for array in (pa.array(texts, pa.string()), pa.array(["", *texts], pa.large_string())[1:]):
        ids, lengths = fast.encode(array, SEPARATOR, UINT32)
        expected_ids, expected_lengths = fast.plain.encode(array, SEPARATOR, UINT32)
        assert lengths.tolist() == expected_lengths.tolist()
        assert ids.tolist() == expected_ids.tolist()


def test_ids_are_the_tokenizers_own_on_adversarial_text(fast):
    same(fast, TEXTS)
    for text in TEXTS:
        same(fast, [text])
    same(fast, [])


pieces_of_text = st.sampled_from(
    [
        "'",
        "'s",
        "'re",
        "'l",
        "l",
        "R",
        " ",
        "  ",
        "\n",
        "\t",
        "\u00a0",
        "é",
        "字",
        "½",
        "7",
        "!",
        "_",
        "\u0301",
        "🎉",
        "\x1c",
    ]
)


@settings(max_examples=300)
@given(st.lists(st.lists(pieces_of_text, max_size=30).map("".join) | st.text(max_size=40), max_size=5))
def test_ids_are_the_tokenizers_own_on_random_text(fast, texts):
    same(fast, texts)


def test_ids_are_the_tokenizers_own_on_real_text(fast, real_data):
    rows = (real_data / "multilingual" / "sentences.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    same(fast, [json.loads(row)["text"] for row in rows])


def test_table_that_grows_or_is_emptied_changes_nothing(tokenizer_file, monkeypatch):
    monkeypatch.setattr(encoder, "_SLICE_BYTES", 64)
    growing = encoder.load(tokenizer_file)
    same(growing, TEXTS)
    known = growing._entries
    same(growing, TEXTS)
    assert growing._entries == known, "what was seen before is no new entry"
    monkeypatch.setattr(encoder, "_MOST_ENTRIES", 20)
    same(growing, TEXTS)
    assert growing._entries < known


def test_pieces_are_those_of_the_pattern(fast):
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in TEXTS:
        utf8, offsets = buffers(pa.array([text], pa.large_string()))
        found, at = [], 0
        while at < offsets[1]:
            stop = pieces.piece_end(utf8, encoder.classes(), at, offsets[1])
            found.append(bytes(utf8[at:stop]).decode())
            at = stop
        places = [span for _, span in cut.pre_tokenize_str(text)]
        assert found == [text[begin:end] for begin, end in places]


def test_no_letter_number_or_space_lies_beyond_the_table(fast):
    beyond = "".join(chr(point) for point in range(encoder.LAST, sys.maxunicode + 1, 7))
    pattern = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}+|\s+"), "removed", invert=True)
    assert not any(pattern.pre_tokenize_str(beyond[k : k + 2048]) for k in range(0, len(beyond), 2048))


@pytest.fixture(scope="module")
def byte_level():
    return json.loads(byte_level_bpe.train(TRAINING, 300).to_str())


def test_only_tokenizers_that_work_piece_by_piece_are_cached(byte_level):
    assert encoder.encodes_piecewise(byte_level)
    llama3 = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}
    changes = [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [llama3]}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {**byte_level["pre_tokenizer"], "use_regex": False}},
        {"pre_tokenizer": {**byte_level["pre_tokenizer"], "add_prefix_space": True}},
        {"model": {**byte_level["model"], "dropout": 0.1}},
        {"model": {**byte_level["model"], "type": "Unigram"}},
        {"added_tokens": [{**byte_level["added_tokens"][0], "special": False}]},
    ]
    for change in changes:
        assert not encoder.encodes_piecewise({**byte_level, **change}), change


def test_another_kind_of_tokenizer_is_used_as_it_is(tmp_path):
    """Unigram with a normaliser and Metaspace, as T5 and ALBERT have it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TRAINING[:17] * 4, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = encoder.load(tmp_path / "tokenizer.json")
    assert isinstance(loaded, encoder.Plain)
    texts = ["word ab", "", "this sentence"]
    ids, lengths = loaded.encode(pa.array(texts), SEPARATOR, UINT32)
    expected = [[*tokenizer.encode(text, add_special_tokens=False).ids, SEPARATOR] for text in texts]
    assert ids.tolist() == [token for document in expected for token in document]
    assert lengths.tolist() == list(map(len, expected))
