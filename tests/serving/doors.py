"""A model of our own behind the real door, over real HTTP: what the tests of the door share."""

import asyncio
import json
import threading
import time
from contextlib import aclosing, contextmanager

import httpx
import uvicorn

from serving.auth import Key, KeyRing, digest
from serving.catalogue import Catalogue
from serving.door import build_app
from serving.door_settings import DoorConfig
from serving.errors import ApiError

KEY = "rml-0123456789abcdefghij"
BEARER = {"Authorization": f"Bearer {KEY}"}
SECRET = "/root/weights/secret-path"
RUNNING, WAITING, MAX_BODY = 2, 1, 4096
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def compact(value):
    return json.dumps(value, separators=(",", ":"))


class Parrot:
    """A backend that says what it was asked, or misbehaves when asked to (`crash`, `refuse`, `break`, `hang`, ...)."""

    def __init__(self):
        self.bodies = []
        self.open = 0
        self.probe_failure = None

    async def generate(self, kind, body):
        text = self.text(kind, body)
        self.bodies.append(body)
        self.open += 1
        try:
            if self.probe_failure is not None and body.get("max_tokens") == 1:
                await self.probe_failure()
            if text == "crash":
                raise RuntimeError(SECRET)
            if text == "refuse":
                raise ApiError(400, "max_tokens is too large.", param="max_tokens")
            if text == "hang":
                await asyncio.Event().wait()
            words = text.split()
            usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
            if not body.get("stream"):
                message = {"role": "assistant", "content": text}
                if text == "call":
                    function = {"name": "add", "arguments": '{"a":1}'}
                    message = {
                        "role": "assistant",
                        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
                    }
                ended = "length" if len(words) == body.get("max_completion_tokens") else "stop"
                choice = {"index": 0, "text": text, "message": message, "finish_reason": ended}
                yield compact({"kind": kind, "text": text, "choices": [choice], "usage": usage})
                return
            for number, word in enumerate(words):
                if number > 0 and word == "break":
                    raise RuntimeError(SECRET)
                if number > 0 and word == "refuse":
                    raise ApiError(503, "The model is not ready.", "server_error", code="not_ready")
                if number > 0 and word == "hang":
                    await asyncio.Event().wait()
                if word == "flood":
                    while True:
                        yield "data: " + compact({"text": "x" * 100_000}) + "\n\n"
                        await asyncio.sleep(0)
                for delta in deltas(word):
                    yield "data: " + compact({"text": word, "choices": [{"index": 0, "delta": delta}]}) + "\n\n"
            ended = "length" if len(words) == body.get("max_completion_tokens") else "stop"
            yield "data: " + compact({"choices": [{"index": 0, "delta": {}, "finish_reason": ended}]}) + "\n\n"
            if body.get("stream_options", {}).get("include_usage"):
                yield "data: " + compact({"choices": [], "usage": usage}) + "\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.open -= 1

    def text(self, kind, body):
        if kind == "chat":
            content = body["messages"][-1].get("content") or ""
            return content if isinstance(content, str) else "".join(part["text"] for part in content)
        return str(body.get("prompt", body.get("input", body.get("tokens", ""))))

    async def alive(self, kind, body):
        async with aclosing(self.generate(kind, body)) as parts:
            return bool(await anext(parts))

    async def limits(self):
        return {"max_model_len": 64}

    async def metrics(self):
        return "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n"


def deltas(word):
    """Of a chat: a word, or a call in pieces as vLLM streams it."""
    if word != "call":
        return [{"content": word}]
    begun = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"a"', ":1}")]
    return [{"tool_calls": [call]} for call in (begun, *rest)]


def catalogue_of(models, aliases=None, **entry):
    listed = {name: {"deployment": name, "running": RUNNING, "waiting": WAITING} | entry for name in models}
    return Catalogue(models.__getitem__, {"models": listed, "aliases": aliases or {}})


@contextmanager
def listening(models, keys=None, catalogue=None, server=None, **config):
    """The door under uvicorn in a thread; yields (app, an HTTP client that carries no key)."""
    ring = keys if isinstance(keys, KeyRing) else KeyRing(keys or [Key(name="alice", digest=digest(KEY))])
    catalogue = catalogue or catalogue_of(models)
    app = build_app(catalogue, ring, DoorConfig.model_validate({"max_body_bytes": MAX_BODY} | config))
    serving = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", **(server or {})))
    thread = threading.Thread(target=serving.run, daemon=True)
    thread.start()
    wait_for(lambda: serving.started)
    port = serving.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield app, client
    finally:
        serving.should_exit = True
        serving.force_exit = True  # streams that hang are part of the tests; the thread ends by itself, within 0.1 s


def ask(client, prompt="hello", headers=BEARER, **fields):
    return client.post(COMPLETIONS, json={"model": "parrot", "prompt": prompt} | fields, headers=headers)


@contextmanager
def hanging_stream(client):
    """A stream of which the first part has arrived and the next will not."""
    body = {"model": "parrot", "prompt": "first hang", "stream": True}
    with client.stream("POST", COMPLETIONS, json=body, headers=BEARER) as response:
        parts = response.iter_text()
        assert "first" in next(parts)
        yield parts


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert SECRET not in response.text
    assert "Traceback" not in response.text
    return response.json()["error"]


def events_of(text):
    """The JSON of each event, without the closing mark."""
    found = [part.split("data: ", 1)[1] for part in text.split("\n\n") if "data: " in part]
    return [json.loads(data) for data in found if data != "[DONE]"]


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
