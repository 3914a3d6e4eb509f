"""Which model pretraining begins with, fresh or from a checkpoint, and for how long it trains."""

import shutil

import pytest
import torch

from core import checkpoint
from core.token_set import TOKENIZER, TokenSet
from data_engine import byte_level_bpe
from tests.training import fixtures
from tests.training.test_stages import SMALL, pretrain_config, refused
from training import metrics, pretrain
from training.model import ModelConfig, parameters_of
from training.objectives import NextToken
from training.packing import PackedDocuments
from training.precision import Precision


def continued(output, tokens, base, **changes):
    settings = {"checkpoint": str(base), "steps": 2, "sequence_length": 64, "validation_tokens": 512, **SMALL}
    return pretrain.PretrainConfig(output=str(output), tokens=str(tokens), **settings | changes)


def test_steps_follow_from_tokens_per_parameter(tokens, tmp_path):
    config = pretrain_config(tmp_path, tokens, steps=None, tokens_per_parameter=2.0)
    parameters = parameters_of(pretrain.architecture(config, TokenSet(tokens)))
    assert pretrain.steps_of(config, TokenSet(tokens)) == round(2 * parameters / (8 * 64))
    assert pretrain.steps_of(pretrain_config(tmp_path, tokens, steps=7), TokenSet(tokens)) == 7


def test_settings_beside_a_checkpoint_are_what_it_must_be(tokens, base, tmp_path):
    run = tmp_path / "run"
    same = {"architecture": "llama", "layers": 2, "hidden_size": 32, "heads": 2, "rope_theta": 10_000.0}
    pretrain._check(continued(run, tokens, base, model=same), TokenSet(tokens))
    cases = {
        "its model_type is llama, model.architecture asks for qwen3": {"architecture": "qwen3"},
        "its num_hidden_layers is 2, model.layers asks for 3": {"layers": 3},
        "its rope_theta is 10000.0, model.rope_theta asks for": {"rope_theta": 500_000.0},
        "its hidden_size is 32, model.hidden_size asks for 256": {"preset": "5m"},
    }
    for complaint, model in cases.items():
        refused(pretrain.STAGE, continued(run, tokens, base, model=model), complaint)


def test_what_cannot_be_gone_on_with_is_refused(tokens, base, tmp_path):
    run = tmp_path / "run"
    refused(pretrain.STAGE, continued(run, tokens, base, sequence_length=129), "context of .* 128; set rope_scaling")
    broken = fixtures.write_spoiled(tmp_path / "broken", base, "model.norm.weight")
    refused(pretrain.STAGE, continued(run, tokens, broken), r"model\.norm\.weight holds weights that are not finite")
    other = shutil.copytree(tokens, tmp_path / "other")
    shutil.rmtree(other / TOKENIZER)
    byte_level_bpe.save(byte_level_bpe.train(fixtures.documents()[::2], fixtures.VOCABULARY), other / TOKENIZER)
    refused(pretrain.STAGE, continued(run, other, base), "is not that of .* run 'raymill data tokenize' with tokenizer")
    with pytest.raises(ValueError, match="rope_scaling stretches a checkpoint"):
        pretrain_config(run, tokens, rope_scaling={"type": "yarn", "factor": 2})


@pytest.mark.slow
def test_training_goes_on_from_the_checkpoint_with_a_longer_context(tokens, base, tmp_path):
    """The first logged loss is that of the checkpoint itself, whose positions have been stretched."""
    scaling = {"type": "yarn", "factor": 2.0}
    config = continued(tmp_path / "run", tokens, base, sequence_length=200, rope_scaling=scaling, batch_size=4)
    pretrain.STAGE.execute(config)
    shape = pretrain.architecture(config, TokenSet(tokens))
    model = checkpoint.load_model(base, config=shape)
    batch = PackedDocuments(TokenSet(tokens), "train", 200, config.seed).sequences(0, 4)
    part = NextToken()(model, batch, Precision("fp32", "test"))
    assert metrics.read(tmp_path / "run")[0]["loss"] == pytest.approx(part.loss.item() / part.weight, rel=1e-5)
    made = checkpoint.load_model(tmp_path / "run" / "checkpoint")
    assert made.config.max_position_embeddings == 256
    assert made.config.rope_parameters["rope_type"] == "yarn"
    assert made.config.rope_parameters["original_max_position_embeddings"] == 128
    assert torch.equal(made.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("preset", ["5m", "15m", "60m", "160m", "410m", "1b", "3b", "8b"])
def test_a_preset_has_the_size_of_its_name(preset):
    sizes = {"m": 1e6, "b": 1e9}
    vocabulary = {"5m": 8192, "15m": 8192, "60m": 32_768, "160m": 32_768, "410m": 50_304}.get(preset, 128_256)
    parameters = parameters_of(ModelConfig(preset=preset).to_transformers(vocabulary))
    assert parameters == pytest.approx(float(preset[:-1]) * sizes[preset[-1]], rel=0.25)


def test_settings_beside_a_preset_replace_parts_of_it():
    found = ModelConfig(preset="1b", architecture="qwen3", layers=2)
    assert (found.layers, found.hidden_size, found.kv_heads) == (2, 2048, 8)
    assert ModelConfig.model_validate(found.model_dump()) == found
    assert found.to_transformers(1000).model_type == "qwen3"
