import json
import os
import socket
from contextlib import contextmanager

import pytest
import ray
import yaml

from core import config as configs
from core.errors import UserError
from serving.up import STAGE, UpConfig
from tests.serving.fixtures import save_speller


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_speller(tmp_path_factory.mktemp("up") / "model")


@contextmanager
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def asked(model, output, **settings):
    return UpConfig.model_validate({"checkpoint": str(model), "output": str(output)} | settings)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_id": "a b"}, "model_id"),
        ({"model_id": "a/b"}, "model_id"),
        ({"port": 0}, "port"),
        ({"port": 70_000}, "port"),
        ({"max_waiting": -1}, "max_waiting"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"dtype": "float8"}, "dtype"),
        ({"speculative": {"method": "eagle"}}, "speculative.method"),
        ({"speculative": {"tokns": 3}}, "did you mean speculative.tokens?"),
        ({"questions": [{}]}, "questions.0: .*either messages or a prompt"),
        ({"questions": [{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}]}, "questions.0"),
        ({"questions": [{"prompt": "a", "temperature": 3}]}, "questions.0.temperature"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(settings, reason):
    with pytest.raises(UserError, match=reason) as raised:
        configs.parse(UpConfig, {"checkpoint": "m", "output": "o"} | settings, "up.yaml")
    assert "\n" not in str(raised.value)


def test_where_it_listens_does_not_decide_whether_answers_can_be_reused(model, tmp_path):
    first = asked(model, tmp_path, questions=[{"prompt": "a"}])
    moved = asked(model, tmp_path, questions=[{"prompt": "a"}], port=9000, host="0.0.0.0", max_waiting=1, threads=1)
    assert first.identity() == moved.identity()
    assert first.identity() != asked(model, tmp_path, questions=[{"prompt": "b"}]).identity()
    assert first.identity() != asked(model, tmp_path, questions=[{"prompt": "a"}], max_num_seqs=2).identity()
    assert first.reusable
    assert not asked(model, tmp_path, keep=True).reusable


def test_the_engine_gets_the_settings_of_the_stage(model, tmp_path):
    speculative = {"method": "ngram", "tokens": 3, "prompt_lookup_max": 5, "prompt_lookup_min": 1}
    found = asked(model, tmp_path, max_model_len=64, max_num_seqs=2, kv_cache_gib=0.25, speculative=speculative)
    arguments = found.engine.arguments(7, {})
    assert arguments["max_model_len"] == 64
    assert arguments["max_num_seqs"] == 2
    assert arguments["kv_cache_memory_bytes"] == 1 << 28
    assert arguments["enforce_eager"] is True
    assert arguments["seed"] == 7
    assert arguments["speculative_config"]["num_speculative_tokens"] == 3
    assert "speculative_config" not in asked(model, tmp_path).engine.arguments(0, {})


def test_the_engine_is_kept_off_the_network():
    environment = UpConfig(checkpoint="m", output="o").engine.environment()
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"


def refused(config, reason):
    before = ray.is_initialized()
    with pytest.raises(UserError, match=reason) as raised:
        STAGE.execute(config)
    assert "\n" not in str(raised.value)
    assert ray.is_initialized() == before, "nothing may be started"


def left(output):
    return {path.name for path in output.iterdir()}


def test_every_mistake_is_said_before_anything_starts_and_leaves_nothing_half_written(model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").write_text("x")
    weak = tmp_path / "keys"
    weak.write_text("short\n")
    out = tmp_path / "run"
    with taken_port() as port:
        refused(asked(tmp_path / "empty", out, port=port), "not a checkpoint, config.json is missing")
        refused(asked(tmp_path / "absent", out, port=port), "absent")
        refused(asked(model, out, port=port, max_model_len=4096), "max_model_len: 4096 .* context of 1024")
        refused(asked(model, out, port=port), f"port: cannot listen on 127.0.0.1:{port}")
    refused(asked(model, out, port=port, keys_file=str(weak)), "shorter than 20")
    refused(asked(model, out, port=port, keys_file=str(tmp_path / "none")), "no such file")
    refused(asked(model, out, host="203.0.113.7", port=port), "port: cannot listen on 203.0.113.7")
    assert left(out) == {"run.json", "run.lock", "run.log"}


def test_a_format_that_does_not_run_here_is_refused(model, tmp_path):
    four_bits = save_speller(tmp_path / "nvfp4")
    written = json.loads((four_bits / "config.json").read_text())
    weights = {"num_bits": 4, "type": "float", "group_size": 16}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    written["quantization_config"] = {"quant_method": "compressed-tensors", "config_groups": groups}
    (four_bits / "config.json").write_text(json.dumps(written))
    from serving.hardware import detect

    if detect().gpu is not None:
        pytest.skip("this machine has a GPU, which runs nvfp4a16")
    refused(asked(four_bits, tmp_path / "run"), "the format nvfp4a16 does not run here: .* int8_w8a8")


def test_the_command_ends_with_2_and_one_line_when_the_port_is_taken(model, tmp_path, raymill_here):
    with taken_port() as port:
        (tmp_path / "up.yaml").write_text(yaml.safe_dump({"checkpoint": str(model), "output": "run", "port": port}))
        done = raymill_here("serve", "up", "up.yaml")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert f"port: cannot listen on 127.0.0.1:{port}" in last
    assert "Traceback" not in done.stderr + done.stdout
    assert left(tmp_path / "run") == {"run.json", "run.lock", "run.log"}


@pytest.mark.faults
def test_of_several_formats_the_fastest_is_served_and_measured_once(quantized, tmp_path, raymill):
    config = {
        "checkpoint": str(quantized.original),
        "formats": [str(quantized.run)],
        "max_num_seqs": 2,
        "kv_cache_gib": 0.05,
        "questions": [{"prompt": "a", "max_tokens": 4}],
    }
    (tmp_path / "up.yaml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for output, known in (("first", "measured now"), ("second", "remembered")):
        done = raymill("serve", "up", "up.yaml", "--address", "local", "--set", f"output={output}", env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        (chosen,) = (line for line in (tmp_path / output / "run.log").read_text().splitlines() if "format: " in line)
        assert f"({known})" in chosen
        served = json.loads((tmp_path / output / "endpoint.json").read_text())["quantization"]
        assert (served == "int8_w8a8") == ("format: int8_w8a8" in chosen)
        assert json.loads((tmp_path / output / "answers.json").read_text())[0]["completion_tokens"] == 4
