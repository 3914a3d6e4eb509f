"""The body of POST /v1/responses, and the chat that it amounts to."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from serving.conversation import ChatRequest
from serving.protocol import Body, Json, ModelRequest


class InputText(Body):
    """A piece of a turn; what an earlier answer said has more fields, which say nothing to a model."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = Field(None, max_length=1000)
    logprobs: list[Any] | None = None


class InputMessage(Body):
    """One turn."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[InputText], Field(min_length=1)]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCall(Body):
    """A call that an earlier answer asked for."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutput(Body):
    """What a function gave back."""

    type: Literal["function_call_output"]
    call_id: str
    output: str
    id: str | None = None
    status: str | None = None


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class FunctionChoice(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(Body):
    """Structured output, flat."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    json_schema: Json | None = Field(None, alias="schema")
    strict: bool | None = None


class TextSettings(Body):
    """How the text should be."""

    format: TextFormat | None = None
    verbosity: None = None


def _tag(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)
    return f"[{kind}]"  # brackets keep it out of the name of the field in an error


Item = Annotated[
    Annotated[InputMessage, Tag("[message]")]
    | Annotated[FunctionCall, Tag("[function_call]")]
    | Annotated[FunctionOutput, Tag("[function_call_output]")],
    Discriminator(_tag),
]


class ResponsesRequest(ModelRequest):
    """The body of the request."""

    input: str | Annotated[list[Item], Field(min_length=1, max_length=2048)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    text: TextSettings | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    user: str | None = None
    store: bool | None = Field(None, description="accepted; nothing is stored")
    truncation: Literal["disabled"] | None = None
    previous_response_id: str | None = None
    include: list[str] | None = Field(None, max_length=0)
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _whole_conversation(self) -> Self:
        if self.previous_response_id is not None:
            raise ValueError("previous_response_id: nothing is stored here; send the whole conversation as input")
        return self

    def chat(self) -> ChatRequest:
        """The same as a chat. Raises pydantic.ValidationError for what a chat refuses."""
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [*self._instructions(), *self._turns()],
            "stream": bool(self.stream),
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "parallel_tool_calls": self.parallel_tool_calls if self.tools else None,
        }
        if self.stream:
            fields["stream_options"] = {"include_usage": True}
        if self.text is not None and self.text.format is not None and self.text.format.type != "text":
            written = self.text.format.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
            schema = {"json_schema": written} if self.text.format.type == "json_schema" else {}
            fields["response_format"] = {"type": self.text.format.type} | schema
        if self.tools:
            functions = [tool.model_dump(exclude={"type"}, exclude_none=True) for tool in self.tools]
            fields["tools"] = [{"type": "function", "function": function} for function in functions]
            choice = self.tool_choice
            if isinstance(choice, FunctionChoice):
                fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
            else:
                fields["tool_choice"] = choice
        return ChatRequest.model_validate(fields)

    def _instructions(self) -> Iterator[Json]:
        if self.instructions is not None:
            yield {"role": "system", "content": self.instructions}

    def _turns(self) -> Iterator[Json]:
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        calls: list[Json] = []  # of one turn, which a chat keeps together
        for item in self.input:
            if isinstance(item, FunctionCall):
                function = {"name": item.name, "arguments": item.arguments}
                calls.append({"id": item.call_id, "type": "function", "function": function})
                continue
            if calls:
                yield {"role": "assistant", "tool_calls": calls}
                calls = []
            if isinstance(item, FunctionOutput):
                yield {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
            else:
                text = item.content if isinstance(item.content, str) else "".join(part.text for part in item.content)
                yield {"role": item.role, "content": text}
        if calls:
            yield {"role": "assistant", "tool_calls": calls}
