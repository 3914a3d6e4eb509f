"""An engine of fixed latency that computes nothing, and a bare server around it: `python noop_engine.py PORT`.

What a front door adds is measured against a server that does with the same engine what vLLM's own server does with
its: FastAPI reads and checks the body, a StreamingResponse under uvicorn writes the events.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

FIRST_SECONDS, STEP_SECONDS = 0.05, 0.02
MODEL = "noop"
_FIELDS = {"id": f"cmpl-{'0' * 32}", "object": "text_completion", "created": 1_764_000_000, "model": MODEL}


def event(text: str | None, usage: dict[str, int] | None = None) -> str:
    """As long as vLLM's."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None}
    return f"data: {json.dumps(_FIELDS | {'choices': [] if text is None else [choice], 'usage': usage})}\n\n"


class NoopReplica:
    """What the door asks of a model's replica. Tokens are due at fixed times, however busy the machine is; as many
    requests as an engine's `max_num_seqs` are worked on together, and others wait."""

    def __init__(self, *given: Any) -> None:
        running = [argument.max_num_seqs for argument in given if hasattr(argument, "max_num_seqs")]
        self._places = asyncio.Semaphore(*running) if running else contextlib.nullcontext()

    async def generate(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        assert kind == "completions"
        async with self._places, contextlib.aclosing(self._tokens(body)) as parts:
            async for part in parts:
                yield part

    async def _tokens(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        tokens = body.get("max_tokens") or 16
        due = time.perf_counter() + FIRST_SECONDS
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": tokens, "total_tokens": tokens}
        for _ in range(tokens):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += STEP_SECONDS
            if body.get("stream"):
                yield event(" the")
        if body.get("stream"):
            yield event(None, usage)
            yield "data: [DONE]\n\n"
        else:
            yield json.dumps(_FIELDS | {"choices": [{"index": 0, "text": " the" * tokens}], "usage": usage})

    async def alive(self, kind: str, body: dict[str, Any]) -> bool:
        return True

    async def limits(self) -> dict[str, int]:
        return {"max_model_len": 4096}

    async def metrics(self) -> str:
        return ""

    async def check_health(self) -> None:
        pass

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        pass


def serve_bare(port: int) -> None:
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    from serving.protocol import CompletionRequest

    app, engine = FastAPI(), NoopReplica()

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> StreamingResponse:
        parts = engine.generate("completions", request.engine_body())
        return StreamingResponse(parts, media_type="text/event-stream")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")


if __name__ == "__main__":
    serve_bare(int(sys.argv[1]))
