"""The metrics that tasks may report: which way is better, and how samples become a score."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from core.statistics import Estimate, proportion
from evaluation.statistics import ratio
from evaluation.task import Sample


@dataclass(frozen=True)
class Metric:
    """`share`: a mean of 0/1 values; otherwise sum of values over sum of weights."""

    higher_is_better: bool
    share: bool
    label: str


METRICS = {
    "bits_per_byte": Metric(False, False, "bits per byte"),
    "acc": Metric(True, True, "accuracy"),
    "acc_norm": Metric(True, True, "accuracy, log-likelihood per character"),
    "exact_match": Metric(True, True, "exact match"),
    "preference": Metric(True, True, "chosen more likely than rejected"),
    "preference_norm": Metric(True, True, "chosen more likely than rejected, per token"),
}


@dataclass(frozen=True)
class Score:
    """One line of `scores.json`."""

    model: str
    task: str
    metric: str
    estimate: Estimate

    def row(self) -> dict[str, str | float | int | bool]:
        """As it is written."""
        return {
            "model": self.model,
            "task": self.task,
            "metric": self.metric,
            "value": self.estimate.value,
            "standard_error": self.estimate.standard_error,
            "low": self.estimate.low,
            "high": self.estimate.high,
            "n": self.estimate.n,
            "higher_is_better": METRICS[self.metric].higher_is_better,
        }


def summarise(model: str, samples: Iterable[Sample], seed: int) -> list[Score]:
    """A score for each task and metric, in the order in which they appear."""
    grouped: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        for metric in sample.values:
            grouped[sample.task, metric].append(sample)
    return [Score(model, task, metric, estimate(metric, found, seed)) for (task, metric), found in grouped.items()]


def estimate(metric: str, samples: Sequence[Sample], seed: int) -> Estimate:
    """The score of samples of one task."""
    values = np.asarray([sample.values[metric] for sample in samples])
    if METRICS[metric].share:
        groups = np.asarray([sample.group or sample.id for sample in samples])
        return proportion(values, groups)
    return ratio(values, np.asarray([sample.weight for sample in samples]), seed)
