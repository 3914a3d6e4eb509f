"""The front door: an OpenAI-compatible HTTP application with keys, finite queues and errors that tell nothing."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from serving import chat_page, errors, routes, visit
from serving.admission import Gate
from serving.audit import AuditLog
from serving.auth import KeyRing
from serving.catalogue import Catalogue
from serving.desk import Desk
from serving.door_metrics import DoorMetrics
from serving.door_settings import DoorConfig
from serving.errors import ApiError
from serving.middleware import Accounts, BodyLimit, Failures, KeyCheck, respond
from serving.protocol import describe
from serving.readiness import Readiness
from serving.visit import Visit

log = logging.getLogger("ray.serve")
OPEN_PATHS = frozenset({"/health", "/ready"})


def build_app(catalogue: Catalogue, keys: KeyRing, config: DoorConfig) -> FastAPI:
    """The application. What it serves is what the catalogue lists at the moment."""
    app = FastAPI(
        title="Raymill",
        version="1",
        description="OpenAI's interface to the models served here.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    metrics = DoorMetrics()
    audit = AuditLog(config.audit_log, config.audit_prompts) if config.audit_log is not None else None
    whole = Gate(running=config.max_requests, waiting=0)

    def closed(found: Visit) -> None:
        metrics.record(found)
        if audit is not None and found.path not in OPEN_PATHS:
            audit.write(found)

    # Added last runs first: a stranger's body is not read at all.
    app.add_middleware(BodyLimit, limit=config.max_body_bytes, seconds=config.body_timeout_s)
    pages = frozenset({chat_page.PATH} if config.chat_page else ())
    app.add_middleware(KeyCheck, keys=keys, open_paths=OPEN_PATHS, open_pages=pages)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Failures)
    app.add_middleware(Accounts, closed=closed)
    _handle_errors(app, config)
    app.include_router(routes.router(Desk(catalogue, config, metrics, Readiness(catalogue), whole)))
    if config.chat_page:
        chat_page.add_to(app)
    return app


def _handle_errors(app: FastAPI, config: DoorConfig) -> None:
    def refuse(http: Request, error: ApiError) -> Response:
        visit.of(http.scope).error = error.code
        return respond(error)

    @app.exception_handler(ApiError)
    async def api_error(http: Request, error: ApiError) -> Response:
        return refuse(http, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, error: RequestValidationError) -> Response:
        message, param = describe(error.errors())
        return refuse(http, ApiError(400, message, param=param))

    @app.exception_handler(HTTPException)
    async def http_error(http: Request, error: HTTPException) -> Response:
        known = {
            404: errors.not_found(),
            408: errors.too_slow(config.body_timeout_s),
            413: errors.too_large(config.max_body_bytes),
        }
        return refuse(http, known.get(error.status_code) or ApiError(error.status_code, str(error.detail)))
