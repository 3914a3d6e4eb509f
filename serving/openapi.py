"""The door's OpenAPI document: what FastAPI derives from the requests, and the key, the errors and the streams."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error."""

    error: ErrorDetail


_MEANINGS = {
    400: "The request is not valid, or not for this model.",
    401: "No key, or a wrong one.",
    404: "Nothing at this path, or no such model.",
    405: "Not with this method.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    429: "The queue is full, or the key has used up its quota.",
    500: "The server failed.",
    503: "The model does not answer.",
    504: "The answer took longer than its deadline.",
}
_SCHEMAS = "#/components/schemas/"
_ERROR = _SCHEMAS + ErrorBody.__name__
_OBJECT = {"application/json": {"schema": {"type": "object"}}}
_STREAM: dict[str, Any] = {"text/event-stream": {}}


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: the errors that it may give beside those of every path."""
    return {
        status: {"description": _MEANINGS[status], "content": {"application/json": {"schema": {"$ref": _ERROR}}}}
        for status in (401, 429, 500, *statuses)
    }


def answer(stream: bool) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that a model answers."""
    content = _OBJECT | (_STREAM if stream else {})
    return {200: {"description": "The answer.", "content": content}} | errors_of(400, 404, 408, 413, 503, 504)


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
        document["components"].setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer"}
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation.setdefault("security", [{"key": []}])
        schemas = document["components"]["schemas"]
        error = ErrorBody.model_json_schema(ref_template=_SCHEMAS + "{model}")
        schemas |= error.pop("$defs") | {ErrorBody.__name__: error}
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema
