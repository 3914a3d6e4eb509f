"""The requests that the door accepts: OpenAI's fields, and the sampling fields of vLLM that clients use beside them.

A field that is not here is refused, because vLLM takes more in a request than a stranger should set (a chat template,
transfer parameters of the cache, priorities).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_MAX_CHOICES = 16
_MAX_STOPS = 8


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Body):
    """How a stream ends."""

    include_usage: bool = Field(False, description="send the token counts in a last chunk")


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
    name: str | None = None


class Sampling(_Body):
    """What chat and plain completions have in common."""

    model: str = Field(description="one of the ids that /v1/models lists")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=_MAX_CHOICES)
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=_MAX_STOPS)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    user: str | None = None

    def engine_body(self) -> dict[str, Any]:
        """What goes on to the engine: the fields that the client set."""
        return self.model_dump(exclude_none=True, exclude={"user"})


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None


def describe(error: dict[str, Any]) -> tuple[str, str | None]:
    """A pydantic error as (message, name of the field)."""
    steps = [str(step) for step in error["loc"] if step != "body"]
    name = ".".join(steps) or None
    if error["type"] == "extra_forbidden":
        return f"Unrecognized request argument: {name}.", name
    if error["type"] == "json_invalid":
        return "The request body is not valid JSON.", None
    reason = str(error["msg"])
    return (f"{name}: {reason[0].lower()}{reason[1:]}." if name else f"{reason}."), name
