"""Tables of sums and a fresh model of 0.12 M parameters: `python examples/grpo_arithmetic/make.py [FOLDER]`."""

import json
import random
import sys
from pathlib import Path

from core import checkpoint
from data_engine import byte_level_bpe
from training import export
from training.model import ModelConfig, initialize

SHAPE = ModelConfig(hidden_size=64, layers=2, heads=4, intermediate_size=176, max_length=64)
LARGEST, HELD_OUT, WARM = 20, 80, 120


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(folder: Path) -> None:
    """All sums of two numbers below 20, in one order; the held-out ones are in no other table."""
    pairs = [(a, b) for a in range(LARGEST) for b in range(LARGEST)]
    random.Random(0).shuffle(pairs)
    rows: list[dict[str, object]] = [{"question": f"{a}+{b}", "answer": str(a + b)} for a, b in pairs]
    write(folder / "heldout.jsonl", rows[:HELD_OUT])
    write(folder / "warm.jsonl", rows[-WARM:])
    write(folder / "prompts.jsonl", rows[HELD_OUT:])
    # No merges: each digit is a token.
    byte_level_bpe.save(byte_level_bpe.train(["0"], byte_level_bpe.SMALLEST_VOCABULARY), folder / "tokenizer")
    tokenizer = checkpoint.load_tokenizer(folder / "tokenizer")
    model = initialize(SHAPE.to_transformers(len(tokenizer), eos_token_id=tokenizer.eos_token_id), seed=0)
    export.save(model, tokenizer, folder, [tokenizer.eos_token_id])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/grpo_arithmetic/inputs"))
