import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.schedule import ScheduleConfig, factor

shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: sum(pair) <= 1)
schedules = st.builds(
    lambda pair, minimum, shape: ScheduleConfig(warmup=pair[0], decay=pair[1], minimum=minimum, decay_shape=shape),
    shares,
    st.floats(0, 1),
    st.sampled_from(["cosine", "linear", "sqrt"]),
)


def test_values_worked_out_by_hand():
    """10 steps: 2 up, 4 level, 4 down by half a cosine in fifths."""
    found = [factor(step, 10, ScheduleConfig(warmup=0.2, decay=0.4)) for step in range(10)]
    down = [(1 + math.cos(math.pi * k / 5)) / 2 for k in (1, 2, 3, 4)]
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, *down])
    half = [factor(step, 10, ScheduleConfig(warmup=0.2, decay=0.4, minimum=0.5)) for step in range(10)]
    assert half == pytest.approx([0.5, 1, 1, 1, 1, 1, *(0.5 + 0.5 * value for value in down)])


@pytest.mark.parametrize(
    ("shape", "down"), [("linear", [0.8, 0.6, 0.4, 0.2]), ("sqrt", [1 - math.sqrt(k / 5) for k in (1, 2, 3, 4)])]
)
def test_other_shapes_of_decay_worked_out_by_hand(shape, down):
    config = ScheduleConfig(warmup=0.2, decay=0.4, decay_shape=shape)
    assert [factor(step, 10, config) for step in range(10)] == pytest.approx([0.5, 1, 1, 1, 1, 1, *down])


def test_without_a_stable_part_it_is_the_cosine_schedule_and_without_decay_the_constant_one():
    cosine = ScheduleConfig(warmup=0.1, decay=0.9)
    expected = [(1 + math.cos(math.pi * (k + 1) / 91)) / 2 for k in range(90)]
    assert [factor(step, 100, cosine) for step in range(10, 100)] == pytest.approx(expected)
    constant = ScheduleConfig(warmup=0.1, decay=0.0)
    assert {factor(step, 100, constant) for step in range(9, 100)} == {1.0}


@pytest.mark.parametrize(("warmup", "decay"), [(0.1, 0.0), (0.0, 0.3), (0.25, 0.5), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_the_rates_sum_to_the_closed_form(warmup, decay):
    """Warmup sums to (w + 1) / 2; the cosine at equal steps strictly inside its half period is symmetric: d / 2."""
    steps, minimum = 40, 0.1
    config = ScheduleConfig(warmup=warmup, decay=decay, minimum=minimum)
    w, d = round(warmup * steps), round(decay * steps)
    up = (w + 1) / 2 if w else 0
    expected = up + (steps - w - d) + d * (minimum + (1 - minimum) / 2)
    assert sum(factor(step, steps, config) for step in range(steps)) == pytest.approx(expected)


@given(st.integers(1, 500), schedules)
def test_no_step_is_wasted_and_none_is_over_the_peak(steps, config):
    for step in range(steps):
        assert 0 < factor(step, steps, config) <= 1


@given(st.integers(1, 300), schedules)
def test_the_rate_rises_once_and_falls_once(steps, config):
    values = [factor(step, steps, config) for step in range(steps)]
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


@given(schedules)
def test_the_rate_ends_at_or_over_the_minimum(config):
    assert factor(99, 100, config) >= min(config.minimum, 1) - 1e-12


def test_warmup_and_decay_that_overlap_are_refused():
    with pytest.raises(ValidationError, match="together at most 1"):
        ScheduleConfig(warmup=0.6, decay=0.5)
