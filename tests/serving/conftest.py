"""One quantized checkpoint and one engine for all tests of serving: a cold start takes a minute or more."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cluster  # noqa: F401 (its environment must be set before the tests import Ray, which reads it once)
from core.manifest import Manifest
from tests.serving.fixtures import documents, save_speller, write_parquet

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
        speculative=Speculative(method="ngram"),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
