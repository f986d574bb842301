"""Routes of API keys."""

from typing import Any

from fastapi import APIRouter, Request, Response

from aios.kernel.calls import PREFIX, Body, call
from aios.kernel.front import CALLER
from aios.security import Caller

router = APIRouter(prefix=PREFIX)


class KeyBody(Body):
    """Whom a key is for; `expires_s` is a time in Unix seconds."""

    identity: str
    role: str
    expires_s: float | None = None


@router.post("/keys", status_code=201)
async def add_key(request: Request, response: Response, body: KeyBody) -> Any:
    """Make a key. It is in this answer and cannot be asked for again."""
    response.headers["cache-control"] = "no-store"
    return await call(request, "add_key", **body.model_dump())


@router.get("/keys")
async def keys(request: Request) -> Any:
    return await call(request, "keys")


@router.delete("/keys/{key_id}")
async def revoke_key(request: Request, key_id: str) -> Any:
    return await call(request, "revoke_key", id=key_id)


@router.get("/whoami")
async def whoami(request: Request) -> dict[str, str]:
    """Identity and role of the key that came with the request."""
    caller: Caller = request.scope[CALLER]
    return caller._asdict()
