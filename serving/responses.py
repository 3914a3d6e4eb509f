"""The answers of POST /v1/responses, OpenAI's newer form of a chat, made of the answers of a chat.

Nothing is stored: a conversation is sent whole each time. Events and their order are those of OpenAI's API reference,
"Streaming events".
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Literal

from serving.errors import ApiError
from serving.protocol import Json
from serving.responses_request import ResponsesRequest

_Parts = AsyncGenerator[str, None]


class Reply:
    """The response object as it grows, and the events that tell of it."""

    def __init__(self, request: ResponsesRequest) -> None:
        self._request = request
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._events = 0
        self._output: list[Json] = []
        self._open: Json | None = None
        """The item that grows; the last of the output."""
        self._usage: Json | None = None
        self._finish: str | None = None

    async def whole(self, parts: _Parts) -> _Parts:
        """One chat completion to one response object."""
        async with aclosing(parts):
            chat = json.loads("".join([part async for part in parts]))
        choice = chat["choices"][0]
        self._take_usage(chat)
        self._finish = choice["finish_reason"]
        message = choice["message"]
        if message.get("content") is not None or not message.get("tool_calls"):
            self._output.append(_message(message.get("content") or "", self._status()))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            self._output.append(_call(call["id"], function["name"], function["arguments"], "completed"))
        yield json.dumps(self._object(self._status()), ensure_ascii=False)

    async def stream(self, parts: _Parts) -> _Parts:
        """The chunks of a chat to the events of a response."""
        begun = False
        async with aclosing(parts):
            async for part in parts:
                if not begun:
                    begun = True
                    yield self._event("response.created", response=self._object("in_progress"))
                    yield self._event("response.in_progress", response=self._object("in_progress"))
                if part.startswith("data: {"):
                    for event in self._take(json.loads(part.removeprefix("data: "))):
                        yield event
        for event in (*self._at_least_a_text(), *self._close()):
            yield event
        status = self._status()
        yield self._event(f"response.{status}", response=self._object(status))

    def failed(self, error: ApiError) -> str:
        """The event of a stream that broke off."""
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def _take(self, chunk: Json) -> Iterator[str]:
        self._take_usage(chunk)
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if text := delta.get("content"):
                yield from self._grow_text(text)
            for call in delta.get("tool_calls") or ():
                yield from self._grow_call(call)
            self._finish = choice.get("finish_reason") or self._finish

    def _at_least_a_text(self) -> Iterator[str]:
        if not self._output:
            yield from self._grow_text("")

    def _grow_text(self, text: str) -> Iterator[str]:
        if self._open is None or self._open["type"] != "message":
            yield from self._begin(_message("", "in_progress"))
            assert self._open is not None
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._event("response.content_part.added", **self._place(), content_index=0, part=part)
        self._open["content"][0]["text"] += text
        yield self._event("response.output_text.delta", **self._place(), content_index=0, delta=text, logprobs=[])

    def _grow_call(self, call: Json) -> Iterator[str]:
        function = call.get("function") or {}
        if call.get("id") or self._open is None or self._open["type"] != "function_call":
            name = function.get("name") or ""
            yield from self._begin(_call(call.get("id") or f"call_{uuid.uuid4().hex}", name, "", "in_progress"))
        assert self._open is not None
        if arguments := function.get("arguments"):
            self._open["arguments"] += arguments
            yield self._event("response.function_call_arguments.delta", **self._place(), delta=arguments)

    def _begin(self, item: Json) -> Iterator[str]:
        yield from self._close()
        empty = item | ({"content": []} if item["type"] == "message" else {})
        self._output.append(item)
        self._open = item
        index = len(self._output) - 1
        yield self._event("response.output_item.added", output_index=index, item=empty)

    def _close(self) -> Iterator[str]:
        item = self._open
        if item is None:
            return
        if item["type"] == "message":
            part = item["content"][0]
            done = {"content_index": 0, "text": part["text"], "logprobs": []}
            yield self._event("response.output_text.done", **self._place(), **done)
            yield self._event("response.content_part.done", **self._place(), content_index=0, part=part)
        else:
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield self._event("response.function_call_arguments.done", **self._place(), **done)
        item["status"] = self._status()
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)
        self._open = None

    def _place(self) -> Json:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._output) - 1}

    def _event(self, kind: str, **fields: Any) -> str:
        data = {"type": kind, "sequence_number": self._events} | fields
        self._events += 1
        return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._finish == "length" else "completed"

    def _take_usage(self, answer: Json) -> None:
        usage = answer.get("usage")
        if usage:
            prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self._usage = {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
                "output_tokens": completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + completion,
            }

    def _object(self, status: str) -> Json:
        asked = self._request
        ended = status != "in_progress"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if ended else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": asked.model,
            "output": self._output if ended else [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.temperature,
            "text": asked.text.model_dump(exclude_none=True, by_alias=True) if asked.text else {"format": _TEXT},
            "tool_choice": asked.model_dump()["tool_choice"] or "auto",
            "tools": [tool.model_dump() for tool in asked.tools or ()],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": self._usage if ended else None,
            "user": asked.user,
            "metadata": asked.metadata or {},
        }


_TEXT = {"type": "text"}


def _message(text: str, status: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item_id = f"msg_{uuid.uuid4().hex}"
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": [part]}


def _call(call_id: str, name: str, arguments: str, status: str) -> Json:
    item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": status}
    return item | {"call_id": call_id, "name": name, "arguments": arguments}
