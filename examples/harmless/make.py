"""Preference pairs split by prompt, a tokenizer and a fresh model: `python examples/harmless/make.py FILE [FOLDER]`.

FILE: pairs of any shape that `raymill train dpo` reads, such as HH-RLHF's harmless-base.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core import checkpoint
from core.rows import read_rows
from core.storage import digest_bytes
from data_engine import byte_level_bpe
from training import export
from training.model import ModelConfig, initialize
from training.shapes import preference_rows

SHAPE = ModelConfig(hidden_size=128, layers=2, heads=4, intermediate_size=344, max_length=512)
VOCABULARY, HELD_OUT = 2048, 5
"""One prompt in five is held out."""


def text(answer: object) -> str:
    """An answer's words."""
    return answer if isinstance(answer, str) else " ".join(message["content"] for message in answer)  # type: ignore[attr-defined]


def main(source: str, folder: Path) -> None:
    """Pairs, the chosen answers as conversations, and a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs: dict[str, list[dict[str, object]]] = {"train": [], "heldout": []}
    for row in preference_rows(read_rows(source), source):
        asked = " ".join(message["content"] for message in row["prompt"])
        name = "heldout" if int(digest_bytes([asked.encode()]), 16) % HELD_OUT == 0 else "train"
        said = {side: text(row[side]).strip() for side in ("chosen", "rejected")}
        if all(said.values()):
            pairs[name].append({"prompt": row["prompt"], **said})
    for name, rows in pairs.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"pairs-{name}.parquet")
        chosen = [{"messages": [*row["prompt"], {"role": "assistant", "content": row["chosen"]}]} for row in rows]  # type: ignore[misc]
        pq.write_table(pa.Table.from_pylist(chosen), folder / f"chosen-{name}.parquet")
    texts = [str(row[side]) for row in pairs["train"] for side in ("chosen", "rejected")]
    byte_level_bpe.save(byte_level_bpe.train(texts, VOCABULARY), folder / "tokenizer")
    tokenizer = checkpoint.load_tokenizer(folder / "tokenizer")
    model = initialize(SHAPE.to_transformers(len(tokenizer), eos_token_id=tokenizer.eos_token_id), seed=0)
    export.save(model, tokenizer, folder, [tokenizer.eos_token_id])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "runs/harmless/inputs"))
