"""Advantages against values worked out by hand, and against a plain sum over the definition."""

import numpy as np
import pytest

from training.advantages import generalized_advantages, group_advantages, whiten


def test_rewards_are_judged_within_their_group():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [3.0, 3.0, 3.0, 7.0]])
    plain, _ = group_advantages(rewards, "none")
    np.testing.assert_allclose(plain, [[0.5, -0.5, -0.5, 0.5], [-1, -1, -1, 3]])
    grouped, _ = group_advantages(rewards, "group")
    np.testing.assert_allclose(grouped[0], np.array([0.5, -0.5, -0.5, 0.5]) / (np.sqrt(1 / 3) + 1e-4))
    np.testing.assert_allclose(grouped[1], np.array([-1, -1, -1, 3]) / (2 + 1e-4))
    batch, _ = group_advantages(rewards, "batch")
    np.testing.assert_allclose(batch, plain / (rewards.std(ddof=1) + 1e-4))


def test_equal_rewards_teach_nothing_and_are_counted():
    advantages, equal = group_advantages(np.array([[0.1 + 0.2, 0.3], [1.0, 0.0]]))
    assert equal.tolist() == [True, False]
    assert advantages[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0])
def test_generalized_advantages_are_the_discounted_sum_of_their_errors(smoothing):
    rng = np.random.default_rng(0)
    rewards, values, discount = rng.normal(size=7), rng.normal(size=7), 0.9
    errors = rewards + discount * np.append(values[1:], 0) - values
    expected = [sum((discount * smoothing) ** k * errors[t + k] for k in range(7 - t)) for t in range(7)]
    advantages, returns = generalized_advantages(rewards, values, discount, smoothing)
    np.testing.assert_allclose(advantages, expected)
    np.testing.assert_allclose(returns, advantages + values)


def test_without_smoothing_or_discount_the_two_ends_of_the_estimate_are_known():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.25, 0.75])
    all_of_it, _ = generalized_advantages(rewards, values, 1.0, 1.0)
    np.testing.assert_allclose(all_of_it, 1 - values)  # what came, less what was expected
    one_step, _ = generalized_advantages(rewards, values, 1.0, 0.0)
    np.testing.assert_allclose(one_step, [-0.25, 0.5, 0.25])


def test_whitened_values_have_mean_zero_and_deviation_one():
    found = whiten(np.array([1.0, 2.0, 3.0, 10.0]))
    assert found.mean() == pytest.approx(0)
    assert found.std() == pytest.approx(1)
    assert whiten(np.ones(3)).tolist() == [0, 0, 0]
