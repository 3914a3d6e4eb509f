import json
import math

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from core import manifest as manifests
from core.errors import RaymillError, UserError
from serving import preflight, texts
from serving.quantize import STAGE, QuantizeConfig
from tests.serving.fixtures import documents, save_speller, write_parquet

# --- refusals: before any work ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    save_speller(folder / "model")
    write_parquet(folder / "documents" / "a.parquet", documents(30))
    return folder


def config(folder, output, **settings):
    paths = {"checkpoint": str(folder / "model"), "documents": str(folder / "documents"), "output": str(output)}
    return QuantizeConfig.model_validate(
        paths | {"samples": 4, "held_out_samples": 2, "sequence_length": 64} | settings
    )


def refused(asked, reason):
    with pytest.raises(UserError, match=reason) as raised:
        STAGE.execute(asked)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    assert manifests.read(asked.output) is None


def test_a_checkpoint_that_is_quantized_already_is_refused(given, tmp_path):
    again = save_speller(tmp_path / "again")
    written = json.loads((again / "config.json").read_text())
    written["quantization_config"] = {"quant_method": "compressed-tensors"}
    (again / "config.json").write_text(json.dumps(written))
    refused(config(given, tmp_path / "run", checkpoint=str(again)), "is quantized already")


def test_what_is_no_checkpoint_or_no_text_is_refused(given, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("x")
    refused(config(given, tmp_path / "a", checkpoint=str(tmp_path / "empty")), "not a checkpoint")
    refused(config(given, tmp_path / "b", checkpoint=str(tmp_path / "absent")), "absent")
    refused(config(given, tmp_path / "c", documents=str(tmp_path / "empty")), "holds no Parquet")
    refused(config(given, tmp_path / "d", sequence_length=2048), "more than the model's context of 1024")


def test_too_little_text_for_a_sequence_is_said_before_the_model_is_touched(given, tmp_path):
    few = write_parquet(tmp_path / "few.parquet", documents(2))
    refused(config(given, tmp_path / "run", documents=str(few), sequence_length=1024), "not enough text")


# --- the artifact ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_linear_layers_are_int8_and_the_rest_is_as_it_was(quantized):
    with (
        safe_open(quantized.original / "model.safetensors", "pt") as before,
        safe_open(quantized.checkpoint / "model.safetensors", "pt") as after,
    ):
        names = set(after.keys())
        for name in before.keys():  # noqa: SIM118 (no mapping)
            old, new = before.get_tensor(name), after.get_tensor(name)
            if not name.endswith("_proj.weight"):
                assert torch.equal(old, new), name
                continue
            assert new.dtype == torch.int8
            assert new.min() >= -64 and new.max() <= 63, "two products of 8 bits overflow 16 bits without VNNI"
            assert new.min() < -50, "the narrow range must be used"
            scale = after.get_tensor(f"{name}_scale").float()
            assert scale.shape == (old.shape[0], 1), "one scale for each output channel"
            error = (new.float() * scale - old).norm() / old.norm()
            assert error < 0.02, name  # the step of 8 bits is 1/127 of the largest weight of a channel
        assert sum(name.endswith("_scale") for name in names) == 2 * 7
    written = json.loads((quantized.checkpoint / "config.json").read_text())
    assert preflight.number_format(written) == "int8_w8a8"


@pytest.mark.slow
def test_tokenizer_and_generation_settings_are_copied_byte_for_byte(quantized):
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (quantized.checkpoint / name).read_bytes() == (quantized.original / name).read_bytes()


@pytest.mark.slow
def test_it_loads_in_transformers_and_the_figures_of_the_manifest_are_true(quantized):
    """Measured again, one sequence at a time, on the artifact as it lies there."""
    from core import checkpoint

    tokenizer = checkpoint.load_tokenizer(quantized.original)
    _, held_out = texts.choose(str(quantized.documents), None, tokenizer, 0, 16, 8, 64)
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (quantized.original, quantized.checkpoint)
    ]
    losses, choices = [], []
    for model in models:
        with torch.inference_mode():
            outputs = [model(input_ids=row[None], labels=row[None]) for row in held_out.tokens_ST]
        losses.append(sum(output.loss.item() for output in outputs) / len(outputs))
        choices.append(torch.cat([output.logits[0, :-1].argmax(-1) for output in outputs]))
    found = quantized.manifest.metrics
    assert found["perplexity_before"] == pytest.approx(math.exp(losses[0]), rel=1e-3)
    assert found["perplexity_after"] == pytest.approx(math.exp(losses[1]), rel=1e-3)
    assert found["top1_agreement"] == pytest.approx((choices[0] == choices[1]).double().mean().item(), abs=0.01)
    assert found["perplexity_increase"] <= 1.05
    assert found["bytes_after"] < found["bytes_before"]
    assert (quantized.run / "report.html").is_file()


@pytest.mark.slow
def test_a_model_that_became_too_bad_is_no_artifact(quantized, tmp_path):
    asked = QuantizeConfig(
        output=str(tmp_path / "run"),
        checkpoint=str(quantized.original),
        documents=str(quantized.documents),
        samples=4,
        held_out_samples=2,
        sequence_length=64,
        max_perplexity_increase=0.5,
    )
    with pytest.raises(RaymillError, match=r"above max_perplexity_increase 0\.5") as raised:
        STAGE.execute(asked)
    assert raised.value.exit_code == 1
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"run.json", "run.lock", "run.log"}
