"""Stretched positions: what is written is what `transformers` computes with, and what the papers say."""

import math

import pytest
import torch
from transformers import AutoConfig

from core.errors import UserError
from training.model import ModelConfig, initialize
from training.rope import RopeScaling, context

SHAPE = ModelConfig(hidden_size=32, layers=1, heads=2, intermediate_size=64, max_length=128)


def stretched(kind, factor=4.0):
    config = SHAPE.to_transformers(256)
    RopeScaling(type=kind, factor=factor).apply(config, "here")
    return config


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_the_written_configuration_loads_and_gives_the_same_frequencies(kind, tmp_path):
    config = stretched(kind)
    assert context(config) == 512
    model = initialize(config, 0)
    model.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert context(again) == 512
    assert torch.equal(initialize(again, 0).model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_frequencies_follow_the_papers():
    plain = 10_000.0 ** (-torch.arange(0, 16, 2) / 16)
    rotary = lambda kind: initialize(stretched(kind), 0).model.rotary_emb  # noqa: E731
    torch.testing.assert_close(rotary("linear").inv_freq, plain / 4)
    wavelength = 2 * math.pi / plain
    llama3 = rotary("llama3").inv_freq
    assert torch.equal(llama3[wavelength < 128 / 4], plain[wavelength < 128 / 4])
    torch.testing.assert_close(llama3[wavelength > 128], plain[wavelength > 128] / 4)
    yarn = rotary("yarn")
    turns = 128 / wavelength
    torch.testing.assert_close(yarn.inv_freq[turns < 1][-1], plain[turns < 1][-1] / 4)
    assert yarn.attention_scaling == pytest.approx(0.1 * math.log(4) + 1)
    dynamic = initialize(stretched("dynamic"), 0).model.rotary_emb
    dynamic(torch.zeros(1, 1, 1), torch.arange(512)[None])
    base = 10_000.0 * (4 * 512 / 128 - 3) ** (16 / 14)
    torch.testing.assert_close(dynamic.inv_freq, base ** (-torch.arange(0, 16, 2) / 16))


def test_positions_that_are_scaled_already_are_refused():
    config = stretched("yarn")
    with pytest.raises(UserError, match=r"scaled already \(yarn\)"):
        RopeScaling(type="linear", factor=2).apply(config, "here")
