import json
import math

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from core import config as configs
from core import manifest as manifests
from core.errors import RaymillError, UserError
from serving import preflight, texts
from serving.quantize import STAGE, QuantizeConfig
from serving.schemes import SCHEMES
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


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scheme": "int3"}, "scheme"),
        ({"scheme": "fp8_block", "method": "gptq"}, "fp8_block is not reached by gptq; its methods are rtn"),
        ({"schemes": "some"}, "schemes"),
        ({"schemes": []}, "schemes: .*names no scheme"),
        ({"schemes": ["int8_w8a8-awq"]}, "int8_w8a8 is not reached by awq"),
        ({"kv_cache": "int4"}, "kv_cache"),
    ],
)
def test_a_scheme_that_is_none_is_named_in_one_line(settings, reason):
    given = {"checkpoint": "m", "documents": "d", "output": "o"} | settings
    with pytest.raises(UserError, match=reason) as raised:
        configs.parse(QuantizeConfig, given, "quantize.yaml")
    assert "\n" not in str(raised.value)


def test_all_on_the_command_line_is_every_scheme_by_every_method(given, monkeypatch, raymill_here, tmp_path):
    seen = []
    monkeypatch.setattr(type(STAGE), "execute", lambda self, settings, force=False: seen.append(settings) or 1 / 0)
    asked = {"checkpoint": "m", "documents": "d", "output": "o"}
    (tmp_path / "quantize.yaml").write_text(yaml.safe_dump(asked))
    raymill_here("serve", "quantize", "quantize.yaml", "--all")
    raymill_here("serve", "quantize", "quantize.yaml")
    every, one = ([variant.name for variant in settings.variants] for settings in seen)
    assert len(every) == len(set(every)) == 12
    assert {name.partition("-")[0] for name in every} == set(SCHEMES)
    assert one == ["int8_w8a8-gptq"]


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


# --- several schemes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory, one_thread):
    """Every scheme by every method, and keys and values in 8 bits."""
    folder = tmp_path_factory.mktemp("compared")
    save_speller(folder / "model", width=256, layers=1, kv_heads=8, projections=0.2)
    write_parquet(folder / "documents" / "a.parquet", documents(60))
    asked = config(folder, folder / "run", schemes="all", kv_cache="fp8", max_perplexity_increase=1.5)
    manifest, _ = STAGE.execute(asked)
    return folder, manifest


