"""Routes of watches, monitors and feedback."""

from typing import Any

from fastapi import APIRouter, Request

from aios.kernel.calls import PREFIX, Body, call

router = APIRouter(prefix=PREFIX)


class WatchBody(Body):
    """A watch as wanted; see `records.watching.WatchSpec`."""

    spec: dict[str, Any]


class FeedbackBody(Body):
    """`{"request_id", "values": {...}}` for each answer."""

    answers: list[dict[str, Any]]


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
    return await call(request, "feedback", endpoint=name, answers=body.answers)
