"""Routes of the prediction log."""

from typing import Any

from fastapi import APIRouter, Request

from aios.kernel.calls import PREFIX, call

router = APIRouter(prefix=PREFIX)


@router.get("/log")
async def log(request: Request) -> Any:
    return await call(request, "log")


@router.post("/log/keys", status_code=201)
async def rotate_log_key(request: Request) -> Any:
    """Encrypt with a new key from now on. Its id is in the answer, the key nowhere."""
    return await call(request, "rotate_log_key")


@router.delete("/log/keys/{key_id}")
async def retire_log_key(request: Request, key_id: str) -> Any:
    return await call(request, "retire_log_key", id=key_id)


@router.post("/endpoints/{name}/log/compact")
async def compact_log(request: Request, name: str) -> Any:
    """Ask for an endpoint's log to be tidied; `GET /log` says when it was, and how."""
    return await call(request, "compact_log", endpoint=name)
