"""The paths of the door and what each does."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from serving import errors, openapi, visit
from serving.conversation import ChatRequest, TokenizeRequest
from serving.desk import Desk
from serving.protocol import CompletionRequest, DetokenizeRequest, EmbeddingRequest
from serving.responses import Reply
from serving.responses_request import ResponsesRequest


class _JsonRequest(Request):
    async def json(self) -> Any:
        """Stricter and faster than the standard library: no NaN, no half surrogates, bounded nesting and digits."""
        try:
            return pydantic_core.from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, with our reader of JSON."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


def router(desk: Desk) -> APIRouter:
    """Every path but the chat page's."""
    routes = APIRouter(route_class=_JsonRoute)

    @routes.get("/health", responses=openapi.errors_of(), openapi_extra={"security": []})
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @routes.get("/ready", responses=openapi.errors_of(503), openapi_extra={"security": []})
    async def ready() -> dict[str, str]:
        """Every model has just produced a token."""
        if not await desk.readiness.check():
            raise errors.not_ready()
        return {"status": "ready"}

    @routes.get("/v1/models", responses=openapi.errors_of())
    async def list_models() -> dict[str, Any]:
        """The models, adapters and aliases served here."""
        cards = [await desk.card(desk.catalogue.resolve(name)) for name in desk.catalogue.names()]
        return {"object": "list", "data": cards}

    @routes.get("/v1/models/{name:path}", responses=openapi.errors_of(404))
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        return await desk.card(desk.catalogue.resolve(name))

    @routes.post("/v1/chat/completions", responses=openapi.answer(stream=True), response_class=Response)
    async def chat(request: ChatRequest, http: Request) -> Response:
        """An answer to a conversation."""
        return desk.answer(http, "chat", request)

    @routes.post("/v1/completions", responses=openapi.answer(stream=True), response_class=Response)
    async def completions(request: CompletionRequest, http: Request) -> Response:
        """A continuation of a text."""
        return desk.answer(http, "completions", request)

    @routes.post("/v1/responses", responses=openapi.answer(stream=True), response_class=Response)
    async def responses(request: ResponsesRequest, http: Request) -> Response:
        """An answer to a conversation, in the newer form; nothing is stored."""
        try:
            asked = request.chat()
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from None
        return desk.answer(http, "chat", asked, Reply(request))

    @routes.post("/v1/embeddings", responses=openapi.answer(stream=False), response_class=Response)
    async def embeddings(request: EmbeddingRequest, http: Request) -> Response:
        """A vector for each text."""
        return desk.answer(http, "embeddings", request)

    @routes.post("/tokenize", responses=openapi.answer(stream=False), response_class=Response)
    async def tokenize(request: TokenizeRequest, http: Request) -> Response:
        """The tokens of a text or of a conversation."""
        return desk.answer(http, "tokenize", request)

    @routes.post("/detokenize", responses=openapi.answer(stream=False), response_class=Response)
    async def detokenize(request: DetokenizeRequest, http: Request) -> Response:
        """The text of tokens."""
        return desk.answer(http, "detokenize", request)

    @routes.get("/metrics", responses=openapi.errors_of(), response_class=PlainTextResponse)
    async def metrics(http: Request) -> str:
        """The door's and the engines' metrics in Prometheus' text form; of other keys for operators alone."""
        return await desk.all_metrics(visit.of(http.scope).key)

    @routes.get("/openapi.json", include_in_schema=False)
    async def document(http: Request) -> Response:
        """This interface in OpenAPI's form."""
        return JSONResponse(await asyncio.to_thread(openapi.describe, http.app))  # 0.2 s the first time

    return routes
