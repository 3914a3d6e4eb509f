"""An endpoint that follows a script, over real HTTP: well-behaved and not, for the tests of what asks endpoints."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TOKENS = 4
FIRST_S, STEP_S = 0.02, 0.01


def event(**fields):
    return f"data: {json.dumps(fields)}\n\n".encode()


def token(text="a", **more):
    return event(choices=[{"index": 0, "text": text, "finish_reason": None} | more])


USAGE = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": TOKENS})
DONE = b"data: [DONE]\n\n"
ROLE = event(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}])


async def plain():
    await asyncio.sleep(FIRST_S)
    yield token()
    for _ in range(TOKENS - 1):
        await asyncio.sleep(STEP_S)
        yield token()
    yield USAGE
    yield DONE


async def chat():
    yield ROLE
    await asyncio.sleep(FIRST_S)
    for _ in range(TOKENS):
        yield event(choices=[{"delta": {"content": "a"}, "finish_reason": None}])
    yield DONE


async def torn():
    """The same events with another end of line, cut in the middle of everything, and with comments between."""
    text = b": ping\n\n" + token() + token() + b": ping\n\n" + token(text="é\n") + token() + USAGE + DONE
    text = text.replace(b"\n\n", b"\r\n\r\n")
    for at in range(0, len(text), 7):
        yield text[at : at + 7]
        await asyncio.sleep(0)


async def cut_short():
    yield token()


async def failing():
    yield token()
    yield event(error={"message": "The server failed.", "code": "internal_error"})


async def nonsense():
    yield b"data: {'no json\n\n"


async def wordless():
    yield USAGE
    yield DONE


async def hanging():
    yield token()
    await asyncio.sleep(30)
    yield DONE


SCRIPTS = {one.__name__: one for one in (plain, chat, torn, cut_short, failing, nonsense, wordless, hanging)}


class Script:
    """What the endpoint does is what the model is called; it keeps the bodies and counts who asks at the same time."""

    def __init__(self):
        self.bodies, self.keys = [], []
        self.inside = self.most = 0
        self.refuse_after = None

    async def answer(self, request):
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        if self.refuse_after is not None:
            self.refuse_after -= 1
        if body["model"] == "busy" or (self.refuse_after is not None and self.refuse_after < 0):
            return JSONResponse({"error": {"message": "queue full"}}, status_code=429)
        if not body.get("stream"):
            return JSONResponse({"choices": [{}], "usage": {"prompt_tokens": 7, "completion_tokens": TOKENS}})
        return StreamingResponse(self._counted(SCRIPTS[body["model"]]()), media_type="text/event-stream")

    async def _counted(self, parts):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            async for part in parts:
                yield part
        finally:
            self.inside -= 1

    async def models(self, request):
        if request.headers.get("authorization") == "Bearer wrong":
            return Response(status_code=401)
        return JSONResponse({"data": [{"id": "plain"}, {"id": "torn"}]})


@contextmanager
def scripted():
    """Yields (base URL, Script)."""
    script = Script()
    routes = [
        Route("/v1/models", script.models),
        Route("/v1/completions", script.answer, methods=["POST"]),
        Route("/v1/chat/completions", script.answer, methods=["POST"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1", script
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
