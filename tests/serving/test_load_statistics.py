import numpy as np
import pytest

from serving.load import Sample
from serving.load_statistics import Objectives, percentiles, summarize


def sample(began=0.0, first=0.1, gaps=(0.02, 0.02), outcome="ok", tokens=3):
    return Sample(began, 0.0, outcome, "", first + sum(gaps), first, list(gaps), 5, tokens)


def test_throughput_is_of_whole_answers_over_the_time_to_the_last_one():
    whole = [sample(began=0.5 * n) for n in range(4)]
    broken = sample(began=1.0, outcome="broken_stream")
    level = summarize("concurrency", 2, [*whole, broken], Objectives())
    assert level.seconds == pytest.approx(1.5 + 0.14)
    assert level.output_tokens_per_second == pytest.approx(12 / 1.64)
    assert level.requests_per_second == pytest.approx(4 / 1.64)
    assert (level.requests, level.answered, level.errors) == (5, 4, {"broken_stream": 1})
    assert level.goodput is None


def test_an_answer_is_good_when_it_keeps_every_objective():
    slow_start, slow_steps = sample(first=0.3), sample(gaps=(0.09, 0.05))
    samples = [sample(), slow_start, slow_steps, sample(outcome="timeout")]
    seconds = max(one.latency_s for one in samples)

    def good(**levels):
        return summarize("rate", 1.0, samples, Objectives(**levels)).goodput * seconds

    assert good(ttft_ms=200) == pytest.approx(2)
    assert good(ttft_ms=200, tpot_ms=50) == pytest.approx(1)
    assert good(latency_ms=1000) == pytest.approx(3)
    assert good(tpot_ms=70) == pytest.approx(3)


def test_a_single_token_has_no_time_per_token_and_keeps_that_objective():
    one = sample(gaps=(), tokens=1)
    level = summarize("concurrency", 1, [one], Objectives(tpot_ms=1))
    assert level.tpot_ms is None
    assert level.goodput == pytest.approx(1 / one.latency_s)


def test_tokens_that_come_together_count_in_the_time_per_token_and_once_between_events():
    level = summarize("concurrency", 1, [sample(gaps=(0.06, 0.06), tokens=7)], Objectives())
    assert level.tpot_ms["p50"] == pytest.approx(20)
    assert level.itl_ms["p50"] == pytest.approx(60)


def test_percentiles_are_numpy_s_in_milliseconds():
    values = np.random.default_rng(1).exponential(size=57)
    found = percentiles(values)
    assert found["p99"] == pytest.approx(1000 * np.percentile(values, 99), abs=1e-3)
    assert percentiles([None, None]) is None


def test_a_load_without_an_answer_is_told_and_not_divided_by_zero():
    level = summarize("rate", 2.0, [Sample(0.0, outcome="connection")], Objectives(ttft_ms=1))
    assert (level.answered, level.output_tokens_per_second, level.goodput) == (0, 0.0, 0.0)
