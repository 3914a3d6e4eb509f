"""An endpoint of two replicas without vLLM, in a Ray of its own; `main` prints as JSON what it did."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import httpx

from tests.serving.conftest import free_port
from tests.serving.doors import BEARER, KEY, Parrot

MODEL = "m"


class Pid(Parrot):
    """Answers with the number of its process, which tells the replicas apart; `crash` fails."""

    def __init__(self, *_):
        super().__init__()

    def text(self, kind, body):
        prompt = super().text(kind, body)
        return prompt if prompt == "crash" else str(os.getpid())

    async def check_health(self):
        pass

    def reconfigure(self, user_config):
        pass


def asked(client, prompt):
    """Which replica answered, or the status."""
    response = client.post("/v1/completions", json={"model": MODEL, "prompt": prompt})
    return int(response.json()["choices"][0]["text"]) if response.status_code == 200 else f"HTTP {response.status_code}"


def main():
    import ray
    from ray import cloudpickle

    from cluster import runtime
    from serving import application, auth, lifecycle
    from serving.door_settings import DoorConfig
    from serving.endpoint import Address, ServedModel
    from serving.engine import ModelConfig
    from tests.serving import doors

    for module in (doors, sys.modules[__name__]):
        cloudpickle.register_pickle_by_value(module)
    runtime.connect("local")
    address = Address("127.0.0.1", free_port())
    config = ModelConfig(model_id=MODEL, device="cpu", replicas={"min": 2, "max": 2, "cpus": 0.1})
    model = ServedModel(config=config, quantization="none", max_model_len=64, version="1", adapters={})
    found = {}
    try:
        with mock.patch.object(application, "ModelReplica", Pid):
            lifecycle.deploy([model], address, [auth.Key(name="a", digest=auth.digest(KEY))], DoorConfig())
        lifecycle.wait_ready(address, 120, lambda _: None)
        assert lifecycle.settle(60) is None
        with httpx.Client(base_url=address.url.removesuffix("/v1"), headers=BEARER, timeout=30) as client:
            found["by_prefix"] = [[asked(client, chr(97 + n) * 300 + f" {i}") for i in range(4)] for n in range(6)]
            found["crash"] = asked(client, "crash")
            doomed = found["by_prefix"][0][0]
            os.kill(doomed, signal.SIGKILL)
            began = time.monotonic()
            found["after"] = [asked(client, "a" * 300 + f" {i}") for i in range(8)]
            found["seconds"] = time.monotonic() - began
            found["ready"] = client.get("/ready").status_code
            again, number = set(), 0
            while len(again) < 2 and time.monotonic() < began + 90:  # Ray Serve has to notice, and to start another
                again.add(asked(client, f"{number:04}" * 80))
                number += 1
                time.sleep(0.2)
            found["again"] = sorted(again)
        logs = Path(ray._private.worker._global_node.get_logs_dir_path(), "serve")
        found["logs"] = {file.name: file.read_text().splitlines() for file in logs.glob("replica_*.log")}
    finally:
        lifecycle.shutdown()
    print(json.dumps(found))
