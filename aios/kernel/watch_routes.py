"""Routes of watches, monitors and feedback."""

from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request

from aios.errors import UsageError
from aios.kernel.calls import PREFIX, Body, call
from aios.records.cloudevents import BATCH, STRUCTURED, structured

router = APIRouter(prefix=PREFIX)


class WatchBody(Body):
    """A watch as wanted; see `records.watching.WatchSpec`."""

    spec: dict[str, Any]


class FeedbackBody(Body):
    """`{"request_id", "values": {...}}` for each answer; see `feedback_commands.Feedback`."""

    answers: list[dict[str, Any]]
    partial: bool = False


@router.post("/watches", status_code=201)
async def watch(request: Request, body: WatchBody) -> Any:
    return await call(request, "watch", spec=body.spec)


@router.get("/watches")
async def watches(request: Request, endpoint: str | None = None) -> Any:
    return await call(request, "watches", endpoint=endpoint)


@router.delete("/watches/{watch_id}")
async def unwatch(request: Request, watch_id: str) -> Any:
    return await call(request, "unwatch", id=watch_id)


@router.get("/endpoints/{name}/monitor")
async def monitor(request: Request, name: str) -> Any:
    return await call(request, "monitor", endpoint=name)


@router.post("/endpoints/{name}/feedback")
async def feedback(request: Request, name: str, body: FeedbackBody) -> Any:
    told = {"answers": body.answers, "partial": body.partial}
    return await call(request, "feedback", endpoint=name, **told)


@router.post("/endpoints/{name}/feedback/events")
async def feedback_events(
    request: Request, name: str, refused: Literal["problem", "report"] = "problem"
) -> Any:
    """CloudEvents; see `feedback_commands` for what is answered when."""
    found = orjson.loads(await request.body() or b"null")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == BATCH and not isinstance(found, list):
        raise UsageError("a batch of CloudEvents is a JSON array")
    if kind in (BATCH, STRUCTURED):
        events = found if kind == BATCH else [found]
    else:
        events = [structured(request.headers, found)]
    answer = await call(request, "feedback_events", endpoint=name, events=events)
    if answer["refused"] and kind != BATCH and refused == "problem":
        raise UsageError(answer["problems"][0]["reason"])
    return answer
