"""Errors as the OpenAI clients expect them: a status and `{"error": {...}}`, never a word about our insides."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ApiError(Exception):
    """An answer that is an error; travels from the replica to the door and from there to the client."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def __reduce__(self) -> tuple[Any, ...]:
        return (ApiError, (self.status, self.message, self.type, self.param, self.code, self.headers))


def unauthorized() -> ApiError:
    """401: no key, or a wrong one; the two are not told apart."""
    message = "Incorrect or missing API key. Send it as 'Authorization: Bearer <key>'."
    return ApiError(
        401, message, "authentication_error", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
    )


def unknown_model(name: str) -> ApiError:
    """404: this endpoint does not serve that model."""
    return ApiError(
        404,
        f"The model {name[:100]!r} does not exist here; GET /v1/models lists what does.",
        param="model",
        code="model_not_found",
    )


def not_found() -> ApiError:
    """404: no such path."""
    return ApiError(404, "There is nothing at this path.", code="not_found")


def busy(retry_after_s: int) -> ApiError:
    """429: the queue is full."""
    message = f"Too many requests are waiting; try again in {retry_after_s} s."
    return ApiError(429, message, "rate_limit_error", code="queue_full", headers={"Retry-After": str(retry_after_s)})


def over_quota(reason: str, retry_after_s: int) -> ApiError:
    """429: the key has used up what it may use."""
    headers = {"Retry-After": str(retry_after_s)}
    message = f"{reason}; try again in {retry_after_s} s."
    return ApiError(429, message, "rate_limit_error", code="rate_limit_exceeded", headers=headers)


def too_large(limit: int) -> ApiError:
    """413: the request body is over the limit."""
    return ApiError(413, f"The request is larger than {limit:,} bytes.", code="request_too_large")


def too_slow(seconds: float) -> ApiError:
    """408: the client did not send its body in time."""
    message = f"The request body did not arrive within {seconds:g} s."
    return ApiError(408, message, code="request_timeout", headers={"Connection": "close"})


def timed_out(seconds: float) -> ApiError:
    """504: the answer took longer than its deadline. OpenAI's clients would ask again by themselves, for as long."""
    message = f"The answer took longer than {seconds:g} s and was stopped."
    return ApiError(504, message, "server_error", code="timeout", headers={"X-Should-Retry": "false"})


def not_ready() -> ApiError:
    """503: the engine does not answer."""
    return ApiError(503, "The model is not ready.", "server_error", code="not_ready", headers={"Retry-After": "5"})


def internal() -> ApiError:
    """500: our own failure; the reason stands in the server's log alone."""
    return ApiError(500, "The server failed to answer this request.", "server_error", code="internal_error")
