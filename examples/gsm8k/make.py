"""Word problems of GSM8K's shape and a fresh model of 0.4 M parameters: `python examples/gsm8k/make.py [FOLDER]`."""

import json
import random
import sys
from pathlib import Path

from core import checkpoint
from data_engine import byte_level_bpe
from training import export
from training.model import ModelConfig, initialize

SHAPE = ModelConfig(hidden_size=96, layers=3, heads=4, intermediate_size=256, max_length=512)
VOCABULARY, HELD_OUT = 512, 300
NAMES = ("Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo")
THINGS = ("apples", "books", "cards", "coins", "pens", "shells", "stamps", "stones")
LARGEST = 10


def problem(rng: random.Random) -> dict[str, str]:
    """One question with its worked answer, the result after ####."""
    name, thing, a, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(1, LARGEST), rng.randint(1, LARGEST)
    if rng.random() < 0.5:
        question = f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?"
        sign, result = "+", a + b
    else:
        a, b = max(a, b), min(a, b)
        question = f"{name} has {a} {thing} and gives {b} away. How many {thing} does {name} have left?"
        sign, result = "-", a - b
    return {"question": question, "answer": f"{a} {sign} {b} = <<{a}{sign}{b}={result}>>{result}\n#### {result}"}


def main(folder: Path) -> None:
    """Every problem once; the held-out ones are in no other table."""
    rng = random.Random(0)
    found = {row["question"]: row for row in (problem(rng) for _ in range(20_000))}
    rows = list(found.values())
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("heldout", rows[:HELD_OUT]), ("train", rows[HELD_OUT:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    texts = [f"{row['question']}\n{row['answer']}" for row in rows[HELD_OUT : HELD_OUT + 2000]]
    byte_level_bpe.save(byte_level_bpe.train(texts, VOCABULARY), folder / "tokenizer")
    tokenizer = checkpoint.load_tokenizer(folder / "tokenizer")
    model = initialize(SHAPE.to_transformers(len(tokenizer), eos_token_id=tokenizer.eos_token_id), seed=0)
    export.save(model, tokenizer, folder, [tokenizer.eos_token_id])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gsm8k/inputs"))
