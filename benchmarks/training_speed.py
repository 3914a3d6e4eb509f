"""Pretraining on two cores: our tokens/s beside Hugging Face's Trainer, our FLOP/s beside a plain matrix product.

The same model (10 M parameters, FP32), the same packed sequences, the same batch. Their sequences are not isolated at
document borders; ours are. The runs take turns; the first steps of each are not counted. The share of a step spent
waiting for data is that of the same runs of ours.
"""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness
import torch
from training_setup import documents, matrix_product_flops, model, train, write_tokens
from transformers import Trainer, TrainerCallback, TrainingArguments

from training.model import flops_per_token
from training.packing import PackedDocuments
from training.pretrain import _Sequences

LENGTH, BATCH = 256, 8
ROUNDS, WARM, COUNTED = 3, 4, 16
SETTINGS = {"batch_size": BATCH, "micro_batch": BATCH}


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


def theirs(directory: Path, packed: PackedDocuments) -> float:
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
    Trainer(model(), arguments, train_dataset=Packed(packed, steps * BATCH), callbacks=[clock]).train()
    return BATCH * LENGTH / statistics.median(b - a for a, b in pairwise(clock.ends[WARM - 1 :]))


def main() -> None:
    rates, peers, shares, waits, products = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        packed = PackedDocuments(write_tokens(Path(folder, "tokens"), documents(1500)), "train", LENGTH, 0)
        for number in range(ROUNDS):
            products.append(matrix_product_flops())
            peers.append(theirs(Path(folder, f"theirs-{number}"), packed))
            network = model()
            flops = flops_per_token(network, LENGTH)
            samples = _Sequences(packed, BATCH)
            rows = train(Path(folder, f"ours-{number}"), network, samples, LENGTH, WARM + COUNTED, **SETTINGS)[WARM:]
            rates.append(statistics.median(row["tokens_per_second"] for row in rows))
            shares.append(rates[-1] * flops / max(products[-1], matrix_product_flops()))
            waits.append(sum(row["data_seconds"] for row in rows) / sum(row["step_seconds"] for row in rows))
            print(f"round {number}: ours {rates[-1]:,.0f}, Trainer {peers[-1]:,.0f} tokens/s, share {shares[-1]:.3f}")
    ratios = [ours / other for ours, other in zip(rates, peers, strict=True)]
    middle = statistics.median
    harness.write("train.cpu_vs_hf_trainer", middle(ratios), middle(rates), middle(peers), ratios, unit="tokens/s")
    harness.write(
        "train.cpu_flops_share", middle(shares), middle(rates) * flops, middle(products), shares, unit="FLOP/s"
    )
    harness.write("train.data_wait", middle(waits), middle(waits), None, waits, unit="share of step time")


if __name__ == "__main__":
    main()
