"""Intervals and tests: against SciPy, simulation and textbook values."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import mcnemar, paired_bootstrap, ratio


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
