"""What the benchmarks of training share: a token artifact of real text, a model of 10 M parameters, our trainer."""

import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(harness.HERE.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from core import checkpoint
from core.token_set import INDEX, INDEX_SCHEMA, TOKENIZER, TOKENS, TokenSet, dtype_for
from data_engine import byte_level_bpe
from training import heap, metrics
from training.model import ModelConfig, initialize
from training.objectives import NextToken
from training.trainer import TrainConfig, Trainer
from training.world import World

VOCABULARY = 4096
TEN_MILLION = ModelConfig(hidden_size=320, layers=7, heads=5, intermediate_size=864, max_length=1024)
"""9.98 M parameters with this vocabulary."""


def documents(at_most: int | None = None) -> list[str]:
    """Texts of docs.parquet."""
    return pq.read_table(harness.test_data("docs/docs.parquet"), columns=["text"])["text"].to_pylist()[:at_most]


def write_tokenizer(directory: Path, texts: list[str]) -> Any:
    """A byte-level BPE trained on the texts, with a chat template."""
    byte_level_bpe.save(byte_level_bpe.train(texts, VOCABULARY), directory)
    return checkpoint.load_tokenizer(directory)


def write_tokens(directory: Path, texts: list[str]) -> TokenSet:
    """A token artifact of one shard, as `data tokenize` writes it; every twentieth document is held out."""
    tokenizer = write_tokenizer(directory / TOKENIZER, texts)
    rows, parts, offset = [], [], 0
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for number, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        parts.append(np.array([*ids, tokenizer.eos_token_id], dtype_for(len(tokenizer))))
        sizes = {"offset": offset, "tokens": len(ids) + 1, "bytes": len(text.encode()), "words": len(text.split())}
        split = "train" if number % 20 else "validation"
        rows.append({"id": f"{number:032x}", "shard": "0.bin", "source": "docs", "language": "en", "split": split})
        rows[-1] |= sizes
        offset += len(ids) + 1
    (directory / TOKENS).mkdir()
    np.concatenate(parts).tofile(directory / TOKENS / "0.bin")
    metadata = {"dtype": parts[0].dtype.str, "separator": str(tokenizer.eos_token_id)}
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA.with_metadata(metadata)), directory / INDEX)
    return TokenSet(directory)


def model(vocabulary: int = VOCABULARY, config: ModelConfig = TEN_MILLION) -> Any:
    """A fresh model, the same each time."""
    return initialize(config.to_transformers(vocabulary), 0)


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What the work gives in a fresh process: the threads, heap and caches of one side are not the other's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def train(directory: Path, network: Any, samples: Any, length: int, steps: int, **settings: Any) -> list[dict]:
    """The log of `steps` steps of our trainer in this process, in FP32, with all cores."""
    config = TrainConfig(output=str(directory), workers=0, precision="fp32", checkpoint_every=10**9, **settings)
    directory.mkdir(parents=True)
    torch.set_num_threads(2)
    heap.keep()  # as launch.py does
    trainer = Trainer(config, directory, World(), network, NextToken(), samples, length=length, steps=steps)
    trainer.run()
    return metrics.read(directory)


def matrix_product_flops(size: int = 2048, times: int = 6) -> dict[str, float]:
    """FLOP/s of a large FP32 matrix product with all cores, the best of some, by each library that torch has for it."""
    torch.set_num_threads(2)
    a, b = torch.randn(size, size), torch.randn(size, size)
    works = {
        "MKL": partial(torch.mm, a, b),
        "oneDNN": partial(torch.ops.mkldnn._linear_pointwise, a, b, None, "none", [], ""),
    }
    best = dict.fromkeys(works, float("inf"))
    for _ in range(times):
        for library, work in works.items():
            began = time.perf_counter()
            work()
            best[library] = min(best[library], time.perf_counter() - began)
    return {library: 2 * size**3 / seconds for library, seconds in best.items()}
