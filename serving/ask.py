"""Ask an endpoint through the `openai` client, and measure what a client sees."""

import ssl
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from pydantic import Field, model_validator

from core.config import Config
from core.errors import RaymillError

_TIMEOUT_SECONDS = 300.0


class Turn(Config):
    """One message of a conversation."""

    role: str = Field(description="system, user or assistant")
    content: str = Field(description="its text")


class Question(Config):
    """Something to ask: a conversation, or a plain text to continue."""

    messages: list[Turn] = Field(default_factory=list, description="a conversation to answer")
    prompt: str | None = Field(None, description="or a text to continue")
    max_tokens: int = Field(64, ge=1, description="longest answer")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy: the same answer every time")
    stream: bool = Field(False, description="receive the answer token by token")
    model: str | None = Field(None, description="which model, adapter or alias; None: the first model")

    @model_validator(mode="after")
    def _one_of_both(self) -> "Question":
        if bool(self.messages) == (self.prompt is not None):
            raise ValueError("a question has either messages or a prompt")
        return self

    @property
    def text(self) -> str:
        """What is asked, to show."""
        return self.prompt if self.prompt is not None else self.messages[-1].content


@dataclass(frozen=True)
class Answer:
    """An answer and its cost. `first_token_s` is None when it was not streamed."""

    question: str
    text: str
    finish_reason: str
    streamed: bool
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token_s: float | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the whole time, the prompt's included."""
        return self.completion_tokens / self.seconds if self.seconds > 0 else 0.0

    def row(self) -> dict[str, Any]:
        """As it goes into answers.json."""
        return asdict(self) | {"tokens_per_second": round(self.tokens_per_second, 2)}


def ask(
    url: str, key: str, model: str, questions: Sequence[Question], verify: ssl.SSLContext | bool = True
) -> list[Answer]:
    """One after the other; `model` answers those that name none.

    verify: as httpx takes it. Raises RaymillError when the endpoint refuses or does not answer.
    """
    from openai import APIConnectionError, APIStatusError, DefaultHttpxClient, OpenAI

    http = DefaultHttpxClient(verify=verify)
    client = OpenAI(base_url=url, api_key=key, timeout=_TIMEOUT_SECONDS, max_retries=0, http_client=http)
    try:
        with client:
            return [_ask(client, question.model or model, question) for question in questions]
    except APIStatusError as error:
        raise RaymillError(f"{url}: the endpoint refused a question: {error.status_code}: {error.message}") from None
    except APIConnectionError as error:
        raise RaymillError(f"{url}: the endpoint does not answer: {error}") from None


def _ask(client: Any, model: str, question: Question) -> Answer:
    arguments: dict[str, Any] = {
        "model": model,
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
    }
    create: Any = client.completions.create
    if question.prompt is None:
        create = client.chat.completions.create
        arguments["messages"] = [turn.model_dump() for turn in question.messages]
    else:
        arguments["prompt"] = question.prompt
    began = time.perf_counter()
    if question.stream:
        arguments |= {"stream": True, "stream_options": {"include_usage": True}}
        return _streamed(question, create(**arguments), began)
    response = create(**arguments)
    choice = response.choices[0]
    text = choice.text if question.prompt is not None else choice.message.content or ""
    seconds = time.perf_counter() - began
    usage = response.usage
    return Answer(
        question.text, text, choice.finish_reason, False, usage.prompt_tokens, usage.completion_tokens, seconds, None
    )


def _streamed(question: Question, chunks: Any, began: float) -> Answer:
    parts: list[str] = []
    first: float | None = None
    finish, usage = "", None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            part = choice.text if question.prompt is not None else choice.delta.content
            if part and first is None:
                first = time.perf_counter() - began
            parts.append(part or "")
            finish = choice.finish_reason or finish
    seconds = time.perf_counter() - began
    if usage is None:
        raise RaymillError("the stream ended without its token counts")
    return Answer(
        question.text, "".join(parts), finish, True, usage.prompt_tokens, usage.completion_tokens, seconds, first
    )


@dataclass(frozen=True)
class Drafts:
    """Speculative decoding so far: tokens drafted, and those of them that the model itself would have written."""

    drafted: int
    accepted: int

    @property
    def acceptance(self) -> float | None:
        """Accepted share; None when nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None


def read_drafts(url: str, key: str, verify: ssl.SSLContext | bool = True) -> Drafts:
    """The engines' own counters, from the endpoint's /metrics. Raises RaymillError when it does not answer."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        response = httpx.get(
            f"{url.removesuffix('/v1')}/metrics", headers={"Authorization": f"Bearer {key}"}, timeout=30, verify=verify
        )
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise RaymillError(f"{url}: the endpoint's metrics do not answer: {error}") from None
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return Drafts(
        int(totals.get("vllm:spec_decode_num_draft_tokens_total", 0)),
        int(totals.get("vllm:spec_decode_num_accepted_tokens_total", 0)),
    )
