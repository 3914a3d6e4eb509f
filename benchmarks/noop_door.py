"""The real front door on Ray Serve, and a bare server, with an engine of fixed latency behind each."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import noop_engine
import serving_sides as sides
from serving_sides import Side

from cluster import runtime
from serving import application, auth, lifecycle
from serving.door_settings import DoorConfig
from serving.endpoint import Address, ServedModel
from serving.engine import ModelConfig


def body(tokens: int) -> dict[str, Any]:
    """A streamed request of 64 prompt tokens."""
    return {
        "model": noop_engine.MODEL,
        "prompt": list(range(64)),
        "max_tokens": tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@contextlib.contextmanager
def ours(running: int, waiting: int) -> Iterator[Side]:
    """What `serve up` starts, with another class in the place of the one that holds an engine."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(noop_engine)
    runtime.connect("local")
    key, port = auth.new_key(), sides.free_port()
    address = Address("127.0.0.1", port)
    config = ModelConfig(model_id=noop_engine.MODEL, max_num_seqs=running, replicas={"cpus": 0.1})
    model = ServedModel(config=config, quantization="none", max_model_len=4096, version="1", adapters={})
    keys = [auth.Key(name="bench", digest=auth.digest(key))]
    try:
        with mock.patch.object(application, "ModelReplica", noop_engine.NoopReplica):
            lifecycle.deploy([model], address, keys, DoorConfig(max_waiting=waiting))
        lifecycle.wait_ready(address, 120, lambda _: None)
        yield Side(address.url, key)
    finally:
        lifecycle.shutdown()


@contextlib.contextmanager
def bare() -> Iterator[Side]:
    port = sides.free_port()
    command = [sys.executable, str(Path(noop_engine.__file__)), str(port)]
    with sides.process(command, {"PYTHONPATH": str(sides.ROOT)}, Path(os.devnull)):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Side(f"http://127.0.0.1:{port}/v1")
