"""The Open Inference Protocol's own routes: `/v2`, its health, and endpoints that are not there.

They need no key. What the ingress could route to an endpoint never comes here.
"""

from typing import Any

from fastapi import APIRouter, Request

from aios.errors import Overloaded, TemporaryError, UnknownEndpoint
from aios.security import Caller

VERSION = "0.1.0"
HEALTH = Caller("health", "viewer")
V2 = Caller("v2", "viewer")
_METHODS = ["GET", "HEAD", "POST"]
router = APIRouter()


@router.get("/v2")
async def server() -> dict[str, Any]:
    return {"name": "aios", "version": VERSION, "extensions": ["binary_tensor_data"]}


@router.get("/v2/health/live")
async def live() -> dict[str, bool]:
    return {"live": True}


@router.get("/v2/health/ready")
async def ready(request: Request) -> dict[str, bool]:
    try:
        await request.app.state.execute("models", {}, HEALTH, None)
    except TemporaryError as error:
        raise Overloaded(
            f"the control plane is starting or restarting: {error.message}", retry_after_s=1.0
        ) from error
    return {"ready": True}


@router.api_route("/v2/models/{name}", methods=_METHODS, include_in_schema=False)
@router.api_route("/v2/models/{name}/{rest:path}", methods=_METHODS, include_in_schema=False)
async def unknown_endpoint(request: Request, name: str, rest: str = "") -> None:
    try:
        found = await request.app.state.execute("endpoints", {}, V2, None)
        deployed = [str(endpoint["name"]) for endpoint in found]
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
