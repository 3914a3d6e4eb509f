"""What the door asks of a model, wherever that runs."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol


class Backend(Protocol):
    """A model behind the door: in production the replicas of a Ray Serve deployment."""

    def generate(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """One JSON text, or server-sent events; closing the iterator ends the generation.

        `kind` is the endpoint (`chat`, `completions`, ...); what is refused is raised as an ApiError.
        """
        ...

    async def limits(self) -> dict[str, int]:
        """`max_model_len`."""
        ...

    async def alive(self, kind: str, body: dict[str, Any]) -> bool:
        """Whether each of its engines answers this probe, or works for others meanwhile: see `readiness.alive`."""
        ...

    async def metrics(self) -> str:
        """Prometheus' text form."""
        ...
