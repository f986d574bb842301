"""Routes of policy, approvals, assessments and training runs."""

import asyncio
import hashlib
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from aios.errors import Malformed
from aios.kernel.calls import PREFIX, Body, ReasonBody, call
from aios.kernel.model_routes import MAX_ARTIFACT_BYTES, read_body

router = APIRouter(prefix=PREFIX)


class DeclareBody(Body):
    """What a model is for."""

    use: str
    purpose: str = ""
    owner: str = ""
    limits: list[str] = Field(default_factory=list)
    protected: list[str] = Field(default_factory=list)


class PolicyBody(Body):
    """A policy as YAML text."""

    text: str


class BreakGlassBody(Body):
    """Why, and for how long."""

    reason: str
    lasts_s: float = 900.0


class RunBody(Body):
    """A training run; see `records.RunSpec`."""

    spec: dict[str, Any]


@router.put("/models/{name}/profile")
async def declare(request: Request, name: str, body: DeclareBody) -> Any:
    return await call(request, "declare", name=name, **body.model_dump())


@router.get("/models/{name}/profile")
async def profile(request: Request, name: str) -> Any:
    return await call(request, "profile", name=name)


@router.get("/models/{ref}/assessment")
async def assessment(request: Request, ref: str) -> Any:
    return await call(request, "assessment", ref=ref)


@router.get("/models/{ref}/clearance")
async def clearance(request: Request, ref: str) -> Any:
    return await call(request, "clearance", ref=ref)


@router.post("/models/{name}/break-glass", status_code=201)
async def break_glass(request: Request, name: str, body: BreakGlassBody) -> Any:
    return await call(request, "break_glass", name=name, **body.model_dump())


@router.get("/policy")
async def policy(request: Request) -> Any:
    return await call(request, "policy")


@router.put("/policy")
async def set_policy(request: Request, body: PolicyBody) -> Any:
    return await call(request, "set_policy", text=body.text)


class AnswerBody(ReasonBody):
    """An answer, with the id of the approval request that was looked at."""

    request: str | None = None


@router.get("/approvals")
async def approvals(request: Request) -> Any:
    return await call(request, "approvals")


@router.post("/approvals/{subject}/approve")
async def approve(request: Request, subject: str, body: AnswerBody) -> Any:
    return await call(request, "approve", subject=subject, **body.model_dump())


@router.post("/approvals/{subject}/reject")
async def reject(request: Request, subject: str, body: AnswerBody) -> Any:
    return await call(request, "reject", subject=subject, **body.model_dump())


@router.put("/data/{digest}", status_code=201)
async def upload_data(request: Request, digest: str) -> dict[str, str]:
    """Keep a data set that was sent as one Parquet file; the answer says where."""
    await call(request, "upload")
    content = await read_body(request, MAX_ARTIFACT_BYTES)
    if hashlib.sha256(content).hexdigest() != digest or content[:4] != b"PAR1":
        raise Malformed("the body is no Parquet file with the sha256 that the address names")
    store = request.app.state.store_data
    where = await asyncio.get_running_loop().run_in_executor(None, store, content, digest)
    return {"location": where}


@router.post("/runs", status_code=201)
async def start_run(request: Request, body: RunBody) -> Any:
    return await call(request, "start_run", spec=body.spec)


@router.get("/runs")
async def runs(request: Request, name: str | None = None) -> Any:
    return await call(request, "runs", name=name)


@router.get("/runs/{run_id}")
async def run(request: Request, run_id: str) -> Any:
    return await call(request, "run", id=run_id)


@router.post("/runs/{run_id}/cancel")
async def cancel_run(request: Request, run_id: str) -> Any:
    return await call(request, "cancel_run", id=run_id)


@router.post("/models/{ref}/reproduce", status_code=201)
async def reproduce(request: Request, ref: str) -> Any:
    return await call(request, "reproduce", ref=ref)


@router.get("/runs/{run_id}/reproduction")
async def reproduction(request: Request, run_id: str) -> Any:
    return await call(request, "reproduction", id=run_id)


@router.get("/models/{ref}/lineage")
async def lineage(request: Request, ref: str) -> Any:
    return await call(request, "lineage", ref=ref)


@router.get("/endpoints/{name}/history")
async def history(request: Request, name: str, at_s: float | None = None) -> Any:
    return await call(request, "history", endpoint=name, at_s=at_s)


@router.get("/explanation")
async def explanation(request: Request, request_id: str, row: int = 0) -> Any:
    return await call(request, "explain", request_id=request_id, row=row)
