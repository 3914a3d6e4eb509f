"""Inputs that the tests of training share, each made once."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from core import checkpoint
from tests.training import fixtures


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixtures.write_tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with fresh weights."""
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixtures.write_conversations(tmp_path_factory.mktemp("conversations"))


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixtures.write_preferences(tmp_path_factory.mktemp("preferences"))


@pytest.fixture
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    return checkpoint.load_tokenizer(base)


@pytest.fixture(autouse=True)
def _one_thread():
    """The order of summation depends on the number of threads; the tests compare to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
