"""What a request may use of its key's tokens, and what it has used when nobody counted."""

import logging
from typing import Any
from weakref import WeakKeyDictionary

from serving.catalogue import Served
from serving.visit import Visit

log = logging.getLogger("ray.serve")
_BYTES_PER_TOKEN = 4
_TOKENS_PER_SECOND = 20.0
"""Of one answer, until one was measured."""
_MEAN_WEIGHT = 0.1
_DEFAULT_LIMIT = 16  # of a plain completion, as OpenAI and vLLM have it
_LIMITS = ("max_completion_tokens", "max_tokens")
_contexts: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_paces: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
"""Tokens per second of one answer, by model: of its queue, which outlives its engines."""


def prompt_tokens(found: Visit) -> int:
    """An estimate: 4 bytes or so a token."""
    return found.body_bytes // _BYTES_PER_TOKEN + 1


async def reserve_the_rest(found: Visit, served: Served, kind: str, body: dict[str, Any]) -> None:
    """A chat that sets no limit may use the rest of the context: that is reserved too, as far as the key could ever pay
    it. Raises ApiError 429 when it is not there."""
    allowance = found.allowance
    if kind != "chat" or _limit(body) is not None or allowance is None or not allowance.counts_tokens:
        return
    rest = max(0, await _context(served) - prompt_tokens(found)) * _answers(body)
    more = allowance.payable(found.reserved_tokens, rest)
    allowance.reserve_tokens(more)
    found.reserved_tokens += more


def measure(found: Visit, served: Served, body: dict[str, Any]) -> None:
    """Learn how fast this model answers, from an answer that was counted."""
    if found.completion_tokens and found.engine_s > 0:
        pace = found.completion_tokens / _answers(body) / found.engine_s
        old = _paces.get(served.gate, pace)
        _paces[served.gate] = old + _MEAN_WEIGHT * (pace - old)


def estimate(found: Visit, served: Served, kind: str, body: dict[str, Any], waited_s: float) -> None:
    """Who leaves before the counts come is charged all the same: his prompt, and a token or more for each part that
    came; where none came, what the model makes in such a time, up to what was asked for."""
    if found.prompt_tokens:
        return
    found.prompt_tokens = prompt_tokens(found)
    if found.parts or kind == "embeddings":
        found.completion_tokens = found.parts if kind != "embeddings" else 0
        return
    made = waited_s * _paces.get(served.gate, _TOKENS_PER_SECOND) * _answers(body)
    limit = _limit(body) if kind == "chat" or _limit(body) is not None else _DEFAULT_LIMIT
    found.completion_tokens = int(min(made, limit * _answers(body)) if limit is not None else made)


def _limit(body: dict[str, Any]) -> int | None:
    return next((body[name] for name in _LIMITS if body.get(name) is not None), None)


def _answers(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return int(body.get("n") or 1) * (len(prompt) if several else 1)  # type: ignore[arg-type]


async def _context(served: Served) -> int:
    if served.entry.max_model_len is not None:
        return served.entry.max_model_len
    if served.backend not in _contexts:
        try:
            _contexts[served.backend] = (await served.backend.limits())["max_model_len"]
        except Exception:
            log.exception("%s does not tell its context", served.model)
            return 0
    return _contexts[served.backend]
