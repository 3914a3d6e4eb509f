"""The requests that the door accepts: OpenAI's fields, and the sampling fields of vLLM that clients use beside them.

A field that is not here is refused, because vLLM takes more in a request than a stranger should set (a chat template,
transfer parameters of the cache, priorities).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticSerializationError

_MAX_CHOICES = 16
_MAX_STOPS = 8
_MAX_PROMPTS = 256  # of one request: each is work of its own for the engine, behind a single place in the queue
_UNION_TAGS = frozenset({"str", "int"})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Body):
    """How a stream ends."""

    include_usage: bool = Field(False, description="send the token counts in a last chunk")


class TextPart(_Body):
    """A piece of a turn, as clients send it that also know images."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
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

    @model_validator(mode="after")
    def _is_unicode(self) -> Self:
        """JSON can spell half of a surrogate pair, of which tokenizers die."""
        try:
            self.model_dump_json()
        except PydanticSerializationError:
            raise ValueError("a text holds half of a surrogate pair, which is no character") from None
        return self

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


_Tokens = list[Annotated[int, Field(ge=0)]]


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | list[str] | _Tokens | list[_Tokens]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None

    @field_validator("prompt")
    @classmethod
    def _some_but_not_too_many(cls, prompt: Any) -> Any:
        if prompt == []:
            raise ValueError("the list is empty")
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        if several and len(prompt) > _MAX_PROMPTS:
            raise ValueError(f"one request may hold {_MAX_PROMPTS} prompts, not {len(prompt)}")
        return prompt


def describe(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Why pydantic refused a body, as (message, name of the field).

    Of a field that may have several shapes, pydantic lists what is wrong with each: the one that came furthest tells,
    and of those one that found more wrong than the type.
    """
    field = _steps(errors[0])[:1]
    error = max((error for error in errors if _steps(error)[:1] == field), key=_progress)
    steps = _steps(error)
    name = ".".join(step for step in steps if step not in _UNION_TAGS and "[" not in step) or None
    if error["type"] == "extra_forbidden":
        return f"Unrecognized request argument: {name}.", name
    if error["type"] == "json_invalid":
        return "The request body is not valid JSON.", None
    if name is None and error["type"] in ("missing", "model_attributes_type"):
        return "The request body must be a JSON object, sent with 'Content-Type: application/json'.", None
    reason = str(error["msg"]).removeprefix("Value error, ")
    return (f"{name}: {reason[0].lower()}{reason[1:]}." if name else f"{reason[0].upper()}{reason[1:]}."), name


def _steps(error: Mapping[str, Any]) -> list[str]:
    return [str(step) for step in error["loc"] if step != "body"]


def _progress(error: Mapping[str, Any]) -> tuple[int, bool]:
    return len(error["loc"]), not str(error["type"]).endswith(("_type", "_parsing"))
