"""The servers that benchmarks compare, each started as its users start it, with the same engine arguments and the same
environment, and the load that is put on both in turn."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from serving import load, prompts
from serving.engine import EngineSettings
from serving.load_statistics import Level, Objectives, summarize

ROOT = Path(__file__).resolve().parent.parent
MODEL = "raymill"
START_SECONDS = 300.0
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Side:
    """A server that answers at `url` once `ready` has returned."""

    url: str
    key: str | None = None
    ready: Callable[[], None] = lambda: None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def random_model(folder: Path, layers: int = 12, width: int = 768) -> Path:
    """A Llama of random weights, 100 M parameters by default, with a tokenizer of bytes and nothing learned."""
    import serving_setup
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: number for number, letter in enumerate(letters)}
    words |= {f"word{number}": number for number in range(len(letters), serving_setup.VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    model = serving_setup.llama(layers, width)
    model.config.eos_token_id = model.generation_config.eos_token_id = None  # every answer has the length asked for
    model.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of a process group of its own, which ends with it."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:  # Ray Serve waits for a raylet that got the same signal
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(url: str, log: Path, alive: Callable[[], bool] = lambda: True) -> None:
    """Until an address answers 200; ends the benchmark with the server's last words when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as response:
            if response.status == 200:
                return
        time.sleep(0.5)
    sys.exit(f"{url} does not answer:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def ours(checkpoint: Path, settings: EngineSettings, folder: Path, waiting: int = 64) -> Iterator[Side]:
    """`raymill serve up --set keep=true`, and `raymill serve down`."""
    port, key = free_port(), f"rml-{secrets.token_urlsafe(24)}"
    (folder / "key").write_text(key + "\n")
    config = settings.model_dump(mode="json", exclude_defaults=True) | {
        "checkpoint": str(checkpoint),
        "output": str(folder / "up"),
        "model_id": MODEL,
        "port": port,
        "keys_file": str(folder / "key"),
        "max_waiting": waiting,
        "keep": True,
    }
    (folder / "up.yaml").write_text(yaml.safe_dump(config))
    raymill = [sys.executable, "-m", "raymill", "serve"]
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    try:
        subprocess.run([*raymill, "up", str(folder / "up.yaml")], env=environment, check=True, cwd=folder)
        yield Side(f"http://127.0.0.1:{port}/v1", key)
    finally:
        subprocess.run([*raymill, "down"], env=environment, check=False, cwd=folder)


@contextlib.contextmanager
def bare(checkpoint: Path, settings: EngineSettings, folder: Path) -> Iterator[Side]:
    """vLLM's own server, without a log line for each request."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--uvicorn-log-level", "warning"]
    for name, value in _arguments(settings, checkpoint).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            command.append(option if value else f"--no-{option[2:]}")
        else:
            command += [option, str(value)]
    log = folder / "bare.log"
    with process(command, settings.environment(), log) as server:
        up = f"http://127.0.0.1:{port}/health"
        yield Side(f"http://127.0.0.1:{port}/v1", ready=lambda: wait_until(up, log, lambda: server.poll() is None))


_STOCK = """
import sys, json, time, signal
import cluster
import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app
given = json.loads(sys.argv[1])
ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=4)
serve.start(http_options={"host": "127.0.0.1", "port": given["port"]})
config = LLMConfig(
    model_loading_config={"model_id": given["model"], "model_source": given["checkpoint"]},
    engine_kwargs=given["arguments"],
    accelerator_config={"kind": "cpu"},
    placement_group_config={"bundles": [{"CPU": 1}]},
    deployment_config={"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
    runtime_env={"env_vars": given["environment"]},
)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
serve.run(build_openai_app({"llm_configs": [config]}), blocking=False)
print("up", flush=True)
try:
    while True:
        time.sleep(1)
finally:
    serve.shutdown()
    ray.shutdown()
"""


@contextlib.contextmanager
def stock(checkpoint: Path, settings: EngineSettings, folder: Path) -> Iterator[Side]:
    """`ray.serve.llm` as its documentation has it for CPUs."""
    port = free_port()
    given = {
        "port": port,
        "model": MODEL,
        "checkpoint": str(checkpoint),
        "arguments": _arguments(settings, checkpoint),
        "environment": settings.environment(),
    }
    log = folder / "stock.log"
    command = [sys.executable, "-c", _STOCK, json.dumps(given)]
    with process(command, {"PYTHONPATH": str(ROOT)}, log) as server:
        url = f"http://127.0.0.1:{port}/v1"
        up = f"{url}/models"
        yield Side(url, ready=lambda: wait_until(up, log, lambda: server.poll() is None))


def _arguments(settings: EngineSettings, checkpoint: Path) -> dict[str, Any]:
    from core.checkpoint import check

    return settings.arguments(0, check(checkpoint))


def press(side: Side, concurrency: int, requests: int, max_tokens: int, seed: int, tokens: int = 64) -> Level:
    """A closed loop of prompts that no cache knows; every request must be answered."""
    fields = {
        "model": MODEL,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    asked = prompts.bodies(prompts.PromptSet(tokens=tokens), False, requests, (seed, concurrency))
    ready = [load.Request.of("completions", fields | next(asked)) for _ in range(requests)]

    async def go() -> list[load.Sample]:
        async with load.Client(side.url, side.key) as client:
            return await load.closed_loop(client, cycle(ready), concurrency, load.Limits(requests))

    samples = asyncio.run(go())
    level = summarize("concurrency", concurrency, samples, Objectives())
    if level.errors:
        sys.exit(f"{side.url}: {level.errors}: {next(sample.message for sample in samples if sample.message)}")
    return level


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="raymill-bench-") as folder:
        yield Path(folder)
