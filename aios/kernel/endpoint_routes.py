"""Routes of endpoints and of the rollouts on them."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from aios.kernel.calls import PREFIX, Body, ReasonBody, call

router = APIRouter(prefix=PREFIX)


class DeployBody(Body):
    """An endpoint as wanted: `version` such as `loan:1`, `spec` without name and model."""

    version: str
    spec: dict[str, Any] = Field(default_factory=dict)


class RolloutBody(Body):
    """`version` such as `loan:2`; `plan` with its `kind`."""

    version: str
    plan: dict[str, Any]


@router.put("/endpoints/{name}")
async def deploy(request: Request, name: str, body: DeployBody) -> Any:
    spec = {**body.spec, "name": name}
    return await call(request, "deploy", version=body.version, spec=spec)


@router.get("/endpoints")
async def endpoints(request: Request) -> Any:
    return await call(request, "endpoints")


@router.get("/endpoints/{name}")
async def endpoint(request: Request, name: str) -> Any:
    return await call(request, "endpoint", name=name)


@router.delete("/endpoints/{name}")
async def remove(request: Request, name: str) -> Any:
    return await call(request, "remove", name=name)


@router.get("/endpoints/{name}/series")
async def series(request: Request, name: str) -> Any:
    return await call(request, "series", endpoint=name)


@router.get("/endpoints/{name}/plans")
async def plans(request: Request, name: str) -> Any:
    return await call(request, "plans", endpoint=name)


@router.post("/endpoints/{name}/rollback")
async def rollback(request: Request, name: str, body: ReasonBody) -> Any:
    return await call(request, "rollback", endpoint=name, reason=body.reason)


@router.post("/endpoints/{name}/measure")
async def measure(request: Request, name: str) -> Any:
    return await call(request, "measure", name=name)


@router.post("/endpoints/{name}/rollouts", status_code=201)
async def start_rollout(request: Request, name: str, body: RolloutBody) -> Any:
    return await call(request, "start_rollout", endpoint=name, **body.model_dump())


@router.get("/rollouts")
async def rollouts(request: Request, endpoint: str | None = None) -> Any:
    return await call(request, "rollouts", endpoint=endpoint)


@router.get("/rollouts/{rollout_id}")
async def rollout(request: Request, rollout_id: str) -> Any:
    return await call(request, "rollout", id=rollout_id)


@router.get("/rollouts/{rollout_id}/evidence")
async def evidence(request: Request, rollout_id: str) -> Any:
    return await call(request, "evidence", id=rollout_id)


@router.post("/rollouts/{rollout_id}/promote")
async def promote(request: Request, rollout_id: str, body: ReasonBody) -> Any:
    return await call(
        request, "command_rollout", id=rollout_id, command="promote", reason=body.reason
    )


@router.post("/rollouts/{rollout_id}/abort")
async def abort(request: Request, rollout_id: str, body: ReasonBody) -> Any:
    return await call(
        request, "command_rollout", id=rollout_id, command="abort", reason=body.reason
    )
