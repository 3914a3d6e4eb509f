"""Pretraining on two cores: our tokens/s beside Hugging Face's Trainer, our FLOP/s beside a plain matrix product.

The same model (10 M parameters, FP32), the same packed sequences, the same batch. Their sequences are not isolated at
document borders; ours are. Both sides as they come out of the box but for ours with `compile: true`; without it stands
in the result too. The runs take turns, each in a process of its own; the first steps of each, in which layers are
compiled, are not counted. The share of a step spent waiting for data is that of the same runs of ours. The large
product that the FLOP/s are held against is that of the faster of MKL and oneDNN.
"""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness
import torch
from training_setup import alone, documents, matrix_product_flops, model, train, write_tokens
from transformers import Trainer, TrainerCallback, TrainingArguments

from core.token_set import TokenSet
from training.model import flops_per_token
from training.packing import PackedDocuments
from training.pretrain import _Sequences

LENGTH, BATCH = 256, 8
ROUNDS, WARM, COUNTED = 3, 4, 16


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


class Packed(torch.utils.data.Dataset):
    """Our packed sequences as their data set."""

    def __init__(self, packed: PackedDocuments, count: int) -> None:
        batch = packed.sequences(0, count)
        self.rows = [{"input_ids": row, "labels": row} for row in batch.tokens]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        return self.rows[number]


def open_tokens(folder: Path) -> PackedDocuments:
    """The packed sequences of both sides."""
    return PackedDocuments(TokenSet(folder), "train", LENGTH, 0)


def theirs(directory: Path, tokens: Path) -> float:
    """Tokens/s of Hugging Face's Trainer."""
    torch.set_num_threads(2)
    steps = WARM + COUNTED
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    clock = Clock()
    Trainer(model(), arguments, train_dataset=Packed(open_tokens(tokens), steps * BATCH), callbacks=[clock]).train()
    return BATCH * LENGTH / statistics.median(b - a for a, b in pairwise(clock.ends[WARM - 1 :]))


def ours(directory: Path, tokens: Path, compiled: bool) -> tuple[float, float]:
    """Tokens/s of our trainer, and the share of its steps spent waiting for data."""
    settings = {"batch_size": BATCH, "micro_batch": BATCH, "compile": compiled}
    rows = train(directory, model(), _Sequences(open_tokens(tokens), BATCH), LENGTH, WARM + COUNTED, **settings)[WARM:]
    waited = sum(row["data_seconds"] for row in rows) / sum(row["step_seconds"] for row in rows)
    return statistics.median(row["tokens_per_second"] for row in rows), waited


def main() -> None:
    rates, plain, peers, shares, waits, products = [], [], [], [], [], []
    flops = flops_per_token(model(), LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder, "tokens")
        write_tokens(tokens, documents(1500))
        for number in range(ROUNDS):
            products.append(matrix_product_flops())
            peers.append(alone(theirs, Path(folder, f"theirs-{number}"), tokens))
            plain.append(alone(ours, Path(folder, f"plain-{number}"), tokens, False)[0])
            rate, waited = alone(ours, Path(folder, f"ours-{number}"), tokens, True)
            rates.append(rate)
            waits.append(waited)
            shares.append(rate * flops / max(*products[-1].values(), *matrix_product_flops().values()))
            print(
                f"round {number}: ours {rate:,.0f} ({plain[-1]:,.0f} not compiled), Trainer {peers[-1]:,.0f} tokens/s"
            )
    ratios = [rate / peer for rate, peer in zip(rates, peers, strict=True)]
    middle = statistics.median
    more = {"unit": "tokens/s", "not_compiled": middle(plain)}
    harness.write("train.cpu_vs_hf_trainer", middle(ratios), middle(rates), middle(peers), ratios, **more)
    large = {library: middle(product[library] for product in products) for library in products[0]}
    more = {"unit": "FLOP/s", "by_library": large}
    harness.write("train.cpu_flops_share", middle(shares), middle(rates) * flops, max(large.values()), shares, **more)
    harness.write("train.data_wait", middle(waits), middle(waits), None, waits, unit="share of step time")


if __name__ == "__main__":
    main()
