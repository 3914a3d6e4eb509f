"""A quantised fastText model as tables that compiled loops read: what lid.176.ftz is."""

import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data_engine.kernels import fasttext
from data_engine.kernels.hashing import table_size

_MAGIC, _VERSION = 793712314, 12
_SUPERVISED, _TREE = 3, 1
_END_OF_LINE = b"</s>"
_CENTROIDS = 256


@dataclass(frozen=True)
class Tables:
    """The arguments of `kernels.fasttext`, and the labels of the leaves."""

    keys: np.ndarray
    word_rows: np.ndarray
    gram_rows: np.ndarray
    end_row: int
    least: int
    most: int
    vectors: np.ndarray
    units: np.ndarray
    left: np.ndarray
    right: np.ndarray
    labels: tuple[str, ...]

    def best(self, utf8: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of each document's best label, (n,) int32, -1 for none, and its score, (n,) float64."""
        documents = offsets.size - 1
        hidden = np.empty((documents, self.vectors.shape[1]), np.float32)
        words = self.keys, self.word_rows, self.gram_rows, self.end_row, self.least, self.most, self.vectors
        fasttext.mean_vectors(utf8, offsets, *words, hidden)
        leaves, scores = np.empty(documents, np.int32), np.empty(documents)
        fasttext.best_leaves(hidden, self.units, self.left, self.right, leaves, scores)
        return leaves, scores


@cache
def load(path: str) -> Tables | None:
    """The tables of a model's file, once in a process. None for a model of another kind, which fastText itself reads:
    one that is not quantised, has word n-grams or another loss than hierarchical softmax."""
    with Path(path).open("rb") as file:
        head = file.read(struct.calcsize("<14i"))
    if len(head) < struct.calcsize("<14i"):
        return None
    magic, version, _, _, _, _, _, word_n_grams, loss, kind, buckets, least, most, _ = struct.unpack("<14i", head)
    if (magic, version, word_n_grams, loss, kind) != (_MAGIC, _VERSION, 1, _TREE, _SUPERVISED) or most < 1:
        return None
    stream = _Stream(Path(path).read_bytes(), len(head))
    stream.take("d")
    entries, words, _, _, pruned = stream.take("3i2q")
    if pruned < 0:
        return None
    named = [(stream.word(), *stream.take("qb")) for _ in range(entries)]
    grams = stream.array("<i4", 2 * pruned).reshape(-1, 2)
    if not stream.take("?")[0]:
        return None
    vectors = _dequantised(stream)
    if stream.take("?")[0]:
        return None
    rows, dimensions = stream.take("2q")
    units = stream.array("<f4", rows * dimensions).reshape(rows, dimensions)
    gram_rows = np.full(buckets, -1, np.int32)
    gram_rows[grams[:, 0]] = words + grams[:, 1]
    known = [word for word, _, _ in named[:words]]
    keys, word_rows = _word_table(known)
    left, right = _huffman([count for _, count, _ in named[words:]])
    labels = tuple(word.decode() for word, _, _ in named[words:])
    end_row = known.index(_END_OF_LINE) if _END_OF_LINE in known else -1
    return Tables(keys, word_rows, gram_rows, end_row, least, most, vectors, units[: rows - 1], left, right, labels)


class _Stream:
    """Little-endian values one after another."""

    def __init__(self, content: bytes, at: int) -> None:
        self.content = content
        self.at = at

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def word(self) -> bytes:
        end = self.content.index(b"\0", self.at)
        word = self.content[self.at : end]
        self.at = end + 1
        return word

    def array(self, kind: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.content, kind, count, self.at)
        self.at += values.nbytes
        return values


def _dequantised(stream: _Stream) -> np.ndarray:
    """The matrix that product quantisation stands for, (rows, dimensions) float32 (Jegou et al. 2011)."""
    with_norms, rows, _, size = stream.take("?2qi")
    codes = stream.array("u1", size).reshape(rows, -1)
    vectors = _decoded(stream, codes)
    if with_norms:
        vectors *= _decoded(stream, stream.array("u1", rows).reshape(rows, 1))
    return vectors


def _decoded(stream: _Stream, codes: np.ndarray) -> np.ndarray:
    dimensions, parts, width, last = stream.take("4i")
    centroids = stream.array("<f4", dimensions * _CENTROIDS)
    out = np.empty((len(codes), dimensions), np.float32)
    for part in range(parts):
        size = last if part == parts - 1 else width
        begin = part * width
        table = centroids[begin * _CENTROIDS : (begin + size) * _CENTROIDS].reshape(_CENTROIDS, size)
        out[:, begin : begin + size] = table[codes[:, part]]
    return out


def _word_table(words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Keys and rows of an open-addressing table of words; row i is word i."""
    keys = np.zeros(2 * table_size(len(words)), np.uint64)
    rows = np.full(keys.size, -1, np.int32)
    for row, word in enumerate(words):
        slot, key = fasttext.word_slot(keys, np.frombuffer(word, np.uint8), 0, len(word))
        keys[slot], rows[slot] = key, row
    return keys, rows


def _huffman(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Children of each node: the leaves in the order of falling counts, then inner nodes as fastText joins them."""
    leaves = len(counts)
    total = np.full(2 * leaves - 1, 10**15, np.int64)
    total[:leaves] = counts
    left, right = np.full(total.size, -1, np.int32), np.full(total.size, -1, np.int32)
    leaf, inner = leaves - 1, leaves
    for node in range(leaves, total.size):
        least = []
        for _ in range(2):
            if leaf >= 0 and total[leaf] < total[inner]:
                least.append(leaf)
                leaf -= 1
            else:
                least.append(inner)
                inner += 1
        left[node], right[node] = least
        total[node] = total[least].sum()
    return left, right
