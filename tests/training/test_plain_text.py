"""A plain text trains as it is: `data tokenize`, then `train pretrain`, no script between them."""

import pytest

from data_engine import tokenize
from tests.training.test_stages import pretrain_config
from training import pretrain


@pytest.mark.slow
def test_a_book_trains_as_it_is(real_data, tmp_path):
    book = real_data / "text" / "tinyshakespeare.txt"
    tokens = tmp_path / "tokens"
    tokenize.STAGE.execute(tokenize.TokenizeConfig(documents=str(book), output=str(tokens), vocab_size=512))
    config = pretrain_config(tmp_path / "run", tokens, steps=20)
    metrics = pretrain.STAGE.execute(config)[0].metrics
    assert metrics["validation_loss"] < 6.0, "ln 512 is 6.24"
