"""One request to `ray.serve.llm`'s server: vLLM's types on the way in, its texts and errors on the way out.

Imports vLLM when it is called: it belongs to the replica alone.
"""

import json
import logging
import re
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from serving import errors
from serving.errors import ApiError

if TYPE_CHECKING:
    from ray.llm._internal.serve.core.server.llm_server import LLMServer

_REQUESTS = {
    "chat": "ChatCompletionRequest",
    "completions": "CompletionRequest",
    "embeddings": "EmbeddingCompletionRequest",
    "tokenize": "TokenizeCompletionRequest",
    "detokenize": "DetokenizeRequest",
}
_TOKENS = {"completions": "prompt", "embeddings": "input", "detokenize": "tokens"}
"""The field that may hold tokens."""
_CONSTRAINTS = ("structured_outputs", "response_format")
_LONGEST = 500
_NOTE = re.compile(r" \((?:parameter|value)=[^()]*\)$")
_FAILED_EVENT = 'data: {"error":'
_TOO_LONG = re.compile(r"context length|max_model_len")
_NO_TOOL_PARSER = "--tool-call-parser"

# What vLLM adds to OpenAI's answer for its own clusters, and its version.
_OWN_FIELDS: Any = {
    **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics", "system_fingerprint"), True),
    **dict.fromkeys(("prompt_token_ids", "prompt_text", "prompt_logprobs"), True),
    "choices": {"__all__": {"routed_experts", "token_ids", "prompt_token_ids", "prompt_logprobs"}},
}

log = logging.getLogger("ray.serve")


async def parts(server: "LLMServer", kind: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
    """One JSON text, or for a stream its server-sent events one by one.

    Raises ApiError, pydantic.ValidationError, or what vLLM raises.
    """
    from ray.llm._internal.serve.core.configs import openai_api_models as models
    from vllm.exceptions import GenerationError

    constraint = next((field for field in _CONSTRAINTS if field in body), None)
    begun = False
    if kind in _TOKENS:
        engine: Any = server.engine
        field = _TOKENS[kind]
        require_known(field, body[field], engine._engine_client.model_config.get_vocab_size())
    name = "TokenizeChatRequest" if kind == "tokenize" and "messages" in body else _REQUESTS[kind]
    request = getattr(models, name).model_validate(body)
    try:
        async for item in await getattr(server, kind)(request):
            for part in item if isinstance(item, list) else [item]:
                if isinstance(part, models.ErrorResponse):
                    raise as_api_error(part.error, constraint)
                elif isinstance(part, str) and part.startswith(_FAILED_EVENT):
                    error = SimpleNamespace(**json.loads(part.removeprefix("data: "))["error"])
                    raise as_api_error(error, None if begun else constraint)
                else:
                    yield part if isinstance(part, str) else part.model_dump_json(exclude=_OWN_FIELDS)
                    begun = True
    except GenerationError as error:
        if constraint is None:
            raise
        raise as_api_error(SimpleNamespace(code=500, message=str(error)), constraint) from None


def as_api_error(error: Any, constraint: str | None = None) -> ApiError:
    """vLLM's error, with what a client may know of it.

    constraint: the field that says what the answer must look like. A grammar that xgrammar reads and cannot compile
    ends the request inside the engine without a reason.
    """
    status = int(error.code)
    if status >= 500:
        log.error("the engine failed a request: %s", error.message)
        if constraint is not None:
            return ApiError(400, f"{constraint}: the engine cannot keep an answer within it.", param=constraint)
        return errors.internal()
    return refused(error.message, error.param, status)


def refused(message: str, param: str | None, status: int = 400) -> ApiError:
    """What the engine does not do, in its words, without its notes for programmers."""
    plain = " ".join(_NOTE.sub("", message).split())[:_LONGEST]
    if _NO_TOOL_PARSER in plain:
        plain = (
            "In which form this model calls tools is not known here: the endpoint must be started with a tool_parser. "
            "Without, tool_choice can be 'none' alone."
        )
        return ApiError(status, plain, param="tool_choice", code="unsupported_value")
    code = "context_length_exceeded" if _TOO_LONG.search(plain) else None
    return ApiError(status, plain, param=param, code=code)


def require_known(field: str, prompt: Any, vocabulary: int) -> None:
    """vLLM takes an id that its tokenizer knows and its model does not, and its engine dies of it on a CPU.

    Raises ApiError 400.
    """
    several = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    for tokens in several:
        highest = max(tokens, default=0) if isinstance(tokens, list) else 0
        if highest >= vocabulary:
            raise ApiError(400, f"{field}: {highest} is not one of the model's {vocabulary:,} tokens.", param=field)
