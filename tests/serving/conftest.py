"""One quantized checkpoint and one engine for all tests of serving: a cold start takes a minute or more."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cluster  # noqa: F401 (its environment must be set before the tests import Ray, which reads it once)
from core.manifest import Manifest
from tests.conftest import ROOT
from tests.serving.fixtures import documents, save_eagle3_head, save_speller, write_parquet

if TYPE_CHECKING:
    from serving.engine import ModelConfig

KEY = "rml-0123456789abcdefghij"
SECOND_KEY = "rml-jihgfedcba9876543210"


@dataclass(frozen=True)
class Quantized:
    original: Path
    documents: Path
    run: Path
    manifest: Manifest

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoint"


@dataclass(frozen=True)
class Endpoint:
    url: str
    key: str
    second_key: str
    port: int
    model_id: str
    checkpoint: Path
    max_running: int

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def door() -> Iterator[tuple[Any, Any, Any]]:
    """One for all tests that leave it as they found it: (application, client, its first model)."""
    from tests.serving.doors import Parrot, listening

    parrot = Parrot()
    with listening({"parrot": parrot, "org/second": Parrot()}) as (app, client):
        yield app, client, parrot


@pytest.fixture
def client(door: tuple[Any, Any, Any]) -> Any:
    return door[1]


@pytest.fixture
def parrot(door: tuple[Any, Any, Any]) -> Any:
    door[2].bodies.clear()
    return door[2]


@pytest.fixture(scope="session")
def vllm_asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed vLLM says of its kernels, and of a tiny model, in one process: to import it is dear."""
    from serving import kernel_probe
    from serving.engine import EngineSettings, Speculative
    from serving.format_speed import Job, Request

    if not kernel_probe.operations(()):
        pytest.skip("vllm is absent")
    checkpoint = save_speller(tmp_path_factory.mktemp("asked") / "model")
    content = json.loads((checkpoint / "config.json").read_text())
    head = save_eagle3_head(checkpoint.parent / "head", checkpoint)
    plain = EngineSettings(dtype="float32", max_num_seqs=2, kv_cache_gib=0.05)
    speculative = Speculative(method="eagle3", checkpoint=str(head), tokens=2)
    drafting = plain.model_copy(update={"speculative": speculative})
    jobs = [
        Job(name, str(checkpoint), settings.arguments(0, content))
        for name, settings in (("float32", plain), ("eagle3", drafting))
    ]
    prompts = [[40 + number, 41, 42 + number, 43] for number in range(3)]
    request = Request(jobs, (1, 2), new_tokens=8, rounds=1, prompts=prompts, keep_answers=True)
    script = "import json, sys; from serving import format_speed, kernel_probe; from tests.serving import table\n"
    script += "from vllm import _custom_ops as ops\n"
    script += "for _ in range(2):\n"
    script += "    print(json.dumps(kernel_probe.probe()), file=sys.stderr)\n"
    script += "    ops._supports_cpu_fp8_w8a16 = not ops._supports_cpu_fp8_w8a16  # another machine's library\n"
    script += "format_speed.main()\n"
    script += "print(json.dumps({'table': table.multiplied()}), file=sys.stderr)"
    environment = os.environ | plain.environment()
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, input=request.to_json(), capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    [kernels, elsewhere] = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"int8_w8a8"')]
    [table] = [json.loads(line)["table"] for line in done.stderr.splitlines() if line.startswith('{"table"')]
    speeds = {line["name"]: line for line in said if "trying" not in line}
    asked = {"kernels": kernels, "kernels_elsewhere": elsewhere, "checkpoint": checkpoint, "prompts": prompts}
    return asked | {"speeds": speeds, "table": table}


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """A random Llama, and the same in INT8 as `serve quantize` leaves it."""
    from serving.quantize import STAGE, QuantizeConfig

    folder = tmp_path_factory.mktemp("quantized")
    original = save_speller(folder / "model")
    texts = write_parquet(folder / "documents" / "a.parquet", documents(120)).parent
    config = QuantizeConfig(
        output=str(folder / "run"),
        checkpoint=str(original),
        documents=str(texts),
        samples=16,
        held_out_samples=8,
        sequence_length=64,
    )
    manifest, _ = STAGE.execute(config)
    return Quantized(original, texts, folder / "run", manifest)


@pytest.fixture(scope="package")
def endpoint(ray_session: None, quantized: Quantized) -> Iterator[Endpoint]:
    """Ray Serve with one INT8 vLLM replica that speculates; of this package, so that it is gone before others run.

    A test that changes it must leave it as it was.
    """
    from serving import auth, checks, lifecycle
    from serving.door_settings import DoorConfig
    from serving.endpoint import Address

    port = free_port()
    address = Address("127.0.0.1", port)
    model = served_model(quantized)
    keys = [auth.Key(name=name, digest=auth.digest(key)) for name, key in (("alice", KEY), ("bob", SECOND_KEY))]
    lifecycle.deploy([checks.served(model)], address, keys, DoorConfig(max_waiting=2, max_body_bytes=100_000))
    try:
        lifecycle.wait_ready(address, 600, lambda _: None)
        yield Endpoint(address.url, KEY, SECOND_KEY, port, "speller", quantized.checkpoint, model.max_num_seqs)
    finally:
        lifecycle.shutdown()


def served_model(quantized: Quantized) -> "ModelConfig":
    """What the endpoint serves."""
    from serving.engine import ModelConfig, Speculative

    return ModelConfig(
        model_id="speller",
        checkpoint=str(quantized.checkpoint),
        dtype="float32",
        max_num_seqs=4,
        kv_cache_gib=0.05,
        tool_parser="hermes",
        speculative=Speculative(method="ngram", adaptive=False),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
