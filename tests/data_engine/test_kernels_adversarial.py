"""Every compiled kernel against its slow reference on the same hard texts, broken UTF-8 and a line of 10 MB among them.

The long lines are one block again and again. At 100 kB the references read the same line; at 10 MB, where some of
them would take minutes, what the kernel counts must be what it counts in one block, times the blocks.
"""

import codecs
import re
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import regex

from data_engine import datatrove_flavour, encoder, english, languages
from data_engine import words as word_counts
from data_engine.kernels import (
    c4,
    fasttext,
    hashing,
    lines,
    ngrams,
    pieces,
    repetition,
    segments,
    shingles,
    vocabulary,
    winnow,
    word_count,
    words,
)
from data_engine.kernels import english as english_kernel
from data_engine.kernels.unicode import code_points
from data_engine.policies import Policies
from tests.data_engine import (
    test_kernels_c4,
    test_kernels_lines,
    test_kernels_repetition,
    test_kernels_shingles,
    test_kernels_words,
    test_repeated_lines,
    test_words,
)
from tests.data_engine.test_kernels_words import reference_tokens

BLOCK = "The harbour wakes — 港は早い — before the town does, café 😀 and all. שלום עולם. # It's … cold! "
BLOCK_BYTES = BLOCK.encode()
LINE, LONG_LINE = 100_000, 10_000_000

HARD = {
    "empty": b"",
    "blank": " \n\u3000".encode(),
    "one word": b"word",
    "no spaces": b"nospaces" * 300,
    "one letter": b"x" * 20_000,
    "dots": b"." * 2000,
    "at signs": b"a." + b"@" * 2000 + b"b",
    "marks": b'.,"' * 700,
    "newlines": b"\n" * 3000,
    "paragraphs": b"Same line here.\n\n" * 40 + b"Another one, there!\n",
    "citations": b"[1] It [edit] is [citation needed] so. [" * 30,
    "phrases": b"We use cookies.\nUSE OF COOKIES\nlorem ipsum dolor sit.\nPrivacy Policy applies { here.\nuse cookie",
    "astral": "emoji 😀😀 𝒳𝒴 🇩🇪 end. 😀".encode() * 20,
    "combining": ("e" + "\u0301" * 300 + " \u0300 alone").encode(),
    "right to left": "עברית מימין לשמאל. עוד משפט. العربية من اليمين؟ نعم. ".encode() * 20,
    "cjk": "这是一个句子。这是另一个句子！混合 English 文字。これは文です。".encode() * 20,
    "thai": "ภาษาไทยไม่มีช่องว่าง ".encode() * 20,
    "separators": "a\u2028b.\x85c d e.\x1cf\r\ng\rh\v".encode() * 20,
    "cut character": "Ends inside a character 字".encode()[:-1],
    "stray bytes": b"\x80\xbf stray \xff\xfe and \xf5 bytes, \xe5\xad then more. " * 20,
    "latin": "caf\xe9 na\xefve se\xf1or. ".encode("latin-1") * 20,
}


def _one_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd", error.start + 1


codecs.register_error("one byte", _one_byte)


def text_of(utf8: bytes) -> str:
    """What the kernels read: U+FFFD for each byte that starts no complete sequence."""
    return utf8.decode("utf-8", "one byte")


class Case(NamedTuple):
    """What a kernel gives for a text, and what its reference gives. totals: the parts of the former that grow with the
    number of blocks; None where `measure` gives shares, a set, or no count of its own."""

    measure: Callable[[np.ndarray, np.ndarray], Any]
    reference: Callable[[str], Any]
    totals: Callable[[Any], Any] | None


CLASSES, LOWER = code_points()


def same(values: Any) -> list[int]:
    """Numbers in the order in which values first occur: equal where the values are."""
    seen: dict[Any, int] = {}
    return [seen.setdefault(value, len(seen)) for value in values]


