"""Routes of models, their versions and artifacts."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from aios.errors import PayloadTooLarge
from aios.kernel.calls import PREFIX, Body, call

MAX_ARTIFACT_BYTES = 512 * 2**20
router = APIRouter(prefix=PREFIX)


class RegisterBody(Body):
    """A version to register; its artifact was uploaded before."""

    artifact: dict[str, Any]
    contract: dict[str, Any]
    metrics: dict[str, float] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    lineage: dict[str, Any] = Field(default_factory=dict)
    conversion: dict[str, Any] = Field(default_factory=dict)


@router.put("/artifacts/{digest}", status_code=201)
async def upload(request: Request, digest: str) -> dict[str, str]:
    """Keep an artifact's bytes until a version is registered with it."""
    await call(request, "upload")
    body = await read_body(request, MAX_ARTIFACT_BYTES)
    store = request.app.state.store_artifact
    await asyncio.get_running_loop().run_in_executor(None, store, body, digest)
    return {"digest": digest}


@router.post("/models/{name}/versions", status_code=201)
async def register(request: Request, name: str, body: RegisterBody) -> Any:
    return await call(request, "register", name=name, **body.model_dump())


@router.get("/models")
async def models(request: Request, name: str | None = None) -> Any:
    return await call(request, "models", name=name)


@router.get("/models/{ref}")
async def model(request: Request, ref: str) -> Any:
    return await call(request, "model", ref=ref)


async def read_body(request: Request, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise PayloadTooLarge(f"the artifact is over the limit of {limit_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
