"""What an endpoint is, as plain data: its models, its keys, its door, its address."""

import ssl
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from core.config import Config
from serving.auth import Key
from serving.door_settings import DoorConfig
from serving.engine import ModelConfig


@dataclass(frozen=True)
class Address:
    """Where the endpoint listens. `certificate` is a PEM file; None: no TLS."""

    host: str
    port: int
    certificate: str | None = None

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """By what to know the endpoint when it is asked from here: its own certificate, whatever name stands in it."""
        if self.certificate is None:
            return True
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


class ServedModel(Config):
    """A model that was checked: see `checks.served`."""

    config: ModelConfig
    quantization: str = Field(description="number format of its weights")
    max_model_len: int | None = Field(description="tokens of prompt and answer together")
    version: str = Field(description="changes when another engine is needed")
    adapters: dict[str, tuple[str, str]] = Field(description="by name: path, and what changes with its files")

    @property
    def deployment(self) -> str:
        """Its name in Ray Serve."""
        return f"model-{self.config.model_id}"


class Endpoint(Config):
    """All that an endpoint is, as plain data. Ray Serve keeps it beside the door: an update starts from it."""

    models: list[ServedModel]
    keys: list[Key] = Field(description="fixed ones; those of door.keys_file come and go with that file")
    door: DoorConfig
    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(self.host, self.port, self.door.tls_certificate)

    def model(self, name: str) -> ServedModel | None:
        """The model of this id."""
        return next((model for model in self.models if model.config.model_id == name), None)

    def listing(self) -> dict[str, Any]:
        """What the door serves: see `catalogue.Listing`."""
        return {
            "models": {model.config.model_id: _entry(model, self.door) for model in self.models},
            "aliases": {alias: model.config.model_id for model in self.models for alias in model.config.aliases},
        }


def _entry(model: ServedModel, door: DoorConfig) -> dict[str, Any]:
    config = model.config
    return {
        "deployment": model.deployment,
        "running": config.max_num_seqs * config.replicas.max,
        "waiting": door.max_waiting,
        "adapters": list(model.adapters),
        "sleeps": config.replicas.min == 0,
        "max_model_len": model.max_model_len,
        "task": config.task,
    }
