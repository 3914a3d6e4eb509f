"""Texts to token ids: what the tokenizer itself gives, only faster where its kind allows."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from tokenizers import Regex, Tokenizer, pre_tokenizers

from data_engine.kernels import pieces
from data_engine.kernels.unicode import buffers

_MOST_ENTRIES = 1 << 20
_MOST_ARENA_BYTES = 1 << 25
_SLICE_BYTES = 1 << 21
"""Text looked up at once, unless one document is longer: the table has room for as many new pieces as bytes."""


class Encoder(Protocol):
    """Encodes batches of texts."""

    def encode(self, texts: pa.Array, separator: int, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts end to end, `separator` after each, and how many each has, its separator among them."""
        ...


def load(tokenizer_file: str | Path) -> Encoder:
    """The encoder for a `tokenizer.json`.

    Control tokens spelled out in a text (`<|im_end|>` in a page about chat formats) are encoded as ordinary text:
    nothing on the web can end a document or forge a turn.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    description = json.loads(Path(tokenizer_file).read_text(encoding="utf-8"))
    return CachedPieces(tokenizer) if encodes_piecewise(description) else Plain(tokenizer)


def encodes_piecewise(description: dict[str, Any]) -> bool:
    """Whether a tokenizer cuts by GPT-2's pattern and encodes each piece by itself, the same way each time."""
    before, model = description.get("pre_tokenizer") or {}, description["model"]
    return (
        description.get("normalizer") is None
        and before.get("type") == "ByteLevel"
        and before.get("use_regex", True)
        and not before.get("add_prefix_space", True)
        and model.get("type") == "BPE"
        and not model.get("dropout")
        and all(token["special"] for token in description.get("added_tokens", []))
    )


class Plain:
    """The tokenizer as it is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, texts: pa.Array, separator: int, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
        """See Encoder."""
        encoded = self.tokenizer.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        parts = [np.asarray([*encoding.ids, separator], dtype) for encoding in encoded]
        lengths = np.asarray([len(part) for part in parts], np.int64)
        return np.concatenate([*parts, np.zeros(0, dtype)]), lengths


class CachedPieces:
    """Byte-level BPE: each piece goes through the tokenizer once, then comes from a table.

    Words repeat: of the pieces of 6,000 pages of documentation 3 % are new. The table compares the bytes of a piece,
    not a hash, so the ids are the tokenizer's own in every case; it is emptied when it has grown large.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.plain = Plain(tokenizer)
        self._clear()

    def _clear(self) -> None:
        self._entries = 0
        self._slots = np.full(1 << 12, -1, np.int32)
        self._starts = np.zeros(1, np.int64)
        self._arena = np.zeros(0, np.uint8)
        self._firsts = np.zeros(1, np.int64)
        self._ids = np.zeros(0, np.uint32)

    def encode(self, texts: pa.Array, separator: int, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
        """See Encoder."""
        utf8, offsets = buffers(texts)
        ids, lengths = [np.zeros(0, dtype)], [np.zeros(0, np.int64)]
        first = 0
        while first < len(texts):
            last = int(np.searchsorted(offsets, offsets[first] + _SLICE_BYTES, side="right")) - 1
            last = min(max(last, first + 1), len(texts))
            part = self._encode(utf8, offsets[first : last + 1], separator, dtype)
            ids.append(part[0])
            lengths.append(part[1])
            first = last
        return np.concatenate(ids), np.concatenate(lengths)

    def _encode(
        self, utf8: np.ndarray, offsets: np.ndarray, separator: int, dtype: np.dtype[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._entries > _MOST_ENTRIES or self._starts[self._entries] > _MOST_ARENA_BYTES:
            self._clear()
        size = int(offsets[-1] - offsets[0])
        self._make_room(size)
        found = np.empty(size, np.int32)
        ends = np.empty(offsets.size - 1, np.int64)
        known = self._entries
        self._entries = pieces.look_up(
            utf8, offsets, classes(), self._slots, self._starts, self._arena, known, found, ends
        )
        self._learn(known)
        found = found[: int(ends[-1])]
        each = np.diff(self._firsts)[found]
        upto = np.concatenate([[0], np.cumsum(each)])[np.concatenate([[0], ends])]
        lengths = np.diff(upto) + 1
        ids = np.empty(int(lengths.sum()), dtype)
        pieces.lay_out(found, ends, self._firsts, self._ids, separator, ids)
        return ids, lengths

    def _make_room(self, size: int) -> None:
        """Room for one new entry and one byte of it per byte of text."""
        used = int(self._starts[self._entries])
        self._starts = _grown(self._starts, self._entries + 1, self._entries + 1 + size)
        self._arena = _grown(self._arena, used, used + size)
        if 2 * (self._entries + size) > self._slots.size:
            slots = 1 << (2 * (self._entries + size)).bit_length()
            self._slots = np.full(slots, -1, np.int32)
            pieces.fill(self._slots, self._starts, self._arena, self._entries)

    def _learn(self, known: int) -> None:
        """Ask the tokenizer for the ids of the entries from `known` on."""
        if known == self._entries:
            return
        starts = pa.array(self._starts[known : self._entries + 1])
        spelled = pa.LargeStringArray.from_buffers(
            self._entries - known, starts.buffers()[1], pa.py_buffer(self._arena), offset=0
        )
        encoded = self.plain.tokenizer.encode_batch_fast(spelled.to_pylist(), add_special_tokens=False)
        ids = [encoding.ids for encoding in encoded]
        lengths = np.asarray([len(part) for part in ids], np.int64)
        fresh = np.fromiter((token for part in ids for token in part), np.uint32, int(lengths.sum()))
        self._firsts = np.concatenate([self._firsts, self._firsts[-1] + np.cumsum(lengths)])
        self._ids = np.concatenate([self._ids, fresh])


def _grown(array: np.ndarray, used: int, size: int) -> np.ndarray:
    if size <= array.size:
        return array
    larger = np.zeros(2 * size, array.dtype)
    larger[:used] = array[:used]
    return larger


LAST = 0x32400
"""Letters, numbers and white space lie below this code point, in the tables that `tokenizers` was built with."""


@cache
def classes() -> np.ndarray:
    """Class of each code point below LAST as the regular expressions of `tokenizers` see it: (LAST,) uint8.

    Asked from the library itself: its tables are of another version of Unicode than Python's. About 0.4 s.
    """
    found = np.zeros(LAST, np.uint8)
    for kind, pattern in ((pieces.LETTER, r"\p{L}"), (pieces.NUMBER, r"\p{N}"), (pieces.SPACE, r"\s")):
        keep = pre_tokenizers.Split(Regex(f"{pattern}+"), "removed", invert=True)
        for first in range(0, LAST, 1 << 11):  # the time of one call grows with the square of its length
            points = range(first, min(first + (1 << 11), LAST))
            text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
            for run, _ in keep.pre_tokenize_str(text) if text else []:
                found[[ord(character) for character in run]] = kind
    return found
