"""The requests that the door accepts: OpenAI's fields, and the sampling fields of vLLM that clients use beside them.

A field that is not here is refused, because vLLM takes more in a request than a stranger should set (a chat template,
transfer parameters of the cache, priorities). Bodies are read by `pydantic_core.from_json`: no NaN, no half of a
surrogate pair (of which tokenizers die), 200 levels of nesting at most.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from serving.bounded import bound
from serving.grammar_limits import MAX_BYTES, MAX_REGEX, check_regex, check_schemas

_MAX_CHOICES = 16
_MAX_STOPS = 8
_MAX_PROMPTS = 256  # of one request: each is work of its own for the engine, behind a single place in the queue
_MAX_NAME = 100
_MAX_FIELDS = 100  # no object of the protocol has half as many
_Stop = Annotated[str, Field(max_length=1000)]
_UNION_TAGS = frozenset({"str", "int"})
Json = dict[str, Any]


def _compiles_soon(schema: Json) -> Json:
    check_schemas([schema])
    return schema


Schema = Annotated[Json, AfterValidator(_compiles_soon)]
"""A JSON schema of which the engine makes a grammar."""


class Body(BaseModel):
    """Base of all that clients send: what is not listed is refused, and a list at its first wrong item."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _not_too_many_fields(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > _MAX_FIELDS:
            raise ValueError(f"{len(given):,} fields, of which {_MAX_FIELDS} at most can be known here")
        return given

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What pydantic makes of the fields, bounded."""
        schema = handler(source)
        bound(schema)
        return schema


class ModelRequest(Body):
    """What every request to a model has."""

    model: str = Field(max_length=200, description="one of the ids that /v1/models lists")

    def engine_body(self) -> dict[str, Any]:
        """What goes on to the engine: the fields that the client set."""
        body = self.model_dump(exclude_none=True, exclude={"user"}, by_alias=True)
        for message in body.get("messages", ()):
            if message["role"] == "developer":  # OpenAI's newer word for system; chat templates do not know it
                message["role"] = "system"
        return body

    def tokens_asked(self) -> int:
        """The most tokens that the answer may have, as far as the request says."""
        return 0


# --- sampling -------------------------------------------------------------------------------------------------------


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: bool = Field(False, description="send the token counts in a last chunk")
    continuous_usage_stats: bool | None = Field(None, description="send them in every chunk (vLLM)")


class JsonSchema(Body):
    """A schema that the answer must follow."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: Schema | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's structured output."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema, and only to it")
        return self


class StructuredOutputs(Body):
    """vLLM's structured output; one of the fields. EBNF is not taken: nobody can tell what compiling it costs."""

    json_schema: Schema | None = Field(None, alias="json")
    regex: Annotated[str, AfterValidator(check_regex)] | None = Field(None, min_length=1, max_length=MAX_REGEX)
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(None, min_length=1, max_length=1000)
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(map(len, self.choice or ())) > MAX_BYTES:
            raise ValueError(f"choice: more than {MAX_BYTES:,} characters together")
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("exactly one of json, regex, choice, json_object")
        return self


class Sampling(ModelRequest):
    """What chat and plain completions have in common."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=_MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=_MAX_STOPS)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    ignore_eos: bool | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        Field(None, max_length=1024)
    )
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _options_are_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream: true")
        return self


# --- completions, embeddings, tokens --------------------------------------------------------------------------------

_Tokens = list[Annotated[int, Field(ge=0, le=2**31 - 1)]]
_Prompt = str | list[str] | _Tokens | list[_Tokens]


def _count(prompt: Any) -> int:
    """How many prompts these are. Raises ValueError for none or too many."""
    if prompt == []:
        raise ValueError("the list is empty")
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    if several and len(prompt) > _MAX_PROMPTS:
        raise ValueError(f"one request may hold {_MAX_PROMPTS} prompts, not {len(prompt)}")
    return len(prompt) if several else 1


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: _Prompt
    max_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _some_but_not_too_many(cls, prompt: Any) -> Any:
        _count(prompt)
        return prompt

    @model_validator(mode="after")
    def _not_too_many_answers(self) -> Self:
        if (answers := _count(self.prompt) * self.n) > _MAX_PROMPTS:
            raise ValueError(f"n: one request may ask for {_MAX_PROMPTS} answers in all, not {answers}")
        return self

    def tokens_asked(self) -> int:
        """Of all choices for all prompts; 16 each where the request leaves it open, as OpenAI and vLLM do."""
        return _count(self.prompt) * self.n * (self.max_tokens if self.max_tokens is not None else 16)


class EmbeddingRequest(ModelRequest):
    """POST /v1/embeddings."""

    input: _Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _some_but_not_too_many(cls, prompt: Any) -> Any:
        _count(prompt)
        return prompt


class DetokenizeRequest(ModelRequest):
    """POST /detokenize."""

    tokens: Annotated[_Tokens, Field(max_length=1_000_000)]


# --- refusals -------------------------------------------------------------------------------------------------------


def describe(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Why pydantic refused a body, as (message, name of the field).

    Of a field that may have several shapes, pydantic lists what is wrong with each: the one that came furthest tells,
    and of those one that found more wrong than the type.
    """
    field = _steps(errors[0])[:1]
    error = max((error for error in errors if _steps(error)[:1] == field), key=_progress)
    steps = _steps(error)
    shapes = _UNION_TAGS | _names(Body)
    name = _shown(".".join(step for step in steps if step not in shapes and "[" not in step)) or None
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


def _shown(name: str) -> str:
    """A field's name, which a client may have made up: short and on one line."""
    return (name if name.isprintable() else ascii(name)[1:-1])[:_MAX_NAME]


def _names(base: type[BaseModel]) -> set[str]:
    """Of the models below: pydantic puts the name of the shape that it tried among the steps."""
    return {name for model in base.__subclasses__() for name in (model.__name__, *_names(model))}
