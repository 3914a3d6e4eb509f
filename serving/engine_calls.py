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

    if kind in _TOKENS:
        engine: Any = server.engine
        field = _TOKENS[kind]
        require_known(field, body[field], engine._engine_client.model_config.get_vocab_size())
    name = "TokenizeChatRequest" if kind == "tokenize" and "messages" in body else _REQUESTS[kind]
    request = getattr(models, name).model_validate(body)
    async for item in await getattr(server, kind)(request):
        for part in item if isinstance(item, list) else [item]:
            if isinstance(part, models.ErrorResponse):
                raise as_api_error(part.error)
            elif isinstance(part, str) and part.startswith(_FAILED_EVENT):
                raise as_api_error(SimpleNamespace(**json.loads(part.removeprefix("data: "))["error"]))
            else:
                yield part if isinstance(part, str) else part.model_dump_json(exclude=_OWN_FIELDS)


def as_api_error(error: Any) -> ApiError:
    """vLLM's error, with what a client may know of it."""
    status = int(error.code)
    if status >= 500:
        log.error("the engine failed a request: %s", error.message)
        return errors.internal()
    return refused(error.message, error.param, status)


def refused(message: str, param: str | None, status: int = 400) -> ApiError:
    """What the engine does not do, in its words, without its notes for programmers."""
    plain = _NOTE.sub("", message)
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
