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
_LEAST = 256
"""Tokens for each answer of a chat without a limit: with fewer it is told to come back."""
_LIMITS = ("max_completion_tokens", "max_tokens")
_paces: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
"""Tokens per second of one answer, by model: of its queue, which outlives its engines."""


def prompt_tokens(found: Visit) -> int:
    """An estimate: 4 bytes or so a token."""
    return found.body_bytes // _BYTES_PER_TOKEN + 1


async def reserve_the_rest(found: Visit, served: Served, kind: str, body: dict[str, Any]) -> None:
    """A chat that sets no limit may use the rest of the context: that is reserved too, or what its key has left, and
    then its answer ends there. Raises ApiError 429 when that would be next to nothing."""
    allowance = found.allowance
    if kind != "chat" or _limit(body) is not None or allowance is None or not allowance.counts_tokens:
        return
    try:
        context = await served.context()
    except Exception:  # the request meets it itself, and there it has a status
        log.exception("%s does not tell its context", served.model)
        return
    answers = _answers(body)
    rest = max(0, context - prompt_tokens(found)) * answers
    least = min(rest, max(_LEAST, body.get("min_tokens") or 0) * answers)
    more = allowance.payable(found.reserved_tokens, rest, least)
    allowance.reserve_tokens(more)
    found.reserved_tokens += more
    limit = max(1, more // answers)
    # A prompt has a token for each byte at most. Where so many would not fit beside the limit, the engine might refuse
    # it: then what the answer has beyond is owed.
    if more < rest and found.body_bytes + limit <= context:
        body[_LIMITS[0]] = limit


def measure(found: Visit, served: Served, body: dict[str, Any]) -> None:
    """Learn how fast this model answers, from an answer that was counted."""
    if found.completion_tokens and found.engine_s > 0:
        pace = found.completion_tokens / _answers(body) / found.engine_s
        old = _paces.get(served.gate, pace)
        _paces[served.gate] = old + _MEAN_WEIGHT * (pace - old)


def estimate(found: Visit, served: Served, kind: str, body: dict[str, Any], waited_s: float) -> None:
    """Who leaves before the counts come is charged all the same: his prompt, and a token or more for each part that
    came; where none came, what the model makes in such a time, up to what was asked for and reserved. Of that time
    nobody knows how long the request lay in the engine's queue, or waited for an engine to start."""
    if found.prompt_tokens:
        return
    found.prompt_tokens = prompt_tokens(found)
    if found.parts or kind == "embeddings":
        found.completion_tokens = found.parts if kind != "embeddings" else 0
        return
    made = waited_s * _paces.get(served.gate, _TOKENS_PER_SECOND) * _answers(body)
    limit = _limit(body) if kind == "chat" or _limit(body) is not None else _DEFAULT_LIMIT
    if limit is not None:
        made = min(made, limit * _answers(body))
    if found.allowance is not None and found.allowance.counts_tokens:
        made = min(made, max(0, found.reserved_tokens - found.prompt_tokens))
    found.completion_tokens = int(made)


def _limit(body: dict[str, Any]) -> int | None:
    return next((body[name] for name in _LIMITS if body.get(name) is not None), None)


def _answers(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return int(body.get("n") or 1) * (len(prompt) if several else 1)  # type: ignore[arg-type]
