"""Checkpoints: one that was saved loads with the same weights, and what is none is refused in one line."""

import json
import shutil

import pytest
import torch

from core import checkpoint
from core.errors import UserError
from tests import tiny_models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save_model(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_saved_model_loads_with_its_weights_ready_to_evaluate(saved):
    from safetensors.torch import load_file

    model = checkpoint.load_model(saved)
    assert not model.training
    stored = load_file(saved / "model.safetensors")
    loaded = model.state_dict()
    assert stored
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in stored.items())
    assert checkpoint.load_model(saved, torch.bfloat16).dtype is torch.bfloat16
    assert checkpoint.load_config(saved).model_type == checkpoint.check(saved)["model_type"] == "llama"


def test_a_tokenizer_gives_back_what_it_took(saved):
    tokenizer = checkpoint.load_tokenizer(saved)
    for text in (*tiny_models.TEXT[:3], "naïve 你好 🎉\n\ttab"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def refused(path, message, load=checkpoint.load_model):
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("load", [checkpoint.check, checkpoint.load_model, checkpoint.load_config])
def test_what_is_no_checkpoint_is_refused(copy, load):
    refused(copy / "none", "no such checkpoint directory", load)
    refused(copy / "config.json", "no such checkpoint directory", load)
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text("{")
    refused(copy, "not readable as JSON", load)
    for content in ([], {"hidden_size": 3}):
        (copy / "config.json").write_text(json.dumps(content))
        refused(copy, "names no model_type", load)
    (copy / "config.json").unlink()
    refused(copy, r"config\.json is missing$", load)
    (copy / "adapter_config.json").write_text("{}")
    refused(copy, "it is a PEFT adapter: merge it", load)
    (copy / "config.json").write_text(config)
    (copy / "model.safetensors").unlink()
    refused(copy, r"holds no \*\.safetensors", load)


@pytest.mark.parametrize("damage", ["torn", "foreign"])
def test_damaged_weights_are_refused(copy, damage):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000] if damage == "torn" else b"no tensors at all")
    refused(copy, "the checkpoint does not load")


def test_an_architecture_that_nobody_knows_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "abacus", "architectures": ["Abacus"]}))
    refused(copy, "the checkpoint does not load")
    refused(copy, "abacus", checkpoint.load_config)


def test_a_folder_without_a_usable_tokenizer_is_refused(copy, tmp_path):
    refused(tmp_path, "holds no tokenizer", checkpoint.load_tokenizer)
    (copy / "tokenizer.json").write_text("{")
    refused(copy, "the tokenizer does not load", checkpoint.load_tokenizer)
