"""Intervals and tests: against SciPy, simulation and textbook values."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import mcnemar, paired_bootstrap, proportion, ratio


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


def test_ratio_weighs_documents_by_their_bytes():
    bits, size = np.asarray([10.0, 300.0]), np.asarray([10.0, 100.0])
    assert ratio(bits, size).value == pytest.approx(310 / 110)


def test_bootstrap_error_is_the_spread_over_repeated_experiments():
    generator = np.random.default_rng(1)
    values, errors = [], []
    for seed in range(150):
        size = generator.integers(10, 200, 80).astype(float)
        found = ratio(size * generator.normal(2.0, 0.4, 80), size, seed)
        values.append(found.value)
        errors.append(found.standard_error)
        assert found.low < found.value < found.high
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_mcnemar_is_the_binomial_tail():
    before = np.asarray([1.0] * 9 + [0.0] * 2 + [1.0] * 30)
    after = np.asarray([0.0] * 9 + [1.0] * 2 + [1.0] * 30)
    assert mcnemar(before, after) == pytest.approx(sum(stats.binom.pmf(k, 11, 0.5) for k in range(9, 12)))
    assert mcnemar(after, before) > 0.9
    assert mcnemar(before, before) == 1.0


def test_paired_tests_rarely_cry_wolf():
    """Two equally good models: below alpha no more often than alpha says."""
    generator = np.random.default_rng(2)
    bootstrap, exact = [], []
    for seed in range(300):
        skill = generator.random(80)
        before, after = ((generator.random(80) < skill).astype(float) for _ in range(2))
        bootstrap.append(paired_bootstrap(after, before, np.ones(80), np.arange(80), seed)[0])
        exact.append(mcnemar(before, after))
    assert np.mean(np.asarray(exact) < 0.05) <= 0.05
    assert np.mean(np.asarray(bootstrap) < 0.05) <= 0.09


def test_paired_bootstrap_sees_a_small_but_steady_difference():
    generator = np.random.default_rng(3)
    size = generator.integers(100, 1000, 60).astype(float)
    bits = size * generator.normal(2.0, 0.5, 60)
    worse = bits * 1.01
    p_value, error = paired_bootstrap(bits, worse, size, np.arange(60), 0)
    assert p_value < 0.001
    assert error < 0.01
    assert paired_bootstrap(worse, bits, size, np.arange(60), 0)[0] > 0.99
