"""A seeded corpus of invented text with planted copies at known Jaccard similarity, as Parquet.

Half of the documents are alone; a fifth are pairs, the measure of recall; the rest are exact copies, clusters of five
and templates of a hundred. A document is (origin, version): each word is a hash of origin and position, so that any
document can be made anywhere without the others. A version replaces single words five places apart: each takes five
shingles of five words with it and brings five new ones, so that k replaced words of n leave a similarity of
(n - 4 - 5k) / (n - 4 + 5k).

    python benchmarks/planted.py FOLDER --documents 100000
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

WIDTH = 5
WORDS = (240, 720)
"""Least and most words of a document; 480 of 6.3 characters in the mean are 3 KB."""
VOCABULARY = 7_000
"""7,000^5 < 2^64: a run of five words is one exact integer."""
SIMILARITIES = (0.60, 0.65, 0.70, 0.74, 0.76, 0.78, 0.80, 0.85, 0.90, 0.95)
ROWS_PER_FILE = 50_000
ROWS_PER_GROUP = 5_000
_AT_ONCE = 5_000

PAIR, EXACT, FIVE, TEMPLATE, ALONE = "pair", "exact", "five", "template", "alone"
_SHARES = ((PAIR, 2, 0.20), (EXACT, 2, 0.10), (FIVE, 5, 0.10), (TEMPLATE, 100, 0.05))
"""Kind, documents in a cluster, share of all documents; the rest are alone."""


def mix(*parts: np.ndarray | int) -> np.ndarray:
    """Uniform uint64 from integers that broadcast together (splitmix64 over them)."""
    with np.errstate(over="ignore"):
        state = np.uint64(0x9E3779B97F4A7C15)
        for part in parts:
            state = (np.asarray(part).astype(np.uint64) ^ state) * np.uint64(0xBF58476D1CE4E5B9)
            state = state ^ (state >> np.uint64(27))
            state = state * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def uniform(*parts: np.ndarray | int) -> np.ndarray:
    """The same in [0, 1)."""
    return (mix(*parts) >> np.uint64(11)) * 2.0**-53


def vocabulary(seed: int) -> pa.Array:
    """Invented words of 3 to 9 letters."""
    rng = np.random.default_rng(seed)
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        words["".join(rng.choice(list("aeiklmnoprstuvdbg"), rng.integers(3, 10)))] = None
    return pa.array(list(words))


class Plan:
    """Which documents a corpus of a size and a seed has. Arrays (documents,): origin, version, kind, replaced words."""

    def __init__(self, documents: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kinds = np.full(documents, ALONE, "U8")
        origins = np.arange(documents)
        versions = np.zeros(documents, np.int64)
        start = 0
        for kind, size, share in _SHARES:
            count = int(documents * share) // size
            cluster = slice(start, start + count * size)
            kinds[cluster] = kind
            origins[cluster] = start + np.repeat(np.arange(count), size)
            versions[cluster] = 0 if kind == EXACT else np.tile(np.arange(size), count)
            start = cluster.stop
        place = rng.permutation(documents)
        self.documents = documents
        self.seed = seed
        self.kind, self.origin, self.version = kinds[place], origins[place], versions[place]
        self.words = WORDS[0] + (uniform(seed, 1, self.origin) * (WORDS[1] - WORDS[0])).astype(np.int64)
        targets = np.array(SIMILARITIES)[(mix(seed, 2, self.origin, self.version) % len(SIMILARITIES)).astype(int)]
        targets[self.kind == FIVE] = 0.93  # of two versions, each against the origin: 0.87
        targets[self.kind == TEMPLATE] = 0.90
        replaced = np.rint((self.words - 4) * (1 - targets) / (WIDTH * (1 + targets))).astype(np.int64)
        self.replaced = np.where(self.version > 0, replaced, 0)

    def word_ids(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Words of documents: (n, longest) numbers in the vocabulary, and (n,) how many of them count."""
        length = self.words[numbers]
        longest = int(length.max())
        origin, version = self.origin[numbers, None], self.version[numbers, None]
        at = np.arange(longest)[None]
        # frequent words are frequent: the inverse of u^3 is a long tail
        ids = (uniform(self.seed, 3, origin, at) ** 3 * VOCABULARY).astype(np.int64)
        slots = np.arange(longest // WIDTH)[None]
        rank = uniform(self.seed, 4, origin, version, slots)
        rank[slots * WIDTH + 2 >= length[:, None] - 2] = 2.0  # a replaced word has two neighbours on either side
        chosen = np.argsort(np.argsort(rank, axis=1), axis=1) < self.replaced[numbers, None]
        row, slot = np.nonzero(chosen)
        place = slot * WIDTH + 2
        shift = 1 + mix(self.seed, 5, origin[row, 0], version[row, 0], place) % np.uint64(VOCABULARY - 1)
        ids[row, place] = (ids[row, place] + shift.astype(np.int64)) % VOCABULARY
        return ids, length

    def tables(self) -> Iterator[pa.Table]:
        """The corpus in order, a row group at a time."""
        words = vocabulary(self.seed)
        for start in range(0, self.documents, _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, self.documents))
            ids, length = self.word_ids(numbers)
            flat = words.take(pa.array(ids[np.arange(ids.shape[1])[None] < length[:, None]]))
            lists = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(length)]), pa.int32()), flat)
            yield pa.table(
                {
                    "text": pc.binary_join(lists, " "),
                    "url": [f"https://planted.example/{number}" for number in numbers],
                    "number": numbers,
                }
            )

    def write(self, folder: Path) -> list[Path]:
        """Write the corpus as `ROWS_PER_FILE` documents a file."""
        folder.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        writer: pq.ParquetWriter | None = None
        for number, table in enumerate(self.tables()):
            if number % (ROWS_PER_FILE // _AT_ONCE) == 0:
                if writer is not None:
                    writer.close()
                files.append(folder / f"{len(files):05d}.parquet")
                writer = pq.ParquetWriter(files[-1], table.schema, compression="zstd")
            assert writer is not None
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        if writer is not None:
            writer.close()
        return files

    def sets(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The true shingle sets of documents, ascending: a run of five words as one integer, exact, no hash."""
        ids, length = self.word_ids(numbers)
        powers = np.uint64(VOCABULARY) ** np.arange(WIDTH, dtype=np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.uint64), WIDTH, axis=1) @ powers
        return [np.unique(row[: count - WIDTH + 1]) for row, count in zip(windows, length, strict=True)]


def true_similarities(plan: Plan, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of pairs of documents, (n,), from their words: no hash, no kernel of ours."""
    out = np.empty(one.size)
    for start in range(0, one.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        pairs = zip(plan.sets(one[part]), plan.sets(other[part]), strict=True)
        for number, (a, b) in enumerate(pairs, start):
            common = np.intersect1d(a, b, assume_unique=True).size
            out[number] = common / (a.size + b.size - common)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    files = Plan(arguments.documents, arguments.seed).write(arguments.folder)
    print(f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB in {arguments.folder}")
