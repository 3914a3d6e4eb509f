"""A text file to a token artifact with one token for each character: tokens of one's own need no `data tokenize`.

    python examples/shakespeare/prepare.py tinyshakespeare.txt runs/shakespeare/tokens

The first 90 % of the text is for training, the rest is held out, as in nanoGPT's character-level recipe.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from core.token_set import INDEX, INDEX_SCHEMA, TOKENIZER, TOKENS

END = "<|end|>"
PIECE = 8192
"""Characters of a training document; a run shuffles documents."""


def tokenizer_of(text: str) -> PreTrainedTokenizerFast:
    """One token for each character that occurs, and one that ends a document."""
    vocabulary = {character: number for number, character in enumerate([END, *sorted(set(text))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def main() -> None:
    """Write the artifact: `tokenizer/`, `tokens/0.bin`, `index.parquet`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    tokenizer = tokenizer_of(text)
    cut = len(text) * 9 // 10
    documents = [("train", text[at : min(at + PIECE, cut)]) for at in range(0, cut, PIECE)]
    documents.append(("validation", text[cut:]))
    vocabulary = tokenizer.get_vocab()
    rows, parts, offset = [], [], 0
    for number, (split, piece) in enumerate(documents):
        ids = [*(vocabulary[character] for character in piece), vocabulary[END]]
        row = {"id": f"{number:032x}", "shard": "0.bin", "offset": offset, "tokens": len(ids), "split": split}
        sizes = {"bytes": len(piece.encode()), "words": len(piece.split())}
        rows.append({**row, **sizes, "source": arguments.text.stem, "language": "en"})
        parts.append(np.array(ids, "<u2"))
        offset += len(ids)
    (arguments.output / TOKENS).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(arguments.output / TOKENIZER)
    np.concatenate(parts).tofile(arguments.output / TOKENS / "0.bin")
    schema = INDEX_SCHEMA.with_metadata({"dtype": "<u2", "separator": str(vocabulary[END])})
    pq.write_table(pa.Table.from_pylist(rows, schema), arguments.output / INDEX)
    print(f"{len(text):,} characters, {len(vocabulary) - 1} different ones: {arguments.output}")


if __name__ == "__main__":
    main()
