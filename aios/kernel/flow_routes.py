"""Routes of users' flows: beginning, looking, answering."""

from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import Field

from aios.errors import UsageError
from aios.kernel.calls import PREFIX, Body, call

router = APIRouter(prefix=PREFIX)


class DefinitionBody(Body):
    """The text of a flow; see `records.CodeSource`."""

    source: dict[str, Any]
    facts: dict[str, Any] = Field(default_factory=dict)


class FlowBody(Body):
    """What a flow begins with; see `flow_commands.StartFlow`."""

    flow: str
    id: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    sha256: str | None = None
    path: str | None = None
    queue: str | None = None
    priority: int | None = None
    partition: str | None = None
    delay_s: float | None = None
    dedup: str | None = None
    debounce_s: float | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)


class ForkBody(Body):
    """From which step on."""

    from_step: int
    flow: str | None = None
    sha256: str | None = None
    path: str | None = None


class AnswerBody(Body):
    """What waits in the inbox has an id with slashes, so it comes in the body."""

    id: str
    answer: Any


class QueueBody(Body):
    """Limits of a queue; see `flow_commands.SetQueue`."""

    concurrency: int | None = None
    per_worker: int | None = None
    rate: list[float] | None = None
    partition_concurrency: int | None = None
    partition_rate: list[float] | None = None


class ScheduleBody(Body):
    """A flow at each time of a cron line; see `flow_commands.SetSchedule`."""

    flow: str
    cron: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    sha256: str | None = None
    path: str | None = None
    timezone: str | None = None
    backfill: bool = False


@router.put("/flow-definitions/{name}")
async def define_flow(request: Request, name: str, body: DefinitionBody) -> Any:
    return await call(request, "define_flow", name=name, source=body.source, facts=body.facts)


@router.get("/flow-definitions")
async def flow_versions(request: Request, name: str | None = None) -> Any:
    return await call(request, "flow_versions", name=name)


@router.post("/flows", status_code=201)
async def start_flow(request: Request, body: FlowBody) -> Any:
    return await call(request, "start_flow", **body.model_dump(exclude_none=True))


@router.get("/flows")
async def flows(
    request: Request,
    name: str | None = None,
    status: str | None = None,
    attributes: str = "{}",
    limit: int = 100,
) -> Any:
    """`attributes` is a JSON object; a flow is listed that has all of them."""
    try:
        wanted = orjson.loads(attributes)
    except orjson.JSONDecodeError:
        raise UsageError('attributes: give a JSON object, such as {"region": "eu"}') from None
    told = {"name": name, "status": status, "attributes": wanted, "limit": limit}
    return await call(request, "flows", **told)


@router.get("/flows/{flow_id}")
async def flow(request: Request, flow_id: str) -> Any:
    return await call(request, "flow", id=flow_id)


@router.get("/flows/{flow_id}/outcome")
async def flow_outcome(request: Request, flow_id: str) -> Any:
    return await call(request, "flow_outcome", id=flow_id)


@router.get("/flows/{flow_id}/steps")
async def flow_steps(request: Request, flow_id: str) -> Any:
    return await call(request, "flow_steps", id=flow_id)


@router.post("/flows/{flow_id}/cancel")
async def cancel_flow(request: Request, flow_id: str) -> Any:
    return await call(request, "cancel_flow", id=flow_id)


@router.post("/flows/{flow_id}/fork", status_code=201)
async def fork_flow(request: Request, flow_id: str, body: ForkBody) -> Any:
    return await call(request, "fork_flow", id=flow_id, **body.model_dump())


@router.get("/inbox")
async def inbox(request: Request) -> Any:
    return await call(request, "inbox")


@router.post("/inbox")
async def answer(request: Request, body: AnswerBody) -> Any:
    return await call(request, "answer", id=body.id, answer=body.answer)


@router.get("/queues")
async def queues(request: Request) -> Any:
    return await call(request, "queues")


@router.put("/queues/{name}")
async def set_queue(request: Request, name: str, body: QueueBody) -> Any:
    return await call(request, "set_queue", name=name, **body.model_dump())


@router.get("/schedules")
async def schedules(request: Request) -> Any:
    return await call(request, "schedules")


@router.put("/schedules/{name}")
async def set_schedule(request: Request, name: str, body: ScheduleBody) -> Any:
    return await call(request, "set_schedule", name=name, **body.model_dump())


@router.delete("/schedules/{name}")
async def end_schedule(request: Request, name: str) -> Any:
    return await call(request, "end_schedule", id=name)
