"""Conversations with a model: turns, tools, and the requests that hold them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from serving.grammar_limits import check_schemas
from serving.protocol import Body, Json, ModelRequest, Sampling

_MAX_TOOLS = 128
_MAX_MESSAGES = 2048
_MAX_PARTS = 2048  # of one message


class TextPart(Body):
    """A piece of a turn, as clients send it that also know images."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    """What the model wanted to call."""

    name: str
    arguments: str = Field(description="JSON text")


class ToolCall(Body):
    """A call that an earlier answer asked for."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One turn of a conversation. Clients send an answer back as it came: fields without a value are taken."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=_MAX_PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=_MAX_TOOLS)] | None = None
    tool_call_id: str | None = Field(None, description="of a tool's answer: the call that it answers")
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    reasoning: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is missing")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool_call_id belongs to the role tool, and only to it")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to the role assistant")
        return self


class Function(Body):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: Json | None = Field(None, description="JSON schema of its arguments")
    strict: bool | None = None


class Tool(Body):
    """A tool; functions are the only ones."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=_MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, min_length=1, max_length=_MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _choice_is_a_tool(self) -> Self:
        if self.tools is None:
            if self.tool_choice not in (None, "none"):
                raise ValueError("tool_choice: there are no tools")
            return self
        functions = [tool.function for tool in self.tools]
        if isinstance(self.tool_choice, NamedTool):
            functions = [function for function in functions if function.name == self.tool_choice.function.name]
            if not functions:
                raise ValueError("tool_choice: none of the tools has this name")
        elif self.tool_choice != "required" and not self._chosen_by_grammar(functions):
            return self
        try:
            check_schemas(function.parameters for function in functions)  # one grammar holds all of them
        except ValueError as error:
            raise ValueError(f"tools: {error}") from None
        return self

    def _chosen_by_grammar(self, functions: list[Function]) -> bool:
        """Of "auto", which vLLM takes where the choice is left out too: one strict function puts all into a grammar."""
        return self.tool_choice != "none" and any(function.strict for function in functions)

    def tokens_asked(self) -> int:
        """Of all choices."""
        return self.n * (self.max_completion_tokens or self.max_tokens or 0)


class TokenizeRequest(ModelRequest):
    """POST /tokenize: a text, or a conversation in the model's chat template."""

    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)] | None = None
    tools: list[Tool] | None = Field(None, min_length=1, max_length=_MAX_TOOLS)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _text_or_conversation(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either prompt or messages")
        if self.messages is None and (self.tools is not None or self.add_generation_prompt is not None):
            raise ValueError("tools and add_generation_prompt belong to messages")
        return self
