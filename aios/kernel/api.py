"""The control API: HTTP in, kernel commands out. Also the protocol's `/v2` and its health.

Routes below `/api/v1` need an API key (`Authorization: Bearer <key>`). A changing request
may carry `Idempotency-Key`: repeated with the same key it is carried out once. Every error
is a problem body (RFC 9457).
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from aios.contracts.problems import problem
from aios.errors import (
    AiosError,
    Malformed,
    NotAllowed,
    Overloaded,
    PayloadTooLarge,
    TemporaryError,
    UnknownEndpoint,
    UnknownName,
    UsageError,
)
from aios.kernel.front import ACTOR, Front, Identify, answer_headers

Execute = Callable[[str, dict[str, Any], str, str | None], Awaitable[Any]]
logger = logging.getLogger("aios.kernel")
MAX_ARTIFACT_BYTES = 512 * 2**20
VERSION = "0.1.0"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RegisterBody(_Body):
    """A version to register; its artifact was uploaded before."""

    artifact: dict[str, Any]
    contract: dict[str, Any]
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    lineage: dict[str, Any] = {}
    conversion: dict[str, Any] = {}


class DeployBody(_Body):
    """An endpoint as wanted: `version` such as `loan:1`, `spec` without name and model."""

    version: str
    spec: dict[str, Any] = {}


class RolloutBody(_Body):
    """`version` such as `loan:2`; `plan` with its `kind`."""

    version: str
    plan: dict[str, Any]


class ReasonBody(_Body):
    reason: str = ""


class FeedbackBody(_Body):
    answers: list[dict[str, Any]]


def build_api(
    execute: Execute, identify: Identify, store_artifact: Callable[[bytes, str], None]
) -> FastAPI:
    """The ASGI application.

    Args:
        execute: carries a command to the kernel: (command, arguments, actor, operation id).
        identify: who holds the API key of an Authorization header; None if nobody does.
        store_artifact: keeps an uploaded artifact (tar bytes, digest) after checking it.
    """
    app = FastAPI(title="aios", version=VERSION, docs_url="/api/docs", redoc_url=None)
    # A redirect would repeat whatever Host header came.
    app.router.redirect_slashes = False
    app.add_middleware(Front, identify=identify)
    _handle_errors(app)
    _add_protocol_routes(app, execute)

    async def call(request: Request, command: str, /, **arguments: Any) -> Any:
        actor = request.scope[ACTOR]
        return await execute(command, arguments, actor, request.headers.get("idempotency-key"))

    @app.put("/api/v1/artifacts/{digest}", status_code=201)
    async def upload(request: Request, digest: str) -> dict[str, str]:
        body = await _read(request, MAX_ARTIFACT_BYTES)
        await asyncio.get_running_loop().run_in_executor(None, store_artifact, body, digest)
        return {"digest": digest}

    @app.post("/api/v1/models/{name}/versions", status_code=201)
    async def register(request: Request, name: str, body: RegisterBody) -> Any:
        return await call(request, "register", name=name, **body.model_dump())

    @app.get("/api/v1/models")
    async def models(request: Request, name: str | None = None) -> Any:
        return await call(request, "models", name=name)

    @app.get("/api/v1/models/{ref}")
    async def model(request: Request, ref: str) -> Any:
        return await call(request, "model", ref=ref)

    @app.put("/api/v1/endpoints/{name}")
    async def deploy(request: Request, name: str, body: DeployBody) -> Any:
        spec = {**body.spec, "name": name}
        return await call(request, "deploy", version=body.version, spec=spec)

    @app.get("/api/v1/endpoints")
    async def endpoints(request: Request) -> Any:
        return await call(request, "endpoints")

    @app.get("/api/v1/endpoints/{name}")
    async def endpoint(request: Request, name: str) -> Any:
        return await call(request, "endpoint", name=name)

    @app.delete("/api/v1/endpoints/{name}")
    async def remove(request: Request, name: str) -> Any:
        return await call(request, "remove", name=name)

    @app.get("/api/v1/endpoints/{name}/series")
    async def series(request: Request, name: str) -> Any:
        return await call(request, "series", endpoint=name)

    @app.get("/api/v1/endpoints/{name}/plans")
    async def plans(request: Request, name: str) -> Any:
        return await call(request, "plans", endpoint=name)

    @app.post("/api/v1/endpoints/{name}/feedback")
    async def feedback(request: Request, name: str, body: FeedbackBody) -> Any:
        return await call(request, "feedback", endpoint=name, answers=body.answers)

    @app.post("/api/v1/endpoints/{name}/rollback")
    async def rollback(request: Request, name: str, body: ReasonBody) -> Any:
        return await call(request, "rollback", endpoint=name, reason=body.reason)

    @app.post("/api/v1/endpoints/{name}/rollouts", status_code=201)
    async def start_rollout(request: Request, name: str, body: RolloutBody) -> Any:
        return await call(request, "start_rollout", endpoint=name, **body.model_dump())

    @app.get("/api/v1/rollouts")
    async def rollouts(request: Request, endpoint: str | None = None) -> Any:
        return await call(request, "rollouts", endpoint=endpoint)

    @app.get("/api/v1/rollouts/{rollout_id}")
    async def rollout(request: Request, rollout_id: str) -> Any:
        return await call(request, "rollout", id=rollout_id)

    @app.get("/api/v1/rollouts/{rollout_id}/evidence")
    async def evidence(request: Request, rollout_id: str) -> Any:
        return await call(request, "evidence", id=rollout_id)

    @app.post("/api/v1/rollouts/{rollout_id}/promote")
    async def promote(request: Request, rollout_id: str, body: ReasonBody) -> Any:
        return await call(
            request, "command_rollout", id=rollout_id, command="promote", reason=body.reason
        )

    @app.post("/api/v1/rollouts/{rollout_id}/abort")
    async def abort(request: Request, rollout_id: str, body: ReasonBody) -> Any:
        return await call(
            request, "command_rollout", id=rollout_id, command="abort", reason=body.reason
        )

    @app.get("/api/v1/status")
    async def status(request: Request) -> Any:
        return await call(request, "status")

    @app.get("/api/v1/ps")
    async def ps(request: Request) -> Any:
        return await call(request, "ps")

    @app.get("/api/v1/audit")
    async def audit(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        subject: str | None = None,
    ) -> Any:
        return await call(request, "audit", limit=limit, subject=subject)

    @app.get("/metrics")
    async def metrics(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await call(request, "metrics"), media_type="text/plain")

    return app


def _add_protocol_routes(app: FastAPI, execute: Execute) -> None:
    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "aios", "version": VERSION, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        try:
            await execute("models", {}, "health", None)
        except TemporaryError as error:
            raise Overloaded(
                f"the control plane is starting or restarting: {error.message}", retry_after_s=1.0
            ) from error
        return {"ready": True}

    methods = ["GET", "HEAD", "POST"]

    @app.api_route("/v2/models/{name}", methods=methods, include_in_schema=False)
    @app.api_route("/v2/models/{name}/{rest:path}", methods=methods, include_in_schema=False)
    async def unknown_endpoint(request: Request, name: str, rest: str = "") -> None:
        try:
            deployed = [str(found["name"]) for found in await execute("endpoints", {}, "v2", None)]
        except TemporaryError:
            deployed = []
        if name in deployed and _is_plainly_below(request, f"/v2/models/{name}"):
            raise Overloaded(f"endpoint {name!r} is starting; try again shortly", retry_after_s=1.0)
        names = ", ".join(deployed) or "none"
        raise UnknownEndpoint(f"no endpoint {name[:60]!r}; deployed: {names}")


def _is_plainly_below(request: Request, path: str) -> bool:
    """Whether the address was written as an endpoint's is. What the ingress did not route to
    the endpoint because of `%2F` or `%6c` in it will never be answered by it."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw == path.encode() or raw.startswith(f"{path}/".encode())


async def _read(request: Request, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise PayloadTooLarge(f"the artifact is over the limit of {limit_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _methods_at(app: FastAPI, request: Request) -> list[str]:
    found: set[str] = set()
    for route in app.routes:
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
        faults = [
            f"{'.'.join(str(part)[:60] for part in fault['loc'])}: {fault['msg'][:200]}"
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


def identity_of(keys: Mapping[str, str], header: str | None) -> str | None:
    """Who holds the key in an Authorization header, given sha256 -> identity."""
    if header is None or header[:7].lower() != "bearer ":
        return None
    return keys.get(hashlib.sha256(header[7:].strip().encode()).hexdigest())
