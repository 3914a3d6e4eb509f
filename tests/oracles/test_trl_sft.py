"""Our fine-tuning against TRL's: the same model, conversations, order and hyper-parameters, over 20 steps."""

import numpy as np
import pytest

from tests.oracles.trl_runs import sft_losses
from tests.training import fixtures
from tests.training.test_stages import sft_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    return fixtures.write_conversations(tmp_path_factory.mktemp("conversations"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_losses_are_those_of_trl(base, conversations, tmp_path, method):
    """We pack, TRL pads; answers are of unequal length, so a wrong weight of micro-batches would show."""
    config = sft_config(
        tmp_path / "run",
        base,
        conversations,
        method=method,
        steps=20,
        optimizer={"learning_rate": 2e-3, "weight_decay": 0.0},
        schedule={"warmup": 0, "decay": 0},
        exact_match_prompts=1,
    )
    losses, expected = sft_losses(config, tmp_path / "trl", micro_batch=2)
    assert np.ptp(losses) > 0.1, "the weights hardly moved, so nothing was compared"
    np.testing.assert_allclose(losses, expected, atol=1e-4, rtol=0)
