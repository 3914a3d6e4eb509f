"""The held-out split: the same documents always, as many as asked for, nested."""

import subprocess
import sys

from data_engine.split import TRAIN, VALIDATION, split_of

IDS = [f"{number:032x}" for number in range(20_000)]


def test_split_is_the_same_in_another_process():
    code = "from data_engine.split import split_of; print([split_of(f'{n:032x}', 0.3) for n in range(50)])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str([split_of(identifier, 0.3) for identifier in IDS[:50]])


def test_split_does_not_change_between_versions():
    """A change here would put documents that released models trained on into their test sets."""
    assert [number for number in range(200) if split_of(f"{number:032x}", 0.05) == VALIDATION] == [
        23,
        25,
        33,
        85,
        87,
        98,
        102,
        116,
        117,
        138,
        155,
        165,
        196,
    ]


def test_share_held_out_is_the_fraction():
    share = sum(split_of(identifier, 0.05) == VALIDATION for identifier in IDS) / len(IDS)
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / len(IDS)) ** 0.5


def test_smaller_fraction_holds_out_a_subset():
    small = {identifier for identifier in IDS if split_of(identifier, 0.02) == VALIDATION}
    large = {identifier for identifier in IDS if split_of(identifier, 0.05) == VALIDATION}
    assert small < large


def test_fractions_at_the_ends():
    assert all(split_of(identifier, 0.0) == TRAIN for identifier in IDS[:1000])
    assert all(split_of(identifier, 1.0) == VALIDATION for identifier in IDS[:1000])
