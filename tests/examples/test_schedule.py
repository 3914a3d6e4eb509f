"""The example that compares schedules: every run ends, and its page names the best rate of either shape."""

import sys

import pytest

from tests.conftest import ROOT
from tests.training import fixtures

sys.path.insert(0, str(ROOT / "examples" / "schedule"))
import compare


def test_the_page_holds_the_best_of_each_shape():
    ends = {
        (shape, rate): 2.0 - rate + 0.1 * (shape == "constant") for shape in compare.SHAPES for rate in compare.RATES
    }
    curves = {key: [(1, 5.0), (2, end)] for key, end in ends.items()}
    page = compare.report(curves, 2).render()
    assert page.count("<svg") == 2
    best = max(compare.RATES)
    assert f"constant, peak {best:g}" in page
    assert f"{2.1 - best:.3f}" in page and f"{2.0 - best:.3f}" in page


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(compare.SHAPES))
def test_a_run_gives_its_curve(tmp_path, shape):
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    fixtures.write_tokens(tokens)
    curve = compare.train((str(tokens), str(tmp_path / "runs"), shape, 0.004, 3))
    assert [step for step, _ in curve] == [1, 2, 3]
    assert all(0 < value < 20 for _, value in curve)
