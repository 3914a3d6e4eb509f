"""Bands: the published curve, and datasketch's choice."""

import pytest

from core.config import parse
from core.errors import UserError
from data_engine.minhash import DedupConfig, collision_probability, optimal_bands


# P(s) = 1 - (1 - s^r)^b, recomputed to four digits for the shapes in use
@pytest.mark.parametrize(
    ("bands", "rows", "expected"),
    [
        (14, 8, {0.5: 0.0533, 0.7: 0.5645, 0.75: 0.7716, 0.8: 0.9235, 0.9: 0.9996}),
        (450, 20, {0.7: 0.3018, 0.75: 0.7605, 0.8: 0.9946}),
        (25, 10, {0.7: 0.5115, 0.75: 0.7652, 0.85: 0.9958}),
        (9, 13, {0.75: 0.1946, 0.9: 0.9286}),
    ],
)
def test_collision_curve(bands, rows, expected):
    for similarity, probability in expected.items():
        assert collision_probability(similarity, bands, rows) == pytest.approx(probability, abs=6e-5)


def test_optimal_bands_are_the_published_ones():
    assert optimal_bands(0.7, 256) == (25, 10)
    assert DedupConfig(bands="optimal", threshold=0.7, permutations=256).shape() == (25, 10)
    assert DedupConfig().shape() == (14, 8)


def test_bands_that_need_more_permutations_are_refused():
    with pytest.raises(UserError, match=r"bands x rows is 128, more than the 112 permutations"):
        parse(DedupConfig, {"bands": 16}, "x.yaml")
