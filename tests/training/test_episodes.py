"""Answers of a rollout as micro-batches: what is left out, and that nothing else is."""

from typing import Any

import pytest

from training.episodes import Episode, PolicyConfig, Rollouts
from training.linear_cross_entropy import IGNORED
from training.world import World


def served(tmp_path, **changes):
    """The labels of each step of a rollout of eight answers of 1 to 8 tokens, the odd ones cut off."""
    settings: dict[str, Any] = {
        "rewards": [{"kind": "format", "pattern": "x"}],
        "batch_size": 4,
        "micro_batch": 2,
        "max_length": 16,
        "steps_per_rollout": 2,
        "rollout": {"max_new_tokens": 8},
        "workers": 0,
    }
    config = PolicyConfig(output=str(tmp_path), checkpoint="c", prompts="p", **settings | changes)
    nothing: Any = None
    rollouts = Rollouts(config, tmp_path, World(), nothing, nothing, nothing, nothing, 0, nothing)
    rollouts.episodes = [
        Episode(number, [1, 2], [10 + number] * (number + 1), [0.0] * (number + 1), stopped=number % 2 == 0)
        for number in range(8)
    ]
    rollouts._number = 0
    steps = []
    for consumed in (0, 4):
        batches = [batch for _, batch in rollouts.micro_batches(consumed, 4, rank=0, size=1)]
        steps.append(sorted(label for batch in batches for label in batch.labels[batch.labels != IGNORED].tolist()))
    return steps


@pytest.mark.parametrize(("mask", "kept"), [(False, range(8)), (True, range(0, 8, 2))])
def test_answers_that_were_cut_off_are_learned_from_unless_masked(tmp_path, mask, kept):
    steps = served(tmp_path, mask_truncated=mask)
    assert sorted(steps[0] + steps[1]) == sorted(10 + number for number in kept for _ in range(number + 1))


def test_each_answer_belongs_to_one_step_of_the_rollout(tmp_path):
    one, other = (set(labels) for labels in served(tmp_path))
    assert len(one) == len(other) == 4
    assert not one & other


def test_a_step_whose_answers_were_all_cut_off_has_no_batch(tmp_path):
    config = PolicyConfig(
        output=str(tmp_path),
        checkpoint="c",
        prompts="p",
        rewards=[{"kind": "format", "pattern": "x"}],
        batch_size=2,
        max_length=16,
        mask_truncated=True,
        rollout={"max_new_tokens": 8},
    )
    nothing: Any = None
    rollouts = Rollouts(config, tmp_path, World(), nothing, nothing, nothing, nothing, 0, nothing)
    rollouts.episodes = [Episode(number, [1], [5], [0.0], stopped=False) for number in range(2)]
    rollouts._number = 0
    assert list(rollouts.micro_batches(0, 2, rank=0, size=1)) == []
