"""Our preference runs against TRL's trainers: the same model, answers, order and hyper-parameters, over 20 steps."""

import numpy as np
import pytest

from tests.oracles.trl_runs import dpo_losses, kto_losses
from tests.training import fixtures
from tests.training.test_stages import dpo_config

STEPS, BETA = 20, 0.3
SAME = {
    "method": "full",
    "steps": STEPS,
    "optimizer": {"learning_rate": 2e-3, "weight_decay": 0.0},
    "schedule": {"warmup": 0, "decay": 0},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    return fixtures.write_preferences(tmp_path_factory.mktemp("preferences"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        ({"sft_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"loss": "robust", "label_smoothing": 0.1}, {"loss_type": ["robust"], "label_smoothing": 0.1}),
        ({"loss": "ipo", "length_normalized": True}, {"loss_type": ["ipo"]}),
    ],
    ids=["DPO", "RPO", "robust", "IPO of means"],
)
def test_losses_are_those_of_trl(base, preferences, tmp_path, ours, theirs):
    """One pair per micro-batch there: TRL's term for the chosen answer is the mean over all tokens of a micro-batch."""
    changes = SAME | {"batch_size": 4, "preference": {"beta": BETA, **ours}}
    config = dpo_config(tmp_path / "run", base, preferences, **changes)
    losses, expected = dpo_losses(config, tmp_path / "trl", micro_batch=1, **theirs)
    assert np.ptp(losses) > 0.02, "the weights hardly moved, so nothing was compared"
    np.testing.assert_allclose(losses, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_losses_of_labelled_answers_are_those_of_trl(base, preferences, tmp_path):
    preference = {"loss": "kto", "beta": BETA, "desirable_weight": 1.3, "undesirable_weight": 0.8}
    changes = SAME | {"batch_size": 8, "preference": preference}
    losses, expected = kto_losses(dpo_config(tmp_path / "run", base, preferences, **changes), tmp_path / "trl")
    assert np.ptp(losses) > 0.02, "the weights hardly moved, so nothing was compared"
    np.testing.assert_allclose(losses, expected, atol=1e-4, rtol=0)
