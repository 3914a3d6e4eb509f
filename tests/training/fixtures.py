"""Small real inputs: a tokenizer trained on the standard library's sources, tokens, conversations, preference pairs."""

import inspect
import random
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from core import checkpoint
from core.token_set import INDEX, INDEX_SCHEMA, TOKENIZER, TOKENS
from data_engine import byte_level_bpe
from training import export
from training.model import ModelConfig, initialize

MODULES = ("argparse", "ast", "calendar", "csv", "difflib", "json", "random", "shutil", "string", "textwrap")
VOCABULARY = 512
WORDS = ("red", "blue", "green", "black", "white", "gray", "pink", "gold")


@cache
def documents() -> tuple[str, ...]:
    """Documentation strings of real modules, in a fixed order."""
    texts = []
    for name in MODULES:
        module = __import__(name)
        for _, member in sorted(vars(module).items()):
            text = inspect.getdoc(member) if callable(member) else None
            if text and len(text) > 40:
                texts.append(text)
    return tuple(dict.fromkeys(texts))


def write_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    byte_level_bpe.save(byte_level_bpe.train(documents(), VOCABULARY), directory)
    return checkpoint.load_tokenizer(directory)


def write_tokens(directory: Path, shards: int = 2) -> Path:
    """A token artifact; every seventh document is held out."""
    tokenizer = write_tokenizer(directory / TOKENIZER)
    (directory / TOKENS).mkdir()
    rows = []
    for shard in range(shards):
        offset, parts = 0, []
        for number in range(shard, len(documents()), shards):
            text = documents()[number]
            ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            parts.append(np.array(ids, "<u2"))
            split = "validation" if number % 7 == 0 else "train"
            row = (f"{number:032x}", f"{shard}.bin", offset, len(ids), len(text.encode()), len(text.split()))
            rows.append((*row, "docs", "en", split))
            offset += len(ids)
        np.concatenate(parts).tofile(directory / TOKENS / f"{shard}.bin")
    metadata = {"dtype": "<u2", "separator": str(tokenizer.eos_token_id)}
    columns = [
        pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), INDEX_SCHEMA, strict=True)
    ]
    pq.write_table(pa.table(columns, INDEX_SCHEMA.with_metadata(metadata)), directory / INDEX)
    return directory


TINY = ModelConfig(hidden_size=32, layers=2, heads=2, intermediate_size=64, max_length=128)


def write_checkpoint(directory: Path, model: ModelConfig = TINY, seed: int = 0) -> Path:
    """A checkpoint with fresh weights."""
    tokenizer = write_tokenizer(directory / "tokenizer")
    fresh = initialize(model.to_transformers(len(tokenizer), eos_token_id=tokenizer.eos_token_id), seed)
    return export.save(fresh, tokenizer, directory, [tokenizer.eos_token_id])


def write_spoiled(directory: Path, base: Path, name: str = "model.layers.1.mlp.up_proj.weight") -> Path:
    """The checkpoint with one weight that is no number."""
    found = shutil.copytree(base, directory)
    weights = load_file(found / "model.safetensors")
    weights[name].view(-1)[7] = float("nan")
    save_file(weights, found / "model.safetensors", {"format": "pt"})
    return found


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write_conversations(directory: Path, train: int = 64, heldout: int = 16, seed: int = 0) -> Path:
    """Two tasks: name the last word, name the first word."""
    rng = random.Random(seed)
    directory.mkdir(parents=True, exist_ok=True)
    for name, number in (("train", train), ("heldout", heldout)):
        rows = []
        for _ in range(number):
            words = rng.sample(WORDS, 3)
            task = rng.choice(["first", "last"])
            answer = words[0] if task == "first" else words[-1]
            rows.append(
                {
                    "messages": conversation(f"{task} of {' '.join(words)}?", answer),
                    "source": "fixture",
                    "task": task,
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}.parquet")
    return directory


def write_preferences(directory: Path, train: int = 48, heldout: int = 16, seed: int = 0) -> Path:
    """The right answer against a wrong one."""
    rng = random.Random(seed)
    directory.mkdir(parents=True, exist_ok=True)
    for name, number in (("train", train), ("heldout", heldout)):
        rows = []
        for _ in range(number):
            words = rng.sample(WORDS, 3)
            rows.append(
                {
                    "prompt": [{"role": "user", "content": f"first of {' '.join(words)}?"}],
                    "chosen": words[0],
                    "rejected": words[1],
                    "source": "fixture",
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}.parquet")
    return directory
