import json
import math
from dataclasses import asdict

import pytest

from core.errors import RaymillError, UserError
from serving import format_choice
from serving.format_choice import Candidate, Choice
from serving.format_speed import Job, Request, Speed
from serving.hardware import PROFILES

BF16, FP32 = Candidate("m", "none", "bfloat16"), Candidate("m", "none", "float32")
INT8 = Candidate("q", "int8_w8a8", "bfloat16")
LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2, "vocab_size": 100}


def save(directory, scheme=None, **changes):
    from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme

    directory.mkdir(parents=True)
    content = LLAMA | changes
    if scheme:
        groups = {"group_0": preset_name_to_scheme(scheme, ["Linear"])}
        content["quantization_config"] = QuantizationConfig(config_groups=groups).model_dump(mode="json")
    (directory / "config.json").write_text(json.dumps(content))
    (directory / "model.safetensors").touch()
    return str(directory)


@pytest.fixture
def avx512(monkeypatch):
    monkeypatch.setattr("serving.hardware.detect", lambda: PROFILES["AVX-512 BF16"])


@pytest.fixture
def measured(monkeypatch):
    """Each call is noted; the rates are those that the test sets."""
    calls, rates = [], {}

    def run(request, environment, tick=lambda _: None):
        calls.append([job.name for job in request.jobs])
        found = [Speed(job.name, **rates[job.name]) for job in request.jobs]
        for speed in found:
            speed.by_round = {many: [rate / 3, rate] for many, rate in speed.rates.items()}
        return found

    monkeypatch.setattr(format_choice, "run", run)
    return calls, rates


def test_every_checkpoint_of_an_artifact_is_a_candidate_in_both_types_unless_it_does_not_run(tmp_path, avx512):
    plain = save(tmp_path / "plain")
    for scheme in ("W8A8", "NVFP4"):
        save(tmp_path / "run" / "checkpoints" / scheme, scheme)
    found, left_out = format_choice.candidates([plain, str(tmp_path / "run")])
    assert [candidate.name for candidate in found] == [
        *("bfloat16", "float32"),
        *("int8_w8a8, bfloat16", "int8_w8a8, float32"),
    ]
    assert list(left_out) == ["nvfp4"]
    [only], _ = format_choice.candidates([plain], "float32")
    assert only == Candidate(plain, "none", "float32")


def test_formats_of_different_models_and_formats_of_which_none_runs_are_refused(tmp_path, avx512):
    plain, other = save(tmp_path / "plain"), save(tmp_path / "other", "W8A8", hidden_size=128)
    with pytest.raises(UserError, match="is not the same model as"):
        format_choice.candidates([plain, other])
    with pytest.raises(UserError, match=r"none of its formats runs here: .* int4_w4a16"):
        format_choice.candidates([save(tmp_path / "nvfp4", "NVFP4")])


def test_the_fastest_over_both_concurrencies_wins_and_the_more_exact_one_where_they_are_equal():
    rates = {BF16.name: {1: 50.0, 16: 100.0}, FP32.name: {1: 20.0, 16: 120.0}, INT8.name: {1: 10.0, 16: 80.0}}
    scores = format_choice.score(rates)
    assert scores[BF16.name] == pytest.approx((1 + 100 / 120) / 2)
    assert scores[FP32.name] == pytest.approx((0.4 + 1) / 2)
    assert format_choice._fastest([BF16, FP32, INT8], rates) == BF16
    rates[INT8.name] = {1: 50.5, 16: 100.0}
    assert format_choice._fastest([BF16, FP32, INT8], rates) == BF16
    rates[INT8.name] = {1: 55.0, 16: 110.0}
    assert format_choice._fastest([BF16, FP32, INT8], rates) == INT8


