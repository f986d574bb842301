"""The control API: HTTP in, kernel commands out. Also the protocol's `/v2` and its health.

Routes below `/api/v1` need an API key (`Authorization: Bearer <key>`). A changing request
may carry `Idempotency-Key`: repeated with the same key it is carried out once. Every error
is a problem body (RFC 9457).
"""

import hashlib
import logging
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from aios.contracts.problems import problem
from aios.errors import AiosError, Malformed, NotAllowed, UnknownName, UsageError
from aios.kernel import (
    agent_routes,
    cost_routes,
    endpoint_routes,
    event_routes,
    flow_routes,
    governance_routes,
    key_routes,
    log_routes,
    model_routes,
    protocol_routes,
    status_routes,
    watch_routes,
)
from aios.kernel.calls import Execute
from aios.kernel.front import Front, Identify, Strangers, answer_headers
from aios.security import Caller

logger = logging.getLogger("aios.kernel")
ROUTERS = (
    model_routes.router,
    endpoint_routes.router,
    key_routes.router,
    log_routes.router,
    governance_routes.router,
    status_routes.router,
    protocol_routes.router,
    watch_routes.router,
    agent_routes.router,
    cost_routes.router,
    flow_routes.router,
    event_routes.router,
)


def build_api(
    execute: Execute,
    identify: Identify,
    store_artifact: Callable[[bytes, str], None],
    store_data: Callable[[bytes, str], str],
) -> FastAPI:
    """The ASGI application.

    Args:
        execute: carries a command to the kernel: (command, arguments, caller, operation id).
        identify: who holds the API key of an Authorization header; None if nobody does.
        store_artifact: keeps an uploaded artifact (tar bytes, digest) after checking it.
        store_data: keeps an uploaded data set (Parquet bytes, sha256) and says where.
    """
    app = FastAPI(
        title="aios", version=protocol_routes.VERSION, docs_url="/api/docs", redoc_url=None
    )
    # A redirect would repeat whatever Host header came.
    app.router.redirect_slashes = False
    app.state.execute = execute
    app.state.store_artifact = store_artifact
    app.state.store_data = store_data
    app.state.strangers = Strangers()
    app.add_middleware(Front, identify=identify, strangers=app.state.strangers)
    _handle_errors(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _methods_at(app: FastAPI, request: Request) -> list[str]:
    found: set[str] = set()
    for route in (*app.routes, *(route for router in ROUTERS for route in router.routes)):
        if isinstance(route, Route | APIRoute) and route.matches(request.scope)[0] != Match.NONE:
            found |= route.methods or set()
    return sorted(found)


def _handle_errors(app: FastAPI) -> None:
    def respond(error: Exception, request: Request) -> Response:
        status, body = problem(error, request.headers.get("x-request-id", "")[:128])
        return Response(body, status, answer_headers(error))

    @app.exception_handler(AiosError)
    async def known(request: Request, error: AiosError) -> Response:
        return respond(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # The first part of a place is where in the request it is: body, query or path.
        faults = [
            f"{'.'.join(str(part)[:60] for part in fault['loc'][1:] or fault['loc'])}: "
            f"{fault['msg'][:200]}"
            for fault in error.errors()[:5]
        ]
        return respond(Malformed("; ".join(faults)), request)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"][:200]
        if error.status_code == 404:
            return respond(UnknownName(f"nothing is served at {path}; see /api/docs"), request)
        if error.status_code == 405:
            allow = ", ".join(_methods_at(app, request))
            message = f"{path} takes {allow}, not {request.method[:20]}"
            return respond(NotAllowed(message, allow=allow), request)
        return respond(UsageError(f"{request.method} {path}: {error.detail}"), request)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
        return respond(error, request)


def caller_of(callers: Mapping[str, Caller], header: str | None) -> Caller | None:
    """Who holds the key in an Authorization header, given sha256 -> caller."""
    if header is None or header[:7].lower() != "bearer ":
        return None
    return callers.get(hashlib.sha256(header[7:].strip().encode()).hexdigest())
