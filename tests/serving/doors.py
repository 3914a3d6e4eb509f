"""A model of our own behind the real door, over real HTTP: what the tests of the door share."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import httpx
import uvicorn

from serving import auth
from serving.door import DoorSettings, build_app
from serving.errors import ApiError

KEY = "rml-0123456789abcdefghij"
BEARER = {"Authorization": f"Bearer {KEY}"}
SECRET = "/root/weights/secret-path"
SETTINGS = DoorSettings(max_num_seqs=2, max_waiting=1, max_body_bytes=4096)


class Parrot:
    """A backend that says what it was asked, or misbehaves when asked to: `crash`, `refuse`, `break`, `hang`."""

    def __init__(self):
        self.bodies = []
        self.open = 0
        self.probe_failure = None

    async def generate(self, kind, body):
        text = body["prompt"] if kind == "completions" else body["messages"][-1]["content"]
        self.bodies.append(body)
        self.open += 1
        try:
            if self.probe_failure is not None and body.get("max_tokens") == 1:
                await self.probe_failure()
            if text == "crash":
                raise RuntimeError(SECRET)
            if text == "refuse":
                raise ApiError(400, "max_tokens is too large.", param="max_tokens")
            if not body.get("stream"):
                yield json.dumps({"kind": kind, "text": text})
                return
            for number, word in enumerate(text.split()):
                if number > 0 and word == "break":
                    raise RuntimeError(SECRET)
                if number > 0 and word == "refuse":
                    raise ApiError(503, "The model is not ready.", "server_error", code="not_ready")
                if number > 0 and word == "hang":
                    await asyncio.Event().wait()
                yield f"data: {json.dumps({'text': word})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.open -= 1

    async def limits(self):
        return {"max_model_len": 64}

    async def metrics(self):
        return "vllm:num_requests_running 0\n"


@contextmanager
def listening(models, settings=SETTINGS):
    """The door under uvicorn in a thread; yields (app, an HTTP client that carries no key)."""
    app = build_app(models, [auth.digest(KEY)], settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield app, client
    finally:
        server.should_exit = True
        server.force_exit = True  # streams that hang are part of the tests
        thread.join(10)


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