def test_a_calibration_is_made_once_for_a_machine_a_model_and_its_settings(tmp_path, measured):
    calls, rates = measured
    checkpoint = save(tmp_path / "plain")
    found = [Candidate(checkpoint, "none", dtype) for dtype in ("bfloat16", "float32")]
    rates |= {"bfloat16": {"rates": {1: 2.0, 16: 20.0}}, "float32": {"rates": {1: 1.0, 16: 10.0}}}

    def choose(environment=None, **arguments):
        return format_choice.choose(found, {}, lambda _: arguments, environment or {}, cache=tmp_path / "cache.json")

    first, second = choose(), choose()
    assert (first.candidate.dtype, first.remembered) == ("bfloat16", False)
    assert (second.candidate.dtype, second.remembered) == ("bfloat16", True)
    assert second.rates == first.rates
    assert len(calls) == 1
    choose(max_num_seqs=32)
    choose(environment={"OMP_NUM_THREADS": "1"})
    assert len(calls) == 3
    (tmp_path / "cache.json").write_text("{half")
    assert not choose().remembered
    assert len(calls) == 4


def test_a_format_that_does_not_start_is_left_out_and_none_at_all_is_an_error(tmp_path, measured):
    _, rates = measured
    checkpoint = save(tmp_path / "plain")
    found = [Candidate(checkpoint, "none", dtype) for dtype in ("bfloat16", "float32")]
    rates |= {"bfloat16": {"problem": "no kernel"}, "float32": {"rates": {1: 1.0, 16: 10.0}}}
    choice = format_choice.choose(found, {"nvfp4": "why"}, lambda _: {}, {}, cache=tmp_path / "a.json")
    assert choice.candidate.dtype == "float32"
    assert choice.left_out == {"nvfp4": "why", "bfloat16": "no kernel"}
    assert any("1.0 tokens/s at concurrency 1" in line for line in choice.lines())
    rates["float32"] = {"problem": "no memory"}
    with pytest.raises(RaymillError, match="none of the formats; bfloat16: no kernel"):
        format_choice.choose(found, {}, lambda _: {}, {}, cache=tmp_path / "b.json")


def test_one_format_needs_no_calibration(measured):
    choice = format_choice.choose([BF16], {}, lambda _: {}, {})
    assert choice == Choice(BF16, {}, {}, remembered=True)
    assert measured[0] == []


def test_a_format_that_ends_the_process_is_that_formats_answer_and_the_rest_goes_on(monkeypatch):
    """vllm#55613 ends the whole process."""

    def dying(request, environment, tick):
        first, *rest = request.jobs
        if first.name == "bad":
            return [Speed("bad", problem="vLLM's process ended with code -11")]
        return [Speed(first.name, rates={1: 1.0})] + ([Speed("bad", problem="ended")] if rest else [])

    monkeypatch.setattr(format_choice, "_in_process", dying)
    jobs = [Job(name, "m", {}) for name in ("good", "bad", "last")]
    found = format_choice.run(Request(jobs), {})
    assert [speed.name for speed in found] == ["good", "bad", "last"]
    assert [speed.problem is None for speed in found] == [True, False, True]


def test_a_request_survives_its_way_to_the_measuring_process():
    request = Request([Job("a", "m", {"dtype": "float32"})], (1, 4), prompts=[[1, 2]], keep_answers=True)
    again = Request.from_json(request.to_json())
    assert again.jobs[0] == request.jobs[0]
    assert list(again.concurrencies) == [1, 4]
    assert math.isclose(again.new_tokens, request.new_tokens)


def test_rates_come_back_by_number():
    said = json.loads(json.dumps(asdict(Speed("a", {1: 2.0, 16: 3.0}, {1: [2.0], 16: [3.0]}))))
    assert Speed.from_json(said) == Speed("a", {1: 2.0, 16: 3.0}, {1: [2.0], 16: [3.0]})


@pytest.mark.parametrize("settings", [{}, {"num_attention_heads": 8}])
def test_the_shape_of_the_model_is_a_part_of_the_key(tmp_path, settings):
    keys = set()
    for name, changes in (("a", {}), ("b", settings)):
        found = [Candidate(save(tmp_path / name, **changes), "none", "float32")]
        keys.add(format_choice._key(found, Request([Job("float32", "m", {})]), {}))
    assert len(keys) == (2 if settings else 1)
