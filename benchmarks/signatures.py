"""MinHash signatures of real documents, shingling included: our speed beside datatrove's and rensa's.

112 permutations, shingles of 5 words; each run takes a third of the documents. datatrove: `get_shingles` and
`get_signature` of its first step, nothing written.
rensa has no shingling: words are `text.lower().split()`, joined by 5, and its quickest call for many documents
(`RMinHash.digest_matrix_from_token_sets`) takes them. datatrove's xxhash call passes a string, which xxhash 4 no longer
accepts: here it is encoded first.
"""

import harness

harness.one_thread()

import logging  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import xxhash  # noqa: E402
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature  # noqa: E402
from rensa import RMinHash  # noqa: E402

from data_engine import minhash  # noqa: E402
from data_engine.kernels import shingles  # noqa: E402
from data_engine.kernels.unicode import buffers, code_points  # noqa: E402
from data_engine.measure import BATCH  # noqa: E402

RUNS = 3
PERMUTATIONS, WIDTH, SEED = 112, 5, 1


def ours(texts: pa.Array) -> None:
    classes, lower = code_points()
    a, b = minhash.permutations(PERMUTATIONS, SEED)
    for start in range(0, len(texts), BATCH):
        utf8, offsets = buffers(texts.slice(start, BATCH))
        sets = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint64)
        ends = np.empty(offsets.size - 1, np.int64)
        shingles.shingle_hashes(utf8, offsets, classes, lower, WIDTH, sets, ends)
        shingles.minhash(sets, ends, a, b, np.empty((ends.size, PERMUTATIONS), np.uint32))


def datatrove(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder)
        step._hash_func = lambda shingle: xxhash.xxh64_intdigest(shingle.encode())
        for text in texts:
            found = step.get_shingles(text)
            if found.size:
                step.get_signature(found)


def rensa(texts: list[str]) -> None:
    for start in range(0, len(texts), BATCH):
        sets = []
        for text in texts[start : start + BATCH]:
            words = text.lower().split()
            sets.append([" ".join(words[at : at + WIDTH]) for at in range(max(len(words) - WIDTH + 1, 1))])
        RMinHash.digest_matrix_from_token_sets(sets, PERMUTATIONS, SEED)


def compare(claim: str, texts: list[str], peer: Callable[[list[str]], None], repeats: int) -> None:
    own, other = [], []
    for run in range(RUNS):
        part = texts[run::RUNS]
        column = pa.array(part, pa.large_string())
        own.append(len(part) / harness.cpu_seconds(lambda column=column: ours(column), 5))
        other.append(len(part) / harness.cpu_seconds(lambda part=part: peer(part), repeats))
    ratios = [one / two for one, two in zip(own, other, strict=True)]
    harness.write(
        claim,
        statistics.median(ratios),
        statistics.median(own),
        statistics.median(other),
        ratios,
        unit="documents per second of one core",
    )


if __name__ == "__main__":
    logging.disable()
    documents = pq.read_table(harness.test_data("docs/docs.parquet"))["text"].to_pylist()
    ours(pa.array(documents[:50], pa.large_string()))
    datatrove(documents[:20])
    compare("data.signature_vs_rensa", documents, rensa, 5)
    compare("data.signature_vs_datatrove", documents, datatrove, 1)