def tensors(directory):
    with safe_open(directory / "model.safetensors", "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)


@pytest.mark.slow
def test_every_scheme_is_written_in_its_format_and_near_to_the_original(compared):
    folder, manifest = compared
    rows = manifest.metrics["schemes"]
    assert len(rows) == 12
    assert json.loads((folder / "run" / "comparison.json").read_text())["schemes"] == rows
    for name, row in rows.items():
        written = json.loads((folder / "run" / "checkpoints" / name / "config.json").read_text())
        assert preflight.number_format(written) == row["scheme"]
        assert preflight.kv_cache_format(written) == "fp8"
        assert row["problem"] is None
        eight_bits = "8" in name.partition("_")[0]
        assert 0 < row["kl_divergence"] < (0.1 if eight_bits else 1.0), name  # a random model is chaotic
        assert row["top1_agreement"] > (0.8 if eight_bits else 0.5), name
        assert row["memory_after"] < manifest.metrics["memory_before"], name
        assert row["runs_here"] == preflight.serves(written).ok
    kl = {name: row["kl_divergence"] for name, row in rows.items()}
    assert kl["int8_w8a8-gptq"] < kl["int4_w4a16-gptq"] < kl["int4_w4a16-rtn"]
    smaller = ("int4_w4a16-gptq", "int8_w8a8-gptq")
    assert rows[smaller[0]]["memory_after"] < rows[smaller[1]]["memory_after"]
    assert rows["int4_w4a16-gptq"]["group_size"] == 128
    assert "int4_w4a16-awq" in (folder / "run" / "report.html").read_text()


@pytest.mark.slow
def test_rounding_to_the_nearest_is_what_it_says(compared):
    """INT8 by hand: a scale for each output channel, from its largest weight to 63.5, and the nearest number."""
    folder, _ = compared
    before, after = tensors(folder / "model"), tensors(folder / "run" / "checkpoints" / "int8_w8a8-rtn")
    name = "model.layers.0.mlp.down_proj.weight"
    scale = before[name].abs().amax(1, keepdim=True) / 63.5
    assert torch.allclose(after[f"{name}_scale"].float(), scale, rtol=0.01)
    nearest = (before[name] / after[f"{name}_scale"].float()).round()
    assert (nearest - after[name].float()).abs().max() <= 1
    assert (nearest == after[name].float()).double().mean() > 0.99


@pytest.mark.slow
def test_scales_of_keys_and_values_are_calibrated(compared):
    """E4M3 reaches 448: the largest value seen in calibration lies there. Values are what v_proj gives."""
    from core import checkpoint

    folder, _ = compared
    scales = tensors(folder / "run" / "checkpoints" / "fp8_dynamic-rtn")
    model = checkpoint.load_model(folder / "model")
    tokenizer = checkpoint.load_tokenizer(folder / "model")
    calibration, _ = texts.choose(str(folder / "documents"), None, tokenizer, 0, 4, 2, 64)
    seen = []
    layer = model.model.layers[0].self_attn
    layer.v_proj.register_forward_hook(lambda module, inputs, output: seen.append(output.abs().max()))
    with torch.inference_mode():
        model(input_ids=calibration.tokens_ST)
    assert scales["model.layers.0.self_attn.v_scale"].item() == pytest.approx(seen[0].item() / 448, rel=0.05)
    assert scales["model.layers.0.self_attn.k_scale"].item() > 0


@pytest.mark.slow
def test_a_scheme_that_does_not_fit_the_layers_is_left_out_with_the_reason_and_the_others_are_made(given, tmp_path):
    asked = config(given, tmp_path / "run", schemes=["int8_w8a8-rtn", "fp8_block"], max_perplexity_increase=1.5)
    manifest, _ = STAGE.execute(asked)
    assert manifest.metrics["schemes"]["fp8_block-rtn"]["problem"].startswith("scheme fp8_block: ")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["int8_w8a8-rtn"]
    with pytest.raises(UserError, match=r"scheme fp8_block: .* use fp8_dynamic"):
        STAGE.execute(config(given, tmp_path / "one", scheme="fp8_block"))
    with pytest.raises(RaymillError, match="none of 1 schemes became a checkpoint; the first: int8_w8a8-rtn raises"):
        STAGE.execute(config(given, tmp_path / "bad", schemes=["int8_w8a8-rtn"], max_perplexity_increase=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["awq", "rtn"])
def test_a_layer_that_no_group_divides_is_as_it_was_and_the_others_are_int4(tmp_path, method):
    """The shape of the quickstart's model: its down_proj has 688 inputs."""
    save_speller(tmp_path / "model", width=256, layers=1, kv_heads=8, projections=0.2, inner=688)
    write_parquet(tmp_path / "documents" / "a.parquet", documents(60))
    asked = config(tmp_path, tmp_path / "run", scheme="int4_w4a16", method=method, max_perplexity_increase=1.5)
    manifest, _ = STAGE.execute(asked)
    assert (manifest.metrics["group_size"], manifest.metrics["layers_kept"]) == (128, 1)
    before, after = tensors(tmp_path / "model"), tensors(tmp_path / "run" / "checkpoint")
    name = "model.layers.0.mlp.{}.weight"
    assert after[name.format("down_proj")].dtype == before[name.format("down_proj")].dtype
    assert after[name.format("down_proj")].shape == before[name.format("down_proj")].shape
    if method == "rtn":
        assert torch.equal(after[name.format("down_proj")], before[name.format("down_proj")])
    assert name.format("up_proj") + "_packed" in after
