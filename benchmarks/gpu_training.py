"""One GPU under plain torchrun, without Ray: MFU of pretraining 1 B parameters, tokens/s of 8 B LoRA fine-tuning.

    torchrun --standalone --nproc-per-node 1 benchmarks/gpu_training.py            # both, under 8 minutes
    torchrun --standalone --nproc-per-node 1 benchmarks/gpu_training.py --rehearse # tiny models, on any machine

BF16, rows of 4,096 tokens packed with documents of random length that do not see each other. Weights are fresh and
tokens random: neither changes what a step costs. MFU counts attention non-causally over whole rows, as torchtitan does,
against the data sheet's 989 TFLOP/s; the figure with causal attention stands beside it. No result is written on another
GPU than an H100 or H200, nor in a rehearsal.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(harness.HERE.parent))

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from training import lora, metrics
from training.batch import Batch, Segment, collate
from training.lora import LoraSettings
from training.model import ModelConfig, count_parameters, flops_per_token
from training.objectives import NextToken
from training.presets import PRESETS
from training.trainer import TrainConfig, Trainer
from training.world import World

LENGTH, VOCABULARY = 4096, 128_256
WARM, COUNTED = 5, 15
MEAN_DOCUMENT = 800


class RandomDocuments:
    """Packed rows of random tokens, the same for the same number of samples consumed."""

    def __init__(self, length: int, vocabulary: int, micro_batch: int) -> None:
        self.length, self.vocabulary, self.micro_batch = length, vocabulary, micro_batch

    def micro_batches(self, consumed: int, count: int, rank: int, size: int) -> Iterator[tuple[int, Batch]]:
        for number in range(rank, -(-count // self.micro_batch), size):
            rng = np.random.default_rng([consumed, number])
            yield number, collate([self.row(rng) for _ in range(self.micro_batch)], 0)

    def row(self, rng: np.random.Generator) -> list[Segment]:
        """Documents of exponential length that fill one row."""
        segments, left = [], self.length
        while left:
            length = min(left, 2 + int(rng.exponential(MEAN_DOCUMENT)))
            ids = rng.integers(0, self.vocabulary, length + 1)
            segments.append(Segment.from_ids(ids, np.ones(length + 1, bool)))
            left -= length
        return segments


def fresh(shape: ModelConfig, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Any:
    with device:
        return AutoModelForCausalLM.from_config(shape.to_transformers(vocabulary), dtype=dtype)


def measure(name: str, model: Any, length: int, vocabulary: int, batch: int, micro: int, **settings: Any) -> dict:
    """Median tokens/s over the counted steps, and what a token costs."""
    world = World(dist.get_rank(), dist.get_world_size(), next(model.parameters()).device)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            output=folder,
            batch_size=batch,
            micro_batch=micro,
            checkpoint_every=10**9,
            logs=[],
            optimizer={"learning_rate": 1e-4},
            **settings,
        )
        samples = RandomDocuments(length, vocabulary, micro)
        trainer = Trainer(config, Path(folder), world, model, NextToken(), samples, length=length, steps=WARM + COUNTED)
        trainer.checkpoints.save = lambda *_, **__: None  # its time is another question
        trainer.run()
        rows = metrics.read(Path(folder))[WARM:]
    rates = [row["tokens_per_second"] for row in rows]
    everything, trained = count_parameters(model)
    print(f"{name}: {everything:,} parameters, {trained:,} trained, attention {trainer.attention[0]}", flush=True)
    print(f"{name}: {statistics.median(rates):,.0f} tokens/s, {rows[-1]['memory_gib']} GiB", flush=True)
    flops = flops_per_token(model, length)
    causal = flops_per_token(model, length // 2)
    return {"rate": statistics.median(rates), "rates": rates, "flops": flops, "causal": causal, "row": rows[-1]}


def pretraining(device: torch.device, rehearse: bool) -> dict:
    shape = ModelConfig(**(PRESETS["5m"] | {"max_length": 256} if rehearse else PRESETS["1b"]))
    length, vocabulary = (256, 4096) if rehearse else (LENGTH, VOCABULARY)
    batch, micro = (4, 2) if rehearse else (16, 4)
    model = fresh(shape, vocabulary, torch.float32, device)
    settings = {"activation_checkpointing": "selective", "compile": not rehearse}
    return measure("1 B pretraining", model, length, vocabulary, batch, micro, **settings)


def fine_tuning(device: torch.device, rehearse: bool) -> dict:
    shape = ModelConfig(**(PRESETS["5m"] | {"max_length": 256} if rehearse else PRESETS["8b"]))
    length, vocabulary = (256, 4096) if rehearse else (LENGTH, VOCABULARY)
    batch, micro = (4, 2) if rehearse else (8, 2)
    base = fresh(shape, vocabulary, torch.float32 if rehearse else torch.bfloat16, device)
    model = lora.attach(base, LoraSettings(rank=16), 0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    settings = {"activation_checkpointing": "selective", "compile": not rehearse}
    return measure("8 B LoRA", model, length, vocabulary, batch, micro, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny models, no result")
    parser.add_argument("--only", choices=["pretraining", "fine_tuning"])
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    counts = not arguments.rehearse and any(known in name for known in ("H100", "H200"))
    peak = metrics.peak_flops(device) or 989e12
    if arguments.only != "fine_tuning":
        found = pretraining(device, arguments.rehearse)
        mfu = found["rate"] * found["flops"] / peak
        causal = found["rate"] * found["causal"] / peak
        print(f"MFU {mfu:.3f} on {name} (attention causally: {causal:.3f})", flush=True)
        if counts:
            runs = [rate * found["flops"] / peak for rate in found["rates"]]
            more = {"unit": "tokens/s", "gpu": name, "mfu_causal": causal}
            harness.write("train.h200_pretrain_mfu", mfu, found["rate"], None, runs, **more)
    if arguments.only != "pretraining":
        found = fine_tuning(device, arguments.rehearse)
        if counts:
            more = {"unit": "tokens/s", "gpu": name}
            harness.write(
                "train.h200_lora_tokens_per_second", found["rate"], found["rate"], None, found["rates"], **more
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
