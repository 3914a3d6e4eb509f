"""Small task files and artifacts for the tests of evaluation."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from core import manifest
from core.manifest import Manifest
from core.token_set import INDEX_SCHEMA
from tests.tiny_models import TEXT, save_tokenizer

ITEMS = [
    {
        "id": f"i{number}",
        "question": f"What does `thing{number}` do?",
        "choices": [f"It returns {word} {number}." for word in ("names", "a JSON formatted str", "scales", "it")],
        "answer": number % 4,
    }
    for number in range(12)
]
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"What does `thing{number // 2}` do?"}],
        "chosen": f"Serialize obj to a JSON formatted str {number}.",
        "rejected": f"A class of scales {number}.",
        "document_id": str(number // 2),
    }
    for number in range(20)
]
CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"What kind of object is `thing{number}`?"},
            {"role": "assistant", "content": ["function", "class", "class"][number % 3]},
        ],
        "task": ["kind", "other"][number % 2],
    }
    for number in range(12)
]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_token_set(directory, texts, splits, vocab_size=320):
    """A token artifact as `data tokenize` writes it, without Ray."""
    directory.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(save_tokenizer(directory / "tokenizer", vocab_size))
    rows, tokens = [], []
    for number, (text, split) in enumerate(zip(texts, splits, strict=True)):
        ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
        row = {"id": f"{number:032x}", "shard": "a.bin", "offset": len(tokens), "tokens": len(ids), "split": split}
        rows.append({**row, "bytes": len(text.encode()), "words": len(text.split()), "source": "", "language": "en"})
        tokens += ids
    (directory / "tokens").mkdir()
    np.asarray(tokens, "<u2").tofile(directory / "tokens" / "a.bin")
    index = pa.Table.from_pylist(rows, INDEX_SCHEMA)
    index = index.replace_schema_metadata({"dtype": "<u2", "separator": str(tokenizer.eos_token_id)})
    pq.write_table(index, directory / "index.parquet")
    return directory


def documents():
    return [f"{text} {number}" for number, text in enumerate(TEXT)]


def write_manifest(directory, stage):
    found = Manifest(
        stage=stage,
        schema_version=1,
        identity="x",
        config={},
        inputs=[],
        outputs=[],
        counts={},
        metrics={},
        timings={},
        versions={},
        seed=0,
    )
    (directory / manifest.NAME).write_text(found.model_dump_json())
