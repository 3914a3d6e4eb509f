"""PPO: what each token pays for its divergence, a penalty that steers, and a run whose reward rises."""

import numpy as np
import pytest

from core import manifest
from core.errors import RaymillError
from tests.training.test_grpo import prompts, untimed  # noqa: F401
from training import metrics, ppo
from training.advantages import generalized_advantages, whiten
from training.episodes import Episode
from training.ppo import KlConfig, PpoConfig, coefficient
from training.trainer import Trainer


def config(output, base, prompts, **changes):  # noqa: F811
    settings = {
        "rewards": [{"kind": "function", "function": "tests.training.test_grpo:vowels", "name": "vowels"}],
        "method": "full",
        "batch_size": 64,
        "micro_batch": 32,
        "max_length": 48,
        "steps": 14,
        "rollout_epochs": 2,
        "rollout": {"max_new_tokens": 6},
        "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.0},
        "schedule": {"warmup": 0, "decay": 0},
        "checkpoint_every": 1,
        "workers": 0,
        "precision": "fp32",
        "logs": [],
    }
    return PpoConfig(output=str(output), checkpoint=str(base), prompts=prompts, **settings | changes)


def test_each_token_pays_for_its_divergence_and_the_last_one_earns_the_reward(base, tmp_path):
    settings = config(tmp_path, base, "unread", kl={"coefficient": 0.5})
    answers = [
        Episode(
            0,
            [1],
            [2, 3],
            [-1.0, -1.0],
            True,
            reward=2.0,
            old_log_p=[-1.0, -2.0],
            reference_log_p=[-2.0, -1.0],
            old_values=[0.5, 1.0],
        ),
        Episode(0, [1], [2], [-1.0], True, reward=-1.0, old_log_p=[-1.0], reference_log_p=[-1.0], old_values=[0.25]),
    ]
    facts = ppo.judge(settings, answers, {})
    first, target = generalized_advantages(np.array([-0.5, 2.5]), np.array([0.5, 1.0]), 1.0, 0.95)
    second = np.array([-1.25])
    np.testing.assert_allclose(answers[0].returns, target)
    np.testing.assert_allclose(answers[1].returns, [-1.0])
    white = whiten(np.concatenate([first, second]))
    np.testing.assert_allclose(answers[0].advantages + answers[1].advantages, white)
    assert facts["rollout_kl"] == pytest.approx(0)
    assert facts["kl_coefficient"] == 0.5


def test_the_penalty_grows_while_the_policy_is_too_far_away():
    fixed, steered = KlConfig(coefficient=0.1), KlConfig(coefficient=0.1, target=2.0)
    before = {"kl_coefficient": 0.1, "answer_kl": 8.0}
    assert coefficient(fixed, before) == 0.1
    assert coefficient(steered, {}) == 0.1
    assert coefficient(steered, before) == pytest.approx(0.1 * 1.02)
    assert coefficient(steered, before | {"answer_kl": 1.9}) == pytest.approx(0.1 * 0.995)


@pytest.mark.slow
def test_the_reward_rises_the_value_head_learns_and_a_cut_run_goes_on(base, prompts, tmp_path, monkeypatch):  # noqa: F811
    changes = {"kl": {"coefficient": 0.01, "target": 3.0}, "heldout": prompts}
    found, _ = ppo.STAGE.execute(config(tmp_path / "whole", base, prompts, **changes))
    assert manifest.read(tmp_path / "whole") == found
    assert found.metrics["reward_last"] > found.metrics["reward_first"]
    rows = metrics.read(tmp_path / "whole")
    assert rows[0]["explained_variance"] == pytest.approx(0, abs=0.2)
    assert rows[0]["rollout_kl"] == pytest.approx(0, abs=1e-6)
    assert max(row["answer_kl"] for row in rows) > 0.05
    assert rows[1]["value_loss"] < rows[0]["value_loss"]  # the second pass over the same answers

    def cut(self, row):
        if row["step"] == 9:
            raise RaymillError("cut")

    monkeypatch.setattr(Trainer, "_show", cut)
    with pytest.raises(RaymillError, match="cut"):
        ppo.STAGE.execute(config(tmp_path / "cut", base, prompts, **changes))
    monkeypatch.undo()
    ppo.STAGE.execute(config(tmp_path / "cut", base, prompts, **changes))
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")