def rows(kernel: Any, columns: int, *arguments: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    def measure(utf8: np.ndarray, offsets: np.ndarray) -> Any:
        out = np.empty((1, columns))
        kernel(utf8, offsets, CLASSES, *arguments, out)
        return out[0]

    return measure


def split_words(utf8: np.ndarray, offsets: np.ndarray) -> Any:
    hashes, lengths = np.empty(utf8.size + 1, np.uint64), np.empty(utf8.size + 1, np.int32)
    count = words.split_words(utf8, 0, offsets[1], CLASSES, hashes, lengths)
    return same(hashes[:count].tolist()), lengths[:count].tolist()


def reference_words(text: str) -> Any:
    found = [word for word, _, _ in test_kernels_words.pieces(text)]
    return same(found), [len(word) for word in found]


def split_tokens(utf8: np.ndarray, offsets: np.ndarray) -> list[int]:
    hashes = np.empty(utf8.size + 1, np.uint64)
    return same(hashes[: words.split_tokens(utf8, 0, offsets[1], CLASSES, LOWER, hashes)].tolist())


def measure_repetition(utf8: np.ndarray, offsets: np.ndarray) -> Any:
    share = rows(words.word_statistics, len(words.COLUMNS))(utf8, offsets)[words.COLUMNS.index("unspaced")]
    return rows(repetition.repetition, len(repetition.COLUMNS), np.array([share]))(utf8, offsets)


def reference_repetition(text: str) -> Any:
    share = test_kernels_words.reference_statistics(text)[words.COLUMNS.index("unspaced")]
    return test_kernels_repetition.reference(text, share)


def count_shingles(utf8: np.ndarray, offsets: np.ndarray) -> int:
    out, ends = np.empty(utf8.size + 1, np.uint64), np.empty(1, np.int64)
    shingles.shingle_hashes(utf8, offsets, CLASSES, LOWER, 3, out, ends)
    return int(ends[0])


def measure_ngrams(utf8: np.ndarray, offsets: np.ndarray) -> Any:
    """Windows of four tokens, equal or not, and the bytes of all tokens."""
    hashes, windows = np.empty(utf8.size + 1, np.uint64), np.empty(utf8.size + 1, np.uint64)
    begins, ends = np.empty(utf8.size + 1, np.int64), np.empty(utf8.size + 1, np.int64)
    count = ngrams.locate_tokens(utf8, 0, offsets[1], CLASSES, LOWER, hashes, begins, ends)
    rolled = ngrams.roll(hashes, count, 4, ngrams.BASE, windows)
    whole = utf8.tobytes()
    bounds = zip(begins[:count].tolist(), ends[:count].tolist(), strict=True)
    return same(windows[:rolled].tolist()), [token for begin, end in bounds for token in tokens_in(whole[begin:end])]


@cache
def tokens_in(utf8: bytes) -> list[str]:
    return reference_tokens(text_of(utf8))


def reference_ngrams(text: str) -> Any:
    tokens = reference_tokens(text)
    return same(tuple(tokens[at : at + 4]) for at in range(len(tokens) - 3)), tokens


def segment_words(kind: str) -> Case:
    code = {"line": segments.LINE, "paragraph": segments.PARAGRAPH, "sentence": segments.SENTENCE}[kind]

    def measure(utf8: np.ndarray, offsets: np.ndarray) -> list[str]:
        begins, ends = np.empty(utf8.size + 1, np.int64), np.empty(utf8.size + 1, np.int64)
        count = segments.split_segments(utf8, 0, offsets[1], CLASSES, code, begins, ends)
        return [text_of(bytes(utf8[begins[at] : ends[at]])) for at in range(count)]

    return Case(measure, test_repeated_lines.REFERENCES[kind], len if kind == "sentence" else None)


def segment_keys(utf8: np.ndarray, offsets: np.ndarray) -> list[int]:
    keys = np.empty((utf8.size + 1, 2), np.uint64)
    begins, ends = np.empty(utf8.size + 1, np.int64), np.empty(utf8.size + 1, np.int64)
    arguments = CLASSES, LOWER, segments.SENTENCE, 2, 1, keys, begins, ends
    return same(map(tuple, keys[: segments.segment_keys(utf8, 0, offsets[1], *arguments)].tolist()))


def reference_keys(text: str) -> list[int]:
    parts = [reference_tokens(part) for part in test_repeated_lines.reference_sentences(text)]
    runs = [tuple(one + other) for one, other in pairwise(parts)]
    return same(run for run in runs if run)


def measure_winnow(utf8: np.ndarray, offsets: np.ndarray) -> list[int]:
    """Of the bytes themselves, so that many are equal."""
    places = np.empty(utf8.size, np.int64)
    count = int(offsets[1])
    return places[: winnow.winnow(utf8.astype(np.uint64), count, 5, places)].tolist()


def reference_winnow(text: str) -> list[int]:
    values = text.encode("latin-1")
    chosen: list[int] = []
    for at in range(len(values) - 4):
        least = max(range(at, at + 5), key=lambda place: (-values[place], place))
        if chosen[-1:] != [least]:
            chosen.append(least)
    return chosen


def measure_vocabulary(utf8: np.ndarray, offsets: np.ndarray) -> Any:
    lists = languages.stop_words()
    counted = np.empty((1, 1)), np.empty((1, 1))
    arguments = lists.rows(["en"])[:, None].copy(), lists.keys, lists.starts, lists.seen
    vocabulary.count_matches(utf8, offsets, CLASSES, LOWER, *arguments, *counted)
    return [int(array[0, 0]) for array in counted]


def reference_vocabulary(text: str) -> list[int]:
    lists = languages.stop_words()
    row = lists.rows(["en"])[0]
    known = set(lists.keys[lists.starts[row] : lists.starts[row + 1]].tolist())
    found = [token for token in reference_tokens(text) if int(vocabulary.hash_word(token)) in known]
    return [len(found), len(set(found))]


def measure_word_count(utf8: np.ndarray, offsets: np.ndarray) -> int:
    out = np.empty(1, np.int64)
    word_count.count_words(utf8, offsets, word_counts._classes(), out)
    return int(out[0])


GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def measure_pieces(utf8: np.ndarray, offsets: np.ndarray) -> list[int]:
    room = utf8.size + 2
    slots, starts = np.full(hashing.table_size(room), -1, np.int32), np.zeros(room, np.int64)
    found, ends = np.empty(room, np.int32), np.empty(1, np.int64)
    arena = np.empty(room, np.uint8)
    pieces.look_up(utf8, offsets, encoder.classes(), slots, starts, arena, 0, found, ends)
    return found[: ends[0]].tolist()


TABLE = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
GRAMS = np.random.default_rng(1).integers(-1, 40, 1000).astype(np.int32)


def measure_fasttext(utf8: np.ndarray, offsets: np.ndarray) -> Any:
    out = np.empty((1, 8), np.float32)
    known = np.zeros(64, np.uint64), np.zeros(64, np.int32)
    fasttext.mean_vectors(utf8, offsets, *known, GRAMS, 0, 2, 4, TABLE, out)
    return out[0]


def reference_fasttext(text: str) -> Any:
    """Rows of all n-grams of two to four characters, and of the end of the line. A character is what begins with a
    byte that continues none."""
    total, parts = np.zeros(8, np.float32), 1
    for word in re.split(rb"[ \n\r\t\v\f\0]+", text.encode("latin-1")):
        if not word:
            continue
        bounded = b"<" + word + b">"
        begins = [at for at, byte in enumerate(bounded) if byte & 0xC0 != 0x80] + [len(bounded)]
        for first in range(len(begins) - 1):
            for size in (2, 3, 4):
                if first + size < len(begins):
                    row = GRAMS[_fnv(bounded[begins[first] : begins[first + size]]) % 1000]
                    if row >= 0:
                        total, parts = total + TABLE[row], parts + 1
    return (total + TABLE[0]) * np.float32(1 / parts)


def _fnv(gram: bytes) -> int:
    state = 2166136261
    for byte in gram:
        state = ((state ^ (byte | (0xFFFFFF00 if byte > 127 else 0))) * 16777619) & 0xFFFFFFFF
    return state


DECODED = {"winnow": ("latin-1", "strict"), "fasttext": ("latin-1", "strict"), "pieces": ("utf-8", "surrogateescape")}
"""How references read bytes that have to stay apart."""
PHRASES = c4.PHRASE_BYTES, c4.PHRASE_STARTS, c4.PHRASE_KINDS, c4.PHRASE_FIRST
WORD_TOTALS = [words.COLUMNS.index(name) for name in ("characters", "words", "tokens")]

CASES = {
    "word_statistics": Case(
        rows(words.word_statistics, len(words.COLUMNS)),
        test_kernels_words.reference_statistics,
        lambda found: np.asarray(found)[WORD_TOTALS],
    ),
    "split_words": Case(split_words, reference_words, lambda found: len(found[0])),
    "split_tokens": Case(split_tokens, lambda text: same(reference_tokens(text)), len),
    "repetition": Case(measure_repetition, reference_repetition, None),
    "lines": Case(
        rows(lines.line_statistics, len(lines.COLUMNS), test_kernels_lines.SHORT), test_kernels_lines.reference, None
    ),
    "c4": Case(
        rows(c4.c4_statistics, len(c4.COLUMNS), 3, 1000, True, *PHRASES),
        test_kernels_c4.reference,
        lambda found: found[0],
    ),
    "shingles": Case(count_shingles, lambda text: len(test_kernels_shingles.reference(text)), None),
    "ngrams": Case(measure_ngrams, reference_ngrams, lambda found: len(found[1])),
    "line segments": segment_words("line"),
    "paragraph segments": segment_words("paragraph"),
    "sentence segments": segment_words("sentence"),
    "segment keys": Case(segment_keys, reference_keys, lambda found: len(found) + 1),
    "winnow": Case(measure_winnow, reference_winnow, None),
    "vocabulary": Case(measure_vocabulary, reference_vocabulary, lambda found: found[0]),
    "word_count": Case(measure_word_count, test_words.reference, lambda found: found),
    "pieces": Case(measure_pieces, lambda text: same(GPT2.findall(text)), None),
    "fasttext": Case(measure_fasttext, reference_fasttext, None),
}


def read(name: str, utf8: bytes) -> Any:
    """What the reference gives."""
    return CASES[name].reference(utf8.decode(*DECODED.get(name, ("utf-8", "one byte"))))


def measured(case: Case, utf8: bytes) -> Any:
    """What the kernel gives for a text that other bytes follow, which are none of its own."""
    return case.measure(np.frombuffer(utf8 + b"\x97\xbf", np.uint8), np.array([0, len(utf8)], np.int64))


def check(name: str, utf8: bytes) -> None:
    found, expected = measured(CASES[name], utf8), read(name, utf8)
    if isinstance(found, np.ndarray):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_equals_its_slow_reference_on_hard_text(name, text):
    check(name, HARD[text])


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_equals_its_slow_reference_on_a_line_of_100_kilobytes(name):
    check(name, BLOCK_BYTES * (LINE // len(BLOCK_BYTES)))


def flavoured(utf8: np.ndarray, offsets: np.ndarray) -> Any:
    found = datatrove_flavour.measure(utf8, offsets, FLAVOUR)
    return np.array([found["words"][0], found["c4_sentences"][0]])


def english_words(utf8: np.ndarray, offsets: np.ndarray) -> int:
    rules = english.rules()
    points, kinds = np.empty(utf8.size, np.int32), np.empty(utf8.size, np.uint32)
    starts, ends = np.empty(utf8.size, np.int64), np.empty(utf8.size, np.int64)
    size = english_kernel.code_points_of(utf8, 0, offsets[1], rules.classes, points, kinds)
    return int(english_kernel.words_of(points, kinds, 0, size, rules, starts, ends))


# the references of these two are spaCy and datatrove: tests/oracles
FLAVOUR = Policies.model_validate({"flavour": "datatrove"})
COUNTED = {name: case for name, case in CASES.items() if case.totals} | {
    "datatrove": Case(flavoured, lambda text: None, np.asarray),
    "english": Case(english_words, lambda text: None, lambda found: found),
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_line_of_ten_megabytes_has_the_words_of_its_blocks(name):
    times = LONG_LINE // len(BLOCK_BYTES)
    case = COUNTED[name]
    assert case.totals is not None
    one, two, all_of_them = (np.asarray(case.totals(measured(case, BLOCK_BYTES * n))) for n in (2, 3, times))
    np.testing.assert_allclose(all_of_them, one + (two - one) * (times - 2))


UNCOUNTED = [name for name in CASES if name not in COUNTED]


@pytest.mark.parametrize("name", UNCOUNTED)
def test_a_line_of_ten_megabytes_ends(name):
    measured(CASES[name], BLOCK_BYTES * (LONG_LINE // len(BLOCK_BYTES)))


UNITS = {
    "letters": "x", "dots": ".", "at signs": "@", "hosts": "@b.", "users": "a@b.", "ports": "@a:12", "numbers": "[1",
    "marks": ".,", "hyphens": "a-", "quotes": "'", "brackets": "(", "newlines": "\n", "line breaks": "\r\n",
    "spaces": " ", "schemes": "a://", "words": "ab ", "phrases": "use ", "paragraphs": "a\n\n", "accents": "\u0301",
    "han": "字", "astral": "😀", "dashes": "—", "cut bytes": "\udcf0",
}  # fmt: skip


@pytest.mark.parametrize("name", [*CASES, "datatrove"])
def test_four_times_the_text_takes_four_times_as_long(name):
    """A loop that begins anew at each character would take sixteen times as long."""
    case = CASES.get(name) or COUNTED[name]
    slow = {}
    for unit, text in UNITS.items():
        utf8 = b"a." + (text.encode("utf-8", "surrogateescape") * SMALL)[:SMALL]
        small, large = (min(seconds(case, utf8, n) for _ in range(2)) for n in (1, 4))
        if large > 8 * small + 0.01:
            slow[unit] = small, large
    assert slow == {}


SMALL = 20_000


def seconds(case: Case, utf8: bytes, times: int) -> float:
    began = time.process_time()
    measured(case, utf8[:2] + utf8[2:] * times + b"b")
    return time.process_time() - began
