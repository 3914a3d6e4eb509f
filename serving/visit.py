"""What one request did, from its arrival to its last byte: what the metrics and the audit log are made of."""

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from serving.auth import Key
from serving.quota import Allowance

_SCOPE_KEY = "raymill.visit"


@dataclass
class Visit:
    """Filled in by whoever knows; times are `time.perf_counter()` and spans are seconds."""

    path: str
    method: str
    client: str
    began: float = field(default_factory=time.perf_counter)
    key: Key | None = None
    allowance: Allowance | None = None
    model: str | None = None
    """As the engine knows it; None until it is found in the catalogue."""
    route: str = "none"
    """The route's template; what strangers ask for must not become labels."""
    prompt: Any = None
    body_bytes: int = 0
    status: int = 0
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reserved_tokens: int = 0
    asked: float | None = None
    """When the engine was asked."""
    first: float | None = None
    """When its first part came."""
    last: float | None = None
    """When its last part came."""
    parts: int = 0
    engine_s: float = 0.0
    """Time spent waiting for the engine."""
    gone: bool = False
    """The client left before the end."""

    @property
    def seconds(self) -> float:
        """Since the arrival."""
        return time.perf_counter() - self.began

    def settle(self) -> None:
        """Charge the key with what was used."""
        if self.allowance is not None:
            self.allowance.settle(self.reserved_tokens, self.prompt_tokens + self.completion_tokens)
            self.reserved_tokens = self.prompt_tokens + self.completion_tokens


def begin(scope: Scope) -> Visit:
    """Note the arrival of a request in its scope."""
    client = scope.get("client")
    visit = Visit(scope["path"], scope["method"], client[0] if client else "")
    scope[_SCOPE_KEY] = visit
    return visit


def of(scope: Scope) -> Visit:
    """The visit that `begin` noted."""
    visit: Visit = scope[_SCOPE_KEY]
    return visit
