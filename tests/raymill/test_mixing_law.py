"""The law of data mixing: recovers what it was made from, says when it would extrapolate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill import mixing_law


def mixtures(sources, number, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(sources), number)


@pytest.mark.parametrize("sources", [2, 3, 5])
def test_law_recovers_the_losses_it_was_made_from(sources):
    rng = np.random.default_rng(1)
    tried, untried = mixtures(sources, sources + 6), mixtures(sources, 20, seed=2)
    truth = mixing_law.MixingLaw(floor=0.9, slopes=rng.normal(0, 0.7, sources))
    law = mixing_law.fit(tried, truth.predict(tried))
    assert law.floor == pytest.approx(0.9, abs=0.02)
    assert law.predict(untried) == pytest.approx(truth.predict(untried), abs=1e-2)
    assert np.abs(mixing_law.leave_one_out(tried, truth.predict(tried)) - truth.predict(tried)).max() < 0.05


def test_few_mixtures_get_a_plain_log_linear_law():
    tried = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    losses = np.exp(tried @ np.array([0.3, 1.1]))
    law = mixing_law.fit(tried, losses)
    assert (law.floor, law.slopes) == (0.0, pytest.approx([0.3, 1.1]))
    assert mixing_law.leave_one_out(tried, losses) == pytest.approx(losses)


def test_left_out_mixture_has_no_say_in_its_own_prediction():
    tried = mixtures(2, 8)
    losses = np.exp(tried @ np.array([0.2, 0.9]))
    spoiled = losses.copy()
    spoiled[3] += 5.0
    assert mixing_law.leave_one_out(tried, spoiled)[3] == mixing_law.leave_one_out(tried, losses)[3]


@given(st.integers(2, 5), st.integers(3, 8), st.integers(0, 10**6))
def test_a_mean_of_tried_mixtures_is_between_them(sources, number, seed):
    tried = mixtures(sources, number, seed)
    assert all(mixing_law.is_between(tried, row) for row in mixing_law.between(tried, 5, seed))


def test_distance_beyond_the_tried_mixtures_by_hand():
    tried = np.array([[0.8, 0.2], [0.4, 0.6]])
    assert mixing_law.is_between(tried, np.array([0.5, 0.5]))
    assert mixing_law.distance_to_tried(tried, np.array([1.0, 0.0])) == pytest.approx(0.2 * 2**0.5, abs=1e-3)
    assert not mixing_law.is_between(tried, np.array([0.3, 0.7]))
    corner = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])  # a segment of a triangle
    assert mixing_law.is_between(corner, np.array([0.5, 0.25, 0.25]))
    assert not mixing_law.is_between(corner, np.array([0.4, 0.3, 0.3]))


def test_corners_are_not_between_the_others():
    tried = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    assert mixing_law.between_the_others(tried).tolist() == [False, True, True, False]
