"""The interval of a share: against SciPy and simulation."""

import numpy as np
import pytest
from scipy import stats

from core.statistics import proportion


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 10), (81, 263), (1, 1)])
def test_wilson_interval_equals_scipy(hits, n):
    found = proportion(np.repeat([1.0, 0.0], [hits, n - hits]))
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.value == hits / n
    assert found.standard_error == pytest.approx(np.sqrt(hits / n * (1 - hits / n) / n))


def test_copies_of_a_sample_do_not_make_a_score_surer():
    hits = np.asarray([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0] * 5)
    once = proportion(hits)
    tripled = proportion(np.repeat(hits, 3), np.repeat(np.arange(len(hits)), 3))
    assert tripled.value == once.value
    assert tripled.standard_error == pytest.approx(once.standard_error)
    assert (tripled.low, tripled.high) == pytest.approx((once.low, once.high))
    assert tripled.n == 3 * once.n


def test_groups_of_one_change_nothing():
    hits = np.asarray([1.0, 0.0, 1.0, 1.0, 0.0])
    assert proportion(hits, np.arange(5)).standard_error == pytest.approx(proportion(hits).standard_error)


def test_clustered_error_is_the_spread_over_repeated_experiments():
    generator = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(400):
        skill = generator.beta(1, 1, size=60)  # facts differ in difficulty, the pairs about one are alike
        hits = (generator.random((60, 4)) < skill[:, None]).astype(float).ravel()
        found = proportion(hits, np.repeat(np.arange(60), 4))
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)
