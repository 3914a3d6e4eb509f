"""Fine-tuning on two cores: our tokens/s, padding left out, beside TRL's SFTTrainer on real instructions.

The same model (10 M parameters, FP32, all weights), the same conversations (codealpaca), batches of 32, examples of up
to 1,024 tokens. TRL has its defaults but for `bf16=False, use_cpu=True`: micro-batches of 8, gradient checkpointing,
padding to the longest example. Both learn the answers only. The runs take turns, each in a process of its own; the
first steps are not counted.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import torch
from datasets import Dataset
from training_setup import alone, model, train, write_tokenizer
from trl import SFTConfig, SFTTrainer

from training.chat import ChatEncoder
from training.examples import PackedExamples, conversations
from training.shapes import conversation_rows

LENGTH, BATCH, MICRO = 1024, 32, 8
ROUNDS, WARM, COUNTED = 3, 2, 6


class Timed(SFTTrainer):
    """TRL's trainer, with the real tokens and the seconds of each micro-batch."""

    def training_step(self, model: Any, inputs: dict, *args: Any, **kwargs: Any) -> Any:
        self.seen.append((time.perf_counter(), int(inputs["attention_mask"].sum())))
        return super().training_step(model, inputs, *args, **kwargs)


def theirs(directory: Path, tokenizer: Any, rows: list[dict]) -> float:
    """Tokens/s of TRL's SFTTrainer."""
    torch.set_num_threads(2)
    arguments = SFTConfig(
        output_dir=str(directory),
        max_steps=WARM + COUNTED,
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=BATCH // MICRO,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    table = Dataset.from_list([{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows])
    trainer = Timed(model(), arguments, train_dataset=table, processing_class=tokenizer)
    trainer.seen = []
    trainer.train()
    counted = trainer.seen[WARM * BATCH // MICRO :]
    return sum(tokens for _, tokens in counted[:-1]) / (counted[-1][0] - counted[0][0])


def ours(directory: Path, tokenizer: Any, file: Path) -> float:
    """Tokens/s of our trainer."""
    encoder = ChatEncoder(tokenizer)
    units = conversations(str(file), encoder, LENGTH, "skip").units
    samples = PackedExamples(units, 0, MICRO, LENGTH, encoder.padding)
    settings = {"batch_size": BATCH, "micro_batch": MICRO}
    rows = train(directory, model(), samples, LENGTH, WARM + COUNTED, **settings)
    seconds = sum(row["step_seconds"] for row in rows[WARM:])
    return (rows[-1]["tokens"] - rows[WARM - 1]["tokens"]) / seconds


def main() -> None:
    file = harness.test_data("instructions/codealpaca_2k.json")
    table = json.loads(file.read_text(encoding="utf-8"))
    rows = list(conversation_rows(table, str(file)))
    rates, peers = [], []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_tokenizer(Path(folder, "tokenizer"), [row["instruction"] + row["output"] for row in table])
        for number in range(ROUNDS):
            peers.append(alone(theirs, Path(folder, f"theirs-{number}"), tokenizer, rows))
            rates.append(alone(ours, Path(folder, f"ours-{number}"), tokenizer, file))
            print(f"round {number}: ours {rates[-1]:,.0f}, SFTTrainer {peers[-1]:,.0f} tokens/s")
    ratios = [own / other for own, other in zip(rates, peers, strict=True)]
    middle = statistics.median
    harness.write("train.sft_vs_trl", middle(ratios), middle(rates), middle(peers), ratios, unit="tokens/s")


if __name__ == "__main__":
    main()
