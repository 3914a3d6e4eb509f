"""All kernels on one text: ten megabytes in a line, and bytes that are no UTF-8."""

import numpy as np
import pyarrow as pa
import pytest

from data_engine import signals, sketch
from data_engine.kernels import c4, lines, repetition, words
from data_engine.minhash import DedupConfig
from data_engine.policies import Policies
from tests.data_engine import test_kernels_c4, test_kernels_lines, test_kernels_repetition, test_kernels_words
from tests.data_engine.test_kernels_shingles import reference as reference_shingles

BLOCK = "The harbour wakes — 港は早い — before the town does, café 😀 and all. שלום עולם. # It is … cold! "


def test_a_line_of_ten_megabytes_is_measured_as_the_slow_references_say():
    """The line is one block again and again, so that the references need read little of it."""
    times = 10_000_000 // len(BLOCK.encode())
    text = BLOCK * times
    found = {name: values[0] for name, values in signals.measure(pa.array([text]), ["en"], Policies()).items()}

    block = dict(zip(words.COLUMNS, test_kernels_words.reference_statistics(BLOCK), strict=True))
    for name in ("characters", "words", "tokens"):
        block[name] *= times
    some = dict(zip(repetition.COLUMNS, test_kernels_repetition.reference(BLOCK * 3, block["unspaced"]), strict=True))
    line = dict(zip(lines.COLUMNS, test_kernels_lines.reference(text), strict=True))
    kept = dict(zip(c4.COLUMNS, test_kernels_c4.reference(BLOCK), strict=True))
    kept["c4_sentences"] *= times
    for name, expected in (block | some | line | kept).items():
        assert found[name] == pytest.approx(expected), name


@pytest.mark.parametrize("at", range(0, 30, 3))
def test_what_lies_behind_a_text_that_is_no_utf8_is_not_read(at):
    """A damaged byte may ask for more bytes than the document has; those of the next one must not matter."""
    good = "aé字😀 ünï. ¿Qué? 漢\n# … ok".encode()
    broken = good[:at] + b"\xf0" + good[at + 1 :] + b"\xe5\xad"  # ends inside a character
    outcomes = []
    for behind in (b"\x97 more", b"\xff\xff\xff\xff", b"    "):
        offsets = np.array([0, len(broken)], np.int64)
        text = pa.Array.from_buffers(pa.large_string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(broken + behind)])
        measured = signals.measure(text, ["en"], Policies())
        table, signatures = sketch.sketch([b"x" * 16], [""], text, DedupConfig(), 0)
        outcomes.append([repr(measured), table.tobytes(), signatures.tobytes()])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert 0 < measured["characters"][0] <= len(broken)


def test_a_long_line_has_the_shingles_of_its_words():
    text = BLOCK * 5000
    table, _ = sketch.sketch([b"x" * 16], [""], pa.array([text], pa.large_string()), DedupConfig(), 0)
    assert table["shingles"][0] == len(reference_shingles(BLOCK * 3, DedupConfig().shingle))


def test_the_datatrove_flavour_leaves_no_signal_out():
    text = "We use cookies on this site.\n\nA line that is kept, and whole.\nNo stop at the end\n"
    found = signals.measure(pa.array([text]), ["en"], Policies.model_validate({"flavour": "datatrove"}))
    assert all(np.isfinite(values[0]) for values in found.values())
    expected = {"lines": 3, "newlines": 4, "c4_kept_lines": 1 / 3, "c4_policy_lines": 1 / 3, "c4_sentences": 1}
    assert {name: found[name][0] for name in expected} == pytest.approx(expected)
    assert found["quality"][0] == found["alphabetic_words"][0]
